//! The disk fails below a running service: nothing is acknowledged that is not durable, nothing is
//! published that is not stored, and nothing has to be restarted afterwards.

use std::{path::PathBuf, time::Duration};

use reqwest::StatusCode;
use serde_json::json;

use super::{
    Database, Service, eventually,
    faults::{an_attempt_fails, assert_problem, audit_entries, post_deletion, recovers},
    field,
    people::{self, MODEL},
    promise::{self, Promise},
    shim::{Fault, Shim},
};

async fn start(database: Database, shim: &Shim, more: &[(&str, &str)]) -> Service {
    let environment = [shim.environment().as_slice(), more].concat();
    let service = Service::start_with(database, &environment, &[]).await;
    people::trained(&service, &people::unsettled()).await;
    service
}

/// Posts a deletion, which must be accepted.
async fn accepted(service: &Service, subject: &str) -> String {
    let accepted = post_deletion(service, subject).await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED, "{accepted:#?}");
    field(&accepted.body, "/id").as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_did_not_take_for_certain_is_not_acknowledged() {
    let shim = Shim::new();
    let mut service = start(Database::Sqlite, &shim, &promise::ENVIRONMENT).await;
    let mut promise = Promise::of(&service).await;
    promise.accepted.push(accepted(&service, "person-1").await);
    service.request_becomes(&promise.accepted[0], "completed").await;

    shim.set(Fault::LedgerSyncFails, 1);
    assert_problem(&post_deletion(&service, "person-2").await);
    let row = people::ndjson([people::sample(900, "train")].into_iter());
    assert_problem(&people::ingest(&service, row).await);
    let requests = service.pages("/v1/deletion-requests").await;
    assert_eq!(requests.len(), 1, "only the one from before: {requests:#?}");

    shim.set(Fault::LedgerSyncFails, 0);
    recovers(&service, "person-2").await;
    promise.accepted.push(accepted(&service, "person-2").await);
    // What was acknowledged after the failure is as durable as what was before.
    promise.accepted.push(accepted(&service, "person-3").await);
    service.kill();
    service.restart().await;
    promise.is_fulfilled(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_the_disk_did_not_take_are_not_published() {
    for database in Database::ALL {
        let shim = Shim::new();
        let service = start(database, &shim, &promise::ENVIRONMENT).await;
        let mut promise = Promise::of(&service).await;
        for (fault, subject) in
            [(Fault::WeightsSyncFails, "person-1"), (Fault::WeightsDiskIsFull, "person-2")]
        {
            let answers = people::predict(&service, 0).await.body["model_version"].clone();
            shim.set(fault, 1);
            let id = accepted(&service, subject).await;
            let request = format!("/v1/deletion-requests/{id}");
            let state = async || service.get(&request).await.body;
            let failed = eventually("an attempt fails", state, |it| it["attempts"] != 0).await;
            let reason = field(&failed, "/reason").as_str().unwrap();
            assert!(reason.contains("failed to write"), "{reason}");
            assert_eq!(people::predict(&service, 0).await.body["model_version"], answers);
            shim.set(fault, 0);
            service.request_becomes(&id, "completed").await;
            promise.accepted.push(id);
        }
        promise.is_fulfilled(&service).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_went_read_only_refuses_writes_and_serves_reads() {
    let shim = Shim::new();
    let service = start(Database::Sqlite, &shim, &[]).await;
    let entries = audit_entries(&service).await;
    shim.set(Fault::IsReadOnly, 1);
    assert_problem(&post_deletion(&service, "person-1").await);
    let row = people::ndjson([people::sample(900, "train")].into_iter());
    assert_problem(&people::ingest(&service, row).await);
    assert_eq!(audit_entries(&service).await, entries);
    assert!(service.pages("/v1/deletion-requests").await.is_empty());
    assert_eq!(people::predict(&service, 0).await.status, StatusCode::OK, "within its lease");
    shim.set(Fault::IsReadOnly, 0);
    recovers(&service, "person-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_goes_read_only_under_a_batch_delays_it() {
    for database in Database::ALL {
        let shim = Shim::new();
        let service = start(database, &shim, &promise::ENVIRONMENT).await;
        let mut promise = Promise::of(&service).await;
        service.hold_at("batch.judged");
        promise.accepted.push(accepted(&service, "person-1").await);
        service.reaches("batch.judged").await;
        shim.set(Fault::IsReadOnly, 1);
        service.let_pass("batch.judged");
        an_attempt_fails(&service).await;
        assert_eq!(people::causes(&service).await, ["trained"]);
        shim.set(Fault::IsReadOnly, 0);
        promise.is_fulfilled(&service).await;
    }
}

/// Longer than the leases.
const SLOW: Duration = Duration::from_millis(2_500);

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_store_of_weights_costs_time_and_no_lease() {
    let leases = [("FORGETD_WORKER__LEASE_S", "2"), ("FORGETD_SERVING__LEASE_S", "2")];
    for database in Database::ALL {
        let shim = Shim::new();
        let service = start(database, &shim, &leases).await;
        shim.set(Fault::WeightsDelayMs, i64::try_from(SLOW.as_millis()).unwrap());
        let id = accepted(&service, "person-1").await;
        let completed = eventually(
            "the request is completed",
            async || {
                let answer = people::predict(&service, 0).await;
                assert_eq!(answer.status, StatusCode::OK, "predictions go on: {answer:#?}");
                service.get(&format!("/v1/deletion-requests/{id}")).await.body
            },
            |request| request["state"] == "completed",
        )
        .await;
        assert_eq!(completed["reason"], json!(null), "{completed:#}");
        let run = format!(
            "/v1/models/{MODEL}/training-runs/{}",
            field(&completed, "/batch_id").as_str().unwrap()
        );
        let run = service.get(&run).await.body;
        assert_eq!(run["attempts"], 1, "the worker kept its lease: {run:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_were_being_stored_at_a_kill_do_not_stay() {
    for database in Database::ALL {
        let shim = Shim::new();
        let mut service = start(database, &shim, &promise::ENVIRONMENT).await;
        let mut promise = Promise::of(&service).await;
        shim.set(Fault::WeightsDelayMs, 1_000);
        promise.accepted.push(accepted(&service, "person-1").await);
        let stored = async || unfinished(&service);
        eventually("weights are being stored", stored, |files| !files.is_empty()).await;
        service.kill();
        shim.set(Fault::WeightsDelayMs, 0);
        assert!(!unfinished(&service).is_empty(), "what a kill leaves");
        service.restart().await;
        promise.is_fulfilled(&service).await;
    }
}

/// Files that an object store in a folder writes beside a blob and renames once they are whole.
fn unfinished(service: &Service) -> Vec<PathBuf> {
    promise::weights_files(service)
        .into_iter()
        .filter(|file| file.file_name().unwrap().to_str().unwrap().contains('#'))
        .collect()
}
