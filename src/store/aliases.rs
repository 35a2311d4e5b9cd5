//! Aliases: finding subjects by what else they are known by, and how far their deletion has come.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::{
    domain::{
        deletion::{DeletionState, Guarantee, Rejection},
        identity::Pseudonym,
    },
    intake::standing::Standing,
    store::{
        Store, StoreError, postgres,
        sealing::SealedSample,
        sql::in_keys,
        sqlite,
        transaction::{Dialect, Tx, reading},
    },
};

impl Store {
    /// The model's subjects of each alias that has any.
    pub async fn alias_subjects(
        &self,
        model_id: Uuid,
        aliases: &[Pseudonym],
    ) -> Result<BTreeMap<Pseudonym, Vec<Pseudonym>>, StoreError> {
        reading!(self, "alias_subjects", async |tx| {
            let sql = in_keys!(
                "SELECT alias_key, subject_key FROM aliases WHERE model_id = $1 AND alias_key",
                "2",
                "ORDER BY alias_key, subject_key"
            );
            let rows = tx.query(sql).bind(model_id).bind_keys(aliases).fetch_all().await?;
            let mut subjects: BTreeMap<_, Vec<_>> = BTreeMap::new();
            for row in &rows {
                subjects.entry(row.key("alias_key")?).or_default().push(row.key("subject_key")?);
            }
            Ok(subjects)
        })
    }

    /// Where the deletion of subjects from a model stands; those of whom it never had a sample are
    /// left out. `None` where samples are kept and no request asks for their deletion any more. One
    /// that has erased its samples is still under way: some replica may answer from weights with them.
    pub async fn subject_standings(
        &self,
        model_id: Uuid,
        subjects: &[Pseudonym],
    ) -> Result<BTreeMap<Pseudonym, Option<Standing>>, StoreError> {
        reading!(self, "subject_standings", async |tx| {
            let sql = in_keys!(
                "SELECT s.subject_key,
                     COUNT(CASE WHEN s.deleted_at IS NULL AND s.deletion_id IS NULL THEN 1 END)
                         AS kept,
                     COUNT(CASE WHEN r.state IN ('queued', 'unlearning') THEN 1 END) AS going
                 FROM samples s LEFT JOIN deletion_requests r ON r.id = s.deletion_id
                 WHERE s.model_id = $1 AND s.subject_key",
                "2",
                "GROUP BY s.subject_key"
            );
            let rows = tx.query(sql).bind(model_id).bind_keys(subjects).fetch_all().await?;
            let mut standings = BTreeMap::new();
            for row in &rows {
                let subject = row.key("subject_key")?;
                let standing = match (row.count::<u64>("kept")?, row.count::<u64>("going")?) {
                    (0, 0) => Some(Standing::Completed(Guarantee::Approximate)),
                    (0, _) => Some(Standing::Unlearning),
                    _ => last_request(tx, model_id, subject).await?,
                };
                standings.insert(subject, standing);
            }
            Ok(standings)
        })
    }
}

/// Where the last request stands that named the subject, if that is why its samples are kept.
async fn last_request(
    tx: &mut Tx,
    model_id: Uuid,
    subject: Pseudonym,
) -> Result<Option<Standing>, StoreError> {
    let row = tx
        .query(
            "SELECT r.state, t.rejection
             FROM deletion_targets t JOIN deletion_requests r ON r.id = t.deletion_id
             WHERE t.key = $1 AND t.kind = 'subject' AND r.model_id = $2
             ORDER BY t.deletion_id DESC LIMIT 1",
        )
        .key(&subject)
        .bind(model_id)
        .fetch_optional()
        .await?;
    let Some(row) = row else { return Ok(None) };
    let state: DeletionState = row.word("state")?;
    let rejection: Option<Rejection> = row.word_or_none("rejection")?;
    Ok(match (state, rejection) {
        (DeletionState::Suspended, _) => Some(Standing::Suspended),
        (_, Some(Rejection::Refused)) => Some(Standing::Rejected(Rejection::Refused)),
        _ => None,
    })
}

/// Takes down what else the samples' subjects are known by.
pub(super) async fn insert_aliases(
    tx: &mut Tx,
    model_id: Uuid,
    samples: &[SealedSample],
) -> Result<(), StoreError> {
    let aliases: Vec<_> = samples
        .iter()
        .flat_map(|sample| sample.aliases.iter().map(|alias| (*alias, sample.subject)))
        .collect();
    if aliases.is_empty() {
        return Ok(());
    }
    match tx.dialect() {
        Dialect::Sqlite => sqlite::insert_aliases(tx, model_id, &aliases).await?,
        Dialect::Postgres => postgres::insert_aliases(tx, model_id, &aliases).await?,
    };
    Ok(())
}
