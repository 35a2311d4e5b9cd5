//! The most that the HTTP stack and the JSON parser leave room for: a handler that parses a
//! prediction's body into single precision and answers a constant. `scripts/bench.sh` measures the
//! service against it.

mod body;

use std::io;

use axum::{Router, body::Bytes, extract::Path, http::StatusCode, routing::post};
use tokio::net::TcpListener;

async fn parse(Path(_): Path<String>, body: Bytes) -> Result<&'static str, StatusCode> {
    if body::numbers(&body)?.is_empty() { Err(StatusCode::BAD_REQUEST) } else { Ok("parsed") }
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, Router::new().route("/v2/models/{model}/infer", post(parse))).await
}
