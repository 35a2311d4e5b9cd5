//! Accepting a deletion request.

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::{
    domain::{
        audit::AuditKind,
        deletion::{DeletionState, Target, targets_digest},
        identity::Digest,
        model::Model,
        timestamp::Timestamp,
    },
    store::{
        StoreError,
        approvals::{reason_to_suspend, suspend},
        deletions::{DeletionDetails, read_all_details, read_details},
        group_commit::Submission,
        postgres,
        quotas::{Excess, Quotas, excess, lock_quotas},
        sql::{Sql, in_keys},
        sqlite,
        transaction::{Dialect, Tx},
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

impl NewDeletion {
    /// As the model's policy has it, of nobody's quota and under no idempotency key.
    pub fn of(id: Uuid, model: &Model, targets: Vec<Target>, received_at: Timestamp) -> Self {
        Self {
            id,
            model_id: model.id,
            targets,
            api_key_id: None,
            approval_above_share: model.policy.approval_above_share,
            received_at,
            due_by: received_at.plus(model.policy.due_within()),
            idempotency: None,
        }
    }
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

/// Answers each of them, in their order, as if the ones before were committed.
pub(super) async fn accept_group(
    tx: &mut Tx,
    group: &[Submission],
) -> Result<Vec<Acceptance>, StoreError> {
    let all: Vec<&NewDeletion> = group.iter().map(|submission| &submission.new).collect();
    let quotas = lock(tx, &all).await?;
    let queue_limit = group.iter().map(|submission| submission.queue_limit).max();
    let mut open = count_open(tx, queue_limit.unwrap_or(0)).await?;
    let mut answers = Vec::with_capacity(group.len());
    let mut entering = Vec::new();
    for Submission { new, queue_limit, .. } in group {
        let mut earlier = find_earlier(tx, new).await?;
        if earlier.is_none() && open < *queue_limit {
            if claim_key(tx, new).await? {
                open += 1;
                entering.push((answers.len(), new));
            } else {
                // Another transaction took the key meanwhile, and has committed.
                earlier = find_earlier(tx, new).await?;
            }
        }
        answers.push(earlier.unwrap_or(Acceptance::QueueFull));
    }
    let new: Vec<_> = entering.iter().map(|(_, new)| *new).collect();
    for ((index, new), entered) in entering.into_iter().zip(enter(tx, &new, &quotas).await?) {
        answers[index] = match entered {
            Ok(details) => Acceptance::Accepted(details),
            Err(excess) => {
                release_key(tx, new).await?;
                Acceptance::QuotaExceeded(excess)
            }
        };
    }
    Ok(answers)
}

/// Other requests of these keys, and other writers of these models, wait from here on until the
/// transaction has ended.
pub(super) async fn lock(tx: &mut Tx, deletions: &[&NewDeletion]) -> Result<Quotas, StoreError> {
    let ids: BTreeSet<Uuid> = deletions.iter().filter_map(|new| new.api_key_id).collect();
    let quotas = lock_quotas(tx, &Vec::from_iter(ids)).await?;
    let models: BTreeSet<Uuid> = deletions.iter().map(|new| new.model_id).collect();
    for model_id in models {
        tx.lock_model(model_id).await?;
    }
    Ok(quotas)
}

/// Requests that wait, counted no further than the limit.
pub(super) async fn count_open(tx: &mut Tx, limit: u64) -> Result<u64, StoreError> {
    tx.query(OPEN_UP_TO).count(limit).fetch_one().await?.count("open")
}

/// What became of requests that were written at once.
enum Written {
    All(Vec<DeletionDetails>),
    /// Those of a key go beyond its quota.
    Exceeding(Excess),
    /// What one of them gets hangs on what becomes of another.
    Entangled,
}

/// Writes requests with everything that comes with them, as if one after the other; the caller holds
/// the [`lock`]. Of one that goes beyond a quota nothing is written.
pub(super) async fn enter(
    tx: &mut Tx,
    all: &[&NewDeletion],
    quotas: &Quotas,
) -> Result<Vec<Result<DeletionDetails, Excess>>, StoreError> {
    let may_be_undone = all.len() > 1 || all.iter().any(|new| quotas.limit(new));
    if may_be_undone {
        tx.query("SAVEPOINT entry").execute().await?;
    }
    let written = write(tx, all, quotas).await?;
    if may_be_undone {
        if !matches!(written, Written::All(_)) {
            tx.query("ROLLBACK TO SAVEPOINT entry").execute().await?;
        }
        tx.query("RELEASE SAVEPOINT entry").execute().await?;
    }
    match written {
        Written::All(written) => Ok(written.into_iter().map(Ok).collect()),
        Written::Exceeding(excess) if all.len() == 1 => Ok(vec![Err(excess)]),
        Written::Exceeding(_) | Written::Entangled => {
            let mut each = Vec::with_capacity(all.len());
            for new in all {
                each.extend(Box::pin(enter(tx, &[*new], quotas)).await?);
            }
            Ok(each)
        }
    }
}

async fn write(tx: &mut Tx, all: &[&NewDeletion], quotas: &Quotas) -> Result<Written, StoreError> {
    let ids: Vec<Uuid> = all.iter().map(|new| new.id).collect();
    insert(tx, all).await?;
    if !claim_samples(tx, &ids).await? {
        return Ok(Written::Entangled);
    }
    judge_targets(tx, &ids).await?;
    if let Some(excess) = excess(tx, all, quotas).await? {
        return Ok(Written::Exceeding(excess));
    }
    set_states(tx, &ids).await?;
    for new in all {
        if let Some(reason) = reason_to_suspend(tx, new).await? {
            if all.len() > 1 {
                return Ok(Written::Entangled);
            }
            suspend(tx, new.id, &reason).await?;
        }
    }
    let mut known = read_all_details(tx, &ids).await?;
    let mut written = Vec::with_capacity(all.len());
    for new in all {
        let details = known.remove(&new.id);
        let details = details.ok_or_else(|| tx.damaged("no request where one was written"))?;
        record_entry(tx, &details, new.received_at);
        written.push(details);
    }
    tx.wake();
    Ok(Written::All(written))
}

/// Records how the request entered: in the queue, set aside for an approval, or not at all.
pub(super) fn record_entry(tx: &mut Tx, details: &DeletionDetails, now: Timestamp) {
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
    tx.record(now, kind, request.model_id, request.id, facts);
}

/// Three index ranges, not one disjunction.
const OPEN_UP_TO: &str = "SELECT COUNT(*) AS open FROM (
         SELECT id FROM deletion_requests WHERE state = 'suspended'
         UNION ALL
         SELECT id FROM deletion_requests WHERE state = 'queued'
         UNION ALL
         SELECT id FROM deletion_requests WHERE state = 'unlearning'
         LIMIT $1) AS requests";

/// What its idempotency key stands for already.
async fn find_earlier(tx: &mut Tx, new: &NewDeletion) -> Result<Option<Acceptance>, StoreError> {
    let Some(idempotency) = &new.idempotency else { return Ok(None) };
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

/// False when its idempotency key is taken. Waits for another transaction that is taking it.
async fn claim_key(tx: &mut Tx, new: &NewDeletion) -> Result<bool, StoreError> {
    let Some(idempotency) = &new.idempotency else { return Ok(true) };
    let claimed = tx
        .query(
            "INSERT INTO idempotency_keys (api_key_id, key, body, deletion_id)
             VALUES ($1, $2, $3, $4) ON CONFLICT (api_key_id, key) DO NOTHING",
        )
        .bind(idempotency.api_key_id)
        .bind(idempotency.key.as_str())
        .digest(&idempotency.body)
        .bind(new.id)
        .execute()
        .await?;
    Ok(claimed == 1)
}

async fn release_key(tx: &mut Tx, new: &NewDeletion) -> Result<(), StoreError> {
    if new.idempotency.is_some() {
        let sql = "DELETE FROM idempotency_keys WHERE deletion_id = $1";
        tx.query(sql).bind(new.id).execute_one().await?;
    }
    Ok(())
}

async fn insert(tx: &mut Tx, all: &[&NewDeletion]) -> Result<(), StoreError> {
    let (requests, targets) = match tx.dialect() {
        Dialect::Sqlite => {
            (sqlite::insert_deletions(tx, all).await?, sqlite::insert_targets(tx, all).await?)
        }
        Dialect::Postgres => {
            (postgres::insert_deletions(tx, all).await?, postgres::insert_targets(tx, all).await?)
        }
    };
    let named: usize = all.iter().map(|new| new.targets.len()).sum();
    if (requests, targets) == (all.len() as u64, named as u64) {
        Ok(())
    } else {
        Err(tx.damaged("requests or targets that were not written"))
    }
}

/// Deleted samples keep their `deletion_id`, so it alone is asked for: naming `deleted_at` too would
/// offer `PostgreSQL` the index over all usable samples, which it walks once per target while the
/// table's statistics are young. `SQLite` takes a CROSS JOIN in the order in which it stands; left to
/// itself it walks all samples of the model, and looks for each among the targets.
const CLAIM: Sql = in_keys!(
    "INSERT INTO deletion_samples (deletion_id, sample_id)
     WITH r AS (SELECT id, model_id FROM deletion_requests WHERE id",
    "1",
    ")
     SELECT r.id, s.id
     FROM r CROSS JOIN deletion_targets t CROSS JOIN samples s
     WHERE t.deletion_id = r.id AND t.kind = 'sample'
         AND s.model_id = r.model_id AND s.sample_key = t.key AND s.deletion_id IS NULL
     UNION
     SELECT r.id, s.id
     FROM r CROSS JOIN deletion_targets t CROSS JOIN samples s
     WHERE t.deletion_id = r.id AND t.kind = 'subject'
         AND s.model_id = r.model_id AND s.subject_key = t.key AND s.deletion_id IS NULL"
);

/// Gives each request every live sample under its targets that no other deletes, and puts
/// tombstones on them. False when two of the requests name the same sample, which one alone cannot.
pub(super) async fn claim_samples(tx: &mut Tx, ids: &[Uuid]) -> Result<bool, StoreError> {
    let named = tx.query(CLAIM).bind_ids(ids).execute().await?;
    let sql = in_keys!(
        "UPDATE samples SET deletion_id = d.deletion_id FROM deletion_samples d
         WHERE samples.id = d.sample_id AND d.deletion_id",
        "1",
        ""
    );
    let claimed = tx.query(sql).bind_ids(ids).execute().await?;
    if claimed != named {
        return if ids.len() > 1 {
            Ok(false)
        } else {
            Err(tx.damaged("samples that could not be claimed"))
        };
    }
    let sql = in_keys!(
        "INSERT INTO tombstones (model_id, kind, key, deletion_id)
         SELECT s.model_id, 'sample', s.sample_key, d.deletion_id
         FROM deletion_samples d CROSS JOIN samples s
         WHERE s.id = d.sample_id AND d.deletion_id",
        "1",
        "ON CONFLICT (model_id, kind, key) DO NOTHING"
    );
    tx.query(sql).bind_ids(ids).execute().await?;
    Ok(true)
}

/// How the targets of a kind are judged.
struct Judgement {
    /// Counts the samples that each target gave.
    count: Sql,
    /// Says why those with none gave none.
    explain: Sql,
}

macro_rules! judgement {
    ($kind:literal, $column:literal) => {
        Judgement {
            count: in_keys!(
                concat!(
                    "UPDATE deletion_targets SET rejection = NULL, samples = (
                         SELECT COUNT(*) FROM deletion_requests r CROSS JOIN samples s
                         WHERE r.id = deletion_targets.deletion_id AND s.model_id = r.model_id
                             AND s.",
                    $column,
                    " = deletion_targets.key
                             AND s.deletion_id = deletion_targets.deletion_id
                             AND s.deleted_at IS NULL)
                     WHERE kind = '",
                    $kind,
                    "' AND deletion_id"
                ),
                "1",
                "RETURNING samples"
            ),
            explain: in_keys!(
                concat!(
                    "UPDATE deletion_targets SET rejection = CASE WHEN EXISTS (
                         SELECT 1 FROM deletion_requests r CROSS JOIN samples s
                         WHERE r.id = deletion_targets.deletion_id AND s.model_id = r.model_id
                             AND s.",
                    $column,
                    " = deletion_targets.key)
                         THEN 'already_deleted' ELSE 'unknown_",
                    $kind,
                    "' END
                     WHERE kind = '",
                    $kind,
                    "' AND samples = 0 AND deletion_id"
                ),
                "1",
                ""
            ),
        }
    };
}

const JUDGEMENTS: [Judgement; 2] =
    [judgement!("sample", "sample_key"), judgement!("subject", "subject_key")];

/// Writes how many samples each target gave, and why those with none gave none; puts tombstones on
/// the subjects that gave some.
pub(super) async fn judge_targets(tx: &mut Tx, ids: &[Uuid]) -> Result<(), StoreError> {
    for Judgement { count, explain } in JUDGEMENTS {
        let judged = tx.query(count).bind_ids(ids).fetch_all().await?;
        let samples = judged.iter().map(|row| row.count::<u64>("samples"));
        if samples.collect::<Result<Vec<_>, _>>()?.contains(&0) {
            tx.query(explain).bind_ids(ids).execute().await?;
        }
    }
    let sql = in_keys!(
        "INSERT INTO tombstones (model_id, kind, key, deletion_id)
         SELECT DISTINCT r.model_id, t.kind, t.key, t.deletion_id
         FROM deletion_targets t JOIN deletion_requests r ON r.id = t.deletion_id
         WHERE t.kind = 'subject' AND t.samples > 0 AND t.deletion_id",
        "1",
        "ON CONFLICT (model_id, kind, key) DO NOTHING"
    );
    tx.query(sql).bind_ids(ids).execute().await.map(drop)
}

/// `queued` with what each has claimed, or `rejected` where that is nothing.
pub(super) async fn set_states(tx: &mut Tx, ids: &[Uuid]) -> Result<(), StoreError> {
    let sql = in_keys!(
        "UPDATE deletion_requests SET reason = NULL, samples = (
             SELECT COUNT(*) FROM deletion_samples d WHERE d.deletion_id = deletion_requests.id),
             state = CASE WHEN EXISTS (
                 SELECT 1 FROM deletion_samples d WHERE d.deletion_id = deletion_requests.id)
                 THEN 'queued' ELSE 'rejected' END
         WHERE id",
        "1",
        ""
    );
    tx.query(sql).bind_ids(ids).execute().await.map(drop)
}
