//! Accepting a deletion request.

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::{
    domain::{
        audit::AuditKind,
        deletion::{DeletionState, Target, TargetKind, targets_digest},
        identity::{Digest, Pseudonym},
        model::{Model, ModelName},
        timestamp::Timestamp,
    },
    store::{
        StoreError,
        deletions::{DeletionDetails, read_details},
        group_commit::Submission,
        open_count::OpenCount,
        postgres,
        quotas::{Excess, Quotas, Requester, lock_quotas},
        resolution::{Resolved, resolve},
        sqlite,
        transaction::{Dialect, Tx},
    },
};

#[derive(Clone, Debug)]
pub struct NewDeletion {
    /// `UUIDv7`.
    pub id: Uuid,
    pub model_id: Uuid,
    pub model: ModelName,
    pub targets: Vec<Target>,
    /// Whose quota it counts against; absent where the service runs without keys.
    pub requester: Option<Requester>,
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
            model: model.name.clone(),
            targets,
            requester: None,
            approval_above_share: model.policy.approval_above_share,
            received_at,
            due_by: received_at.plus(model.policy.due_within()),
            idempotency: None,
        }
    }

    pub(super) fn api_key_id(&self) -> Option<Uuid> {
        self.requester.as_ref().and_then(Requester::api_key_id)
    }
}

#[derive(Clone, Debug)]
pub struct Idempotency {
    /// The API key's id; nil where the service runs without keys.
    pub api_key_id: Uuid,
    pub key: Pseudonym,
    /// Of the request's body, under the service key.
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
    /// The requester may not have so many samples deleted now; nothing was changed.
    QuotaExceeded(Excess),
}

/// Bounds the memory that one statement takes.
const ROWS_PER_STATEMENT: usize = 10_000;

/// Answers each of them, in their order, as if the ones before were committed.
pub(super) async fn accept_group(
    tx: &mut Tx,
    group: &[Submission],
    open_count: &OpenCount,
) -> Result<Vec<Acceptance>, StoreError> {
    let all: Vec<&NewDeletion> = group.iter().map(|submission| &submission.new).collect();
    let quotas = lock(tx, &all).await?;
    let limits = || group.iter().map(|submission| submission.queue_limit);
    let mut open = if let Some(open) = open_count.far_below(limits().min().unwrap_or(0)) {
        open
    } else {
        let open = count_open(tx, limits().max().unwrap_or(0)).await?;
        open_count.set(open);
        open
    };
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

/// Other requests of those who ask for these, and other writers of their models, wait from here on
/// until the transaction has ended.
pub(super) async fn lock(tx: &mut Tx, deletions: &[&NewDeletion]) -> Result<Quotas, StoreError> {
    let quotas = lock_quotas(tx, deletions).await?;
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

/// Writes requests with everything that comes with them, as if one after the other; the caller holds
/// the [`lock`]. Of one that goes beyond a quota nothing is written.
pub(super) async fn enter(
    tx: &mut Tx,
    all: &[&NewDeletion],
    quotas: &Quotas,
) -> Result<Vec<Result<DeletionDetails, Excess>>, StoreError> {
    let resolved = resolve(tx, all, quotas).await?;
    let entering: Vec<&Resolved> = resolved.iter().flatten().collect();
    if !entering.is_empty() {
        insert_requests(tx, &entering).await?;
        insert_claims(tx, &entering).await?;
        for Resolved { new, details, .. } in entering {
            record_entry(tx, details, new.received_at);
        }
        tx.wake();
    }
    Ok(resolved.into_iter().map(|it| it.map(|resolved| resolved.details)).collect())
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
        .key(&idempotency.key)
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
        .key(&idempotency.key)
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

async fn insert_requests(tx: &mut Tx, all: &[&Resolved<'_>]) -> Result<(), StoreError> {
    let written = match tx.dialect() {
        Dialect::Sqlite => sqlite::insert_deletions(tx, all).await?,
        Dialect::Postgres => postgres::insert_deletions(tx, all).await?,
    };
    tx.check_written(written, all.len())
}

/// Writes the targets of requests as they were resolved, gives each request the samples that it
/// claims, and puts tombstones on the subjects that were named.
pub(super) async fn insert_claims(tx: &mut Tx, all: &[&Resolved<'_>]) -> Result<(), StoreError> {
    let targets: Vec<_> = all
        .iter()
        .flat_map(|it| {
            let id = it.new.id;
            (0_i64..).zip(&it.details.targets).map(move |(position, target)| (id, position, target))
        })
        .collect();
    let claims: Vec<_> =
        all.iter().flat_map(|it| it.claims.iter().map(|sample| (it.new.id, sample.id))).collect();
    for targets in targets.chunks(ROWS_PER_STATEMENT) {
        let written = match tx.dialect() {
            Dialect::Sqlite => sqlite::insert_targets(tx, targets).await?,
            Dialect::Postgres => postgres::insert_targets(tx, targets).await?,
        };
        tx.check_written(written, targets.len())?;
    }
    for claims in claims.chunks(ROWS_PER_STATEMENT) {
        let (written, claimed) = match tx.dialect() {
            Dialect::Sqlite => sqlite::insert_claims(tx, claims).await?,
            Dialect::Postgres => postgres::insert_claims(tx, claims).await?,
        };
        tx.check_written(written, claims.len())?;
        tx.check_written(claimed, claims.len())?;
    }
    let buried: Vec<_> = all
        .iter()
        .filter(|it| it.details.request.state == DeletionState::Queued)
        .flat_map(|it| {
            let subjects = it
                .details
                .targets
                .iter()
                .filter(|target| target.kind == TargetKind::Subject && target.samples > 0);
            subjects.map(|target| (it.new.model_id, target.key, it.new.id))
        })
        .collect();
    for buried in buried.chunks(ROWS_PER_STATEMENT) {
        match tx.dialect() {
            Dialect::Sqlite => sqlite::insert_tombstones(tx, buried).await?,
            Dialect::Postgres => postgres::insert_tombstones(tx, buried).await?,
        };
    }
    Ok(())
}
