//! The process is killed at random moments under a load of deletions: nothing is lost, nothing
//! happens twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::{
    Database, Service, eventually, field,
    people::{self, MODEL},
    process::answer,
    promise::{self, Promise},
};

/// How often the process is killed; `FORGETD_TEST_KILLS` asks for more.
const KILLS: u32 = 15;

/// After so many kills everything must have its end, before there are more.
const KILLS_PER_ROUND: u32 = 25;

/// The latest moment of a kill after the service answers again.
const LIFE_MAX_MS: u64 = 400;

/// Between two requests of the load.
const PAUSE: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread")]
async fn every_accepted_request_survives_kills_on_sqlite() {
    survives(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_accepted_request_survives_kills_on_postgres() {
    survives(Database::Postgres).await;
}

async fn survives(database: Database) {
    let kills: u32 = std::env::var("FORGETD_TEST_KILLS").map_or(KILLS, |it| it.parse().unwrap());
    let mut service = Service::start_with(database, &promise::ENVIRONMENT, &[]).await;
    trained_on(&service, kills * 5).await;
    let mut promise = Promise::of(&service).await;

    let mut rng = ChaCha8Rng::seed_from_u64(17);
    let next = Arc::new(AtomicU32::new(0));
    for kill in 1..=kills {
        let load = Load::start(&service, &next);
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..LIFE_MAX_MS))).await;
        service.kill();
        let (accepted, unanswered) = load.stop().await;
        service.restart().await;
        promise.accepted.extend(accepted);
        // It may have been accepted all the same; then it is that request.
        if let Some(number) = unanswered {
            let repeated = answer(deletion(&service.client, &service.address, number)).await;
            assert_eq!(repeated.status, StatusCode::ACCEPTED, "{repeated:#?}");
            promise.accepted.push(field(&repeated.body, "/id").as_str().unwrap().to_owned());
        }
        if kill % KILLS_PER_ROUND == 0 || kill == kills {
            promise.is_fulfilled(&service).await;
            promise.keep_head(&service).await;
        }
    }
    let accepted = u32::try_from(promise.accepted.len()).unwrap();
    println!("{accepted} requests survived {kills} kills on {database:?}");
    assert!(accepted > kills, "only {accepted} requests were accepted");
}

/// A trained model with so many samples that the load can delete, beside the population.
async fn trained_on(service: &Service, more: u32) {
    let created = service.post("/v1/models", &people::model(&people::unsettled())).await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:#?}");
    let numbers = people::TRAINED + people::HELD_OUT..people::TRAINED + people::HELD_OUT + more;
    let samples = people::ndjson(numbers.map(|number| people::sample(number, "train")));
    let ingested = people::ingest(service, people::population() + &samples).await;
    assert_eq!(ingested.status, StatusCode::CREATED, "{ingested:#?}");
    people::train(service, "training").await;
    people::ready(service).await;
}

/// Of one of the samples that came in beside the population; it may be sent again.
fn deletion(client: &Client, address: &str, number: u32) -> RequestBuilder {
    let sample = people::TRAINED + people::HELD_OUT + number;
    let body = json!({"model": MODEL, "samples": [format!("visit-{sample}")]});
    let request = client.request(Method::POST, format!("{address}/v1/deletion-requests"));
    request.header("idempotency-key", format!("deletion-{number}")).json(&body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_that_was_killed_starts_over() {
    for database in Database::ALL {
        let environment = [("FORGETD_WORKER__LEASE_S", "1")];
        let mut service = Service::start_with(database, &environment, &[]).await;
        let mut model = people::model(&people::unsettled());
        model["recipe"]["epochs"] = json!(600);
        assert!(service.post("/v1/models", &model).await.status.is_success());
        people::ingest(&service, people::population()).await;
        let runs = format!("/v1/models/{MODEL}/training-runs");
        let queued = service.post(&runs, &json!({})).await.body;
        let run = format!("{runs}/{}", field(&queued, "/id").as_str().unwrap());
        eventually(
            "the run is under way",
            async || service.get(&run).await.body,
            |run| run["state"] == "running",
        )
        .await;
        service.kill();
        service.restart().await;
        let ended = eventually(
            "the run ends",
            async || service.get(&run).await.body,
            |run| run["state"] == "completed",
        )
        .await;
        assert_eq!((&ended["attempts"], &ended["epoch"]), (&json!(2), &json!(1)), "{ended:#}");
        people::ready(&service).await;
        assert_eq!(people::predict(&service, 0).await.body["model_version"], "1");
    }
}

/// Posts one deletion after the other until the service dies.
struct Load {
    stopped: Arc<AtomicBool>,
    poster: tokio::task::JoinHandle<(Vec<String>, Option<u32>)>,
}

impl Load {
    fn start(service: &Service, next: &Arc<AtomicU32>) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let (until, next) = (stopped.clone(), next.clone());
        let (client, address) = (service.client.clone(), service.address.clone());
        let poster = tokio::spawn(async move {
            let mut accepted = Vec::new();
            while !until.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let sent = deletion(&client, &address, number).send().await;
                let Ok(sent) = sent else { return (accepted, Some(number)) };
                let Ok(body) = sent.json::<Value>().await else { return (accepted, Some(number)) };
                accepted.push(field(&body, "/id").as_str().unwrap().to_owned());
                tokio::time::sleep(PAUSE).await;
            }
            (accepted, None)
        });
        Self { stopped, poster }
    }

    /// The requests that were accepted, and the number of the one that was not answered.
    async fn stop(self) -> (Vec<String>, Option<u32>) {
        self.stopped.store(true, Ordering::Relaxed);
        self.poster.await.unwrap()
    }
}
