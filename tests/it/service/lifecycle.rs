//! A person is forgotten while others ask: the way of a deletion, from training to settlement.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{
    Database, Service, eventually, field,
    people::{self, MODEL},
    promise,
};

const CLIENTS: u32 = 8;

/// Deletions, one after the other, while the clients predict.
const SWAPS: usize = 5;

/// Time for every client to see a version.
const BETWEEN_SWAPS: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_forgotten_under_live_traffic() {
    for database in Database::ALL {
        let service = Arc::new(Service::start(database).await);
        people::trained(&service, &people::unsettled()).await;
        let before = people::predict(&service, 0).await;
        assert_eq!(before.status, StatusCode::OK, "{before:#?}");
        assert_eq!(before.body["model_version"], "1");

        let traffic = Traffic::start(&service);
        tokio::time::sleep(BETWEEN_SWAPS).await;
        let id = people::forget(&service, &["person-0"]).await;
        let completed = service.request_becomes(&id, "completed").await;
        for person in 1..SWAPS {
            tokio::time::sleep(BETWEEN_SWAPS).await;
            let id = people::forget(&service, &[&format!("person-{person}")]).await;
            service.request_becomes(&id, "completed").await;
        }
        tokio::time::sleep(BETWEEN_SWAPS).await;
        traffic.stop().await;

        assert_eq!(completed["guarantee"], "approximate", "{completed:#}");
        assert_eq!(completed["excluded_from_epoch"], 2);
        assert_eq!(completed["targets"][0]["samples"], people::SAMPLES_EACH);
        assert!(completed["evidence"].is_object(), "{completed:#}");
        let after = people::predict(&service, 0).await;
        assert_eq!(after.body["model_version"], (SWAPS + 1).to_string());
        assert_ne!(
            after.body["parameters"]["weights"], before.body["parameters"]["weights"],
            "other weights answer"
        );
        the_samples_are_gone(&service, SWAPS).await;
        the_contribution_is_closed(&service).await;
        the_old_weights_are_destroyed(&service).await;
    }
}

/// So that predictions need not wait for the end of their turns. `SQLite`'s threads serve both.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn what_computes_in_the_background_stands_back() {
    let service = Service::start(Database::Sqlite).await;
    people::trained(&service, &people::unsettled()).await;
    let id = people::forget(&service, &["person-0"]).await;
    service.request_becomes(&id, "completed").await;
    assert_eq!(people::predict(&service, 1).await.status, StatusCode::OK);
    let threads = service.threads();
    let niceness = |name: &str| -> Vec<i32> {
        threads.iter().filter(|it| it.0.starts_with(name)).map(|it| it.1).collect()
    };
    let [own] = niceness("forgetd")[..] else { panic!("{threads:?}") };
    for (name, count, expected) in [
        ("background", 2, own.max(10)),
        ("compute-", 1, own.max(10)),
        ("inference-", 2, own),
        ("sqlx-sqlite", 5, own),
    ] {
        assert!(niceness(name).len() >= count, "{name}: {threads:?}");
        assert!(niceness(name).iter().all(|it| *it == expected), "{name}: {threads:?}");
    }
    assert!(niceness("tokio-rt-worker").contains(&own), "{threads:?}");
}

/// Clients that predict without a pause, and what they saw.
struct Traffic {
    stopped: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<Vec<(Duration, u64)>>>,
}

impl Traffic {
    fn start(service: &Arc<Service>) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let clients = (0..CLIENTS)
            .map(|number| {
                let (service, stopped) = (service.clone(), stopped.clone());
                tokio::spawn(async move {
                    let mut seen = Vec::new();
                    while !stopped.load(Ordering::Relaxed) {
                        let started = Instant::now();
                        let answer = people::predict(&service, number).await;
                        assert_eq!(answer.status, StatusCode::OK, "{answer:#?}");
                        let version = answer.body["model_version"].as_str().unwrap();
                        let version = version.parse().unwrap();
                        seen.push((started.elapsed(), version));
                    }
                    seen
                })
            })
            .collect();
        Self { stopped, clients }
    }

    /// No answer failed, none went back to an older version, and no swap held anybody up: at each,
    /// the first answers of the new version took at most ten times the median. Other processes
    /// share the cores and make single answers late at any time; so an answer at a swap may also
    /// take as long as the slowest answer that had no swap in it.
    async fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        let (mut at_swap, mut elsewhere) = (vec![Duration::ZERO; SWAPS], Vec::new());
        for client in self.clients {
            let seen = client.await.unwrap();
            assert!(seen.is_sorted_by_key(|(_, version)| *version), "versions went back");
            let (mut before, mut swaps) = (1, 0);
            for (elapsed, version) in seen {
                if version == before {
                    elsewhere.push(elapsed);
                } else {
                    swaps += 1;
                    let slowest = &mut at_swap[usize::try_from(version).unwrap() - 2];
                    *slowest = elapsed.max(*slowest);
                }
                before = version;
            }
            assert_eq!(swaps, SWAPS, "each client sees each version");
        }
        elsewhere.sort_unstable();
        let limit = elsewhere[elsewhere.len() / 2] * 10;
        let noise = elsewhere[elsewhere.len() - 1];
        assert!(
            at_swap.iter().all(|slowest| *slowest <= limit.max(noise)),
            "{at_swap:?} at the swaps, limit {limit:?}, at most {noise:?} without a swap"
        );
    }
}

/// Of person 0, who is one of so many that were deleted.
async fn the_samples_are_gone(service: &Service, deleted: usize) {
    let back =
        people::ingest(service, people::ndjson([people::sample(0, "train")].into_iter())).await;
    assert_eq!(back.status, StatusCode::CONFLICT, "{back:#?}");
    let other = json!({
        "sample_id": "new", "subject_id": "person-0", "label": "low",
        "features": people::sample(0, "train")["features"],
    });
    let back = people::ingest(service, format!("{other}\n")).await;
    assert_eq!(back.status, StatusCode::CONFLICT, "another sample of the same person");
    let model = service.get(&format!("/v1/models/{MODEL}")).await.body;
    let forgotten = deleted as u64 * u64::from(people::SAMPLES_EACH);
    assert_eq!(field(&model, "/samples/train"), u64::from(people::TRAINED) - forgotten);
}

async fn the_contribution_is_closed(service: &Service) {
    let path = format!("/v1/models/{MODEL}/lineage");
    let lineage = service.post(&path, &json!({"subjects": ["person-0"]})).await;
    assert_eq!(lineage.status, StatusCode::OK, "{lineage:#?}");
    let samples = field(&lineage.body, "/targets/0/samples").as_array().unwrap().clone();
    assert_eq!(samples.len(), people::SAMPLES_EACH as usize);
    for sample in samples {
        assert_eq!((&sample["from_epoch"], &sample["until_epoch"]), (&json!(1), &json!(2)));
    }
}

pub async fn the_old_weights_are_destroyed(service: &Service) {
    let path = format!("/v1/models/{MODEL}/versions/1");
    eventually(
        "version 1 loses its weights",
        async || service.get(&path).await.body,
        |version| version["weights_removed_at"].is_string(),
    )
    .await;
    let first = service.get(&path).await.body;
    let blob = promise::weights_file(service, &first);
    assert!(!blob.exists(), "{}", blob.display());
    let older = format!("/v2/models/{MODEL}/versions/1/infer");
    let refused = service.post(&older, &people::prediction(0)).await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND, "{refused:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_makes_the_guarantee_exact() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        people::trained(&service, &people::unsettled()).await;
        let id = people::forget(&service, &["person-1", "person-2"]).await;
        service.request_becomes(&id, "completed").await;

        let run = people::train(&service, "settlement").await;
        assert_eq!(run["epoch"], 3);
        let settled = eventually(
            "the request is settled",
            async || service.get(&format!("/v1/deletion-requests/{id}")).await.body,
            |request| request["guarantee"] == "exact",
        )
        .await;
        assert!(settled["settled_at"].is_string());
        eventually(
            "version 3 answers",
            async || people::predict(&service, 3).await.body,
            |answer| answer["model_version"] == "3",
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_are_served_by_few_updates() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        people::trained(&service, &people::unsettled()).await;
        let mut ids = Vec::new();
        for number in 0..20 {
            ids.push(people::forget(&service, &[&format!("person-{number}")]).await);
        }
        for id in &ids {
            service.request_becomes(id, "completed").await;
        }
        let epochs = epochs(&service).await;
        assert!(epochs.len() < 1 + ids.len(), "{} updates for 20 requests", epochs.len() - 1);
        assert!(epochs.iter().rev().copied().eq(1..=epochs.len() as u64), "{epochs:?}");
    }
}

/// Newest first.
pub async fn epochs(service: &Service) -> Vec<u64> {
    let versions = service.pages(&format!("/v1/models/{MODEL}/versions")).await;
    versions.iter().map(|version| version["epoch"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_that_no_version_holds_is_only_erased() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        people::trained(&service, &people::unsettled()).await;
        // Person 99 has only hold-out samples (numbers 297 to 299).
        let id = people::forget(&service, &["person-99"]).await;
        let completed = service.request_becomes(&id, "completed").await;
        assert_eq!(completed["guarantee"], "exact", "{completed:#}");
        assert_eq!(people::predict(&service, 0).await.body["model_version"], "1");
        let model = service.get(&format!("/v1/models/{MODEL}")).await.body;
        assert_eq!(field(&model, "/samples/holdout"), people::HELD_OUT - people::SAMPLES_EACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_post_is_the_same_request() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        people::trained(&service, &people::unsettled()).await;
        let post = |body: Value| {
            let request = service.request(reqwest::Method::POST, "/v1/deletion-requests");
            super::process::answer(request.header("idempotency-key", "same").json(&body))
        };
        let first = post(json!({"model": MODEL, "subjects": ["person-5"]})).await;
        let again = post(json!({"model": MODEL, "subjects": ["person-5"]})).await;
        assert_eq!((first.status, again.status), (StatusCode::ACCEPTED, StatusCode::ACCEPTED));
        assert_eq!(first.body["id"], again.body["id"]);
        let other = post(json!({"model": MODEL, "subjects": ["person-6"]})).await;
        assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY, "{other:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_device_serves_and_forgets_too() {
    for database in Database::ALL {
        let environment = [("FORGETD_SERVING__DEVICE", "ndarray")];
        let service = Service::start_with(database, &environment, &[]).await;
        let started = service.log();
        let started = started.lines().find(|line| line.contains("\"device\":"));
        assert!(started.is_some_and(|line| line.contains("Ndarray")), "{started:?}");
        people::trained(&service, &people::unsettled()).await;
        assert_eq!(people::predict(&service, 0).await.status, StatusCode::OK);
        let id = people::forget(&service, &["person-0"]).await;
        let completed = service.request_becomes(&id, "completed").await;
        assert_eq!(completed["guarantee"], "approximate", "{completed:#}");
        let after = people::predict(&service, 0).await;
        assert_eq!(after.body["model_version"], "2", "{after:#?}");
        the_samples_are_gone(&service, 1).await;
    }
}
