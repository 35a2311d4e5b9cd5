//! Around every request: its id, its span, its time limit, its metrics. Bodies, queries and
//! what a path names are never logged; the route's template is.

use std::{any::Any, sync::Arc};

use axum::{
    extract::{MatchedPath, Request, State as FromState},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::{Instrument as _, field};
use uuid::Uuid;

use crate::http::{drp, inference, opendsr, problem::Problem, state::State};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What every answer says to browsers, unless its handler says otherwise: take it for what it is,
/// run and frame nothing, keep nothing, tell nobody where you come from.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
];

const TWO_YEARS: &str = "max-age=63072000";

pub async fn observe(
    FromState(state): FromState<Arc<State>>,
    request: Request,
    next: Next,
) -> Response {
    let started = state.clock.monotonic();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str).to_owned();
    let method = known_method(request.method());
    let request_id = request_id(request.headers())
        .unwrap_or_else(|| state.ids.next(state.clock.now()).to_string());
    let is_inference = request.uri().path().starts_with("/v2");
    let is_opendsr = request.uri().path().starts_with(opendsr::PATH);
    let is_drp = request.uri().path().starts_with(drp::PATH);
    let span = tracing::info_span!(
        "request",
        method,
        route,
        request_id,
        status = field::Empty,
        problem = field::Empty
    );

    let answer = tokio::time::timeout(state.limits.request_timeout, next.run(request));
    let mut response = match answer.instrument(span.clone()).await {
        Ok(response) => response,
        Err(_) => Problem::TimedOut.into_response(),
    };
    if let Some(problem) = response.extensions().get::<Problem>() {
        span.record("problem", problem.slug());
        if is_inference {
            response = inference::error_form(problem, response.headers());
        } else if is_opendsr {
            response = opendsr::error_form(problem, response.headers());
        } else if is_drp {
            response = drp::error_form(problem, response.headers());
        }
    }
    if is_opendsr && let Some(opendsr) = &state.opendsr {
        response = opendsr::signed(response, &opendsr.processor).await;
    }

    let status = response.status().as_u16();
    let elapsed = state.clock.monotonic().saturating_duration_since(started);
    span.record("status", status);
    span.in_scope(|| tracing::debug!(?elapsed, "answered"));
    metrics::counter!(
        "forgetd_http_requests_total",
        "method" => method, "route" => route.clone(), "status" => status.to_string()
    )
    .increment(1);
    metrics::histogram!(
        "forgetd_http_request_duration_seconds", "method" => method, "route" => route
    )
    .record(elapsed.as_secs_f64());

    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        headers.insert(REQUEST_ID, value);
    }
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if state.is_tls {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(TWO_YEARS));
    }
    response
}

/// A panic ends its request, not the process. The panic's message is in the log already, and
/// might hold what the caller sent: it is not repeated.
pub fn panicked(_: Box<dyn Any + Send>) -> Response {
    tracing::error!("a handler panicked");
    metrics::counter!("forgetd_http_panics_total").increment(1);
    Problem::Internal.into_response()
}

/// The caller's id for the request, if it is a UUID or 32 hexadecimal digits, as proxies make them:
/// anything else might be a name, which has no place in a log.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    Uuid::try_parse(id).ok().map(|_| id.to_owned())
}

/// Callers may make up methods; metrics have room for those that exist.
fn known_method(method: &Method) -> &'static str {
    const KNOWN: [Method; 7] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    const NAMES: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let position = KNOWN.iter().position(|known| known == method);
    position.map_or("other", |position| NAMES[position])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_request_ids_that_name_nobody_are_taken_over() {
        let id = |value: &str| {
            let value = HeaderValue::from_str(value).unwrap();
            request_id(&HeaderMap::from_iter([(REQUEST_ID, value)]))
        };
        for made in ["0199d8a5-3bae-768f-add6-dbceeec78573", "4bf92f3577b34da6a3ce929d0e0e4736"] {
            assert_eq!(id(made).as_deref(), Some(made));
        }
        for odd in ["", "a b", "person-7", "alice@example.org", "19840531", &"f".repeat(33)] {
            assert_eq!(id(odd), None, "{odd}");
        }
    }
}
