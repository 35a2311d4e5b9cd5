//! The process is killed at random moments under a load of deletions: nothing is lost, nothing
//! happens twice.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::{
    Database, Service, eventually, field,
    lifecycle::epochs,
    people::{self, MODEL},
};

const KILLS: u32 = 50;

/// The latest moment of a kill after the service answers again.
const LIFE_MAX_MS: u64 = 400;

#[tokio::test(flavor = "multi_thread")]
async fn every_accepted_request_survives_kills_on_sqlite() {
    survives(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_accepted_request_survives_kills_on_postgres() {
    survives(Database::Postgres).await;
}

async fn survives(database: Database) {
    // Leases of a second: a killed worker's batch is taken up again soon.
    let environment = [("FORGETD_WORKER__LEASE_S", "1"), ("FORGETD_SERVING__LEASE_S", "1")];
    let mut service = Service::start_with(database, &environment, &[]).await;
    people::trained(&service, &people::unsettled()).await;

    let mut rng = ChaCha8Rng::seed_from_u64(17);
    let next_sample = Arc::new(AtomicU32::new(0));
    let mut accepted = Vec::new();
    for _ in 0..KILLS {
        let load = Load::start(&service, &next_sample);
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..LIFE_MAX_MS))).await;
        service.kill();
        accepted.extend(load.stop().await);
        service.restart().await;
    }
    assert!(accepted.len() > 20, "only {} requests were accepted", accepted.len());

    for id in &accepted {
        service.request_becomes(id, "completed").await;
    }
    each_was_completed_once(&service, &accepted).await;
    let epochs = epochs(&service).await;
    assert!(epochs.iter().rev().copied().eq(1..=epochs.len() as u64), "{epochs:?}");
    assert!(epochs.len() > 1);
    people::ready(&service).await;
    let current = people::predict(&service, 0).await.body;
    assert_eq!(current["model_version"], epochs[0].to_string());
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
    poster: tokio::task::JoinHandle<Vec<String>>,
}

impl Load {
    fn start(service: &Service, next_sample: &Arc<AtomicU32>) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let (until, next_sample) = (stopped.clone(), next_sample.clone());
        let (client, address) = (Client::new(), service.address.clone());
        let poster = tokio::spawn(async move {
            let mut accepted = Vec::new();
            while !until.load(Ordering::Relaxed) {
                let number = next_sample.fetch_add(1, Ordering::Relaxed);
                if number >= people::TRAINED - 40 {
                    break;
                }
                let body = json!({"model": MODEL, "samples": [format!("sample-{number}")]});
                let url = format!("{address}/v1/deletion-requests");
                let sent = client.request(Method::POST, url).json(&body).send().await;
                let Ok(sent) = sent else { break };
                let Ok(body) = sent.json::<Value>().await else { break };
                accepted.push(field(&body, "/id").as_str().unwrap().to_owned());
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
            accepted
        });
        Self { stopped, poster }
    }

    async fn stop(self) -> Vec<String> {
        self.stopped.store(true, Ordering::Relaxed);
        self.poster.await.unwrap()
    }
}

/// The audit log is the witness: one completion for each request, indices without gaps.
async fn each_was_completed_once(service: &Service, accepted: &[String]) {
    let mut completions: BTreeMap<String, u32> = BTreeMap::new();
    let events = service.pages("/v1/audit/events").await;
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["index"], index, "indices without gaps");
        let entry: Value = serde_json::from_str(event["entry"].as_str().unwrap()).unwrap();
        if entry["kind"] == "deletion.completed" {
            *completions.entry(entry["about"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    for id in accepted {
        assert_eq!(completions.get(id), Some(&1), "request {id}");
    }
}
