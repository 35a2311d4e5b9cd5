//! Transactions: what a verb does its work in.

use sqlx::{Postgres, Sqlite, Transaction};
use tokio::task::JoinError;
use uuid::Uuid;

use crate::{
    domain::{
        audit::{AuditKind, NewAuditEvent},
        timestamp::Timestamp,
    },
    store::{
        StoreError,
        sql::{Sql, Statement},
    },
};

/// `reading!(store, "operation", async |tx| { ... })`: one transaction that reads one state of the
/// ledger. It ends as its connection goes back to the pool, which nobody waits for. (A macro, because
/// the future of an async closure that borrows is not known to be `Send` behind a function's bound.)
macro_rules! reading {
    ($store:expr, $operation:literal, async |$tx:ident| $work:expr) => {{
        let mut transaction = $store.begin_reading($operation).await?;
        let $tx = &mut transaction;
        $crate::store::transaction::work(async { $work }).await
    }};
}

/// `writing!(store, "operation", async |tx| { ... })`: one transaction that writes, all of it with
/// its audit leaves, or nothing. Runs again when `PostgreSQL` gave it up for another.
macro_rules! writing {
    ($store:expr, $operation:literal, async |$tx:ident| $work:expr) => {{
        let mut retries = 0;
        loop {
            let mut transaction = $store.begin($operation).await?;
            let $tx = &mut transaction;
            let done = match $crate::store::transaction::work(async { $work }).await {
                Ok(value) => $store.commit(transaction).await.map(|()| value),
                Err(error) => {
                    transaction.undo().await;
                    Err(error)
                }
            };
            match done {
                Err(error)
                    if error.is_contention()
                        && retries < $crate::store::transaction::RETRIES_MAX =>
                {
                    retries += 1;
                }
                done => break done,
            }
        }
    }};
}

pub(super) use {reading, writing};

/// Tells the compiler what the block of a transaction gives.
pub(super) fn work<T>(
    work: impl Future<Output = Result<T, StoreError>>,
) -> impl Future<Output = Result<T, StoreError>> {
    work
}

/// Does work in a task of its own, which goes on if its caller goes away.
pub(super) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    match tokio::spawn(work).await.map_err(JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // Only a runtime that shuts down ends a task early, and then its callers are not run again.
        Err(Err(_)) => std::future::pending().await,
    }
}

/// Most times that a transaction is run again after `PostgreSQL` gave it up for another.
pub(super) const RETRIES_MAX: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

pub(super) enum Connection {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

impl Connection {
    pub(super) async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(transaction) => transaction.commit().await,
            Self::Postgres(transaction) => transaction.commit().await,
        }
    }

    pub(super) async fn rollback(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(transaction) => transaction.rollback().await,
            Self::Postgres(transaction) => transaction.rollback().await,
        }
    }
}

/// A transaction under way; dropped, it leaves nothing.
pub(super) struct Tx {
    pub(super) operation: &'static str,
    pub(super) connection: Connection,
    /// Written as the transaction commits.
    pub(super) leaves: Vec<(NewAuditEvent, Timestamp)>,
    pub(super) wakes: bool,
    pub(super) is_abandoned: bool,
}

impl Tx {
    /// Lets go of its locks before anybody hears that it failed: dropped, it would do so some time
    /// later.
    pub(super) async fn undo(self) {
        if let Err(error) = self.connection.rollback().await {
            tracing::debug!(%error, operation = self.operation, "the connection ended with it");
        }
    }

    pub(super) fn new(
        operation: &'static str,
        connection: Result<Connection, sqlx::Error>,
    ) -> Result<Self, StoreError> {
        match connection {
            Ok(connection) => {
                let (leaves, wakes, is_abandoned) = (Vec::new(), false, false);
                Ok(Self { operation, connection, leaves, wakes, is_abandoned })
            }
            Err(source) => Err(StoreError::of(operation, source)),
        }
    }

    pub(super) fn dialect(&self) -> Dialect {
        match self.connection {
            Connection::Sqlite(_) => Dialect::Sqlite,
            Connection::Postgres(_) => Dialect::Postgres,
        }
    }

    pub(super) fn query(&mut self, sql: impl Into<Sql>) -> Statement<'_> {
        let sql = sql.into();
        match &mut self.connection {
            Connection::Sqlite(it) => Statement::sqlite(self.operation, sql.sqlite, it),
            Connection::Postgres(it) => Statement::postgres(self.operation, sql.postgres, it),
        }
    }

    /// Puts a leaf into the audit log.
    pub(super) fn record(
        &mut self,
        now: Timestamp,
        kind: AuditKind,
        model_id: impl Into<Option<Uuid>>,
        about: impl Into<Option<Uuid>>,
        details: serde_json::Value,
    ) {
        let (model_id, about) = (model_id.into(), about.into());
        self.leaves.push((NewAuditEvent { kind, model_id, about, details }, now));
    }

    /// Once committed, wakes those who wait for work or for a new epoch.
    pub(super) fn wake(&mut self) {
        self.wakes = true;
    }

    /// Nothing of it is to be kept, though it ends with an answer.
    pub(super) fn abandon(&mut self) {
        self.is_abandoned = true;
    }

    /// Puts the writers of one model's requests, jobs and versions in order. On `SQLite` the
    /// transaction is the only writer already.
    pub(super) async fn lock_model(&mut self, model_id: Uuid) -> Result<(), StoreError> {
        if self.dialect() == Dialect::Postgres {
            self.query("SELECT id FROM models WHERE id = $1 FOR NO KEY UPDATE")
                .bind(model_id)
                .execute()
                .await?;
        }
        Ok(())
    }

    /// Like [`Tx::lock_model`], but false when another transaction holds it.
    pub(super) async fn try_lock_model(&mut self, model_id: Uuid) -> Result<bool, StoreError> {
        match self.dialect() {
            Dialect::Sqlite => Ok(true),
            Dialect::Postgres => {
                let sql = "SELECT id FROM models WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED";
                self.query(sql).bind(model_id).fetch_optional().await.map(|row| row.is_some())
            }
        }
    }

    /// Fails as damaged unless as many rows were written as were meant to be.
    pub(super) fn check_written(&self, written: u64, expected: usize) -> Result<(), StoreError> {
        if written == expected as u64 {
            Ok(())
        } else {
            Err(self.damaged(format!("{written} rows where {expected} were to be written")))
        }
    }

    pub(super) fn fenced(&self) -> StoreError {
        StoreError::Fenced { operation: self.operation }
    }

    pub(super) fn other_master_key(&self) -> StoreError {
        StoreError::OtherMasterKey { operation: self.operation }
    }

    pub(super) fn damaged(&self, detail: impl Into<String>) -> StoreError {
        StoreError::Damaged { operation: self.operation, detail: detail.into() }
    }
}
