//! What other protocols for the rights of data subjects say, in their own words: what our states
//! are called there (`standing.rs`), whom their identities name (`identity.rs`), the signature that
//! OpenDSR asks for (`processor.rs`), and the signed messages and the statuses of the Data Rights
//! Protocol (`drp/`). Pure: who receives and sends stands above. docs/intake.md is written for its
//! readers.

pub mod drp;
pub mod identity;
pub mod processor;
pub mod standing;
