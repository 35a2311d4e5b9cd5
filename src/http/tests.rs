//! The router over a real ledger and a real network, request by request.

use std::{
    future::Future,
    sync::{
        Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode, header},
};
use burn::tensor::Device;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::yield_now;
use tower::ServiceExt as _;
use uuid::Uuid;

use super::{
    Access, Draining, Limits, Rates, State,
    problem::{MEDIA_TYPE, Problem},
    router,
};
use crate::{
    audit::note::Signer,
    clock::{Clock, Ids},
    dataset::encoder::Encoder,
    domain::{
        access::{ApiKey, KeyLimits, Scope, hash_secret},
        identity::ServiceKey,
        sample::{SamplePredictions, Split},
        sealing::MasterKey,
        timestamp::Timestamp,
        version::{Cause, VersionMetrics},
    },
    nn::{network::Network, weights},
    notary::Notary,
    outbound::Reach,
    serving::{
        executor::Executor,
        registry::Registry,
        replica::{Replica, Reported},
        version::Predict,
    },
    store::{Blobs, Claim, Keyring, NewVersion, Publication, Store},
};

const LEASE: Duration = Duration::from_secs(10);

struct Service {
    state: std::sync::Arc<State>,
    replica: Replica,
    blobs: TempDir,
    _folder: TempDir,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

async fn service(access: Access) -> Service {
    let folder = tempfile::tempdir().unwrap();
    let blobs_folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/ledger.sqlite", folder.path().display());
    let keyring = Keyring::new(MasterKey::new(&[9; 32]), None, Ids::seeded(2));
    let store = Store::open(&url, keyring).await.unwrap();
    store.migrate().await.unwrap();
    let clock = Clock::manual("2026-11-23T18:00:00Z".parse().unwrap());
    let registry = std::sync::Arc::new(Registry::new(clock.clone()));
    let ids = Ids::seeded(1);
    let replica = Replica {
        id: ids.next(clock.now()),
        store: store.clone(),
        blobs: Blobs::open(&format!("file://{}", blobs_folder.path().display())).unwrap(),
        registry: std::sync::Arc::clone(&registry),
        clock: clock.clone(),
        device: Device::flex(),
        lease_duration: LEASE,
        poll_interval: Duration::from_secs(1),
        reported: Reported::default(),
    };
    let signer = Signer::new("forgetd.test/log", &[9; 32]).unwrap();
    let state = State {
        notary: std::sync::Arc::new(
            Notary::open(store.clone(), signer, clock.clone()).await.unwrap(),
        ),
        store,
        registry,
        executor: Executor::start(1, 16).unwrap(),
        clock,
        ids,
        service_key: std::sync::Arc::new(ServiceKey::new([7; 32])),
        access,
        rates: Rates::default(),
        webhooks_reach: Reach::internet(false, &[], &[]),
        callbacks_reach: Reach::internet(false, &[], &[]),
        is_tls: false,
        limits: Limits {
            body_bytes: 1 << 20,
            samples_bytes: 1 << 10,
            queued_deletions: 2,
            ..Limits::default()
        },
        opendsr: None,
        drp: None,
        metrics: None,
        draining: Draining::default(),
    };
    let state = std::sync::Arc::new(state);
    Service { state, replica, blobs: blobs_folder, _folder: folder }
}

impl Service {
    async fn send(&self, request: Request<Body>) -> Reply {
        let response = router(std::sync::Arc::clone(&self.state)).oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Reply { status, headers, body }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn delete(&self, path: &str) -> Reply {
        self.send(Request::delete(path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_as(path, "application/json", body.to_string()).await
    }

    async fn post_as(&self, path: &str, media_type: &str, body: impl Into<Body>) -> Reply {
        let request = Request::post(path).header(header::CONTENT_TYPE, media_type);
        self.send(request.body(body.into()).unwrap()).await
    }

    /// A model over two numbers with one sample each of `a` and `b`.
    async fn create_model(&self) {
        let model = json!({
            "name": "pairs",
            "network": {"preset": "logistic"},
            "schema": {"tensor": {"shape": [2]}},
        });
        let reply = self.post("/v1/models", &model).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.body);
        assert_eq!(reply.headers[header::LOCATION], "/v1/models/pairs");
        let samples = "person,label,x,y\np-1,a,0,1\np-2,b,1,0\n";
        let reply =
            self.post_as("/v1/models/pairs/samples?subject=person", "text/csv", samples).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.body);
        assert_eq!(reply.body["train"], 2);
    }

    /// What a worker does with a queued training, with weights out of nowhere.
    async fn publish(&self) -> u64 {
        let reply = self.post("/v1/models/pairs/training-runs", &json!({})).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.body);
        let State { store, clock, ids, .. } = &*self.state;
        let now = clock.now();
        let claim = Claim {
            now,
            lease_duration: LEASE,
            token: ids.token(),
            batch_id: ids.next(now),
            worker_id: ids.next(now),
            attempts_max: 3,
        };
        let claimed = store.claim(&claim).await.unwrap().unwrap();
        let samples = store.samples(claimed.model.id, Split::Train, -1, 10).await.unwrap();
        let encoder = Encoder::fit(&claimed.model.schema, &samples).unwrap();
        let network = claimed.model.architecture.resolve(&encoder.input_shape(), 2).unwrap();
        let parent_epoch =
            store.current_version(claimed.model.id).await.unwrap().map(|version| version.epoch);
        let weights = Network::init(&network, parent_epoch.unwrap_or(0), &Device::flex()).unwrap();
        let weights = weights::to_safetensors(&weights);
        let weights = self.replica.blobs.put(claimed.job.id, weights).await.unwrap().digest;
        let prediction = |sample_id: Uuid| SamplePredictions {
            sample_id,
            out_of_fold: vec![-0.7, -0.7],
            anchor: vec![-0.7, -0.7],
        };
        let version = NewVersion {
            cause: Cause::Trained,
            parent_epoch,
            weights,
            network,
            classes: encoder.classes().to_vec(),
            encoder: serde_json::to_value(&encoder).unwrap(),
            metrics: VersionMetrics::default(),
            method: json!({}),
        };
        let publication = Publication {
            lease: claimed.lease,
            now,
            version: Some(version),
            predictions: Some(samples.iter().map(|sample| prediction(sample.id)).collect()),
            evidence: None,
        };
        store.publish(&publication).await.unwrap().unwrap()
    }

    fn infer(&self) -> impl Future<Output = Reply> {
        let input = json!({"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [0, 1]});
        let body = json!({"id": "7", "inputs": [input]});
        async move { self.post("/v2/models/pairs/infer", &body).await }
    }
}

fn problem(reply: &Reply) -> (u16, &str) {
    assert_eq!(reply.headers[header::CONTENT_TYPE], MEDIA_TYPE, "{}", reply.body);
    let kind = reply.body["type"].as_str().unwrap();
    (reply.status.as_u16(), kind.strip_prefix("urn:forgetd:problem:").unwrap())
}

#[tokio::test]
async fn the_newest_version_answers_and_says_so() {
    let service = service(Access::Open).await;
    assert_eq!(service.get("/v2/health/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    service.create_model().await;
    service.replica.sync().await.unwrap();
    let reply = service.infer().await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert!(reply.body["error"].as_str().unwrap().contains("no version"), "{}", reply.body);

    assert_eq!(service.publish().await, 1);
    service.replica.sync().await.unwrap();
    assert_eq!(service.get("/v2/health/ready").await.status, StatusCode::OK);
    let reply = service.infer().await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    assert_eq!(reply.headers["forgetd-epoch"], "1");
    assert_eq!(reply.body["id"], "7");
    assert_eq!(reply.body["outputs"][0]["shape"], json!([1, 2]));
    let probabilities = reply.body["outputs"][0]["data"].as_array().unwrap();
    let sum: f64 = probabilities.iter().map(|value| value.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-6);
    let first = if probabilities[0].as_f64() >= probabilities[1].as_f64() { "a" } else { "b" };
    assert_eq!(reply.body["outputs"][1]["data"], json!([first]));

    assert_eq!(service.publish().await, 2);
    service.replica.sync().await.unwrap();
    let reply = service.infer().await;
    assert_eq!(reply.body["model_version"], "2");
    let old = service.get("/v2/models/pairs/versions/1").await;
    assert_eq!(old.status, StatusCode::NOT_FOUND, "superseded weights are never served");
    assert_eq!(service.get("/v2/models/pairs/versions/2").await.status, StatusCode::OK);
    let versions = service.get("/v1/models/pairs/versions?limit=1").await;
    assert_eq!(versions.body["items"][0]["epoch"], 2);
    assert_eq!(versions.body["next_cursor"], "2");
    let contributors = service.get("/v1/models/pairs/versions/2/samples").await;
    assert_eq!(contributors.body["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_corrupt_weights_file_is_refused_and_the_last_good_version_goes_on() {
    let service = service(Access::Open).await;
    service.create_model().await;
    service.publish().await;
    service.replica.sync().await.unwrap();
    assert_eq!(service.publish().await, 2);
    let version = service.get("/v1/models/pairs/versions/2").await;
    let digest = version.body["weights"].as_str().unwrap();
    let mut folders = vec![service.blobs.path().to_owned()];
    let mut spoiled = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().replace('/', "").contains(digest) {
                std::fs::write(path, b"spoiled").unwrap();
                spoiled += 1;
            }
        }
    }
    assert_eq!(spoiled, 1);
    service.replica.sync().await.unwrap();
    assert_eq!(service.infer().await.headers["forgetd-epoch"], "1");
}

#[tokio::test]
async fn a_lost_lease_and_a_drain_show_in_readiness() {
    let service = service(Access::Open).await;
    service.create_model().await;
    service.publish().await;
    service.replica.sync().await.unwrap();
    service.state.clock.advance(LEASE);
    let reply = service.infer().await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reply.headers[header::RETRY_AFTER], "1");
    assert_eq!(service.get("/v2/health/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    service.replica.sync().await.unwrap();
    assert_eq!(service.infer().await.status, StatusCode::OK);
    service.state.draining.begin();
    assert_eq!(service.get("/v2/health/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(service.get("/v2/health/live").await.status, StatusCode::OK);
    assert_eq!(service.infer().await.status, StatusCode::OK, "who came is still answered");
}

/// Says that it is being computed, and keeps the thread until it is told to go on.
struct Slow(Sender<()>, Mutex<Receiver<()>>);

impl Predict for Slow {
    fn probabilities(&self, rows: Vec<f32>) -> Vec<f32> {
        self.0.send(()).unwrap();
        self.1.lock().unwrap().recv().unwrap();
        rows
    }

    fn duration(&self, _: usize) -> Duration {
        Duration::ZERO
    }
}

#[tokio::test]
async fn a_prediction_that_outlives_the_lease_is_not_answered_from_what_was_passed_over() {
    let service = service(Access::Open).await;
    let State { executor, clock, .. } = &*service.state;
    service.create_model().await;
    service.publish().await;
    service.replica.sync().await.unwrap();
    for newer in [None, Some(2)] {
        let ((begins, begun), (go_on, told)) = (channel(), channel());
        let slow = std::sync::Arc::new(Slow(begins, Mutex::new(told)));
        let slow = executor.predict(slow, Vec::new());
        let meanwhile = async {
            while begun.try_recv().is_err() {
                yield_now().await;
            }
            while executor.waiting() == 0 {
                yield_now().await;
            }
            clock.advance(LEASE);
            if newer.is_some() {
                assert_eq!(Some(service.publish().await), newer);
            }
            service.replica.sync().await.unwrap();
            go_on.send(()).unwrap();
        };
        let (_, reply, ()) = tokio::join!(slow, service.infer(), meanwhile);
        match newer {
            None => assert_eq!(reply.headers["forgetd-epoch"], "1", "nothing newer is there"),
            Some(_) => assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE),
        }
    }
    assert_eq!(service.infer().await.headers["forgetd-epoch"], "2");
}

#[tokio::test]
async fn a_deletion_request_is_durable_repeatable_and_bounded() {
    let service = service(Access::Open).await;
    service.create_model().await;
    let post = async |key: &str, body: Value| {
        let request = Request::post("/v1/deletion-requests")
            .header(header::CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", key);
        service.send(request.body(Body::from(body.to_string())).unwrap()).await
    };
    let body = json!({"model": "pairs", "subjects": ["p-1"], "samples": ["nobody"]});
    let first = post("k-1", body.clone()).await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{}", first.body);
    assert_eq!(first.body["targets"][1]["rejection"], "unknown_sample");
    assert_eq!(first.body["due_by"], "2026-12-23T18:00:00Z");
    let location = first.headers[header::LOCATION].to_str().unwrap().to_owned();
    assert_eq!(post("k-1", body).await.body["id"], first.body["id"]);
    let other = post("k-1", json!({"model": "pairs", "subjects": ["p-2"]})).await;
    assert_eq!(problem(&other), (422, "idempotency-key-reused"));

    let back = "person,label,x,y\np-3,a,0,1\np-1,a,0,1\n";
    let reply = service.post_as("/v1/models/pairs/samples?subject=person", "text/csv", back).await;
    assert_eq!(problem(&reply), (409, "sample-conflict"));
    assert_eq!(reply.body["line"], 3);

    let list = service.get("/v1/deletion-requests?state=queued&model=pairs").await;
    assert_eq!(list.body["items"][0]["id"], first.body["id"]);
    let cancelled = service.delete(&location).await;
    assert_eq!((cancelled.status, &cancelled.body["state"]), (StatusCode::OK, &json!("cancelled")));
    assert_eq!(problem(&service.delete(&location).await), (409, "not-cancellable"));
    assert_eq!(service.get(&location).await.body["state"], "cancelled");
    let events = service.get("/v1/audit/events?limit=2").await;
    assert_eq!(events.body["next_cursor"], "2");
}

#[tokio::test]
async fn a_deadline_that_has_passed_is_the_moment_of_receipt() {
    let service = service(Access::Open).await;
    service.create_model().await;
    for (said, due_by) in [
        ("1970-01-01T00:00:00Z", "2026-11-23T18:00:00Z"),
        ("2026-11-23T18:00:01Z", "2026-11-23T18:00:01Z"),
    ] {
        let body = json!({"model": "pairs", "subjects": ["p-1"], "due_by": said});
        let reply = service.post("/v1/deletion-requests", &body).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.body);
        assert_eq!(reply.body["due_by"], due_by);
    }
}

#[tokio::test]
async fn deletion_requests_that_name_nothing_or_too_much_are_refused() {
    let service = service(Access::Open).await;
    service.create_model().await;
    let post = async |body: Value| service.post("/v1/deletion-requests", &body).await;
    assert_eq!(problem(&post(json!({"model": "pairs"})).await), (422, "no-targets"));
    let many: Vec<_> = (0..100_000).map(|number| number.to_string()).collect();
    let reply = post(json!({"model": "pairs", "samples": many})).await;
    assert_eq!(problem(&reply), (422, "too-many-targets"));
    assert!(reply.body["detail"].as_str().unwrap().contains("10000"));
    let unknown = post(json!({"model": "other", "samples": ["x"]})).await;
    assert_eq!(problem(&unknown), (404, "unknown-model"));
    let rejected = post(json!({"model": "pairs", "subjects": ["nobody"]})).await;
    assert_eq!(rejected.body["state"], "rejected");
    let broken = post(json!({"model": "pairs", "subject": ["p-1"]})).await;
    assert_eq!(problem(&broken), (422, "invalid-body"));
}

#[tokio::test]
async fn what_http_itself_refuses_is_a_problem_too() {
    let service = service(Access::Open).await;
    service.create_model().await;
    assert_eq!(problem(&service.get("/nowhere").await), (404, "unknown-route"));
    let wrong = service.delete("/v1/models").await;
    assert_eq!(problem(&wrong), (405, "method-not-allowed"));
    assert!(wrong.headers[header::ALLOW].to_str().unwrap().contains("POST"));
    let text = service.post_as("/v1/models", "text/plain", "{}").await;
    assert_eq!(problem(&text), (415, "unsupported-media-type"));
    let large = service.post_as("/v1/models", "application/json", "x".repeat(2 << 20)).await;
    assert_eq!(problem(&large), (413, "body-too-large"));
    for query in ["limit=0", "limit=x", "cursor=x", "other=1"] {
        let reply = service.get(&format!("/v1/models?{query}")).await;
        assert_eq!(problem(&reply), (400, "invalid-query"), "{query}");
    }
    let broken = "person,label,x,y\np-9,a,0,1\np-8,a,0,one\n";
    let reply =
        service.post_as("/v1/models/pairs/samples?subject=person", "text/csv", broken).await;
    assert_eq!(problem(&reply), (422, "invalid-samples"));
    assert_eq!((&reply.body["line"], &reply.body["column"]), (&json!(3), &json!("y")));
    assert_eq!(service.get("/v1/models/pairs").await.body["samples"]["train"], 2);
    let reply = service.get("/v2/nowhere").await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert!(reply.body["error"].is_string());
    let reply = service.get("/v1/models").await;
    assert_eq!(reply.headers[header::CACHE_CONTROL], "no-store");
    assert_eq!(reply.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(reply.headers[header::X_FRAME_OPTIONS], "DENY");
    assert_eq!(reply.headers[header::REFERRER_POLICY], "no-referrer");
    let policy = &reply.headers[header::CONTENT_SECURITY_POLICY];
    assert_eq!(policy, "default-src 'none'; frame-ancestors 'none'");
    assert!(!reply.headers.contains_key(header::STRICT_TRANSPORT_SECURITY), "it is plain HTTP");
    assert!(reply.headers.contains_key("x-request-id"));
}

#[tokio::test]
async fn without_keys_no_name_but_this_machines_is_answered() {
    let open = service(Access::Open).await;
    let ask = async |service: &Service, path: &str, name: &str, value: &str| {
        let request = Request::get(path).header(name, value).body(Body::empty()).unwrap();
        service.send(request).await
    };
    for path in ["/v1/models", "/metrics", "/audit/checkpoint", "/nowhere"] {
        for (name, value) in [("host", "rebound.example"), ("origin", "https://page.example")] {
            assert_eq!(problem(&ask(&open, path, name, value).await), (403, "not-local"), "{path}");
        }
    }
    let refused = ask(&open, "/v2/health/live", "host", "rebound.example").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(refused.body["error"].as_str().unwrap().contains("forgetd keys add"));
    assert_eq!(ask(&open, "/v1/models", "host", "localhost:8080").await.status, StatusCode::OK);

    let guarded = service(Access::with_keys()).await;
    let asked = ask(&guarded, "/v1/models", "host", "forgetd.example").await;
    assert_eq!(problem(&asked), (401, "unauthenticated"));
}

#[tokio::test]
async fn keys_do_what_their_scopes_say() {
    let service = service(Access::with_keys()).await;
    let ids = &service.state.ids;
    for (secret, scope) in [("p", Scope::Predict), ("d", Scope::Delete), ("r", Scope::Admin)] {
        let key = ApiKey {
            id: ids.next(Timestamp::from_micros(0)),
            name: secret.into(),
            hash: hash_secret(secret),
            scopes: vec![scope],
            limits: KeyLimits::default(),
            created_at: Timestamp::from_micros(0),
            revoked_at: None,
        };
        service.state.store.create_api_key(&key).await.unwrap();
    }
    let get = async |path: &str, secret: &str| {
        let request = Request::get(path).header("Authorization", format!("Bearer {secret}"));
        service.send(request.body(Body::empty()).unwrap()).await
    };
    let nobody = service.get("/v1/models").await;
    assert_eq!(problem(&nobody), (401, "unauthenticated"));
    assert_eq!(nobody.headers[header::WWW_AUTHENTICATE], "Bearer");
    assert_eq!(problem(&get("/v1/models", "guess").await), (401, "unauthenticated"));
    assert_eq!(problem(&get("/v1/models", "p").await), (403, "forbidden"));
    assert_eq!(get("/v1/models", "r").await.status, StatusCode::OK);
    assert_eq!(get("/v1/deletion-requests", "d").await.status, StatusCode::OK);
    assert_eq!(get("/v2", "p").await.status, StatusCode::OK);
    let forbidden = get("/v2", "d").await;
    assert_eq!(forbidden.status, StatusCode::FORBIDDEN);
    assert!(forbidden.body["error"].is_string());
    assert_eq!(service.get("/v2/health/live").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let panics = axum::Router::new()
        .route("/", axum::routing::get(async || -> Result<(), Problem> { panic!("on purpose") }))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(super::layers::panicked));
    let request = Request::get("/").body(Body::empty()).unwrap();
    let response = panics.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(response.headers()[header::CONTENT_TYPE], MEDIA_TYPE);
}
