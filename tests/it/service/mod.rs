//! Black-box tests: the real binary, over HTTP on a free port, on each database.

mod access;
mod audit_log;
mod bad_input;
mod binary_tensors;
mod buckets;
mod calendar;
mod certificate;
mod command_line;
mod connections;
mod deadlines;
mod disk;
mod drain;
mod drop;
mod drp;
mod faults;
mod frozen;
mod full_disk;
mod gates;
mod kill;
mod lifecycle;
mod openapi;
mod opendsr;
mod people;
mod preemption;
mod process;
mod promise;
mod replay;
mod replicas;
mod residue;
mod shim;
mod steps;
mod telemetry;
mod tls;
mod turns;
mod webhooks;
mod witness;

use std::time::{Duration, Instant};

use serde_json::Value;

pub use process::Service;

/// Longest wait for anything; only a broken service comes near it.
const PATIENCE: Duration = Duration::from_mins(1);

/// Which database a test runs on; every test runs on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    Sqlite,
    Postgres,
}

impl Database {
    pub const ALL: [Self; 2] = [Self::Sqlite, Self::Postgres];
}

/// Asks again and again until the answer fits.
///
/// # Panics
/// When it does not within `PATIENCE`; shows the last answer.
pub async fn eventually<T: std::fmt::Debug>(
    what: &str,
    mut ask: impl AsyncFnMut() -> T,
    fits: impl Fn(&T) -> bool,
) -> T {
    let started = Instant::now();
    loop {
        let answer = ask().await;
        if fits(&answer) {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}: {answer:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A field of a JSON answer, which must be there.
pub fn field<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {value:#}"))
}
