//! Callbacks: whoever brought an intake is told as its status changes, from the outbox of the
//! webhooks.

use uuid::Uuid;

use crate::{
    domain::{audit::canonical, timestamp::Timestamp, webhook::EventType},
    intake::standing::OpenDsrStatus,
    store::{
        Intake, Keyring, NewCallback, Origin, Store, StoreError,
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
     FROM webhook_messages m
         JOIN intake_callbacks c ON c.id = m.webhook_id
         JOIN intakes i ON i.id = c.intake_id
     WHERE m.state = 'pending' AND m.not_before <= $1 AND ($2 OR i.agent_id IS NOT NULL) LIMIT $3";

impl Store {
    /// Callbacks with messages that may be claimed, `limit` at most; controllers' only where this
    /// process can sign as OpenDSR asks.
    pub async fn callbacks_due(
        &self,
        now: Timestamp,
        can_sign: bool,
        limit: u32,
    ) -> Result<Vec<Uuid>, StoreError> {
        reading!(self, "callbacks_due", async |tx| {
            let due = tx.query(DUE).time(now).bind(can_sign).bind(i64::from(limit));
            due.fetch_all().await?.iter().map(|row| row.uuid("webhook_id")).collect()
        })
    }
}

/// Takes down who is told of a new intake. A controller knows no more than that it is pending; an
/// agent is answered with its status.
pub(super) async fn begin_telling(
    tx: &mut Tx,
    keyring: &Keyring,
    intake: &Intake,
    callbacks: &[NewCallback],
) -> Result<(), StoreError> {
    match intake.origin {
        Origin::Controller { .. } => {
            insert_callbacks(tx, intake.id, callbacks).await?;
            // An intake without any request has no leaf that would tell of it.
            tell(tx, keyring, intake.id, intake.received_at).await
        }
        Origin::Agent { .. } => {
            let status = intake.status();
            set_told(tx, intake.id, status).await?;
            if status.is_final() {
                return Ok(());
            }
            insert_callbacks(tx, intake.id, callbacks).await
        }
    }
}

async fn insert_callbacks(
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
/// became of it, or when it is due instead.
pub(super) async fn fill(tx: &mut Tx, keyring: &Keyring) -> Result<(), StoreError> {
    let (mut changed, mut extended) = (Vec::new(), Vec::new());
    let mut last = None;
    for (leaf, at) in &tx.leaves {
        let requests = match EventType::of(leaf.kind) {
            None
            | Some(
                EventType::DeadlineApproaching | EventType::Settled | EventType::VersionPublished,
            ) => continue,
            Some(EventType::DeadlineExtended) => &mut extended,
            Some(_) => &mut changed,
        };
        requests.extend(leaf.about);
        last = Some(*at);
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
    for row in tx.query(sql).bind_ids(&changed).fetch_all().await? {
        tell(tx, keyring, row.uuid("intake_id")?, at).await?;
    }
    // Section 3.08 of the Data Rights Protocol; OpenDSR tells of a status only.
    let sql = in_keys!(
        "SELECT DISTINCT i.intake_id
         FROM intake_deletions i
             JOIN intakes t ON t.id = i.intake_id AND t.agent_id IS NOT NULL
             JOIN intake_callbacks c ON c.intake_id = i.intake_id
         WHERE i.is_own AND i.deletion_id",
        "1",
        "ORDER BY i.intake_id"
    );
    if !extended.is_empty() {
        for row in tx.query(sql).bind_ids(&extended).fetch_all().await? {
            let intake = find_intake(tx, row.uuid("intake_id")?).await?;
            send(tx, keyring, &intake, EventType::DeadlineExtended, at).await?;
        }
    }
    Ok(())
}

/// Writes a message for each callback of the intake, if its status is another than was told last.
async fn tell(
    tx: &mut Tx,
    keyring: &Keyring,
    intake_id: Uuid,
    at: Timestamp,
) -> Result<(), StoreError> {
    let told: OpenDsrStatus =
        tx.query(TOLD).bind(intake_id).fetch_one().await?.word("told_status")?;
    let intake = find_intake(tx, intake_id).await?;
    let status = intake.status();
    let is_news = match intake.origin {
        Origin::Controller { .. } => status != told,
        // What waits is in progress for an agent.
        Origin::Agent { .. } => status != told && status.is_final(),
    };
    if !is_news {
        return Ok(());
    }
    set_told(tx, intake_id, status).await?;
    send(tx, keyring, &intake, event_type(status), at).await
}

async fn set_told(tx: &mut Tx, intake_id: Uuid, status: OpenDsrStatus) -> Result<(), StoreError> {
    tx.query("UPDATE intakes SET told_status = $1 WHERE id = $2")
        .bind(status.as_str())
        .bind(intake_id)
        .execute_one()
        .await?;
    if status.is_final() {
        let sql = "UPDATE intake_callbacks SET is_final = $1 WHERE intake_id = $2";
        tx.query(sql).bind(true).bind(intake_id).execute().await?;
    }
    Ok(())
}

async fn find_intake(tx: &mut Tx, id: Uuid) -> Result<Intake, StoreError> {
    let intake = read_intake(tx, id).await?;
    intake.ok_or_else(|| tx.damaged("a callback without its intake"))
}

/// Tells each callback of the intake how it stands.
async fn send(
    tx: &mut Tx,
    keyring: &Keyring,
    intake: &Intake,
    event_type: EventType,
    at: Timestamp,
) -> Result<(), StoreError> {
    let sql = "SELECT id, url FROM intake_callbacks WHERE intake_id = $1 ORDER BY id";
    let callbacks = tx.query(sql).bind(intake.id).fetch_all().await?;
    let message = |row: &Row| {
        Ok(NewMessage {
            id: keyring.next_id(at),
            webhook_id: row.uuid("id")?,
            event_type,
            payload: payload(intake, &row.get::<String>("url")?),
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
        "DELETE FROM intake_callbacks WHERE id = $1 AND ($2 OR (is_final AND NOT EXISTS (
             SELECT 1 FROM webhook_messages m
             WHERE m.webhook_id = intake_callbacks.id AND m.state = 'pending')))",
    )
    .bind(id)
    .bind(is_gone)
    .execute()
    .await
    .map(drop)
}

/// Removes callbacks, `limit` at most, that have been told their last: two attempts recorded at the
/// same moment may each have found the other's message still waiting.
pub(super) async fn retire_told_callbacks(tx: &mut Tx, limit: u32) -> Result<(), StoreError> {
    tx.query(
        "DELETE FROM intake_callbacks WHERE id IN (
             SELECT c.id FROM intake_callbacks c
             WHERE c.is_final AND NOT EXISTS (
                 SELECT 1 FROM webhook_messages m
                 WHERE m.webhook_id = c.id AND m.state = 'pending')
             LIMIT $1)",
    )
    .bind(i64::from(limit))
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

/// OpenDSR 2.0, section 8.6; Data Rights Protocol 0.9.4, section 2.03.
fn payload(intake: &Intake, url: &str) -> String {
    let body = match intake.origin {
        Origin::Controller { .. } => serde_json::json!({
            "api_version": "2.0",
            "controller_id": intake.controller_id(),
            "expected_completion_time": intake.due_by,
            "request_status": intake.status(),
            "results_count": intake.samples(),
            "status_callback_url": url,
            "subject_request_id": intake.id,
        }),
        Origin::Agent { .. } => serde_json::json!(intake.exercise_status()),
    };
    canonical(&body)
}
