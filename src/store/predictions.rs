//! What a training says of the samples, in a set of its own: written piece by piece before the version
//! is published, which then names the set, and removed piece by piece once another one is named.

use std::collections::HashMap;

use uuid::Uuid;

use crate::{
    domain::{job::Lease, sample::SamplePredictions, sealing::Owner},
    store::{
        Keyring, Store, StoreError,
        leases::hold,
        sql::{Sql, Statement, in_keys},
        transaction::{Tx, reading, writing},
    },
};

const INSERT: Sql = Sql {
    sqlite: "INSERT INTO sample_predictions (sample_id, sealed, set_id)
         SELECT unhex(value ->> 0), substr($1, value ->> 1, value ->> 2), $3 FROM json_each($2)",
    postgres: "INSERT INTO sample_predictions (sample_id, sealed, set_id)
         SELECT sample_id, sealed, $3
         FROM unnest($1::uuid[], $2::bytea[]) AS t (sample_id, sealed)",
};

/// Bounds the memory that one statement takes.
const ROWS_PER_STATEMENT: usize = 10_000;

/// A set that no version has, and that no running job writes. No job ever will: a set is of one lease.
const FIND_STALE: &str = "SELECT sets.id, sets.model_id
     FROM prediction_sets sets JOIN models m ON m.id = sets.model_id
     WHERE (m.prediction_set_id IS NULL OR m.prediction_set_id <> sets.id)
         AND NOT EXISTS (
             SELECT 1 FROM jobs j
             WHERE j.model_id = sets.model_id AND j.state = 'running' AND j.lease_token = sets.id)
     ORDER BY sets.id LIMIT 1";

impl Store {
    /// Writes predictions of some of the samples that the version to be published was trained on or
    /// that were held out from it. They count once it is published under the same lease.
    ///
    /// # Errors
    /// Besides the database's: fenced when the lease is lost; damaged when a sample is another model's,
    /// or was deleted.
    pub async fn stage_predictions(
        &self,
        lease: &Lease,
        predictions: &[SamplePredictions],
    ) -> Result<(), StoreError> {
        let keyring = self.keyring();
        writing!(self, "stage_predictions", async |tx| {
            let model_id = hold(tx, lease).await?.model_id;
            tx.query(
                "INSERT INTO prediction_sets (id, model_id) VALUES ($1, $2)
                 ON CONFLICT (id) DO NOTHING",
            )
            .bind(lease.token)
            .bind(model_id)
            .execute()
            .await?;
            let sealed = seal(tx, keyring, model_id, predictions).await?;
            let written = tx.query(INSERT).bind_sealed(&sealed).bind(lease.token).execute().await?;
            tx.check_written(written, sealed.len())
        })
    }

    /// What was staged under the lease, which must be predictions of so many samples. It stays so while
    /// the lease holds: nothing else of the model is published meanwhile. Looked up ahead, so that the
    /// transaction that publishes holds up nobody for it.
    pub(super) async fn staged(
        &self,
        lease: &Lease,
        samples: Option<u64>,
    ) -> Result<Staged, StoreError> {
        reading!(self, "publish", async |tx| {
            let job = tx
                .query(
                    "SELECT model_id FROM jobs
                     WHERE id = $1 AND lease_token = $2 AND state = 'running'",
                )
                .bind(lease.job_id)
                .bind(lease.token)
                .fetch_optional()
                .await?
                .ok_or_else(|| tx.fenced())?;
            let sql = "SELECT COUNT(*) AS samples FROM sample_predictions WHERE set_id = $1";
            let row = tx.query(sql).bind(lease.token).fetch_one().await?;
            let staged = row.count("samples")?;
            if samples != Some(staged) {
                let detail = format!("predictions of {staged} samples are staged, not {samples:?}");
                return Err(tx.damaged(detail));
            }
            let joining = ids(tx.query(JOINING).bind(lease.token)).await?;
            let leaving = tx.query(LEAVING).bind(lease.token).bind(job.uuid("model_id")?);
            let leaving = ids(leaving).await?;
            Ok(Staged { set_id: lease.token, joining, leaving })
        })
    }

    /// Removes at most `limit` predictions that another version's have taken the place of, or that were
    /// staged for a version that never came. False once none is left.
    pub async fn remove_stale_predictions(&self, limit: u32) -> Result<bool, StoreError> {
        let stale = reading!(self, "remove_stale_predictions", async |tx| {
            let row = tx.query(FIND_STALE).fetch_optional().await?;
            row.map(|row| Ok((row.uuid("id")?, row.uuid("model_id")?))).transpose()
        })?;
        let Some((set_id, model_id)) = stale else { return Ok(false) };
        writing!(self, "remove_stale_predictions", async |tx| {
            // Whoever holds the lock may be erasing samples from the set.
            if !tx.try_lock_model(model_id).await? {
                return Ok(true);
            }
            let removed = tx
                .query(
                    "DELETE FROM sample_predictions WHERE set_id = $1 AND sample_id IN (
                         SELECT sample_id FROM sample_predictions WHERE set_id = $1
                         ORDER BY sample_id LIMIT $2)",
                )
                .bind(set_id)
                .bind(i64::from(limit))
                .execute()
                .await?;
            if removed < u64::from(limit) {
                // Unless another worker was first.
                let sql = "DELETE FROM prediction_sets WHERE id = $1";
                tx.query(sql).bind(set_id).execute().await?;
            }
            Ok(true)
        })
    }
}

/// Samples of the set that have contributed to no version, or no more.
const JOINING: &str = "SELECT s.id FROM sample_predictions p JOIN samples s ON s.id = p.sample_id
     WHERE p.set_id = $1 AND s.split = 'train' AND NOT EXISTS (
         SELECT 1 FROM contributions c WHERE c.sample_id = s.id AND c.until_epoch IS NULL)";

/// Samples that contribute still and are not in the set.
const LEAVING: &str = "SELECT c.sample_id AS id FROM contributions c
     WHERE c.model_id = $2 AND c.until_epoch IS NULL AND NOT EXISTS (
         SELECT 1 FROM sample_predictions p WHERE p.set_id = $1 AND p.sample_id = c.sample_id)";

/// A set that is about to be published.
pub(super) struct Staged {
    set_id: Uuid,
    /// Train samples that contribute from now on, and those that contribute no more.
    joining: Vec<Uuid>,
    leaving: Vec<Uuid>,
}

impl Staged {
    /// Its predictions are the model's from now on, and its train samples contribute to `epoch`.
    pub(super) async fn adopt(
        &self,
        tx: &mut Tx,
        model_id: Uuid,
        epoch: u64,
    ) -> Result<(), StoreError> {
        tx.query("UPDATE models SET prediction_set_id = $1 WHERE id = $2")
            .bind(self.set_id)
            .bind(model_id)
            .execute_one()
            .await?;
        for leaving in self.leaving.chunks(ROWS_PER_STATEMENT) {
            let sql = in_keys!(
                "UPDATE contributions SET until_epoch = $1 WHERE until_epoch IS NULL AND sample_id",
                "2",
                ""
            );
            let closed = tx.query(sql).count(epoch).bind_ids(leaving).execute().await?;
            tx.check_written(closed, leaving.len())?;
        }
        for joining in self.joining.chunks(ROWS_PER_STATEMENT) {
            let sql = in_keys!(
                "INSERT INTO contributions (model_id, sample_id, from_epoch)
                 SELECT model_id, id, $1 FROM samples WHERE id",
                "2",
                ""
            );
            let opened = tx.query(sql).count(epoch).bind_ids(joining).execute().await?;
            tx.check_written(opened, joining.len())?;
        }
        Ok(())
    }
}

/// Of the rows, which may be as many as the model has samples.
async fn ids(statement: Statement<'_>) -> Result<Vec<Uuid>, StoreError> {
    let mut ids = Vec::new();
    statement.for_each(|row| row.uuid("id").map(|id| ids.push(id))).await?;
    Ok(ids)
}

/// Each under the data key of its sample.
async fn seal(
    tx: &mut Tx,
    keyring: &Keyring,
    model_id: Uuid,
    predictions: &[SamplePredictions],
) -> Result<Vec<(Uuid, Vec<u8>)>, StoreError> {
    let ids: Vec<_> = predictions.iter().map(|it| it.sample_id).collect();
    let sql = in_keys!("SELECT sample_id, wrapped FROM data_keys WHERE sample_id", "1", "");
    let mut keys = HashMap::with_capacity(ids.len());
    for row in tx.query(sql).bind_ids(&ids).fetch_all().await? {
        let sample_id = row.uuid("sample_id")?;
        let wrapped: Vec<u8> = row.get("wrapped")?;
        let key = keyring.unwrap(&wrapped, Owner { model_id, sample_id });
        keys.insert(sample_id, key.map_err(|error| row.damaged("wrapped", error))?);
    }
    let sealed = predictions.iter().map(|it| {
        let key = keys
            .get(&it.sample_id)
            .ok_or_else(|| tx.damaged("predictions of a sample without a data key"))?;
        let owner = Owner { model_id, sample_id: it.sample_id };
        Ok((it.sample_id, keyring.seal_predictions(key, owner, it)))
    });
    sealed.collect()
}
