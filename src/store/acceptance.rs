//! Accepting a deletion request.

use uuid::Uuid;

use crate::{
    domain::{
        audit::AuditKind,
        deletion::{DeletionState, Target, targets_digest},
        identity::Digest,
        timestamp::Timestamp,
    },
    store::{
        Store, StoreError,
        approvals::{reason_to_suspend, set_state, withdraw_claims},
        deletions::{DeletionDetails, read_details},
        jobs::AT_ONCE,
        postgres,
        quotas::{Excess, excess, lock_quota},
        sqlite,
        transaction::{Dialect, Tx, writing},
    },
};

#[derive(Clone, Debug)]
pub struct NewDeletion {
    /// `UUIDv7`.
    pub id: Uuid,
    pub model_id: Uuid,
    pub targets: Vec<Target>,
    /// Whose quota it counts against; absent where the service runs without keys.
    pub api_key_id: Option<Uuid>,
    /// The policy's share of the training samples above which it is suspended.
    pub approval_above_share: Option<f64>,
    pub received_at: Timestamp,
    pub due_by: Timestamp,
    pub idempotency: Option<Idempotency>,
}

#[derive(Clone, Debug)]
pub struct Idempotency {
    /// The API key's id; nil where the service runs without keys.
    pub api_key_id: Uuid,
    /// As sent, 1 to 255 bytes.
    pub key: String,
    /// SHA-256 of the request's body.
    pub body: Digest,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Acceptance<T = DeletionDetails> {
    /// Durable now: `queued`, `suspended`, or `rejected` when every target was.
    Accepted(T),
    /// The same key and body came before: that request, as it stands now.
    Repeated(T),
    /// The same key came before with another body.
    KeyReused,
    /// `queue_limit` requests are open; nothing was changed.
    QueueFull,
    /// The key may not have so many samples deleted now; nothing was changed.
    QuotaExceeded(Excess),
}

impl Store {
    /// Durable when it returns: request, targets with their samples, tombstones, audit leaf.
    pub async fn accept_deletion(
        &self,
        new: &NewDeletion,
        queue_limit: u64,
    ) -> Result<Acceptance, StoreError> {
        writing!(self, "accept_deletion", async |tx| {
            if let Some(idempotency) = &new.idempotency
                && let Some(earlier) = find_earlier(tx, idempotency).await?
            {
                return Ok(earlier);
            }
            if !has_room(tx, 1, queue_limit).await? {
                return Ok(Acceptance::QueueFull);
            }
            if let Some(idempotency) = &new.idempotency
                && !claim_key(tx, idempotency, new.id).await?
            {
                // Another transaction took the key meanwhile, and has committed.
                let earlier = find_earlier(tx, idempotency).await?;
                return earlier.ok_or_else(|| tx.damaged("an idempotency key that vanished"));
            }
            Ok(match enter(tx, new).await? {
                Ok(details) => Acceptance::Accepted(details),
                Err(excess) => Acceptance::QuotaExceeded(excess),
            })
        })
    }
}

/// Whether so many requests more may wait.
pub(super) async fn has_room(
    tx: &mut Tx,
    requests: u64,
    queue_limit: u64,
) -> Result<bool, StoreError> {
    let open = tx.query(OPEN_UP_TO).count(queue_limit).fetch_one().await?;
    Ok(open.count::<u64>("open")?.saturating_add(requests) <= queue_limit)
}

/// Writes one request with everything that comes with it. Beyond the key's quota the transaction is
/// abandoned.
pub(super) async fn enter(
    tx: &mut Tx,
    new: &NewDeletion,
) -> Result<Result<DeletionDetails, Excess>, StoreError> {
    let quota = lock_quota(tx, new).await?;
    tx.lock_model(new.model_id).await?;
    insert_request(tx, new).await?;
    let samples = claim_samples(tx, new.id, new.model_id).await?;
    judge_targets(tx, new.id, new.model_id).await?;
    if let Some(excess) = excess(tx, new, quota, samples).await? {
        tx.abandon();
        return Ok(Err(excess));
    }
    let reason = reason_to_suspend(tx, new).await?;
    let state = match (samples, &reason) {
        (0, _) => DeletionState::Rejected,
        (_, None) => DeletionState::Queued,
        (_, Some(_)) => DeletionState::Suspended,
    };
    if state == DeletionState::Suspended {
        withdraw_claims(tx, new.id).await?;
    }
    set_state(tx, new.id, state, samples, reason.as_deref()).await?;
    let details = record_entry(tx, new.id, new.received_at).await?;
    tx.wake();
    Ok(Ok(details))
}

/// Records how the request entered: in the queue, set aside for an approval, or not at all.
pub(super) async fn record_entry(
    tx: &mut Tx,
    id: Uuid,
    now: Timestamp,
) -> Result<DeletionDetails, StoreError> {
    let details = read_details(tx, id).await?;
    let details = details.ok_or_else(|| tx.damaged("no request where one was written"))?;
    let request = &details.request;
    let kind = match request.state {
        DeletionState::Rejected => AuditKind::DeletionRejected,
        DeletionState::Suspended => AuditKind::DeletionSuspended,
        _ => AuditKind::DeletionReceived,
    };
    let facts = serde_json::json!({
        "due_by": request.due_by,
        "received_at": request.received_at,
        "rejected": details.targets.iter().filter(|it| it.rejection.is_some()).count(),
        "samples": request.samples,
        "targets": details.targets.len(),
        "targets_digest": targets_digest(&details.targets),
    });
    tx.record(now, kind, request.model_id, id, facts);
    Ok(details)
}

/// Counts no further than the limit. Three index ranges, not one disjunction.
const OPEN_UP_TO: &str = "SELECT COUNT(*) AS open FROM (
         SELECT id FROM deletion_requests WHERE state = 'suspended'
         UNION ALL
         SELECT id FROM deletion_requests WHERE state = 'queued'
         UNION ALL
         SELECT id FROM deletion_requests WHERE state = 'unlearning'
         LIMIT $1) AS requests";

async fn find_earlier(
    tx: &mut Tx,
    idempotency: &Idempotency,
) -> Result<Option<Acceptance>, StoreError> {
    let row = tx
        .query("SELECT body, deletion_id FROM idempotency_keys WHERE api_key_id = $1 AND key = $2")
        .bind(idempotency.api_key_id)
        .bind(idempotency.key.as_str())
        .fetch_optional()
        .await?;
    let Some(row) = row else { return Ok(None) };
    if row.digest("body")? != idempotency.body {
        return Ok(Some(Acceptance::KeyReused));
    }
    let details = read_details(tx, row.uuid("deletion_id")?).await?;
    let details = details.ok_or_else(|| tx.damaged("an idempotency key without its request"))?;
    Ok(Some(Acceptance::Repeated(details)))
}

/// False when the key is taken. Waits for another transaction that is taking it.
async fn claim_key(
    tx: &mut Tx,
    idempotency: &Idempotency,
    deletion_id: Uuid,
) -> Result<bool, StoreError> {
    let claimed = tx
        .query(
            "INSERT INTO idempotency_keys (api_key_id, key, body, deletion_id)
             VALUES ($1, $2, $3, $4) ON CONFLICT (api_key_id, key) DO NOTHING",
        )
        .bind(idempotency.api_key_id)
        .bind(idempotency.key.as_str())
        .digest(&idempotency.body)
        .bind(deletion_id)
        .execute()
        .await?;
    Ok(claimed == 1)
}

async fn insert_request(tx: &mut Tx, new: &NewDeletion) -> Result<(), StoreError> {
    tx.query(
        "INSERT INTO deletion_requests
             (id, model_id, state, samples, attempts, not_before, api_key_id, received_at, due_by)
         VALUES ($1, $2, $3, 0, 0, $4, $5, $6, $7)",
    )
    .bind(new.id)
    .bind(new.model_id)
    .bind(DeletionState::Queued.as_str())
    .time(AT_ONCE)
    .bind(new.api_key_id)
    .time(new.received_at)
    .time(new.due_by)
    .execute_one()
    .await?;
    let targets = match tx.dialect() {
        Dialect::Sqlite => sqlite::insert_targets(tx, new.id, &new.targets).await?,
        Dialect::Postgres => postgres::insert_targets(tx, new.id, &new.targets).await?,
    };
    if targets == new.targets.len() as u64 {
        Ok(())
    } else {
        Err(tx.damaged("targets that were not written"))
    }
}

/// Gives the request every live sample under its targets that no other request deletes, and
/// puts tombstones on them and on its subjects. Returns how many samples it has now.
pub(super) async fn claim_samples(
    tx: &mut Tx,
    deletion_id: Uuid,
    model_id: Uuid,
) -> Result<u64, StoreError> {
    // Deleted samples keep their `deletion_id`, so it alone is asked for: naming `deleted_at` too
    // would offer PostgreSQL the index over all usable samples, which it walks once per target
    // while the table's statistics are young. SQLite takes a CROSS JOIN in the order in which it
    // stands; left to itself it walks all samples of the model, and looks for each among the targets.
    let samples = tx
        .query(
            "INSERT INTO deletion_samples (deletion_id, sample_id)
             SELECT t.deletion_id, s.id
             FROM deletion_targets t CROSS JOIN samples s
             WHERE t.deletion_id = $1 AND t.kind = 'sample'
                 AND s.model_id = $2 AND s.sample_key = t.key AND s.deletion_id IS NULL
             UNION
             SELECT t.deletion_id, s.id
             FROM deletion_targets t CROSS JOIN samples s
             WHERE t.deletion_id = $1 AND t.kind = 'subject'
                 AND s.model_id = $2 AND s.subject_key = t.key AND s.deletion_id IS NULL",
        )
        .bind(deletion_id)
        .bind(model_id)
        .execute()
        .await?;
    let claimed = tx
        .query(
            "UPDATE samples SET deletion_id = $1
             WHERE id IN (SELECT sample_id FROM deletion_samples WHERE deletion_id = $1)",
        )
        .bind(deletion_id)
        .execute()
        .await?;
    if claimed != samples {
        return Err(tx.damaged("samples that could not be claimed"));
    }
    tx.query(
        "INSERT INTO tombstones (model_id, kind, key, deletion_id)
         SELECT s.model_id, 'sample', s.sample_key, d.deletion_id
         FROM deletion_samples d JOIN samples s ON s.id = d.sample_id
         WHERE d.deletion_id = $1
         ON CONFLICT (model_id, kind, key) DO NOTHING",
    )
    .bind(deletion_id)
    .execute()
    .await?;
    Ok(samples)
}

/// Writes how many samples each target gave, and why those with none gave none.
pub(super) async fn judge_targets(
    tx: &mut Tx,
    deletion_id: Uuid,
    model_id: Uuid,
) -> Result<(), StoreError> {
    for (count, known) in [
        (
            "UPDATE deletion_targets SET rejection = NULL, samples = (
                 SELECT COUNT(*) FROM samples s
                 WHERE s.model_id = $2 AND s.sample_key = deletion_targets.key
                     AND s.deletion_id = $1 AND s.deleted_at IS NULL)
             WHERE deletion_id = $1 AND kind = 'sample'",
            "UPDATE deletion_targets SET rejection = CASE WHEN EXISTS (
                 SELECT 1 FROM samples s
                 WHERE s.model_id = $2 AND s.sample_key = deletion_targets.key)
                 THEN 'already_deleted' ELSE 'unknown_sample' END
             WHERE deletion_id = $1 AND kind = 'sample' AND samples = 0",
        ),
        (
            "UPDATE deletion_targets SET rejection = NULL, samples = (
                 SELECT COUNT(*) FROM samples s
                 WHERE s.model_id = $2 AND s.subject_key = deletion_targets.key
                     AND s.deletion_id = $1 AND s.deleted_at IS NULL)
             WHERE deletion_id = $1 AND kind = 'subject'",
            "UPDATE deletion_targets SET rejection = CASE WHEN EXISTS (
                 SELECT 1 FROM samples s
                 WHERE s.model_id = $2 AND s.subject_key = deletion_targets.key)
                 THEN 'already_deleted' ELSE 'unknown_subject' END
             WHERE deletion_id = $1 AND kind = 'subject' AND samples = 0",
        ),
    ] {
        tx.query(count).bind(deletion_id).bind(model_id).execute().await?;
        tx.query(known).bind(deletion_id).bind(model_id).execute().await?;
    }
    tx.query(
        "INSERT INTO tombstones (model_id, kind, key, deletion_id)
         SELECT DISTINCT $2, t.kind, t.key, t.deletion_id
         FROM deletion_targets t
         WHERE t.deletion_id = $1 AND t.kind = 'subject' AND t.samples > 0
         ON CONFLICT (model_id, kind, key) DO NOTHING",
    )
    .bind(deletion_id)
    .bind(model_id)
    .execute()
    .await?;
    Ok(())
}
