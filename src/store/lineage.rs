//! Lineage: which versions a sample contributed to.

use std::collections::HashMap;

use uuid::Uuid;

use crate::{
    domain::{
        deletion::{Target, TargetKind},
        identity::Pseudonym,
        sample::Split,
        timestamp::Timestamp,
    },
    store::{Store, StoreError, row::Row, sql::in_keys, transaction::reading},
};

/// What became of one target's samples; also of deleted ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Lineage {
    pub target: Target,
    /// In order of ingestion.
    pub samples: Vec<LineageSample>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LineageSample {
    pub key: Pseudonym,
    pub split: Split,
    pub ingested_at: Timestamp,
    pub deleted_at: Option<Timestamp>,
    /// First epoch that it contributed to; absent when it never did.
    pub from_epoch: Option<u64>,
    /// First epoch that excludes it; absent while it is still in.
    pub until_epoch: Option<u64>,
}

// Sorted by an expression, or else SQLite walks all samples of the model in that order.
macro_rules! lineage {
    ($key:literal) => {
        in_keys!(
            concat!(
                "SELECT s.",
                $key,
                " AS target_key, s.sample_key, s.split, s.deleted_at, n.ingested_at,
                     (SELECT MIN(c.from_epoch) FROM contributions c
                      WHERE c.model_id = s.model_id AND c.sample_id = s.id) AS from_epoch,
                     (SELECT c.until_epoch FROM contributions c
                      WHERE c.model_id = s.model_id AND c.sample_id = s.id
                      ORDER BY c.from_epoch DESC LIMIT 1) AS until_epoch
                 FROM samples s JOIN ingestions n ON n.id = s.ingestion_id
                 WHERE s.model_id = $1 AND s.",
                $key
            ),
            "2",
            "ORDER BY s.ordinal + 0"
        )
    };
}

impl Store {
    pub async fn lineage(
        &self,
        model_id: Uuid,
        targets: &[Target],
    ) -> Result<Vec<Lineage>, StoreError> {
        let kinds = [
            (TargetKind::Sample, lineage!("sample_key")),
            (TargetKind::Subject, lineage!("subject_key")),
        ];
        reading!(self, "lineage", async |tx| {
            let mut found: HashMap<Target, Vec<LineageSample>> = HashMap::new();
            for (kind, sql) in kinds {
                let keys: Vec<_> =
                    targets.iter().filter(|it| it.kind == kind).map(|it| it.key).collect();
                if keys.is_empty() {
                    continue;
                }
                for row in tx.query(sql).bind(model_id).bind_keys(&keys).fetch_all().await? {
                    let target = Target { kind, key: row.key("target_key")? };
                    found.entry(target).or_default().push(read_sample(&row)?);
                }
            }
            let lineage = |target: &Target| Lineage {
                target: *target,
                samples: found.get(target).cloned().unwrap_or_default(),
            };
            Ok(targets.iter().map(lineage).collect())
        })
    }

    /// Pseudonyms of the samples that contributed to a version, by sample id ascending.
    pub async fn contributors(
        &self,
        model_id: Uuid,
        epoch: u64,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<(Uuid, Pseudonym)>, StoreError> {
        reading!(self, "contributors", async |tx| {
            let rows = tx
                .query(
                    "SELECT c.sample_id, s.sample_key
                     FROM contributions c JOIN samples s ON s.id = c.sample_id
                     WHERE c.model_id = $1 AND c.sample_id > $2 AND c.from_epoch <= $3
                         AND COALESCE(c.until_epoch, $4) > $3
                     ORDER BY c.sample_id LIMIT $5",
                )
                .bind(model_id)
                .bind(after.unwrap_or(Uuid::nil()))
                .count(epoch)
                .bind(i64::MAX)
                .bind(i64::from(limit))
                .fetch_all()
                .await?;
            rows.iter().map(|row| Ok((row.uuid("sample_id")?, row.key("sample_key")?))).collect()
        })
    }
}

fn read_sample(row: &Row) -> Result<LineageSample, StoreError> {
    Ok(LineageSample {
        key: row.key("sample_key")?,
        split: row.word("split")?,
        ingested_at: row.time("ingested_at")?,
        deleted_at: row.time_or_none("deleted_at")?,
        from_epoch: row.count_or_none("from_epoch")?,
        until_epoch: row.count_or_none("until_epoch")?,
    })
}
