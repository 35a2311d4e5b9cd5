//! Which forgetd this is.

/// Its version, and after a `+` the beginning of the SHA-256 of its sources (`build.rs`).
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("FORGETD_SOURCE"));
