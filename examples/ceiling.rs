//! The most that the HTTP stack and the JSON parser leave room for: a handler that parses a
//! prediction's body into single precision and answers a constant. `scripts/bench.sh` measures the
//! service against it.

use std::io;

use axum::{Router, body::Bytes, extract::Path, http::StatusCode, routing::post};
use serde::Deserialize;
use tokio::net::TcpListener;

#[derive(Deserialize)]
struct Body {
    inputs: Vec<Input>,
}

#[derive(Deserialize)]
struct Input {
    data: Vec<f32>,
}

async fn parse(Path(_): Path<String>, body: Bytes) -> Result<&'static str, StatusCode> {
    let body: Body = serde_json::from_slice(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let numbers: usize = body.inputs.iter().map(|input| input.data.len()).sum();
    if numbers == 0 { Err(StatusCode::BAD_REQUEST) } else { Ok("parsed") }
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, Router::new().route("/v2/models/{model}/infer", post(parse))).await
}
