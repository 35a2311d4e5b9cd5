//! forgetd: a deletion-request service for machine-learned models.
//!
//! ARCHITECTURE.md maps the floors; modules import only from the floors below their own.

pub mod domain;
