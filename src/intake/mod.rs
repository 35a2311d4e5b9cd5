//! What other protocols for the rights of data subjects say, in their own words: what our states are
//! called there (`standing.rs`), which of their identities are our aliases (`identity.rs`), and the
//! signature that OpenDSR asks for (`processor.rs`). Pure: who receives and sends stands above.
//! docs/intake.md is written for its readers.

pub mod identity;
pub mod processor;
pub mod standing;
