//! What a certificate states, as it follows from the log's leaves: nothing is stated that a leaf
//! does not carry, so that every statement can be checked against one.

mod deadline;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::leaf::{Leaf, LeafError};
use crate::domain::{
    audit::AuditKind,
    deletion::{Guarantee, TargetKind, TargetOutcome, targets_digest},
    identity::{Digest, Pseudonym},
    timestamp::Timestamp,
    version::{Cause, VersionMetrics},
};

pub use deadline::DeadlineExtension;

/// What was done for one deletion request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CertificateStatement)]
pub struct Statement {
    /// What holds as of the checkpoint.
    pub guarantee: Guarantee,
    pub request: RequestFacts,
    pub batch: BatchFacts,
    /// The version that excludes the samples; null when no version held them, so that they were
    /// only erased.
    pub version: Option<VersionFacts>,
    pub completion: CompletionFacts,
    /// The exact retraining that followed an approximate update; null before.
    pub settlement: Option<SettlementFacts>,
    /// Superseded weights that are destroyed by now.
    pub weights_destroyed: Vec<DestroyedWeights>,
    /// What may be ingested again, by an administrator's act after the deletion.
    pub tombstones_lifted: Vec<LiftedTombstone>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestFacts {
    pub id: Uuid,
    pub model_id: Uuid,
    /// Name of the model.
    pub model: String,
    pub received_at: Timestamp,
    /// After every extension.
    pub due_by: Timestamp,
    /// How the deadline came to be that one.
    pub extensions: Vec<DeadlineExtension>,
    /// In the order of the request, as pseudonyms.
    pub targets: Vec<TargetOutcome>,
    /// Samples that it deletes.
    pub samples: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchFacts {
    pub id: Uuid,
    pub batched_at: Timestamp,
    /// When content and predictions of its samples were erased.
    pub erased_at: Timestamp,
    /// Samples erased, of all requests that the batch served.
    pub samples_erased: u64,
    /// What was measured of the update; null when there was none.
    #[schema(value_type = Option<Object>)]
    pub evidence: Value,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VersionFacts {
    pub epoch: u64,
    pub cause: Cause,
    pub parent_epoch: Option<u64>,
    /// SHA-256 of the parent's weights file; null for a first version.
    pub weights_before: Option<Digest>,
    /// SHA-256 of this version's weights file.
    pub weights_after: Digest,
    /// Method with every hyper-parameter and seed.
    #[schema(value_type = Object)]
    pub method: Value,
    pub metrics: VersionMetrics,
    /// Version of forgetd that made it, and after a `+` the beginning of a digest of its sources.
    pub forgetd: String,
    pub published_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompletionFacts {
    /// When every live replica had left the older weights.
    pub completed_at: Timestamp,
    pub excluded_from_epoch: Option<u64>,
    /// What held then.
    pub guarantee: Guarantee,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SettlementFacts {
    pub settled_at: Timestamp,
    pub version: VersionFacts,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DestroyedWeights {
    pub epoch: u64,
    pub weights: Digest,
    pub destroyed_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LiftedTombstone {
    pub kind: TargetKind,
    pub key: Pseudonym,
    pub lifted_at: Timestamp,
}

/// Why the leaves do not tell of one completed request.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    #[error("there is no leaf {0}")]
    Missing(&'static str),
    #[error("there are several leaves {0}")]
    Several(&'static str),
    #[error("leaf {0:?} belongs to nothing that is certified")]
    Stray(AuditKind),
    #[error("the leaves contradict each other, or what is disclosed: {0}")]
    Contradiction(&'static str),
    #[error("the leaf {kind:?} cannot be read")]
    Leaf { kind: AuditKind, source: LeafError },
}

// The details of each kind, as the store writes them.

#[derive(Deserialize)]
struct Created {
    name: String,
}

#[derive(Deserialize)]
struct Received {
    /// Earlier than the leaf where the request waited for an approval.
    #[serde(rename = "received_at")]
    at: Timestamp,
    samples: u64,
    targets: usize,
    targets_digest: Digest,
}

#[derive(Deserialize)]
struct Batched {
    batch: Uuid,
}

#[derive(Deserialize)]
struct BatchPublished {
    epoch: Option<u64>,
    erased: u64,
    evidence: Value,
}

#[derive(Deserialize)]
struct VersionPublished {
    cause: Cause,
    epoch: u64,
    forgetd: String,
    method: Value,
    metrics: VersionMetrics,
    parent_epoch: Option<u64>,
    parent_weights: Option<Digest>,
    weights: Digest,
}

#[derive(Deserialize)]
struct Completed {
    batch: Uuid,
    excluded_from_epoch: Option<u64>,
    guarantee: Guarantee,
    samples: u64,
}

#[derive(Deserialize)]
struct Settled {
    epoch: u64,
    job: Uuid,
}

#[derive(Deserialize)]
struct WeightsRemoved {
    epoch: u64,
    weights: Digest,
}

#[derive(Deserialize)]
struct Lifted {
    kind: TargetKind,
    key: Pseudonym,
}

impl Statement {
    /// What the leaves, in the log's order, say of the one request that they complete. `targets`
    /// are disclosed beside the log, which holds only their digest.
    ///
    /// # Errors
    /// When a leaf is missing, is one too many, or contradicts another.
    pub fn derive(leaves: &[Leaf], targets: &[TargetOutcome]) -> Result<Self, StatementError> {
        let story = Story { leaves };
        let completed = story.only(AuditKind::DeletionCompleted, "deletion.completed", |_| true)?;
        let id = completed.about.ok_or(StatementError::Missing("deletion.completed"))?;
        let model_id = completed.model_id.ok_or(StatementError::Missing("deletion.completed"))?;
        story.holds_nothing_else(id, model_id)?;
        let completion: Completed = read(completed)?;
        let (batch_id, of_request) = (completion.batch, |leaf: &Leaf| leaf.about == Some(id));

        let created = story
            .only(AuditKind::ModelCreated, "model.created", |leaf| leaf.about == Some(model_id))?;
        let received = story.only(AuditKind::DeletionReceived, "deletion.received", of_request)?;
        let batched = story.last(AuditKind::DeletionBatched, "deletion.batched")?;
        let published = story.only(AuditKind::BatchPublished, "batch.published", |leaf| {
            leaf.about == Some(batch_id)
        })?;
        let request: Received = read(received)?;
        let batch: BatchPublished = read(published)?;
        agree(request.targets == targets.len(), "another number of targets")?;
        agree(request.targets_digest == targets_digest(targets), "other targets")?;
        agree(request.samples == completion.samples, "other numbers of samples")?;
        agree(read::<Batched>(batched)?.batch == batch_id, "another batch")?;

        let version = match batch.epoch {
            Some(epoch) => Some(story.version(batch_id, epoch)?),
            None => None,
        };
        if let Some(version) = &version {
            let excluded = completion.excluded_from_epoch;
            agree(excluded == Some(version.epoch), "another epoch excludes the samples")?;
        }
        let (due_by, extensions) = story.deadline()?;
        let settlement = story.settlement()?;
        let guarantee = match &settlement {
            Some(_) => Guarantee::Exact,
            None => completion.guarantee,
        };
        Ok(Self {
            guarantee,
            request: RequestFacts {
                id,
                model_id,
                model: read::<Created>(created)?.name,
                received_at: request.at,
                due_by,
                extensions,
                targets: targets.to_vec(),
                samples: request.samples,
            },
            batch: BatchFacts {
                id: batch_id,
                batched_at: batched.occurred_at,
                erased_at: published.occurred_at,
                samples_erased: batch.erased,
                evidence: batch.evidence,
            },
            version,
            completion: CompletionFacts {
                completed_at: completed.occurred_at,
                excluded_from_epoch: completion.excluded_from_epoch,
                guarantee: completion.guarantee,
            },
            settlement,
            weights_destroyed: story.weights_destroyed()?,
            tombstones_lifted: story.tombstones_lifted()?,
        })
    }
}

/// Leaves in the log's order.
struct Story<'a> {
    leaves: &'a [Leaf],
}

impl<'a> Story<'a> {
    fn all(&self, kind: AuditKind) -> impl DoubleEndedIterator<Item = &'a Leaf> + use<'a> {
        self.leaves.iter().filter(move |leaf| leaf.kind == kind)
    }

    fn only(
        &self,
        kind: AuditKind,
        name: &'static str,
        fits: impl Fn(&Leaf) -> bool,
    ) -> Result<&'a Leaf, StatementError> {
        let mut fitting = self.all(kind).filter(|leaf| fits(leaf));
        let leaf = fitting.next().ok_or(StatementError::Missing(name))?;
        if fitting.next().is_some() {
            return Err(StatementError::Several(name));
        }
        Ok(leaf)
    }

    /// A request that failed before was in several batches.
    fn last(&self, kind: AuditKind, name: &'static str) -> Result<&'a Leaf, StatementError> {
        self.all(kind).next_back().ok_or(StatementError::Missing(name))
    }

    /// Another request's leaves, or another model's, have no place here.
    fn holds_nothing_else(&self, id: Uuid, model_id: Uuid) -> Result<(), StatementError> {
        for leaf in self.leaves {
            let belongs = match leaf.kind {
                AuditKind::ModelCreated
                | AuditKind::BatchPublished
                | AuditKind::VersionPublished
                | AuditKind::WeightsRemoved => true,
                AuditKind::DeletionSuspended
                | AuditKind::DeletionApproved
                | AuditKind::DeletionReceived
                | AuditKind::DeletionBatched
                | AuditKind::DeletionCompleted
                | AuditKind::DeletionSettled
                | AuditKind::DeadlineApproaching
                | AuditKind::DeadlineExtended
                | AuditKind::TombstoneLifted => leaf.about == Some(id),
                AuditKind::SamplesIngested
                | AuditKind::TrainingQueued
                | AuditKind::SettlementQueued
                | AuditKind::JobFailed
                | AuditKind::JobCancelRequested
                | AuditKind::JobCancelled
                | AuditKind::DeletionRejected
                | AuditKind::DeletionRefused
                | AuditKind::DeletionCancelled
                | AuditKind::DeletionFailed
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
                | AuditKind::WebhookRemoved => false,
            };
            if !belongs || leaf.model_id != Some(model_id) {
                return Err(StatementError::Stray(leaf.kind));
            }
        }
        Ok(())
    }

    fn version(&self, job_id: Uuid, epoch: u64) -> Result<VersionFacts, StatementError> {
        let leaf = self.only(AuditKind::VersionPublished, "version.published", |leaf| {
            leaf.about == Some(job_id)
        })?;
        let version: VersionPublished = read(leaf)?;
        agree(version.epoch == epoch, "another epoch")?;
        Ok(VersionFacts {
            epoch,
            cause: version.cause,
            parent_epoch: version.parent_epoch,
            weights_before: version.parent_weights,
            weights_after: version.weights,
            method: version.method,
            metrics: version.metrics,
            forgetd: version.forgetd,
            published_at: leaf.occurred_at,
        })
    }

    fn settlement(&self) -> Result<Option<SettlementFacts>, StatementError> {
        if self.all(AuditKind::DeletionSettled).next().is_none() {
            return Ok(None);
        }
        let leaf = self.only(AuditKind::DeletionSettled, "deletion.settled", |_| true)?;
        let settled: Settled = read(leaf)?;
        let version = self.version(settled.job, settled.epoch)?;
        agree(version.cause.is_exact(), "a settlement by weights that are not exact")?;
        Ok(Some(SettlementFacts { settled_at: leaf.occurred_at, version }))
    }

    fn weights_destroyed(&self) -> Result<Vec<DestroyedWeights>, StatementError> {
        self.all(AuditKind::WeightsRemoved)
            .map(|leaf| {
                let WeightsRemoved { epoch, weights } = read(leaf)?;
                Ok(DestroyedWeights { epoch, weights, destroyed_at: leaf.occurred_at })
            })
            .collect()
    }

    fn tombstones_lifted(&self) -> Result<Vec<LiftedTombstone>, StatementError> {
        self.all(AuditKind::TombstoneLifted)
            .map(|leaf| {
                let Lifted { kind, key } = read(leaf)?;
                Ok(LiftedTombstone { kind, key, lifted_at: leaf.occurred_at })
            })
            .collect()
    }
}

fn read<T: serde::de::DeserializeOwned>(leaf: &Leaf) -> Result<T, StatementError> {
    leaf.details().map_err(|source| StatementError::Leaf { kind: leaf.kind, source })
}

fn agree(fits: bool, otherwise: &'static str) -> Result<(), StatementError> {
    if fits { Ok(()) } else { Err(StatementError::Contradiction(otherwise)) }
}
