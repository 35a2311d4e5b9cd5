//! The leaves that a certificate of deletion rests on.

use serde::Deserialize;
use uuid::Uuid;

use crate::{
    domain::audit::AuditEvent,
    store::{
        Store, StoreError,
        audit::read_event,
        deletions::{DeletionDetails, read_details},
        transaction::{Tx, reading},
    },
};

/// A deletion request and what the log says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct DeletionRecord {
    pub details: DeletionDetails,
    /// In the log's order: the model's creation, the request's own events, its batch with its
    /// version, the settlement's version, and the destruction of superseded weights.
    pub events: Vec<AuditEvent>,
}

macro_rules! events_of {
    ($condition:literal) => {
        concat!(
            "SELECT idx, leaf_hash, entry FROM audit_events WHERE ",
            $condition,
            " ORDER BY idx"
        )
    };
}

impl Store {
    /// `None` when there is no such request. The events of one that is not completed are those
    /// so far.
    pub async fn deletion_record(&self, id: Uuid) -> Result<Option<DeletionRecord>, StoreError> {
        reading!(self, "deletion_record", async |tx| {
            let Some(details) = read_details(tx, id).await? else { return Ok(None) };
            let created = events_of!("about = $1 AND kind = 'model.created'");
            let mut events = events_about(tx, created, details.request.model_id).await?;
            let own = events_about(tx, events_of!("about = $1"), id).await?;
            let settled_by = own.iter().find_map(|event| settlement_in(&event.entry));
            events.extend(own);
            if let Some(batch_id) = details.request.batch_id {
                const OF_BATCH: &str = events_of!(
                    "about = $1 AND kind IN
                         ('batch.published', 'version.published', 'version.weights_removed')"
                );
                events.extend(events_about(tx, OF_BATCH, batch_id).await?);
                if let Some(parent) = parent_job(tx, batch_id).await? {
                    const REMOVED: &str =
                        events_of!("about = $1 AND kind = 'version.weights_removed'");
                    events.extend(events_about(tx, REMOVED, parent).await?);
                }
            }
            if let Some(job_id) = settled_by {
                const PUBLISHED: &str = events_of!("about = $1 AND kind = 'version.published'");
                events.extend(events_about(tx, PUBLISHED, job_id).await?);
            }
            events.sort_unstable_by_key(|event| event.index);
            Ok(Some(DeletionRecord { details, events }))
        })
    }
}

async fn events_about(
    tx: &mut Tx,
    sql: &'static str,
    about: Uuid,
) -> Result<Vec<AuditEvent>, StoreError> {
    tx.query(sql).bind(about).fetch_all().await?.iter().map(read_event).collect()
}

/// The job of the version that the batch's version was made from.
async fn parent_job(tx: &mut Tx, batch_id: Uuid) -> Result<Option<Uuid>, StoreError> {
    let row = tx
        .query(
            "SELECT p.job_id FROM versions v
                 JOIN versions p ON p.model_id = v.model_id AND p.epoch = v.parent_epoch
             WHERE v.job_id = $1",
        )
        .bind(batch_id)
        .fetch_optional()
        .await?;
    row.map(|row| row.uuid("job_id")).transpose()
}

/// The job named by a leaf `deletion.settled`.
fn settlement_in(entry: &str) -> Option<Uuid> {
    #[derive(Deserialize)]
    struct Settled {
        kind: String,
        details: Details,
    }
    #[derive(Deserialize)]
    struct Details {
        job: Uuid,
    }
    let settled: Settled = serde_json::from_str(entry).ok()?;
    (settled.kind == "deletion.settled").then_some(settled.details.job)
}
