//! Delivering what the outbox holds: messages are claimed for a while, and what came of an attempt
//! is recorded under the claim.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    domain::{
        timestamp::Timestamp,
        webhook::{DisabledReason, Failure, Message, MessageState, WebhookSecret},
    },
    store::{
        Keyring, Store, StoreError,
        callbacks::retire_callback,
        jobs::AT_ONCE,
        outbox::read_message,
        sql::Sql,
        transaction::{Tx, reading, writing},
        webhooks::{disable_webhook, read_previous_secret, read_secret},
    },
};

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
    /// OpenDSR's processor: a callback of a controller.
    OpenDsr,
    /// Nobody: a callback of an agent, of which the Data Rights Protocol asks for no signature.
    Nobody,
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
    let sql = "SELECT c.url, i.agent_id
         FROM intake_callbacks c JOIN intakes i ON i.id = c.intake_id WHERE c.id = $1";
    let Some(row) = tx.query(sql).bind(id).fetch_optional().await? else { return Ok(None) };
    let signing = match row.get::<Option<String>>("agent_id")? {
        Some(_) => Signing::Nobody,
        None => Signing::OpenDsr,
    };
    Ok(Some((row.get("url")?, signing)))
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
