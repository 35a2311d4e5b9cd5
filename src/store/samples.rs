//! Samples with their content, for training and unlearning.

use std::collections::{BTreeMap, HashSet};

use uuid::Uuid;

use crate::{
    domain::{
        deletion::{Target, TargetKind},
        sample::{SampleCounts, SamplePredictions, Split, StoredSample},
    },
    store::{
        Store, StoreError,
        row::Row,
        sealing::{Keyring, Opener},
        sql::{in_integers, in_keys},
        transaction::reading,
    },
};

// A CROSS JOIN comes last on SQLite, as it stands: each sample's predictions are looked up by set and
// sample, instead of walking the set.

macro_rules! target_samples {
    ($key:literal) => {
        in_keys!(
            concat!(
                "SELECT s.id, s.model_id, s.ordinal, s.split, k.wrapped, c.sealed AS content,
                     p.sealed AS predictions
                 FROM samples s
                     JOIN contributions i ON i.sample_id = s.id AND i.until_epoch IS NULL
                     JOIN data_keys k ON k.sample_id = s.id
                     JOIN sample_contents c ON c.sample_id = s.id
                     JOIN models m ON m.id = s.model_id
                     CROSS JOIN sample_predictions p
                 WHERE p.set_id = m.prediction_set_id AND p.sample_id = s.id
                     AND s.model_id = $1 AND s.deleted_at IS NULL AND s.",
                $key
            ),
            "2",
            ""
        )
    };
}

/// Samples found by their ordinals.
#[derive(Debug, Default)]
pub struct Found {
    /// In order of ingestion.
    pub samples: Vec<(StoredSample, SamplePredictions)>,
    /// Ordinals of those that an open deletion request names.
    pub named: Vec<i64>,
}

impl Store {
    /// Live samples with their content; not those that an open deletion request names.
    pub async fn sample_counts(&self, model_id: Uuid) -> Result<SampleCounts, StoreError> {
        // One range of an index, less what open requests claim, which no index knows.
        const COUNT: &str = "SELECT (
                 SELECT COUNT(*) FROM samples
                 WHERE model_id = $1 AND split = $2 AND deleted_at IS NULL)
             - (SELECT COUNT(*)
                FROM deletion_requests r
                    JOIN deletion_samples d ON d.deletion_id = r.id
                    JOIN samples s ON s.id = d.sample_id AND s.deletion_id = r.id
                WHERE r.model_id = $1 AND r.state IN ('suspended', 'queued', 'unlearning')
                    AND s.split = $2 AND s.deleted_at IS NULL) AS samples";
        reading!(self, "sample_counts", async |tx| {
            let mut count = async |split: Split| {
                let row = tx.query(COUNT).bind(model_id).bind(split.as_str()).fetch_one().await?;
                row.count("samples")
            };
            let (train, holdout) = (count(Split::Train).await?, count(Split::Holdout).await?);
            Ok(SampleCounts { train, holdout })
        })
    }

    /// Live samples in order of ingestion, after ordinal `after` (`-1` for the first page). Leaves
    /// out what any queued or running deletion request names.
    pub async fn samples(
        &self,
        model_id: Uuid,
        split: Split,
        after: i64,
        limit: u32,
    ) -> Result<Vec<StoredSample>, StoreError> {
        let keyring = self.keyring();
        reading!(self, "samples", async |tx| {
            let rows = tx
                .query(
                    "SELECT s.id, s.model_id, s.ordinal, s.split, k.wrapped, c.sealed AS content
                     FROM samples s
                         JOIN data_keys k ON k.sample_id = s.id
                         JOIN sample_contents c ON c.sample_id = s.id
                     WHERE s.model_id = $1 AND s.split = $2 AND s.ordinal > $3
                         AND s.deleted_at IS NULL AND s.deletion_id IS NULL
                     ORDER BY s.ordinal LIMIT $4",
                )
                .bind(model_id)
                .bind(split.as_str())
                .bind(after)
                .bind(i64::from(limit))
                .fetch_all()
                .await?;
            rows.iter().map(|row| read_sample(row, &Opener::new(keyring, row)?)).collect()
        })
    }

    /// The training samples that a version was made of and whose content is still there, in order of
    /// ingestion, after ordinal `after` (`-1` for the first page).
    pub async fn version_samples(
        &self,
        model_id: Uuid,
        epoch: u64,
        after: i64,
        limit: u32,
    ) -> Result<Vec<StoredSample>, StoreError> {
        let keyring = self.keyring();
        reading!(self, "version_samples", async |tx| {
            let rows = tx
                .query(
                    "SELECT s.id, s.model_id, s.ordinal, s.split, k.wrapped, c.sealed AS content
                     FROM samples s
                         JOIN contributions i ON i.model_id = s.model_id AND i.sample_id = s.id
                         JOIN data_keys k ON k.sample_id = s.id
                         JOIN sample_contents c ON c.sample_id = s.id
                     WHERE s.model_id = $1 AND s.ordinal > $2
                         AND i.from_epoch <= $3 AND COALESCE(i.until_epoch, $4) > $3
                     ORDER BY s.ordinal LIMIT $5",
                )
                .bind(model_id)
                .bind(after)
                .count(epoch)
                .bind(i64::MAX)
                .bind(i64::from(limit))
                .fetch_all()
                .await?;
            rows.iter().map(|row| read_sample(row, &Opener::new(keyring, row)?)).collect()
        })
    }

    /// Largest ordinal in use; `None` without samples. One index probe.
    pub async fn last_ordinal(&self, model_id: Uuid) -> Result<Option<i64>, StoreError> {
        reading!(self, "last_ordinal", async |tx| {
            let sql =
                "SELECT ordinal FROM samples WHERE model_id = $1 ORDER BY ordinal DESC LIMIT 1";
            let row = tx.query(sql).bind(model_id).fetch_optional().await?;
            row.map(|row| row.get("ordinal")).transpose()
        })
    }

    /// Ordinals below `below` of a split's live samples, the first `limit` of them in ascending order.
    /// One range of an index.
    pub async fn ordinals(
        &self,
        model_id: Uuid,
        split: Split,
        below: u64,
        limit: u64,
    ) -> Result<Vec<i64>, StoreError> {
        reading!(self, "ordinals", async |tx| {
            let rows = tx
                .query(
                    "SELECT ordinal FROM samples
                     WHERE model_id = $1 AND split = $2 AND ordinal < $3 AND deleted_at IS NULL
                     ORDER BY ordinal LIMIT $4",
                )
                .bind(model_id)
                .bind(split.as_str())
                .count(below)
                .count(limit)
                .fetch_all()
                .await?;
            rows.iter().map(|row| row.get("ordinal")).collect()
        })
    }

    /// Those of the given ordinals that are live, of that split and have predictions (i.e. are in
    /// the current weights or were held out from them), whether a deletion request names them or
    /// not.
    pub async fn samples_at(
        &self,
        model_id: Uuid,
        split: Split,
        ordinals: &[i64],
    ) -> Result<Found, StoreError> {
        let sql = in_integers!(
            "SELECT s.id, s.model_id, s.ordinal, s.split, k.wrapped, c.sealed AS content,
                 p.sealed AS predictions, s.deletion_id IS NOT NULL AS named
             FROM samples s
                 JOIN data_keys k ON k.sample_id = s.id
                 JOIN sample_contents c ON c.sample_id = s.id
                 JOIN models m ON m.id = s.model_id
                 CROSS JOIN sample_predictions p
             WHERE p.set_id = m.prediction_set_id AND p.sample_id = s.id
                 AND s.model_id = $1 AND s.split = $2 AND s.deleted_at IS NULL
                 AND s.ordinal",
            "3",
            "ORDER BY s.ordinal"
        );
        let keyring = self.keyring();
        reading!(self, "samples_at", async |tx| {
            let statement = tx.query(sql).bind(model_id).bind(split.as_str());
            let mut found = Found::default();
            for row in statement.bind_integers(ordinals).fetch_all().await? {
                let drawn = read_with_predictions(&row, keyring)?;
                if row.get("named")? {
                    found.named.push(drawn.0.ordinal);
                }
                found.samples.push(drawn);
            }
            Ok(found)
        })
    }

    /// Ordinals of samples that a deletion request names, open or completed: of those that were named
    /// before, the ones that still are, and all that requests name of which the audit log tells from
    /// leaf `since` on. So whoever reads samples after the log had that size hears of every claim, and
    /// needs not look at each of them again.
    pub async fn named_samples(
        &self,
        model_id: Uuid,
        before: &[i64],
        since: u64,
    ) -> Result<HashSet<i64>, StoreError> {
        let still = in_integers!(
            "SELECT ordinal FROM samples
             WHERE model_id = $1 AND deletion_id IS NOT NULL AND ordinal",
            "2",
            ""
        );
        let later = "SELECT s.ordinal
             FROM audit_events e
                 JOIN deletion_samples d ON d.deletion_id = e.about
                 JOIN samples s ON s.id = d.sample_id
             WHERE e.model_id = $1 AND e.idx >= $2 AND s.deletion_id IS NOT NULL";
        reading!(self, "named_samples", async |tx| {
            let mut rows = tx.query(still).bind(model_id).bind_integers(before).fetch_all().await?;
            rows.extend(tx.query(later).bind(model_id).count(since).fetch_all().await?);
            rows.iter().map(|row| row.get("ordinal")).collect()
        })
    }

    /// The samples that a batch must forget (those in the current version, with predictions), in
    /// order of ingestion. Samples that are in no version (hold-out, or ingested since) are not
    /// listed; publication erases them too.
    pub async fn batch_samples(
        &self,
        job_id: Uuid,
    ) -> Result<Vec<(StoredSample, SamplePredictions)>, StoreError> {
        let keyring = self.keyring();
        reading!(self, "batch_samples", async |tx| {
            let rows = tx
                .query(
                    "SELECT s.id, s.model_id, s.ordinal, s.split, k.wrapped, c.sealed AS content,
                         p.sealed AS predictions
                     FROM deletion_requests r
                         JOIN deletion_samples d ON d.deletion_id = r.id
                         JOIN contributions i ON i.sample_id = d.sample_id
                             AND i.until_epoch IS NULL
                         JOIN samples s ON s.id = d.sample_id AND s.deleted_at IS NULL
                         JOIN data_keys k ON k.sample_id = d.sample_id
                         JOIN sample_contents c ON c.sample_id = d.sample_id
                         JOIN models m ON m.id = r.model_id
                         CROSS JOIN sample_predictions p
                     WHERE p.set_id = m.prediction_set_id AND p.sample_id = d.sample_id
                         AND r.batch_id = $1
                     ORDER BY s.ordinal",
                )
                .bind(job_id)
                .fetch_all()
                .await?;
            rows.iter().map(|row| read_with_predictions(row, keyring)).collect()
        })
    }

    /// Those samples of the current version, with predictions, that the targets name, in order of
    /// ingestion; whether a request names them too or not.
    pub async fn target_samples(
        &self,
        model_id: Uuid,
        targets: &[Target],
    ) -> Result<Vec<(StoredSample, SamplePredictions)>, StoreError> {
        let kinds = [
            (TargetKind::Sample, target_samples!("sample_key")),
            (TargetKind::Subject, target_samples!("subject_key")),
        ];
        let keyring = self.keyring();
        reading!(self, "target_samples", async |tx| {
            // A sample may be named by itself and by its subject.
            let mut found = BTreeMap::new();
            for (kind, sql) in kinds {
                let keys: Vec<_> =
                    targets.iter().filter(|it| it.kind == kind).map(|it| it.key).collect();
                for row in tx.query(sql).bind(model_id).bind_keys(&keys).fetch_all().await? {
                    let (sample, predictions) = read_with_predictions(&row, keyring)?;
                    found.insert(sample.ordinal, (sample, predictions));
                }
            }
            Ok(found.into_values().collect())
        })
    }
}

fn read_sample(row: &Row, opener: &Opener) -> Result<StoredSample, StoreError> {
    let (features, label) = opener.content()?;
    Ok(StoredSample {
        id: row.uuid("id")?,
        ordinal: row.get("ordinal")?,
        split: row.word("split")?,
        features,
        label,
    })
}

fn read_with_predictions(
    row: &Row,
    keyring: &Keyring,
) -> Result<(StoredSample, SamplePredictions), StoreError> {
    let opener = Opener::new(keyring, row)?;
    Ok((read_sample(row, &opener)?, opener.predictions()?))
}
