//! Jobs: what a worker holds a lease on. A model has at most one running job, so that epochs
//! rise one by one.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{timestamp::Timestamp, watch::Progress};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// A training run over all live samples.
    Training,
    /// A batch: one unlearning update for the requests that it holds.
    Unlearning,
    /// A retraining without everything deleted so far.
    Settlement,
}

impl JobKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Unlearning => "unlearning",
            Self::Settlement => "settlement",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    Queued,
    /// Leased; an expired lease makes it free for another worker.
    Running,
    /// Its version is out; unlearning batches then wait for every replica.
    Published,
    Completed,
    Failed,
    Cancelled,
}

impl JobState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Published => "published",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Neither waiting nor at work any more.
    pub const fn has_ended(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// `UUIDv7`.
    pub id: Uuid,
    pub model_id: Uuid,
    pub kind: JobKind,
    pub state: JobState,
    /// How often it was claimed.
    pub attempts: u32,
    /// How often a settlement or training stepped aside for a deletion.
    pub preemptions: u32,
    /// The epoch that it published.
    pub epoch: Option<u64>,
    pub progress: Option<Progress>,
    /// Why it failed, or why the last attempt did.
    pub reason: Option<String>,
    pub cancel_requested: bool,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

/// The right to write as one attempt at one job. Every write of a worker names it; a write under
/// a lease that has passed to another attempt changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub job_id: Uuid,
    /// Random, new at each claim.
    pub token: Uuid,
    /// From 1.
    pub attempt: u32,
}
