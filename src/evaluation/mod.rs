//! The experiment harness: suites of deletions, methods judged against retraining, reports.
//!
//! A suite declares data sets, networks, deletions and methods. Everything that is trained or
//! measured is kept in the output folder under a digest of what decides it, so that a run goes on
//! where an earlier one stopped.

mod attack;
mod bench;
mod case;
mod cell;
mod crew;
mod data;
mod deletion;
mod error;
mod figure;
mod fitting;
#[cfg(test)]
mod fixture;
mod grid;
mod judgement;
mod library;
mod lira;
mod plan;
mod report;
mod run;
mod sisa;
mod statistics;
mod storage;
mod suite;
mod summary;
mod timing;
mod training_set;
mod update;

pub use self::{
    error::EvaluationError,
    run::{Options, run},
    suite::Suite,
    summary::Summary,
};
