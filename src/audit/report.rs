//! What a check of a certificate or a log came to, statement by statement.

use crate::domain::chain::Chain;

/// One statement that was checked, and how that came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub statement: String,
    /// What was found, or why it does not hold.
    pub outcome: Result<String, String>,
}

/// Every check in order; none is left out because an earlier one failed, but for those that need
/// its outcome.
#[derive(Debug, Default)]
pub struct Report {
    pub checks: Vec<Check>,
}

impl Report {
    pub fn holds(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.outcome.is_ok())
    }

    pub fn note<E: std::error::Error>(
        &mut self,
        statement: impl Into<String>,
        outcome: Result<impl Into<String>, E>,
    ) {
        let outcome = outcome.map(Into::into).map_err(|error| Chain(&error).to_string());
        self.checks.push(Check { statement: statement.into(), outcome });
    }

    pub fn fail(&mut self, statement: impl Into<String>, why: impl Into<String>) {
        self.checks.push(Check { statement: statement.into(), outcome: Err(why.into()) });
    }

    pub fn hold(&mut self, statement: impl Into<String>, found: impl Into<String>) {
        self.checks.push(Check { statement: statement.into(), outcome: Ok(found.into()) });
    }
}
