//! Webhooks: who is told of what happens to requests and versions, and how a message is signed
//! (Standard Webhooks 1.0, <https://www.standardwebhooks.com>).

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretBox};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::Sha256;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    audit::{AuditKind, NewAuditEvent, canonical},
    model::ModelName,
    timestamp::Timestamp,
};

/// What a message tells. Words are stable: receivers match on them.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
pub enum EventType {
    /// It waits for an administrator.
    #[serde(rename = "deletion_request.suspended")]
    Suspended,
    /// It was received, or approved, and waits for a worker.
    #[serde(rename = "deletion_request.queued")]
    Queued,
    #[serde(rename = "deletion_request.unlearning")]
    Unlearning,
    #[serde(rename = "deletion_request.completed")]
    Completed,
    /// Its guarantee has become exact by a settlement.
    #[serde(rename = "deletion_request.settled")]
    Settled,
    #[serde(rename = "deletion_request.failed")]
    Failed,
    #[serde(rename = "deletion_request.rejected")]
    Rejected,
    #[serde(rename = "deletion_request.cancelled")]
    Cancelled,
    /// It is open, and little time is left.
    #[serde(rename = "deletion_request.deadline_approaching")]
    DeadlineApproaching,
    #[serde(rename = "deletion_request.deadline_extended")]
    DeadlineExtended,
    #[serde(rename = "version.published")]
    VersionPublished,
}

impl EventType {
    pub const COUNT: usize = 11;

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Suspended => "deletion_request.suspended",
            Self::Queued => "deletion_request.queued",
            Self::Unlearning => "deletion_request.unlearning",
            Self::Completed => "deletion_request.completed",
            Self::Settled => "deletion_request.settled",
            Self::Failed => "deletion_request.failed",
            Self::Rejected => "deletion_request.rejected",
            Self::Cancelled => "deletion_request.cancelled",
            Self::DeadlineApproaching => "deletion_request.deadline_approaching",
            Self::DeadlineExtended => "deletion_request.deadline_extended",
            Self::VersionPublished => "version.published",
        }
    }

    /// What a leaf of the audit log tells others; `None` where it concerns nobody but auditors.
    pub const fn of(kind: AuditKind) -> Option<Self> {
        match kind {
            AuditKind::DeletionSuspended => Some(Self::Suspended),
            AuditKind::DeletionReceived => Some(Self::Queued),
            AuditKind::DeletionBatched => Some(Self::Unlearning),
            AuditKind::DeletionCompleted => Some(Self::Completed),
            AuditKind::DeletionSettled => Some(Self::Settled),
            AuditKind::DeletionFailed => Some(Self::Failed),
            AuditKind::DeletionRejected | AuditKind::DeletionRefused => Some(Self::Rejected),
            AuditKind::DeletionCancelled => Some(Self::Cancelled),
            AuditKind::DeadlineApproaching => Some(Self::DeadlineApproaching),
            AuditKind::DeadlineExtended => Some(Self::DeadlineExtended),
            AuditKind::VersionPublished => Some(Self::VersionPublished),
            AuditKind::ModelCreated
            | AuditKind::SamplesIngested
            | AuditKind::TrainingQueued
            | AuditKind::SettlementQueued
            | AuditKind::JobFailed
            | AuditKind::JobCancelRequested
            | AuditKind::JobCancelled
            | AuditKind::BatchPublished
            | AuditKind::WeightsRemoved
            | AuditKind::DeletionApproved
            | AuditKind::TombstoneLifted
            | AuditKind::MasterKeyAdopted
            | AuditKind::MasterKeyRotated
            | AuditKind::ApiKeyCreated
            | AuditKind::ApiKeyRotated
            | AuditKind::ApiKeyRevoked
            | AuditKind::AgentTokenIssued
            | AuditKind::LogKeyAdopted
            | AuditKind::WebhookCreated
            | AuditKind::WebhookChanged
            | AuditKind::WebhookRotated
            | AuditKind::WebhookDisabled
            | AuditKind::WebhookActivated
            | AuditKind::WebhookRemoved => None,
        }
    }

    /// Those fields of the leaf that a message repeats: counts, epochs, times and words. The
    /// receiver fetches the rest with its key.
    const fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Suspended | Self::Queued => &["due_by", "samples"],
            Self::Completed => &["excluded_from_epoch", "guarantee", "samples"],
            Self::Settled => &["epoch"],
            Self::DeadlineApproaching => &["due_by"],
            Self::DeadlineExtended => &["due_by", "previous_due_by", "reason"],
            Self::VersionPublished => &["cause", "epoch"],
            Self::Unlearning | Self::Failed | Self::Rejected | Self::Cancelled => &[],
        }
    }

    /// The body of the message that tells of the leaf: `type`, `timestamp` and `data`.
    pub fn payload(self, leaf: &NewAuditEvent, model: &ModelName, at: Timestamp) -> String {
        let mut data = Map::from_iter([("model".to_owned(), json!(model))]);
        if self != Self::VersionPublished {
            data.insert("deletion_request".to_owned(), json!(leaf.about));
        }
        let copy = |field: &&str| ((*field).to_owned(), leaf.details[*field].clone());
        data.extend(self.fields().iter().map(copy));
        canonical(&json!({"data": Value::Object(data), "timestamp": at, "type": self}))
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an administrator chooses of a webhook.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookSettings {
    /// For people: whose it is.
    pub name: String,
    /// Where messages go; may hold a secret of the receiver's.
    pub url: String,
    /// All where absent.
    pub event_types: Option<Vec<EventType>>,
    /// All where absent.
    pub models: Option<Vec<ModelName>>,
}

impl WebhookSettings {
    /// Whether it is told of this.
    pub fn wants(&self, event_type: EventType, model: &ModelName) -> bool {
        let has_type = self.event_types.as_ref().is_none_or(|types| types.contains(&event_type));
        has_type && self.models.as_ref().is_none_or(|models| models.contains(model))
    }
}

/// Somebody who is told. Its secret is kept apart, sealed.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    /// `UUIDv7`.
    pub id: Uuid,
    pub settings: WebhookSettings,
    pub created_at: Timestamp,
    /// Until then messages are signed with the secret before the last rotation too.
    pub previous_secret_until: Option<Timestamp>,
    /// When a message was last delivered.
    pub delivered_at: Option<Timestamp>,
    /// Where it is told nothing any more.
    pub disabled: Option<Disabled>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disabled {
    pub reason: DisabledReason,
    pub at: Timestamp,
}

/// Why a webhook is told nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DisabledReason {
    /// It answered 410.
    Gone,
    /// From a message's first attempt to its last none was delivered.
    Unreachable,
}

impl DisabledReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Unreachable => "unreachable",
        }
    }
}

/// One event on its way to one webhook.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// `UUIDv7`; the same at each attempt.
    pub id: Uuid,
    pub event_type: EventType,
    /// JSON; exactly these bytes are signed.
    pub payload: String,
    pub state: MessageState,
    /// Attempts that have ended, since the message was last asked for.
    pub attempts: u32,
    pub last_attempt_at: Option<Timestamp>,
    /// HTTP status of the last answer.
    pub last_status: Option<u16>,
    /// Why the last attempt failed.
    pub last_failure: Option<Failure>,
    /// When the next one may begin, while pending.
    pub next_attempt_at: Option<Timestamp>,
    pub created_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    Pending,
    /// Answered with success.
    Delivered,
    /// No attempt succeeded; it can be sent again by hand.
    GivenUp,
}

impl MessageState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::GivenUp => "given_up",
        }
    }
}

/// Why an attempt did not deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// It was answered, but not with success.
    Refused,
    /// There was no connection, no TLS, or no answer on it.
    Unreachable,
    /// There was no answer in time.
    TimedOut,
    /// The address is none that the configuration lets messages go to.
    OutOfReach,
}

impl Failure {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::OutOfReach => "out_of_reach",
        }
    }
}

pub const SECRET_BYTES: usize = 32;

/// What a webhook's messages are signed with.
pub struct WebhookSecret(SecretBox<[u8; SECRET_BYTES]>);

impl WebhookSecret {
    pub fn new(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(SecretBox::new(Box::new(bytes)))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// As the receiver is told it: `whsec_` and base64.
    pub fn expose(&self) -> String {
        format!("whsec_{}", BASE64_STANDARD.encode(self.0.expose_secret()))
    }

    /// One entry of the header `webhook-signature`.
    pub fn sign(&self, id: &str, timestamp_s: i64, body: &str) -> String {
        sign(self.bytes(), id, timestamp_s, body)
    }
}

/// HMAC-SHA-256 of `id.timestamp.body`.
fn sign(key: &[u8], id: &str, timestamp_s: i64, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(format!("{id}.{timestamp_s}.{body}").as_bytes());
    format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_standard_webhooks_test_vector() {
        // libraries/*/test of the reference implementations, `test_sign`.
        let key = BASE64_STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature =
            sign(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn the_example_for_receivers_is_right() {
        let document = include_str!("../../docs/webhooks.md");
        let value = |name: &str| {
            let line = document.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_else(|| panic!("no {name}")).trim()
        };
        let secret = WebhookSecret::new(std::array::from_fn(|at| u8::try_from(at).unwrap()));
        assert_eq!(value("secret"), secret.expose());
        let timestamp_s = value("webhook-timestamp").parse().unwrap();
        let signature = secret.sign(value("webhook-id"), timestamp_s, value("body"));
        assert_eq!(value("webhook-signature"), signature);
    }

    #[test]
    fn secrets_are_told_in_the_schemes_form() {
        let secret = WebhookSecret::new([0xfb; SECRET_BYTES]);
        assert_eq!(secret.expose(), "whsec_+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/s=");
    }

    fn settings(event_types: Option<Vec<EventType>>, models: Option<Vec<&str>>) -> WebhookSettings {
        let name = |text: &str| text.parse().unwrap();
        WebhookSettings {
            name: "x".into(),
            url: "https://example.org/".into(),
            event_types,
            models: models.map(|models| models.into_iter().map(name).collect()),
        }
    }

    #[test]
    fn a_webhook_is_told_what_it_wants() {
        let (a, b): (ModelName, ModelName) = ("a".parse().unwrap(), "b".parse().unwrap());
        assert!(settings(None, None).wants(EventType::Failed, &a));
        let some = settings(Some(vec![EventType::Completed]), Some(vec!["a"]));
        assert!(some.wants(EventType::Completed, &a));
        assert!(!some.wants(EventType::Completed, &b));
        assert!(!some.wants(EventType::Settled, &a));
    }

    #[test]
    fn a_payload_repeats_only_what_it_may() {
        let leaf = NewAuditEvent {
            kind: AuditKind::DeletionReceived,
            model_id: None,
            about: Some(Uuid::from_u128(1)),
            details: json!({"samples": 3, "due_by": "2026-12-01T00:00:00Z", "targets_digest": "ab"}),
        };
        let event_type = EventType::of(leaf.kind).unwrap();
        let at = Timestamp::from_micros(0);
        assert_eq!(
            event_type.payload(&leaf, &"m".parse().unwrap(), at),
            r#"{"data":{"deletion_request":"00000000-0000-0000-0000-000000000001","due_by":"2026-12-01T00:00:00Z","model":"m","samples":3},"timestamp":"1970-01-01T00:00:00Z","type":"deletion_request.queued"}"#
        );
    }

    #[test]
    fn words_are_the_same_everywhere() {
        for event_type in [EventType::Suspended, EventType::VersionPublished] {
            assert_eq!(json!(event_type), event_type.as_str());
        }
        for failure in
            [Failure::Refused, Failure::Unreachable, Failure::TimedOut, Failure::OutOfReach]
        {
            assert_eq!(json!(failure), failure.as_str());
        }
        for state in [MessageState::Pending, MessageState::Delivered, MessageState::GivenUp] {
            assert_eq!(json!(state), state.as_str());
        }
        for reason in [DisabledReason::Gone, DisabledReason::Unreachable] {
            assert_eq!(json!(reason), reason.as_str());
        }
    }
}
