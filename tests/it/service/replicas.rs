//! Several processes over one `PostgreSQL`: a deletion is completed only when none of them answers
//! from older weights.

use std::time::Duration;

use forgetd::domain::timestamp::Timestamp;
use reqwest::StatusCode;

use super::{Database, Service, eventually, people, promise::weights_files};

/// The ledger waits for a silent replica this much longer than its lease.
const DEATH_MARGIN: Duration = Duration::from_secs(5);

/// Two replicas that predict, the second returned beside the first, and a worker.
async fn cluster() -> (Service, Service, Service) {
    let environment = [("FORGETD_SERVING__LEASE_S", "2")];
    let api = ["--role", "api"];
    let first = Service::start_with(Database::Postgres, &environment, &api).await;
    let second = first.beside(&api).await;
    let worker = first.beside(&["--role", "worker"]).await;
    people::trained(&first, &people::unsettled()).await;
    people::ready(&second).await;
    (first, second, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn once_completed_every_replica_answers_from_the_new_version() {
    let (first, second, _worker) = cluster().await;
    for person in 1..=5 {
        let id = people::forget(&first, &[&format!("person-{person}")]).await;
        let completed = second.request_becomes(&id, "completed").await;
        let epoch = completed["excluded_from_epoch"].as_u64().unwrap();
        for replica in [&first, &second] {
            let answer = people::predict(replica, 0).await;
            let version: u64 = answer.body["model_version"].as_str().unwrap().parse().unwrap();
            assert!(version >= epoch, "{answer:#?} after {completed:#}");
        }
    }
    only_the_newest_weights_are_left(&first).await;
}

async fn only_the_newest_weights_are_left(service: &Service) {
    let weights = async || weights_files(service);
    eventually("older weights are destroyed", weights, |files| files.len() == 1).await;
    assert_eq!(people::predict(service, 0).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_replica_holds_completion_up_until_it_is_fenced() {
    let (first, second, _worker) = cluster().await;
    second.signal("STOP");
    let id = people::forget(&first, &["person-1"]).await;
    eventually(
        "the first replica answers from version 2",
        async || people::predict(&first, 0).await.body,
        |answer| answer["model_version"] == "2",
    )
    .await;
    assert_eq!(weights_files(&first).len(), 2, "the frozen one may still need the older");
    let completed = first.request_becomes(&id, "completed").await;
    let time = |field: &str| completed[field].as_str().unwrap().parse::<Timestamp>().unwrap();
    let waited = time("completed_at").since(time("received_at"));
    assert!(waited >= DEATH_MARGIN, "completed after {waited:?}, while the replica might answer");
    second.signal("CONT");
    let woken = people::predict(&second, 0).await;
    assert!(
        woken.status == StatusCode::SERVICE_UNAVAILABLE || woken.body["model_version"] == "2",
        "older weights must not answer any more: {woken:#?}"
    );
    eventually(
        "the woken replica catches up",
        async || people::predict(&second, 0).await.body,
        |answer| answer["model_version"] == "2",
    )
    .await;
    only_the_newest_weights_are_left(&first).await;
}
