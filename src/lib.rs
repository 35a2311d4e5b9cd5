//! forgetd: a deletion-request service for machine-learned models.
//!
//! ARCHITECTURE.md maps the floors; modules import only from the floors below their own.

pub mod app;
pub mod audit;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod dataset;
pub mod domain;
pub mod evaluation;
pub mod fail_point;
pub mod http;
pub mod intake;
pub mod nn;
pub mod notary;
pub mod outbound;
mod priority;
pub mod serving;
pub mod store;
pub mod unlearning;
pub mod webhooks;
pub mod worker;
