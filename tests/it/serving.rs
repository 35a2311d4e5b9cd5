//! A replica over each database: what it answers from, the ledger knows.

use std::sync::Arc;

use forgetd::{clock::Clock, serving::registry::Unserved, store::Blobs, unlearning};
use tokio::task::yield_now;

use crate::{
    store::{LEASE, Ledger, at, on_both},
    worker::{Running, completed, forget, model_of, replica, train},
};

on_both!(
    a_replica_answers_from_nothing_that_the_ledger_does_not_know_of,
    a_replica_that_was_counted_as_dead_answers_from_nothing_old,
    what_was_being_computed_when_a_replica_was_counted_as_dead_is_not_answered,
    what_the_ledger_was_told_a_moment_ago_it_is_not_told_again,
);

const REPLICAS: usize = 20;

/// A replica that answered first and reported afterwards could be passed over by the completion
/// of a deletion in between. Many start, each is asked as often as can be, and at its first answer
/// the ledger must have it.
async fn a_replica_answers_from_nothing_that_the_ledger_does_not_know_of(ledger: &Ledger) {
    let (clock, blobs) = (Clock::system(), Blobs::open("memory:///").unwrap());
    let worker = Running::start(ledger, &blobs, &clock, unlearning::by_name);
    let model = model_of("iau", None);
    train(ledger, &model, &clock).await;
    worker.end().await;
    for started in 1..=REPLICAS {
        let replica = Arc::new(replica(ledger, &blobs, &clock));
        let (syncing, registry) = (replica.clone(), replica.registry.clone());
        let sync = tokio::spawn(async move { syncing.sync().await });
        while registry.get(&model.name).is_err() {
            assert!(!sync.is_finished() || registry.get(&model.name).is_ok(), "it never answered");
            yield_now().await;
        }
        let known = ledger.integer("SELECT COUNT(*) FROM replica_epochs").await;
        assert_eq!(usize::try_from(known), Ok(started), "the replica answers unbeknown");
        sync.await.unwrap().unwrap();
    }
}

/// Its lease had ended, and a deletion was completed past it. The new version cannot be loaded:
/// then nobody answers, rather than the old one, and for now, not as if there were no such model.
async fn a_replica_that_was_counted_as_dead_answers_from_nothing_old(ledger: &Ledger) {
    let (clock, blobs) = (Clock::manual(at(0)), Blobs::open("memory:///").unwrap());
    let worker = Running::start(ledger, &blobs, &clock, unlearning::by_name);
    let model = model_of("iau", None);
    train(ledger, &model, &clock).await;
    let replica = replica(ledger, &blobs, &clock);
    replica.sync().await.unwrap();
    let answering = || replica.registry.get(&model.name).map(|held| held.epoch);
    assert_eq!(answering(), Ok(1));

    clock.advance(LEASE * 2);
    assert_eq!(answering(), Err(Unserved::Fenced));
    let id = forget(ledger, &model, 0, &clock).await;
    completed(ledger, id).await;
    let current = ledger.store.current_version(model.id).await.unwrap().unwrap();
    blobs.remove(current.blob_name()).await.unwrap();
    replica.sync().await.unwrap();
    assert_eq!(answering(), Err(Unserved::Fenced));
    worker.end().await;
}

/// A prediction outlives its replica's lease, and a deletion is completed past both. Its version is
/// not answered from, and as long as it is held the ledger knows of it.
async fn what_was_being_computed_when_a_replica_was_counted_as_dead_is_not_answered(
    ledger: &Ledger,
) {
    const SERVED: &str = "SELECT MIN(epoch) FROM replica_epochs";
    let (clock, blobs) = (Clock::manual(at(0)), Blobs::open("memory:///").unwrap());
    let worker = Running::start(ledger, &blobs, &clock, unlearning::by_name);
    let model = model_of("iau", None);
    train(ledger, &model, &clock).await;
    let replica = replica(ledger, &blobs, &clock);
    replica.sync().await.unwrap();
    let registry = &replica.registry;
    let held = registry.get(&model.name).unwrap();
    clock.advance(LEASE / 2);
    replica.sync().await.unwrap();
    assert_eq!(registry.confirm(&held), Ok(()));

    clock.advance(LEASE * 2);
    let id = forget(ledger, &model, 0, &clock).await;
    completed(ledger, id).await;
    worker.end().await;
    replica.sync().await.unwrap();
    let current = registry.get(&model.name).unwrap();
    assert_eq!((current.epoch, registry.confirm(&current)), (2, Ok(())));
    assert_eq!(registry.confirm(&held), Err(Unserved::Fenced));
    assert_eq!(ledger.integer(SERVED).await, 1);
    drop(held);
    replica.sync().await.unwrap();
    assert_eq!(ledger.integer(SERVED).await, 2);
}

/// Every request that is accepted wakes the replica. Its lease is renewed all the same, in time.
async fn what_the_ledger_was_told_a_moment_ago_it_is_not_told_again(ledger: &Ledger) {
    const LEASE_ENDS: &str = "SELECT lease_expires_at FROM replicas";
    let (clock, blobs) = (Clock::manual(at(0)), Blobs::open("memory:///").unwrap());
    let worker = Running::start(ledger, &blobs, &clock, unlearning::by_name);
    let model = model_of("iau", None);
    train(ledger, &model, &clock).await;
    worker.end().await;
    let replica = replica(ledger, &blobs, &clock);
    replica.sync().await.unwrap();
    let first = ledger.integer(LEASE_ENDS).await;

    clock.advance(replica.poll_interval / 2);
    replica.sync().await.unwrap();
    assert_eq!(ledger.integer(LEASE_ENDS).await, first);

    clock.advance(replica.poll_interval / 2);
    replica.sync().await.unwrap();
    let since = i64::try_from(replica.poll_interval.as_micros()).unwrap();
    assert_eq!(ledger.integer(LEASE_ENDS).await, first + since);

    clock.advance(LEASE * 2);
    assert!(replica.registry.is_fenced());
    replica.sync().await.unwrap();
    assert!(!replica.registry.is_fenced(), "it tells the ledger before it answers again");
    assert!(ledger.integer(LEASE_ENDS).await > first + since);
}
