//! The router over a real ledger and a real network, request by request.

mod deletion_requests;
mod refusals;
mod serving;

use std::{future::Future, sync::Arc, time::Duration};

use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode, header},
};
use burn::tensor::Device;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;
use uuid::Uuid;

use super::{Access, Draining, Limits, Rates, State, problem::MEDIA_TYPE, router};
use crate::{
    audit::note::Signer,
    clock::{Clock, Ids},
    dataset::encoder::Encoder,
    domain::{
        identity::ServiceKey,
        sample::{SamplePredictions, Split},
        sealing::MasterKey,
        version::{Cause, Encoding, VersionMetrics},
    },
    nn::{network::Network, weights},
    notary::Notary,
    outbound::Reach,
    serving::{
        executor::Executor,
        registry::Registry,
        replica::{Replica, Reported},
    },
    store::{Blobs, Claim, Keyring, NewVersion, Publication, Store},
};

const LEASE: Duration = Duration::from_secs(10);

struct Service {
    state: Arc<State>,
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
    let registry = Arc::new(Registry::new(clock.clone()));
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
        notary: Arc::new(Notary::open(store.clone(), signer, clock.clone()).await.unwrap()),
        store,
        registry,
        executor: Executor::start(1, 16).unwrap(),
        clock,
        ids,
        service_key: Arc::new(ServiceKey::new([7; 32])),
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
    let state = Arc::new(state);
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
            encoding: Encoding {
                encoder: serde_json::to_value(&encoder).unwrap(),
                classes: encoder.classes().to_vec(),
            },
            metrics: VersionMetrics::default(),
            method: json!({}),
        };
        let predictions: Vec<_> = samples.iter().map(|sample| prediction(sample.id)).collect();
        store.stage_predictions(&claimed.lease, &predictions).await.unwrap();
        let publication = Publication {
            lease: claimed.lease,
            now,
            version: Some(version),
            predictions: Some(predictions.len() as u64),
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
