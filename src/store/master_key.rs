//! Which master key wraps the data keys, and the change to another.

use uuid::Uuid;

use crate::{
    domain::{
        audit::AuditKind,
        sealing::{MasterKey, Owner},
        timestamp::Timestamp,
    },
    store::{
        Keyring, Store, StoreError,
        sql::Sql,
        transaction::{Dialect, Tx, reading, writing},
        versions::reseal_encodings,
        webhooks::reseal_secrets,
    },
};

/// Data keys that one transaction wraps anew.
const PAGE: u32 = 10_000;

const REWRAP: Sql = Sql {
    sqlite: "UPDATE data_keys SET wrapped = substr($1, value ->> 1, value ->> 2)
         FROM json_each($2) WHERE sample_id = unhex(value ->> 0)",
    postgres: "UPDATE data_keys SET wrapped = t.wrapped
         FROM unnest($1::uuid[], $2::bytea[]) AS t (sample_id, wrapped)
         WHERE data_keys.sample_id = t.sample_id",
};

impl Store {
    /// From now on the keyring's current master key wraps; ingestions under the previous one have
    /// ended. Doing so again changes nothing.
    pub async fn adopt_master_key(&self, now: Timestamp) -> Result<(), StoreError> {
        let keyring = self.keyring();
        writing!(self, "adopt_master_key", async |tx| {
            let row = tx
                .query("UPDATE master_key SET fingerprint = fingerprint RETURNING fingerprint")
                .fetch_one()
                .await?;
            let (from, to) = (row.digest("fingerprint")?, keyring.current().fingerprint());
            if from == to {
                return Ok(());
            }
            keyring.named(from).ok_or_else(|| tx.other_master_key())?;
            let sql = "UPDATE master_key SET fingerprint = $1 WHERE id = 0";
            tx.query(sql).digest(&to).execute_one().await?;
            let details = serde_json::json!({"from": from, "to": to});
            tx.record(now, AuditKind::MasterKeyAdopted, None, None, details);
            Ok(())
        })
    }

    /// Wraps the next data keys after sample `after` under the adopted master key. Returns the last
    /// one, from which to go on, or `None` once none is left that another master key opens, and no
    /// version's encoding and no webhook's secret either; that is recorded.
    pub async fn rewrap_data_keys(
        &self,
        after: Option<Uuid>,
        now: Timestamp,
    ) -> Result<Option<Uuid>, StoreError> {
        let keyring = self.keyring();
        writing!(self, "rewrap_data_keys", async |tx| {
            let master = share_master_key(tx, keyring).await?;
            let rows = tx
                .query(
                    "SELECT k.sample_id, k.wrapped, s.model_id
                     FROM data_keys k JOIN samples s ON s.id = k.sample_id
                     WHERE k.sample_id > $1 ORDER BY k.sample_id LIMIT $2",
                )
                .bind(after.unwrap_or(Uuid::nil()))
                .bind(i64::from(PAGE))
                .fetch_all()
                .await?;
            let mut wrapped = Vec::with_capacity(rows.len());
            for row in &rows {
                let sample_id = row.uuid("sample_id")?;
                let owner = Owner { model_id: row.uuid("model_id")?, sample_id };
                let key = keyring
                    .unwrap(&row.get::<Vec<u8>>("wrapped")?, owner)
                    .map_err(|error| row.damaged("wrapped", error))?;
                wrapped.push((sample_id, keyring.wrap(master, &key, owner)));
            }
            // A deletion may destroy some of them meanwhile; those stay destroyed.
            tx.query(REWRAP).bind_sealed(&wrapped).execute().await?;
            let last = wrapped.last().map(|(sample_id, _)| *sample_id);
            if last.is_none() {
                reseal_encodings(tx, keyring).await?;
                reseal_secrets(tx, keyring).await?;
                let details = serde_json::json!({"to": master.fingerprint()});
                tx.record(now, AuditKind::MasterKeyRotated, None, None, details);
            }
            Ok(last)
        })
    }

    /// The ledger's own master key must be in the keyring.
    pub(super) async fn check_master_key(&self) -> Result<(), StoreError> {
        let keyring = self.keyring();
        writing!(self, "open", async |tx| {
            let sql = "INSERT INTO master_key (id, fingerprint) VALUES (0, $1)
                 ON CONFLICT (id) DO NOTHING";
            tx.query(sql).digest(&keyring.current().fingerprint()).execute().await.map(drop)
        })?;
        reading!(self, "open", async |tx| named(tx, keyring, FIND).await.map(drop))
    }
}

const FIND: &str = "SELECT fingerprint FROM master_key WHERE id = 0";

/// The master key that wraps, until this transaction has ended.
pub(super) async fn share_master_key<'k>(
    tx: &mut Tx,
    keyring: &'k Keyring,
) -> Result<&'k MasterKey, StoreError> {
    let sql = match tx.dialect() {
        Dialect::Sqlite => FIND,
        Dialect::Postgres => "SELECT fingerprint FROM master_key WHERE id = 0 FOR SHARE",
    };
    named(tx, keyring, sql).await
}

async fn named<'k>(
    tx: &mut Tx,
    keyring: &'k Keyring,
    sql: &'static str,
) -> Result<&'k MasterKey, StoreError> {
    let fingerprint = tx.query(sql).fetch_one().await?.digest("fingerprint")?;
    keyring.named(fingerprint).ok_or_else(|| tx.other_master_key())
}
