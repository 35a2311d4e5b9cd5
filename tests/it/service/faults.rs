//! The database goes and comes back: nothing is half done, nothing has to be restarted.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use forgetd::domain::timestamp::Timestamp;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, UnixStream},
    task::JoinHandle,
};

use super::{
    Database, Service, eventually, field,
    people::{self, MODEL},
    process::{Answer, answer},
    promise::{self, Promise},
};
use crate::postgres::{self, Server};

const LEASE: Duration = Duration::from_secs(6);

/// Posts a deletion under an idempotency key, so that repeating it is safe.
pub async fn post_deletion(service: &Service, subject: &str) -> Answer {
    let body = json!({"model": MODEL, "subjects": [subject]});
    let request = service.request(Method::POST, "/v1/deletion-requests");
    answer(request.header("idempotency-key", subject).json(&body)).await
}

/// By the service's log: the ledger may be what fails.
pub async fn an_attempt_fails(service: &Service) {
    let failed = |log: &String| log.contains("the attempt failed");
    eventually("an attempt fails", async || service.log(), failed).await;
}

pub fn assert_unavailable(refused: &Answer) {
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{refused:#?}");
    assert!(refused.headers.contains_key("retry-after"), "{refused:#?}");
}

pub fn assert_problem(refused: &Answer) {
    assert_unavailable(refused);
    assert_eq!(refused.headers["content-type"], "application/problem+json");
    assert_eq!(refused.body["type"], "urn:forgetd:problem:store-unavailable", "{refused:#?}");
}

/// Entries of the audit log, which must have no gaps.
pub async fn audit_entries(service: &Service) -> Vec<Value> {
    let events = service.pages("/v1/audit/events").await;
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["index"], index, "indices without gaps");
    }
    let entry = |event: &Value| serde_json::from_str(event["entry"].as_str().unwrap()).unwrap();
    events.iter().map(entry).collect()
}

/// The same POST as before now works, and is served.
pub async fn recovers(service: &Service, subject: &str) {
    let accepted = eventually(
        "the deletion is accepted",
        async || post_deletion(service, subject).await,
        |answer| answer.status == StatusCode::ACCEPTED,
    )
    .await;
    let id = field(&accepted.body, "/id").as_str().unwrap();
    let completed = service.request_becomes(id, "completed").await;
    people::ready(service).await;
    let epoch = completed["excluded_from_epoch"].to_string();
    eventually(
        "the newest version answers",
        async || people::predict(service, 0).await.body,
        |answer| answer["model_version"] == epoch.as_str(),
    )
    .await;
    let entries = audit_entries(service).await;
    let about = entries.iter().filter(|entry| entry["about"] == id);
    let kinds: Vec<_> = about.map(|entry| entry["kind"].as_str().unwrap()).collect();
    let once = |kind| kinds.iter().filter(|it| **it == kind).count() == 1;
    assert!(once("deletion.received") && once("deletion.completed"), "{kinds:?}");
}

/// A way to the `PostgreSQL` server that can be cut.
struct Line {
    socket: String,
    port: u16,
    carrier: JoinHandle<()>,
}

impl Line {
    /// Returns the line, and the URL of a new database at its end.
    async fn to_fresh_database() -> (Self, String) {
        let url = postgres::fresh_database().await;
        let (authority, folder) = url.split_once("?host=").unwrap();
        let name = authority.rsplit('/').next().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let socket = format!("{folder}/.s.PGSQL.5432");
        let carrier = tokio::spawn(carry(listener, socket.clone()));
        let url = format!("postgres://postgres@127.0.0.1:{port}/{name}");
        (Self { socket, port, carrier }, url)
    }

    /// Every connection breaks, and no new one is made.
    async fn cut(&mut self) {
        self.carrier.abort();
        assert!((&mut self.carrier).await.unwrap_err().is_cancelled());
    }

    async fn mend(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        self.carrier = tokio::spawn(carry(listener, self.socket.clone()));
    }
}

/// Aborted, it drops the listener and all connections with it.
async fn carry(listener: TcpListener, socket: String) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((mut near, _)) = listener.accept().await {
        let mut far = UnixStream::connect(&socket).await.unwrap();
        connections.spawn(async move { copy_bidirectional(&mut near, &mut far).await });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_database_stops_writes_at_once_and_predictions_with_the_lease() {
    let (mut line, url) = Line::to_fresh_database().await;
    let lease = LEASE.as_secs().to_string();
    let environment =
        [("FORGETD_LEDGER__DATABASE_URL", url.as_str()), ("FORGETD_SERVING__LEASE_S", &lease)];
    // The URL in the environment counts, not the harness's own choice.
    let service = Service::start_with(Database::Sqlite, &environment, &[]).await;
    people::trained(&service, &people::unsettled()).await;

    line.cut().await;
    let cut_at = Instant::now();
    let refused = async {
        let refused = post_deletion(&service, "person-1").await;
        assert_problem(&refused);
    };
    let fenced = async {
        loop {
            let asked_at = cut_at.elapsed();
            let answer = people::predict(&service, 0).await;
            if answer.status != StatusCode::OK {
                break (asked_at, answer);
            }
            assert!(asked_at <= LEASE, "answered {asked_at:?} after the last report");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ((), (fenced_after, answer)) = tokio::join!(refused, fenced);
    assert_unavailable(&answer);
    // A report is made each second; on a busy machine some come late.
    assert!(fenced_after > LEASE / 3, "fenced {fenced_after:?} after the database was lost");
    let ready = service.get("/v2/health/ready").await.status;
    assert_eq!(ready, StatusCode::SERVICE_UNAVAILABLE);
    let alive = service.get("/v2/health/live").await.status;
    assert_eq!(alive, StatusCode::OK, "a restart would not help");

    line.mend().await;
    recovers(&service, "person-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_lost_in_the_middle_of_a_training_delays_it() {
    let (mut line, url) = Line::to_fresh_database().await;
    let environment =
        [("FORGETD_LEDGER__DATABASE_URL", url.as_str()), ("FORGETD_WORKER__LEASE_S", "2")];
    let service = Service::start_with(Database::Sqlite, &environment, &[]).await;
    let mut long = people::model(&people::unsettled());
    long["recipe"]["epochs"] = json!(1_500);
    assert_eq!(service.post("/v1/models", &long).await.status, StatusCode::CREATED);
    people::ingest(&service, people::population()).await;
    let runs = format!("/v1/models/{MODEL}/training-runs");
    let queued = service.post(&runs, &json!({})).await.body;
    let run = format!("{runs}/{}", field(&queued, "/id").as_str().unwrap());
    let state = async || service.get(&run).await.body;
    eventually("the run computes", state, |run| run["progress"].is_object()).await;

    line.cut().await;
    eventually(
        "the worker notices",
        async || service.log(),
        |log| log.contains("could not renew the lease"),
    )
    .await;
    line.mend().await;
    let ended = eventually("the run completes", state, |run| run["state"] == "completed").await;
    assert_eq!(ended["epoch"], 1, "{ended:#}");
    people::ready(&service).await;
    let kinds = audit_entries(&service).await;
    let published = kinds.iter().filter(|entry| entry["kind"] == "version.published").count();
    assert_eq!(published, 1, "{kinds:#?}");
}

/// How long the server is gone; `FORGETD_TEST_OUTAGE_S` asks for longer.
const OUTAGE_S: u64 = 7;

#[tokio::test(flavor = "multi_thread")]
async fn a_database_server_that_was_gone_delays_everything_and_loses_nothing() {
    let outage = std::env::var("FORGETD_TEST_OUTAGE_S").map_or(OUTAGE_S, |it| it.parse().unwrap());
    let server = Arc::new(tokio::task::spawn_blocking(Server::start).await.unwrap());
    let url = server.url("postgres");
    let own = [("FORGETD_LEDGER__DATABASE_URL", url.as_str())];
    let environment = [own.as_slice(), &promise::ENVIRONMENT].concat();
    let service = Service::start_with(Database::Sqlite, &environment, &[]).await;
    people::trained(&service, &people::unsettled()).await;
    let mut promise = Promise::of(&service).await;
    service.hold_at("batch.stored");
    promise.accepted.push(people::forget(&service, &["person-1"]).await);
    service.reaches("batch.stored").await;

    let stops = server.clone();
    tokio::task::spawn_blocking(move || stops.stop()).await.unwrap();
    service.let_pass("batch.stored");
    let gone_since = Instant::now();
    while gone_since.elapsed() < Duration::from_secs(outage) {
        assert_problem(&post_deletion(&service, "person-2").await);
        assert_eq!(service.get("/v2/health/live").await.status, StatusCode::OK);
    }
    assert_unavailable(&people::predict(&service, 0).await);
    let resumes = server.clone();
    tokio::task::spawn_blocking(move || resumes.resume()).await.unwrap();

    recovers(&service, "person-2").await;
    let again = post_deletion(&service, "person-2").await;
    promise.accepted.push(field(&again.body, "/id").as_str().unwrap().to_owned());
    promise.is_fulfilled(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attempt_is_made_again_after_a_pause() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        people::trained(&service, &people::unsettled()).await;
        let version = service.get(&format!("/v1/models/{MODEL}/versions/1")).await.body;
        let weights = promise::weights_file(&service, &version);
        let hidden = service.folder().join("hidden");
        std::fs::rename(&weights, &hidden).unwrap();

        let id = people::forget(&service, &["person-1"]).await;
        let request = async || service.get(&format!("/v1/deletion-requests/{id}")).await.body;
        let failed = eventually("an attempt fails", request, |it| it["attempts"] != 0).await;
        assert!(failed["reason"].is_string(), "{failed:#}");
        assert_eq!(people::predict(&service, 0).await.status, StatusCode::OK, "memory answers");
        std::fs::rename(&hidden, &weights).unwrap();
        let completed = service.request_becomes(&id, "completed").await;
        assert!(completed["reason"].is_null(), "{completed:#}");

        let runs = service.pages(&format!("/v1/models/{MODEL}/training-runs")).await;
        let mut batches = runs.iter().filter(|run| run["kind"] == "unlearning");
        let (last, before) = (batches.next().unwrap(), batches.next().unwrap());
        assert_eq!((&last["state"], &before["state"]), (&json!("completed"), &json!("failed")));
        let time = |value: &Value| serde_json::from_value::<Timestamp>(value.clone()).unwrap();
        let pause = time(&last["started_at"]).since(time(&before["finished_at"]));
        assert!(pause >= Duration::from_secs(1), "{pause:?} after the failure");
    }
}
