//! What is particular to `SQLite`: opening, folding in the log, bulk loading.

use std::{fs::OpenOptions, path::Path, str::FromStr, time::Duration};

use sqlx::{
    Connection as _, Row as _, SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use uuid::Uuid;

use crate::{
    domain::{
        audit::NewAuditEvent,
        deletion::TargetOutcome,
        identity::{Digest, Pseudonym},
        timestamp::Timestamp,
    },
    store::{
        StoreError,
        outbox::NewMessage,
        resolution::Resolved,
        sealing::SealedSample,
        transaction::{Tx, to_its_end},
    },
};

pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

const READERS: u32 = 4;

/// Rows that a reader's thread hands over before it waits for them to be taken: with few of them the
/// two threads put each other to sleep all along a draw of thousands.
const ROW_BUFFER: usize = 1_024;

/// Of the writer, in KiB: what a flood of requests touches lies all over the indices by keys.
const WRITER_CACHE: &str = "-16384";

/// Of the writer of a process that ingests and does nothing else.
const INGESTING_CACHE: &str = "PRAGMA cache_size = -262144";

const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// What [`BUSY_TIMEOUT`] is, once more.
const BUSY: &str = "PRAGMA busy_timeout = 5000";

/// Readers hold the log for milliseconds, as a rule. Nobody writes while a truncation waits for them, so
/// each waits for a moment and lets others write before the next.
const TRUNCATE_BUSY: &str = "PRAGMA busy_timeout = 100";
const TRUNCATE_ATTEMPTS: u32 = 20;
const TRUNCATE_PAUSE: Duration = Duration::from_millis(50);

/// The location for messages, the writing pool and the reading pool.
pub(super) async fn open(url: &str) -> Result<(String, SqlitePool, SqlitePool), StoreError> {
    let failed = |reason: String| StoreError::Open { location: url.to_owned(), reason };
    let options = SqliteConnectOptions::from_str(url).map_err(|error| failed(error.to_string()))?;
    let path = options.get_filename().to_owned();
    create_private(&path).map_err(|error| failed(error.to_string()))?;
    let options = options
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .pragma("temp_store", "MEMORY")
        .pragma("trusted_schema", "OFF");
    let writing = options
        .clone()
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", WRITER_CACHE)
        .pragma("secure_delete", "ON");
    let write = lasting(1)
        // When the disk is full, SQLite rolls back by itself; the driver then fails to, and would
        // refuse to begin anew on this connection for ever.
        .before_acquire(|connection, _| {
            let is_idle = !connection.is_in_transaction();
            Box::pin(async move { Ok(is_idle) })
        })
        // On a disk that went read-only SQLite opens the file for reading only, and would never
        // write through this connection, not even once the disk is back.
        .after_connect(|connection, _| {
            Box::pin(
                async move { connection.begin_with("BEGIN IMMEDIATE").await?.rollback().await },
            )
        })
        .connect_with(writing)
        .await
        .map_err(|error| failed(error.to_string()))?;
    let read = lasting(READERS)
        .connect_with(options.read_only(true).row_buffer_size(ROW_BUFFER))
        .await
        .map_err(|error| failed(error.to_string()))?;
    Ok((url.to_owned(), write, read))
}

/// Connections that are made now and kept: the thread of a connection has the priority of the thread
/// that makes it, which later might be one that stands back. They are not tested before use: it would
/// find nothing out of a file, and whoever is cancelled meanwhile would close the connection.
fn lasting(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .min_connections(connections)
        .max_connections(connections)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .acquire_timeout(ACQUIRE_TIMEOUT)
}

/// The file holds personal data: only its owner may read it. The log and the shared-memory file
/// take its mode over.
fn create_private(path: &Path) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Every sample writes to pages all over the indices by keys. Those that the cache cannot hold go to the
/// write-ahead log and come back from it, again and again.
pub(super) async fn expect_many_samples(write: &SqlitePool) -> Result<(), sqlx::Error> {
    sqlx::query(INGESTING_CACHE).execute(write).await.map(drop)
}

/// Waits for a moment at which nobody reads.
pub(super) async fn truncate_log(write: &SqlitePool) -> Result<(), StoreError> {
    const OPERATION: &str = "purge_erased";
    for _ in 0..TRUNCATE_ATTEMPTS {
        let is_truncated = to_its_end(truncate_log_once(write.clone())).await;
        if is_truncated.map_err(|source| StoreError::of(OPERATION, source))? {
            return Ok(());
        }
        tokio::time::sleep(TRUNCATE_PAUSE).await;
    }
    let readers = std::io::Error::new(std::io::ErrorKind::WouldBlock, "readers hold the log");
    Err(StoreError::of(OPERATION, sqlx::Error::Io(readers)))
}

/// False when somebody reads.
async fn truncate_log_once(write: SqlitePool) -> Result<bool, sqlx::Error> {
    let mut connection = write.acquire().await?;
    sqlx::query(TRUNCATE_BUSY).execute(&mut *connection).await?;
    let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut *connection).await;
    sqlx::query(BUSY).execute(&mut *connection).await?;
    Ok(row?.try_get::<i64, _>("busy")? == 0)
}

// Bulk loading: a statement takes the rows as one JSON array, which json_each unfolds. Ids and keys
// stand in it in hexadecimal.

fn hex_of(id: Uuid) -> String {
    id.simple().to_string()
}

pub(super) async fn insert_deletions(
    tx: &mut Tx,
    all: &[&Resolved<'_>],
) -> Result<u64, StoreError> {
    let rows: Vec<_> = all
        .iter()
        .map(|it| {
            let request = &it.details.request;
            (
                hex_of(request.id),
                hex_of(request.model_id),
                request.state,
                request.reason.as_deref(),
                request.samples,
                it.new.api_key_id().map(hex_of),
                request.received_at.as_micros(),
                request.due_by.as_micros(),
            )
        })
        .collect();
    tx.query(
        "INSERT INTO deletion_requests (id, model_id, state, reason, samples, attempts, not_before,
             api_key_id, received_at, due_by)
         SELECT unhex(value ->> 0), unhex(value ->> 1), value ->> 2, value ->> 3, value ->> 4, 0, 0,
             unhex(value ->> 5), value ->> 6, value ->> 7
         FROM json_each($1)",
    )
    .json(&rows)
    .execute()
    .await
}

pub(super) async fn insert_targets(
    tx: &mut Tx,
    targets: &[(Uuid, i64, &TargetOutcome)],
) -> Result<u64, StoreError> {
    let rows: Vec<_> = targets
        .iter()
        .map(|(id, position, it)| {
            (hex_of(*id), position, it.kind, it.key, it.samples, it.rejection)
        })
        .collect();
    tx.query(
        "INSERT INTO deletion_targets (deletion_id, position, kind, key, samples, rejection)
         SELECT unhex(value ->> 0), value ->> 1, value ->> 2, unhex(value ->> 3), value ->> 4,
             value ->> 5
         FROM json_each($1)",
    )
    .json(&rows)
    .execute()
    .await
}

/// Requests with samples that they delete; how many of these were written, and how many samples were
/// there to be claimed.
pub(super) async fn insert_claims(
    tx: &mut Tx,
    claims: &[(Uuid, Uuid)],
) -> Result<(u64, u64), StoreError> {
    let rows: Vec<_> =
        claims.iter().map(|(deletion, sample)| (hex_of(*deletion), hex_of(*sample))).collect();
    let insert = "INSERT INTO deletion_samples (deletion_id, sample_id)
         SELECT unhex(value ->> 0), unhex(value ->> 1) FROM json_each($1)";
    let claim = "UPDATE samples SET deletion_id = unhex(value ->> 0)
         FROM json_each($1) WHERE samples.id = unhex(value ->> 1)";
    let written = tx.query(insert).json(&rows).execute().await?;
    Ok((written, tx.query(claim).json(&rows).execute().await?))
}

/// Models with subjects and the requests that delete them; leaves out those that have a tombstone.
pub(super) async fn insert_tombstones(
    tx: &mut Tx,
    buried: &[(Uuid, Pseudonym, Uuid)],
) -> Result<u64, StoreError> {
    let rows: Vec<_> = buried
        .iter()
        .map(|(model, subject, deletion)| (hex_of(*model), subject, hex_of(*deletion)))
        .collect();
    tx.query(
        "INSERT INTO tombstones (model_id, subject_key, deletion_id)
         SELECT unhex(value ->> 0), unhex(value ->> 1), unhex(value ->> 2)
         FROM json_each($1) WHERE true
         ON CONFLICT (model_id, subject_key) DO NOTHING",
    )
    .json(&rows)
    .execute()
    .await
}

/// Leaves out those that are known.
pub(super) async fn insert_aliases(
    tx: &mut Tx,
    model_id: Uuid,
    aliases: &[(Pseudonym, Pseudonym)],
) -> Result<u64, StoreError> {
    tx.query(
        "INSERT INTO aliases (model_id, alias_key, subject_key)
         SELECT $1, unhex(value ->> 0), unhex(value ->> 1) FROM json_each($2) WHERE true
         ON CONFLICT (model_id, alias_key, subject_key) DO NOTHING",
    )
    .bind(model_id)
    .json(&aliases)
    .execute()
    .await
}

pub(super) async fn insert_samples(
    tx: &mut Tx,
    ingestion_id: Uuid,
    model_id: Uuid,
    first_ordinal: i64,
    samples: &[SealedSample],
) -> Result<u64, StoreError> {
    let rows: Vec<_> =
        samples.iter().map(|it| (hex_of(it.id), it.key, it.subject, it.split)).collect();
    tx.query(
        "INSERT INTO samples (id, model_id, ordinal, sample_key, subject_key, split, ingestion_id)
         SELECT unhex(value ->> 0), $1, $2 + key, unhex(value ->> 1), unhex(value ->> 2),
             value ->> 3, $3
         FROM json_each($4)",
    )
    .bind(model_id)
    .bind(first_ordinal)
    .bind(ingestion_id)
    .json(&rows)
    .execute()
    .await
}

pub(super) async fn insert_leaves(
    tx: &mut Tx,
    first_idx: i64,
    leaves: &[(NewAuditEvent, Timestamp, String, Digest)],
) -> Result<u64, StoreError> {
    let rows: Vec<_> = leaves
        .iter()
        .map(|(event, at, entry, hash)| {
            let (model_id, about) = (event.model_id.map(hex_of), event.about.map(hex_of));
            (event.kind, model_id, about, entry, hash, at.as_micros())
        })
        .collect();
    tx.query(
        "INSERT INTO audit_events (idx, kind, model_id, about, entry, leaf_hash, occurred_at)
         SELECT $1 + key, value ->> 0, unhex(value ->> 1), unhex(value ->> 2), value ->> 3,
             unhex(value ->> 4), value ->> 5
         FROM json_each($2)",
    )
    .bind(first_idx)
    .json(&rows)
    .execute()
    .await
}

pub(super) async fn insert_messages(
    tx: &mut Tx,
    messages: &[NewMessage],
) -> Result<u64, StoreError> {
    let rows: Vec<_> = messages
        .iter()
        .map(|it| {
            let (id, webhook_id) = (hex_of(it.id), hex_of(it.webhook_id));
            (id, webhook_id, it.event_type, it.payload.as_str(), it.created_at.as_micros())
        })
        .collect();
    tx.query(
        "INSERT INTO webhook_messages
             (id, webhook_id, event_type, payload, state, attempts, not_before, created_at)
         SELECT unhex(value ->> 0), unhex(value ->> 1), value ->> 2, value ->> 3, 'pending', 0, 0,
             value ->> 4
         FROM json_each($1)",
    )
    .json(&rows)
    .execute()
    .await
}
