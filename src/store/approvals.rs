//! Requests that delete so much that an administrator must approve them.

use uuid::Uuid;

use crate::{
    domain::{audit::AuditKind, deletion::DeletionState, timestamp::Timestamp},
    store::{
        NewDeletion, Store, StoreError,
        acceptance::{claim_samples, judge_targets, record_entry, set_states},
        deletions::{read_details, release_samples},
        intakes::follow_earlier,
        transaction::{Tx, writing},
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Done,
    NotSuspended(DeletionState),
    Unknown,
}

impl Store {
    /// The suspended request goes on as if it had come in now, but for its `due_by`: `queued`, or
    /// `rejected` when others have deleted all of it meanwhile. `by` is the administrator's key,
    /// for the record.
    pub async fn approve_deletion(
        &self,
        id: Uuid,
        by: Option<Uuid>,
        now: Timestamp,
    ) -> Result<Decision, StoreError> {
        writing!(self, "approve_deletion", async |tx| {
            let model_id = match find_suspended(tx, id).await? {
                Ok(model_id) => model_id,
                Err(other) => return Ok(other),
            };
            claim_samples(tx, &[id]).await?;
            judge_targets(tx, &[id]).await?;
            set_states(tx, &[id]).await?;
            let facts = serde_json::json!({"by": by});
            tx.record(now, AuditKind::DeletionApproved, model_id, id, facts);
            let details = read_details(tx, id).await?;
            let details = details.ok_or_else(|| tx.damaged("a request that vanished"))?;
            record_entry(tx, &details, now);
            follow_earlier(tx, id).await?;
            tx.wake();
            Ok(Decision::Done)
        })
    }

    /// The suspended request is rejected; each of its targets says so.
    pub async fn refuse_deletion(
        &self,
        id: Uuid,
        by: Option<Uuid>,
        now: Timestamp,
    ) -> Result<Decision, StoreError> {
        writing!(self, "refuse_deletion", async |tx| {
            let model_id = match find_suspended(tx, id).await? {
                Ok(model_id) => model_id,
                Err(other) => return Ok(other),
            };
            tx.query(
                "UPDATE deletion_targets SET samples = 0, rejection = 'refused'
                 WHERE deletion_id = $1 AND rejection IS NULL",
            )
            .bind(id)
            .execute()
            .await?;
            tx.query(
                "UPDATE deletion_requests SET state = 'rejected', samples = 0, reason = NULL
                 WHERE id = $1",
            )
            .bind(id)
            .execute_one()
            .await?;
            let details = serde_json::json!({"by": by});
            tx.record(now, AuditKind::DeletionRefused, model_id, id, details);
            Ok(Decision::Done)
        })
    }
}

/// Locks the model and returns it, if the request is suspended.
async fn find_suspended(tx: &mut Tx, id: Uuid) -> Result<Result<Uuid, Decision>, StoreError> {
    let sql = "SELECT model_id FROM deletion_requests WHERE id = $1";
    let row = tx.query(sql).bind(id).fetch_optional().await?;
    let Some(row) = row else { return Ok(Err(Decision::Unknown)) };
    let model_id = row.uuid("model_id")?;
    tx.lock_model(model_id).await?;
    let sql = "SELECT state FROM deletion_requests WHERE id = $1";
    let state: DeletionState = tx.query(sql).bind(id).fetch_one().await?.word("state")?;
    Ok(match state {
        DeletionState::Suspended => Ok(model_id),
        other => Err(Decision::NotSuspended(other)),
    })
}

/// Whether the samples that the request has claimed are more than the policy's share of all train
/// samples, and if so, in words.
pub(super) async fn reason_to_suspend(
    tx: &mut Tx,
    new: &NewDeletion,
) -> Result<Option<String>, StoreError> {
    let Some(share) = new.approval_above_share else { return Ok(None) };
    let row = tx
        .query(
            "SELECT COUNT(*) AS samples
             FROM deletion_samples d JOIN samples s ON s.id = d.sample_id
             WHERE d.deletion_id = $1 AND s.split = 'train'",
        )
        .bind(new.id)
        .fetch_one()
        .await?;
    let claimed: u32 = row.count("samples")?;
    // With so many others it is no more than its share; no need to count them all.
    let enough = (f64::from(claimed) / share - f64::from(claimed)).min(1e15).ceil() + 1.0;
    #[expect(clippy::cast_possible_truncation, reason = "bounded and whole")]
    let enough = enough as i64;
    let row = tx
        .query(
            "SELECT COUNT(*) AS samples FROM (
                 SELECT id FROM samples
                 WHERE model_id = $1 AND split = 'train' AND deleted_at IS NULL
                     AND deletion_id IS NULL
                 LIMIT $2) AS others",
        )
        .bind(new.model_id)
        .bind(enough)
        .fetch_one()
        .await?;
    let all = i64::from(claimed) + row.get::<i64>("samples")?;
    let is_above = f64::from(claimed) > share * all as f64;
    Ok(is_above.then(|| {
        format!(
            "it names {claimed} of {all} training samples, more than the policy's share of \
             {share}: an administrator must approve it"
        )
    }))
}

/// Sets the request aside until somebody decides; what it has claimed it lets go.
pub(super) async fn suspend(tx: &mut Tx, id: Uuid, reason: &str) -> Result<(), StoreError> {
    withdraw_claims(tx, id).await?;
    tx.query("UPDATE deletion_requests SET state = 'suspended', reason = $1 WHERE id = $2")
        .bind(reason)
        .bind(id)
        .execute_one()
        .await
}

/// The request leaves everything as it was before it came, but for its own rows.
async fn withdraw_claims(tx: &mut Tx, id: Uuid) -> Result<(), StoreError> {
    release_samples(tx, id).await?;
    for sql in [
        "DELETE FROM tombstones WHERE deletion_id = $1",
        "DELETE FROM deletion_samples WHERE deletion_id = $1",
    ] {
        tx.query(sql).bind(id).execute().await?;
    }
    Ok(())
}
