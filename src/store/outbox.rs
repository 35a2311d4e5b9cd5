//! The outbox: what webhooks are told, written in the transaction that it tells of, and the claims
//! under which it is delivered.

use std::{collections::HashMap, time::Duration};

use uuid::Uuid;

use crate::{
    domain::{
        model::ModelName,
        timestamp::Timestamp,
        webhook::{DisabledReason, EventType, Failure, Message, MessageState, WebhookSecret},
    },
    store::{
        Keyring, Store, StoreError,
        callbacks::retire_callback,
        jobs::AT_ONCE,
        models::read_name,
        postgres,
        row::Row,
        sql::{Sql, in_keys},
        sqlite,
        transaction::{Dialect, Tx, reading, writing},
        webhooks::{disable_webhook, read_previous_secret, read_secret, read_settings},
    },
};

/// Bounds the memory that one statement takes.
const MESSAGES_PER_STATEMENT: usize = 1_000;

/// Messages that one sweep removes of each kind; the next goes on.
const PRUNED_MAX: u32 = 10_000;

/// A message as it goes into the outbox.
#[derive(Clone, Debug)]
pub(super) struct NewMessage {
    pub(super) id: Uuid,
    pub(super) webhook_id: Uuid,
    pub(super) event_type: EventType,
    pub(super) payload: String,
    pub(super) created_at: Timestamp,
}

/// What is needed to deliver to one webhook.
pub struct ClaimedMessages {
    pub webhook_id: Uuid,
    pub url: String,
    pub signing: Signing,
    /// Oldest first.
    pub messages: Vec<Message>,
    /// Fences what is recorded of them.
    pub token: Uuid,
}

/// Who signs messages.
pub enum Signing {
    /// The webhook's secret, and the one before as long as it signs too.
    Webhook(Vec<WebhookSecret>),
    /// OpenDSR's processor: a callback of an intake.
    OpenDsr,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    Delivered {
        status: u16,
    },
    /// Without `retry_at` it is given up.
    Failed {
        failure: Failure,
        status: Option<u16>,
        retry_at: Option<Timestamp>,
    },
    /// The receiver wants to hear nothing more.
    Gone {
        status: u16,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    Done,
    /// This was the end of it: the webhook is told nothing more.
    Disabled(DisabledReason),
    /// The claim had ended; another's attempt counts.
    Fenced,
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
    if written == messages.len() as u64 {
        Ok(())
    } else {
        Err(tx.damaged("messages that were not written"))
    }
}

impl Store {
    /// Active webhooks with messages that may be claimed.
    pub async fn webhooks_due(&self, now: Timestamp) -> Result<Vec<Uuid>, StoreError> {
        reading!(self, "webhooks_due", async |tx| {
            let rows = tx
                .query(
                    "SELECT w.id FROM webhooks w
                     WHERE w.disabled_at IS NULL AND EXISTS (
                         SELECT 1 FROM webhook_messages m
                         WHERE m.webhook_id = w.id AND m.state = 'pending' AND m.not_before <= $1)
                     ORDER BY w.id",
                )
                .time(now)
                .fetch_all()
                .await?;
            rows.iter().map(|row| row.uuid("id")).collect()
        })
    }

    /// Takes the next messages of a webhook or a callback, new ones before those that failed, until
    /// `now + duration`: whoever claims after that attempts them again. `None` when there is no such
    /// active webhook, nor such a callback.
    pub async fn claim_messages(
        &self,
        webhook_id: Uuid,
        token: Uuid,
        now: Timestamp,
        duration: Duration,
        limit: u32,
    ) -> Result<Option<ClaimedMessages>, StoreError> {
        let keyring = self.keyring();
        writing!(self, "claim_messages", async |tx| {
            let Some((url, signing)) = find_receiver(tx, keyring, webhook_id, now).await? else {
                return Ok(None);
            };
            let claimed = tx
                .query(CLAIM)
                .bind(token)
                .time(now.plus(duration))
                .bind(webhook_id)
                .time(now)
                .bind(i64::from(limit))
                .fetch_all()
                .await?;
            let mut messages =
                claimed.iter().map(read_message).collect::<Result<Vec<_>, StoreError>>()?;
            messages.sort_unstable_by_key(|message| message.id);
            Ok(Some(ClaimedMessages { webhook_id, url, signing, messages, token }))
        })
    }

    /// What came of the attempt at a claimed message; with it the webhook is disabled where
    /// it is gone, or where none of its messages came through while this one was tried.
    pub async fn record_delivery(
        &self,
        message_id: Uuid,
        token: Uuid,
        delivery: &Delivery,
        now: Timestamp,
    ) -> Result<Recorded, StoreError> {
        let (state, status, failure, retry_at) = match *delivery {
            Delivery::Delivered { status } => (MessageState::Delivered, Some(status), None, None),
            Delivery::Failed { failure, status, retry_at } => {
                let ended = retry_at.map_or(MessageState::GivenUp, |_| MessageState::Pending);
                (ended, status, Some(failure), retry_at)
            }
            Delivery::Gone { status } => {
                (MessageState::GivenUp, Some(status), Some(Failure::Refused), None)
            }
        };
        writing!(self, "record_delivery", async |tx| {
            let row = tx
                .query(
                    "UPDATE webhook_messages SET state = $1, attempts = attempts + 1,
                         not_before = $2, claim_token = NULL, last_attempt_at = $3,
                         last_status = $4, last_failure = $5, ended_at = $6
                     WHERE id = $7 AND claim_token = $8 AND state = 'pending'
                     RETURNING webhook_id, created_at",
                )
                .bind(state.as_str())
                .time(retry_at.unwrap_or(AT_ONCE))
                .time(now)
                .bind(status.map(i64::from))
                .bind(failure.map(Failure::as_str))
                .bind((state != MessageState::Pending).then_some(now.as_micros()))
                .bind(message_id)
                .bind(token)
                .fetch_optional()
                .await?;
            let Some(row) = row else { return Ok(Recorded::Fenced) };
            let (webhook_id, created_at) = (row.uuid("webhook_id")?, row.time("created_at")?);
            if state != MessageState::Pending {
                let is_gone = matches!(delivery, Delivery::Gone { .. });
                retire_callback(tx, webhook_id, is_gone).await?;
            }
            let reason = match (delivery, state) {
                (Delivery::Gone { .. }, _) => Some(DisabledReason::Gone),
                (_, MessageState::Delivered) => {
                    tx.query("UPDATE webhooks SET delivered_at = $1 WHERE id = $2")
                        .time(now)
                        .bind(webhook_id)
                        .execute()
                        .await?;
                    None
                }
                (_, MessageState::GivenUp)
                    if is_unreachable(tx, webhook_id, created_at).await? =>
                {
                    Some(DisabledReason::Unreachable)
                }
                (_, MessageState::GivenUp | MessageState::Pending) => None,
            };
            Ok(match reason {
                Some(reason) if disable_webhook(tx, webhook_id, reason, now).await? => {
                    Recorded::Disabled(reason)
                }
                _ => Recorded::Done,
            })
        })
    }

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
    /// more, and secrets that sign nothing more. Returns how many messages went.
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
                         LIMIT $2)",
                )
                .time(before)
                .bind(i64::from(PRUNED_MAX))
                .execute()
                .await?;
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

/// Where the messages of an active webhook or of a callback go, and who signs them.
async fn find_receiver(
    tx: &mut Tx,
    keyring: &Keyring,
    id: Uuid,
    now: Timestamp,
) -> Result<Option<(String, Signing)>, StoreError> {
    let sql = "SELECT * FROM webhooks WHERE id = $1 AND disabled_at IS NULL";
    if let Some(row) = tx.query(sql).bind(id).fetch_optional().await? {
        let previous = match row.time_or_none("previous_secret_until")? {
            Some(until) if now < until => read_previous_secret(keyring, &row)?,
            _ => None,
        };
        let secrets = std::iter::once(read_secret(keyring, &row, "secret")?).chain(previous);
        return Ok(Some((row.get("url")?, Signing::Webhook(secrets.collect()))));
    }
    let sql = "SELECT url FROM intake_callbacks WHERE id = $1";
    let row = tx.query(sql).bind(id).fetch_optional().await?;
    row.map(|row| Ok((row.get("url")?, Signing::OpenDsr))).transpose()
}

/// The rows' ids are found first, and once: `SKIP LOCKED` under a join may be asked again.
const CLAIM: Sql = Sql {
    sqlite: "UPDATE webhook_messages SET claim_token = $1, not_before = $2
         WHERE id IN (
             SELECT id FROM webhook_messages
             WHERE webhook_id = $3 AND state = 'pending' AND not_before <= $4
             ORDER BY not_before, id LIMIT $5)
         RETURNING *",
    postgres: "UPDATE webhook_messages SET claim_token = $1, not_before = $2
         WHERE id = ANY(ARRAY(
             SELECT id FROM webhook_messages
             WHERE webhook_id = $3 AND state = 'pending' AND not_before <= $4
             ORDER BY not_before, id LIMIT $5 FOR UPDATE SKIP LOCKED))
         RETURNING *",
};

/// Whether nothing was delivered to the webhook since then, though it was active all the while.
async fn is_unreachable(tx: &mut Tx, id: Uuid, since: Timestamp) -> Result<bool, StoreError> {
    let row = tx
        .query(
            "SELECT id FROM webhooks
             WHERE id = $1 AND active_since <= $2 AND (delivered_at IS NULL OR delivered_at < $2)",
        )
        .bind(id)
        .time(since)
        .fetch_optional()
        .await?;
    Ok(row.is_some())
}

fn read_message(row: &Row) -> Result<Message, StoreError> {
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
