//! What can go wrong with the ledger itself; business outcomes are types of their own verbs.

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or written now: connection lost, disk full, locked for too
    /// long. Nothing was changed; the same call may succeed later.
    #[error("the database is unavailable for {operation}")]
    Unavailable { operation: &'static str, source: sqlx::Error },
    /// The database refused what it was asked; a defect of ours.
    #[error("the database failed at {operation}")]
    Database { operation: &'static str, source: sqlx::Error },
    /// A stored value cannot be read back, or contradicts another.
    #[error("the ledger is damaged: {operation} found {detail}")]
    Damaged { operation: &'static str, detail: String },
    /// The lease has passed to another attempt, or another version was published meanwhile;
    /// nothing was changed.
    #[error("{operation} was fenced: the lease is no longer held")]
    Fenced { operation: &'static str },
    /// The data keys are wrapped under a master key that this process was not given.
    #[error(
        "the ledger's master key is not the one that {operation} was given: start the process with \
         the key that the last rotation left (`ledger.master_key`, or the file master-key)"
    )]
    OtherMasterKey { operation: &'static str },
    /// The pseudonyms are under a service key that this process was not given.
    #[error(
        "the ledger's service key is not the one that {operation} was given, under which no subject \
         and no sample of it would be found: start the process with the key that first opened the \
         ledger (`ledger.service_key`, or the file service-key of its data folder)"
    )]
    OtherServiceKey { operation: &'static str },
    /// The database could not be opened or brought to the current schema.
    #[error("cannot open the database at {location}: {reason}")]
    Open { location: String, reason: String },
}

impl StoreError {
    pub(super) fn of(operation: &'static str, source: sqlx::Error) -> Self {
        if is_transient(&source) {
            Self::Unavailable { operation, source }
        } else {
            Self::Database { operation, source }
        }
    }

    /// Whether `PostgreSQL` gave this transaction up in favour of another; it may simply run again.
    pub(super) fn is_contention(&self) -> bool {
        let Self::Database { source, .. } = self else { return false };
        code(source).is_some_and(|code| matches!(code.as_str(), "40001" | "40P01"))
    }
}

fn code(error: &sqlx::Error) -> Option<String> {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .map(std::borrow::Cow::into_owned)
}

fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed
        | sqlx::Error::Io(_)
        | sqlx::Error::Tls(_) => true,
        sqlx::Error::Database(database) => match code(error) {
            Some(code) if database.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() => {
                is_transient_in_sqlite(&code)
            }
            Some(code) => is_transient_in_postgres(&code),
            None => false,
        },
        _ => false,
    }
}

/// The low byte of an extended result code is the primary code.
fn is_transient_in_sqlite(code: &str) -> bool {
    const BUSY: u32 = 5;
    const LOCKED: u32 = 6;
    const READONLY: u32 = 8;
    const IOERR: u32 = 10;
    const FULL: u32 = 13;
    const CANTOPEN: u32 = 14;
    code.parse::<u32>()
        .is_ok_and(|code| matches!(code & 0xff, BUSY | LOCKED | READONLY | IOERR | FULL | CANTOPEN))
}

/// SQLSTATE classes: connection, insufficient resources (disk, memory, connections), operator
/// intervention (shutdown, cancelled statements), system error; a lock or a standby in the way.
fn is_transient_in_postgres(code: &str) -> bool {
    ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class))
        || matches!(code, "55P03" | "25006" | "25P03")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_passes_and_a_broken_constraint_does_not() {
        assert!(is_transient_in_sqlite("13"), "disk full");
        assert!(is_transient_in_sqlite("261"), "busy in recovery");
        assert!(!is_transient_in_sqlite("2067"), "unique constraint");
        assert!(is_transient_in_postgres("57P01"), "server shutting down");
        assert!(is_transient_in_postgres("53100"), "disk full");
        assert!(!is_transient_in_postgres("23505"), "unique constraint");
    }
}
