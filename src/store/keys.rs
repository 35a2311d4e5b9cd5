//! API keys.

use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::{
    domain::{
        access::{ApiKey, KeyLimits},
        audit::AuditKind,
        identity::Digest,
        timestamp::Timestamp,
    },
    store::{
        Store, StoreError,
        row::Row,
        transaction::{reading, writing},
    },
};

impl Store {
    /// `by` is the administrator's key, for the record, here and below; absent on the command line.
    pub async fn create_api_key(&self, key: &ApiKey, by: Option<Uuid>) -> Result<(), StoreError> {
        writing!(self, "create_api_key", async |tx| {
            tx.query(
                "INSERT INTO api_keys (id, name, hash, scopes, requests_per_minute,
                     samples_per_day, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(key.id)
            .bind(key.name.as_str())
            .digest(&key.hash)
            .json(&key.scopes)
            .bind(key.limits.requests_per_minute.map(i64::from))
            .bind(key.limits.samples_per_day.map(u64::cast_signed))
            .time(key.created_at)
            .execute_one()
            .await?;
            let details = serde_json::json!({
                "by": by,
                "limits": key.limits,
                "scopes": key.scopes,
            });
            tx.record(key.created_at, AuditKind::ApiKeyCreated, None, key.id, details);
            Ok(())
        })
    }

    pub async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        reading!(self, "api_keys", async |tx| {
            let rows = tx.query("SELECT * FROM api_keys ORDER BY id").fetch_all().await?;
            rows.iter().map(read_key).collect()
        })
    }

    /// The live key with this hash; looked up by index, compared in constant time.
    pub async fn api_key(&self, hash: Digest) -> Result<Option<ApiKey>, StoreError> {
        reading!(self, "api_key", async |tx| {
            let sql = "SELECT * FROM api_keys WHERE hash = $1 AND revoked_at IS NULL";
            let row = tx.query(sql).digest(&hash).fetch_optional().await?;
            let key = row.as_ref().map(read_key).transpose()?;
            Ok(key.filter(|key| key.hash.as_bytes().ct_eq(hash.as_bytes()).into()))
        })
    }

    pub async fn api_key_by_id(&self, id: Uuid) -> Result<Option<ApiKey>, StoreError> {
        reading!(self, "api_key_by_id", async |tx| {
            let row = tx.query("SELECT * FROM api_keys WHERE id = $1").bind(id).fetch_optional();
            row.await?.as_ref().map(read_key).transpose()
        })
    }

    /// The key goes on under another secret; the one before opens nothing any more. False when
    /// there is no such live key.
    pub async fn rotate_api_key(
        &self,
        id: Uuid,
        hash: Digest,
        by: Option<Uuid>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        writing!(self, "rotate_api_key", async |tx| {
            let sql = "UPDATE api_keys SET hash = $1 WHERE id = $2 AND revoked_at IS NULL";
            if tx.query(sql).digest(&hash).bind(id).execute().await? == 0 {
                return Ok(false);
            }
            tx.record(now, AuditKind::ApiKeyRotated, None, id, serde_json::json!({"by": by}));
            Ok(true)
        })
    }

    /// False when there is no such live key.
    pub async fn revoke_api_key(
        &self,
        id: Uuid,
        by: Option<Uuid>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        writing!(self, "revoke_api_key", async |tx| {
            let sql = "UPDATE api_keys SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL";
            if tx.query(sql).time(now).bind(id).execute().await? == 0 {
                return Ok(false);
            }
            tx.record(now, AuditKind::ApiKeyRevoked, None, id, serde_json::json!({"by": by}));
            Ok(true)
        })
    }
}

fn read_key(row: &Row) -> Result<ApiKey, StoreError> {
    Ok(ApiKey {
        id: row.uuid("id")?,
        name: row.get("name")?,
        hash: row.digest("hash")?,
        scopes: row.json("scopes")?,
        limits: KeyLimits {
            requests_per_minute: row.count_or_none("requests_per_minute")?,
            samples_per_day: row.count_or_none("samples_per_day")?,
        },
        created_at: row.time("created_at")?,
        revoked_at: row.time_or_none("revoked_at")?,
    })
}
