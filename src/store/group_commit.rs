//! Group commit: deletion requests that come while another transaction is under way share the next
//! one, and its sync to disk. Each is answered once that has ended.

use std::{
    collections::HashSet,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::store::{
    Store, StoreError,
    acceptance::{Acceptance, NewDeletion, accept_group},
    transaction::writing,
};

/// What one transaction takes at most: other writers wait for it, and while it is written the next
/// requests are read. A request with more targets goes alone.
const REQUESTS_MAX: usize = 16;
const TARGETS_MAX: usize = 1_000;

#[derive(Default)]
pub(super) struct GroupCommit {
    waiting: Mutex<Vec<Submission>>,
    /// Held by whoever runs a group's transaction.
    turn: tokio::sync::Mutex<()>,
}

pub(super) struct Submission {
    pub(super) new: NewDeletion,
    pub(super) queue_limit: u64,
    answer: oneshot::Sender<Result<Acceptance, StoreError>>,
}

impl GroupCommit {
    fn waiting(&self) -> MutexGuard<'_, Vec<Submission>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next group, in the order in which its requests came. A request that repeats another
    /// one's idempotency key waits for that one to be committed.
    fn take(&self) -> Vec<Submission> {
        let mut waiting = self.waiting();
        let (mut size, mut targets, mut keys) = (0, 0, HashSet::new());
        for Submission { new, .. } in waiting.iter().take(REQUESTS_MAX) {
            targets += new.targets.len();
            let key = new.idempotency.as_ref().map(|it| (it.api_key_id, it.key));
            let fits = targets <= TARGETS_MAX && key.is_none_or(|key| keys.insert(key));
            if size > 0 && !fits {
                break;
            }
            size += 1;
        }
        waiting.drain(..size).collect()
    }
}

impl Submission {
    fn answer(self, answer: Result<Acceptance, StoreError>) {
        // Who asked may have left; the request stands all the same.
        drop(self.answer.send(answer));
    }
}

impl Store {
    /// Durable when it returns: request, targets with their samples, tombstones, audit leaf. A
    /// caller who does not wait for it may have made the request all the same.
    pub async fn accept_deletion(
        &self,
        new: &NewDeletion,
        queue_limit: u64,
    ) -> Result<Acceptance, StoreError> {
        let (answer, answered) = oneshot::channel();
        let submission = Submission { new: new.clone(), queue_limit, answer };
        let group_commit = self.group_commit(new.model_id);
        group_commit.waiting().push(submission);
        let store = self.clone();
        tokio::spawn(async move { store.accept_next_group(&group_commit).await });
        answered.await.unwrap_or_else(|_| {
            let detail = "a transaction that ended without an answer".to_owned();
            Err(StoreError::Damaged { operation: "accept_deletion", detail })
        })
    }

    /// Every submission calls for one turn, and has nothing to do in it if another's took it along.
    async fn accept_next_group(&self, group_commit: &GroupCommit) {
        let _turn = group_commit.turn.lock().await;
        let mut group = group_commit.take();
        if group.is_empty() {
            return;
        }
        match self.accept_together(&group).await {
            Ok(answers) => {
                group.into_iter().zip(answers).for_each(|(it, answer)| it.answer(Ok(answer)));
            }
            Err(StoreError::Unavailable { operation, source }) => {
                // Each would wait for the database as long as these have.
                group.append(&mut group_commit.waiting());
                let why = source.to_string();
                for submission in group {
                    let source = sqlx::Error::Io(io::Error::other(why.clone()));
                    submission.answer(Err(StoreError::Unavailable { operation, source }));
                }
            }
            Err(error) if group.len() == 1 => {
                if let Some(only) = group.pop() {
                    only.answer(Err(error));
                }
            }
            // Nobody fails for another's request.
            Err(_) => {
                for submission in group {
                    let alone = std::slice::from_ref(&submission);
                    let answer = self.accept_together(alone).await.map(|mut all| all.remove(0));
                    submission.answer(answer);
                }
            }
        }
    }

    async fn accept_together(&self, group: &[Submission]) -> Result<Vec<Acceptance>, StoreError> {
        let open_count = self.open_count();
        let answers = writing!(self, "accept_deletion", async |tx| {
            accept_group(tx, group, open_count).await
        })?;
        let is_accepted = |answer: &&Acceptance| matches!(answer, Acceptance::Accepted(_));
        open_count.add(answers.iter().filter(is_accepted).count() as u64);
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        domain::{
            deletion::{Target, TargetKind},
            identity::{Digest, Pseudonym},
            timestamp::Timestamp,
        },
        store::Idempotency,
    };

    fn submission(targets: usize, key: Option<u8>) -> Submission {
        let now = Timestamp::from_micros(0);
        let target = Target { kind: TargetKind::Sample, key: Pseudonym::from_bytes([0; 32]) };
        let idempotency = key.map(|key| Idempotency {
            api_key_id: Uuid::nil(),
            key: Pseudonym::from_bytes([key; 32]),
            body: Digest::of(b""),
        });
        let new = NewDeletion {
            id: Uuid::nil(),
            model_id: Uuid::nil(),
            model: "m".parse().unwrap(),
            targets: vec![target; targets],
            requester: None,
            approval_above_share: None,
            received_at: now,
            due_by: now,
            idempotency,
        };
        Submission { new, queue_limit: 1, answer: oneshot::channel().0 }
    }

    fn groups(submissions: Vec<Submission>) -> Vec<usize> {
        let waiting = Mutex::new(submissions);
        let group_commit = GroupCommit { waiting, ..GroupCommit::default() };
        let sizes = std::iter::repeat_with(|| group_commit.take().len());
        sizes.take_while(|size| *size > 0).collect()
    }

    #[test]
    fn groups_are_bounded_and_nobody_is_left_behind() {
        let of =
            |targets: &[usize]| groups(targets.iter().map(|it| submission(*it, None)).collect());
        assert_eq!(of(&[]), Vec::<usize>::new());
        assert_eq!(of(&[1; 40]), [16, 16, 8]);
        assert_eq!(of(&[400; 5]), [2, 2, 1]);
        assert_eq!(of(&[1, 5_000, 5_000, 1, 1]), [1, 1, 1, 2]);
    }

    #[test]
    fn a_key_comes_once_in_a_group() {
        let keys = [Some(1), Some(2), None, Some(1), None, Some(1)];
        assert_eq!(groups(keys.map(|key| submission(1, key)).into()), [3, 2, 1]);
    }
}
