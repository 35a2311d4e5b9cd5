//! Jobs: queueing, reading, cancelling.

use uuid::Uuid;

use crate::{
    domain::{
        audit::AuditKind,
        job::{Job, JobKind, JobState},
        timestamp::Timestamp,
    },
    store::{
        Store, StoreError,
        row::Row,
        transaction::{Tx, reading, writing},
    },
};

/// When work may start that waits for nothing, not even for a calendar that was set back.
pub(super) const AT_ONCE: Timestamp = Timestamp::from_micros(0);

#[derive(Clone, Debug, PartialEq)]
pub enum Enqueued {
    Queued(Job),
    /// One of this kind waits or runs already.
    Already(Job),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelJob {
    /// It was queued and is cancelled now.
    Cancelled,
    /// It runs; its worker stops at the next step.
    Requested,
    /// It has ended, or is an unlearning batch, which cannot be cancelled.
    Refused(JobState),
    Unknown,
}

impl Store {
    /// Queues a training or a settlement. (Batches come into being as they are claimed.)
    pub async fn enqueue_job(
        &self,
        id: Uuid,
        model_id: Uuid,
        kind: JobKind,
        now: Timestamp,
        by: Option<Uuid>,
    ) -> Result<Enqueued, StoreError> {
        writing!(self, "enqueue_job", async |tx| {
            tx.lock_model(model_id).await?;
            enqueue(tx, id, model_id, kind, now, by).await
        })
    }

    /// Queues a settlement for the completed requests that none has covered yet; `None` when there
    /// are none. One that ends while its like is called for covers them, and none follows it.
    pub async fn enqueue_settlement_due(
        &self,
        id: Uuid,
        model_id: Uuid,
        now: Timestamp,
    ) -> Result<Option<Enqueued>, StoreError> {
        writing!(self, "enqueue_settlement_due", async |tx| {
            tx.lock_model(model_id).await?;
            let unsettled = tx
                .query(
                    "SELECT 1 FROM deletion_requests
                     WHERE model_id = $1 AND state = 'completed' AND settled_at IS NULL LIMIT 1",
                )
                .bind(model_id)
                .fetch_optional()
                .await?;
            match unsettled {
                Some(_) => {
                    enqueue(tx, id, model_id, JobKind::Settlement, now, None).await.map(Some)
                }
                None => Ok(None),
            }
        })
    }

    pub async fn job(&self, id: Uuid) -> Result<Option<Job>, StoreError> {
        reading!(self, "job", async |tx| {
            let row = tx.query("SELECT * FROM jobs WHERE id = $1").bind(id).fetch_optional();
            row.await?.as_ref().map(read_job).transpose()
        })
    }

    /// Newest first, before `before`.
    pub async fn jobs(
        &self,
        model_id: Uuid,
        kind: Option<JobKind>,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Job>, StoreError> {
        let sql = match kind {
            None => "SELECT * FROM jobs WHERE model_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
            Some(_) => {
                "SELECT * FROM jobs WHERE model_id = $1 AND id < $2 AND kind = $4
                 ORDER BY id DESC LIMIT $3"
            }
        };
        reading!(self, "jobs", async |tx| {
            let mut statement = tx
                .query(sql)
                .bind(model_id)
                .bind(before.unwrap_or(Uuid::max()))
                .bind(i64::from(limit));
            if let Some(kind) = kind {
                statement = statement.bind(kind.as_str());
            }
            statement.fetch_all().await?.iter().map(read_job).collect()
        })
    }

    pub async fn cancel_job(
        &self,
        id: Uuid,
        now: Timestamp,
        by: Option<Uuid>,
    ) -> Result<CancelJob, StoreError> {
        writing!(self, "cancel_job", async |tx| {
            let row = tx.query("SELECT model_id FROM jobs WHERE id = $1").bind(id);
            let Some(row) = row.fetch_optional().await? else { return Ok(CancelJob::Unknown) };
            tx.lock_model(row.uuid("model_id")?).await?;
            let row = tx.query("SELECT * FROM jobs WHERE id = $1").bind(id).fetch_one().await?;
            let job = read_job(&row)?;
            let trains = matches!(job.kind, JobKind::Training | JobKind::Settlement);
            if !trains || job.state.has_ended() {
                return Ok(CancelJob::Refused(job.state));
            }
            if !job.cancel_requested {
                let details = serde_json::json!({"by": by, "kind": job.kind});
                tx.record(now, AuditKind::JobCancelRequested, job.model_id, id, details);
            }
            if job.state == JobState::Queued {
                end_job(tx, &job, JobState::Cancelled, None, now).await?;
                return Ok(CancelJob::Cancelled);
            }
            let sql = "UPDATE jobs SET cancel_requested = TRUE WHERE id = $1";
            tx.query(sql).bind(id).execute_one().await?;
            // Its worker listens.
            tx.wake();
            Ok(CancelJob::Requested)
        })
    }
}

/// Under the model's lock.
async fn enqueue(
    tx: &mut Tx,
    id: Uuid,
    model_id: Uuid,
    kind: JobKind,
    now: Timestamp,
    by: Option<Uuid>,
) -> Result<Enqueued, StoreError> {
    for state in [JobState::Running, JobState::Queued] {
        let sql = "SELECT * FROM jobs WHERE model_id = $1 AND kind = $2 AND state = $3";
        let statement = tx.query(sql).bind(model_id).bind(kind.as_str());
        if let Some(row) = statement.bind(state.as_str()).fetch_optional().await? {
            return read_job(&row).map(Enqueued::Already);
        }
    }
    let event = match kind {
        JobKind::Training => AuditKind::TrainingQueued,
        JobKind::Settlement => AuditKind::SettlementQueued,
        JobKind::Unlearning => return Err(tx.damaged("a batch on its way to the queue")),
    };
    let row = tx
        .query(
            "INSERT INTO jobs (id, model_id, kind, state, attempts, preemptions,
                 cancel_requested, not_before, created_at)
             VALUES ($1, $2, $3, $4, 0, 0, FALSE, $5, $6) RETURNING *",
        )
        .bind(id)
        .bind(model_id)
        .bind(kind.as_str())
        .bind(JobState::Queued.as_str())
        .time(AT_ONCE)
        .time(now)
        .fetch_one()
        .await?;
    tx.record(now, event, model_id, id, serde_json::json!({"by": by}));
    tx.wake();
    read_job(&row).map(Enqueued::Queued)
}

/// Ends a job without a version, with its audit leaf. The caller holds the model's lock and has
/// seen the job's state under it.
pub(super) async fn end_job(
    tx: &mut Tx,
    job: &Job,
    state: JobState,
    reason: Option<&str>,
    now: Timestamp,
) -> Result<(), StoreError> {
    tx.query(
        "UPDATE jobs SET state = $1, reason = COALESCE($2, reason), finished_at = $3,
             lease_token = NULL, lease_expires_at = NULL
         WHERE id = $4 AND finished_at IS NULL",
    )
    .bind(state.as_str())
    .bind(reason)
    .time(now)
    .bind(job.id)
    .execute_one()
    .await?;
    let kind = match state {
        JobState::Failed => AuditKind::JobFailed,
        _ => AuditKind::JobCancelled,
    };
    // The reason is free text, which may quote what a sample held: it has no place in the log.
    let details = serde_json::json!({"attempts": job.attempts, "kind": job.kind});
    tx.record(now, kind, job.model_id, job.id, details);
    tx.wake();
    Ok(())
}

pub(super) fn read_job(row: &Row) -> Result<Job, StoreError> {
    let progress: Option<sqlx::types::Json<_>> = row.get("progress")?;
    Ok(Job {
        id: row.uuid("id")?,
        model_id: row.uuid("model_id")?,
        kind: row.word("kind")?,
        state: row.word("state")?,
        attempts: row.count("attempts")?,
        preemptions: row.count("preemptions")?,
        epoch: row.count_or_none("epoch")?,
        progress: progress.map(|json| json.0),
        reason: row.get("reason")?,
        cancel_requested: row.get("cancel_requested")?,
        created_at: row.time("created_at")?,
        started_at: row.time_or_none("started_at")?,
        finished_at: row.time_or_none("finished_at")?,
    })
}
