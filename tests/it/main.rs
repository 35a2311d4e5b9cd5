//! The black-box tests, one binary.

mod evaluation;
mod floors;
mod fuzzed;
mod postgres;
mod receiver;
mod reliability;
mod reserve;
mod service;
mod serving;
mod store;
mod upkeep;
mod version;
mod webhooks;
mod worker;
