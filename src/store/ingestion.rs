//! Ingestion: samples come in all together, or none of them.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::{
    domain::{
        audit::AuditKind,
        identity::{Digest, Pseudonym},
        sample::{NewSample, Split},
        timestamp::Timestamp,
    },
    store::{
        Store, StoreError,
        aliases::insert_aliases,
        master_key::share_master_key,
        postgres,
        row::Row,
        sealing::{INSERT_CONTENTS, INSERT_DATA_KEYS, SealedSample, insert},
        sql::{Sql, in_keys},
        sqlite,
        transaction::{Dialect, Tx, to_its_end},
    },
};

/// A running ingestion: one transaction; dropped without `commit`, it leaves nothing.
pub struct Ingestion {
    sealer: Sealer,
    /// Absent once it has ended: by a conflict, an error, or a caller that went away half-way.
    writing: Option<Writing>,
    /// The conflict that ended it: nothing more goes in, and nothing is kept.
    ended_by: Option<(u64, Pseudonym, Conflict)>,
}

/// What has gone in so far.
struct Writing {
    tx: Tx,
    receipt: Receipt,
    model_id: Uuid,
    /// How many leaves the audit log had when it began.
    first_leaf: i64,
    first_ordinal: i64,
    next_ordinal: i64,
}

/// Seals the samples of one ingestion, under the master key that the ledger names.
#[derive(Clone)]
pub struct Sealer {
    store: Store,
    /// A rotation waits until the ingestion has ended.
    master: Digest,
    model_id: Uuid,
}

/// Why a sample cannot come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The model has a live sample under this id.
    Exists,
    /// The sample was deleted; its tombstone has not been lifted.
    SampleDeleted,
    /// The subject asked to be forgotten, under this name or one with an alias in common; the
    /// tombstone has not been lifted.
    SubjectDeleted,
}

#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// `position` counts the ingestion's samples from 0, so that the caller can name the line.
    #[error("sample {position} conflicts with the ledger ({conflict:?})")]
    Conflict { position: u64, key: Pseudonym, conflict: Conflict },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What an ingestion brought in, by split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub id: Uuid,
    pub train: u64,
    pub holdout: u64,
}

macro_rules! buried {
    ($in_keys:literal) => {
        concat!(
            "SELECT subject_key FROM tombstones WHERE model_id = $1 AND subject_key ",
            $in_keys,
            " UNION ALL
             SELECT own.subject_key
             FROM aliases own CROSS JOIN aliases other CROSS JOIN tombstones t
             WHERE other.model_id = $1 AND other.alias_key = own.alias_key
                 AND t.model_id = $1 AND t.subject_key = other.subject_key
                 AND own.model_id = $1 AND own.subject_key ",
            $in_keys
        )
    };
}

/// Of the subjects bound as `$2`, those who have tombstones, or an alias in common with one who has.
const BURIED: Sql = Sql {
    sqlite: buried!("IN (SELECT unhex(value) FROM json_each($2))"),
    postgres: buried!("= ANY($2)"),
};

/// Bounds the memory that one statement takes.
const SAMPLES_PER_STATEMENT: usize = 1_000;

/// A model that has grown by one part in so many is another one to a planner of queries.
const GROWTH: i64 = 10;

impl Store {
    /// Holds the ledger's write lock on `SQLite` until committed or dropped: feed it from memory
    /// or a local file, never from a slow client. On `PostgreSQL` only other ingestions of the
    /// same model wait.
    pub async fn begin_ingestion(&self, id: Uuid, model_id: Uuid) -> Result<Ingestion, StoreError> {
        let mut tx = self.begin("ingest").await?;
        let master = share_master_key(&mut tx, self.keyring()).await?.fingerprint();
        let lock = Sql {
            sqlite: "SELECT o.next_ordinal, h.next_idx FROM ordinals o CROSS JOIN audit_head h
                 WHERE o.model_id = $1",
            postgres: "SELECT o.next_ordinal, h.next_idx FROM ordinals o CROSS JOIN audit_head h
                 WHERE o.model_id = $1 FOR UPDATE OF o",
        };
        let row = tx.query(lock).bind(model_id).fetch_one().await?;
        let first_ordinal = row.get("next_ordinal")?;
        let first_leaf = row.get("next_idx")?;
        tx.query("INSERT INTO ingestions (id, model_id) VALUES ($1, $2)")
            .bind(id)
            .bind(model_id)
            .execute_one()
            .await?;
        let receipt = Receipt { id, train: 0, holdout: 0 };
        let next_ordinal = first_ordinal;
        Ok(Ingestion {
            sealer: Sealer { store: self.clone(), master, model_id },
            writing: Some(Writing {
                tx,
                receipt,
                model_id,
                first_leaf,
                first_ordinal,
                next_ordinal,
            }),
            ended_by: None,
        })
    }
}

impl Ingestion {
    /// Seals samples for [`Ingestion::add_sealed`]: also elsewhere, while others are being written.
    pub fn sealer(&self) -> Sealer {
        self.sealer.clone()
    }

    /// After a conflict the ingestion is over, and nothing of it will be kept.
    ///
    /// # Panics
    /// When an earlier call has failed or was left half-way: begin another ingestion.
    pub async fn add(&mut self, samples: &[NewSample]) -> Result<(), IngestError> {
        for samples in samples.chunks(SAMPLES_PER_STATEMENT) {
            let sealed = samples.iter().map(|sample| self.sealer.seal(sample)).collect();
            self.add_sealed(sealed).await?;
        }
        Ok(())
    }

    /// Like [`Ingestion::add`], for samples that were sealed by this ingestion's sealer.
    pub async fn add_sealed(&mut self, samples: Vec<SealedSample>) -> Result<(), IngestError> {
        let mut writing = self.take()?;
        // A caller may go away at any await, and a connection that is left in the middle of a COPY
        // would go back to the pool as if it were at rest.
        let (writing, added) = to_its_end(async move {
            for samples in samples.chunks(SAMPLES_PER_STATEMENT) {
                if let Err(error) = writing.add(samples).await {
                    writing.tx.undo().await;
                    return (None, Err(error));
                }
            }
            (Some(writing), Ok(()))
        })
        .await;
        self.writing = writing;
        if let Err(IngestError::Conflict { position, key, conflict }) = added {
            self.ended_by = Some((position, key, conflict));
        }
        added
    }

    /// Durable when it returns.
    ///
    /// # Panics
    /// Like [`Ingestion::add`].
    pub async fn commit(
        mut self,
        now: Timestamp,
        by: Option<Uuid>,
    ) -> Result<Receipt, IngestError> {
        let mut writing = self.take()?;
        if writing.tx.dialect() == Dialect::Postgres {
            // A deletion may have been accepted since the samples were looked at; from here on none
            // is, until this transaction has ended.
            writing.tx.lock_model(writing.model_id).await?;
            if writing.has_news().await? {
                writing.check_tombstones().await?;
            }
        }
        let Writing { mut tx, receipt, model_id, first_ordinal, next_ordinal, .. } = writing;
        tx.query("UPDATE ordinals SET next_ordinal = $1 WHERE model_id = $2")
            .bind(next_ordinal)
            .bind(model_id)
            .execute_one()
            .await?;
        tx.query("UPDATE ingestions SET ingested_at = $1 WHERE id = $2")
            .time(now)
            .bind(receipt.id)
            .execute_one()
            .await?;
        let details =
            serde_json::json!({"by": by, "train": receipt.train, "holdout": receipt.holdout});
        tx.record(now, AuditKind::SamplesIngested, model_id, receipt.id, details);
        self.sealer.store.commit(tx).await?;
        let grown = next_ordinal - first_ordinal;
        if grown * GROWTH >= next_ordinal {
            const ANALYZE: &str = "ANALYZE (SKIP_LOCKED) samples, data_keys, sample_contents";
            self.sealer.store.refresh_statistics(ANALYZE).await;
        }
        Ok(receipt)
    }

    fn take(&mut self) -> Result<Writing, IngestError> {
        match self.ended_by {
            Some((position, key, conflict)) => {
                Err(IngestError::Conflict { position, key, conflict })
            }
            None => Ok(self.writing.take().expect("the ingestion has failed or was left half-way")),
        }
    }
}

impl Writing {
    async fn add(&mut self, samples: &[SealedSample]) -> Result<(), IngestError> {
        insert_aliases(&mut self.tx, self.model_id, samples).await?;
        let known = self.known_samples(samples).await?;
        let buried = self.buried_subjects(samples).await?;
        let mut keys = HashSet::with_capacity(samples.len());
        for (ordinal, sample) in (self.next_ordinal..).zip(samples) {
            let conflict = match known.get(&sample.key) {
                Some(conflict) => *conflict,
                None if buried.contains(&sample.subject) => Conflict::SubjectDeleted,
                None if !keys.insert(sample.key) => Conflict::Exists,
                None => continue,
            };
            return Err(self.conflict(ordinal, sample.key, conflict));
        }
        let (id, model_id, first) = (self.receipt.id, self.model_id, self.next_ordinal);
        let tx = &mut self.tx;
        let written = match tx.dialect() {
            Dialect::Sqlite => sqlite::insert_samples(tx, id, model_id, first, samples).await?,
            Dialect::Postgres => postgres::insert_samples(tx, id, model_id, first, samples).await?,
        };
        tx.check_written(written, samples.len())?;
        let keys: Vec<_> = samples.iter().map(|it| (it.id, it.wrapped_key.as_slice())).collect();
        insert(tx, INSERT_DATA_KEYS, &keys).await?;
        let contents: Vec<_> = samples.iter().map(|it| (it.id, it.content.as_slice())).collect();
        insert(tx, INSERT_CONTENTS, &contents).await?;
        for sample in samples {
            match sample.split {
                Split::Train => self.receipt.train += 1,
                Split::Holdout => self.receipt.holdout += 1,
            }
            self.next_ordinal += 1;
        }
        Ok(())
    }

    /// The keys that the ledger knows already, but for those that were let in again.
    async fn known_samples(
        &mut self,
        samples: &[SealedSample],
    ) -> Result<HashMap<Pseudonym, Conflict>, StoreError> {
        let keys: Vec<_> = samples.iter().map(|it| it.key).collect();
        let sql = in_keys!(
            "SELECT sample_key, deleted_at FROM samples
             WHERE (deleted_at IS NULL OR readmitted_at IS NULL) AND model_id = $1 AND sample_key",
            "2",
            ""
        );
        let rows = self.tx.query(sql).bind(self.model_id).bind_keys(&keys).fetch_all().await?;
        let conflict = |row: &Row| match row.time_or_none("deleted_at")? {
            Some(_) => Ok(Conflict::SampleDeleted),
            None => Ok(Conflict::Exists),
        };
        rows.iter().map(|row| Ok((row.key("sample_key")?, conflict(row)?))).collect()
    }

    /// The subjects who have tombstones, or an alias in common with one who has.
    async fn buried_subjects(
        &mut self,
        samples: &[SealedSample],
    ) -> Result<HashSet<Pseudonym>, StoreError> {
        let subjects: HashSet<_> = samples.iter().map(|it| it.subject).collect();
        let subjects: Vec<_> = subjects.into_iter().collect();
        let rows =
            self.tx.query(BURIED).bind(self.model_id).bind_keys(&subjects).fetch_all().await?;
        rows.iter().map(|row| row.key("subject_key")).collect()
    }

    /// Whether the audit log says of the model what it did not when the ingestion began.
    async fn has_news(&mut self) -> Result<bool, StoreError> {
        let sql = "SELECT idx FROM audit_events WHERE idx >= $1 AND model_id = $2 LIMIT 1";
        let leaf = self.tx.query(sql).bind(self.first_leaf).bind(self.model_id);
        Ok(leaf.fetch_optional().await?.is_some())
    }

    /// Looks up the tombstones of all subjects whose samples went in, and of whoever has an alias of
    /// theirs. A sample's own cannot be younger than the sample.
    async fn check_tombstones(&mut self) -> Result<(), IngestError> {
        let buried = self
            .tx
            .query(
                "SELECT s.ordinal, s.sample_key
                 FROM samples s JOIN tombstones t
                     ON t.model_id = $1 AND t.subject_key = s.subject_key
                 WHERE s.model_id = $1 AND s.ordinal >= $2
                 UNION ALL
                 SELECT s.ordinal, s.sample_key
                 FROM samples s CROSS JOIN aliases own CROSS JOIN aliases other
                     JOIN tombstones t ON t.model_id = $1 AND t.subject_key = other.subject_key
                 WHERE s.model_id = $1 AND s.ordinal >= $2
                     AND own.model_id = $1 AND own.subject_key = s.subject_key
                     AND other.model_id = $1 AND other.alias_key = own.alias_key
                 ORDER BY 1 LIMIT 1",
            )
            .bind(self.model_id)
            .bind(self.first_ordinal)
            .fetch_optional()
            .await?;
        let Some(row) = buried else { return Ok(()) };
        let (ordinal, key) = (row.get("ordinal")?, row.key("sample_key")?);
        Err(self.conflict(ordinal, key, Conflict::SubjectDeleted))
    }

    fn conflict(&self, ordinal: i64, key: Pseudonym, conflict: Conflict) -> IngestError {
        let position = u64::try_from(ordinal - self.first_ordinal).unwrap_or(0);
        IngestError::Conflict { position, key, conflict }
    }
}

impl Sealer {
    pub fn seal(&self, sample: &NewSample) -> SealedSample {
        let keyring = self.store.keyring();
        let master = keyring.named(self.master).expect("the ingestion has begun with it");
        keyring.seal_sample(master, self.model_id, sample)
    }
}
