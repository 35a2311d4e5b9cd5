//! Publishing: what one job's single fenced transaction writes.

use uuid::Uuid;

use crate::{
    domain::{
        audit::AuditKind,
        identity::Digest,
        job::{Job, JobKind, JobState, Lease},
        network::NetworkSpec,
        program,
        sealing::MasterKey,
        timestamp::Timestamp,
        version::{Cause, Encoding, VersionMetrics},
    },
    store::{
        Keyring, Store, StoreError,
        erasure::{close_contributions, erase_batch},
        jobs::AT_ONCE,
        leases::hold,
        master_key::share_master_key,
        transaction::{Tx, writing},
    },
};

/// A version about to be published; its blobs are stored already.
#[derive(Clone, Debug)]
pub struct NewVersion {
    pub cause: Cause,
    /// The epoch that it was made from; publication is fenced when another came meanwhile.
    pub parent_epoch: Option<u64>,
    pub weights: Digest,
    pub network: NetworkSpec,
    pub encoding: Encoding,
    pub metrics: VersionMetrics,
    pub method: serde_json::Value,
}

#[derive(Clone, Debug)]
pub struct Publication {
    pub lease: Lease,
    pub now: Timestamp,
    /// Absent when a batch's samples are in no version: then they are only erased.
    pub version: Option<NewVersion>,
    /// How many samples, train and holdout, have predictions staged under the lease, which take the
    /// place of all before; for versions with an exact cause. Train samples among them are the
    /// version's contributors.
    pub predictions: Option<u64>,
    /// For batches.
    pub evidence: Option<serde_json::Value>,
}

impl Store {
    /// One fenced transaction: the version (epoch = parent + 1, or 1), contributions opened (exact
    /// causes) and closed (the batch's samples, and whatever an exact version was not trained on),
    /// the batch's samples erased (content, predictions), evidence, job `published` (batches) or
    /// `completed`, requests' `excluded_from_epoch`, audit leaves. An exact cause also settles
    /// every completed, unsettled request of the model (and the batch's own, once completed).
    /// Returns the epoch that is current afterwards, `None` if the model has no version.
    pub async fn publish(&self, publication: &Publication) -> Result<Option<u64>, StoreError> {
        let staged = match &publication.version {
            Some(version) if version.cause.is_exact() => {
                Some(self.staged(&publication.lease, publication.predictions).await?)
            }
            _ => None,
        };
        let keyring = self.keyring();
        let published = writing!(self, "publish", async |tx| {
            let sealing = (keyring, share_master_key(tx, keyring).await?);
            let job = hold(tx, &publication.lease).await?;
            let sql = "SELECT current_epoch FROM models WHERE id = $1";
            let row = tx.query(sql).bind(job.model_id).fetch_one().await?;
            let current: Option<u64> = row.count_or_none("current_epoch")?;
            let published = match &publication.version {
                Some(version) if version.parent_epoch != current => return Err(tx.fenced()),
                Some(version) => {
                    let epoch = current.map_or(1, |epoch| epoch + 1);
                    insert_version(tx, sealing, &job, version, epoch, publication.now).await?;
                    if let Some(staged) = &staged {
                        staged.adopt(tx, job.model_id, epoch).await?;
                        settle_requests(tx, &job, epoch, publication.now).await?;
                        release_waiting(tx, job.model_id).await?;
                    }
                    Some(epoch)
                }
                None if job.kind == JobKind::Unlearning => None,
                None => return Err(tx.damaged("a training without a version")),
            };
            if job.kind == JobKind::Unlearning {
                close_contributions(tx, &job, published).await?;
                let erased = erase_batch(tx, &job, publication.now).await?;
                let details = serde_json::json!({
                    "epoch": published,
                    "erased": erased,
                    "evidence": publication.evidence,
                });
                tx.record(
                    publication.now,
                    AuditKind::BatchPublished,
                    job.model_id,
                    job.id,
                    details,
                );
            }
            end_lease(tx, &job, published, publication).await?;
            tx.wake();
            Ok(published.or(current))
        })?;
        if staged.is_some() {
            self.refresh_statistics("ANALYZE (SKIP_LOCKED) sample_predictions, contributions")
                .await;
        }
        Ok(published)
    }
}

async fn insert_version(
    tx: &mut Tx,
    (keyring, master): (&Keyring, &MasterKey),
    job: &Job,
    version: &NewVersion,
    epoch: u64,
    now: Timestamp,
) -> Result<(), StoreError> {
    tx.query(
        "INSERT INTO versions (model_id, epoch, cause, parent_epoch, job_id, weights,
             network, encoding, metrics, method, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(job.model_id)
    .count(epoch)
    .bind(version.cause.as_str())
    .bind(version.parent_epoch.map(u64::cast_signed))
    .bind(job.id)
    .digest(&version.weights)
    .json(&version.network)
    .bind(keyring.seal_encoding(master, job.model_id, epoch, &version.encoding))
    .json(&version.metrics)
    .json(&version.method)
    .time(now)
    .execute_one()
    .await?;
    tx.query("UPDATE models SET current_epoch = $1 WHERE id = $2")
        .count(epoch)
        .bind(job.model_id)
        .execute_one()
        .await?;
    let details = serde_json::json!({
        "cause": version.cause,
        "epoch": epoch,
        "forgetd": program::VERSION,
        "method": version.method,
        "metrics": version.metrics,
        "parent_epoch": version.parent_epoch,
        "parent_weights": parent_weights(tx, job.model_id, version.parent_epoch).await?,
        "weights": version.weights,
    });
    tx.record(now, AuditKind::VersionPublished, job.model_id, job.id, details);
    Ok(())
}

async fn parent_weights(
    tx: &mut Tx,
    model_id: Uuid,
    parent_epoch: Option<u64>,
) -> Result<Option<Digest>, StoreError> {
    let Some(epoch) = parent_epoch else { return Ok(None) };
    let sql = "SELECT weights FROM versions WHERE model_id = $1 AND epoch = $2";
    let row = tx.query(sql).bind(model_id).count(epoch).fetch_one().await?;
    row.digest("weights").map(Some)
}

async fn settle_requests(
    tx: &mut Tx,
    job: &Job,
    epoch: u64,
    now: Timestamp,
) -> Result<(), StoreError> {
    let settled = tx
        .query(
            "UPDATE deletion_requests SET guarantee = 'exact', settled_at = $1
             WHERE model_id = $2 AND state = 'completed' AND settled_at IS NULL RETURNING id",
        )
        .time(now)
        .bind(job.model_id)
        .fetch_all()
        .await?;
    for row in &settled {
        let details = serde_json::json!({"epoch": epoch, "job": job.id});
        tx.record(now, AuditKind::DeletionSettled, job.model_id, row.uuid("id")?, details);
    }
    Ok(())
}

/// Whatever waits, for a retraining or for another attempt, waits no longer: this version was trained
/// without it.
async fn release_waiting(tx: &mut Tx, model_id: Uuid) -> Result<(), StoreError> {
    tx.query(
        "UPDATE deletion_requests SET not_before = $1, reason = NULL
         WHERE model_id = $2 AND state = 'queued' AND not_before > $1",
    )
    .time(AT_ONCE)
    .bind(model_id)
    .execute()
    .await
    .map(drop)
}

async fn end_lease(
    tx: &mut Tx,
    job: &Job,
    published: Option<u64>,
    publication: &Publication,
) -> Result<(), StoreError> {
    let (state, finished_at) = match job.kind {
        JobKind::Unlearning => (JobState::Published, None),
        JobKind::Training | JobKind::Settlement => {
            (JobState::Completed, Some(publication.now.as_micros()))
        }
    };
    tx.query(
        "UPDATE jobs SET state = $1, epoch = $2, evidence = $3, finished_at = $4, reason = NULL,
             progress = NULL, lease_token = NULL, lease_expires_at = NULL
         WHERE id = $5",
    )
    .bind(state.as_str())
    .bind(published.map(u64::cast_signed))
    .bind(publication.evidence.as_ref().map(sqlx::types::Json))
    .bind(finished_at)
    .bind(job.id)
    .execute_one()
    .await
}
