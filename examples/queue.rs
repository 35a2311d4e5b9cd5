//! What the inference queue costs where nothing waits: the same rows through the queue and its
//! threads (`/queued`), and on the thread that read them (`/in-place`). Both parse the body and
//! answer the probabilities; what the service does around that, the same for both, is left out.
//! `scripts/bench.sh` sets one against the other.

mod body;

use std::{io, mem, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    routing::post,
};
use burn::tensor::Device;
use forgetd::{
    domain::network::Architecture,
    nn::network::Network,
    serving::{executor::Executor, timed::Timed, version::Predict},
};
use serde_json::json;
use tokio::net::TcpListener;

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CLASSES: usize = 10;

struct Served {
    mlp: Arc<dyn Predict>,
    lenet5: Arc<dyn Predict>,
    executor: Executor,
}

impl Served {
    fn network(&self, name: &str) -> Result<&Arc<dyn Predict>, StatusCode> {
        match name {
            "mlp" => Ok(&self.mlp),
            "lenet5" => Ok(&self.lenet5),
            _ => Err(StatusCode::NOT_FOUND),
        }
    }
}

async fn queued(
    State(served): State<Arc<Served>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<Vec<f32>>, StatusCode> {
    let network = Arc::clone(served.network(&name)?);
    let answer = served.executor.predict(network, body::numbers(&body)?).await;
    answer.map(Json).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}

async fn in_place(
    State(served): State<Arc<Served>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<Vec<f32>>, StatusCode> {
    Ok(Json(served.network(&name)?.probabilities(body::numbers(&body)?)))
}

fn network(preset: serde_json::Value, shape: &[usize]) -> Arc<dyn Predict> {
    let architecture: Architecture = serde_json::from_value(preset).expect("a preset");
    let spec = architecture.resolve(shape, CLASSES).expect("a preset fits its shape");
    Arc::new(Timed::new(Network::init(&spec, 1, &Device::flex()).expect("a sound spec")))
}

/// As the queue's threads are: tensor operations stay on the thread that begins them.
fn compute_alone() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
    // It lasts as long as the thread, which lasts as long as the process.
    mem::forget(pool.expect("a thread is in no other pool"));
}

fn main() -> io::Result<()> {
    let served = Served {
        mlp: network(json!({"preset": "mlp", "hidden": [256]}), &[784]),
        lenet5: network(json!({"preset": "lenet5"}), &[3, 32, 32]),
        // As the service is configured where nothing is said.
        executor: Executor::start(2, 1_024)?,
    };
    let router = Router::new()
        .route("/queued/{model}", post(queued))
        .route("/in-place/{model}", post(in_place))
        .with_state(Arc::new(served));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_start(compute_alone)
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("listening on http://{}", listener.local_addr()?);
        axum::serve(listener, router).await
    })
}
