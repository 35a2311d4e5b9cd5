//! What each problem is called, and what it says.

use std::borrow::Cow;

use super::{Problem, Resource};
use crate::store::{Conflict, Excess};

const NOT_LOCAL: &str = "`Host`, and `Origin` where it is given, must name localhost or a loopback \
                         address; to be reached by other names, make a key with `forgetd keys add` \
                         and start anew";

impl Problem {
    /// Last part of the type URI, and the title.
    pub(super) fn words(&self) -> (&'static str, &'static str) {
        match self {
            Self::Unauthenticated => ("unauthenticated", "No valid API key"),
            Self::Forbidden(_) => ("forbidden", "The API key does not cover this"),
            Self::NotLocal => ("not-local", "Without API keys only this machine is answered"),
            Self::NotFound(resource) => resource.words(),
            Self::MethodNotAllowed => ("method-not-allowed", "The method is not allowed here"),
            Self::InvalidQuery(_) => ("invalid-query", "The query is invalid"),
            Self::InvalidHeader { .. } => ("invalid-header", "A header is invalid"),
            Self::UnsupportedMediaType { .. } => {
                ("unsupported-media-type", "The content type is not supported")
            }
            Self::BodyTooLarge { .. } => ("body-too-large", "The body is too large"),
            Self::BodyIncomplete => ("body-incomplete", "The body ended early"),
            Self::BodyTooSlow => ("body-too-slow", "The body did not come in time"),
            Self::InvalidJson { .. } => ("invalid-json", "The body is not JSON"),
            Self::InvalidBody { .. } => ("invalid-body", "The body is not what is asked for"),
            Self::InvalidModel(_) => ("invalid-model", "The model cannot be built"),
            Self::ModelExists => ("model-exists", "The model's name is taken"),
            Self::InvalidSamples { .. } => ("invalid-samples", "The samples are invalid"),
            Self::SampleConflict { .. } => {
                ("sample-conflict", "A sample conflicts with what the ledger knows")
            }
            Self::NoTargets => ("no-targets", "Nothing is named to be deleted"),
            Self::TooManyTargets { .. } => ("too-many-targets", "Too many targets at once"),
            Self::IdempotencyKeyReused => {
                ("idempotency-key-reused", "The idempotency key came before with another body")
            }
            Self::QueueFull { .. } => ("queue-full", "Too many deletion requests wait"),
            Self::QuotaExceeded(_) => {
                ("quota-exceeded", "The requester may not have so many samples deleted now")
            }
            Self::TooFast { .. } => ("too-fast", "The caller's requests come too fast"),
            Self::NotCancellable { .. } => {
                ("not-cancellable", "The deletion request is not queued any more")
            }
            Self::NeededByAnother => ("needed-by-another", "Another request counts on this one"),
            Self::NotCertifiable { .. } => {
                ("not-certifiable", "The deletion request is not completed")
            }
            Self::NotSuspended { .. } => {
                ("not-suspended", "The deletion request does not wait for approval")
            }
            Self::NotExtendable { .. } => {
                ("not-extendable", "The deadline cannot be extended any more")
            }
            Self::DeadlineMissed { .. } => ("deadline-missed", "The deadline was missed"),
            Self::ExtensionsExhausted { .. } => {
                ("extensions-exhausted", "The deadline was extended as often as the policy allows")
            }
            Self::InvalidDeadline { .. } => {
                ("invalid-deadline", "The deadline cannot be moved there")
            }
            Self::TooManyWebhooks { .. } => ("too-many-webhooks", "There are too many webhooks"),
            Self::TrainingRunActive { .. } => {
                ("training-run-active", "Such a run waits or runs already")
            }
            Self::TrainingRunEnded { .. } => ("training-run-ended", "The run has ended"),
            Self::InvalidInference(_) => ("invalid-inference", "The inference request is invalid"),
            Self::InvalidSubjectRequest(_) => {
                ("invalid-subject-request", "The subject request cannot be served")
            }
            Self::OpenDsrOff => ("opendsr-off", "OpenDSR is not offered here"),
            Self::DrpOff => ("drp-off", "The Data Rights Protocol is not offered here"),
            Self::NoAgentToken => ("no-agent-token", "No agent's token"),
            Self::UnknownAgentToken => ("unknown-agent-token", "The token is no agent's"),
            Self::AgentRefused => ("agent-refused", "The set-up of the agent is refused"),
            Self::NotTheAgent => ("not-the-agent", "The token is another agent's"),
            Self::InvalidMessage(_) => ("invalid-message", "The signed message is not accepted"),
            Self::InvalidRightsRequest(_) => {
                ("invalid-rights-request", "The rights request cannot be served")
            }
            Self::RightsRequestReused => {
                ("rights-request-reused", "The `agent-request-id` came before with another request")
            }
            Self::NotRevocable(_) => ("not-revocable", "The request cannot be revoked any more"),
            Self::NotServed => ("not-served", "The model or version is not served"),
            Self::NotReady(_) => ("not-ready", "Not ready to answer"),
            Self::Fenced => ("fenced", "This replica must not answer now"),
            Self::Busy => ("busy", "Too many predictions wait"),
            Self::StoreUnavailable => ("store-unavailable", "The ledger cannot be reached"),
            Self::TimedOut => ("timed-out", "The request took too long"),
            Self::Internal => ("internal", "An internal error"),
        }
    }

    /// What is wrong with this very request.
    pub fn detail(&self) -> Cow<'static, str> {
        match self {
            Self::Unauthenticated => "send `Authorization: Bearer` with a live API key".into(),
            Self::Forbidden(needed) => {
                let needed: Vec<_> = needed.iter().map(|scope| scope.as_str()).collect();
                format!("the key needs the scope {}", needed.join(" or ")).into()
            }
            Self::NotLocal => NOT_LOCAL.into(),
            Self::NotFound(resource) => resource.detail().into(),
            Self::MethodNotAllowed => "the header `Allow` lists the methods".into(),
            Self::InvalidQuery(detail)
            | Self::InvalidModel(detail)
            | Self::InvalidInference(detail)
            | Self::InvalidSubjectRequest(detail)
            | Self::InvalidRightsRequest(detail)
            | Self::InvalidJson { detail, .. }
            | Self::InvalidBody { detail, .. }
            | Self::InvalidSamples { detail, .. } => detail.clone().into(),
            Self::InvalidHeader { name, detail } => format!("`{name}` {detail}").into(),
            Self::UnsupportedMediaType { expected } => format!("send it as {expected}").into(),
            Self::BodyTooLarge { limit_bytes } => {
                format!("the limit is {limit_bytes} bytes").into()
            }
            Self::BodyIncomplete => "the connection ended within the body".into(),
            Self::BodyTooSlow => "send the whole body sooner, or in parts".into(),
            Self::ModelExists => "choose another name; models are not replaced".into(),
            Self::SampleConflict { conflict, .. } => detail_of_conflict(*conflict).into(),
            Self::NoTargets => "name at least one subject or sample".into(),
            Self::TooManyTargets { found, limit } => {
                format!("{found} targets are named, but at most {limit} go into one request").into()
            }
            Self::IdempotencyKeyReused => "use a new key for a new request".into(),
            Self::QueueFull { limit } => format!("{limit} requests wait already").into(),
            Self::QuotaExceeded(Excess { samples, used, limit, .. }) => format!(
                "it names {samples} samples; its requester may have {limit} deleted within 24 \
                 hours, and {used} were"
            )
            .into(),
            Self::TooFast { per_minute, .. } => {
                format!("{per_minute} requests a minute are let in").into()
            }
            Self::NotCancellable { state } => {
                format!("it is {state}; only suspended and queued requests can be cancelled").into()
            }
            Self::NeededByAnother => {
                "another request names the whole subject of its samples, and counts on it".into()
            }
            Self::NotSuspended { state } => {
                format!("it is {state}; only suspended requests can be approved or refused").into()
            }
            Self::NotCertifiable { state } => {
                format!("it is {state}; there is a certificate once it is completed").into()
            }
            Self::NotExtendable { state } => {
                format!("it is {state}; only open requests have a deadline").into()
            }
            Self::DeadlineMissed { due_by } => {
                format!("it was due by {due_by}; an extension comes before that").into()
            }
            Self::ExtensionsExhausted { limit } => format!("it allows {limit}").into(),
            Self::InvalidDeadline { due_by, latest } => {
                format!("`due_by` must lie after {due_by} and no later than {latest}").into()
            }
            Self::TooManyWebhooks { limit } => {
                format!("there are {limit}; remove one that is not needed any more").into()
            }
            Self::TrainingRunActive { kind, id } => format!("{kind} run {id}").into(),
            Self::TrainingRunEnded { state } => {
                format!("it is {} and cannot be cancelled", state.as_str()).into()
            }
            Self::OpenDsrOff => {
                "the configuration has no section `opendsr`, which names the certificate and the \
                 key that answers are signed with"
                    .into()
            }
            Self::DrpOff => {
                "the configuration has no section `drp`, which names the agents that are trusted"
                    .into()
            }
            Self::NoAgentToken => "send `Authorization: Bearer` with the agent's token".into(),
            Self::UnknownAgentToken => {
                "another one was issued since, or the agent is not trusted any more: set it up anew"
                    .into()
            }
            Self::AgentRefused => "the service's log says why".into(),
            Self::NotTheAgent => "this is for the agent whose it is".into(),
            Self::InvalidMessage(error) => error.to_string().into(),
            Self::RightsRequestReused => "use a new one for a new request".into(),
            Self::NotServed => {
                "there is no such model, it has no version yet, or another epoch answers".into()
            }
            Self::NotReady(why) | Self::NotRevocable(why) => (*why).into(),
            Self::Fenced => "it has not been able to report to the ledger in time".into(),
            Self::Busy => "the inference queue is full".into(),
            Self::StoreUnavailable => "nothing was changed; try again".into(),
            Self::TimedOut => "it may have taken effect or not; ask, or repeat it with the same \
                               `Idempotency-Key`"
                .into(),
            Self::Internal => "the request id leads to the cause in the service's log".into(),
        }
    }
}

fn detail_of_conflict(conflict: Conflict) -> &'static str {
    match conflict {
        Conflict::Exists => "a sample of this id is there already",
        Conflict::SampleDeleted => "a sample of this id was deleted",
        Conflict::SubjectDeleted => "the sample's subject asked to be forgotten",
    }
}

impl Resource {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Route => ("unknown-route", "There is nothing at this path"),
            Self::Model => ("unknown-model", "There is no such model"),
            Self::Version => ("unknown-version", "There is no such version"),
            Self::TrainingRun => ("unknown-training-run", "There is no such run"),
            Self::DeletionRequest => {
                ("unknown-deletion-request", "There is no such deletion request")
            }
            Self::Tombstone => ("unknown-tombstone", "There is no such tombstone"),
            Self::Tile => ("unknown-tile", "The audit log has no such tile"),
            Self::ApiKey => ("unknown-api-key", "There is no such API key"),
            Self::Webhook => ("unknown-webhook", "There is no such webhook"),
            Self::WebhookMessage => ("unknown-webhook-message", "There is no such message"),
            Self::SubjectRequest => ("unknown-subject-request", "There is no such subject request"),
            Self::RightsRequest => ("unknown-rights-request", "There is no such rights request"),
        }
    }

    fn detail(self) -> &'static str {
        match self {
            Self::Route => "/openapi.yaml lists what there is",
            Self::Model => "no model has this name",
            Self::Version => "the model has no version of this epoch",
            Self::TrainingRun => "the model has no run of this id",
            Self::DeletionRequest => "no deletion request has this id",
            Self::Tombstone => "nothing of this name was deleted from the model",
            Self::Tile => "no checkpoint was signed over a tree that has it",
            Self::ApiKey => "no live key has this id",
            Self::Webhook => "no webhook has this id",
            Self::WebhookMessage => "the webhook has no message of this id; old ones are removed",
            Self::SubjectRequest => "no request of this `subject_request_id` came in",
            Self::RightsRequest => "no request of this `request_id` came in",
        }
    }
}
