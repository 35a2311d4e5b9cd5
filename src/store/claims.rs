//! Claiming work: look for candidates without a lock, then lock the model and look again.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    domain::{
        audit::AuditKind,
        deletion::DeletionState,
        job::{Job, JobKind, JobState, Lease},
        model::Model,
        timestamp::Timestamp,
    },
    store::{
        Store, StoreError,
        jobs::{end_job, read_job},
        leases::set_aside,
        models::read_model,
        sql::in_keys,
        transaction::{Tx, reading, writing},
    },
};

/// What a worker brings to a claim.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    pub now: Timestamp,
    pub lease_duration: Duration,
    /// Random.
    pub token: Uuid,
    /// `UUIDv7`, for the batch's job if this claim starts one.
    pub batch_id: Uuid,
    /// Name of the worker, for the record.
    pub worker_id: Uuid,
    /// A job whose lease expired after this many attempts is not claimed again: a training or a
    /// settlement fails, and the requests of a batch are put off, each alone and longer each time.
    pub attempts_max: u32,
}

impl Claim {
    /// A lease that ends after this was written by a calendar that was set back since: its holder
    /// is lost, for it would have renewed the lease to an earlier end.
    fn beyond_any_lease(&self) -> Timestamp {
        self.now.plus(self.lease_duration * 2)
    }

    /// What was queued at or before this has waited for long enough.
    fn overdue_since(&self) -> Timestamp {
        self.now.minus(PATIENCE)
    }
}

/// A training or a settlement that has waited this long is held up by deletions no longer.
pub const PATIENCE: Duration = Duration::from_hours(1);

#[derive(Clone, Debug)]
pub struct Claimed {
    pub job: Job,
    pub lease: Lease,
    pub model: Model,
    /// Requests of the batch, earliest due first; empty for training and settlement.
    pub requests: Vec<Uuid>,
}

/// Candidates of each kind that one claim looks at; the others come with the next.
const CANDIDATES: &[(Work, &str)] = &[
    (
        Work::Expired,
        "SELECT id, model_id FROM jobs
         WHERE state = 'running' AND (lease_expires_at <= $1 OR lease_expires_at > $2)
         ORDER BY lease_expires_at LIMIT 16",
    ),
    (
        // Of models without deletions of their own: those come first, up to a point.
        Work::Overdue,
        "SELECT j.id, j.model_id FROM jobs j
         WHERE j.state = 'queued' AND j.not_before <= $1 AND j.created_at <= $2
             AND NOT EXISTS (
                 SELECT 1 FROM jobs k WHERE k.model_id = j.model_id AND k.state = 'running')
             AND NOT EXISTS (
                 SELECT 1 FROM deletion_requests r
                 WHERE r.model_id = j.model_id AND r.state = 'queued' AND r.not_before <= $1)
         ORDER BY j.created_at, j.id LIMIT 16",
    ),
    (
        // One row per model: its most urgent request.
        Work::Batch,
        "SELECT m.id, m.id AS model_id FROM models m
             JOIN deletion_requests r ON r.id = (
                 SELECT q.id FROM deletion_requests q
                 WHERE q.model_id = m.id AND q.state = 'queued' AND q.not_before <= $1
                 ORDER BY q.due_by, q.id LIMIT 1)
         WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.model_id = m.id AND j.state = 'running')
         ORDER BY r.due_by, r.id LIMIT 16",
    ),
    (
        Work::Queued,
        "SELECT j.id, j.model_id FROM jobs j
         WHERE j.state = 'queued' AND j.not_before <= $1 AND NOT EXISTS (
             SELECT 1 FROM jobs k WHERE k.model_id = j.model_id AND k.state = 'running')
         ORDER BY j.created_at, j.id LIMIT 16",
    ),
];

#[derive(Clone, Copy)]
enum Work {
    Expired,
    Overdue,
    Batch,
    Queued,
}

impl Store {
    /// Takes the most urgent work: a job whose lease expired; else a training or a settlement that
    /// has waited for longer than [`PATIENCE`] for the deletions of other models; else a new batch
    /// for the model whose queued request is due first (all its queued requests whose `not_before`
    /// has come, earliest due first, at most the policy's `batch_requests_max`; a request that
    /// failed before goes alone, and its attempts count on); else the oldest queued training or
    /// settlement. A job that has stepped aside as often as the policy allows goes before new
    /// batches of its model; once it has waited for longer than `PATIENCE`, a batch that goes before
    /// it counts as stepping aside. Only models without a running job.
    pub async fn claim(&self, claim: &Claim) -> Result<Option<Claimed>, StoreError> {
        for (work, sql) in CANDIDATES {
            let candidates = reading!(self, "claim", async |tx| {
                let statement = tx.query(*sql).time(claim.now);
                let statement = match work {
                    Work::Expired => statement.time(claim.beyond_any_lease()),
                    Work::Overdue => statement.time(claim.overdue_since()),
                    Work::Batch | Work::Queued => statement,
                };
                let rows = statement.fetch_all().await?;
                rows.iter()
                    .map(|row| Ok((row.uuid("id")?, row.uuid("model_id")?)))
                    .collect::<Result<Vec<_>, _>>()
            })?;
            for (id, model_id) in candidates {
                let claimed = writing!(self, "claim", async |tx| {
                    // Whoever holds the lock is about to change what this model offers, and
                    // will wake us.
                    if !tx.try_lock_model(model_id).await? {
                        return Ok(None);
                    }
                    match work {
                        Work::Expired => claim_expired(tx, claim, id).await,
                        Work::Batch => claim_batch(tx, claim, model_id).await,
                        Work::Overdue | Work::Queued => claim_queued(tx, claim, id).await,
                    }
                })?;
                if claimed.is_some() {
                    return Ok(claimed);
                }
            }
        }
        Ok(None)
    }
}

async fn claim_expired(
    tx: &mut Tx,
    claim: &Claim,
    id: Uuid,
) -> Result<Option<Claimed>, StoreError> {
    // Locks the row as it looks: a renewal does not take the model's lock.
    let row = tx
        .query(
            "UPDATE jobs SET lease_expires_at = lease_expires_at
             WHERE id = $1 AND state = 'running'
                 AND (lease_expires_at <= $2 OR lease_expires_at > $3) RETURNING *",
        )
        .bind(id)
        .time(claim.now)
        .time(claim.beyond_any_lease())
        .fetch_optional()
        .await?;
    let Some(job) = row.as_ref().map(read_job).transpose()? else { return Ok(None) };
    if job.cancel_requested {
        end_job(tx, &job, JobState::Cancelled, None, claim.now).await?;
        return Ok(None);
    }
    if job.attempts >= claim.attempts_max {
        let reason = "the worker was lost at every attempt";
        match job.kind {
            JobKind::Unlearning => {
                let retry_at = claim.now.plus(lost_pause(job.attempts - claim.attempts_max));
                set_aside(tx, &job, reason, claim.now, retry_at).await?;
            }
            JobKind::Training | JobKind::Settlement => {
                end_job(tx, &job, JobState::Failed, Some(reason), claim.now).await?;
            }
        }
        return Ok(None);
    }
    lease_job(tx, claim, id).await.map(Some)
}

/// A request that takes its worker down each time must not do so all the time, and yet no accepted
/// request is dropped for what happens to workers: 1, 2, 4, ... seconds, up to an hour.
fn lost_pause(losses_beyond_limit: u32) -> Duration {
    let seconds = 1_u64.checked_shl(losses_beyond_limit).unwrap_or(u64::MAX);
    Duration::from_secs(seconds).min(Duration::from_hours(1))
}

async fn claim_queued(tx: &mut Tx, claim: &Claim, id: Uuid) -> Result<Option<Claimed>, StoreError> {
    let row = tx
        .query(
            "SELECT j.id FROM jobs j
             WHERE j.id = $1 AND j.state = 'queued' AND j.not_before <= $2 AND NOT EXISTS (
                 SELECT 1 FROM jobs k WHERE k.model_id = j.model_id AND k.state = 'running')",
        )
        .bind(id)
        .time(claim.now)
        .fetch_optional()
        .await?;
    match row {
        Some(_) => lease_job(tx, claim, id).await.map(Some),
        None => Ok(None),
    }
}

/// Takes the lease of a queued or an expired job.
async fn lease_job(tx: &mut Tx, claim: &Claim, id: Uuid) -> Result<Claimed, StoreError> {
    let row = tx
        .query(
            "UPDATE jobs SET state = 'running', attempts = attempts + 1, lease_token = $1,
                 lease_expires_at = $2, worker_id = $3, progress = NULL,
                 started_at = COALESCE(started_at, $4)
             WHERE id = $5 RETURNING *",
        )
        .bind(claim.token)
        .time(claim.now.plus(claim.lease_duration))
        .bind(claim.worker_id)
        .time(claim.now)
        .bind(id)
        .fetch_one()
        .await?;
    let job = read_job(&row)?;
    let sql = "SELECT id FROM deletion_requests WHERE batch_id = $1 ORDER BY due_by, id";
    let rows = tx.query(sql).bind(id).fetch_all().await?;
    let requests = rows.iter().map(|row| row.uuid("id")).collect::<Result<_, _>>()?;
    let lease = Lease { job_id: id, token: claim.token, attempt: job.attempts };
    Ok(Claimed { model: find_model(tx, job.model_id).await?, job, lease, requests })
}

pub(super) async fn find_model(tx: &mut Tx, id: Uuid) -> Result<Model, StoreError> {
    let row = tx.query("SELECT * FROM models WHERE id = $1").bind(id).fetch_one().await?;
    read_model(&row)
}

async fn claim_batch(
    tx: &mut Tx,
    claim: &Claim,
    model_id: Uuid,
) -> Result<Option<Claimed>, StoreError> {
    let sql = "SELECT id FROM jobs WHERE model_id = $1 AND state = 'running'";
    if tx.query(sql).bind(model_id).fetch_optional().await?.is_some() {
        return Ok(None);
    }
    let model = find_model(tx, model_id).await?;
    let patient = tx
        .query(
            "SELECT id FROM jobs
             WHERE model_id = $1 AND state = 'queued' AND not_before <= $2 AND preemptions >= $3
             ORDER BY created_at, id LIMIT 1",
        )
        .bind(model_id)
        .time(claim.now)
        .bind(i64::from(model.policy.settlement.preemptions_max))
        .fetch_optional()
        .await?;
    if let Some(row) = patient {
        return lease_job(tx, claim, row.uuid("id")?).await.map(Some);
    }
    let rows = tx
        .query(
            "SELECT id, attempts, samples FROM deletion_requests
             WHERE model_id = $1 AND state = 'queued' AND not_before <= $2
             ORDER BY due_by, id LIMIT $3",
        )
        .bind(model_id)
        .time(claim.now)
        .bind(i64::from(model.policy.batch_requests_max))
        .fetch_all()
        .await?;
    let Some(first) = rows.first() else { return Ok(None) };
    tx.query(
        "UPDATE jobs SET preemptions = preemptions + 1
         WHERE model_id = $1 AND state = 'queued' AND not_before <= $2 AND created_at <= $3",
    )
    .bind(model_id)
    .time(claim.now)
    .time(claim.overdue_since())
    .execute()
    .await?;
    let attempts_before: u32 = first.count("attempts")?;
    let mut requests = Vec::with_capacity(rows.len());
    for row in &rows {
        let fresh = row.count::<u32>("attempts")? == 0;
        if requests.is_empty() || (fresh && attempts_before == 0) {
            requests.push((row.uuid("id")?, row.count::<u64>("samples")?));
        }
    }
    tx.query(
        "INSERT INTO jobs (id, model_id, kind, state, attempts, preemptions, cancel_requested,
             not_before, created_at, worker_id, lease_token, lease_expires_at, started_at)
         VALUES ($1, $2, $3, 'running', $4, 0, FALSE, $5, $5, $6, $7, $8, $5)",
    )
    .bind(claim.batch_id)
    .bind(model_id)
    .bind(JobKind::Unlearning.as_str())
    .bind(i64::from(attempts_before) + 1)
    .time(claim.now)
    .bind(claim.worker_id)
    .bind(claim.token)
    .time(claim.now.plus(claim.lease_duration))
    .execute_one()
    .await?;
    let sql = in_keys!(
        "UPDATE deletion_requests SET state = $1, batch_id = $2 WHERE state = 'queued' AND id",
        "3",
        ""
    );
    let ids: Vec<Uuid> = requests.iter().map(|(id, _)| *id).collect();
    let batched = tx
        .query(sql)
        .bind(DeletionState::Unlearning.as_str())
        .bind(claim.batch_id)
        .bind_ids(&ids)
        .execute()
        .await?;
    if batched != ids.len() as u64 {
        return Err(tx.damaged("queued requests that could not be batched"));
    }
    for (id, samples) in requests {
        let details = serde_json::json!({"batch": claim.batch_id, "samples": samples});
        tx.record(claim.now, AuditKind::DeletionBatched, model_id, id, details);
    }
    let sql = "SELECT * FROM jobs WHERE id = $1";
    let job = read_job(&tx.query(sql).bind(claim.batch_id).fetch_one().await?)?;
    let lease = Lease { job_id: job.id, token: claim.token, attempt: job.attempts };
    Ok(Some(Claimed { job, lease, model, requests: ids }))
}
