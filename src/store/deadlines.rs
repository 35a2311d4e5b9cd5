//! Deadlines: warning before one is missed, and extending one.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    domain::{
        audit::AuditKind,
        deletion::{DeletionState, NewDeadline},
        timestamp::Timestamp,
    },
    store::{
        Store, StoreError,
        claims::find_model,
        transaction::{reading, writing},
    },
};

/// Requests that one transaction warns of; the next goes on.
const PAGE: u32 = 1_000;

/// Open requests of a model and the time that is left to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Due soon, but not yet.
    pub near: u64,
    /// Due by now, and not done.
    pub missed: u64,
    /// Of both, those that nobody was warned of.
    pub unwarned: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    Extended,
    /// It is done, or has ended otherwise.
    NotOpen(DeletionState),
    /// The deadline has passed: it was missed.
    Missed {
        due_by: Timestamp,
    },
    /// It was extended as often as the policy allows.
    Exhausted {
        limit: u32,
    },
    /// The new deadline must lie after the present one and no later than `latest`.
    OutOfRange {
        due_by: Timestamp,
        latest: Timestamp,
    },
    Unknown,
}

impl Store {
    /// How the model's open requests stand; those due up to `soon` are near their deadline.
    pub async fn deadlines(
        &self,
        model_id: Uuid,
        soon: Timestamp,
        now: Timestamp,
    ) -> Result<Deadlines, StoreError> {
        reading!(self, "deadlines", async |tx| {
            let row = tx
                .query(
                    "SELECT COUNT(*) AS due,
                         COUNT(CASE WHEN due_by <= $3 THEN 1 END) AS missed,
                         COUNT(CASE WHEN warned_at IS NULL THEN 1 END) AS unwarned
                     FROM deletion_requests
                     WHERE model_id = $1 AND state IN ('suspended', 'queued', 'unlearning')
                         AND due_by <= $2",
                )
                .bind(model_id)
                .time(soon)
                .time(now)
                .fetch_one()
                .await?;
            let (due, missed): (u64, u64) = (row.count("due")?, row.count("missed")?);
            Ok(Deadlines {
                near: due.saturating_sub(missed),
                missed,
                unwarned: row.count("unwarned")?,
            })
        })
    }

    /// Records, once for each deadline, that it is near: of open requests due up to `soon`.
    /// Returns of how many.
    pub async fn warn_of_deadlines(
        &self,
        model_id: Uuid,
        soon: Timestamp,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        writing!(self, "warn_of_deadlines", async |tx| {
            tx.lock_model(model_id).await?;
            let rows = tx
                .query(
                    "UPDATE deletion_requests SET warned_at = $1 WHERE id IN (
                         SELECT id FROM deletion_requests
                         WHERE model_id = $2 AND state IN ('suspended', 'queued', 'unlearning')
                             AND due_by <= $3 AND warned_at IS NULL
                         ORDER BY due_by LIMIT $4)
                     RETURNING id, due_by",
                )
                .time(now)
                .bind(model_id)
                .time(soon)
                .bind(i64::from(PAGE))
                .fetch_all()
                .await?;
            for row in &rows {
                let details = serde_json::json!({"due_by": row.time("due_by")?});
                let id = row.uuid("id")?;
                tx.record(now, AuditKind::DeadlineApproaching, model_id, id, details);
            }
            Ok(rows.len() as u64)
        })
    }

    /// Moves the deadline of an open request back, as far and as often as the model's policy allows.
    /// `by` is the administrator's key, for the record.
    pub async fn extend_deadline(
        &self,
        id: Uuid,
        new: &NewDeadline,
        by: Option<Uuid>,
        now: Timestamp,
    ) -> Result<Extension, StoreError> {
        writing!(self, "extend_deadline", async |tx| {
            let sql = "SELECT model_id FROM deletion_requests WHERE id = $1";
            let row = tx.query(sql).bind(id).fetch_optional().await?;
            let Some(row) = row else { return Ok(Extension::Unknown) };
            let model_id = row.uuid("model_id")?;
            tx.lock_model(model_id).await?;
            let policy = find_model(tx, model_id).await?.policy.extension;
            let sql = "SELECT state, due_by, first_due_by, extensions FROM deletion_requests
                 WHERE id = $1";
            let row = tx.query(sql).bind(id).fetch_one().await?;
            let (state, due_by): (DeletionState, _) = (row.word("state")?, row.time("due_by")?);
            let first_due_by = row.time_or_none("first_due_by")?.unwrap_or(due_by);
            let latest = first_due_by.plus(Duration::from_hours(24) * policy.days_max);
            if state.is_final() {
                return Ok(Extension::NotOpen(state));
            }
            if due_by <= now {
                return Ok(Extension::Missed { due_by });
            }
            if row.count::<u32>("extensions")? >= policy.times_max {
                return Ok(Extension::Exhausted { limit: policy.times_max });
            }
            if new.due_by <= due_by || new.due_by > latest {
                return Ok(Extension::OutOfRange { due_by, latest });
            }
            tx.query(
                "UPDATE deletion_requests SET due_by = $1, first_due_by = $2,
                     extensions = extensions + 1, extension_reason = $3, warned_at = NULL
                 WHERE id = $4",
            )
            .time(new.due_by)
            .time(first_due_by)
            .bind(new.reason.as_str())
            .bind(id)
            .execute_one()
            .await?;
            let details = serde_json::json!({
                "by": by,
                "due_by": new.due_by,
                "previous_due_by": due_by,
                "reason": new.reason,
            });
            tx.record(now, AuditKind::DeadlineExtended, model_id, id, details);
            Ok(Extension::Extended)
        })
    }
}
