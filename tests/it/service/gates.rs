//! What becomes of a batch besides a published update: a retraining, at once or some time later.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{Database, Service, eventually, field, people};

const MEMORISED: u32 = 160;
const NEVER_SEEN: u32 = 80;
const FORGOTTEN: u32 = 48;
const COLUMNS: u32 = 16;

/// Labels that the features say nothing about, so that only rows learnt by heart stand out.
fn noise() -> String {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    people::ndjson((0..MEMORISED + NEVER_SEEN).map(|number| {
        let values = (0..COLUMNS).map(|it| (column_name(it), json!(rng.random_range(0.0..1.0))));
        let features: serde_json::Map<_, _> = values.collect();
        json!({
            "sample_id": format!("visit-{number}"),
            "subject_id": people::subject_of(number),
            "split": if number < MEMORISED { "train" } else { "holdout" },
            "label": if rng.random_bool(0.5) { "odd" } else { "even" },
            "features": features,
        })
    }))
}

fn column_name(column: u32) -> String {
    format!("f{column}")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_hardly_forgets_is_never_published() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        let mut policy = people::unsettled();
        policy["method"] = json!("iau-reference");
        // Of noise nothing is predicted: accuracy must not be what fails.
        policy["holdout_accuracy_tolerance"] = json!(1.0);
        let mut model = people::model(&policy);
        let columns: Vec<_> =
            (0..COLUMNS).map(|it| json!({"name": column_name(it), "kind": "numeric"})).collect();
        model["schema"] = json!({"columns": columns});
        model["network"] = json!({"preset": "mlp", "hidden": [64]});
        model["recipe"]["epochs"] = json!(100);
        let created = service.post("/v1/models", &model).await;
        assert_eq!(created.status, StatusCode::CREATED, "{created:#?}");
        let ingested = people::ingest(&service, noise()).await;
        assert_eq!(ingested.status, StatusCode::CREATED, "{ingested:#?}");
        people::train(&service, "training").await;

        let subjects: Vec<_> =
            (0..FORGOTTEN / people::SAMPLES_EACH).map(|it| format!("person-{it}")).collect();
        let subjects: Vec<_> = subjects.iter().map(String::as_str).collect();
        let id = people::forget(&service, &subjects).await;
        let completed = service.request_becomes(&id, "completed").await;

        assert_eq!(completed["samples"], FORGOTTEN, "{completed:#}");
        assert_eq!(completed["guarantee"], "exact", "{completed:#}");
        let failure = field(&completed, "/evidence/gate_failure").as_str().unwrap();
        assert!(failure.contains("still remembers"), "{failure}");
        assert_eq!(field(&completed, "/evidence/update/verdict"), "failed");
        let p = field(&completed, "/evidence/update/rank_test_p").as_f64().unwrap();
        assert!(p < 0.001, "{p}");
        let causes = people::causes(&service).await;
        assert_eq!(causes, ["settled", "trained"], "newest first; the update itself is not there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_method_retrain_is_exact_at_once() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        let mut policy = people::unsettled();
        policy["method"] = json!("retrain");
        people::trained(&service, &policy).await;
        let id = people::forget(&service, &["person-1"]).await;
        let completed = service.request_becomes(&id, "completed").await;
        assert_eq!(completed["guarantee"], "exact", "{completed:#}");
        assert_eq!(completed["settled_at"], completed["completed_at"]);
        assert_eq!(completed["excluded_from_epoch"], 2);
        assert_eq!(people::causes(&service).await, ["settled", "trained"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settlements_come_by_themselves_after_enough_requests() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        let mut policy = people::unsettled();
        policy["settlement"]["after_requests"] = json!(2);
        people::trained(&service, &policy).await;

        let first = people::forget(&service, &["person-1"]).await;
        let alone = service.request_becomes(&first, "completed").await;
        assert_eq!(alone["guarantee"], "approximate", "{alone:#}");
        let second = people::forget(&service, &["person-2"]).await;
        service.request_becomes(&second, "completed").await;
        for id in [first, second] {
            becomes_exact(&service, &id).await;
        }
        assert_eq!(
            people::causes(&service).await,
            ["settled", "unlearned", "unlearned", "trained"]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settlements_come_by_themselves_after_a_while() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        let mut policy = people::unsettled();
        policy["settlement"]["after_age_s"] = json!(1);
        people::trained(&service, &policy).await;
        let id = people::forget(&service, &["person-1"]).await;
        becomes_exact(&service, &id).await;
        assert_eq!(people::causes(&service).await, ["settled", "unlearned", "trained"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_requests_calls_for_no_more_settlements_than_the_budget() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        let mut policy = people::unsettled();
        policy["settlement"]["after_requests"] = json!(1);
        policy["settlement"]["per_day_max"] = json!(2);
        people::trained(&service, &policy).await;
        for person in 1..=2 {
            let id = people::forget(&service, &[&format!("person-{person}")]).await;
            becomes_exact(&service, &id).await;
        }
        // Each completion is followed by a pass of upkeep, which finds a settlement due.
        for person in 3..=6 {
            let id = people::forget(&service, &[&format!("person-{person}")]).await;
            let completed = service.request_becomes(&id, "completed").await;
            assert_eq!(completed["guarantee"], "approximate", "{completed:#}");
        }
        let settled =
            people::causes(&service).await.iter().filter(|cause| *cause == "settled").count();
        assert_eq!(settled, 2);
        // By hand it is always called for.
        people::train(&service, "settlement").await;
    }
}

async fn becomes_exact(service: &Service, id: &str) -> Value {
    eventually(
        "the request is settled",
        async || service.get(&format!("/v1/deletion-requests/{id}")).await.body,
        |request| request["guarantee"] == "exact",
    )
    .await
}
