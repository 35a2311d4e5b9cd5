//! Webhooks: who is told. Their secrets are sealed under the master key before they come near the
//! database.

use sqlx::types::Json;
use uuid::Uuid;

use crate::{
    domain::{
        audit::AuditKind,
        identity::Digest,
        timestamp::Timestamp,
        webhook::{Disabled, DisabledReason, Webhook, WebhookSecret, WebhookSettings},
    },
    store::{
        Keyring, Store, StoreError,
        master_key::share_master_key,
        row::Row,
        sql::Sql,
        transaction::{Tx, reading, writing},
    },
};

impl Store {
    /// False when there are `limit` webhooks already.
    pub async fn create_webhook(
        &self,
        new: &Webhook,
        secret: &WebhookSecret,
        limit: u64,
        by: Option<Uuid>,
    ) -> Result<bool, StoreError> {
        let keyring = self.keyring();
        writing!(self, "create_webhook", async |tx| {
            let master = share_master_key(tx, keyring).await?;
            let row = tx.query("SELECT COUNT(*) AS webhooks FROM webhooks").fetch_one().await?;
            if row.count::<u64>("webhooks")? >= limit {
                return Ok(false);
            }
            tx.query(
                "INSERT INTO webhooks (id, name, url, event_types, models, secret, created_at,
                     active_since)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
            )
            .bind(new.id)
            .bind(new.settings.name.as_str())
            .bind(new.settings.url.as_str())
            .bind(new.settings.event_types.as_ref().map(Json))
            .bind(new.settings.models.as_ref().map(Json))
            .bind(keyring.seal_secret(master, new.id, secret))
            .time(new.created_at)
            .execute_one()
            .await?;
            let details = facts(&new.settings, by);
            tx.record(new.created_at, AuditKind::WebhookCreated, None, new.id, details);
            Ok(true)
        })
    }

    /// Oldest first, after `after`.
    pub async fn webhooks(
        &self,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Webhook>, StoreError> {
        reading!(self, "webhooks", async |tx| {
            let sql = "SELECT * FROM webhooks WHERE id > $1 ORDER BY id LIMIT $2";
            let statement = tx.query(sql).bind(after.unwrap_or(Uuid::nil()));
            let rows = statement.bind(i64::from(limit)).fetch_all().await?;
            rows.iter().map(read_webhook).collect()
        })
    }

    pub async fn webhook(&self, id: Uuid) -> Result<Option<Webhook>, StoreError> {
        reading!(self, "webhook", async |tx| {
            let row = tx.query("SELECT * FROM webhooks WHERE id = $1").bind(id).fetch_optional();
            row.await?.as_ref().map(read_webhook).transpose()
        })
    }

    /// What is on its way goes to the new address. False when there is no such webhook.
    pub async fn change_webhook(
        &self,
        id: Uuid,
        settings: &WebhookSettings,
        now: Timestamp,
        by: Option<Uuid>,
    ) -> Result<bool, StoreError> {
        writing!(self, "change_webhook", async |tx| {
            let changed = tx
                .query(
                    "UPDATE webhooks SET name = $1, url = $2, event_types = $3, models = $4
                     WHERE id = $5",
                )
                .bind(settings.name.as_str())
                .bind(settings.url.as_str())
                .bind(settings.event_types.as_ref().map(Json))
                .bind(settings.models.as_ref().map(Json))
                .bind(id)
                .execute()
                .await?;
            if changed == 0 {
                return Ok(false);
            }
            tx.record(now, AuditKind::WebhookChanged, None, id, facts(settings, by));
            Ok(true)
        })
    }

    /// The secret before signs beside the new one until then. False when there is no such webhook.
    pub async fn rotate_webhook(
        &self,
        id: Uuid,
        secret: &WebhookSecret,
        now: Timestamp,
        previous_until: Timestamp,
        by: Option<Uuid>,
    ) -> Result<bool, StoreError> {
        let keyring = self.keyring();
        writing!(self, "rotate_webhook", async |tx| {
            let master = share_master_key(tx, keyring).await?;
            let rotated = tx
                .query(
                    "UPDATE webhooks SET previous_secret = secret, previous_secret_until = $1,
                         secret = $2
                     WHERE id = $3",
                )
                .time(previous_until)
                .bind(keyring.seal_secret(master, id, secret))
                .bind(id)
                .execute()
                .await?;
            if rotated == 0 {
                return Ok(false);
            }
            let details = serde_json::json!({"by": by, "previous_until": previous_until});
            tx.record(now, AuditKind::WebhookRotated, None, id, details);
            Ok(true)
        })
    }

    /// A disabled webhook is told again: what waits, and what happens from now on. Nothing changes
    /// for an active one. False when there is no such webhook.
    pub async fn activate_webhook(
        &self,
        id: Uuid,
        now: Timestamp,
        by: Option<Uuid>,
    ) -> Result<bool, StoreError> {
        writing!(self, "activate_webhook", async |tx| {
            let sql = "UPDATE webhooks SET disabled_at = NULL, disabled_reason = NULL,
                     active_since = $1
                 WHERE id = $2 AND disabled_at IS NOT NULL";
            if tx.query(sql).time(now).bind(id).execute().await? > 0 {
                let details = serde_json::json!({"by": by});
                tx.record(now, AuditKind::WebhookActivated, None, id, details);
                tx.wake();
                return Ok(true);
            }
            let sql = "SELECT id FROM webhooks WHERE id = $1";
            Ok(tx.query(sql).bind(id).fetch_optional().await?.is_some())
        })
    }

    /// With its secret and its messages. False when there is no such webhook.
    pub async fn remove_webhook(
        &self,
        id: Uuid,
        now: Timestamp,
        by: Option<Uuid>,
    ) -> Result<bool, StoreError> {
        writing!(self, "remove_webhook", async |tx| {
            let sql = "DELETE FROM webhook_messages WHERE webhook_id = $1";
            tx.query(sql).bind(id).execute().await?;
            if tx.query("DELETE FROM webhooks WHERE id = $1").bind(id).execute().await? == 0 {
                return Ok(false);
            }
            tx.record(now, AuditKind::WebhookRemoved, None, id, serde_json::json!({"by": by}));
            Ok(true)
        })
    }

    /// Those that are told nothing any more.
    pub async fn disabled_webhooks(&self) -> Result<u64, StoreError> {
        reading!(self, "disabled_webhooks", async |tx| {
            let sql = "SELECT COUNT(*) AS webhooks FROM webhooks WHERE disabled_at IS NOT NULL";
            tx.query(sql).fetch_one().await?.count("webhooks")
        })
    }
}

/// An address may hold a secret, and is free text: the log has its digest.
fn facts(settings: &WebhookSettings, by: Option<Uuid>) -> serde_json::Value {
    serde_json::json!({
        "by": by,
        "event_types": settings.event_types,
        "models": settings.models,
        "url_digest": Digest::of(settings.url.as_bytes()),
    })
}

/// Nothing changes for one that is disabled already.
pub(super) async fn disable_webhook(
    tx: &mut Tx,
    id: Uuid,
    reason: DisabledReason,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let sql = "UPDATE webhooks SET disabled_reason = $1, disabled_at = $2
         WHERE id = $3 AND disabled_at IS NULL";
    if tx.query(sql).bind(reason.as_str()).time(now).bind(id).execute().await? == 0 {
        return Ok(false);
    }
    let details = serde_json::json!({"reason": reason});
    tx.record(now, AuditKind::WebhookDisabled, None, id, details);
    Ok(true)
}

/// Seals every secret anew under the adopted master key, whose row this transaction shares.
pub(super) async fn reseal_secrets(tx: &mut Tx, keyring: &Keyring) -> Result<(), StoreError> {
    // Locked: a rotation must not move a secret aside meanwhile.
    const SECRETS: Sql = Sql {
        sqlite: "SELECT id, secret, previous_secret FROM webhooks",
        postgres: "SELECT id, secret, previous_secret FROM webhooks ORDER BY id FOR UPDATE",
    };
    let master = share_master_key(tx, keyring).await?;
    for row in tx.query(SECRETS).fetch_all().await? {
        let id = row.uuid("id")?;
        let reseal = |secret: WebhookSecret| keyring.seal_secret(master, id, &secret);
        tx.query("UPDATE webhooks SET secret = $1, previous_secret = $2 WHERE id = $3")
            .bind(reseal(read_secret(keyring, &row, "secret")?))
            .bind(read_previous_secret(keyring, &row)?.map(reseal))
            .bind(id)
            .execute_one()
            .await?;
    }
    Ok(())
}

/// Of the row's webhook `id`.
pub(super) fn read_secret(
    keyring: &Keyring,
    row: &Row,
    column: &'static str,
) -> Result<WebhookSecret, StoreError> {
    let sealed: Vec<u8> = row.get(column)?;
    keyring.open_secret(&sealed, row.uuid("id")?).map_err(|error| row.damaged(column, error))
}

pub(super) fn read_previous_secret(
    keyring: &Keyring,
    row: &Row,
) -> Result<Option<WebhookSecret>, StoreError> {
    const COLUMN: &str = "previous_secret";
    match row.get::<Option<Vec<u8>>>(COLUMN)? {
        Some(_) => read_secret(keyring, row, COLUMN).map(Some),
        None => Ok(None),
    }
}

pub(super) fn read_settings(row: &Row) -> Result<WebhookSettings, StoreError> {
    let event_types: Option<Json<_>> = row.get("event_types")?;
    let models: Option<Json<_>> = row.get("models")?;
    Ok(WebhookSettings {
        name: row.get("name")?,
        url: row.get("url")?,
        event_types: event_types.map(|json| json.0),
        models: models.map(|json| json.0),
    })
}

fn read_webhook(row: &Row) -> Result<Webhook, StoreError> {
    let reason = row.word_or_none("disabled_reason")?;
    let at = row.time_or_none("disabled_at")?;
    Ok(Webhook {
        id: row.uuid("id")?,
        settings: read_settings(row)?,
        created_at: row.time("created_at")?,
        previous_secret_until: row.time_or_none("previous_secret_until")?,
        delivered_at: row.time_or_none("delivered_at")?,
        disabled: reason.zip(at).map(|(reason, at)| Disabled { reason, at }),
    })
}
