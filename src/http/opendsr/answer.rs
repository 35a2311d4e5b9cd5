//! What a controller is answered, and the signature over it.

use std::collections::BTreeMap;

use axum::{
    Json as Answer,
    body::{Body, to_bytes},
    http::{HeaderMap, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    domain::{
        deletion::{DeletionState, Guarantee},
        model::ModelName,
        timestamp::Timestamp,
    },
    http::problem::{Problem, keep_headers},
    intake::{processor::Processor, standing::OpenDsrStatus},
    store::{Intake, IntakeRequest},
};

const API_VERSION: &str = "2.0";

#[derive(Debug, Serialize, ToSchema)]
pub struct OpenDsrDiscovery {
    api_version: &'static str,
    supported_identities: Vec<SupportedIdentity>,
    #[schema(inline, value_type = [String])]
    supported_subject_request_types: [&'static str; 1],
    /// Address of the certificate that answers are signed with.
    processor_certificate: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct SupportedIdentity {
    identity_type: String,
    identity_format: &'static str,
}

/// What became of a request that was well formed.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenDsrReceipt {
    /// The API key's id; nil where the service runs without keys.
    controller_id: Uuid,
    expected_completion_time: Timestamp,
    received_time: Timestamp,
    /// The request's body in base64. It holds identities: not for logs.
    encoded_request: String,
    subject_request_id: Uuid,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OpenDsrProgress {
    controller_id: Uuid,
    expected_completion_time: Timestamp,
    subject_request_id: Uuid,
    request_status: OpenDsrStatus,
    api_version: &'static str,
    /// Samples that are deleted, or will be.
    results_count: u64,
    /// Under the processor's domain: the deletion requests that serve it.
    extensions: BTreeMap<String, OpenDsrServed>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OpenDsrServed {
    deletion_requests: Vec<OpenDsrServing>,
}

/// A deletion request, as /v1 knows it.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenDsrServing {
    id: Uuid,
    model: ModelName,
    state: DeletionState,
    guarantee: Option<Guarantee>,
    samples: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OpenDsrCancellation {
    controller_id: Uuid,
    subject_request_id: Uuid,
    received_time: Timestamp,
    api_version: &'static str,
}

/// An error in the specification's form.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenDsrError {
    error: OpenDsrFault,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OpenDsrFault {
    /// The answer's HTTP status.
    code: u16,
    message: String,
    errors: Vec<OpenDsrFaultDetail>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OpenDsrFaultDetail {
    domain: &'static str,
    /// Last part of the problem's type, as /v1 has it.
    reason: &'static str,
    message: String,
}

impl OpenDsrDiscovery {
    pub(super) fn new(
        supported_identities: Vec<SupportedIdentity>,
        processor_certificate: String,
    ) -> Self {
        Self {
            api_version: API_VERSION,
            supported_identities,
            supported_subject_request_types: ["erasure"],
            processor_certificate,
        }
    }
}

impl SupportedIdentity {
    pub(super) fn new((identity_type, identity_format): (&str, &'static str)) -> Self {
        Self { identity_type: identity_type.to_owned(), identity_format }
    }
}

impl OpenDsrReceipt {
    pub(super) fn new(intake: &Intake, encoded_request: String) -> Self {
        Self {
            controller_id: intake.controller_id(),
            expected_completion_time: intake.due_by,
            received_time: intake.received_at,
            encoded_request,
            subject_request_id: intake.id,
        }
    }
}

impl OpenDsrProgress {
    pub(super) fn new(intake: &Intake, domain: &str) -> Self {
        let deletion_requests = intake.own().map(OpenDsrServing::new).collect();
        Self {
            controller_id: intake.controller_id(),
            expected_completion_time: intake.due_by,
            subject_request_id: intake.id,
            request_status: intake.status(),
            api_version: API_VERSION,
            results_count: intake.samples(),
            extensions: BTreeMap::from([(domain.to_owned(), OpenDsrServed { deletion_requests })]),
        }
    }
}

impl OpenDsrServing {
    fn new(IntakeRequest { request, model, .. }: &IntakeRequest) -> Self {
        Self {
            id: request.id,
            model: model.clone(),
            state: request.state,
            guarantee: request.guarantee,
            samples: request.samples,
        }
    }
}

impl OpenDsrCancellation {
    pub(super) fn new(intake: &Intake, received_time: Timestamp) -> Self {
        Self {
            controller_id: intake.controller_id(),
            subject_request_id: intake.id,
            received_time,
            api_version: API_VERSION,
        }
    }
}

/// The same problem in the specification's form; the headers that matter are kept. What is wrong
/// with the request itself is a 400 there, whatever it is here.
pub fn error_form(problem: &Problem, headers: &HeaderMap) -> Response {
    let status = match problem.status() {
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::CONFLICT
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
        other => other,
    };
    let message = match problem {
        // Where JSON has another type than was asked for, its reader repeats what it found.
        Problem::InvalidBody { .. } => "a field's type is not the specification's".to_owned(),
        other => other.detail().into_owned(),
    };
    let detail = OpenDsrFaultDetail { domain: "forgetd", reason: problem.slug(), message };
    let fault = OpenDsrFault {
        code: status.as_u16(),
        message: format!("{problem}: {}", detail.message),
        errors: vec![detail],
    };
    keep_headers((status, Answer(OpenDsrError { error: fault })).into_response(), headers)
}

/// The answer with the signature over its body. Signing computes, hence elsewhere.
pub async fn signed(response: Response, processor: &Processor) -> Response {
    let (mut parts, body) = response.into_parts();
    let bytes = match to_bytes(body, usize::MAX).await {
        Ok(bytes) => bytes,
        Err(error) => return Problem::internal(&error).into_response(),
    };
    let (signer, signing) = (processor.clone(), bytes.clone());
    let headers = tokio::task::spawn_blocking(move || signer.headers(&signing)).await;
    let headers = match headers {
        Ok(Ok(headers)) => headers,
        Ok(Err(error)) => return Problem::internal(&error).into_response(),
        Err(error) => return Problem::internal(&error).into_response(),
    };
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::try_from(value) {
            parts.headers.insert(name, value);
        }
    }
    Response::from_parts(parts, Body::from(bytes))
}
