//! Every error that a caller may get, as RFC 9457 problem details with a stable type.

mod wording;

use std::{error::Error, fmt, time::Duration};

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    domain::{
        access::Scope, chain::Chain, deletion::DeletionState, job::JobState, timestamp::Timestamp,
    },
    intake::drp::MessageError,
    notary::NotaryError,
    serving::{executor::ServingError, registry::Unserved},
    store::{Conflict, Excess, StoreError},
};

/// Media type of problem details.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// How long a caller should wait before trying again what was refused for lack of room.
const RETRY_AFTER_S: u64 = 1;

/// Problem details, RFC 9457.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemDetails {
    /// Stable identifier of the kind of problem.
    #[serde(rename = "type")]
    #[schema(
        pattern = "^urn:forgetd:problem:[a-z-]+$",
        example = "urn:forgetd:problem:unknown-model"
    )]
    pub kind: String,
    #[schema(example = "There is no such model")]
    pub title: &'static str,
    #[schema(minimum = 400, maximum = 599, example = 404)]
    pub status: u16,
    /// What is wrong with this very request.
    pub detail: String,
    /// Line of the body that is at fault, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub line: Option<u64>,
    /// Column of the body that is at fault: a name in a table, a number from 1 in JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub column: Option<String>,
    /// Seconds after which to try again; also in the header `Retry-After`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub retry_after_s: Option<u64>,
}

/// Where in a body the fault lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spot {
    /// From 1.
    pub line: Option<u64>,
    /// A name in a table, a number from 1 in JSON.
    pub column: Option<String>,
}

/// What a path can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Route,
    Model,
    Version,
    TrainingRun,
    DeletionRequest,
    Tombstone,
    Tile,
    ApiKey,
    Webhook,
    WebhookMessage,
    SubjectRequest,
    RightsRequest,
}

#[derive(Clone, Debug)]
pub enum Problem {
    Unauthenticated,
    Forbidden(&'static [Scope]),
    NotFound(Resource),
    MethodNotAllowed,
    InvalidQuery(String),
    InvalidHeader {
        name: &'static str,
        detail: String,
    },
    UnsupportedMediaType {
        expected: &'static str,
    },
    BodyTooLarge {
        limit_bytes: usize,
    },
    BodyIncomplete,
    BodyTooSlow,
    /// The body is not JSON at all.
    InvalidJson {
        detail: String,
        spot: Spot,
    },
    /// The body is JSON, but not what is asked for.
    InvalidBody {
        detail: String,
        spot: Spot,
    },
    InvalidModel(String),
    ModelExists,
    InvalidSamples {
        detail: String,
        spot: Spot,
    },
    SampleConflict {
        conflict: Conflict,
        line: Option<u64>,
    },
    NoTargets,
    TooManyTargets {
        found: usize,
        limit: usize,
    },
    IdempotencyKeyReused,
    QueueFull {
        limit: u64,
    },
    /// The key may not have so many samples deleted now.
    QuotaExceeded(Excess),
    /// The caller's requests come too fast.
    TooFast {
        per_minute: u32,
        wait: Duration,
    },
    NotCancellable {
        state: DeletionState,
    },
    NeededByAnother,
    NotCertifiable {
        state: DeletionState,
    },
    NotSuspended {
        state: DeletionState,
    },
    /// Its deadline cannot be extended any more.
    NotExtendable {
        state: DeletionState,
    },
    DeadlineMissed {
        due_by: Timestamp,
    },
    ExtensionsExhausted {
        limit: u32,
    },
    /// The new deadline must lie after `due_by`, and no later than `latest`.
    InvalidDeadline {
        due_by: Timestamp,
        latest: Timestamp,
    },
    TooManyWebhooks {
        limit: u64,
    },
    TrainingRunActive {
        kind: &'static str,
        id: uuid::Uuid,
    },
    TrainingRunEnded {
        state: JobState,
    },
    InvalidInference(String),
    /// Of OpenDSR; repeats nothing that the request says.
    InvalidSubjectRequest(String),
    OpenDsrOff,
    DrpOff,
    /// No agent's token came along.
    NoAgentToken,
    /// The token is no agent's, or not any more.
    UnknownAgentToken,
    /// The set-up of an agent; why is in the log.
    AgentRefused,
    /// The token is another agent's.
    NotTheAgent,
    /// Of an agent: what is signed is not what it should be.
    InvalidMessage(MessageError),
    /// Of an agent; repeats nothing that the request says.
    InvalidRightsRequest(String),
    RightsRequestReused,
    /// Says why.
    NotRevocable(&'static str),
    NotServed,
    NotReady(&'static str),
    Fenced,
    Busy,
    StoreUnavailable,
    TimedOut,
    Internal,
}

impl Problem {
    /// A defect of ours: logged here, with its causes, and told to nobody.
    pub fn internal(error: &dyn Error) -> Self {
        tracing::error!(error = %Chain(error), "a request failed");
        Self::Internal
    }

    pub fn status(&self) -> StatusCode {
        match self {
            Self::InvalidQuery(_)
            | Self::InvalidHeader { .. }
            | Self::BodyIncomplete
            | Self::InvalidJson { .. }
            | Self::InvalidInference(_)
            | Self::InvalidSubjectRequest(_)
            | Self::InvalidRightsRequest(_)
            | Self::InvalidMessage(
                MessageError::Encoding | MessageError::NoObject | MessageError::Malformed(_),
            ) => StatusCode::BAD_REQUEST,
            Self::Unauthenticated | Self::NoAgentToken | Self::UnknownAgentToken => {
                StatusCode::UNAUTHORIZED
            }
            Self::Forbidden(_)
            | Self::AgentRefused
            | Self::NotTheAgent
            | Self::InvalidMessage(MessageError::Forged | MessageError::Untrue(_)) => {
                StatusCode::FORBIDDEN
            }
            Self::NotFound(_) | Self::OpenDsrOff | Self::DrpOff | Self::NotServed => {
                StatusCode::NOT_FOUND
            }
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::ModelExists
            | Self::SampleConflict { .. }
            | Self::NotCancellable { .. }
            | Self::NeededByAnother
            | Self::NotCertifiable { .. }
            | Self::NotSuspended { .. }
            | Self::NotExtendable { .. }
            | Self::DeadlineMissed { .. }
            | Self::ExtensionsExhausted { .. }
            | Self::TooManyWebhooks { .. }
            | Self::TrainingRunActive { .. }
            | Self::TrainingRunEnded { .. }
            | Self::RightsRequestReused
            | Self::NotRevocable(_) => StatusCode::CONFLICT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InvalidBody { .. }
            | Self::InvalidModel(_)
            | Self::InvalidSamples { .. }
            | Self::NoTargets
            | Self::TooManyTargets { .. }
            | Self::InvalidDeadline { .. }
            | Self::IdempotencyKeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::QueueFull { .. } | Self::QuotaExceeded(_) | Self::TooFast { .. } | Self::Busy => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotReady(_) | Self::Fenced | Self::StoreUnavailable | Self::TimedOut => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// The last part of the type URI; stable for ever.
    pub fn slug(&self) -> &'static str {
        self.words().0
    }

    fn spot(&self) -> Spot {
        match self {
            Self::InvalidJson { spot, .. }
            | Self::InvalidBody { spot, .. }
            | Self::InvalidSamples { spot, .. } => spot.clone(),
            Self::SampleConflict { line, .. } => Spot { line: *line, column: None },
            Self::Unauthenticated
            | Self::Forbidden(_)
            | Self::NotFound(_)
            | Self::MethodNotAllowed
            | Self::InvalidQuery(_)
            | Self::InvalidHeader { .. }
            | Self::UnsupportedMediaType { .. }
            | Self::BodyTooLarge { .. }
            | Self::BodyIncomplete
            | Self::BodyTooSlow
            | Self::InvalidModel(_)
            | Self::ModelExists
            | Self::NoTargets
            | Self::TooManyTargets { .. }
            | Self::IdempotencyKeyReused
            | Self::QueueFull { .. }
            | Self::QuotaExceeded(_)
            | Self::TooFast { .. }
            | Self::NotCancellable { .. }
            | Self::NeededByAnother
            | Self::NotCertifiable { .. }
            | Self::NotSuspended { .. }
            | Self::NotExtendable { .. }
            | Self::DeadlineMissed { .. }
            | Self::ExtensionsExhausted { .. }
            | Self::InvalidDeadline { .. }
            | Self::TooManyWebhooks { .. }
            | Self::TrainingRunActive { .. }
            | Self::TrainingRunEnded { .. }
            | Self::InvalidInference(_)
            | Self::InvalidSubjectRequest(_)
            | Self::OpenDsrOff
            | Self::DrpOff
            | Self::NoAgentToken
            | Self::UnknownAgentToken
            | Self::AgentRefused
            | Self::NotTheAgent
            | Self::InvalidMessage(_)
            | Self::InvalidRightsRequest(_)
            | Self::RightsRequestReused
            | Self::NotRevocable(_)
            | Self::NotServed
            | Self::NotReady(_)
            | Self::Fenced
            | Self::Busy
            | Self::StoreUnavailable
            | Self::TimedOut
            | Self::Internal => Spot::default(),
        }
    }

    fn retry_after_s(&self) -> Option<u64> {
        let status = self.status();
        let passes =
            status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE;
        match self.wait() {
            Some(wait) => Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)),
            None => passes.then_some(RETRY_AFTER_S),
        }
    }

    /// Where it is known when there will be room.
    fn wait(&self) -> Option<Duration> {
        if let Self::TooFast { wait, .. } | Self::QuotaExceeded(Excess { wait, .. }) = self {
            Some(*wait)
        } else {
            None
        }
    }

    pub fn details(&self) -> ProblemDetails {
        let (slug, title) = self.words();
        let Spot { line, column } = self.spot();
        ProblemDetails {
            kind: format!("urn:forgetd:problem:{slug}"),
            title,
            status: self.status().as_u16(),
            detail: self.detail().into_owned(),
            line,
            column,
            retry_after_s: self.retry_after_s(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words().1)
    }
}

/// Another form of a problem's response, with those of its `headers` that matter in any form.
pub fn keep_headers(mut response: Response, headers: &HeaderMap) -> Response {
    for name in [header::ALLOW, header::CONNECTION, header::RETRY_AFTER, header::WWW_AUTHENTICATE] {
        if let Some(value) = headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let details = self.details();
        let body = serde_json::to_vec(&details).unwrap_or_default();
        let mut response =
            (self.status(), [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = details.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status() == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(self, Self::BodyTooLarge { .. } | Self::BodyTooSlow) {
            // The rest of the body stays unread: the connection carries no other request.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        // For the layers: what is logged and counted, and the other form that /v2 wants.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Unavailable { .. } => {
                tracing::warn!(error = %Chain(&error), "the ledger is unavailable");
                Self::StoreUnavailable
            }
            StoreError::Database { .. }
            | StoreError::Damaged { .. }
            | StoreError::Fenced { .. }
            | StoreError::OtherMasterKey { .. }
            | StoreError::Open { .. } => Self::internal(&error),
        }
    }
}

impl From<NotaryError> for Problem {
    fn from(error: NotaryError) -> Self {
        match error {
            NotaryError::Store(error) => error.into(),
            NotaryError::Overtaken => Self::StoreUnavailable,
            NotaryError::ForeignKey { .. }
            | NotaryError::Rewritten { .. }
            | NotaryError::Incomplete(_)
            | NotaryError::Tree(_)
            | NotaryError::Checkpoint(_)
            | NotaryError::Cosignature(_)
            | NotaryError::Entry(_)
            | NotaryError::Certificate(_) => Self::internal(&error),
        }
    }
}

impl From<MessageError> for Problem {
    fn from(error: MessageError) -> Self {
        Self::InvalidMessage(error)
    }
}

impl From<Unserved> for Problem {
    fn from(unserved: Unserved) -> Self {
        match unserved {
            Unserved::NotLoaded => Self::NotServed,
            Unserved::Fenced => Self::Fenced,
        }
    }
}

impl From<ServingError> for Problem {
    fn from(error: ServingError) -> Self {
        match error {
            ServingError::Busy => Self::Busy,
            ServingError::Panicked => Self::internal(&error),
            ServingError::ShutDown => Self::NotReady("the service is shutting down"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_says_when_to_try_again_and_what_does_not_is_silent() {
        for problem in [Problem::Busy, Problem::QueueFull { limit: 1 }, Problem::StoreUnavailable] {
            let response = problem.into_response();
            assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        }
        let response = Problem::NotFound(Resource::Model).into_response();
        assert!(!response.headers().contains_key(header::RETRY_AFTER));
        assert_eq!(response.headers()[header::CONTENT_TYPE], MEDIA_TYPE);
    }

    #[test]
    fn details_name_the_place() {
        let spot = Spot { line: Some(3), column: Some("age".into()) };
        let problem = Problem::InvalidSamples { detail: "expected a number".into(), spot };
        assert_eq!(
            serde_json::to_value(problem.details()).unwrap(),
            serde_json::json!({
                "type": "urn:forgetd:problem:invalid-samples",
                "title": "The samples are invalid",
                "status": 422,
                "detail": "expected a number",
                "line": 3,
                "column": "age",
            })
        );
    }

    #[test]
    fn a_missing_key_is_asked_for() {
        let response = Problem::Unauthenticated.into_response();
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
    }
}
