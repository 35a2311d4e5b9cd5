//! Resolving: which samples the targets of a request name, and what becomes of it by that. All of it
//! is known before anything is written.

use std::collections::{BTreeMap, HashSet};

use uuid::Uuid;

use crate::{
    domain::{
        deletion::{DeletionRequest, DeletionState, Rejection, TargetKind, TargetOutcome},
        identity::Pseudonym,
        sample::Split,
    },
    store::{
        NewDeletion, StoreError,
        approvals::reason_to_suspend,
        deletions::DeletionDetails,
        quotas::{Excess, Quotas},
        sql::Sql,
        transaction::Tx,
    },
};

/// A request as it is to be written.
pub(super) struct Resolved<'n> {
    pub(super) new: &'n NewDeletion,
    pub(super) details: DeletionDetails,
    /// What it claims, by rising id; nothing where it is suspended or rejected.
    pub(super) claims: Vec<NamedSample>,
}

#[derive(Clone, Copy)]
pub(super) struct NamedSample {
    pub(super) id: Uuid,
    is_train: bool,
}

/// Train samples among them.
pub(super) fn count_train(samples: &[NamedSample]) -> u64 {
    samples.iter().filter(|sample| sample.is_train).count() as u64
}

/// What one target names.
#[derive(Default)]
struct Named {
    /// Live samples that no request deletes.
    samples: Vec<NamedSample>,
    /// Where those are none: whether the model has or had any.
    is_known: bool,
}

/// Each as if the ones before it were written. Of one that goes beyond its requester's quota nothing
/// is to be written. The caller holds the locks of the requesters and of the models.
pub(super) async fn resolve<'n>(
    tx: &mut Tx,
    all: &[&'n NewDeletion],
    quotas: &Quotas,
) -> Result<Vec<Result<Resolved<'n>, Excess>>, StoreError> {
    let mut named = find_named(tx, all).await?.into_iter();
    let mut taken = HashSet::new();
    let mut resolved = Vec::with_capacity(all.len());
    for new in all {
        let named = named.by_ref().take(new.targets.len());
        let (targets, claims) = judge_targets(new, named, &taken);
        let samples = claims.len() as u64;
        let earlier: Vec<&Resolved> = resolved.iter().flatten().collect();
        if let Some(excess) = quotas.excess(tx, new, samples, &earlier).await? {
            resolved.push(Err(excess));
            continue;
        }
        let reason = reason_to_suspend(tx, new, &claims, &earlier).await?;
        let (state, claims) = match reason {
            Some(_) => (DeletionState::Suspended, Vec::new()),
            None if claims.is_empty() => (DeletionState::Rejected, claims),
            None => (DeletionState::Queued, claims),
        };
        taken.extend(claims.iter().map(|sample| sample.id));
        let request = DeletionRequest { state, reason, samples, ..as_received(new) };
        let model = new.model.clone();
        let details = DeletionDetails { request, model, targets, evidence: None };
        resolved.push(Ok(Resolved { new, details, claims }));
    }
    Ok(resolved)
}

/// What each target gives, and all that they give together.
fn judge_targets(
    new: &NewDeletion,
    named: impl Iterator<Item = Named>,
    taken: &HashSet<Uuid>,
) -> (Vec<TargetOutcome>, Vec<NamedSample>) {
    let mut claims = BTreeMap::new();
    let mut targets = Vec::with_capacity(new.targets.len());
    for (target, Named { mut samples, is_known }) in new.targets.iter().zip(named) {
        let is_known = is_known || !samples.is_empty();
        samples.retain(|sample| !taken.contains(&sample.id));
        let rejection = match (is_known, target.kind) {
            _ if !samples.is_empty() => None,
            (true, _) => Some(Rejection::AlreadyDeleted),
            (false, TargetKind::Sample) => Some(Rejection::UnknownSample),
            (false, TargetKind::Subject) => Some(Rejection::UnknownSubject),
        };
        let (kind, key, count) = (target.kind, target.key, samples.len() as u64);
        targets.push(TargetOutcome { kind, key, samples: count, rejection });
        claims.extend(samples.into_iter().map(|sample| (sample.id, sample)));
    }
    (targets, claims.into_values().collect())
}

fn as_received(new: &NewDeletion) -> DeletionRequest {
    DeletionRequest {
        id: new.id,
        model_id: new.model_id,
        state: DeletionState::Queued,
        reason: None,
        guarantee: None,
        samples: 0,
        batch_id: None,
        excluded_from_epoch: None,
        attempts: 0,
        received_at: new.received_at,
        due_by: new.due_by,
        first_due_by: None,
        extension_reason: None,
        completed_at: None,
        settled_at: None,
    }
}

/// How the samples of many targets of one kind are found.
struct Lookup {
    kind: TargetKind,
    /// Deleted samples keep their `deletion_id`, so it alone is asked for: naming `deleted_at` too
    /// would offer `PostgreSQL` the index over all usable samples, which it walks once per target
    /// while the table's statistics are young. `SQLite` takes a CROSS JOIN in the order in which it
    /// stands.
    free: Sql,
    /// Of these targets, those of which the model has or had a sample.
    known: Sql,
}

macro_rules! lookup {
    ($kind:expr, $column:literal) => {
        Lookup {
            kind: $kind,
            free: Sql {
                sqlite: concat!(
                    "SELECT t.key AS target, s.id, s.split
                     FROM json_each($1) t CROSS JOIN samples s
                     WHERE s.model_id = unhex(t.value ->> 0) AND s.",
                    $column,
                    " = unhex(t.value ->> 1) AND s.deletion_id IS NULL"
                ),
                postgres: concat!(
                    "SELECT t.n - 1 AS target, s.id, s.split
                     FROM unnest($1::uuid[], $2::bytea[]) WITH ORDINALITY AS t (model_id, key, n)
                         JOIN samples s ON s.model_id = t.model_id AND s.",
                    $column,
                    " = t.key AND s.deletion_id IS NULL"
                ),
            },
            known: Sql {
                sqlite: concat!(
                    "SELECT t.key AS target FROM json_each($1) t WHERE EXISTS (
                         SELECT 1 FROM samples s
                         WHERE s.model_id = unhex(t.value ->> 0) AND s.",
                    $column,
                    " = unhex(t.value ->> 1))"
                ),
                postgres: concat!(
                    "SELECT t.n - 1 AS target
                     FROM unnest($1::uuid[], $2::bytea[]) WITH ORDINALITY AS t (model_id, key, n)
                     WHERE EXISTS (
                         SELECT 1 FROM samples s WHERE s.model_id = t.model_id AND s.",
                    $column,
                    " = t.key)"
                ),
            },
        }
    };
}

const LOOKUPS: [Lookup; 2] =
    [lookup!(TargetKind::Sample, "sample_key"), lookup!(TargetKind::Subject, "subject_key")];

/// For each target of each request, in their order.
async fn find_named(tx: &mut Tx, all: &[&NewDeletion]) -> Result<Vec<Named>, StoreError> {
    let targets: Vec<_> = all
        .iter()
        .flat_map(|new| new.targets.iter().map(|target| (new.model_id, *target)))
        .collect();
    let mut named: Vec<Named> = targets.iter().map(|_| Named::default()).collect();
    for Lookup { kind, free, known } in LOOKUPS {
        let keys_at = |positions: &[usize]| -> Vec<(Uuid, Pseudonym)> {
            positions.iter().map(|at| (targets[*at].0, targets[*at].1.key)).collect()
        };
        let mut asked: Vec<usize> =
            (0..targets.len()).filter(|at| targets[*at].1.kind == kind).collect();
        if asked.is_empty() {
            continue;
        }
        tx.query(free)
            .bind_keys_of(&keys_at(&asked))
            .for_each(|row| {
                let sample = NamedSample {
                    id: row.uuid("id")?,
                    is_train: row.word::<Split>("split")? == Split::Train,
                };
                named[asked[row.count::<usize>("target")?]].samples.push(sample);
                Ok(())
            })
            .await?;
        asked.retain(|at| named[*at].samples.is_empty());
        if asked.is_empty() {
            continue;
        }
        tx.query(known)
            .bind_keys_of(&keys_at(&asked))
            .for_each(|row| {
                named[asked[row.count::<usize>("target")?]].is_known = true;
                Ok(())
            })
            .await?;
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Row as _, SqlitePool};

    use super::*;
    use crate::store::sqlite::MIGRATIONS;

    #[tokio::test]
    async fn sqlite_looks_every_target_up_by_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger.db");
        let url = format!("sqlite://{}?mode=rwc", file.display());
        let pool = SqlitePool::connect(&url).await.unwrap();
        MIGRATIONS.run(&pool).await.unwrap();
        for Lookup { kind, free, known } in LOOKUPS {
            for sql in [free.sqlite, known.sqlite] {
                let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
                let plan = sqlx::query(explain).fetch_all(&pool).await.unwrap();
                let steps: Vec<String> = plan.iter().map(|step| step.get("detail")).collect();
                let by_key = format!("(model_id=? AND {}_key=?)", kind.as_str());
                let is_by_key = |it: &String| it.starts_with("SEARCH s ") && it.ends_with(&by_key);
                assert!(steps.iter().any(is_by_key), "{steps:?}");
            }
        }
    }
}
