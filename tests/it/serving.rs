//! A replica over each database: what it answers from, the ledger knows.

use std::sync::Arc;

use forgetd::{clock::Clock, store::Blobs, unlearning};
use tokio::task::yield_now;

use crate::{
    store::{Ledger, on_both},
    worker::{Running, model_of, replica, train},
};

on_both!(a_replica_answers_from_nothing_that_the_ledger_does_not_know_of);

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
