//! Erasure: what a batch takes out of the ledger as it is published.

use crate::{
    domain::{job::Job, timestamp::Timestamp},
    fail_point,
    store::{StoreError, transaction::Tx},
};

/// The batch's samples contribute no more from `published` on; without a version none of them may
/// contribute still.
pub(super) async fn close_contributions(
    tx: &mut Tx,
    job: &Job,
    published: Option<u64>,
) -> Result<(), StoreError> {
    if let Some(epoch) = published {
        tx.query(
            "UPDATE contributions SET until_epoch = $1
             WHERE until_epoch IS NULL AND sample_id IN (
                 SELECT d.sample_id FROM deletion_requests r
                     JOIN deletion_samples d ON d.deletion_id = r.id
                 WHERE r.batch_id = $2)",
        )
        .count(epoch)
        .bind(job.id)
        .execute()
        .await?;
    } else {
        let open = tx
            .query(
                "SELECT c.sample_id FROM deletion_requests r
                     JOIN deletion_samples d ON d.deletion_id = r.id
                     JOIN contributions c ON c.sample_id = d.sample_id
                         AND c.until_epoch IS NULL
                 WHERE r.batch_id = $1 LIMIT 1",
            )
            .bind(job.id)
            .fetch_optional()
            .await?;
        if open.is_some() {
            return Err(tx.damaged("no version, but samples that contribute to the last one"));
        }
    }
    // An exact version may have left the samples out before their batch came: then that epoch.
    // (SQLite takes a CROSS JOIN as it stands, instead of walking all that contributed.)
    tx.query(
        "UPDATE deletion_requests SET excluded_from_epoch = COALESCE($1, (
             SELECT MAX(c.until_epoch) FROM deletion_samples d CROSS JOIN contributions c
             WHERE d.deletion_id = deletion_requests.id
                 AND c.model_id = deletion_requests.model_id AND c.sample_id = d.sample_id))
         WHERE batch_id = $2",
    )
    .bind(published.map(u64::cast_signed))
    .bind(job.id)
    .execute()
    .await
    .map(drop)
}

/// Removes what the batch's samples are: first their data keys, then what was sealed under them.
/// Their pseudonyms stay. Returns how many samples that were.
pub(super) async fn erase_batch(tx: &mut Tx, job: &Job, now: Timestamp) -> Result<u64, StoreError> {
    let destroyed = tx
        .query(
            "DELETE FROM data_keys WHERE sample_id IN (
                 SELECT d.sample_id FROM deletion_requests r
                     JOIN deletion_samples d ON d.deletion_id = r.id
                 WHERE r.batch_id = $1)",
        )
        .bind(job.id)
        .execute()
        .await?;
    fail_point::pass("erase_batch", "keys_destroyed").await;
    for sql in [
        "DELETE FROM sample_contents WHERE sample_id IN (
             SELECT d.sample_id FROM deletion_requests r
                 JOIN deletion_samples d ON d.deletion_id = r.id
             WHERE r.batch_id = $1)",
        // Those too that no version has, or none yet.
        "DELETE FROM sample_predictions WHERE (set_id, sample_id) IN (
             SELECT sets.id, d.sample_id FROM deletion_requests r
                 JOIN prediction_sets sets ON sets.model_id = r.model_id
                 JOIN deletion_samples d ON d.deletion_id = r.id
             WHERE r.batch_id = $1)",
    ] {
        tx.query(sql).bind(job.id).execute().await?;
    }
    let deleted = tx
        .query(
            "UPDATE samples SET deleted_at = $1
             WHERE deleted_at IS NULL AND id IN (
                 SELECT d.sample_id FROM deletion_requests r
                     JOIN deletion_samples d ON d.deletion_id = r.id
                 WHERE r.batch_id = $2)",
        )
        .time(now)
        .bind(job.id)
        .execute()
        .await?;
    let row = tx
        .query(
            "SELECT CAST(COALESCE(SUM(samples), 0) AS BIGINT) AS samples
             FROM deletion_requests WHERE batch_id = $1",
        )
        .bind(job.id)
        .fetch_one()
        .await?;
    if row.count::<u64>("samples")? == deleted && destroyed == deleted {
        Ok(deleted)
    } else {
        Err(tx.damaged("another number of samples or data keys than the batch's requests delete"))
    }
}
