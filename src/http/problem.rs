//! Every error that a caller may get, as RFC 9457 problem details with a stable type.

mod response;
mod sources;
mod wording;

use std::{error::Error, fmt, time::Duration};

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

pub use self::response::keep_headers;
use crate::{
    domain::{
        access::Scope, chain::Chain, deletion::DeletionState, job::JobState, timestamp::Timestamp,
    },
    intake::drp::MessageError,
    store::{Conflict, Excess},
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
    /// Without keys: the request names another host, or is a page's of one.
    NotLocal,
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
    /// The requester may not have so many samples deleted now.
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
            | Self::NotLocal
            | Self::AgentRefused
            | Self::NotTheAgent
            | Self::InvalidMessage(
                MessageError::Forged
                | MessageError::Untrue(_)
                | MessageError::TooLong
                | MessageError::Misplaced,
            ) => StatusCode::FORBIDDEN,
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
        if let Self::InvalidJson { spot, .. }
        | Self::InvalidBody { spot, .. }
        | Self::InvalidSamples { spot, .. } = self
        {
            spot.clone()
        } else if let Self::SampleConflict { line, .. } = self {
            Spot { line: *line, column: None }
        } else {
            Spot::default()
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
