//! What a check of a certificate or a log came to, statement by statement.

use crate::domain::chain::Chain;

/// One statement that was checked, and how that came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub statement: String,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What was found.
    Holds(String),
    /// Why it does not hold.
    Fails(String),
    /// Why it could not be checked.
    Open(String),
}

/// Every check in order; none is left out because an earlier one failed, but for those that need
/// its outcome.
#[derive(Debug, Default)]
pub struct Report {
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether there are statements, and each was found to hold.
    pub fn holds(&self) -> bool {
        let holds = |check: &Check| matches!(check.outcome, Outcome::Holds(_));
        !self.checks.is_empty() && self.checks.iter().all(holds)
    }

    pub fn note<E: std::error::Error>(
        &mut self,
        statement: impl Into<String>,
        outcome: Result<impl Into<String>, E>,
    ) {
        match outcome {
            Ok(found) => self.hold(statement, found),
            Err(error) => self.fail(statement, Chain(&error).to_string()),
        }
    }

    pub fn fail(&mut self, statement: impl Into<String>, why: impl Into<String>) {
        self.add(statement, Outcome::Fails(why.into()));
    }

    pub fn hold(&mut self, statement: impl Into<String>, found: impl Into<String>) {
        self.add(statement, Outcome::Holds(found.into()));
    }

    pub fn leave_open(&mut self, statement: impl Into<String>, why: impl Into<String>) {
        self.add(statement, Outcome::Open(why.into()));
    }

    fn add(&mut self, statement: impl Into<String>, outcome: Outcome) {
        self.checks.push(Check { statement: statement.into(), outcome });
    }
}
