//! Callbacks: whoever brought an intake is told as its status changes, from the outbox of the
//! webhooks.

use uuid::Uuid;

use crate::{
    domain::{audit::canonical, timestamp::Timestamp, webhook::EventType},
    intake::standing::OpenDsrStatus,
    store::{
        Intake, Keyring, NewCallback, Store, StoreError,
        intakes::read_intake,
        outbox::{self, NewMessage},
        row::Row,
        sql::{Sql, in_keys},
        transaction::{Tx, reading},
    },
};

/// Locked, so that of two transactions that end requests of one intake the later sees both ended.
const TOLD: Sql = Sql {
    sqlite: "SELECT told_status FROM intakes WHERE id = $1",
    postgres: "SELECT told_status FROM intakes WHERE id = $1 FOR NO KEY UPDATE",
};

/// Driven by the messages that wait, not by the callbacks, of which there may be many.
const DUE: &str = "SELECT DISTINCT m.webhook_id
     FROM webhook_messages m JOIN intake_callbacks c ON c.id = m.webhook_id
     WHERE m.state = 'pending' AND m.not_before <= $1 LIMIT $2";

impl Store {
    /// Callbacks with messages that may be claimed, `limit` at most.
    pub async fn callbacks_due(&self, now: Timestamp, limit: u32) -> Result<Vec<Uuid>, StoreError> {
        reading!(self, "callbacks_due", async |tx| {
            let rows = tx.query(DUE).time(now).bind(i64::from(limit)).fetch_all().await?;
            rows.iter().map(|row| row.uuid("webhook_id")).collect()
        })
    }
}

pub(super) async fn insert_callbacks(
    tx: &mut Tx,
    intake_id: Uuid,
    callbacks: &[NewCallback],
) -> Result<(), StoreError> {
    for NewCallback { id, url } in callbacks {
        tx.query("INSERT INTO intake_callbacks (id, intake_id, url) VALUES ($1, $2, $3)")
            .bind(*id)
            .bind(intake_id)
            .bind(url.as_str())
            .execute_one()
            .await?;
    }
    Ok(())
}

/// Tells of the intakes that depend on a request of which one of the transaction's leaves says what
/// became of it.
pub(super) async fn fill(tx: &mut Tx, keyring: &Keyring) -> Result<(), StoreError> {
    let mut requests = Vec::new();
    let mut last = None;
    for (leaf, at) in &tx.leaves {
        match EventType::of(leaf.kind) {
            None
            | Some(
                EventType::DeadlineApproaching
                | EventType::DeadlineExtended
                | EventType::Settled
                | EventType::VersionPublished,
            ) => {}
            Some(_) => {
                requests.extend(leaf.about);
                last = Some(*at);
            }
        }
    }
    let Some(at) = last else { return Ok(()) };
    // In one order, since each is locked.
    let sql = in_keys!(
        "SELECT DISTINCT i.intake_id
         FROM intake_deletions i JOIN intake_callbacks c ON c.intake_id = i.intake_id
         WHERE i.deletion_id",
        "1",
        "ORDER BY i.intake_id"
    );
    for row in tx.query(sql).bind_ids(&requests).fetch_all().await? {
        tell(tx, keyring, row.uuid("intake_id")?, at).await?;
    }
    Ok(())
}

/// Writes a message for each callback of the intake, if its status is another than was told last.
pub(super) async fn tell(
    tx: &mut Tx,
    keyring: &Keyring,
    intake_id: Uuid,
    at: Timestamp,
) -> Result<(), StoreError> {
    let told: OpenDsrStatus =
        tx.query(TOLD).bind(intake_id).fetch_one().await?.word("told_status")?;
    let intake = read_intake(tx, intake_id).await?;
    let intake = intake.ok_or_else(|| tx.damaged("a callback without its intake"))?;
    let status = intake.status();
    if status == told {
        return Ok(());
    }
    tx.query("UPDATE intakes SET told_status = $1 WHERE id = $2")
        .bind(status.as_str())
        .bind(intake_id)
        .execute_one()
        .await?;
    let sql = "SELECT id, url FROM intake_callbacks WHERE intake_id = $1 ORDER BY id";
    let callbacks = tx.query(sql).bind(intake_id).fetch_all().await?;
    let message = |row: &Row| {
        Ok(NewMessage {
            id: keyring.next_id(at),
            webhook_id: row.uuid("id")?,
            event_type: event_type(status),
            payload: payload(&intake, status, &row.get::<String>("url")?),
            created_at: at,
        })
    };
    let messages = callbacks.iter().map(message).collect::<Result<_, StoreError>>()?;
    outbox::insert(tx, messages).await
}

/// Removes a callback, and with it the address, once its intake's last status was delivered or given
/// up, or its receiver wants to hear nothing more. Nothing happens to a webhook.
pub(super) async fn retire_callback(
    tx: &mut Tx,
    id: Uuid,
    is_gone: bool,
) -> Result<(), StoreError> {
    tx.query(
        "DELETE FROM intake_callbacks WHERE id = $1 AND ($2 OR (
             EXISTS (
                 SELECT 1 FROM intakes i
                 WHERE i.id = intake_callbacks.intake_id
                     AND i.told_status IN ('completed', 'cancelled'))
             AND NOT EXISTS (
                 SELECT 1 FROM webhook_messages m
                 WHERE m.webhook_id = intake_callbacks.id AND m.state = 'pending')))",
    )
    .bind(id)
    .bind(is_gone)
    .execute()
    .await
    .map(drop)
}

/// The nearest of the webhooks' words.
const fn event_type(status: OpenDsrStatus) -> EventType {
    match status {
        OpenDsrStatus::Pending => EventType::Queued,
        OpenDsrStatus::InProgress => EventType::Unlearning,
        OpenDsrStatus::Completed => EventType::Completed,
        OpenDsrStatus::Cancelled => EventType::Cancelled,
    }
}

/// OpenDSR 2.0, section 8.6.
fn payload(intake: &Intake, status: OpenDsrStatus, url: &str) -> String {
    canonical(&serde_json::json!({
        "api_version": "2.0",
        "controller_id": intake.api_key_id.unwrap_or(Uuid::nil()),
        "expected_completion_time": intake.due_by,
        "request_status": status,
        "results_count": intake.samples(),
        "status_callback_url": url,
        "subject_request_id": intake.id,
    }))
}
