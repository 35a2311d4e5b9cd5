//! Which service key the pseudonyms are under.

use crate::{
    domain::identity::Digest,
    store::{
        Store, StoreError,
        transaction::{reading, writing},
    },
};

impl Store {
    /// The ledger's service key must have this fingerprint. The first one that is asked about becomes
    /// the ledger's.
    pub async fn check_service_key(&self, fingerprint: Digest) -> Result<(), StoreError> {
        writing!(self, "open", async |tx| {
            let sql = "INSERT INTO service_key (id, fingerprint) VALUES (0, $1)
                 ON CONFLICT (id) DO NOTHING";
            tx.query(sql).digest(&fingerprint).execute().await.map(drop)
        })?;
        reading!(self, "open", async |tx| {
            let sql = "SELECT fingerprint FROM service_key WHERE id = 0";
            if tx.query(sql).fetch_one().await?.digest("fingerprint")? == fingerprint {
                Ok(())
            } else {
                Err(StoreError::OtherServiceKey { operation: tx.operation })
            }
        })
    }
}
