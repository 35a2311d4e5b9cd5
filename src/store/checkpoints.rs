//! The audit log's tree: its size, the hashes that never change, the checkpoints signed over it
//! and the key that signs them.

use crate::{
    domain::{audit::AuditKind, identity::Digest, timestamp::Timestamp},
    store::{
        Store, StoreError,
        row::Row,
        transaction::{Dialect, Tx, reading, writing},
    },
};

/// A checkpoint that was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// Leaves.
    pub size: u64,
    pub root: Digest,
    /// A signed note with the log's own signature alone.
    pub note: String,
    /// Signature lines of witnesses, without newlines.
    pub cosignatures: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct NewCheckpoint {
    pub size: u64,
    pub root: Digest,
    pub note: String,
    /// The key that signed it.
    pub verifier_key: String,
    pub signed_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutCheckpoint {
    Stored,
    /// There is a later one by now, or one of this size.
    Overtaken,
    /// The log has another key, or none.
    ForeignKey(Option<String>),
}

impl Store {
    /// Number of leaves. All of them can be read: the head moves in the transaction that writes
    /// them, one after the other.
    pub async fn audit_size(&self) -> Result<u64, StoreError> {
        reading!(self, "audit_size", async |tx| {
            let sql = "SELECT next_idx FROM audit_head WHERE id = 0";
            tx.query(sql).fetch_one().await?.count("next_idx")
        })
    }

    /// Roots of the complete subtrees of `256^level` leaves, from the one at `first`, at most
    /// `limit`; at level 0 the leaves' hashes. Fewer where not so many are stored.
    pub async fn audit_hashes(
        &self,
        level: u8,
        first: u64,
        limit: u16,
    ) -> Result<Vec<Digest>, StoreError> {
        reading!(self, "audit_hashes", async |tx| {
            let statement = if level == 0 {
                tx.query(
                    "SELECT leaf_hash AS hash FROM audit_events
                     WHERE idx >= $1 AND idx < $2 ORDER BY idx",
                )
            } else {
                tx.query(
                    "SELECT hash FROM audit_nodes
                     WHERE idx >= $1 AND idx < $2 AND level = $3 ORDER BY idx",
                )
            };
            let statement = statement.count(first).count(first + u64::from(limit));
            let statement = if level == 0 { statement } else { statement.bind(i64::from(level)) };
            statement.fetch_all().await?.iter().map(|row| row.digest("hash")).collect()
        })
    }

    /// How many roots of subtrees of `256^level` leaves are stored; they are dense from 0.
    pub async fn audit_nodes(&self, level: u8) -> Result<u64, StoreError> {
        reading!(self, "audit_nodes", async |tx| {
            let sql = "SELECT MAX(idx) AS idx FROM audit_nodes WHERE level = $1";
            let row = tx.query(sql).bind(i64::from(level)).fetch_one().await?;
            Ok(row.count_or_none::<u64>("idx")?.map_or(0, |last| last + 1))
        })
    }

    /// Stores such roots, from the one at `first`; those that are there already stay.
    pub async fn put_audit_nodes(
        &self,
        level: u8,
        first: u64,
        hashes: &[Digest],
    ) -> Result<(), StoreError> {
        writing!(self, "put_audit_nodes", async |tx| {
            for (idx, hash) in (first..).zip(hashes) {
                tx.query(
                    "INSERT INTO audit_nodes (level, idx, hash) VALUES ($1, $2, $3)
                     ON CONFLICT (level, idx) DO NOTHING",
                )
                .bind(i64::from(level))
                .count(idx)
                .digest(hash)
                .execute()
                .await?;
            }
            Ok(())
        })
    }

    /// The checkpoint of the largest tree; with `cosigned`, of those that a witness cosigned.
    pub async fn latest_checkpoint(
        &self,
        cosigned: bool,
    ) -> Result<Option<StoredCheckpoint>, StoreError> {
        let sql = if cosigned {
            "SELECT size, root, note FROM audit_checkpoints
             WHERE size = (SELECT MAX(size) FROM audit_cosignatures)"
        } else {
            "SELECT size, root, note FROM audit_checkpoints
             WHERE size = (SELECT MAX(size) FROM audit_checkpoints)"
        };
        reading!(self, "latest_checkpoint", async |tx| {
            let Some(row) = tx.query(sql).fetch_optional().await? else { return Ok(None) };
            read_checkpoint(tx, &row).await.map(Some)
        })
    }

    /// Stores a checkpoint that follows the one of size `after`, the latest that its signer saw
    /// and proved it consistent with.
    pub async fn put_checkpoint(
        &self,
        new: &NewCheckpoint,
        after: Option<u64>,
    ) -> Result<PutCheckpoint, StoreError> {
        writing!(self, "put_checkpoint", async |tx| {
            // Signers take turns on the log's head; SQLite's transaction is alone already.
            let sql = match tx.dialect() {
                Dialect::Sqlite => "SELECT next_idx FROM audit_head WHERE id = 0",
                Dialect::Postgres => "SELECT next_idx FROM audit_head WHERE id = 0 FOR UPDATE",
            };
            let leaves: u64 = tx.query(sql).fetch_one().await?.count("next_idx")?;
            if new.size > leaves {
                return Err(tx.damaged("a checkpoint over more leaves than there are"));
            }
            let key = find_log_key(tx).await?;
            if key.as_ref() != Some(&new.verifier_key) {
                return Ok(PutCheckpoint::ForeignKey(key));
            }
            let row = tx.query("SELECT MAX(size) AS size FROM audit_checkpoints").fetch_one();
            let latest: Option<u64> = row.await?.count_or_none("size")?;
            if latest != after || latest == Some(new.size) {
                return Ok(PutCheckpoint::Overtaken);
            }
            tx.query(
                "INSERT INTO audit_checkpoints (size, root, note, signed_at)
                 VALUES ($1, $2, $3, $4)",
            )
            .count(new.size)
            .digest(&new.root)
            .bind(new.note.as_str())
            .time(new.signed_at)
            .execute_one()
            .await?;
            Ok(PutCheckpoint::Stored)
        })
    }

    /// Adds a witness's signature line to the checkpoint of this size; a later one by the same
    /// witness replaces the earlier.
    pub async fn put_cosignature(
        &self,
        size: u64,
        witness: &str,
        line: &str,
    ) -> Result<(), StoreError> {
        writing!(self, "put_cosignature", async |tx| {
            tx.query(
                "INSERT INTO audit_cosignatures (size, witness, line) VALUES ($1, $2, $3)
                 ON CONFLICT (size, witness) DO UPDATE SET line = excluded.line",
            )
            .count(size)
            .bind(witness)
            .bind(line)
            .execute_one()
            .await
        })
    }

    /// The key that signs this log's checkpoints, as a verifier key.
    pub async fn log_key(&self) -> Result<Option<String>, StoreError> {
        reading!(self, "log_key", async |tx| find_log_key(tx).await)
    }

    /// From now on `verifier_key` signs, with its audit leaf. False when the key before is another
    /// than `previous` by now; saying so again changes nothing.
    pub async fn adopt_log_key(
        &self,
        verifier_key: &str,
        previous: Option<&str>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        writing!(self, "adopt_log_key", async |tx| {
            if tx.dialect() == Dialect::Postgres {
                let sql = "SELECT next_idx FROM audit_head WHERE id = 0 FOR UPDATE";
                tx.query(sql).fetch_one().await?;
            }
            let current = find_log_key(tx).await?;
            if current.as_deref() == Some(verifier_key) {
                return Ok(true);
            }
            if current.as_deref() != previous {
                return Ok(false);
            }
            tx.query(
                "INSERT INTO audit_log_key (id, verifier_key) VALUES (0, $1)
                 ON CONFLICT (id) DO UPDATE SET verifier_key = excluded.verifier_key",
            )
            .bind(verifier_key)
            .execute_one()
            .await?;
            let details = serde_json::json!({"previous": current, "verifier_key": verifier_key});
            tx.record(now, AuditKind::LogKeyAdopted, None, None, details);
            Ok(true)
        })
    }
}

async fn find_log_key(tx: &mut Tx) -> Result<Option<String>, StoreError> {
    let row = tx.query("SELECT verifier_key FROM audit_log_key WHERE id = 0").fetch_optional();
    row.await?.map(|row| row.get("verifier_key")).transpose()
}

async fn read_checkpoint(tx: &mut Tx, row: &Row) -> Result<StoredCheckpoint, StoreError> {
    let size = row.count("size")?;
    let sql = "SELECT line FROM audit_cosignatures WHERE size = $1 ORDER BY witness";
    let lines = tx.query(sql).count(size).fetch_all().await?;
    Ok(StoredCheckpoint {
        size,
        root: row.digest("root")?,
        note: row.get("note")?,
        cosignatures: lines.iter().map(|row| row.get("line")).collect::<Result<_, _>>()?,
    })
}
