//! Deletion requests, their targets and their legal transitions.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    audit::canonical,
    identity::{Digest, Pseudonym},
    timestamp::Timestamp,
};

/// Where a deletion request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeletionState {
    /// It would delete more of the model's training samples than the policy lets pass; waits for an
    /// administrator. Nothing is claimed yet, and no tombstone stands. `reason` says how many.
    Suspended,
    /// Durable, waiting for a worker.
    Queued,
    /// In a batch; the new version may be out already, but not yet on every replica.
    Unlearning,
    /// Every live replica answers without the samples, and their content is erased; of a subject
    /// that it names, also those that other requests were to delete.
    Completed,
    /// Gave up after its last attempt, with nothing half-done; or its samples are gone, but another
    /// request left one of its subject in place. `reason` says why.
    Failed,
    /// No target could be deleted, or an administrator refused it; each target says why.
    Rejected,
    /// Withdrawn by the caller while suspended or queued.
    Cancelled,
}

impl DeletionState {
    pub const ALL: [Self; 7] = [
        Self::Suspended,
        Self::Queued,
        Self::Unlearning,
        Self::Completed,
        Self::Failed,
        Self::Rejected,
        Self::Cancelled,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Suspended => "suspended",
            Self::Queued => "queued",
            Self::Unlearning => "unlearning",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether a request may go from `self` to `next`.
    pub const fn can_become(self, next: Self) -> bool {
        use DeletionState::{
            Cancelled, Completed, Failed, Queued, Rejected, Suspended, Unlearning,
        };
        matches!(
            (self, next),
            (Suspended, Queued | Rejected | Cancelled)
                | (Queued, Unlearning | Cancelled)
                | (Unlearning, Completed | Failed | Queued)
        )
    }

    /// Whether nothing more will happen to it but a settlement.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Suspended | Self::Queued | Self::Unlearning)
    }
}

impl fmt::Display for DeletionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What can be said of the weights that answer now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Guarantee {
    /// Forgotten by an approximate update, which the evidence measures.
    Approximate,
    /// The weights were trained without the samples.
    Exact,
}

impl Guarantee {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approximate => "approximate",
            Self::Exact => "exact",
        }
    }
}

/// Why a deadline is extended, in the words of the laws that allow it (GDPR Art. 12(3), CCPA §
/// 1798.130(a)(2)(A)); no free text, which could name somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExtensionReason {
    /// The request is complex.
    Complexity,
    /// There are many requests.
    NumberOfRequests,
    /// More time is reasonably necessary.
    ReasonablyNecessary,
}

impl ExtensionReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complexity => "complexity",
            Self::NumberOfRequests => "number_of_requests",
            Self::ReasonablyNecessary => "reasonably_necessary",
        }
    }
}

/// By when a request is to be done instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewDeadline {
    pub due_by: Timestamp,
    pub reason: ExtensionReason,
}

/// What a target names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    Sample,
    Subject,
}

impl TargetKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::Subject => "subject",
        }
    }
}

/// A target as accepted: the identifier is a pseudonym already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub kind: TargetKind,
    pub key: Pseudonym,
}

/// Why a target cannot be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// The model has no sample of this subject, and never had.
    UnknownSubject,
    /// The model has no such sample, and never had; it may be another model's.
    UnknownSample,
    /// An earlier request deletes it or has deleted it.
    AlreadyDeleted,
    /// An administrator refused the request that named it.
    Refused,
}

impl Rejection {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownSubject => "unknown_subject",
            Self::UnknownSample => "unknown_sample",
            Self::AlreadyDeleted => "already_deleted",
            Self::Refused => "refused",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetOutcome {
    pub kind: TargetKind,
    /// Pseudonym of the target.
    pub key: Pseudonym,
    /// Samples found under it that this request deletes.
    pub samples: u64,
    /// Set when the target was rejected.
    pub rejection: Option<Rejection>,
}

/// SHA-256 of the targets' canonical JSON (RFC 8785), in the order of the request: binds them to
/// the audit log without the log naming up to 10,000 pseudonyms.
pub fn targets_digest(targets: &[TargetOutcome]) -> Digest {
    Digest::of(canonical(&serde_json::json!(targets)).as_bytes())
}

#[derive(Clone, Debug, PartialEq)]
pub struct DeletionRequest {
    /// `UUIDv7`.
    pub id: Uuid,
    pub model_id: Uuid,
    pub state: DeletionState,
    /// Why it is suspended, why it failed, or why the last attempt did.
    pub reason: Option<String>,
    /// Set once completed.
    pub guarantee: Option<Guarantee>,
    /// Samples that it deletes.
    pub samples: u64,
    /// The job of the batch that serves it.
    pub batch_id: Option<Uuid>,
    /// The first epoch without its samples.
    pub excluded_from_epoch: Option<u64>,
    pub attempts: u32,
    pub received_at: Timestamp,
    pub due_by: Timestamp,
    /// By when it was due before the deadline was extended.
    pub first_due_by: Option<Timestamp>,
    /// Why it was extended last.
    pub extension_reason: Option<ExtensionReason>,
    pub completed_at: Option<Timestamp>,
    pub settled_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_states_have_no_way_out() {
        for state in DeletionState::ALL {
            let has_way_out = DeletionState::ALL.iter().any(|next| state.can_become(*next));
            assert_eq!(state.is_final(), !has_way_out, "{state}");
        }
    }

    #[test]
    fn only_what_no_worker_has_can_be_cancelled() {
        let cancellable: Vec<_> = DeletionState::ALL
            .into_iter()
            .filter(|state| state.can_become(DeletionState::Cancelled))
            .collect();
        assert_eq!(cancellable, [DeletionState::Suspended, DeletionState::Queued]);
    }
}
