//! Errors as the specification has them.

use axum::{
    Json as Answer,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::problem::{Problem, keep_headers};

/// An error in the specification's form, section 3.06.
#[derive(Debug, Serialize, ToSchema)]
pub struct DrpError {
    /// The answer's HTTP status.
    #[schema(pattern = "^[45][0-9]{2}$")]
    code: String,
    message: String,
    /// There where the same request will never be served.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    fatal: bool,
}

/// The same problem in the specification's form; the headers that matter are kept.
pub fn error_form(problem: &Problem, headers: &HeaderMap) -> Response {
    let status = problem.status();
    if matches!(problem, Problem::AgentRefused) {
        // Section 2.05.1 has it without a body.
        return status.into_response();
    }
    let can_be_repeated = status.is_server_error()
        || matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        );
    let error = DrpError {
        code: status.as_str().to_owned(),
        message: format!("{problem}: {}", problem.detail()),
        fatal: !can_be_repeated,
    };
    keep_headers((status, Answer(error)).into_response(), headers)
}
