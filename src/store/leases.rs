//! What a worker writes while it holds a lease; each write is fenced by it.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    domain::{
        audit::AuditKind,
        job::{Job, JobKind, JobState, Lease},
        timestamp::Timestamp,
        watch::Progress,
    },
    store::{
        Store, StoreError,
        deletions::release_samples,
        jobs::{AT_ONCE, end_job, read_job},
        transaction::{Tx, reading, writing},
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    pub cancel_requested: bool,
    /// Deletions of this model wait: a settlement or training may step aside.
    pub deletions_waiting: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsettled {
    pub requests: u64,
    /// When the oldest was completed.
    pub oldest: Timestamp,
    /// By when the first must be settled.
    pub deadline: Timestamp,
}

/// The earliest of deadlines, each of them no earlier than `$2` microseconds after the request.
macro_rules! deadline {
    () => {
        "MIN(CASE WHEN due_by > received_at + $2 THEN due_by ELSE received_at + $2 END) AS deadline"
    };
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 2)
}

impl Store {
    pub async fn renew_lease(
        &self,
        lease: &Lease,
        now: Timestamp,
        lease_duration: Duration,
        progress: Option<&Progress>,
    ) -> Result<Renewal, StoreError> {
        writing!(self, "renew_lease", async |tx| {
            let job = tx
                .query(
                    "UPDATE jobs SET lease_expires_at = $1, progress = COALESCE($2, progress)
                     WHERE id = $3 AND lease_token = $4 AND attempts = $5 AND state = 'running'
                     RETURNING model_id, cancel_requested",
                )
                .time(now.plus(lease_duration))
                .bind(progress.map(sqlx::types::Json))
                .bind(lease.job_id)
                .bind(lease.token)
                .bind(i64::from(lease.attempt))
                .fetch_optional()
                .await?
                .ok_or_else(|| tx.fenced())?;
            let waiting = tx
                .query(
                    "SELECT id FROM deletion_requests
                     WHERE model_id = $1 AND state = 'queued' AND not_before <= $2 LIMIT 1",
                )
                .bind(job.uuid("model_id")?)
                .time(now)
                .fetch_optional()
                .await?;
            Ok(Renewal {
                cancel_requested: job.get("cancel_requested")?,
                deletions_waiting: waiting.is_some(),
            })
        })
    }

    /// Gives the job back unharmed: shutdown, or (`preempted`) stepping aside for deletions. A
    /// batch's requests return to the queue and its job ends as cancelled; training and
    /// settlement are queued again. The attempt does not count.
    pub async fn release(
        &self,
        lease: &Lease,
        now: Timestamp,
        preempted: bool,
    ) -> Result<(), StoreError> {
        writing!(self, "release", async |tx| {
            let job = hold(tx, lease).await?;
            tx.wake();
            if job.kind != JobKind::Unlearning {
                let attempts = job.attempts.saturating_sub(1);
                let preemptions = job.preemptions + u32::from(preempted);
                return requeue(tx, &job, attempts, preemptions, AT_ONCE, None).await;
            }
            return_requests(tx, &job, None).await?;
            end_unpublished(tx, &job, "given back by its worker", now).await
        })
    }

    /// The batch has to wait: its requests return to the queue, for `reason`, and go together again
    /// from `until` on, or once a version is trained without them. The attempt does not count.
    pub async fn put_off(
        &self,
        lease: &Lease,
        now: Timestamp,
        reason: &str,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        writing!(self, "put_off", async |tx| {
            let job = hold(tx, lease).await?;
            tx.wake();
            return_requests(tx, &job, Some((until, reason))).await?;
            end_unpublished(tx, &job, reason, now).await
        })
    }

    /// This attempt failed. With `retry_at` the work waits until then (each request of a batch
    /// then goes alone); without it, it has failed for good.
    pub async fn fail_attempt(
        &self,
        lease: &Lease,
        now: Timestamp,
        reason: &str,
        retry_at: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        writing!(self, "fail_attempt", async |tx| {
            let job = hold(tx, lease).await?;
            tx.wake();
            match (retry_at, job.kind) {
                (None, _) => {
                    end_job(tx, &job, JobState::Failed, Some(reason), now).await?;
                    fail_requests(tx, &job, reason, now).await
                }
                (Some(at), JobKind::Unlearning) => set_aside(tx, &job, reason, now, at).await,
                (Some(at), JobKind::Training | JobKind::Settlement) => {
                    requeue(tx, &job, job.attempts, job.preemptions, at, Some(reason)).await
                }
            }
        })
    }

    /// The running job was cancelled on request.
    pub async fn acknowledge_cancel(
        &self,
        lease: &Lease,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        writing!(self, "acknowledge_cancel", async |tx| {
            let job = hold(tx, lease).await?;
            if !job.cancel_requested {
                return Err(tx.damaged("a cancelled job that nobody asked to cancel"));
            }
            end_job(tx, &job, JobState::Cancelled, None, now).await
        })
    }

    /// By when the first of a batch's requests must be served; `None` without any. A deadline that a
    /// caller set before the policy's `due_within` does not count: it could be set to force retraining.
    pub async fn batch_deadline(
        &self,
        job_id: Uuid,
        due_within: Duration,
    ) -> Result<Option<Timestamp>, StoreError> {
        reading!(self, "batch_deadline", async |tx| {
            let sql =
                concat!("SELECT ", deadline!(), " FROM deletion_requests WHERE batch_id = $1");
            let row = tx.query(sql).bind(job_id).bind(micros(due_within)).fetch_one().await?;
            row.time_or_none("deadline")
        })
    }

    /// Completed, not yet settled requests of a model; `None` without any. Of deadlines the same holds.
    pub async fn unsettled(
        &self,
        model_id: Uuid,
        due_within: Duration,
    ) -> Result<Option<Unsettled>, StoreError> {
        reading!(self, "unsettled", async |tx| {
            let row = tx
                .query(concat!(
                    "SELECT COUNT(*) AS requests, MIN(completed_at) AS oldest, ",
                    deadline!(),
                    " FROM deletion_requests
                     WHERE model_id = $1 AND state = 'completed' AND settled_at IS NULL"
                ))
                .bind(model_id)
                .bind(micros(due_within))
                .fetch_one()
                .await?;
            match (row.time_or_none("oldest")?, row.time_or_none("deadline")?) {
                (Some(oldest), Some(deadline)) => {
                    Ok(Some(Unsettled { requests: row.count("requests")?, oldest, deadline }))
                }
                (None, _) | (_, None) => Ok(None),
            }
        })
    }
}

/// Locks the model and returns the running job, if the lease still holds; else fenced.
pub(super) async fn hold(tx: &mut Tx, lease: &Lease) -> Result<Job, StoreError> {
    let row = tx.query("SELECT model_id FROM jobs WHERE id = $1").bind(lease.job_id);
    let Some(row) = row.fetch_optional().await? else { return Err(tx.fenced()) };
    tx.lock_model(row.uuid("model_id")?).await?;
    // The row itself is locked too: a renewal does not take the model's lock.
    let row = tx
        .query(
            "UPDATE jobs SET lease_expires_at = lease_expires_at
             WHERE id = $1 AND lease_token = $2 AND attempts = $3 AND state = 'running'
             RETURNING *",
        )
        .bind(lease.job_id)
        .bind(lease.token)
        .bind(i64::from(lease.attempt))
        .fetch_optional()
        .await?;
    match row {
        Some(row) => read_job(&row),
        None => Err(tx.fenced()),
    }
}

async fn requeue(
    tx: &mut Tx,
    job: &Job,
    attempts: u32,
    preemptions: u32,
    not_before: Timestamp,
    reason: Option<&str>,
) -> Result<(), StoreError> {
    tx.query(
        "UPDATE jobs SET state = 'queued', attempts = $1, preemptions = $2, not_before = $3,
             reason = $4, progress = NULL, lease_token = NULL, lease_expires_at = NULL
         WHERE id = $5",
    )
    .bind(i64::from(attempts))
    .bind(i64::from(preemptions))
    .time(not_before)
    .bind(reason)
    .bind(job.id)
    .execute_one()
    .await
}

/// Ends a batch whose requests have returned to the queue.
async fn end_unpublished(
    tx: &mut Tx,
    job: &Job,
    reason: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    tx.query(
        "UPDATE jobs SET state = $1, reason = $2, finished_at = $3, lease_token = NULL,
             lease_expires_at = NULL
         WHERE id = $4",
    )
    .bind(JobState::Cancelled.as_str())
    .bind(reason)
    .time(now)
    .bind(job.id)
    .execute_one()
    .await
}

/// A batch's requests are queued again as they were, or to wait until then and why.
async fn return_requests(
    tx: &mut Tx,
    job: &Job,
    wait: Option<(Timestamp, &str)>,
) -> Result<(), StoreError> {
    tx.query(
        "UPDATE deletion_requests SET state = 'queued', batch_id = NULL,
             not_before = COALESCE($1, not_before), reason = COALESCE($2, reason)
         WHERE batch_id = $3",
    )
    .bind(wait.map(|(until, _)| until.as_micros()))
    .bind(wait.map(|(_, reason)| reason))
    .bind(job.id)
    .execute()
    .await
    .map(drop)
}

/// Ends a batch whose requests are to be tried again from `retry_at` on, each alone.
pub(super) async fn set_aside(
    tx: &mut Tx,
    job: &Job,
    reason: &str,
    now: Timestamp,
    retry_at: Timestamp,
) -> Result<(), StoreError> {
    end_job(tx, job, JobState::Failed, Some(reason), now).await?;
    tx.query(
        "UPDATE deletion_requests SET state = 'queued', batch_id = NULL,
             attempts = $1, not_before = $2, reason = $3
         WHERE batch_id = $4",
    )
    .bind(i64::from(job.attempts))
    .time(retry_at)
    .bind(reason)
    .bind(job.id)
    .execute()
    .await
    .map(drop)
}

/// The requests of a failed batch fail with it. Their samples stay live (the tombstones of their
/// subjects stay too), and a new request may name them again.
pub(super) async fn fail_requests(
    tx: &mut Tx,
    job: &Job,
    reason: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let failed = tx
        .query("UPDATE deletion_requests SET attempts = $1 WHERE batch_id = $2 RETURNING id")
        .bind(i64::from(job.attempts))
        .bind(job.id)
        .fetch_all()
        .await?;
    for row in &failed {
        fail_request(tx, job.id, job.model_id, row.uuid("id")?, reason, now).await?;
    }
    Ok(())
}

/// Of its samples those stay live that are not deleted yet.
pub(super) async fn fail_request(
    tx: &mut Tx,
    batch_id: Uuid,
    model_id: Uuid,
    id: Uuid,
    reason: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    tx.query("UPDATE deletion_requests SET state = 'failed', reason = $1 WHERE id = $2")
        .bind(reason)
        .bind(id)
        .execute_one()
        .await?;
    release_samples(tx, id).await?;
    let details = serde_json::json!({"batch": batch_id});
    tx.record(now, AuditKind::DeletionFailed, model_id, id, details);
    Ok(())
}
