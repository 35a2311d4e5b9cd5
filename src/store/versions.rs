//! Versions of a model, and what is left of superseded ones.

use uuid::Uuid;

use crate::{
    domain::{
        audit::AuditKind,
        blob_name::BlobName,
        sealing::MasterKey,
        timestamp::Timestamp,
        version::{Encoding, Version},
    },
    store::{
        Keyring, Store, StoreError,
        master_key::share_master_key,
        replicas::dead_since,
        row::Row,
        sql::Sql,
        transaction::{Dialect, Tx, reading, writing},
    },
};

/// A version whose weights nobody needs any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superseded {
    pub model_id: Uuid,
    pub epoch: u64,
    pub blob: BlobName,
}

impl Store {
    pub async fn current_version(&self, model_id: Uuid) -> Result<Option<Version>, StoreError> {
        let keyring = self.keyring();
        reading!(self, "current_version", async |tx| {
            let row = tx
                .query(
                    "SELECT v.* FROM models m
                         JOIN versions v ON v.model_id = m.id AND v.epoch = m.current_epoch
                     WHERE m.id = $1",
                )
                .bind(model_id)
                .fetch_optional()
                .await?;
            row.as_ref().map(|row| read_version(keyring, row)).transpose()
        })
    }

    pub async fn version(&self, model_id: Uuid, epoch: u64) -> Result<Option<Version>, StoreError> {
        let keyring = self.keyring();
        reading!(self, "version", async |tx| {
            let sql = "SELECT * FROM versions WHERE model_id = $1 AND epoch = $2";
            let row = tx.query(sql).bind(model_id).count(epoch).fetch_optional().await?;
            row.as_ref().map(|row| read_version(keyring, row)).transpose()
        })
    }

    /// Newest first, below `below`.
    pub async fn versions(
        &self,
        model_id: Uuid,
        below: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Version>, StoreError> {
        let below = below.and_then(|epoch| i64::try_from(epoch).ok()).unwrap_or(i64::MAX);
        let keyring = self.keyring();
        reading!(self, "versions", async |tx| {
            let rows = tx
                .query(
                    "SELECT * FROM versions WHERE model_id = $1 AND epoch < $2
                     ORDER BY epoch DESC LIMIT $3",
                )
                .bind(model_id)
                .bind(below)
                .bind(i64::from(limit))
                .fetch_all()
                .await?;
            rows.iter().map(|row| read_version(keyring, row)).collect()
        })
    }

    /// When the last `limit` retrainings after `since` were called for, newest first: settlements, whoever
    /// called for them, and batches that were retrained.
    pub async fn retrainings(
        &self,
        model_id: Uuid,
        since: Timestamp,
        limit: u32,
    ) -> Result<Vec<Timestamp>, StoreError> {
        reading!(self, "retrainings", async |tx| {
            let rows = tx
                .query(
                    "SELECT created_at FROM jobs
                     WHERE model_id = $1 AND kind = 'settlement' AND created_at > $2
                     UNION ALL
                     SELECT v.created_at FROM versions v JOIN jobs j ON j.id = v.job_id
                     WHERE v.model_id = $1 AND v.cause = 'settled' AND v.created_at > $2
                         AND j.kind = 'unlearning'
                     ORDER BY created_at DESC LIMIT $3",
                )
                .bind(model_id)
                .time(since)
                .bind(i64::from(limit))
                .fetch_all()
                .await?;
            rows.iter().map(|row| row.time("created_at")).collect()
        })
    }

    /// The current epoch of each model that has one: what replicas compare with what they serve.
    pub async fn current_epochs(&self) -> Result<Vec<(Uuid, u64)>, StoreError> {
        reading!(self, "current_epochs", async |tx| {
            let rows = tx
                .query(
                    "SELECT id, current_epoch FROM models WHERE current_epoch IS NOT NULL
                     ORDER BY id",
                )
                .fetch_all()
                .await?;
            rows.iter().map(|row| Ok((row.uuid("id")?, row.count("current_epoch")?))).collect()
        })
    }

    /// Superseded versions whose weights still exist although every live replica has left them, by
    /// model and epoch, from the one behind `after` on.
    pub async fn superseded(
        &self,
        now: Timestamp,
        after: Option<(Uuid, u64)>,
        limit: u32,
    ) -> Result<Vec<Superseded>, StoreError> {
        let (model_id, epoch) = after.unwrap_or_default();
        reading!(self, "superseded", async |tx| {
            let rows = tx
                .query(
                    "SELECT v.model_id, v.epoch, v.weights, v.job_id
                     FROM models m JOIN versions v ON v.model_id = m.id
                     WHERE v.weights_removed_at IS NULL AND v.epoch < m.current_epoch
                         AND (v.model_id, v.epoch) > ($2, $3)
                         AND NOT EXISTS (
                             SELECT 1 FROM replica_epochs e JOIN replicas r ON r.id = e.replica_id
                             WHERE e.model_id = v.model_id AND e.epoch <= v.epoch
                                 AND r.lease_expires_at > $1)
                     ORDER BY v.model_id, v.epoch LIMIT $4",
                )
                .time(dead_since(now))
                .bind(model_id)
                .count(epoch)
                .bind(i64::from(limit))
                .fetch_all()
                .await?;
            let read = |row: &Row| {
                let blob = BlobName { digest: row.digest("weights")?, job_id: row.uuid("job_id")? };
                Ok(Superseded { model_id: row.uuid("model_id")?, epoch: row.count("epoch")?, blob })
            };
            rows.iter().map(read).collect()
        })
    }

    /// Records that the blobs of a superseded version are gone, and removes its encoding with the words
    /// of samples in it; saying so again changes nothing.
    pub async fn mark_weights_removed(
        &self,
        model_id: Uuid,
        epoch: u64,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        writing!(self, "mark_weights_removed", async |tx| {
            tx.lock_model(model_id).await?;
            let removed = tx
                .query(
                    "UPDATE versions
                     SET weights_removed_at = $1, encoding = NULL
                     WHERE model_id = $2 AND epoch = $3 AND weights_removed_at IS NULL
                         AND epoch < (SELECT current_epoch FROM models WHERE id = $2)
                     RETURNING job_id, weights",
                )
                .time(now)
                .bind(model_id)
                .count(epoch)
                .fetch_optional()
                .await?;
            if let Some(row) = removed {
                let details =
                    serde_json::json!({"epoch": epoch, "weights": row.digest("weights")?});
                let job_id = row.uuid("job_id")?;
                tx.record(now, AuditKind::WeightsRemoved, model_id, job_id, details);
                return Ok(());
            }
            let sql = "SELECT weights_removed_at FROM versions WHERE model_id = $1 AND epoch = $2";
            let row = tx.query(sql).bind(model_id).count(epoch).fetch_optional().await?;
            match row.map(|row| row.time_or_none("weights_removed_at")).transpose()?.flatten() {
                Some(_) => Ok(()),
                None => Err(tx.damaged("weights removed of a version that is current or unknown")),
            }
        })
    }

    /// Seals what a ledger kept in the clear before its schema had a place for sealed encodings, and
    /// removes it from its files.
    pub(super) async fn seal_encodings(&self) -> Result<(), StoreError> {
        let keyring = self.keyring();
        let sealed = writing!(self, "seal_encodings", async |tx| {
            let unsealed = "DELETE FROM unsealed_encodings RETURNING *";
            let unsealed = tx.query(unsealed).fetch_all().await?;
            let sealing = (keyring, share_master_key(tx, keyring).await?);
            for row in &unsealed {
                let encoding =
                    Encoding { encoder: row.json("encoder")?, classes: row.json("classes")? };
                write_encoding(tx, sealing, row, &encoding).await?;
            }
            if !unsealed.is_empty() && tx.dialect() == Dialect::Postgres {
                // Deleted rows and dropped columns stand in the files until those are written anew.
                tx.query("TRUNCATE unsealed_encodings").execute().await?;
                tx.query("CLUSTER versions USING versions_pkey").execute().await?;
            }
            Ok(unsealed.len())
        })?;
        if sealed == 0 { Ok(()) } else { self.purge_erased().await }
    }

    /// Whether a version that still has its weights has them there, or may yet come to have: the job
    /// that the blob is of has not ended, and may give the same bits at another attempt.
    pub async fn is_referenced(&self, blob: BlobName) -> Result<bool, StoreError> {
        reading!(self, "is_referenced", async |tx| {
            let row = tx
                .query(
                    "SELECT 1 FROM versions
                     WHERE job_id = $1 AND weights = $2 AND weights_removed_at IS NULL
                     UNION ALL
                     SELECT 1 FROM jobs WHERE id = $1 AND state IN ('queued', 'running')",
                )
                .bind(blob.job_id)
                .digest(&blob.digest)
                .fetch_optional()
                .await?;
            Ok(row.is_some())
        })
    }
}

/// Seals every encoding anew under the adopted master key, whose row this transaction shares.
pub(super) async fn reseal_encodings(tx: &mut Tx, keyring: &Keyring) -> Result<(), StoreError> {
    // Locked: what is removed meanwhile must not come back.
    const ENCODINGS: Sql = Sql {
        sqlite: "SELECT model_id, epoch, encoding FROM versions WHERE encoding IS NOT NULL",
        postgres: "SELECT model_id, epoch, encoding FROM versions WHERE encoding IS NOT NULL
             ORDER BY model_id, epoch FOR UPDATE",
    };
    let sealing = (keyring, share_master_key(tx, keyring).await?);
    for row in tx.query(ENCODINGS).fetch_all().await? {
        if let Some(encoding) = keyring.open_encoding(&row)? {
            write_encoding(tx, sealing, &row, &encoding).await?;
        }
    }
    Ok(())
}

/// Of the version that the row's `model_id` and `epoch` name.
async fn write_encoding(
    tx: &mut Tx,
    (keyring, master): (&Keyring, &MasterKey),
    row: &Row,
    encoding: &Encoding,
) -> Result<(), StoreError> {
    let (model_id, epoch) = (row.uuid("model_id")?, row.count("epoch")?);
    tx.query("UPDATE versions SET encoding = $1 WHERE model_id = $2 AND epoch = $3")
        .bind(keyring.seal_encoding(master, model_id, epoch, encoding))
        .bind(model_id)
        .count(epoch)
        .execute_one()
        .await
}

fn read_version(keyring: &Keyring, row: &Row) -> Result<Version, StoreError> {
    Ok(Version {
        model_id: row.uuid("model_id")?,
        epoch: row.count("epoch")?,
        cause: row.word("cause")?,
        parent_epoch: row.count_or_none("parent_epoch")?,
        job_id: row.uuid("job_id")?,
        weights: row.digest("weights")?,
        network: row.json("network")?,
        encoding: keyring.open_encoding(row)?,
        metrics: row.json("metrics")?,
        method: row.json("method")?,
        created_at: row.time("created_at")?,
        weights_removed_at: row.time_or_none("weights_removed_at")?,
    })
}
