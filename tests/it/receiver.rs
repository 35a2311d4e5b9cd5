//! Somebody who is told: a server on loopback that keeps what it received.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderName, StatusCode},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

/// What came in.
#[derive(Clone, Debug)]
pub struct Received {
    pub path: String,
    pub id: String,
    pub timestamp: String,
    pub signature: String,
    /// OpenDSR's, where there is one.
    pub processor_signature: String,
    pub body: String,
}

/// What is answered.
pub enum Reply {
    Status(u16),
    With(u16, HeaderName, String),
    /// Nothing, ever.
    Silence,
}

type Answering = Box<dyn Fn(usize, &Received) -> Reply + Send + Sync>;

struct Shared {
    received: Mutex<Vec<Received>>,
    answering: Mutex<Answering>,
}

pub struct Receiver {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Answers the request of a number, from 0.
    pub async fn start(
        answering: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answering: Mutex<Answering> = Mutex::new(Box::new(answering));
        let shared = Arc::new(Shared { received: Mutex::default(), answering });
        let router = Router::new().fallback(receive).with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, shared, task }
    }

    /// From now on.
    pub fn answer(&self, answering: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static) {
        *self.shared.answering.lock().unwrap() = Box::new(answering);
    }

    pub fn url(&self) -> String {
        format!("http://{}/hooks", self.address)
    }

    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receive(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let header = |name: &str| {
        let value = request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        value.unwrap_or_default()
    };
    let path = request.uri().path().to_owned();
    let [id, timestamp, signature, processor_signature] =
        ["webhook-id", "webhook-timestamp", "webhook-signature", "x-opendsr-signature"].map(header);
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    let received = Received { path, id, timestamp, signature, processor_signature, body };
    let reply = {
        let mut all = shared.received.lock().unwrap();
        all.push(received.clone());
        shared.answering.lock().unwrap()(all.len() - 1, &received)
    };
    match reply {
        Reply::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Reply::With(status, name, value) => {
            (StatusCode::from_u16(status).unwrap(), [(name, value)]).into_response()
        }
        Reply::Silence => std::future::pending().await,
    }
}

impl Received {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Standard Webhooks' verification, by another implementation of HMAC than the service's.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let key = BASE64_STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
        let signed = format!("{}.{}.{}", self.id, self.timestamp, self.body);
        self.signature.split(' ').any(|signature| {
            let tag = BASE64_STANDARD.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
            ring::hmac::verify(&key, signed.as_bytes(), &tag).is_ok()
        })
    }
}
