//! Replicas: which epochs are being answered from, and when a batch has reached all of them.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    domain::{
        audit::AuditKind,
        deletion::{DeletionState, Guarantee},
        job::JobState,
        timestamp::Timestamp,
    },
    fail_point,
    store::{
        Store, StoreError,
        leases::fail_request,
        sql::in_keys,
        transaction::{Tx, reading, writing},
    },
};

/// One model's epoch that a replica answers from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    pub model_id: Uuid,
    pub epoch: u64,
}

/// A replica whose lease ended longer ago than this is dead: it stopped serving when the lease
/// ended by its own clock, and clocks differ by less.
const DEATH_MARGIN: Duration = Duration::from_secs(5);

/// After all epochs; the largest number that both databases hold.
const EPOCH_MAX: u64 = i64::MAX.cast_unsigned();

/// Rows of replicas that died this long ago are removed.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(1);

/// A lease that ended at or before the returned instant is a dead replica's.
pub(super) fn dead_since(now: Timestamp) -> Timestamp {
    now.minus(DEATH_MARGIN)
}

impl Store {
    /// This replica lives until `now + lease_duration` and serves these epochs. A replica that
    /// cannot say so in time must stop serving; the ledger counts it as live for a margin longer.
    /// A replica answers from an epoch only after it said so here.
    pub async fn report_served(
        &self,
        replica_id: Uuid,
        now: Timestamp,
        lease_duration: Duration,
        served: &[Served],
    ) -> Result<(), StoreError> {
        writing!(self, "report_served", async |tx| {
            let expired = now.minus(FORGOTTEN_AFTER);
            tx.query("DELETE FROM replicas WHERE lease_expires_at < $1 AND id <> $2")
                .time(expired)
                .bind(replica_id)
                .execute()
                .await?;
            tx.query(
                "INSERT INTO replicas (id, lease_expires_at) VALUES ($1, $2)
                 ON CONFLICT (id) DO UPDATE SET lease_expires_at = excluded.lease_expires_at",
            )
            .bind(replica_id)
            .time(now.plus(lease_duration))
            .execute_one()
            .await?;
            let rows = tx
                .query("SELECT model_id, epoch FROM replica_epochs WHERE replica_id = $1")
                .bind(replica_id)
                .fetch_all()
                .await?;
            let mut known = Vec::with_capacity(rows.len());
            for row in &rows {
                known.push(Served { model_id: row.uuid("model_id")?, epoch: row.count("epoch")? });
            }
            // Only news wakes others: they report again when woken.
            for gone in known.iter().filter(|it| served.iter().all(|s| s.model_id != it.model_id)) {
                let sql = "DELETE FROM replica_epochs WHERE replica_id = $1 AND model_id = $2";
                tx.query(sql).bind(replica_id).bind(gone.model_id).execute().await?;
                tx.wake();
            }
            for new in served.iter().filter(|it| !known.contains(it)) {
                tx.query(
                    "INSERT INTO replica_epochs (replica_id, model_id, epoch) VALUES ($1, $2, $3)
                     ON CONFLICT (replica_id, model_id) DO UPDATE SET epoch = excluded.epoch",
                )
                .bind(replica_id)
                .bind(new.model_id)
                .count(new.epoch)
                .execute_one()
                .await?;
                tx.wake();
            }
            Ok(())
        })
    }

    /// The replica answers no more.
    pub async fn retire_replica(&self, replica_id: Uuid) -> Result<(), StoreError> {
        writing!(self, "retire_replica", async |tx| {
            let sql = "DELETE FROM replicas WHERE id = $1";
            if tx.query(sql).bind(replica_id).execute().await? > 0 {
                tx.wake();
            }
            Ok(())
        })
    }

    /// Completes the requests of every published batch whose epoch each live replica has reached:
    /// `completed`, guarantee, audit leaf each. One that names a whole subject waits for the other
    /// requests that delete samples of it, and fails if one of those left its sample in place. The
    /// guarantee is `exact` when weights trained without the samples are out (the batch's version or
    /// a later one), or when no weights that contained them were left. Any process may call it, any
    /// number of times. Returns the completed requests, those included that waited for others of
    /// them.
    pub async fn complete_propagated(&self, now: Timestamp) -> Result<Vec<Uuid>, StoreError> {
        let mut completed = Vec::new();
        while let Some(more) = self.complete_ready(now).await? {
            completed.extend(more);
        }
        Ok(completed)
    }

    /// `None` where no request is ready, or none of a model that can be locked now.
    async fn complete_ready(&self, now: Timestamp) -> Result<Option<Vec<Uuid>>, StoreError> {
        let reached = reading!(self, "complete_propagated", async |tx| {
            let sql = "SELECT id, model_id FROM jobs WHERE state = 'published' ORDER BY id";
            let rows = tx.query(sql).fetch_all().await?;
            let mut reached = Vec::with_capacity(rows.len());
            for row in &rows {
                let (job_id, model_id) = (row.uuid("id")?, row.uuid("model_id")?);
                let oldest = oldest_served(tx, model_id, now).await?;
                if needed_epoch(tx, job_id).await? <= oldest
                    && !ready(tx, job_id, oldest).await?.is_empty()
                {
                    reached.push((job_id, model_id));
                }
            }
            Ok(reached)
        })?;
        if reached.is_empty() {
            return Ok(None);
        }
        // What was erased must be gone from the files before anybody is told so.
        self.purge_erased().await?;
        fail_point::pass("complete_propagated", "purged").await;
        let mut completed = None;
        for (job_id, model_id) in reached {
            let requests = writing!(self, "complete_propagated", async |tx| {
                // Whoever holds the lock may hold it for long, and will wake us: the requests of
                // other models do not wait for that.
                if !tx.try_lock_model(model_id).await? {
                    return Ok(None);
                }
                complete_batch(tx, job_id, model_id, now).await.map(Some)
            })?;
            if let Some(requests) = requests {
                completed.get_or_insert_with(Vec::new).extend(requests);
            }
        }
        Ok(completed)
    }
}

async fn complete_batch(
    tx: &mut Tx,
    job_id: Uuid,
    model_id: Uuid,
    now: Timestamp,
) -> Result<Vec<Uuid>, StoreError> {
    let job = tx
        .query("SELECT epoch FROM jobs WHERE id = $1 AND state = 'published'")
        .bind(job_id)
        .fetch_optional()
        .await?;
    let Some(job) = job else { return Ok(Vec::new()) };
    let published_epoch: Option<u64> = job.count_or_none("epoch")?;
    let needed_epoch = needed_epoch(tx, job_id).await?;
    let oldest = oldest_served(tx, model_id, now).await?;
    if needed_epoch > oldest {
        return Ok(Vec::new());
    }
    let settled = tx
        .query(
            "SELECT epoch FROM versions
             WHERE model_id = $1 AND epoch >= $2 AND cause IN ('trained', 'settled') LIMIT 1",
        )
        .bind(model_id)
        .count(needed_epoch)
        .fetch_optional()
        .await?;
    let is_exact = published_epoch.is_none() || settled.is_some();
    let guarantee = if is_exact { Guarantee::Exact } else { Guarantee::Approximate };
    let mut ready = ready(tx, job_id, oldest).await?;
    for id in incomplete(tx, job_id).await? {
        if let Some(at) = ready.iter().position(|it| *it == id) {
            ready.swap_remove(at);
            fail_request(tx, job_id, model_id, id, INCOMPLETE, now).await?;
        }
    }
    let requests = tx
        .query(in_keys!(
            "UPDATE deletion_requests
             SET state = $1, completed_at = $2, guarantee = $3, settled_at = $4, reason = NULL
             WHERE id",
            "5",
            "RETURNING id, excluded_from_epoch, samples"
        ))
        .bind(DeletionState::Completed.as_str())
        .time(now)
        .bind(guarantee.as_str())
        .bind(is_exact.then_some(now.as_micros()))
        .bind_ids(&ready)
        .fetch_all()
        .await?;
    let mut completed = Vec::with_capacity(requests.len());
    for row in &requests {
        let id = row.uuid("id")?;
        let details = serde_json::json!({
            "batch": job_id,
            "excluded_from_epoch": row.count_or_none::<u64>("excluded_from_epoch")?,
            "guarantee": guarantee,
            "samples": row.count::<u64>("samples")?,
        });
        tx.record(now, AuditKind::DeletionCompleted, model_id, id, details);
        completed.push(id);
    }
    let sql =
        "SELECT id FROM deletion_requests WHERE batch_id = $1 AND state = 'unlearning' LIMIT 1";
    if tx.query(sql).bind(job_id).fetch_optional().await?.is_none() {
        tx.query("UPDATE jobs SET state = $1, finished_at = $2 WHERE id = $3")
            .bind(JobState::Completed.as_str())
            .time(now)
            .bind(job_id)
            .execute_one()
            .await?;
    }
    tx.wake();
    completed.sort_unstable();
    Ok(completed)
}

/// Why a request failed although its own samples are gone.
const INCOMPLETE: &str = "another request was to delete a sample of its subject and failed: that \
     sample is still there, and a new request may name it";

/// `of_subject!(not, condition)`: the open requests of batch `$1` for which there is a (or no)
/// sample `s` of a subject that they name as a whole, and that has not been let in again since.
/// (`SQLite` takes a CROSS JOIN as it stands, instead of walking all samples of the model.)
macro_rules! of_subject {
    ($not:literal, $condition:literal) => {
        concat!(
            "SELECT r.id FROM deletion_requests r
             WHERE r.batch_id = $1 AND r.state = 'unlearning' AND ",
            $not,
            " EXISTS (
                 SELECT 1 FROM deletion_targets t CROSS JOIN tombstones b CROSS JOIN samples s
                     LEFT JOIN deletion_requests o ON o.id = s.deletion_id
                 WHERE t.deletion_id = r.id AND t.kind = 'subject' AND t.samples > 0
                     AND b.model_id = r.model_id AND b.subject_key = t.key
                     AND s.model_id = r.model_id AND s.subject_key = t.key AND ",
            $condition,
            ") ORDER BY r.id"
        )
    };
}

/// Requests of a batch that wait for no other batch to delete the rest of their subjects, nor for a
/// replica to answer from what is without it. They wait for other requests' publication and not for
/// their completion: those may wait for them.
async fn ready(tx: &mut Tx, job_id: Uuid, oldest_served: u64) -> Result<Vec<Uuid>, StoreError> {
    let sql = of_subject!(
        "NOT",
        "o.state IN ('queued', 'unlearning') AND (o.batch_id IS NULL OR o.batch_id <> r.batch_id)
             AND (s.deleted_at IS NULL OR o.excluded_from_epoch > $2)"
    );
    let rows = tx.query(sql).bind(job_id).count(oldest_served).fetch_all().await?;
    rows.iter().map(|row| row.uuid("id")).collect()
}

/// Requests of a batch of whose subjects somebody has left a sample in place.
async fn incomplete(tx: &mut Tx, job_id: Uuid) -> Result<Vec<Uuid>, StoreError> {
    let sql = of_subject!("", "s.deletion_id IS NULL");
    let rows = tx.query(sql).bind(job_id).fetch_all().await?;
    rows.iter().map(|row| row.uuid("id")).collect()
}

/// The first epoch without the samples of a batch; 0 where no version had them.
async fn needed_epoch(tx: &mut Tx, job_id: Uuid) -> Result<u64, StoreError> {
    let excluded = tx
        .query(
            "SELECT MAX(excluded_from_epoch) AS epoch FROM deletion_requests WHERE batch_id = $1",
        )
        .bind(job_id)
        .fetch_one()
        .await?;
    Ok(excluded.count_or_none("epoch")?.unwrap_or(0))
}

/// The first epoch that a live replica answers from; `EPOCH_MAX` where none answers.
async fn oldest_served(tx: &mut Tx, model_id: Uuid, now: Timestamp) -> Result<u64, StoreError> {
    let oldest = tx
        .query(
            "SELECT MIN(e.epoch) AS epoch
             FROM replica_epochs e JOIN replicas r ON r.id = e.replica_id
             WHERE e.model_id = $1 AND r.lease_expires_at > $2",
        )
        .bind(model_id)
        .time(dead_since(now))
        .fetch_one()
        .await?;
    Ok(oldest.count_or_none("epoch")?.unwrap_or(EPOCH_MAX))
}
