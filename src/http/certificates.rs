//! Certificates of deletion: JSON for programs, a page for people, a proof for stock tools.

mod page;

use std::sync::Arc;

use axum::{
    Json as Answer,
    extract::State as FromState,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::{
    audit::certificate::Certificate,
    http::{
        auth::{Caller, Watching},
        body::{Params, Segments},
        documentation::{BadRequest, Conflict, Guarded, NotFound},
        problem::{Problem, Resource},
        state::State,
    },
    notary::Certification,
};

/// The page is text and its own style, nothing else.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'";

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct CertificatePath {
    /// Id of a deletion request.
    id: Uuid,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CertificateQuery {
    /// Size of the log at a checkpoint that the caller kept: the certificate then proves that the
    /// log only grew since.
    #[param(minimum = 0, maximum = 9_223_372_036_854_775_807_i64)]
    since: Option<u64>,
}

/// What was done for a completed request, with proof. `forgetd verify` checks it offline.
///
/// As JSON; as a page to print where the caller prefers `text/html`; as a C2SP tlog-proof of the
/// completion's log entry where it prefers `text/plain`.
#[utoipa::path(
    get, path = "/v1/deletion-requests/{id}/certificate", tag = "deletion-requests",
    operation_id = "read_certificate", security(("bearer" = [])),
    params(CertificatePath, CertificateQuery),
    responses(
        (status = 200, description = "The certificate", content(
            (Certificate = "application/json"), (String = "text/html"), (String = "text/plain"),
        )),
        BadRequest, NotFound, Conflict, Guarded,
    )
)]
pub async fn read(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Watching>,
    headers: HeaderMap,
    Segments(path): Segments<CertificatePath>,
    Params(query): Params<CertificateQuery>,
) -> Result<Response, Problem> {
    let certificate = match state.notary.certify(path.id, query.since).await? {
        Certification::Certified(certificate) => certificate,
        Certification::Unknown => return Err(Problem::NotFound(Resource::DeletionRequest)),
        Certification::NotCompleted(state) => return Err(Problem::NotCertifiable { state }),
        Certification::Beyond(size) => {
            let detail = format!("`since` lies beyond the log, which has {size} entries");
            return Err(Problem::InvalidQuery(detail));
        }
    };
    let mut response = match preferred(&headers) {
        Form::Json => Answer(certificate).into_response(),
        Form::Page => {
            let key = state.notary.verifier_key().to_string();
            let page = page::render(&certificate, &key);
            let policy = HeaderValue::from_static(PAGE_POLICY);
            let html = "text/html; charset=utf-8";
            let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(html))];
            let policy = [(header::CONTENT_SECURITY_POLICY, policy)];
            (headers, policy, page).into_response()
        }
        Form::Proof => {
            let proof = certificate.tlog_proof().to_owned();
            ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], proof).into_response()
        }
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_name(header::ACCEPT));
    Ok(response)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Page,
    Proof,
}

/// The form that `Accept` weighs most; the earlier of equals, and JSON where it names none of
/// them.
fn preferred(headers: &HeaderMap) -> Form {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let mut best = (Form::Json, 0.0);
    for range in accept.unwrap_or_default().split(',') {
        let mut parts = range.split(';').map(str::trim);
        let form = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "application/json" | "application/*" => Form::Json,
            "text/html" => Form::Page,
            "text/plain" => Form::Proof,
            _ => continue,
        };
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
        if weight > best.1 {
            best = (form, weight);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_the_page_and_programs_json() {
        let form = |accept: &str| {
            preferred(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]))
        };
        assert_eq!(preferred(&HeaderMap::new()), Form::Json);
        assert_eq!(form("*/*"), Form::Json);
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        assert_eq!(form(browser), Form::Page);
        assert_eq!(form("application/json, text/html;q=0.9"), Form::Json);
        assert_eq!(form("text/html;q=0.3, text/plain; q=0.4"), Form::Proof);
        assert_eq!(form("text/html;q=0"), Form::Json);
    }
}
