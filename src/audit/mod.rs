//! The audit log as a transparency log: RFC 6962 trees over the ledger's leaves, C2SP notes,
//! checkpoints and tiles, certificates, and the checks that need nothing but their bytes.
//!
//! Pure: what is read and where it is kept is the caller's.

pub mod certificate;
pub mod checkpoint;
pub mod leaf;
pub mod monitor;
pub mod note;
pub mod report;
pub mod statement;
pub mod tile;
pub mod tlog_proof;
pub mod tree;
pub mod witness;
