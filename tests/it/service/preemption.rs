//! Long computations give way to deletions.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{
    Database, Service, eventually, field,
    people::{self, MODEL},
};

/// Some seconds of training: far more than a deletion takes, far less than patience lasts.
const LONG_EPOCHS: u32 = 1_500;

/// A model that takes long to train, with its samples.
async fn slow_learner(service: &Service) {
    let mut model = people::model(&people::unsettled());
    model["recipe"]["epochs"] = json!(LONG_EPOCHS);
    assert_eq!(service.post("/v1/models", &model).await.status, StatusCode::CREATED);
    let ingested = people::ingest(service, people::population()).await;
    assert_eq!(ingested.status, StatusCode::CREATED, "{ingested:#?}");
}

/// Starts a run of this kind and waits until it computes; returns its path.
async fn start(service: &Service, kind: &str) -> String {
    let runs = format!("/v1/models/{MODEL}/training-runs");
    let queued = service.post(&runs, &json!({"kind": kind})).await;
    assert_eq!(queued.status, StatusCode::ACCEPTED, "{queued:#?}");
    let run = format!("{runs}/{}", field(&queued.body, "/id").as_str().unwrap());
    eventually(
        "the run is worked on",
        async || service.get(&run).await.body,
        |body| body["state"] == "running",
    )
    .await;
    run
}

async fn ends(service: &Service, run: &str) -> Value {
    eventually(
        "the run completes",
        async || service.get(run).await.body,
        |body| body["state"] == "completed",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_steps_aside_for_a_deletion_and_ends_afterwards() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        slow_learner(&service).await;
        people::train(&service, "training").await;
        let before = people::forget(&service, &["person-1"]).await;
        service.request_becomes(&before, "completed").await;

        let run = start(&service, "settlement").await;
        let meanwhile = people::forget(&service, &["person-2"]).await;
        let completed = service.request_becomes(&meanwhile, "completed").await;
        assert_eq!(
            completed["guarantee"], "approximate",
            "the settlement is not done: {completed:#}"
        );
        assert_eq!(completed["excluded_from_epoch"], 3);
        let unfinished = service.get(&run).await.body;
        assert!(
            ["queued", "running"].iter().any(|it| unfinished["state"] == *it),
            "{unfinished:#}"
        );
        assert!(unfinished["preemptions"].as_u64() >= Some(1), "{unfinished:#}");

        let ended = ends(&service, &run).await;
        assert_eq!(ended["epoch"], 4, "{ended:#}");
        for id in [before, meanwhile] {
            let request = service.get(&format!("/v1/deletion-requests/{id}")).await.body;
            assert_eq!(request["guarantee"], "exact", "{request:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_during_the_first_training_is_in_no_version() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        slow_learner(&service).await;
        let run = start(&service, "training").await;
        let id = people::forget(&service, &["person-0"]).await;
        let completed = service.request_becomes(&id, "completed").await;
        assert_eq!(completed["guarantee"], "exact", "{completed:#}");
        let versions = format!("/v1/models/{MODEL}/versions");
        assert!(service.pages(&versions).await.is_empty(), "the training is not done");

        let ended = ends(&service, &run).await;
        assert!(ended["preemptions"].as_u64() >= Some(1), "{ended:#}");
        let version = service.get(&format!("{versions}/1")).await.body;
        let left = people::TRAINED - people::SAMPLES_EACH;
        assert_eq!(field(&version, "/metrics/samples"), left, "{version:#}");
        let question = json!({"subjects": ["person-0"]});
        let lineage = service.post(&format!("/v1/models/{MODEL}/lineage"), &question).await.body;
        let samples = field(&lineage, "/targets/0/samples").as_array().unwrap();
        assert_eq!(samples.len(), people::SAMPLES_EACH as usize, "{lineage:#}");
        for sample in samples {
            assert!(
                sample["deleted_at"].is_string() && sample["from_epoch"].is_null(),
                "{sample:#}"
            );
        }
    }
}
