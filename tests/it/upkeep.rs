//! What a worker does beside its work, inside the test: what fails of it holds up nothing else.

use std::path::PathBuf;

use forgetd::{
    clock::Clock,
    domain::{deletion::DeletionState, model::Model},
    store::Blobs,
    unlearning,
};

use crate::{
    service::eventually,
    store::{Ledger, Raw, at, on_both},
    worker::{Running, completed, forget, model_of, request_fits, train},
};

on_both!(
    weights_that_cannot_be_destroyed_keep_no_others,
    predictions_of_superseded_trainings_are_removed,
);

/// So many superseded versions are looked at in one pass.
const PASS: u64 = 100;

async fn is_destroyed(ledger: &Ledger, model: &Model, epoch: u64) -> bool {
    let version = ledger.store.version(model.id, epoch).await.unwrap().unwrap();
    version.weights_removed_at.is_some()
}

/// The object store refuses to remove all that a pass looks at, and then one of them only.
async fn weights_that_cannot_be_destroyed_keep_no_others(ledger: &Ledger) {
    let (clock, folder) = (Clock::system(), tempfile::tempdir().unwrap());
    let blobs = Blobs::open(&format!("file://{}", folder.path().display())).unwrap();
    let model = ledger.trained_model("m", 4).await;
    let mut stuck: Vec<PathBuf> = Vec::new();
    for epoch in 1..=PASS {
        let version = ledger.store.version(model.id, epoch).await.unwrap().unwrap();
        let name = version.blob_name().to_string();
        // A folder is in its place.
        let blob = folder.path().join(&name[..2]).join(name);
        std::fs::create_dir_all(&blob).unwrap();
        stuck.push(blob);
        ledger.train(&model, at(10)).await.unwrap();
    }
    ledger.train(&model, at(10)).await.unwrap();
    let worker = Running::start(ledger, &blobs, &clock, unlearning::by_name);
    let last = async || is_destroyed(ledger, &model, PASS + 1).await;
    eventually("those behind them are destroyed", last, |destroyed| *destroyed).await;
    for epoch in 1..=PASS {
        assert!(!is_destroyed(ledger, &model, epoch).await);
    }

    for blob in &stuck[1..] {
        std::fs::remove_dir(blob).unwrap();
    }
    let left = "SELECT COUNT(*) FROM versions WHERE weights_removed_at IS NULL";
    let left = async || ledger.integer(left).await;
    eventually("all but one and the current are destroyed", left, |left| *left == 2).await;
    assert!(!is_destroyed(ledger, &model, 1).await);
    std::fs::remove_dir(&stuck[0]).unwrap();
    let first = async || is_destroyed(ledger, &model, 1).await;
    eventually("the first is destroyed", first, |destroyed| *destroyed).await;
    worker.end().await;
}

/// More of them than one pass removes.
async fn predictions_of_superseded_trainings_are_removed(ledger: &Ledger) {
    let (clock, blobs) = (Clock::system(), Blobs::open("memory:///").unwrap());
    let model = ledger.trained_model("m", 2_000).await;
    ledger.train(&model, at(10)).await.unwrap();
    let sets = async || ledger.integer("SELECT COUNT(*) FROM prediction_sets").await;
    assert_eq!(sets().await, 2);
    let worker = Running::start(ledger, &blobs, &clock, unlearning::by_name);
    eventually("one set is left", sets, |sets| *sets == 1).await;
    worker.end().await;
    assert_eq!(ledger.integer("SELECT COUNT(*) FROM sample_predictions").await, 2_004);
}

/// As the server's own vacuum against wraparound does, which steps aside for nobody. (Whoever holds up
/// the removal of erased pages on `SQLite` does so for longer than a test waits.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_holds_up_the_removal_of_erased_rows_holds_up_completions_alone() {
    let ledger = Ledger::on_postgres().await;
    let (clock, blobs) = (Clock::system(), Blobs::open("memory:///").unwrap());
    let worker = Running::start(&ledger, &blobs, &clock, unlearning::by_name);
    let model = model_of("iau", None);
    train(&ledger, &model, &clock).await;

    let Raw::Postgres(pool) = &ledger.raw else { panic!("it is on PostgreSQL") };
    let mut vacuum = pool.begin().await.unwrap();
    let lock = "LOCK TABLE data_keys IN SHARE UPDATE EXCLUSIVE MODE";
    sqlx::query(lock).execute(&mut *vacuum).await.unwrap();
    let id = forget(&ledger, &model, 0, &clock).await;
    let superseded = async || {
        let current = ledger.store.current_version(model.id).await.unwrap().unwrap();
        current.epoch == 2 && is_destroyed(&ledger, &model, 1).await
    };
    eventually("superseded weights are destroyed", superseded, |destroyed| *destroyed).await;
    request_fits(&ledger, id, "it waits", |it| it.state == DeletionState::Unlearning).await;
    vacuum.rollback().await.unwrap();
    completed(&ledger, id).await;
    worker.end().await;
}
