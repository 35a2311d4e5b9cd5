//! How many samples an API key may have deleted within a day.

use std::{collections::HashMap, time::Duration};

use uuid::Uuid;

use crate::{
    domain::timestamp::Timestamp,
    store::{
        NewDeletion, StoreError,
        sql::{Sql, in_keys},
        transaction::Tx,
    },
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
    /// Whether the request counts against one.
    pub(super) fn limit(&self, new: &NewDeletion) -> bool {
        new.api_key_id.is_some_and(|id| self.0.contains_key(&id))
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

/// Of the first key whose requests, written and with their samples claimed, go beyond its quota
/// together.
pub(super) async fn excess(
    tx: &mut Tx,
    all: &[&NewDeletion],
    quotas: &Quotas,
) -> Result<Option<Excess>, StoreError> {
    for (api_key_id, limit) in &quotas.0 {
        let of_key = all.iter().filter(|new| new.api_key_id == Some(*api_key_id));
        let Some(received_at) = of_key.clone().map(|new| new.received_at).min() else { continue };
        let ids: Vec<Uuid> = of_key.map(|new| new.id).collect();
        let samples = count_claimed(tx, &ids).await?;
        let (used, oldest) = used_since(tx, *api_key_id, received_at.minus(DAY)).await?;
        if used + samples > *limit {
            let wait = oldest.unwrap_or(received_at).plus(DAY).since(received_at);
            return Ok(Some(Excess { samples, used, limit: *limit, wait }));
        }
    }
    Ok(None)
}

async fn count_claimed(tx: &mut Tx, ids: &[Uuid]) -> Result<u64, StoreError> {
    let sql =
        in_keys!("SELECT COUNT(*) AS samples FROM deletion_samples WHERE deletion_id", "1", "");
    tx.query(sql).bind_ids(ids).fetch_one().await?.count("samples")
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
