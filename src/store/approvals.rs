//! Requests that delete so much that an administrator must approve them.

use uuid::Uuid;

use crate::{
    domain::{
        audit::AuditKind,
        deletion::{DeletionState, Target},
        timestamp::Timestamp,
    },
    store::{
        NewDeletion, Store, StoreError,
        acceptance::{insert_claims, record_entry},
        deletions::{DeletionDetails, read_details},
        intakes::follow_earlier,
        quotas::Quotas,
        resolution::{NamedSample, Resolved, count_train, resolve},
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
            let facts = serde_json::json!({"by": by});
            tx.record(now, AuditKind::DeletionApproved, model_id, id, facts);
            let suspended = read_details(tx, id).await?;
            let suspended = suspended.ok_or_else(|| tx.damaged("a request that vanished"))?;
            let details = resolve_again(tx, suspended).await?;
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

/// The suspended request as if it came now, with nobody left to ask.
async fn resolve_again(
    tx: &mut Tx,
    suspended: DeletionDetails,
) -> Result<DeletionDetails, StoreError> {
    let DeletionDetails { request, model, targets, .. } = suspended;
    let new = NewDeletion {
        id: request.id,
        model_id: request.model_id,
        model,
        targets: targets.iter().map(|it| Target { kind: it.kind, key: it.key }).collect(),
        requester: None,
        approval_above_share: None,
        received_at: request.received_at,
        due_by: request.due_by,
        idempotency: None,
    };
    let resolved = resolve(tx, &[&new], &Quotas::default()).await?.pop();
    let Some(Ok(resolved)) = resolved else {
        return Err(tx.damaged("a request of nobody that goes beyond a quota"));
    };
    let (state, samples) = (resolved.details.request.state, resolved.details.request.samples);
    tx.query("UPDATE deletion_requests SET state = $1, samples = $2, reason = NULL WHERE id = $3")
        .bind(state.as_str())
        .count(samples)
        .bind(new.id)
        .execute_one()
        .await?;
    let sql = "DELETE FROM deletion_targets WHERE deletion_id = $1";
    tx.query(sql).bind(new.id).execute().await?;
    insert_claims(tx, &[&resolved]).await?;
    Ok(resolved.details)
}

/// Whether the samples that the request is to claim are more than the policy's share of all train
/// samples that those before it leave, and if so, in words.
pub(super) async fn reason_to_suspend(
    tx: &mut Tx,
    new: &NewDeletion,
    claims: &[NamedSample],
    earlier: &[&Resolved<'_>],
) -> Result<Option<String>, StoreError> {
    let Some(share) = new.approval_above_share else { return Ok(None) };
    let claimed = count_train(claims) as f64;
    let of_model = earlier.iter().filter(|it| it.new.model_id == new.model_id);
    let taken = of_model.map(|it| count_train(&it.claims)).sum::<u64>() as f64;
    // With so many it is no more than its share; no need to count them all. One is more than a share
    // of nothing, however many there are.
    let enough = if share > 0.0 { (claimed / share).min(1e15).ceil() + 1.0 } else { 0.0 };
    #[expect(clippy::cast_possible_truncation, reason = "bounded and whole")]
    let limit = (enough + taken) as i64;
    let row = tx
        .query(
            "SELECT COUNT(*) AS samples FROM (
                 SELECT id FROM samples
                 WHERE model_id = $1 AND split = 'train' AND deleted_at IS NULL
                     AND deletion_id IS NULL
                 LIMIT $2) AS free",
        )
        .bind(new.model_id)
        .bind(limit)
        .fetch_one()
        .await?;
    let all = row.get::<i64>("samples")? as f64 - taken;
    Ok((claimed > share * all).then(|| {
        let of_all = if share > 0.0 { format!(" of {all}") } else { String::new() };
        format!(
            "it names {claimed}{of_all} training samples, more than the policy's share of \
             {share}: an administrator must approve it"
        )
    }))
}
