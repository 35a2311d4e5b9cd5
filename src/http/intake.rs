//! What the façades of other protocols have in common: one request there is one deletion request
//! here for each model that its identities may name a subject of, also where the model knows no such
//! subject.

use std::{collections::BTreeSet, time::Duration};

use uuid::Uuid;

use crate::{
    domain::{
        deletion::{Target, TargetKind},
        identity::Pseudonym,
        model::Model,
        timestamp::Timestamp,
    },
    http::{problem::Problem, state::State},
    intake::identity::Named,
    store::{Acceptance, Intake, NewCallback, NewDeletion, NewIntake, Origin, Requester},
};

/// A request of another protocol that can be served.
pub struct Incoming<'a> {
    pub id: Uuid,
    /// Tells a repeated request from another one of the same id.
    pub body: &'a [u8],
    pub origin: Origin,
    /// Whose quota it counts against.
    pub requester: Option<Requester>,
    pub received_at: Timestamp,
    /// When the law has it done at the latest.
    pub latest: Timestamp,
    pub named: Named<'a>,
    /// Who is told as its status changes.
    pub callbacks: Vec<&'a str>,
}

/// Durable when it returns. The same id with the same body is the same request; `None` where it
/// came before with another body.
///
/// # Errors
/// When there is no room for it, or its caller may not have so much deleted.
pub async fn take_in(state: &State, incoming: Incoming<'_>) -> Result<Option<Intake>, Problem> {
    let deletions = incoming.deletions(state).await?;
    let received_at = incoming.received_at;
    let due_by = deletions.iter().map(|deletion| deletion.due_by).max();
    let callback =
        |url: &&str| NewCallback { id: state.ids.next(received_at), url: (*url).to_owned() };
    let new = NewIntake {
        id: incoming.id,
        body: state.service_key.fingerprint(incoming.body),
        received_at,
        due_by: due_by.unwrap_or(received_at),
        deletions,
        callbacks: incoming.callbacks.iter().map(callback).collect(),
        origin: incoming.origin,
    };
    let limit = state.limits.queued_deletions;
    match state.store.accept_intake(&new, limit).await? {
        Acceptance::Accepted(intake) | Acceptance::Repeated(intake) => Ok(Some(intake)),
        Acceptance::KeyReused => Ok(None),
        Acceptance::QueueFull => Err(Problem::QueueFull { limit }),
        Acceptance::QuotaExceeded(excess) => Err(Problem::QuotaExceeded(excess)),
    }
}

impl Incoming<'_> {
    async fn deletions(&self, state: &State) -> Result<Vec<NewDeletion>, Problem> {
        let key = &state.service_key;
        let aliases = self.named.aliases.iter().map(|(kind, hash)| key.alias(*kind, hash));
        let aliases: Vec<_> = aliases.collect();
        let mut deletions = Vec::new();
        for model in state.store.all_models().await? {
            let subjects = self.subjects(state, &model, &aliases).await?;
            if !subjects.is_empty() {
                deletions.push(self.deletion(state, &model, subjects));
            }
        }
        Ok(deletions)
    }

    /// The model's subjects that may be meant.
    async fn subjects(
        &self,
        state: &State,
        model: &Model,
        aliases: &[Pseudonym],
    ) -> Result<BTreeSet<Pseudonym>, Problem> {
        let direct = self.named.subjects.iter();
        let direct = direct.filter(|(name, _)| name.is_none_or(|name| *name == model.name));
        let mut subjects: BTreeSet<_> =
            direct.map(|(_, id)| state.service_key.subject(id)).collect();
        if !aliases.is_empty() {
            let known = state.store.alias_subjects(model.id, aliases).await?;
            subjects.extend(known.into_values().flatten());
        }
        Ok(subjects)
    }

    fn deletion(&self, state: &State, model: &Model, subjects: BTreeSet<Pseudonym>) -> NewDeletion {
        let target = |key| Target { kind: TargetKind::Subject, key };
        let (id, received_at) = (state.ids.next(self.received_at), self.received_at);
        let targets = subjects.into_iter().map(target).collect();
        let due_by = due_by(received_at, model.policy.due_within(), self.latest);
        let requester = self.requester.clone();
        NewDeletion { requester, due_by, ..NewDeletion::of(id, model, targets, received_at) }
    }
}

/// The sooner of what the model's policy and what the law grants; what comes too late is due at
/// once.
fn due_by(received_at: Timestamp, due_within: Duration, latest: Timestamp) -> Timestamp {
    received_at.plus(due_within).min(latest).max(received_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sooner_of_policy_and_law_holds() {
        let received: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
        let latest: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
        let days = |days: u64| Duration::from_hours(24 * days);
        assert_eq!(due_by(received, days(30), latest), latest);
        assert_eq!(due_by(received, days(5), latest), received.plus(days(5)));
        let late = received.plus(days(100));
        assert_eq!(due_by(late, days(5), latest), late);
    }
}
