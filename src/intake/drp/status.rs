//! What an agent is told of a request: Data Rights Protocol 0.9.4, sections 3.02, 3.03 and 3.08.

use std::fmt;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    domain::{deletion::ExtensionReason, timestamp::Timestamp},
    intake::standing::Standing,
};

/// A status with its reason. A request that reached us is never `open` any more, and none of ours
/// expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrpStatus {
    InProgress,
    Fulfilled,
    Revoked,
    Denied(DrpReason),
}

/// A status without its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DrpState {
    InProgress,
    Fulfilled,
    Revoked,
    Denied,
}

/// Why a request was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DrpReason {
    /// Nobody is known by its claims.
    NoMatch,
    /// An administrator refused it.
    ClaimNotCovered,
    /// The deletion failed, or one that it counted on was withdrawn.
    Other,
}

/// The specification's status object.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ExerciseStatus {
    pub request_id: Uuid,
    /// As the agent gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub agent_request_id: Option<String>,
    pub received_at: Timestamp,
    /// By when it is done; while it is in progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    pub expected_by: Option<Timestamp>,
    pub status: DrpState,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<DrpReason>,
    /// For the person: why it was denied, or why it takes longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub processing_details: Option<&'static str>,
}

impl DrpStatus {
    /// Of one request there that is served by several here: what there is most to say of. It is
    /// fulfilled only when nothing waits and nothing was denied or revoked, but for those who know
    /// nobody.
    pub fn of_all(standings: impl IntoIterator<Item = Standing>) -> Self {
        let weight = |status: &Self| match status {
            Self::InProgress => 5,
            Self::Denied(DrpReason::Other) => 4,
            Self::Denied(DrpReason::ClaimNotCovered) => 3,
            Self::Revoked => 2,
            Self::Fulfilled => 1,
            Self::Denied(DrpReason::NoMatch) => 0,
        };
        let statuses = standings.into_iter().map(|standing| standing.translation().drp);
        statuses.max_by_key(weight).unwrap_or(Self::Denied(DrpReason::NoMatch))
    }

    const fn state(self) -> DrpState {
        match self {
            Self::InProgress => DrpState::InProgress,
            Self::Fulfilled => DrpState::Fulfilled,
            Self::Revoked => DrpState::Revoked,
            Self::Denied(_) => DrpState::Denied,
        }
    }

    const fn reason(self) -> Option<DrpReason> {
        match self {
            Self::InProgress | Self::Fulfilled | Self::Revoked => None,
            Self::Denied(reason) => Some(reason),
        }
    }
}

impl DrpState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Fulfilled => "fulfilled",
            Self::Revoked => "revoked",
            Self::Denied => "denied",
        }
    }
}

impl DrpReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoMatch => "no_match",
            Self::ClaimNotCovered => "claim_not_covered",
            Self::Other => "other",
        }
    }
}

impl ExerciseStatus {
    /// `extension` is why the deadline was moved to `due_by`, if it was.
    pub fn new(
        (request_id, agent_request_id): (Uuid, Option<String>),
        status: DrpStatus,
        (received_at, due_by): (Timestamp, Timestamp),
        extension: Option<ExtensionReason>,
    ) -> Self {
        let is_in_progress = status == DrpStatus::InProgress;
        let processing_details = match status {
            DrpStatus::InProgress => extension.map(longer),
            DrpStatus::Fulfilled | DrpStatus::Revoked => None,
            DrpStatus::Denied(DrpReason::NoMatch) => {
                Some("the business keeps nothing of anybody who is known by these claims")
            }
            DrpStatus::Denied(DrpReason::ClaimNotCovered) => {
                Some("the business has refused: the data is exempt from deletion")
            }
            DrpStatus::Denied(DrpReason::Other) => {
                Some("the deletion could not be done; it may be requested again")
            }
        };
        Self {
            request_id,
            agent_request_id,
            received_at,
            expected_by: is_in_progress.then_some(due_by),
            status: status.state(),
            reason: status.reason(),
            processing_details,
        }
    }
}

/// What the person is told of an extension.
const fn longer(reason: ExtensionReason) -> &'static str {
    match reason {
        ExtensionReason::Complexity => "the deadline was extended: the request is complex",
        ExtensionReason::NumberOfRequests => "the deadline was extended: there are many requests",
        ExtensionReason::ReasonablyNecessary => {
            "the deadline was extended: more time is reasonably necessary"
        }
    }
}

impl fmt::Display for DrpStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.state().as_str())?;
        self.reason().map_or(Ok(()), |reason| write!(f, " {}", reason.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::deletion::{Guarantee, Rejection};

    #[test]
    fn it_is_fulfilled_only_where_nothing_else_is_to_be_said() {
        use DrpStatus::{Denied, Fulfilled, InProgress, Revoked};
        let done = Standing::Completed(Guarantee::Approximate);
        let nobody = Standing::Rejected(Rejection::UnknownSubject);
        let refused = Standing::Rejected(Rejection::Refused);
        for (standings, status) in [
            (&[][..], Denied(DrpReason::NoMatch)),
            (&[nobody, nobody], Denied(DrpReason::NoMatch)),
            (&[nobody, done], Fulfilled),
            (&[done, Standing::Rejected(Rejection::AlreadyDeleted)], Fulfilled),
            (&[done, Standing::Queued], InProgress),
            (&[Standing::Suspended, Standing::Failed], InProgress),
            (&[done, refused, nobody], Denied(DrpReason::ClaimNotCovered)),
            (&[done, refused, Standing::Failed], Denied(DrpReason::Other)),
            (&[done, Standing::Cancelled], Revoked),
        ] {
            assert_eq!(DrpStatus::of_all(standings.iter().copied()), status, "{standings:?}");
        }
    }

    #[test]
    fn words_are_those_of_the_serialized_form() {
        for standing in Standing::ALL {
            let status = standing.translation().drp;
            assert_eq!(json!(status.state()), status.state().as_str());
            let reason = status.reason();
            assert!(reason.is_none_or(|reason| json!(reason) == reason.as_str()));
        }
    }

    #[test]
    fn a_status_says_what_its_state_asks_for() {
        let (received_at, due_by) = (Timestamp::from_micros(0), Timestamp::from_micros(1_000_000));
        let of = |status, extension| {
            let id = (Uuid::nil(), Some("17".to_owned()));
            let status = ExerciseStatus::new(id, status, (received_at, due_by), extension);
            serde_json::to_value(status).unwrap()
        };
        assert_eq!(
            of(DrpStatus::InProgress, None),
            json!({
                "request_id": Uuid::nil(),
                "agent_request_id": "17",
                "received_at": "1970-01-01T00:00:00Z",
                "expected_by": "1970-01-01T00:00:01Z",
                "status": "in_progress",
            })
        );
        let extended = of(DrpStatus::InProgress, Some(ExtensionReason::Complexity));
        assert!(extended["processing_details"].as_str().unwrap().contains("complex"));
        let fulfilled = of(DrpStatus::Fulfilled, Some(ExtensionReason::Complexity));
        assert_eq!(fulfilled["status"], "fulfilled");
        assert!(fulfilled.get("expected_by").is_none());
        assert!(fulfilled.get("processing_details").is_none());
        let denied = of(DrpStatus::Denied(DrpReason::NoMatch), None);
        assert_eq!((&denied["status"], &denied["reason"]), (&json!("denied"), &json!("no_match")));
        assert!(denied["processing_details"].is_string());
    }
}
