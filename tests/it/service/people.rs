//! A small made-up population to learn from: two numbers and a word decide the label.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    Service, eventually, field,
    process::{Answer, answer},
};

pub const MODEL: &str = "people";
pub const TRAINED: u32 = 240;
pub const HELD_OUT: u32 = 60;
/// Samples of each person, but for the last.
pub const SAMPLES_EACH: u32 = 3;

/// One row; the same for the same number at each run.
pub fn row(number: u32) -> Value {
    let noise = |salt: u32| {
        f64::from(number.wrapping_mul(2_654_435).wrapping_add(salt * 40_503) % 1_000) / 1_000.0
    };
    let (age, hours) = (20.0 + 50.0 * noise(1), 60.0 * noise(2));
    let work = ["private", "state", "self"][(number % 3) as usize];
    let score = age / 70.0 + hours / 60.0 + if work == "self" { 0.3 } else { 0.0 };
    json!({"age": age, "hours": hours, "work": work, "label": if score > 1.1 { "high" } else { "low" }})
}

pub fn subject_of(number: u32) -> String {
    format!("person-{}", number / SAMPLES_EACH)
}

pub fn sample(number: u32, split: &str) -> Value {
    let row = row(number);
    json!({
        "sample_id": format!("visit-{number}"),
        "subject_id": subject_of(number),
        "split": split,
        "label": row["label"],
        "features": {"age": row["age"], "hours": row["hours"], "work": row["work"]},
    })
}

/// One JSON object a line.
pub fn ndjson(samples: impl Iterator<Item = Value>) -> String {
    samples.fold(String::new(), |lines, sample| lines + &sample.to_string() + "\n")
}

pub fn population() -> String {
    let split = |number| if number < TRAINED { "train" } else { "holdout" };
    ndjson((0..TRAINED + HELD_OUT).map(|number| sample(number, split(number))))
}

pub fn model(policy: &Value) -> Value {
    json!({
        "name": MODEL,
        "network": {"preset": "mlp", "hidden": [16]},
        "schema": {"columns": [
            {"name": "age", "kind": "numeric"},
            {"name": "hours", "kind": "numeric"},
            {"name": "work", "kind": "categorical"},
        ]},
        "recipe": {"epochs": 20, "batch_size": 32, "learning_rate": 0.01, "folds": 3, "seed": 7},
        "policy": policy,
    })
}

/// A policy under which nothing settles by itself.
pub fn unsettled() -> Value {
    json!({"settlement": {
        "after_requests": null, "after_age_s": null, "after_accuracy_drop": null
    }})
}

pub async fn ingest(service: &Service, body: String) -> Answer {
    let path = format!("/v1/models/{MODEL}/samples");
    let request = service.request(Method::POST, &path);
    answer(request.header("content-type", "application/x-ndjson").body(body)).await
}

/// Creates the model and ingests the population.
pub async fn populated(service: &Service, policy: &Value) {
    let created = service.post("/v1/models", &model(policy)).await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:#?}");
    let ingested = ingest(service, population()).await;
    assert_eq!(ingested.status, StatusCode::CREATED, "{ingested:#?}");
}

/// Populates the model and trains; returns when version 1 answers.
pub async fn trained(service: &Service, policy: &Value) {
    populated(service, policy).await;
    train(service, "training").await;
    ready(service).await;
}

/// Starts a run of this kind and waits for its end.
pub async fn train(service: &Service, kind: &str) -> Value {
    let path = format!("/v1/models/{MODEL}/training-runs");
    let queued = service.post(&path, &json!({"kind": kind})).await;
    assert_eq!(queued.status, StatusCode::ACCEPTED, "{queued:#?}");
    let run = format!("{path}/{}", field(&queued.body, "/id").as_str().unwrap());
    let ended = eventually(
        "the run ends",
        async || service.get(&run).await.body,
        |run| ["completed", "failed", "cancelled"].iter().any(|end| run["state"] == *end),
    )
    .await;
    assert_eq!(ended["state"], "completed", "{ended:#}");
    ended
}

pub async fn ready(service: &Service) {
    let path = format!("/v2/models/{MODEL}/ready");
    eventually(
        "the model is ready",
        async || service.get(&path).await.status,
        |status| *status == StatusCode::OK,
    )
    .await;
}

/// The body of a prediction for one row.
pub fn prediction(number: u32) -> Value {
    let row = row(number);
    json!({"inputs": [
        {"name": "age", "shape": [1], "datatype": "FP64", "data": [row["age"]]},
        {"name": "hours", "shape": [1], "datatype": "FP64", "data": [row["hours"]]},
        {"name": "work", "shape": [1], "datatype": "BYTES", "data": [row["work"]]},
    ]})
}

pub async fn predict(service: &Service, number: u32) -> Answer {
    service.post(&format!("/v2/models/{MODEL}/infer"), &prediction(number)).await
}

/// Asks for the deletion of these subjects; returns the request's id.
pub async fn forget(service: &Service, subjects: &[&str]) -> String {
    let body = json!({"model": MODEL, "subjects": subjects});
    let accepted = service.post("/v1/deletion-requests", &body).await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED, "{accepted:#?}");
    field(&accepted.body, "/id").as_str().unwrap().to_owned()
}

/// Of each version, newest first.
pub async fn causes(service: &Service) -> Vec<String> {
    let versions = service.pages(&format!("/v1/models/{MODEL}/versions")).await;
    versions.iter().map(|version| version["cause"].as_str().unwrap().to_owned()).collect()
}
