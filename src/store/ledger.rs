//! The store: its pools, its transactions, and the signal that wakes those who wait.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sqlx::{PgPool, SqlitePool};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::{
    domain::model::{Model, ModelName},
    fail_point,
    store::{
        Keyring, StoreError, audit, callbacks,
        group_commit::GroupCommit,
        open_count::OpenCount,
        outbox, postgres, sqlite,
        transaction::{Connection, Dialect, Tx, reading},
    },
};

/// The ledger, on `SQLite` or `PostgreSQL`; cheap to clone.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    location: String,
    pools: Pools,
    keyring: Keyring,
    signal: watch::Sender<()>,
    group_commits: Mutex<HashMap<Uuid, Arc<GroupCommit>>>,
    open_count: OpenCount,
    models: Mutex<HashMap<ModelName, Model>>,
}

enum Pools {
    /// One connection writes, so that writers queue here and not in `SQLite`'s busy loop.
    Sqlite {
        write: SqlitePool,
        read: SqlitePool,
    },
    Postgres {
        pool: PgPool,
        _listener: AbortOnDropHandle<()>,
    },
}

/// Wakes its holder after something was committed that a worker or a replica may wait for. The
/// signal carries no data, several may arrive as one, and processes that share an `SQLite` file
/// do not hear each other: poll as well.
pub struct Wakeups {
    receiver: watch::Receiver<()>,
}

impl Wakeups {
    /// Waits for the next signal of any process that shares the database.
    pub async fn next(&mut self) {
        if self.receiver.changed().await.is_err() {
            // The store is gone, and with it every signal; the holder's timer goes on.
            std::future::pending::<()>().await;
        }
    }
}

impl Store {
    /// `sqlite:///path/to/file` or `postgres://...`. `SQLite` files are created; the schema must
    /// be current, see [`Store::migrate`]. Samples are sealed and opened with the keyring.
    pub async fn open(url: &str, keyring: Keyring) -> Result<Self, StoreError> {
        let signal = watch::Sender::new(());
        let (location, pools) = if url.starts_with("sqlite:") {
            let (location, write, read) = sqlite::open(url).await?;
            (location, Pools::Sqlite { write, read })
        } else if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            let (location, pool) = postgres::open(url).await?;
            let listener = postgres::listen(url.to_owned(), signal.clone());
            let listener = AbortOnDropHandle::new(tokio::spawn(listener));
            (location, Pools::Postgres { pool, _listener: listener })
        } else {
            let reason = "the URL must start with sqlite: or postgres:".to_owned();
            let scheme = url.split(':').next().unwrap_or_default().to_owned();
            return Err(StoreError::Open { location: scheme, reason });
        };
        let (group_commits, open_count) = (Mutex::default(), OpenCount::default());
        let models = Mutex::default();
        let shared = Shared { location, pools, keyring, signal, group_commits, open_count, models };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Brings the schema up to date, and what is kept under it; does nothing when it is. A new ledger
    /// takes the keyring's current master key for its own; another ledger's must be in the keyring.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let migrated = match &self.shared.pools {
            Pools::Sqlite { write, .. } => sqlite::MIGRATIONS.run(write).await,
            Pools::Postgres { pool, .. } => postgres::MIGRATIONS.run(pool).await,
        };
        migrated.map_err(|error| StoreError::Open {
            location: self.shared.location.clone(),
            reason: error.to_string(),
        })?;
        self.check_master_key().await?;
        self.seal_encodings().await
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        reading!(self, "ping", async |tx| tx.query("SELECT 1").execute().await.map(drop))
    }

    pub fn wakeups(&self) -> Wakeups {
        Wakeups { receiver: self.shared.signal.subscribe() }
    }

    /// Closes the pools; `SQLite`'s write-ahead log is folded into the file.
    pub async fn close(&self) {
        match &self.shared.pools {
            Pools::Sqlite { write, read } => {
                read.close().await;
                write.close().await;
            }
            Pools::Postgres { pool, .. } => pool.close().await,
        }
    }

    /// After erasures: `SQLite`'s write-ahead log is folded in and truncated (freed pages were
    /// zeroed before), so that no file holds what was erased, not even sealed. `PostgreSQL`'s dead
    /// rows are vacuumed; what they were, sealed texts and wrapped keys, may stand in the slack of
    /// its pages, its write-ahead log and its backups until a rotation of the master key.
    pub async fn purge_erased(&self) -> Result<(), StoreError> {
        match &self.shared.pools {
            Pools::Sqlite { write, .. } => sqlite::truncate_log(write).await,
            Pools::Postgres { pool, .. } => postgres::vacuum(pool).await,
        }
    }

    /// Before an ingestion of any size, in a process of its own: more of the ledger is kept in memory, on
    /// `SQLite` up to 256 MiB. `PostgreSQL`'s cache is its server's.
    pub async fn expect_many_samples(&self) -> Result<(), StoreError> {
        match &self.shared.pools {
            Pools::Sqlite { write, .. } => sqlite::expect_many_samples(write)
                .await
                .map_err(|source| StoreError::of("expect_many_samples", source)),
            Pools::Postgres { .. } => Ok(()),
        }
    }

    /// After much has come into `PostgreSQL`'s tables: `ANALYZE ...`. Only speed is at stake.
    pub(super) async fn refresh_statistics(&self, statement: &'static str) {
        if let Pools::Postgres { pool, .. } = &self.shared.pools {
            postgres::refresh_statistics(pool, statement).await;
        }
    }

    pub(super) fn keyring(&self) -> &Keyring {
        &self.shared.keyring
    }

    /// Whose requests share transactions with those of this model: on `SQLite`, where one connection
    /// writes, those of all; on `PostgreSQL` none but its own, so that a model whose lock is held for
    /// long holds up no other.
    pub(super) fn group_commit(&self, model_id: Uuid) -> Arc<GroupCommit> {
        let key = match self.shared.pools {
            Pools::Sqlite { .. } => Uuid::nil(),
            Pools::Postgres { .. } => model_id,
        };
        let mut all = self.shared.group_commits.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(key).or_default())
    }

    pub(super) fn open_count(&self) -> &OpenCount {
        &self.shared.open_count
    }

    /// Those that were asked for by name.
    pub(super) fn known_models(&self) -> MutexGuard<'_, HashMap<ModelName, Model>> {
        self.shared.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For `reading!`.
    pub(super) async fn begin_reading(&self, operation: &'static str) -> Result<Tx, StoreError> {
        let connection = match &self.shared.pools {
            Pools::Sqlite { read, .. } => read.begin().await.map(Connection::Sqlite),
            Pools::Postgres { pool, .. } => {
                postgres::begin(pool, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                    .await
                    .map(Connection::Postgres)
            }
        };
        Tx::new(operation, connection)
    }

    /// For `writing!`, and for transactions that outlive one call.
    pub(super) async fn begin(&self, operation: &'static str) -> Result<Tx, StoreError> {
        let connection = match &self.shared.pools {
            Pools::Sqlite { write, .. } => {
                write.begin_with("BEGIN IMMEDIATE").await.map(Connection::Sqlite)
            }
            Pools::Postgres { pool, .. } => {
                postgres::begin(pool, "BEGIN ISOLATION LEVEL READ COMMITTED")
                    .await
                    .map(Connection::Postgres)
            }
        };
        Tx::new(operation, connection)
    }

    pub(super) async fn commit(&self, mut tx: Tx) -> Result<(), StoreError> {
        if tx.is_abandoned {
            let Tx { operation, connection, .. } = tx;
            let ended = connection.rollback().await;
            return ended.map_err(|source| StoreError::of(operation, source));
        }
        outbox::fill(&mut tx, self.keyring()).await?;
        callbacks::fill(&mut tx, self.keyring()).await?;
        if tx.wakes && tx.dialect() == Dialect::Postgres {
            tx.query("SELECT pg_notify('forgetd', '')").execute().await?;
        }
        // Last: the lock on the log's head is shared by all writers.
        audit::append(&mut tx).await?;
        let Tx { operation, connection, wakes, .. } = tx;
        fail_point::pass(operation, "written").await;
        connection.commit().await.map_err(|source| StoreError::of(operation, source))?;
        fail_point::pass(operation, "committed").await;
        if wakes {
            self.shared.signal.send_replace(());
        }
        Ok(())
    }
}
