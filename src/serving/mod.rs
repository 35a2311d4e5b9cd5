//! Answers from the newest weights: which version of each model is served, who computes, and how
//! a replica follows the ledger.

pub mod executor;
pub mod registry;
pub mod replica;
pub mod timed;
pub mod version;
