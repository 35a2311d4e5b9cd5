//! What those who run the service ask for.

use std::sync::{Arc, LazyLock};

use axum::{
    extract::State as FromState,
    http::header,
    response::{IntoResponse, Response},
};

use crate::http::{
    documentation::{Fails, NotFound},
    problem::{Problem, Resource},
    state::State,
};

/// This document.
#[utoipa::path(
    get, path = "/openapi.yaml", tag = "operations", operation_id = "read_openapi",
    responses(
        (status = 200, description = "OpenAPI 3.1", body = serde_json::Value, content_type = "application/yaml"),
        Fails<500>, Fails<503>,
    )
)]
pub async fn openapi_yaml() -> Response {
    static DOCUMENT: LazyLock<Option<String>> = LazyLock::new(|| super::openapi().to_yaml().ok());
    match DOCUMENT.as_deref() {
        Some(yaml) => ([(header::CONTENT_TYPE, "application/yaml")], yaml).into_response(),
        None => Problem::Internal.into_response(),
    }
}

/// Metrics in Prometheus' text format. They name models and routes, never persons.
#[utoipa::path(
    get, path = "/metrics", tag = "operations", operation_id = "read_metrics",
    responses(
        (status = 200, description = "Prometheus' text format", body = String, content_type = "text/plain"),
        NotFound, Fails<500>, Fails<503>,
    )
)]
pub async fn metrics(FromState(state): FromState<Arc<State>>) -> Result<Response, Problem> {
    let handle = state.metrics.as_ref().ok_or(Problem::NotFound(Resource::Route))?;
    metrics::gauge!("forgetd_inference_waiting").set(state.executor.waiting() as f64);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render()).into_response())
}
