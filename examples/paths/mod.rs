//! The hottest paths, each set up once and run as often as a measurement wants: through the whole
//! router where a caller waits for it.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode, header},
};
use burn::tensor::Device;
use forgetd::{
    audit::note::Signer,
    clock::{Clock, Ids},
    dataset::encoder::Encoder,
    domain::{
        examples::{Examples, Values},
        features::Features,
        identity::{Digest, ServiceKey},
        model::{Model, Policy, Recipe},
        sample::{Split, StoredSample},
        schema::{InputSchema, TensorSchema},
        sealing::MasterKey,
    },
    http::{self, Access, Draining, Limits, Rates, State},
    nn::{
        gradient::{Batch, mean_cross_entropy_gradient},
        network::Network,
    },
    notary::Notary,
    outbound::Reach,
    serving::{
        executor::Executor,
        registry::{Registry, ReportStart},
        timed::Timed,
        version::ServedVersion,
    },
    store::{Keyring, Store},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;
use uuid::Uuid;

/// What runs a path once.
pub type Run = fn(&mut Paths);

pub const PATHS: [(&str, Run); 5] = [
    ("predict_json", Paths::predict_json),
    ("predict_binary", Paths::predict_binary),
    ("accept_deletion", Paths::accept_deletion),
    ("ingest", Paths::ingest),
    ("gradient_step", Paths::gradient_step),
];

/// Rows of one ingestion.
const INGESTED: u32 = 100;

pub struct Paths {
    runtime: Runtime,
    router: Router,
    /// A body with a row of 784 numbers as JSON.
    json: String,
    /// A body with a row of `[3, 32, 32]` as bytes, and the length of its JSON object.
    binary: (Vec<u8>, usize),
    network: Network,
    batch: Batch,
    ingested: u32,
    deleted: u32,
    _folder: TempDir,
}

impl Paths {
    /// `persons`: how many deletions can be asked for.
    pub fn new(persons: u32) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/ledger.sqlite", folder.path().display());
        let router = runtime.block_on(router(&url, persons));

        let number = |at| f64::from(at * 7_919 % 1_000_000) / 1e6;
        let numbers: Vec<f64> = (0..784_u32).map(number).collect();
        let input =
            json!({"name": "input", "shape": [1, 784], "datatype": "FP32", "data": numbers});
        let json = json!({"inputs": [input]}).to_string();
        let pixels: Vec<u8> =
            (0..3_072_u16).flat_map(|at| f32::from(at % 256).to_le_bytes()).collect();
        let input = json!({"name": "input", "shape": [1, 3, 32, 32], "datatype": "FP32",
                           "parameters": {"binary_data_size": pixels.len()}});
        let object = json!({"inputs": [input]}).to_string();
        let binary = ([object.as_bytes(), &pixels].concat(), object.len());

        let examples = Examples {
            shape: vec![784],
            values: Values::Bytes { bytes: vec![7; 64 * 784], scale: 255.0 },
            labels: (0..64).map(|row| row % 10).collect(),
            ordinals: (0..64).collect(),
        };
        let rows: Vec<usize> = (0..64).collect();
        let batch = Batch::of_labels(&examples, &rows, 10, &Device::flex().autodiff());
        let network = network(&json!({"preset": "mlp", "hidden": [256]}), &[784]);

        let mut paths = Self {
            runtime,
            router,
            json,
            binary,
            network,
            batch,
            ingested: 0,
            deleted: 0,
            _folder: folder,
        };
        let model = json!({"name": "persons", "network": {"preset": "logistic"},
                           "schema": {"columns": [{"name": "age", "kind": "numeric"}]}});
        paths.send(
            Request::post("/v1/models").header(header::CONTENT_TYPE, "application/json"),
            model.to_string().into(),
            StatusCode::CREATED,
        );
        paths.ingest_rows(persons);
        paths
    }

    /// One row of an mlp 784-256-10, as JSON.
    pub fn predict_json(&mut self) {
        let request =
            Request::post("/v2/models/mlp/infer").header(header::CONTENT_TYPE, "application/json");
        self.send(request, self.json.clone().into(), StatusCode::OK);
    }

    /// One row of a lenet5 on `[3, 32, 32]`, as bytes.
    pub fn predict_binary(&mut self) {
        let request = Request::post("/v2/models/lenet5/infer")
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header("inference-header-content-length", self.binary.1);
        self.send(request, self.binary.0.clone().into(), StatusCode::OK);
    }

    /// A request for one person with one sample, on `SQLite`.
    pub fn accept_deletion(&mut self) {
        let body = json!({"model": "persons", "subjects": [format!("person-{}", self.deleted)]});
        self.deleted += 1;
        assert!(self.deleted <= self.ingested, "every person is deleted");
        let request =
            Request::post("/v1/deletion-requests").header(header::CONTENT_TYPE, "application/json");
        self.send(request, body.to_string().into(), StatusCode::ACCEPTED);
    }

    /// 100 rows of CSV, on `SQLite`.
    pub fn ingest(&mut self) {
        self.ingest_rows(INGESTED);
    }

    /// Loss and gradient of an mlp 784-256-10 over 64 rows.
    pub fn gradient_step(&mut self) {
        let gradient = mean_cross_entropy_gradient(&self.network, &self.batch);
        assert!(gradient.loss.is_finite());
    }

    fn ingest_rows(&mut self, rows: u32) {
        let mut csv = "person,label,age\n".to_owned();
        for person in self.ingested..self.ingested + rows {
            writeln!(csv, "person-{person},{},{}", person % 2, person % 90).unwrap();
        }
        self.ingested += rows;
        let request = Request::post("/v1/models/persons/samples?subject=person")
            .header(header::CONTENT_TYPE, "text/csv");
        self.send(request, csv.into(), StatusCode::CREATED);
    }

    fn send(&mut self, request: axum::http::request::Builder, body: Body, expected: StatusCode) {
        let request = request.body(body).unwrap();
        let answer = self.router.clone().oneshot(request);
        let (status, body) = self.runtime.block_on(async {
            let answer = answer.await.unwrap();
            (answer.status(), to_bytes(answer.into_body(), usize::MAX).await.unwrap())
        });
        assert_eq!(status, expected, "{}", String::from_utf8_lossy(&body));
    }
}

async fn router(url: &str, persons: u32) -> Router {
    let (clock, ids) = (Clock::system(), Ids::seeded(1));
    let keyring = Keyring::new(MasterKey::new(&[8; 32]), None, ids.clone());
    let store = Store::open(url, keyring).await.unwrap();
    store.migrate().await.unwrap();
    let registry = Arc::new(Registry::new(clock.clone()));
    let start = ReportStart { monotonic: clock.monotonic(), wall: clock.now() };
    registry.renew_lease(start, Duration::from_hours(24));
    registry.publish(version("mlp", &json!({"preset": "mlp", "hidden": [256]}), &[784]));
    registry.publish(version("lenet5", &json!({"preset": "lenet5"}), &[3, 32, 32]));
    let signer = Signer::new("forgetd.test/log", &[9; 32]).unwrap();
    let notary = Notary::open(store.clone(), signer, clock.clone()).await.unwrap();
    http::router(Arc::new(State {
        notary: Arc::new(notary),
        store,
        registry,
        executor: Executor::start(1, 1_024).unwrap(),
        clock,
        ids,
        service_key: Arc::new(ServiceKey::new([7; 32])),
        access: Access::Open,
        rates: Rates::default(),
        webhooks_reach: Reach::anywhere(),
        callbacks_reach: Reach::anywhere(),
        is_tls: false,
        limits: Limits { queued_deletions: u64::from(persons), ..Limits::default() },
        opendsr: None,
        drp: None,
        metrics: None,
        draining: Draining::default(),
    }))
}

fn network(architecture: &serde_json::Value, shape: &[usize]) -> Network {
    let architecture: forgetd::domain::network::Architecture =
        serde_json::from_value(architecture.clone()).unwrap();
    let spec = architecture.resolve(shape, 10).unwrap();
    Network::init(&spec, 1, &Device::flex()).unwrap()
}

/// A version of a model over tensors with first weights.
fn version(name: &str, architecture: &serde_json::Value, shape: &[usize]) -> ServedVersion {
    let schema = InputSchema::Tensor(TensorSchema { shape: shape.to_vec(), scale: 1 });
    let sample = |class: u8| StoredSample {
        id: Uuid::nil(),
        ordinal: class.into(),
        split: Split::Train,
        features: Features::Floats(vec![0.0; shape.iter().product()]),
        label: class.to_string(),
    };
    let samples: Vec<_> = (0..10).map(sample).collect();
    ServedVersion {
        model: Model {
            id: Uuid::from_u128(name.len() as u128),
            name: name.parse().unwrap(),
            architecture: serde_json::from_value(architecture.clone()).unwrap(),
            schema: schema.clone(),
            recipe: Recipe::default(),
            policy: Policy::default(),
            created_at: forgetd::domain::timestamp::Timestamp::from_micros(0),
        },
        epoch: 1,
        weights: Digest::of(name.as_bytes()),
        encoder: Encoder::fit(&schema, &samples).unwrap(),
        network: Box::new(Timed::new(network(architecture, shape))),
    }
}
