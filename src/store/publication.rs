//! Publishing: what one job's single fenced transaction writes.

use uuid::Uuid;

use crate::{
    domain::{
        audit::AuditKind,
        identity::Digest,
        job::{Job, JobKind, JobState, Lease},
        network::NetworkSpec,
        sample::SamplePredictions,
        timestamp::Timestamp,
        version::{Cause, VersionMetrics},
    },
    store::{
        Store, StoreError,
        erasure::{close_contributions, erase_batch},
        leases::hold,
        sealing::{Keyring, insert_predictions},
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
    pub encoder: serde_json::Value,
    pub classes: Vec<String>,
    pub metrics: VersionMetrics,
    pub method: serde_json::Value,
}

#[derive(Clone, Debug)]
pub struct Publication {
    pub lease: Lease,
    pub now: Timestamp,
    /// Absent when a batch's samples are in no version: then they are only erased.
    pub version: Option<NewVersion>,
    /// Predictions of every live sample, train and holdout, in place of all stored before; for
    /// versions with an exact cause. Train samples among them are the version's contributors.
    pub predictions: Option<Vec<SamplePredictions>>,
    /// For batches.
    pub evidence: Option<serde_json::Value>,
}

/// Bounds the memory that one statement takes.
const PREDICTIONS_PER_STATEMENT: usize = 1_000;

impl Store {
    /// One fenced transaction: the version (epoch = parent + 1, or 1), contributions opened (exact
    /// causes) and closed (the batch's samples, and whatever an exact version was not trained on),
    /// the batch's samples erased (content, predictions), evidence, job `published` (batches) or
    /// `completed`, requests' `excluded_from_epoch`, audit leaves. An exact cause also settles
    /// every completed, unsettled request of the model (and the batch's own, once completed).
    /// Returns the epoch that is current afterwards, `None` if the model has no version.
    pub async fn publish(&self, publication: &Publication) -> Result<Option<u64>, StoreError> {
        let keyring = self.keyring();
        let published = writing!(self, "publish", async |tx| {
            let job = hold(tx, &publication.lease).await?;
            let sql = "SELECT current_epoch FROM models WHERE id = $1";
            let row = tx.query(sql).bind(job.model_id).fetch_one().await?;
            let current: Option<u64> = row.count_or_none("current_epoch")?;
            let published = match &publication.version {
                Some(version) if version.parent_epoch != current => return Err(tx.fenced()),
                Some(version) => {
                    let epoch = current.map_or(1, |epoch| epoch + 1);
                    insert_version(tx, &job, version, epoch, publication.now).await?;
                    if version.cause.is_exact() {
                        let predictions = publication.predictions.as_deref().unwrap_or_default();
                        replace_predictions(tx, keyring, job.model_id, predictions).await?;
                        replace_contributors(tx, job.model_id, epoch).await?;
                        settle_requests(tx, &job, epoch, publication.now).await?;
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
        if publication.version.as_ref().is_some_and(|version| version.cause.is_exact()) {
            self.refresh_statistics("ANALYZE (SKIP_LOCKED) sample_predictions, contributions")
                .await;
        }
        Ok(published)
    }
}

async fn insert_version(
    tx: &mut Tx,
    job: &Job,
    version: &NewVersion,
    epoch: u64,
    now: Timestamp,
) -> Result<(), StoreError> {
    tx.query(
        "INSERT INTO versions (model_id, epoch, cause, parent_epoch, job_id, weights,
             network, encoder, classes, metrics, method, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(job.model_id)
    .count(epoch)
    .bind(version.cause.as_str())
    .bind(version.parent_epoch.map(u64::cast_signed))
    .bind(job.id)
    .digest(&version.weights)
    .json(&version.network)
    .json(&version.encoder)
    .json(&version.classes)
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
        "forgetd": env!("CARGO_PKG_VERSION"),
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

async fn replace_predictions(
    tx: &mut Tx,
    keyring: &Keyring,
    model_id: Uuid,
    predictions: &[SamplePredictions],
) -> Result<(), StoreError> {
    tx.query(
        "DELETE FROM sample_predictions
         WHERE sample_id IN (SELECT id FROM samples WHERE model_id = $1)",
    )
    .bind(model_id)
    .execute()
    .await?;
    for chunk in predictions.chunks(PREDICTIONS_PER_STATEMENT) {
        insert_predictions(tx, keyring, model_id, chunk).await?;
    }
    let row = tx
        .query(
            "SELECT COUNT(*) AS samples
             FROM samples s JOIN sample_predictions p ON p.sample_id = s.id
             WHERE s.model_id = $1 AND s.deleted_at IS NULL",
        )
        .bind(model_id)
        .fetch_one()
        .await?;
    if row.count::<u64>("samples")? == predictions.len() as u64 {
        Ok(())
    } else {
        Err(tx.damaged("predictions of samples that are deleted or another model's"))
    }
}

/// The train samples with predictions are the contributors from `epoch` on; all others' end.
async fn replace_contributors(tx: &mut Tx, model_id: Uuid, epoch: u64) -> Result<(), StoreError> {
    tx.query(
        "UPDATE contributions SET until_epoch = $1
         WHERE model_id = $2 AND until_epoch IS NULL AND NOT EXISTS (
             SELECT 1 FROM sample_predictions p WHERE p.sample_id = contributions.sample_id)",
    )
    .count(epoch)
    .bind(model_id)
    .execute()
    .await?;
    tx.query(
        "INSERT INTO contributions (model_id, sample_id, from_epoch)
         SELECT s.model_id, s.id, $1
         FROM samples s JOIN sample_predictions p ON p.sample_id = s.id
         WHERE s.model_id = $2 AND s.split = 'train' AND NOT EXISTS (
             SELECT 1 FROM contributions c
             WHERE c.sample_id = s.id AND c.until_epoch IS NULL)",
    )
    .count(epoch)
    .bind(model_id)
    .execute()
    .await
    .map(drop)
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
