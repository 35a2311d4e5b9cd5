//! The process is killed where a job takes another way than straight to its end, and where the log is
//! signed: nothing is lost, nothing happens twice. `steps` is about the straight way.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    Database, Service, eventually, field,
    people::{self, MODEL},
    process::Answer,
    promise::{self, Promise},
};

/// Every named step that is tried here.
pub const STEPS: [&[&str]; 9] = [
    &INGESTED,
    TRAINING,
    &RENEWED,
    &GIVEN_BACK,
    &FAILED,
    &PUT_OFF,
    &CANCELLED,
    &SETTLEMENT_DUE,
    &SIGNED,
];

const INGESTED: [&str; 2] = ["ingest.written", "ingest.committed"];
const TRAINING: &[&str] = &[
    "retraining.computed",
    "retraining.stored",
    "stage_predictions.written",
    "stage_predictions.committed",
    "publish.written",
    "publish.committed",
    "replica.loaded",
    "report_served.written",
    "report_served.committed",
];
const RENEWED: [&str; 2] = ["renew_lease.written", "renew_lease.committed"];
const GIVEN_BACK: [&str; 4] =
    ["release.written", "release.committed", "retire_replica.written", "retire_replica.committed"];
const FAILED: [&str; 2] = ["fail_attempt.written", "fail_attempt.committed"];
const PUT_OFF: [&str; 2] = ["put_off.written", "put_off.committed"];
const CANCELLED: [&str; 2] = ["acknowledge_cancel.written", "acknowledge_cancel.committed"];
const SETTLEMENT_DUE: [&str; 2] =
    ["enqueue_settlement_due.written", "enqueue_settlement_due.committed"];
const SIGNED: [&str; 4] = [
    "put_audit_nodes.written",
    "put_audit_nodes.committed",
    "put_checkpoint.written",
    "put_checkpoint.committed",
];

async fn trained(database: Database, policy: &Value) -> (Service, Promise) {
    let service = Service::start_with(database, &promise::ENVIRONMENT, &[]).await;
    people::trained(&service, policy).await;
    let promise = Promise::of(&service).await;
    (service, promise)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_is_there_whole_or_not_at_all() {
    for database in Database::ALL {
        let mut service = Service::start_with(database, &promise::ENVIRONMENT, &[]).await;
        let created = service.post("/v1/models", &people::model(&people::unsettled())).await;
        assert_eq!(created.status, StatusCode::CREATED, "{created:#?}");
        for (step, samples) in INGESTED.iter().zip([0, people::TRAINED]) {
            service.hold_at(step);
            // Nobody may be left to answer.
            let request = service.request(Method::POST, &format!("/v1/models/{MODEL}/samples"));
            let request = request.header("content-type", "application/x-ndjson");
            let unanswered = tokio::spawn(request.body(people::population()).send());
            service.reaches(step).await;
            service.kill();
            drop(unanswered.await);
            service.let_pass(step);
            service.restart().await;
            let model = service.get(&format!("/v1/models/{MODEL}")).await.body;
            assert_eq!(field(&model, "/samples/train"), samples, "{model:#}");
        }
        people::train(&service, "training").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_training_publishes_once() {
    for database in Database::ALL {
        let mut service = Service::start_with(database, &promise::ENVIRONMENT, &[]).await;
        people::populated(&service, &people::unsettled()).await;
        service
            .kill_at_each(TRAINING, async |service, number| {
                if number == 0 {
                    let runs = format!("/v1/models/{MODEL}/training-runs");
                    let queued = service.post(&runs, &json!({})).await;
                    assert_eq!(queued.status, StatusCode::ACCEPTED, "{queued:#?}");
                }
            })
            .await;
        let promise = Promise::of(&service).await;
        promise.is_fulfilled(&service).await;
        assert_eq!(people::causes(&service).await, ["trained"]);
        let version = service.get(&format!("/v1/models/{MODEL}/versions/1")).await.body;
        assert_eq!(field(&version, "/metrics/samples"), people::TRAINED);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_renewed_is_taken_over() {
    for database in Database::ALL {
        let (mut service, mut promise) = trained(database, &people::unsettled()).await;
        // Leases are renewed for as long as the batch is not done.
        service.hold_at("batch.loaded");
        promise.accepted.push(people::forget(&service, &["person-1"]).await);
        service.kill_at_each(&RENEWED, async |_, _| ()).await;
        service.reaches("batch.loaded").await;
        service.let_pass("batch.loaded");
        promise.is_fulfilled(&service).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_given_back_is_taken_up_again() {
    for database in Database::ALL {
        let (mut service, mut promise) = trained(database, &people::unsettled()).await;
        service
            .kill_at_each(&GIVEN_BACK, async |service, number| {
                service.hold_at("batch.loaded");
                let person = format!("person-{number}");
                promise.accepted.push(people::forget(service, &[&person]).await);
                service.reaches("batch.loaded").await;
                service.terminate();
                let url = format!("{}/v2/health/live", service.address);
                let fails = async || service.client.get(&url).send().await.is_err();
                eventually("it answers nobody", fails, |fails| *fails).await;
                service.let_pass("batch.loaded");
            })
            .await;
        promise.is_fulfilled(&service).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_failed_is_made_again() {
    for database in Database::ALL {
        let (mut service, mut promise) = trained(database, &people::unsettled()).await;
        let weights = promise::weights_files(&service).remove(0);
        let aside = service.folder().join("aside");
        std::fs::rename(&weights, &aside).unwrap();
        promise.accepted.push(people::forget(&service, &["person-1"]).await);
        service.kill_at_each(&FAILED, async |_, _| ()).await;
        std::fs::rename(&aside, &weights).unwrap();
        promise.is_fulfilled(&service).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_put_off_waits_and_is_served() {
    for database in Database::ALL {
        let mut policy = people::unsettled();
        policy["settlement"]["per_day_max"] = json!(1);
        let (mut service, mut promise) = trained(database, &policy).await;
        people::train(&service, "settlement").await;
        // All that the version was trained on is to be forgotten, which takes a retraining.
        let first = people::TRAINED + people::HELD_OUT;
        let newcomers = (first..first + 60).map(|number| people::sample(number, "train"));
        let ingested = people::ingest(&service, people::ndjson(newcomers)).await;
        assert_eq!(ingested.status, StatusCode::CREATED, "{ingested:#?}");
        let everybody: Vec<_> = (0..people::TRAINED).map(people::subject_of).collect();
        let mut everybody: Vec<_> = everybody.iter().map(String::as_str).collect();
        everybody.dedup();
        service.hold_at(PUT_OFF[0]);
        let id = people::forget(&service, &everybody).await;
        service.kill_at_each(&PUT_OFF, async |_, _| ()).await;
        let path = format!("/v1/deletion-requests/{id}");
        let waits = |request: &Value| {
            let reason = request["reason"].as_str().unwrap_or_default();
            request["state"] == "queued" && reason.contains("per_day_max")
        };
        eventually("the request waits", async || service.get(&path).await.body, waits).await;
        people::train(&service, "training").await;
        promise.accepted.push(id);
        promise.is_fulfilled(&service).await;
        assert_eq!(people::causes(&service).await, ["trained", "settled", "trained"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_cancelled_ends() {
    for database in Database::ALL {
        let mut service = Service::start_with(database, &promise::ENVIRONMENT, &[]).await;
        let mut long = people::model(&people::unsettled());
        long["recipe"]["epochs"] = json!(10_000);
        assert_eq!(service.post("/v1/models", &long).await.status, StatusCode::CREATED);
        people::ingest(&service, people::population()).await;
        let runs = format!("/v1/models/{MODEL}/training-runs");
        let mut all = Vec::new();
        service
            .kill_at_each(&CANCELLED, async |service, _| {
                // The one before has to end first.
                let queued = async || service.post(&runs, &json!({})).await;
                let accepted = |it: &Answer| it.status == StatusCode::ACCEPTED;
                let queued = eventually("a run is queued", queued, accepted).await.body;
                let run = format!("{runs}/{}", field(&queued, "/id").as_str().unwrap());
                becomes(service, &run, "running").await;
                let asked = service.delete(&run).await;
                assert!(asked.status.is_success(), "{asked:#?}");
                all.push(run);
            })
            .await;
        assert_ne!(all[0], all[1]);
        for run in &all {
            becomes(&service, run, "cancelled").await;
        }
    }
}

async fn becomes(service: &Service, run: &str, state: &str) {
    let asked = async || service.get(run).await.body;
    eventually(state, asked, |run| run["state"] == state).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_that_is_due_is_called_for_once() {
    for database in Database::ALL {
        let mut policy = people::unsettled();
        policy["settlement"]["after_requests"] = json!(1);
        let (mut service, mut promise) = trained(database, &policy).await;
        service.hold_at(SETTLEMENT_DUE[0]);
        promise.accepted.push(people::forget(&service, &["person-1"]).await);
        service.kill_at_each(&SETTLEMENT_DUE, async |_, _| ()).await;
        promise.is_fulfilled(&service).await;
        let path = format!("/v1/deletion-requests/{}", promise.accepted[0]);
        let request = async || service.get(&path).await.body;
        eventually("the request is settled", request, |it| it["guarantee"] == "exact").await;
        assert_eq!(people::causes(&service).await, ["settled", "unlearned", "trained"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_signed_only_grows() {
    for database in Database::ALL {
        let (mut service, mut promise) = trained(database, &people::unsettled()).await;
        promise.keep_head(&service).await;
        // A tile of 256 leaves has a hash of its own to be stored.
        let webhooks = service.pages("/v1/webhooks").await;
        let (path, mut webhook) =
            (format!("/v1/webhooks/{}", webhooks[0]["id"].as_str().unwrap()), webhooks[0].clone());
        let known = ["name", "url", "event_types", "models"];
        webhook.as_object_mut().unwrap().retain(|name, _| known.contains(&name.as_str()));
        for _ in 0..256 {
            let changed = service.request(Method::PUT, &path).json(&webhook).send().await.unwrap();
            assert!(changed.status().is_success(), "{changed:#?}");
        }
        service
            .kill_at_each(&SIGNED, async |service, _| {
                // Nobody may be left to answer.
                tokio::spawn(service.request(Method::GET, "/audit/checkpoint").send());
            })
            .await;
        promise.accepted.push(people::forget(&service, &["person-1"]).await);
        promise.is_fulfilled(&service).await;
    }
}
