//! The data broker's side of California's DROP: what can be said of each entry of a consumer
//! deletion list, after the deletion of whom it names was asked for.
//!
//! A list may be run as often as one likes: each run asks for what nobody has asked for yet, and
//! says what is certain by then.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use uuid::Uuid;

use crate::{
    clock::{Clock, Ids},
    dataset::csv::hashed_list::Entry,
    domain::{
        alias::AliasKind,
        deletion::{Target, TargetKind},
        identity::{Pseudonym, ServiceKey},
        model::Model,
    },
    intake::standing::{DropStatus, Standing},
    store::{Acceptance, Excess, NewDeletion, Requester, Store, StoreError},
};

/// Entries that are best looked up together: one request names so many subjects at most.
pub const CHUNK: usize = 1_000;

/// What the Delete Act gives a data broker (Civil Code, section 1798.99.86, c).
const DUE_WITHIN: Duration = Duration::from_hours(45 * 24);

/// What can be said of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Certain(DropStatus),
    /// Its deletion is asked for, and not done.
    Waiting,
    /// It is of several subjects, all of whom are to be opted out of sale: no deletion is asked
    /// for.
    Shared,
}

#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{limit} deletion requests wait already; run this list again once fewer do")]
    QueueFull { limit: u64 },
    #[error("the API key may not have so many samples deleted now; run this list again later")]
    QuotaExceeded(Excess),
}

/// Takes a list through the ledger.
pub struct Broker {
    pub store: Store,
    pub service_key: Arc<ServiceKey>,
    pub clock: Clock,
    pub ids: Ids,
    /// Which identifiers the list names.
    pub list: AliasKind,
    /// From which it deletes.
    pub models: Vec<Model>,
    /// Whose quota the deletions count against; absent where nobody's is.
    pub api_key_id: Option<Uuid>,
    /// Deletion requests that may wait.
    pub queue_limit: u64,
}

impl Outcome {
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Certain(DropStatus::Exempted) => "exempted",
            Self::Certain(DropStatus::Deleted) => "deleted",
            Self::Certain(DropStatus::NotFound) => "not found",
            Self::Waiting => "waiting for its deletion",
            Self::Shared => "shared by several subjects",
        }
    }
}

impl Broker {
    /// Of each entry, in their order.
    ///
    /// # Errors
    /// When the ledger cannot be used, or not take so much. What was asked for before is.
    pub async fn outcomes(&self, entries: &[Entry]) -> Result<Vec<Outcome>, BrokerError> {
        let mut outcomes = Vec::with_capacity(entries.len());
        for chunk in entries.chunks(CHUNK) {
            outcomes.extend(self.outcomes_of_chunk(chunk).await?);
        }
        Ok(outcomes)
    }

    async fn outcomes_of_chunk(&self, entries: &[Entry]) -> Result<Vec<Outcome>, BrokerError> {
        let key = &self.service_key;
        let aliases: Vec<_> =
            entries.iter().map(|entry| key.alias(self.list, &entry.hash)).collect();
        let mut subjects: BTreeMap<Pseudonym, BTreeSet<Pseudonym>> = BTreeMap::new();
        for model in &self.models {
            for (alias, found) in self.store.alias_subjects(model.id, &aliases).await? {
                subjects.entry(alias).or_default().extend(found);
            }
        }
        let named: BTreeSet<_> =
            subjects.values().filter(|found| found.len() == 1).flatten().copied().collect();
        let named: Vec<_> = named.into_iter().collect();
        let mut statuses: BTreeMap<Pseudonym, Vec<Option<DropStatus>>> = BTreeMap::new();
        for model in &self.models {
            let standings = self.store.subject_standings(model.id, &named).await?;
            let kept = standings.iter().filter(|(_, standing)| standing.is_none());
            let kept: Vec<_> = kept.map(|(subject, _)| *subject).collect();
            self.ask_for_deletion(model, &kept).await?;
            for (subject, standing) in standings {
                let standing = standing.unwrap_or(Standing::Queued);
                statuses.entry(subject).or_default().push(standing.translation().drop);
            }
        }
        let of = |alias| match subjects.get(alias) {
            None => Outcome::Certain(DropStatus::NotFound),
            Some(found) if found.len() > 1 => Outcome::Shared,
            Some(found) => {
                let statuses = found.iter().filter_map(|subject| statuses.get(subject));
                summary(statuses.flatten().copied())
            }
        };
        Ok(aliases.iter().map(of).collect())
    }

    async fn ask_for_deletion(
        &self,
        model: &Model,
        subjects: &[Pseudonym],
    ) -> Result<(), BrokerError> {
        if subjects.is_empty() {
            return Ok(());
        }
        let received_at = self.clock.now();
        let target = |key: &Pseudonym| Target { kind: TargetKind::Subject, key: *key };
        let (id, targets) = (self.ids.next(received_at), subjects.iter().map(target).collect());
        let new = NewDeletion {
            requester: self.api_key_id.map(Requester::ApiKey),
            due_by: received_at.plus(model.policy.due_within().min(DUE_WITHIN)),
            ..NewDeletion::of(id, model, targets, received_at)
        };
        match self.store.accept_deletion(&new, self.queue_limit).await? {
            Acceptance::Accepted(_) => Ok(()),
            Acceptance::QueueFull => Err(BrokerError::QueueFull { limit: self.queue_limit }),
            Acceptance::QuotaExceeded(excess) => Err(BrokerError::QuotaExceeded(excess)),
            Acceptance::Repeated(_) | Acceptance::KeyReused => {
                unreachable!("no idempotency key goes along")
            }
        }
    }
}

/// Of one subject in several models: it is deleted when nothing waits, and exempt when nothing of
/// it was to be deleted.
fn summary(statuses: impl Iterator<Item = Option<DropStatus>>) -> Outcome {
    let (mut deleted, mut exempted) = (false, false);
    for status in statuses {
        match status {
            None => return Outcome::Waiting,
            Some(DropStatus::Deleted) => deleted = true,
            Some(DropStatus::Exempted) => exempted = true,
            Some(DropStatus::NotFound) => {}
        }
    }
    Outcome::Certain(match (deleted, exempted) {
        (true, _) => DropStatus::Deleted,
        (false, true) => DropStatus::Exempted,
        (false, false) => DropStatus::NotFound,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_deleted_when_nothing_of_it_waits() {
        let of = |statuses: &[Option<DropStatus>]| summary(statuses.iter().copied());
        let (deleted, exempted) = (Some(DropStatus::Deleted), Some(DropStatus::Exempted));
        assert_eq!(of(&[deleted, None]), Outcome::Waiting);
        assert_eq!(of(&[exempted, deleted]), Outcome::Certain(DropStatus::Deleted));
        assert_eq!(of(&[exempted]), Outcome::Certain(DropStatus::Exempted));
        assert_eq!(of(&[]), Outcome::Certain(DropStatus::NotFound));
    }
}
