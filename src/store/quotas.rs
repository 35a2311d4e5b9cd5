//! How many samples an API key may have deleted within a day.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    domain::timestamp::Timestamp,
    store::{
        NewDeletion, StoreError,
        transaction::{Dialect, Tx},
    },
};

const DAY: Duration = Duration::from_hours(24);

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

/// The key's quota. Other requests of the key wait from here on until this one has ended.
pub(super) async fn lock_quota(tx: &mut Tx, new: &NewDeletion) -> Result<Option<u64>, StoreError> {
    let Some(api_key_id) = new.api_key_id else { return Ok(None) };
    let sql = match tx.dialect() {
        Dialect::Sqlite => "SELECT samples_per_day FROM api_keys WHERE id = $1",
        Dialect::Postgres => "SELECT samples_per_day FROM api_keys WHERE id = $1 FOR NO KEY UPDATE",
    };
    let row = tx.query(sql).bind(api_key_id).fetch_optional().await?;
    row.map_or(Ok(None), |row| row.count_or_none("samples_per_day"))
}

/// The request is written already, and does not count among the earlier ones.
pub(super) async fn excess(
    tx: &mut Tx,
    new: &NewDeletion,
    quota: Option<u64>,
    samples: u64,
) -> Result<Option<Excess>, StoreError> {
    let (Some(api_key_id), Some(limit)) = (new.api_key_id, quota) else { return Ok(None) };
    let (used, oldest) = used_since(tx, api_key_id, new).await?;
    if used + samples <= limit {
        return Ok(None);
    }
    let wait = oldest.unwrap_or(new.received_at).plus(DAY).since(new.received_at);
    Ok(Some(Excess { samples, used, limit, wait }))
}

async fn used_since(
    tx: &mut Tx,
    api_key_id: Uuid,
    new: &NewDeletion,
) -> Result<(u64, Option<Timestamp>), StoreError> {
    let row = tx
        .query(
            "SELECT CAST(COALESCE(SUM(samples), 0) AS BIGINT) AS used, MIN(received_at) AS oldest
             FROM deletion_requests
             WHERE api_key_id = $1 AND received_at > $2 AND samples > 0 AND state <> 'cancelled'
                 AND id <> $3",
        )
        .bind(api_key_id)
        .time(new.received_at.minus(DAY))
        .bind(new.id)
        .fetch_one()
        .await?;
    Ok((row.count("used")?, row.time_or_none("oldest")?))
}
