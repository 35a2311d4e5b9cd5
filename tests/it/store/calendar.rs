//! The calendar is set back by an hour in the middle of everything.

use forgetd::{
    clock::Clock,
    domain::{deletion::DeletionState, job::JobKind, timestamp::Timestamp},
    serving::registry::Unserved,
    store::{Blobs, StoreError},
    unlearning,
};

use super::{LEASE, Ledger, at, new_deletion, new_id, on_both, sample_target, samples};
use crate::{
    service::eventually,
    worker::{Running, learnable, replica},
};

on_both!(
    what_was_queued_before_is_claimed_at_once,
    a_lost_workers_lease_does_not_last_an_hour_longer,
    a_workers_lease_is_its_own_as_long_as_it_renews,
    a_worker_and_a_replica_go_on,
);

const HOUR: i64 = 3_600;

/// Indices of the audit log without gaps.
async fn assert_dense(ledger: &Ledger) {
    let gaps = "SELECT MAX(idx) + 1 - COUNT(*) FROM audit_events";
    assert_eq!(ledger.integer(gaps).await, 0);
}

async fn what_was_queued_before_is_claimed_at_once(ledger: &Ledger) {
    let model = ledger.model("m").await;
    ledger.ingest(&model, &samples(0..8, 6)).await;
    let store = &ledger.store;
    store.enqueue_job(new_id(), model.id, JobKind::Training, at(2 * HOUR), None).await.unwrap();
    let training = ledger.claim(at(HOUR)).await.expect("a training that waits for nothing");
    assert_eq!(ledger.publish_exact(&training, at(HOUR)).await, Some(1));

    let id = ledger.delete(&model, vec![sample_target(0)], at(2 * HOUR)).await;
    assert_eq!(ledger.unlearn(at(HOUR)).await, Some(2));
    assert_eq!(store.complete_propagated(at(HOUR)).await.unwrap(), [id]);

    store.enqueue_job(new_id(), model.id, JobKind::Settlement, at(2 * HOUR), None).await.unwrap();
    let settlement = ledger.claim(at(2 * HOUR)).await.unwrap();
    store.release(&settlement.lease, at(2 * HOUR), true).await.unwrap();
    let again = ledger.claim(at(HOUR)).await.expect("a settlement that was given back");
    assert_eq!(ledger.publish_exact(&again, at(HOUR)).await, Some(3));
    assert_dense(ledger).await;
}

async fn a_lost_workers_lease_does_not_last_an_hour_longer(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    ledger.delete(&model, vec![sample_target(0)], at(2 * HOUR)).await;
    let lost = ledger.claim(at(2 * HOUR)).await.unwrap();
    let taken = ledger.claim(at(HOUR)).await.expect("a lease that nobody can have renewed");
    assert_eq!((taken.job.id, taken.lease.attempt), (lost.job.id, 2));
    let late = ledger.store.renew_lease(&lost.lease, at(HOUR), LEASE, None).await;
    assert!(matches!(late, Err(StoreError::Fenced { .. })), "only one holds it: {late:?}");
}

async fn a_workers_lease_is_its_own_as_long_as_it_renews(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    ledger.delete(&model, vec![sample_target(0)], at(2 * HOUR)).await;
    let held = ledger.claim(at(2 * HOUR)).await.unwrap();
    ledger.store.renew_lease(&held.lease, at(HOUR), LEASE, None).await.unwrap();
    assert!(ledger.claim(at(HOUR)).await.is_none());
    let ended = at(HOUR).plus(LEASE);
    let taken = ledger.claim(ended).await.expect("the lease ended by the calendar as it is now");
    assert_eq!((taken.job.id, taken.lease.attempt), (held.job.id, 2));
}

async fn a_worker_and_a_replica_go_on(ledger: &Ledger) {
    let clock = Clock::manual(at(2 * HOUR));
    let (store, blobs) = (&ledger.store, Blobs::open("memory:///").unwrap());
    let model = ledger.model("m").await;
    ledger.ingest(&model, &(0..60).map(learnable).collect::<Vec<_>>()).await;

    let worker = Running::start(ledger, &blobs, &clock, unlearning::by_name);
    let replica = replica(ledger, &blobs, &clock);
    let registry = &replica.registry;
    let served = async |epoch| {
        eventually(
            "the replica answers from the epoch",
            async || {
                replica.sync().await.unwrap();
                let found = registry.get(&model.name).map(|held| held.epoch);
                (found, store.jobs(model.id, None, None, 1).await.unwrap())
            },
            |(found, _)| *found == Ok(epoch),
        )
        .await
        .0
        .unwrap();
    };
    store.enqueue_job(new_id(), model.id, JobKind::Training, clock.now(), None).await.unwrap();
    served(1).await;

    let deletion = new_deletion(&model, vec![sample_target(0)], clock.now());
    clock.set(at(HOUR));
    ledger.accept(&deletion).await;
    served(2).await;
    let state = async || store.deletion(deletion.id).await.unwrap().unwrap().request.state;
    eventually("the deletion completes", state, |state| *state == DeletionState::Completed).await;

    // What the replica reported before the jump must not let it answer for an hour more.
    replica.sync().await.unwrap();
    let before: Timestamp = clock.now();
    clock.set(at(0));
    assert!(registry.get(&model.name).is_ok(), "its lease goes on");
    clock.advance(LEASE);
    assert!(clock.now() < before);
    assert_eq!(registry.get(&model.name).err(), Some(Unserved::Fenced));
    served(2).await;
    assert_dense(ledger).await;

    worker.end().await;
}
