//! Deletion requests: reading, cancelling, and what keeps deleted samples out.

use uuid::Uuid;

use crate::{
    domain::{
        audit::AuditKind,
        deletion::{DeletionRequest, DeletionState, Target, TargetKind, TargetOutcome},
        identity::Pseudonym,
        model::ModelName,
        timestamp::Timestamp,
    },
    store::{
        Store, StoreError,
        models::read_name,
        row::Row,
        transaction::{Tx, reading, writing},
    },
};

#[derive(Clone, Debug, PartialEq)]
pub struct DeletionDetails {
    pub request: DeletionRequest,
    pub model: ModelName,
    /// In the order of the request.
    pub targets: Vec<TargetOutcome>,
    /// As `unlearning` measured it for the batch.
    pub evidence: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Default)]
pub struct DeletionFilter {
    pub model_id: Option<Uuid>,
    pub state: Option<DeletionState>,
    /// Inclusive.
    pub received_from: Option<Timestamp>,
    /// Exclusive.
    pub received_until: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancellation {
    Cancelled,
    NotQueued(DeletionState),
    /// An open request names the whole subject of some of its samples, and counts on it for those.
    NeededByAnother,
    Unknown,
}

macro_rules! requests {
    ($condition:literal) => {
        concat!(
            "SELECT r.*, m.name AS model_name
             FROM deletion_requests r JOIN models m ON m.id = r.model_id
             WHERE ",
            $condition,
            " r.id < $1 AND r.received_at >= $2 AND r.received_at < $3
             ORDER BY r.id DESC LIMIT $4"
        )
    };
}

impl Store {
    pub async fn deletion(&self, id: Uuid) -> Result<Option<DeletionDetails>, StoreError> {
        reading!(self, "deletion", async |tx| read_details(tx, id).await)
    }

    /// Newest first (id descending), before `before`. Targets are not loaded for lists.
    pub async fn deletions(
        &self,
        filter: &DeletionFilter,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<(DeletionRequest, ModelName)>, StoreError> {
        // Each choice has an index of its own; one statement with optional conditions has none.
        let sql = match (filter.model_id, filter.state) {
            (None, None) => requests!(""),
            (Some(_), None) => requests!("r.model_id = $5 AND"),
            (None, Some(_)) => requests!("r.state = $5 AND"),
            (Some(_), Some(_)) => requests!("r.model_id = $5 AND r.state = $6 AND"),
        };
        reading!(self, "deletions", async |tx| {
            let mut statement = tx
                .query(sql)
                .bind(before.unwrap_or(Uuid::max()))
                .time(filter.received_from.unwrap_or(Timestamp::from_micros(i64::MIN)))
                .time(filter.received_until.unwrap_or(Timestamp::from_micros(i64::MAX)))
                .bind(i64::from(limit));
            if let Some(model_id) = filter.model_id {
                statement = statement.bind(model_id);
            }
            if let Some(state) = filter.state {
                statement = statement.bind(state.as_str());
            }
            let rows = statement.fetch_all().await?;
            rows.iter().map(|row| Ok((read_request(row)?, read_name(row, "model_name")?))).collect()
        })
    }

    /// Withdraws a suspended or queued request and its tombstones; its samples are free again.
    pub async fn cancel_deletion(
        &self,
        id: Uuid,
        now: Timestamp,
        by: Option<Uuid>,
    ) -> Result<Cancellation, StoreError> {
        writing!(self, "cancel_deletion", async |tx| {
            let sql = "SELECT model_id FROM deletion_requests WHERE id = $1";
            let row = tx.query(sql).bind(id).fetch_optional().await?;
            let Some(row) = row else { return Ok(Cancellation::Unknown) };
            let model_id = row.uuid("model_id")?;
            tx.lock_model(model_id).await?;
            let sql = "SELECT state FROM deletion_requests WHERE id = $1";
            let state: DeletionState = tx.query(sql).bind(id).fetch_one().await?.word("state")?;
            if !state.can_become(DeletionState::Cancelled) {
                return Ok(Cancellation::NotQueued(state));
            }
            if is_needed_by_another(tx, id).await? {
                return Ok(Cancellation::NeededByAnother);
            }
            withdraw(tx, id, model_id, now, by).await?;
            Ok(Cancellation::Cancelled)
        })
    }

    /// Requests that wait or are being served.
    pub async fn queue_depth(&self) -> Result<u64, StoreError> {
        reading!(self, "queue_depth", async |tx| {
            let mut depth = 0;
            for state in DeletionState::ALL.into_iter().filter(|state| !state.is_final()) {
                let sql = "SELECT COUNT(*) AS open FROM deletion_requests WHERE state = $1";
                let row = tx.query(sql).bind(state.as_str()).fetch_one().await?;
                depth += row.count::<u64>("open")?;
            }
            Ok(depth)
        })
    }

    /// Lets a deleted sample or subject be ingested again; with a subject, also those of its
    /// samples that the same request deleted. False when there is no such tombstone.
    pub async fn lift_tombstone(
        &self,
        model_id: Uuid,
        target: Target,
        by: Option<Uuid>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        writing!(self, "lift_tombstone", async |tx| {
            tx.lock_model(model_id).await?;
            let lifted = match target.kind {
                TargetKind::Sample => readmit_sample(tx, model_id, target.key, now).await?,
                TargetKind::Subject => readmit_subject(tx, model_id, target.key, now).await?,
            };
            let Some(deletion_id) = lifted else { return Ok(false) };
            let details = serde_json::json!({"by": by, "kind": target.kind, "key": target.key});
            tx.record(now, AuditKind::TombstoneLifted, model_id, deletion_id, details);
            Ok(true)
        })
    }
}

/// Returns the request that deletes or deleted the sample, if it was kept out.
async fn readmit_sample(
    tx: &mut Tx,
    model_id: Uuid,
    key: Pseudonym,
    now: Timestamp,
) -> Result<Option<Uuid>, StoreError> {
    let row = tx
        .query(
            "UPDATE samples SET readmitted_at = $1
             WHERE model_id = $2 AND sample_key = $3 AND deletion_id IS NOT NULL
                 AND readmitted_at IS NULL
             RETURNING deletion_id",
        )
        .time(now)
        .bind(model_id)
        .key(&key)
        .fetch_optional()
        .await?;
    row.map(|row| row.uuid("deletion_id")).transpose()
}

/// Returns the request that named the subject, if it was kept out.
async fn readmit_subject(
    tx: &mut Tx,
    model_id: Uuid,
    key: Pseudonym,
    now: Timestamp,
) -> Result<Option<Uuid>, StoreError> {
    let row = tx
        .query(
            "DELETE FROM tombstones WHERE model_id = $1 AND subject_key = $2 RETURNING deletion_id",
        )
        .bind(model_id)
        .key(&key)
        .fetch_optional()
        .await?;
    let Some(row) = row else { return Ok(None) };
    let deletion_id = row.uuid("deletion_id")?;
    tx.query(
        "UPDATE samples SET readmitted_at = $1
         WHERE model_id = $2 AND subject_key = $3 AND deletion_id = $4 AND readmitted_at IS NULL",
    )
    .time(now)
    .bind(model_id)
    .key(&key)
    .bind(deletion_id)
    .execute()
    .await?;
    Ok(Some(deletion_id))
}

/// Cancels a request that may be cancelled, of a model that is locked.
pub(super) async fn withdraw(
    tx: &mut Tx,
    id: Uuid,
    model_id: Uuid,
    now: Timestamp,
    by: Option<Uuid>,
) -> Result<(), StoreError> {
    tx.query("UPDATE deletion_requests SET state = $1 WHERE id = $2")
        .bind(DeletionState::Cancelled.as_str())
        .bind(id)
        .execute_one()
        .await?;
    release_samples(tx, id).await?;
    tx.query("DELETE FROM tombstones WHERE deletion_id = $1").bind(id).execute().await?;
    tx.record(now, AuditKind::DeletionCancelled, model_id, id, serde_json::json!({"by": by}));
    Ok(())
}

/// Whether an open request names the whole subject of a sample that this one deletes: without it,
/// the sample would stay although its subject is to be forgotten.
/// (`SQLite` takes a CROSS JOIN as it stands, instead of walking all targets.)
pub(super) async fn is_needed_by_another(
    tx: &mut Tx,
    deletion_id: Uuid,
) -> Result<bool, StoreError> {
    let other = tx
        .query(
            "SELECT r.id FROM deletion_samples d
                 CROSS JOIN samples s CROSS JOIN tombstones b
                 CROSS JOIN deletion_targets t CROSS JOIN deletion_requests r
             WHERE d.deletion_id = $1 AND s.id = d.sample_id
                 AND b.model_id = s.model_id AND b.subject_key = s.subject_key
                 AND t.key = s.subject_key AND t.kind = 'subject' AND t.samples > 0
                 AND r.id = t.deletion_id AND r.id <> $1 AND r.model_id = s.model_id
                 AND r.state IN ('queued', 'unlearning') LIMIT 1",
        )
        .bind(deletion_id)
        .fetch_optional()
        .await?;
    Ok(other.is_some())
}

/// The request deletes its samples no more.
pub(super) async fn release_samples(tx: &mut Tx, deletion_id: Uuid) -> Result<(), StoreError> {
    tx.query(
        "UPDATE samples SET deletion_id = NULL, readmitted_at = NULL
         WHERE deletion_id = $1 AND deleted_at IS NULL AND id IN (
             SELECT sample_id FROM deletion_samples WHERE deletion_id = $1)",
    )
    .bind(deletion_id)
    .execute()
    .await
    .map(drop)
}

pub(super) async fn read_details(
    tx: &mut Tx,
    id: Uuid,
) -> Result<Option<DeletionDetails>, StoreError> {
    let row = tx
        .query(
            "SELECT r.*, m.name AS model_name, j.evidence
             FROM deletion_requests r
                 JOIN models m ON m.id = r.model_id
                 LEFT JOIN jobs j ON j.id = r.batch_id
             WHERE r.id = $1",
        )
        .bind(id)
        .fetch_optional()
        .await?;
    let Some(row) = row else { return Ok(None) };
    let evidence: Option<sqlx::types::Json<serde_json::Value>> = row.get("evidence")?;
    let targets = tx
        .query(
            "SELECT kind, key, samples, rejection FROM deletion_targets
             WHERE deletion_id = $1 ORDER BY position",
        )
        .bind(id)
        .fetch_all()
        .await?;
    Ok(Some(DeletionDetails {
        request: read_request(&row)?,
        model: read_name(&row, "model_name")?,
        targets: targets.iter().map(read_target).collect::<Result<_, _>>()?,
        evidence: evidence.map(|json| json.0),
    }))
}

fn read_target(row: &Row) -> Result<TargetOutcome, StoreError> {
    Ok(TargetOutcome {
        kind: row.word("kind")?,
        key: row.key("key")?,
        samples: row.count("samples")?,
        rejection: row.word_or_none("rejection")?,
    })
}

fn read_request(row: &Row) -> Result<DeletionRequest, StoreError> {
    Ok(DeletionRequest {
        id: row.uuid("id")?,
        model_id: row.uuid("model_id")?,
        state: row.word("state")?,
        reason: row.get("reason")?,
        guarantee: row.word_or_none("guarantee")?,
        samples: row.count("samples")?,
        batch_id: row.get("batch_id")?,
        excluded_from_epoch: row.count_or_none("excluded_from_epoch")?,
        attempts: row.count("attempts")?,
        received_at: row.time("received_at")?,
        due_by: row.time("due_by")?,
        first_due_by: row.time_or_none("first_due_by")?,
        extension_reason: row.word_or_none("extension_reason")?,
        completed_at: row.time_or_none("completed_at")?,
        settled_at: row.time_or_none("settled_at")?,
    })
}
