//! A prediction's body, of which the bare handlers read no more than its numbers.

use axum::{body::Bytes, http::StatusCode};
use serde::Deserialize;

#[derive(Deserialize)]
struct Body {
    inputs: Vec<Input>,
}

#[derive(Deserialize)]
struct Input {
    data: Vec<f32>,
}

/// The numbers of its first input, in single precision.
pub fn numbers(body: &Bytes) -> Result<Vec<f32>, StatusCode> {
    let body: Body = serde_json::from_slice(body).map_err(|_| StatusCode::BAD_REQUEST)?;
    body.inputs.into_iter().next().map(|input| input.data).ok_or(StatusCode::BAD_REQUEST)
}
