//! The audit log: an append-only table of leaves, dense from index 0.

use uuid::Uuid;

use crate::{
    domain::audit::{AuditEvent, leaf_hash},
    store::{
        Store, StoreError, postgres,
        row::Row,
        sqlite,
        transaction::{Dialect, Tx, reading},
    },
};

#[derive(Clone, Copy, Debug, Default)]
pub struct AuditFilter {
    pub model_id: Option<Uuid>,
    /// The model, deletion request, job or API key that the event is about.
    pub about: Option<Uuid>,
}

macro_rules! events {
    ($condition:literal) => {
        concat!(
            "SELECT idx, leaf_hash, entry FROM audit_events WHERE ",
            $condition,
            " idx >= $1 ORDER BY idx LIMIT $2"
        )
    };
}

impl Store {
    /// In order, from index `from`.
    pub async fn audit_events(
        &self,
        filter: &AuditFilter,
        from: u64,
        limit: u32,
    ) -> Result<Vec<AuditEvent>, StoreError> {
        // Each choice has an index of its own; one statement with optional conditions has none.
        let sql = match (filter.model_id, filter.about) {
            (None, None) => events!(""),
            (Some(_), None) => events!("model_id = $3 AND"),
            (None, Some(_)) => events!("about = $3 AND"),
            (Some(_), Some(_)) => events!("about = $3 AND model_id = $4 AND"),
        };
        reading!(self, "audit_events", async |tx| {
            let mut statement = tx.query(sql).count(from).bind(i64::from(limit));
            for id in [filter.about, filter.model_id].into_iter().flatten() {
                statement = statement.bind(id);
            }
            statement.fetch_all().await?.iter().map(read_event).collect()
        })
    }
}

pub(super) fn read_event(row: &Row) -> Result<AuditEvent, StoreError> {
    Ok(AuditEvent {
        index: row.count("idx")?,
        leaf_hash: row.digest("leaf_hash")?,
        entry: row.get("entry")?,
    })
}

/// Writes the transaction's leaves, next to each other.
pub(super) async fn append(tx: &mut Tx) -> Result<(), StoreError> {
    let leaves: Vec<_> = std::mem::take(&mut tx.leaves)
        .into_iter()
        .map(|(event, at)| {
            let entry = event.entry(at);
            let hash = leaf_hash(entry.as_bytes());
            (event, at, entry, hash)
        })
        .collect();
    if leaves.is_empty() {
        return Ok(());
    }
    let expected = leaves.len() as u64;
    let head = tx
        .query("UPDATE audit_head SET next_idx = next_idx + $1 WHERE id = 0 RETURNING next_idx")
        .count(expected)
        .fetch_one()
        .await?;
    let first_idx = head.get::<i64>("next_idx")? - expected.cast_signed();
    let written = match tx.dialect() {
        Dialect::Sqlite => sqlite::insert_leaves(tx, first_idx, &leaves).await?,
        Dialect::Postgres => postgres::insert_leaves(tx, first_idx, &leaves).await?,
    };
    tx.check_written(written, leaves.len())
}
