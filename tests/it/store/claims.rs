//! Claiming: what is most urgent, to one worker only.

use std::{collections::HashSet, time::Duration};

use forgetd::{
    domain::{
        deletion::DeletionState,
        job::{JobKind, JobState},
        model::{Model, Policy, SettlementPolicy},
    },
    store::{Claim, Enqueued, NewDeletion, StoreError},
};

use super::{
    LEASE, Ledger, at, claim, new_deletion, new_id, on_both, race, sample_target, samples,
};

on_both!(
    nothing_is_claimed_of_nothing,
    a_batch_takes_what_is_queued_earliest_due_first,
    deletions_go_before_settlements,
    a_job_that_stepped_aside_often_enough_goes_first,
    a_job_that_waited_for_an_hour_is_held_up_no_longer,
    concurrent_claimers_get_each_job_once,
    one_model_has_one_running_job,
    expired_leases_are_claimed_again_and_at_last_later_and_later,
    a_training_whose_worker_is_always_lost_fails,
    one_job_of_a_kind_is_queued,
);

async fn nothing_is_claimed_of_nothing(ledger: &Ledger) {
    assert!(ledger.claim(at(0)).await.is_none());
    ledger.trained_model("m", 4).await;
    assert!(ledger.claim(at(20)).await.is_none());
}

async fn a_batch_takes_what_is_queued_earliest_due_first(ledger: &Ledger) {
    let mut model = super::model("m");
    model.policy = Policy { batch_requests_max: 2, ..Policy::default() };
    ledger.store.create_model(&model, None).await.unwrap();
    ledger.ingest(&model, &samples(0..8, 8)).await;
    ledger.train(&model, at(10)).await;
    let mut ids = Vec::new();
    for (number, due_s) in [(0, 300), (1, 100), (2, 200)] {
        let new = new_deletion(&model, vec![sample_target(number)], at(20));
        let new = NewDeletion { due_by: at(due_s), ..new };
        ids.push(new.id);
        ledger.accept(&new).await;
    }
    let claimed = ledger.claim(at(21)).await.unwrap();
    assert_eq!(claimed.requests, [ids[1], ids[2]]);
    assert_eq!((claimed.job.kind, claimed.job.state), (JobKind::Unlearning, JobState::Running));
    assert_eq!((claimed.lease.attempt, claimed.model), (1, model));
    let request = ledger.store.deletion(ids[1]).await.unwrap().unwrap().request;
    assert_eq!(
        (request.state, request.batch_id),
        (DeletionState::Unlearning, Some(claimed.job.id))
    );
    let (batch, store) = (claimed.job.id, &ledger.store);
    let ordinals: Vec<_> = store
        .batch_samples(batch)
        .await
        .unwrap()
        .iter()
        .map(|(sample, _)| sample.ordinal)
        .collect();
    assert_eq!(ordinals, [1, 2]);
    assert!(ledger.claim(at(22)).await.is_none(), "the model has a running job");
}

async fn deletions_go_before_settlements(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    ledger.store.enqueue_job(new_id(), model.id, JobKind::Settlement, at(19), None).await.unwrap();
    ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    assert_eq!(ledger.claim(at(21)).await.unwrap().job.kind, JobKind::Unlearning);
}

/// Trained on eight samples.
async fn a_model_that_steps_aside_once(ledger: &Ledger) -> Model {
    let mut model = super::model("m");
    let settlement = SettlementPolicy { preemptions_max: 1, ..SettlementPolicy::default() };
    model.policy = Policy { settlement, ..Policy::default() };
    ledger.store.create_model(&model, None).await.unwrap();
    ledger.ingest(&model, &samples(0..8, 8)).await;
    ledger.train(&model, at(10)).await;
    model
}

async fn a_job_that_stepped_aside_often_enough_goes_first(ledger: &Ledger) {
    let model = a_model_that_steps_aside_once(ledger).await;
    ledger.store.enqueue_job(new_id(), model.id, JobKind::Settlement, at(11), None).await.unwrap();
    let settlement = ledger.claim(at(12)).await.unwrap();
    ledger.delete(&model, vec![sample_target(0)], at(13)).await;
    let renewal = ledger.store.renew_lease(&settlement.lease, at(14), LEASE, None).await.unwrap();
    assert!(renewal.deletions_waiting && !renewal.cancel_requested);
    ledger.store.release(&settlement.lease, at(15), true).await.unwrap();
    let again = ledger.claim(at(16)).await.unwrap();
    assert_eq!((again.job.id, again.job.preemptions), (settlement.job.id, 1));
}

/// A stream of deletions leaves no time in which nothing waits.
async fn a_job_that_waited_for_an_hour_is_held_up_no_longer(ledger: &Ledger) {
    const HOUR: i64 = 3_600;
    let model = a_model_that_steps_aside_once(ledger).await;
    let other = ledger.model("other").await;
    for (model, kind) in [(&model, JobKind::Settlement), (&other, JobKind::Training)] {
        ledger.store.enqueue_job(new_id(), model.id, kind, at(20), None).await.unwrap();
    }
    let mut claimed = Vec::new();
    for (number, now_s) in [(0, 30), (1, HOUR), (2, 2 * HOUR), (3, 2 * HOUR + 10)] {
        ledger.delete(&model, vec![sample_target(number)], at(now_s)).await;
        let job = ledger.claim(at(now_s + 1)).await.unwrap();
        claimed.push((job.job.kind, job.model.id == model.id));
        if job.job.kind == JobKind::Unlearning {
            ledger.publish_batch(&job, at(now_s + 2)).await;
        }
    }
    let batch = (JobKind::Unlearning, true);
    assert_eq!(claimed, [batch, batch, (JobKind::Training, false), batch]);
    // The batch that went before it counted.
    ledger.delete(&model, vec![sample_target(4)], at(2 * HOUR + 19)).await;
    let job = ledger.claim(at(2 * HOUR + 20)).await.unwrap().job;
    assert_eq!((job.kind, job.preemptions), (JobKind::Settlement, 1));
}

async fn concurrent_claimers_get_each_job_once(ledger: &Ledger) {
    let mut models = Vec::new();
    for number in 0..12 {
        models.push(ledger.trained_model(&format!("m{number}"), 2).await);
    }
    for model in &models {
        ledger.delete(model, vec![sample_target(0)], at(20)).await;
    }
    let claimers = (0..8).map(|_| {
        let store = ledger.store.clone();
        async move {
            let mut claimed = Vec::new();
            // A claimer that lost every race to others comes back, as a woken worker does.
            for _ in 0..20 {
                claimed.extend(store.claim(&claim(at(21))).await.unwrap());
            }
            claimed
        }
    });
    let claimed = race(claimers).await.concat();
    let of_models: HashSet<_> = claimed.iter().map(|it| it.model.id).collect();
    let requests: HashSet<_> = claimed.iter().flat_map(|it| it.requests.clone()).collect();
    assert_eq!((claimed.len(), of_models.len(), requests.len()), (12, 12, 12));
    let running = "SELECT COUNT(*) FROM jobs WHERE state = 'running'";
    assert_eq!(ledger.integer(running).await, 12);
}

async fn one_model_has_one_running_job(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    for number in 0..3 {
        ledger.delete(&model, vec![sample_target(number)], at(20)).await;
    }
    ledger.store.enqueue_job(new_id(), model.id, JobKind::Settlement, at(20), None).await.unwrap();
    ledger.store.enqueue_job(new_id(), model.id, JobKind::Training, at(20), None).await.unwrap();
    let claimers = (0..8).map(|_| {
        let store = ledger.store.clone();
        async move { store.claim(&claim(at(21))).await.unwrap() }
    });
    assert_eq!(race(claimers).await.iter().flatten().count(), 1);
}

async fn expired_leases_are_claimed_again_and_at_last_later_and_later(ledger: &Ledger) {
    let model: Model = ledger.trained_model("m", 8).await;
    let id = ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    let claim =
        |now| Claim { lease_duration: Duration::from_secs(10), attempts_max: 2, ..claim(now) };
    let first = ledger.store.claim(&claim(at(21))).await.unwrap().unwrap();
    assert!(ledger.store.claim(&claim(at(30))).await.unwrap().is_none(), "not yet expired");
    ledger.store.renew_lease(&first.lease, at(30), Duration::from_secs(10), None).await.unwrap();
    assert!(ledger.store.claim(&claim(at(35))).await.unwrap().is_none(), "renewed");
    let second = ledger.store.claim(&claim(at(40))).await.unwrap().unwrap();
    assert_eq!((second.job.id, second.lease.attempt), (first.job.id, 2));
    assert_eq!(second.requests, [id]);
    assert_ne!(second.lease.token, first.lease.token);
    let stale = ledger.store.renew_lease(&first.lease, at(41), LEASE, None).await;
    assert!(matches!(stale, Err(StoreError::Fenced { .. })));
    // Lost at every attempt: put off by 1, 2, 4 seconds, but never dropped.
    let mut lost_at = 51;
    for (attempt, pause) in [(3, 1), (4, 2), (5, 4)] {
        assert!(ledger.store.claim(&claim(at(lost_at))).await.unwrap().is_none(), "put off");
        let request = ledger.store.deletion(id).await.unwrap().unwrap().request;
        assert_eq!((request.state, request.attempts), (DeletionState::Queued, attempt - 1));
        assert!(request.reason.is_some());
        let early = ledger.store.claim(&claim(at(lost_at + pause - 1))).await.unwrap();
        assert!(early.is_none(), "{early:?}");
        let again = ledger.store.claim(&claim(at(lost_at + pause))).await.unwrap().unwrap();
        assert_eq!((again.requests.as_slice(), again.lease.attempt), ([id].as_slice(), attempt));
        lost_at += pause + 10;
    }
}

async fn a_training_whose_worker_is_always_lost_fails(ledger: &Ledger) {
    let model = ledger.model("m").await;
    let id = new_id();
    ledger.store.enqueue_job(id, model.id, JobKind::Training, at(1), None).await.unwrap();
    let claim = |now| Claim { attempts_max: 1, ..claim(now) };
    assert!(ledger.store.claim(&claim(at(2))).await.unwrap().is_some());
    assert!(ledger.store.claim(&claim(at(2).plus(LEASE))).await.unwrap().is_none());
    let job = ledger.store.job(id).await.unwrap().unwrap();
    assert_eq!(job.state, JobState::Failed);
    assert!(job.reason.is_some_and(|reason| reason.contains("lost")));
}

async fn one_job_of_a_kind_is_queued(ledger: &Ledger) {
    let model = ledger.model("m").await;
    let id = new_id();
    let queued =
        ledger.store.enqueue_job(id, model.id, JobKind::Training, at(1), None).await.unwrap();
    assert!(matches!(queued, Enqueued::Queued(job) if job.id == id));
    for _ in 0..2 {
        let second =
            ledger.store.enqueue_job(new_id(), model.id, JobKind::Training, at(2), None).await;
        assert!(matches!(second.unwrap(), Enqueued::Already(job) if job.id == id));
        ledger.claim(at(3)).await;
    }
    let other =
        ledger.store.enqueue_job(new_id(), model.id, JobKind::Settlement, at(4), None).await;
    assert!(matches!(other.unwrap(), Enqueued::Queued(_)));
}
