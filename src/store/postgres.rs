//! What is particular to `PostgreSQL`: opening, listening, vacuuming, bulk loading.

use std::{str::FromStr, time::Duration};

use sqlx::{
    Connection as _, Executor as _, PgPool, Postgres, Transaction,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    domain::{
        audit::NewAuditEvent,
        deletion::{Rejection, TargetOutcome},
        identity::{Digest, Pseudonym},
        timestamp::Timestamp,
    },
    store::{
        StoreError,
        copy::CopyRows,
        outbox::NewMessage,
        resolution::Resolved,
        sealing::SealedSample,
        sql::Sql,
        transaction::{Connection, Tx, to_its_end},
    },
};

pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

const CONNECTIONS_MAX: u32 = 16;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// A connection that was in use so lately is not asked first whether it is there still.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// The location for messages (without credentials) and the pool.
pub(super) async fn open(url: &str) -> Result<(String, PgPool), StoreError> {
    let options = PgConnectOptions::from_str(url).map_err(|error| StoreError::Open {
        location: "postgres".to_owned(),
        reason: error.to_string(),
    })?;
    let database = options.get_database().unwrap_or_default();
    let location = format!("postgres://{}:{}/{database}", options.get_host(), options.get_port());
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, metadata| {
            Box::pin(async move {
                if metadata.idle_for > TRUSTED_FOR {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .after_connect(|connection, _| {
            Box::pin(async move {
                // A lock that is held for too long is reported, not waited for without end.
                connection.execute("SET lock_timeout = '10s'").await?;
                connection.execute("SET idle_in_transaction_session_timeout = '60s'").await?;
                // Rows are looked up by their keys, and most of what leads to them is cached; the
                // default, made for spinning disks, would rather walk a table.
                connection.execute("SET random_page_cost = 1.1").await?;
                Ok(())
            })
        })
        .connect_with(options)
        .await
        .map_err(|error| StoreError::Open {
            location: location.clone(),
            reason: error.to_string(),
        })?;
    Ok((location, pool))
}

/// Begins to its end, even if its caller goes away, and rolls back then: `sqlx`
/// 0.9.0 would return the connection to the pool inside of the transaction (its issue 4393).
pub(super) async fn begin(
    pool: &PgPool,
    statement: &'static str,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let pool = pool.clone();
    to_its_end(async move { pool.begin_with(statement).await }).await
}

/// Passes notifications on, for ever; a lost connection is made anew. What may have been missed
/// meanwhile counts as one signal.
pub(super) async fn listen(url: String, signal: watch::Sender<()>) {
    loop {
        if let Err(error) = pass_on(&url, &signal).await {
            tracing::warn!(%error, "the database's notifications are lost; reconnecting");
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

async fn pass_on(url: &str, signal: &watch::Sender<()>) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect(url).await?;
    listener.listen("forgetd").await?;
    signal.send_replace(());
    while listener.try_recv().await?.is_some() {
        signal.send_replace(());
    }
    Ok(())
}

pub(super) async fn vacuum(pool: &PgPool) -> Result<(), StoreError> {
    pool.execute("VACUUM data_keys, sample_contents, sample_predictions, versions")
        .await
        .map(drop)
        .map_err(|source| StoreError::of("purge_erased", source))
}

/// The server takes such statistics by itself, but a minute or more later; until then it takes a model
/// to have few samples, and walks them all where it should look some up. Not of empty tables: it would
/// then walk those for as long.
pub(super) async fn refresh_statistics(pool: &PgPool, statement: &'static str) {
    if let Err(error) = pool.execute(statement).await {
        tracing::warn!(%error, statement, "the database has no statistics yet and may be slow");
    }
}

// Bulk loading: a statement takes the rows as one array per column, which unnest zips together.

pub(super) async fn insert_deletions(
    tx: &mut Tx,
    all: &[&Resolved<'_>],
) -> Result<u64, StoreError> {
    let requests = || all.iter().map(|it| &it.details.request);
    tx.query(
        "INSERT INTO deletion_requests (id, model_id, state, reason, samples, attempts, not_before,
             api_key_id, received_at, due_by)
         SELECT id, model_id, state, reason, samples, 0, 0, api_key_id, received_at, due_by
         FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::uuid[],
                 $7::bigint[], $8::bigint[])
             AS t (id, model_id, state, reason, samples, api_key_id, received_at, due_by)",
    )
    .array(requests().map(|it| it.id).collect::<Vec<_>>())
    .array(requests().map(|it| it.model_id).collect::<Vec<_>>())
    .array(requests().map(|it| it.state.as_str()).collect::<Vec<_>>())
    .array(requests().map(|it| it.reason.as_deref()).collect::<Vec<_>>())
    .array(requests().map(|it| it.samples.cast_signed()).collect::<Vec<_>>())
    .array(all.iter().map(|it| it.new.api_key_id()).collect::<Vec<_>>())
    .array(requests().map(|it| it.received_at.as_micros()).collect::<Vec<_>>())
    .array(requests().map(|it| it.due_by.as_micros()).collect::<Vec<_>>())
    .execute()
    .await
}

pub(super) async fn insert_targets(
    tx: &mut Tx,
    targets: &[(Uuid, i64, &TargetOutcome)],
) -> Result<u64, StoreError> {
    let outcomes = || targets.iter().map(|(_, _, it)| it);
    tx.query(
        "INSERT INTO deletion_targets (deletion_id, position, kind, key, samples, rejection)
         SELECT deletion_id, position, kind, key, samples, rejection
         FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bytea[], $5::bigint[], $6::text[])
             AS t (deletion_id, position, kind, key, samples, rejection)",
    )
    .array(targets.iter().map(|(id, ..)| *id).collect::<Vec<_>>())
    .array(targets.iter().map(|(_, position, _)| *position).collect::<Vec<_>>())
    .array(outcomes().map(|it| it.kind.as_str()).collect::<Vec<_>>())
    .array(outcomes().map(|it| it.key.as_bytes().as_slice()).collect::<Vec<_>>())
    .array(outcomes().map(|it| it.samples.cast_signed()).collect::<Vec<_>>())
    .array(outcomes().map(|it| it.rejection.map(Rejection::as_str)).collect::<Vec<_>>())
    .execute()
    .await
}

/// Requests with samples that they delete; how many of these were written, and how many samples were
/// there to be claimed.
pub(super) async fn insert_claims(
    tx: &mut Tx,
    claims: &[(Uuid, Uuid)],
) -> Result<(u64, u64), StoreError> {
    let (deletions, samples): (Vec<_>, Vec<_>) = claims.iter().copied().unzip();
    let insert = "INSERT INTO deletion_samples (deletion_id, sample_id)
         SELECT deletion_id, sample_id
         FROM unnest($1::uuid[], $2::uuid[]) AS t (deletion_id, sample_id)";
    let claim = "UPDATE samples SET deletion_id = t.deletion_id
         FROM unnest($1::uuid[], $2::uuid[]) AS t (deletion_id, sample_id)
         WHERE samples.id = t.sample_id";
    let written = tx.query(insert).array(&deletions).array(&samples).execute().await?;
    Ok((written, tx.query(claim).array(deletions).array(samples).execute().await?))
}

/// Models with subjects and the requests that delete them; leaves out those that have a tombstone.
pub(super) async fn insert_tombstones(
    tx: &mut Tx,
    buried: &[(Uuid, Pseudonym, Uuid)],
) -> Result<u64, StoreError> {
    tx.query(
        "INSERT INTO tombstones (model_id, subject_key, deletion_id)
         SELECT model_id, subject_key, deletion_id
         FROM unnest($1::uuid[], $2::bytea[], $3::uuid[])
             AS t (model_id, subject_key, deletion_id)
         ON CONFLICT (model_id, subject_key) DO NOTHING",
    )
    .array(buried.iter().map(|(model_id, ..)| *model_id).collect::<Vec<_>>())
    .array(buried.iter().map(|(_, subject, _)| subject.as_bytes().as_slice()).collect::<Vec<_>>())
    .array(buried.iter().map(|(.., deletion_id)| *deletion_id).collect::<Vec<_>>())
    .execute()
    .await
}

/// Leaves out those that are known.
pub(super) async fn insert_aliases(
    tx: &mut Tx,
    model_id: Uuid,
    aliases: &[(Pseudonym, Pseudonym)],
) -> Result<u64, StoreError> {
    let (keys, subjects): (Vec<_>, Vec<_>) = aliases
        .iter()
        .map(|(key, subject)| (key.as_bytes().as_slice(), subject.as_bytes().as_slice()))
        .unzip();
    tx.query(
        "INSERT INTO aliases (model_id, alias_key, subject_key)
         SELECT $1, alias_key, subject_key
         FROM unnest($2::bytea[], $3::bytea[]) AS t (alias_key, subject_key)
         ON CONFLICT (model_id, alias_key, subject_key) DO NOTHING",
    )
    .bind(model_id)
    .array(keys)
    .array(subjects)
    .execute()
    .await
}

// Samples, of which there are millions, come in by COPY.

pub(super) async fn insert_samples(
    tx: &mut Tx,
    ingestion_id: Uuid,
    model_id: Uuid,
    first_ordinal: i64,
    samples: &[SealedSample],
) -> Result<u64, StoreError> {
    let mut rows = CopyRows::new();
    for (ordinal, sample) in (first_ordinal..).zip(samples) {
        rows.push([
            sample.id.as_bytes(),
            model_id.as_bytes(),
            &ordinal.to_be_bytes(),
            sample.key.as_bytes(),
            sample.subject.as_bytes(),
            sample.split.as_str().as_bytes(),
            ingestion_id.as_bytes(),
        ]);
    }
    copy(
        tx,
        "COPY samples (id, model_id, ordinal, sample_key, subject_key, split, ingestion_id)
         FROM STDIN (FORMAT binary)",
        rows,
    )
    .await
}

pub(super) async fn copy_sealed(
    tx: &mut Tx,
    sql: Sql,
    all: &[(Uuid, impl AsRef<[u8]>)],
) -> Result<u64, StoreError> {
    let mut rows = CopyRows::new();
    for (sample_id, blob) in all {
        rows.push([sample_id.as_bytes(), blob.as_ref()]);
    }
    copy(tx, sql.postgres, rows).await
}

/// Not to be left half-way: `sqlx` 0.9.0 would take the connection to be at rest.
async fn copy<const N: usize>(
    tx: &mut Tx,
    statement: &'static str,
    rows: CopyRows<N>,
) -> Result<u64, StoreError> {
    let Connection::Postgres(connection) = &mut tx.connection else {
        unreachable!("rows are copied in postgres.rs only")
    };
    let copied = async {
        let mut copying = connection.copy_in_raw(statement).await?;
        copying.send(rows.finish()).await?;
        copying.finish().await
    };
    copied.await.map_err(|source| StoreError::of(tx.operation, source))
}

pub(super) async fn insert_leaves(
    tx: &mut Tx,
    first_idx: i64,
    leaves: &[(NewAuditEvent, Timestamp, String, Digest)],
) -> Result<u64, StoreError> {
    let kinds = leaves.iter().map(|(event, ..)| serde_json::to_value(event.kind));
    let kinds = kinds
        .map(|kind| kind.ok().and_then(|kind| kind.as_str().map(str::to_owned)))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| tx.damaged("an audit kind that is no word"))?;
    tx.query(
        "INSERT INTO audit_events (idx, kind, model_id, about, entry, leaf_hash, occurred_at)
         SELECT $1 + n - 1, kind, model_id, about, entry, leaf_hash, occurred_at
         FROM unnest($2::text[], $3::uuid[], $4::uuid[], $5::text[], $6::bytea[], $7::bigint[])
             WITH ORDINALITY AS t (kind, model_id, about, entry, leaf_hash, occurred_at, n)",
    )
    .bind(first_idx)
    .array(kinds)
    .array(leaves.iter().map(|(event, ..)| event.model_id).collect::<Vec<_>>())
    .array(leaves.iter().map(|(event, ..)| event.about).collect::<Vec<_>>())
    .array(leaves.iter().map(|(_, _, entry, _)| entry.as_str()).collect::<Vec<_>>())
    .array(leaves.iter().map(|(.., hash)| hash.as_bytes().as_slice()).collect::<Vec<_>>())
    .array(leaves.iter().map(|(_, at, ..)| at.as_micros()).collect::<Vec<_>>())
    .execute()
    .await
}

pub(super) async fn insert_messages(
    tx: &mut Tx,
    messages: &[NewMessage],
) -> Result<u64, StoreError> {
    tx.query(
        "INSERT INTO webhook_messages
             (id, webhook_id, event_type, payload, state, attempts, not_before, created_at)
         SELECT id, webhook_id, event_type, payload, 'pending', 0, 0, created_at
         FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bigint[])
             AS t (id, webhook_id, event_type, payload, created_at)",
    )
    .array(messages.iter().map(|it| it.id).collect::<Vec<_>>())
    .array(messages.iter().map(|it| it.webhook_id).collect::<Vec<_>>())
    .array(messages.iter().map(|it| it.event_type.as_str()).collect::<Vec<_>>())
    .array(messages.iter().map(|it| it.payload.as_str()).collect::<Vec<_>>())
    .array(messages.iter().map(|it| it.created_at.as_micros()).collect::<Vec<_>>())
    .execute()
    .await
}
