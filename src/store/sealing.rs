//! Sealing rows on their way into the ledger and opening them on their way out.

use uuid::Uuid;

use crate::{
    clock::Ids,
    domain::{
        features::{Features, floats_from_bytes, floats_to_bytes},
        identity::{Digest, Pseudonym},
        sample::{NewSample, SamplePredictions, Split},
        sealing::{DataKey, MasterKey, Owner, Part, SealError},
        timestamp::Timestamp,
        version::Encoding,
        webhook::WebhookSecret,
    },
    store::{
        StoreError, postgres,
        row::Row,
        sql::Sql,
        transaction::{Dialect, Tx},
    },
};

/// The master keys that this process holds. The ledger names the one that wraps.
pub struct Keyring {
    current: MasterKey,
    /// What the current one replaces, until no data key is wrapped under it any more.
    previous: Option<MasterKey>,
    ids: Ids,
}

/// A sample that comes in, as it is written.
pub struct SealedSample {
    pub(super) id: Uuid,
    pub(super) key: Pseudonym,
    pub(super) subject: Pseudonym,
    pub(super) split: Split,
    pub(super) aliases: Vec<Pseudonym>,
    pub(super) wrapped_key: Vec<u8>,
    /// Label and features.
    pub(super) content: Vec<u8>,
}

impl Keyring {
    pub fn new(current: MasterKey, previous: Option<MasterKey>, ids: Ids) -> Self {
        Self { current, previous, ids }
    }

    pub(super) fn current(&self) -> &MasterKey {
        &self.current
    }

    pub(super) fn named(&self, fingerprint: Digest) -> Option<&MasterKey> {
        self.all().find(|key| key.fingerprint() == fingerprint)
    }

    /// Wrapped under whichever of the keys.
    pub(super) fn unwrap(&self, wrapped: &[u8], owner: Owner) -> Result<DataKey, SealError> {
        self.all().find_map(|key| key.unwrap(wrapped, owner).ok()).ok_or(SealError)
    }

    pub(super) fn wrap(&self, master: &MasterKey, key: &DataKey, owner: Owner) -> Vec<u8> {
        master.wrap(key, owner, self.ids.bytes())
    }

    /// Under a new data key.
    pub(super) fn seal_sample(
        &self,
        master: &MasterKey,
        model_id: Uuid,
        sample: &NewSample,
    ) -> SealedSample {
        let owner = Owner { model_id, sample_id: sample.id };
        let key = DataKey::new(self.ids.bytes());
        let content = pair(sample.label.as_bytes(), &sample.features.to_bytes());
        SealedSample {
            id: sample.id,
            key: sample.key,
            subject: sample.subject,
            split: sample.split,
            aliases: sample.aliases.clone(),
            wrapped_key: self.wrap(master, &key, owner),
            content: key.seal(Part::Content, owner, self.ids.bytes(), &content),
        }
    }

    pub(super) fn seal_secret(
        &self,
        master: &MasterKey,
        webhook_id: Uuid,
        secret: &WebhookSecret,
    ) -> Vec<u8> {
        master.seal_secret(secret, webhook_id, self.ids.bytes())
    }

    /// Sealed under whichever of the keys.
    pub(super) fn open_secret(
        &self,
        sealed: &[u8],
        webhook_id: Uuid,
    ) -> Result<WebhookSecret, SealError> {
        self.all().find_map(|key| key.open_secret(sealed, webhook_id).ok()).ok_or(SealError)
    }

    pub(super) fn seal_encoding(
        &self,
        master: &MasterKey,
        model_id: Uuid,
        epoch: u64,
        encoding: &Encoding,
    ) -> Vec<u8> {
        let text = serde_json::to_vec(encoding).expect("an encoding is JSON");
        master.seal_encoding(&text, model_id, epoch, self.ids.bytes())
    }

    /// Column `encoding` of a row of `versions`, sealed under whichever of the keys.
    pub(super) fn open_encoding(&self, row: &Row) -> Result<Option<Encoding>, StoreError> {
        const COLUMN: &str = "encoding";
        let Some(sealed) = row.get::<Option<Vec<u8>>>(COLUMN)? else { return Ok(None) };
        let (model_id, epoch) = (row.uuid("model_id")?, row.count("epoch")?);
        let text = self
            .all()
            .find_map(|key| key.open_encoding(&sealed, model_id, epoch).ok())
            .ok_or_else(|| row.damaged(COLUMN, SealError))?;
        serde_json::from_slice(&text).map(Some).map_err(|error| row.damaged(COLUMN, error))
    }

    /// For what the ledger writes of its own accord.
    pub(super) fn next_id(&self, now: Timestamp) -> Uuid {
        self.ids.next(now)
    }

    pub(super) fn seal_predictions(
        &self,
        key: &DataKey,
        owner: Owner,
        it: &SamplePredictions,
    ) -> Vec<u8> {
        let text = pair(&floats_to_bytes(&it.out_of_fold), &floats_to_bytes(&it.anchor));
        key.seal(Part::Predictions, owner, self.ids.bytes(), &text)
    }

    fn all(&self) -> impl Iterator<Item = &MasterKey> {
        std::iter::once(&self.current).chain(&self.previous)
    }
}

/// A row's columns `model_id`, `id` (the sample's) and `wrapped`, ready to open the others.
pub(super) struct Opener<'r> {
    row: &'r Row,
    owner: Owner,
    key: DataKey,
}

impl<'r> Opener<'r> {
    pub(super) fn new(keyring: &Keyring, row: &'r Row) -> Result<Self, StoreError> {
        let owner = Owner { model_id: row.uuid("model_id")?, sample_id: row.uuid("id")? };
        let wrapped: Vec<u8> = row.get("wrapped")?;
        let key = keyring.unwrap(&wrapped, owner).map_err(|error| row.damaged("wrapped", error))?;
        Ok(Self { row, owner, key })
    }

    /// Column `content`.
    pub(super) fn content(&self) -> Result<(Features, String), StoreError> {
        const COLUMN: &str = "content";
        let damaged = |error: &dyn std::fmt::Display| self.row.damaged(COLUMN, error);
        let text = self.open(COLUMN, Part::Content)?;
        let (label, features) = split(&text).ok_or_else(|| damaged(&"no two parts"))?;
        let features = Features::from_bytes(features).map_err(|error| damaged(&error))?;
        let label = String::from_utf8(label.to_vec()).map_err(|error| damaged(&error))?;
        Ok((features, label))
    }

    /// Column `predictions`.
    pub(super) fn predictions(&self) -> Result<SamplePredictions, StoreError> {
        const COLUMN: &str = "predictions";
        let text = self.open(COLUMN, Part::Predictions)?;
        let damaged = |error: &dyn std::fmt::Display| self.row.damaged(COLUMN, error);
        let (out_of_fold, anchor) = split(&text).ok_or_else(|| damaged(&"no two parts"))?;
        let floats = |bytes| floats_from_bytes(bytes).map_err(|error| damaged(&error));
        Ok(SamplePredictions {
            sample_id: self.owner.sample_id,
            out_of_fold: floats(out_of_fold)?,
            anchor: floats(anchor)?,
        })
    }

    fn open(&self, column: &'static str, part: Part) -> Result<Vec<u8>, StoreError> {
        let sealed: Vec<u8> = self.row.get(column)?;
        self.key.open(part, self.owner, &sealed).map_err(|error| self.row.damaged(column, error))
    }
}

pub(super) const INSERT_CONTENTS: Sql = Sql {
    sqlite: "INSERT INTO sample_contents (sample_id, sealed)
         SELECT unhex(value ->> 0), substr($1, value ->> 1, value ->> 2) FROM json_each($2)",
    postgres: "COPY sample_contents (sample_id, sealed) FROM STDIN (FORMAT binary)",
};

pub(super) const INSERT_DATA_KEYS: Sql = Sql {
    sqlite: "INSERT INTO data_keys (sample_id, wrapped)
         SELECT unhex(value ->> 0), substr($1, value ->> 1, value ->> 2) FROM json_each($2)",
    postgres: "COPY data_keys (sample_id, wrapped) FROM STDIN (FORMAT binary)",
};

/// Writes samples that come in, or what is sealed of them.
pub(super) async fn insert(
    tx: &mut Tx,
    sql: Sql,
    rows: &[(Uuid, impl AsRef<[u8]>)],
) -> Result<(), StoreError> {
    let inserted = match tx.dialect() {
        Dialect::Sqlite => tx.query(sql).bind_sealed(rows).execute().await?,
        Dialect::Postgres => postgres::copy_sealed(tx, sql, rows).await?,
    };
    tx.check_written(inserted, rows.len())
}

/// Length of the first as four little-endian bytes, the first, the second.
fn pair(first: &[u8], second: &[u8]) -> Vec<u8> {
    let length = u32::try_from(first.len()).expect("no label and no row of predictions is 4 GiB");
    [&length.to_le_bytes(), first, second].concat()
}

fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = text.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
}
