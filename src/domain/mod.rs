//! Plain types and legal transitions: no I/O, no clock, no randomness.
//!
//! Everything above speaks in these words; ARCHITECTURE.md lists what each one means.

pub mod access;
pub mod alias;
pub mod audit;
pub mod blob_name;
pub mod chain;
pub mod deletion;
pub mod examples;
pub mod features;
pub mod identity;
pub mod job;
pub mod misfit;
pub mod model;
pub mod network;
pub mod program;
pub mod sample;
pub mod schema;
pub mod sealing;
pub mod timestamp;
pub mod version;
pub mod watch;
pub mod webhook;
