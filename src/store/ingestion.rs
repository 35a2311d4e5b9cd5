//! Ingestion: samples come in all together, or none of them.

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
        sealing::{INSERT_CONTENTS, INSERT_DATA_KEYS, write},
        sqlite,
        transaction::{Dialect, Tx},
    },
};

/// A running ingestion: one transaction; dropped without `commit`, it leaves nothing.
pub struct Ingestion {
    store: Store,
    tx: Tx,
    receipt: Receipt,
    model_id: Uuid,
    /// The master key that the ledger names; a rotation waits until this ingestion has ended.
    master: Digest,
    first_ordinal: i64,
    next_ordinal: i64,
    /// The conflict that ended it: nothing more goes in, and nothing is kept.
    ended_by: Option<(u64, Pseudonym, Conflict)>,
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

/// Bounds the memory that one statement takes.
const SAMPLES_PER_STATEMENT: usize = 1_000;

impl Store {
    /// Holds the ledger's write lock on `SQLite` until committed or dropped: feed it from memory
    /// or a local file, never from a slow client. On `PostgreSQL` only other ingestions of the
    /// same model wait.
    pub async fn begin_ingestion(&self, id: Uuid, model_id: Uuid) -> Result<Ingestion, StoreError> {
        let mut tx = self.begin("ingest").await?;
        let master = share_master_key(&mut tx, self.keyring()).await?.fingerprint();
        let lock = match tx.dialect() {
            Dialect::Sqlite => "SELECT next_ordinal FROM ordinals WHERE model_id = $1",
            Dialect::Postgres => "SELECT next_ordinal FROM ordinals WHERE model_id = $1 FOR UPDATE",
        };
        let row = tx.query(lock).bind(model_id).fetch_one().await?;
        let first_ordinal = row.get("next_ordinal")?;
        tx.query("INSERT INTO ingestions (id, model_id) VALUES ($1, $2)")
            .bind(id)
            .bind(model_id)
            .execute_one()
            .await?;
        Ok(Ingestion {
            store: self.clone(),
            tx,
            receipt: Receipt { id, train: 0, holdout: 0 },
            model_id,
            master,
            first_ordinal,
            next_ordinal: first_ordinal,
            ended_by: None,
        })
    }
}

impl Ingestion {
    /// After a conflict the ingestion is over, and nothing of it will be kept.
    pub async fn add(&mut self, samples: &[NewSample]) -> Result<(), IngestError> {
        for samples in samples.chunks(SAMPLES_PER_STATEMENT) {
            self.check_open()?;
            self.add_together(samples).await?;
        }
        Ok(())
    }

    /// Durable when it returns.
    pub async fn commit(mut self, now: Timestamp) -> Result<Receipt, IngestError> {
        self.check_open()?;
        // A deletion may have been accepted since the samples were looked at; from here on none
        // is, until this transaction has ended.
        self.tx.lock_model(self.model_id).await?;
        self.check_tombstones(self.first_ordinal).await?;
        let Self { store, mut tx, receipt, model_id, next_ordinal, .. } = self;
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
        let details = serde_json::json!({"train": receipt.train, "holdout": receipt.holdout});
        tx.record(now, AuditKind::SamplesIngested, model_id, receipt.id, details);
        store.commit(tx).await?;
        Ok(receipt)
    }

    async fn add_together(&mut self, samples: &[NewSample]) -> Result<(), IngestError> {
        let (id, model_id, first) = (self.receipt.id, self.model_id, self.next_ordinal);
        let tx = &mut self.tx;
        let inserted = match tx.dialect() {
            Dialect::Sqlite => sqlite::insert_samples(tx, id, model_id, first, samples).await?,
            Dialect::Postgres => postgres::insert_samples(tx, id, model_id, first, samples).await?,
        };
        let taken = (first..)
            .zip(samples)
            .find(|(ordinal, _)| inserted.binary_search(ordinal).is_err())
            .map(|(ordinal, sample)| (ordinal, sample.key));
        insert_aliases(tx, model_id, samples).await?;
        self.check_tombstones(first).await?;
        if let Some((ordinal, key)) = taken {
            return Err(self.end(ordinal, key, Conflict::Exists));
        }
        self.insert_sealed(samples).await?;
        for sample in samples {
            match sample.split {
                Split::Train => self.receipt.train += 1,
                Split::Holdout => self.receipt.holdout += 1,
            }
            self.next_ordinal += 1;
        }
        Ok(())
    }

    async fn insert_sealed(&mut self, samples: &[NewSample]) -> Result<(), StoreError> {
        let (keyring, tx) = (self.store.keyring(), &mut self.tx);
        let master = keyring.named(self.master).ok_or_else(|| tx.other_master_key())?;
        let (mut keys, mut contents) = (Vec::new(), Vec::new());
        for sample in samples {
            let sealed = keyring.seal_sample(master, self.model_id, sample);
            keys.push((sample.id, sealed.wrapped_key));
            contents.push((sample.id, sealed.content));
        }
        for (sql, rows) in [(INSERT_DATA_KEYS, keys), (INSERT_CONTENTS, contents)] {
            if write(tx, sql, &rows).await? != samples.len() as u64 {
                return Err(tx.damaged("another number of rows than samples"));
            }
        }
        Ok(())
    }

    /// Looks up the tombstones of the samples that went in, from an ordinal on: of the sample, which
    /// was deleted under this key before, of its subject, and of whoever has an alias of the subject's.
    async fn check_tombstones(&mut self, from_ordinal: i64) -> Result<(), IngestError> {
        let buried = self
            .tx
            .query(
                "SELECT s.ordinal, s.sample_key, 'sample' AS kind
                 FROM samples s CROSS JOIN samples d
                 WHERE s.model_id = $1 AND s.ordinal >= $2
                     AND d.model_id = $1 AND d.sample_key = s.sample_key
                     AND d.deletion_id IS NOT NULL AND d.readmitted_at IS NULL
                 UNION ALL
                 SELECT s.ordinal, s.sample_key, 'subject' AS kind
                 FROM samples s JOIN tombstones t
                     ON t.model_id = $1 AND t.subject_key = s.subject_key
                 WHERE s.model_id = $1 AND s.ordinal >= $2
                 UNION ALL
                 SELECT s.ordinal, s.sample_key, 'subject' AS kind
                 FROM samples s CROSS JOIN aliases own CROSS JOIN aliases other
                     JOIN tombstones t ON t.model_id = $1 AND t.subject_key = other.subject_key
                 WHERE s.model_id = $1 AND s.ordinal >= $2
                     AND own.model_id = $1 AND own.subject_key = s.subject_key
                     AND other.model_id = $1 AND other.alias_key = own.alias_key
                 ORDER BY 1, 3 LIMIT 1",
            )
            .bind(self.model_id)
            .bind(from_ordinal)
            .fetch_optional()
            .await?;
        let Some(row) = buried else { return Ok(()) };
        let conflict = match row.get::<String>("kind")?.as_str() {
            "sample" => Conflict::SampleDeleted,
            _ => Conflict::SubjectDeleted,
        };
        Err(self.end(row.get("ordinal")?, row.key("sample_key")?, conflict))
    }

    fn end(&mut self, ordinal: i64, key: Pseudonym, conflict: Conflict) -> IngestError {
        let position = u64::try_from(ordinal - self.first_ordinal).unwrap_or(0);
        self.ended_by = Some((position, key, conflict));
        IngestError::Conflict { position, key, conflict }
    }

    fn check_open(&self) -> Result<(), IngestError> {
        match self.ended_by {
            Some((position, key, conflict)) => {
                Err(IngestError::Conflict { position, key, conflict })
            }
            None => Ok(()),
        }
    }
}
