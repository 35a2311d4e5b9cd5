//! Requests that come together share a transaction, and nothing else.

use std::time::Duration;

use forgetd::{
    domain::deletion::{DeletionState, Rejection},
    store::{Acceptance, Idempotency, NewDeletion, StoreError},
};

use super::{Ledger, acceptance::idempotency, at, new_deletion, on_both, quotas, sample_target};

on_both!(each_of_a_group_has_its_own_answer, nobody_fails_for_another_of_the_group);

/// Answers in the order of the requests, all but the first of which came while it was being written.
async fn accept_together(
    ledger: &Ledger,
    requests: [&NewDeletion; 6],
) -> [Result<Acceptance, StoreError>; 6] {
    let held = ledger.hold_writers().await;
    let accept = |index: usize| ledger.store.accept_deletion(requests[index], 100);
    let release = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(held);
    };
    let answers = async {
        tokio::join!(accept(0), accept(1), accept(2), accept(3), accept(4), accept(5)).into()
    };
    tokio::join!(answers, release).0
}

fn accepted(answer: Result<Acceptance, StoreError>) -> (DeletionState, Vec<Option<Rejection>>) {
    match answer {
        Ok(Acceptance::Accepted(details)) => {
            let rejections = details.targets.iter().map(|target| target.rejection).collect();
            (details.request.state, rejections)
        }
        other => panic!("not accepted but {other:?}"),
    }
}

async fn each_of_a_group_has_its_own_answer(ledger: &Ledger) {
    let model = ledger.trained_model("m", 20).await;
    let of = |numbers: &[u64]| {
        new_deletion(&model, numbers.iter().copied().map(sample_target).collect(), at(20))
    };
    let key = quotas::key(ledger, 2).await;
    let once = Idempotency { api_key_id: key.id, ..idempotency("once", b"body") };
    let mut beyond = quotas::by(&key, &model, 1..4, 20);
    beyond.idempotency = Some(once.clone());
    let overlapping = of(&[1, 0]);
    let suspended = NewDeletion { approval_above_share: Some(0.05), ..of(&[2, 3, 4]) };
    let after_it = of(&[4]);
    let mut within = quotas::by(&key, &model, 5..7, 20);
    within.idempotency = Some(once);

    let requests = [&of(&[0]), &beyond, &overlapping, &suspended, &after_it, &within];
    let [first, refused, second, third, fourth, last] = accept_together(ledger, requests).await;
    assert_eq!(accepted(first), (DeletionState::Queued, vec![None]));
    assert!(matches!(refused, Ok(Acceptance::QuotaExceeded(_))), "{refused:?}");
    let taken = vec![None, Some(Rejection::AlreadyDeleted)];
    assert_eq!(accepted(second), (DeletionState::Queued, taken));
    assert_eq!(accepted(third), (DeletionState::Suspended, vec![None; 3]));
    assert_eq!(accepted(fourth), (DeletionState::Queued, vec![None]), "nobody claims it");
    assert_eq!(accepted(last), (DeletionState::Queued, vec![None; 2]), "the key was free");
    assert_eq!(ledger.store.deletion(beyond.id).await.unwrap(), None);
    assert_eq!(ledger.store.queue_depth().await.unwrap(), 5);
}

/// Publishing a large version locks its model for long. (`SQLite` has one writer.)
#[tokio::test]
async fn a_model_that_is_locked_holds_up_no_other() {
    let ledger = Ledger::on_postgres().await;
    let locked = ledger.trained_model("locked", 8).await;
    let free = ledger.trained_model("free", 8).await;
    let held = ledger.hold_model(&locked).await;
    let of = |model| new_deletion(model, vec![sample_target(0)], at(20));
    let (of_locked, of_free) = (of(&locked), of(&free));
    let waiting = ledger.store.accept_deletion(&of_locked, 100);
    let passing = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let answer = ledger.store.accept_deletion(&of_free, 100).await;
        assert_eq!(ledger.store.deletion(of_locked.id).await.unwrap(), None, "it is locked still");
        held.rollback().await.unwrap();
        answer
    };
    let (waited, passed) = tokio::join!(waiting, passing);
    assert_eq!(accepted(passed), (DeletionState::Queued, vec![None]));
    assert_eq!(accepted(waited), (DeletionState::Queued, vec![None]));
    // Nor are the completions of others held up.
    ledger.unlearn(at(21)).await;
    ledger.unlearn(at(22)).await;
    let held = ledger.hold_model(&locked).await;
    assert_eq!(ledger.store.complete_propagated(at(23)).await.unwrap(), [of_free.id]);
    held.rollback().await.unwrap();
    assert_eq!(ledger.store.complete_propagated(at(24)).await.unwrap(), [of_locked.id]);
}

async fn nobody_fails_for_another_of_the_group(ledger: &Ledger) {
    let model = ledger.trained_model("m", 20).await;
    let of = |number| new_deletion(&model, vec![sample_target(number)], at(20));
    let (first, others) = (of(0), [of(1), of(2), of(3), of(4)]);
    let same_id = NewDeletion { id: others[0].id, ..of(5) };
    let requests = [&first, &others[0], &same_id, &others[1], &others[2], &others[3]];
    let answers = accept_together(ledger, requests).await;
    for (answer, request) in answers.into_iter().zip(requests) {
        if request.targets == same_id.targets {
            assert!(matches!(answer, Err(StoreError::Database { .. })), "{answer:?}");
        } else {
            assert_eq!(accepted(answer), (DeletionState::Queued, vec![None]));
        }
    }
    assert_eq!(ledger.store.queue_depth().await.unwrap(), 5);
}
