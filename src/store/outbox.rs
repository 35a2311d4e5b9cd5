//! The outbox: what others are told, written in the transaction that it tells of. `deliveries.rs` has
//! the claims under which it is delivered.

use std::collections::HashMap;

use uuid::Uuid;

use crate::{
    domain::{
        model::ModelName,
        timestamp::Timestamp,
        webhook::{EventType, Message, MessageState},
    },
    store::{
        Keyring, Store, StoreError,
        callbacks::retire_told_callbacks,
        jobs::AT_ONCE,
        models::read_name,
        postgres,
        row::Row,
        sql::in_keys,
        sqlite,
        transaction::{Dialect, Tx, reading, writing},
        webhooks::read_settings,
    },
};

/// Bounds the memory that one statement takes.
const MESSAGES_PER_STATEMENT: usize = 1_000;

/// What one pass removes of each kind; the next goes on.
pub const PRUNED_MAX: u32 = 10_000;

/// A message as it goes into the outbox.
#[derive(Clone, Debug)]
pub(super) struct NewMessage {
    pub(super) id: Uuid,
    pub(super) webhook_id: Uuid,
    pub(super) event_type: EventType,
    pub(super) payload: String,
    pub(super) created_at: Timestamp,
}

/// Writes a message for each webhook that is to be told of one of the transaction's leaves.
pub(super) async fn fill(tx: &mut Tx, keyring: &Keyring) -> Result<(), StoreError> {
    let is_told = |kind| EventType::of(kind).is_some();
    let mut model_ids: Vec<_> = tx
        .leaves
        .iter()
        .filter(|(leaf, _)| is_told(leaf.kind))
        .filter_map(|(leaf, _)| leaf.model_id)
        .collect();
    model_ids.sort_unstable();
    model_ids.dedup();
    if model_ids.is_empty() {
        return Ok(());
    }
    let sql = "SELECT id, name, url, event_types, models FROM webhooks WHERE disabled_at IS NULL
         ORDER BY id";
    let rows = tx.query(sql).fetch_all().await?;
    if rows.is_empty() {
        return Ok(());
    }
    let webhooks = rows
        .iter()
        .map(|row| Ok((row.uuid("id")?, read_settings(row)?)))
        .collect::<Result<Vec<_>, StoreError>>()?;
    let sql = in_keys!("SELECT id, name FROM models WHERE id", "1", "");
    let names = tx.query(sql).bind_ids(&model_ids).fetch_all().await?;
    let names = names
        .iter()
        .map(|row| Ok((row.uuid("id")?, read_name(row, "name")?)))
        .collect::<Result<HashMap<Uuid, ModelName>, StoreError>>()?;
    let mut messages = Vec::new();
    for (leaf, at) in &tx.leaves {
        let Some(event_type) = EventType::of(leaf.kind) else { continue };
        let Some(model) = leaf.model_id.and_then(|id| names.get(&id)) else { continue };
        for (webhook_id, settings) in &webhooks {
            if settings.wants(event_type, model) {
                messages.push(NewMessage {
                    id: keyring.next_id(*at),
                    webhook_id: *webhook_id,
                    event_type,
                    payload: event_type.payload(leaf, model, *at),
                    created_at: *at,
                });
            }
        }
    }
    insert(tx, messages).await
}

pub(super) async fn insert(tx: &mut Tx, mut messages: Vec<NewMessage>) -> Result<(), StoreError> {
    if messages.is_empty() {
        return Ok(());
    }
    // Ids of one millisecond are in no order of their own; messages are.
    let mut ids: Vec<_> = messages.iter().map(|message| message.id).collect();
    ids.sort_unstable();
    for (message, id) in messages.iter_mut().zip(ids) {
        message.id = id;
    }
    let mut written = 0;
    for chunk in messages.chunks(MESSAGES_PER_STATEMENT) {
        written += match tx.dialect() {
            Dialect::Sqlite => sqlite::insert_messages(tx, chunk).await?,
            Dialect::Postgres => postgres::insert_messages(tx, chunk).await?,
        };
    }
    tx.wake();
    tx.check_written(written, messages.len())
}

impl Store {
    /// Newest first, before `before`.
    pub async fn messages(
        &self,
        webhook_id: Uuid,
        state: Option<MessageState>,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Message>, StoreError> {
        let sql = match state {
            None => {
                "SELECT * FROM webhook_messages WHERE webhook_id = $1 AND id < $2
                 ORDER BY id DESC LIMIT $3"
            }
            Some(_) => {
                "SELECT * FROM webhook_messages WHERE webhook_id = $1 AND id < $2 AND state = $4
                 ORDER BY id DESC LIMIT $3"
            }
        };
        reading!(self, "messages", async |tx| {
            let mut statement = tx
                .query(sql)
                .bind(webhook_id)
                .bind(before.unwrap_or(Uuid::max()))
                .bind(i64::from(limit));
            if let Some(state) = state {
                statement = statement.bind(state.as_str());
            }
            statement.fetch_all().await?.iter().map(read_message).collect()
        })
    }

    /// The message is due at once, whatever became of it, and has all its attempts before it.
    /// `None` when the webhook has no such message.
    pub async fn redeliver_message(
        &self,
        webhook_id: Uuid,
        id: Uuid,
    ) -> Result<Option<Message>, StoreError> {
        writing!(self, "redeliver_message", async |tx| {
            let row = tx
                .query(
                    "UPDATE webhook_messages SET state = 'pending', attempts = 0, not_before = $1,
                         claim_token = NULL, ended_at = NULL
                     WHERE id = $2 AND webhook_id = $3 RETURNING *",
                )
                .time(AT_ONCE)
                .bind(id)
                .bind(webhook_id)
                .fetch_optional()
                .await?;
            if row.is_some() {
                tx.wake();
            }
            row.as_ref().map(read_message).transpose()
        })
    }

    /// Messages that wait, for disabled webhooks too.
    pub async fn outbox_depth(&self) -> Result<u64, StoreError> {
        reading!(self, "outbox_depth", async |tx| {
            let sql = "SELECT COUNT(*) AS pending FROM webhook_messages WHERE state = 'pending'";
            tx.query(sql).fetch_one().await?.count("pending")
        })
    }

    /// Removes messages that ended before then, those from before then that nobody attempts any
    /// more, callbacks that are told nothing more, and secrets that sign nothing more. Returns how
    /// many messages went.
    pub async fn prune_outbox(&self, before: Timestamp, now: Timestamp) -> Result<u64, StoreError> {
        writing!(self, "prune_outbox", async |tx| {
            let ended = tx
                .query(
                    "DELETE FROM webhook_messages WHERE id IN (
                         SELECT id FROM webhook_messages
                         WHERE state <> 'pending' AND ended_at < $1 ORDER BY ended_at LIMIT $2)",
                )
                .time(before)
                .bind(i64::from(PRUNED_MAX))
                .execute()
                .await?;
            let left = tx
                .query(
                    "DELETE FROM webhook_messages WHERE id IN (
                         SELECT m.id FROM webhook_messages m
                         WHERE m.state = 'pending' AND m.created_at < $1 AND NOT EXISTS (
                             SELECT 1 FROM webhooks w
                             WHERE w.id = m.webhook_id AND w.disabled_at IS NULL)
                         AND NOT EXISTS (
                             SELECT 1 FROM intake_callbacks c WHERE c.id = m.webhook_id)
                         LIMIT $2)",
                )
                .time(before)
                .bind(i64::from(PRUNED_MAX))
                .execute()
                .await?;
            retire_told_callbacks(tx, PRUNED_MAX).await?;
            tx.query(
                "UPDATE webhooks SET previous_secret = NULL, previous_secret_until = NULL
                 WHERE previous_secret_until <= $1",
            )
            .time(now)
            .execute()
            .await?;
            Ok(ended + left)
        })
    }
}

pub(super) fn read_message(row: &Row) -> Result<Message, StoreError> {
    let state = row.word("state")?;
    let not_before = row.time("not_before")?;
    let created_at = row.time("created_at")?;
    Ok(Message {
        id: row.uuid("id")?,
        event_type: row.word("event_type")?,
        payload: row.get("payload")?,
        state,
        attempts: row.count("attempts")?,
        last_attempt_at: row.time_or_none("last_attempt_at")?,
        last_status: row.count_or_none("last_status")?,
        last_failure: row.word_or_none("last_failure")?,
        next_attempt_at: (state == MessageState::Pending).then(|| not_before.max(created_at)),
        created_at,
    })
}
