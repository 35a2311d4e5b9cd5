//! How many samples an API key may have deleted within a day.

use std::{collections::HashMap, time::Duration};

use uuid::Uuid;

use crate::{
    domain::timestamp::Timestamp,
    store::{NewDeletion, StoreError, resolution::Resolved, sql::Sql, transaction::Tx},
};

const DAY: Duration = Duration::from_hours(24);

/// On `SQLite` the transaction is the only writer already.
const LIMITS: Sql = Sql {
    sqlite: "SELECT id, samples_per_day FROM api_keys
             WHERE id IN (SELECT unhex(value) FROM json_each($1))",
    postgres: "SELECT id, samples_per_day FROM api_keys WHERE id = ANY($1)
               ORDER BY id FOR NO KEY UPDATE",
};

/// How far a request goes beyond its key's quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Samples that it names.
    pub samples: u64,
    /// Samples of the key's earlier requests within 24 hours.
    pub used: u64,
    pub limit: u64,
    /// When the oldest of those leaves the 24 hours; a day, if there are none.
    pub wait: Duration,
}

/// Of those of some keys that are limited.
#[derive(Default)]
pub(super) struct Quotas(HashMap<Uuid, u64>);

impl Quotas {
    /// How far a request that names so many samples goes beyond the quota of its key, after those of
    /// the ledger and those `earlier` ones that are about to be written.
    pub(super) async fn excess(
        &self,
        tx: &mut Tx,
        new: &NewDeletion,
        samples: u64,
        earlier: &[&Resolved<'_>],
    ) -> Result<Option<Excess>, StoreError> {
        let Some(id) = new.api_key_id else { return Ok(None) };
        let Some(limit) = self.0.get(&id).copied() else { return Ok(None) };
        let (mut used, mut oldest) = used_since(tx, id, new.received_at.minus(DAY)).await?;
        let of_key = earlier.iter().filter(|it| it.new.api_key_id == Some(id));
        for request in of_key.map(|it| &it.details.request).filter(|it| it.samples > 0) {
            used += request.samples;
            oldest = oldest.or(Some(request.received_at));
        }
        let wait = oldest.unwrap_or(new.received_at).plus(DAY).since(new.received_at);
        Ok((used + samples > limit).then_some(Excess { samples, used, limit, wait }))
    }
}

/// Other requests of these keys wait from here on until the transaction has ended.
pub(super) async fn lock_quotas(tx: &mut Tx, api_keys: &[Uuid]) -> Result<Quotas, StoreError> {
    if api_keys.is_empty() {
        return Ok(Quotas::default());
    }
    let rows = tx.query(LIMITS).bind_ids(api_keys).fetch_all().await?;
    let mut quotas = HashMap::new();
    for row in rows {
        if let Some(limit) = row.count_or_none("samples_per_day")? {
            quotas.insert(row.uuid("id")?, limit);
        }
    }
    Ok(Quotas(quotas))
}

/// By requests whose samples are counted already, and when the first of them came.
async fn used_since(
    tx: &mut Tx,
    api_key_id: Uuid,
    since: Timestamp,
) -> Result<(u64, Option<Timestamp>), StoreError> {
    let row = tx
        .query(
            "SELECT CAST(COALESCE(SUM(samples), 0) AS BIGINT) AS used, MIN(received_at) AS oldest
             FROM deletion_requests
             WHERE api_key_id = $1 AND received_at > $2 AND samples > 0 AND state <> 'cancelled'",
        )
        .bind(api_key_id)
        .time(since)
        .fetch_one()
        .await?;
    Ok((row.count("used")?, row.time_or_none("oldest")?))
}
