//! An error with its causes in one line, for logs and for people.

use std::{error::Error, fmt};

/// Displays `error: cause: cause of the cause`.
pub struct Chain<'a>(pub &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer {
        source: std::num::ParseIntError,
    }

    #[test]
    fn every_cause_is_named() {
        let source = "x".parse::<u8>().unwrap_err();
        assert_eq!(Chain(&Outer { source }).to_string(), "outer: invalid digit found in string");
    }
}
