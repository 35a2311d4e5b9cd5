//! Versions: one set of weights of a model.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{blob_name::BlobName, identity::Digest, network::NetworkSpec, timestamp::Timestamp};

/// Why a version exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A training run over all live samples.
    Trained,
    /// An unlearning update of its parent.
    Unlearned,
    /// An exact retraining without everything deleted so far.
    Settled,
}

impl Cause {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trained => "trained",
            Self::Unlearned => "unlearned",
            Self::Settled => "settled",
        }
    }

    /// Whether its weights are what training without the deleted samples gives.
    pub const fn is_exact(self) -> bool {
        matches!(self, Self::Trained | Self::Settled)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    pub model_id: Uuid,
    /// Rises by one from 1.
    pub epoch: u64,
    pub cause: Cause,
    /// Absent for the first.
    pub parent_epoch: Option<u64>,
    /// The job that made it.
    pub job_id: Uuid,
    /// SHA-256 of the weights file; stays when the file is gone.
    pub weights: Digest,
    pub network: NetworkSpec,
    /// Absent once the weights were destroyed.
    pub encoding: Option<Encoding>,
    pub metrics: VersionMetrics,
    /// What made it: method or recipe with every parameter and seed.
    pub method: serde_json::Value,
    pub created_at: Timestamp,
    /// When the weights of this superseded version were destroyed.
    pub weights_removed_at: Option<Timestamp>,
}

/// How samples go into a version's network and what comes out: its categories and its labels are
/// words of samples, its means and deviations were taken from them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Encoding {
    /// The fitted encoder, as `dataset` writes it.
    pub encoder: serde_json::Value,
    /// Class labels in the order of the network's outputs.
    pub classes: Vec<String>,
}

impl Version {
    pub const fn blob_name(&self) -> BlobName {
        BlobName { digest: self.weights, job_id: self.job_id }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VersionMetrics {
    /// Share of hold-out samples whose label is predicted: of all of them after a training, of those
    /// that its batch drew, 1,024 at most, after an update. Absent without a hold-out set.
    pub holdout_accuracy: Option<f64>,
    /// Of an update: the share of the very same samples whose label the last exactly trained version
    /// predicted. Absent where it was not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holdout_accuracy_exact: Option<f64>,
    /// Mean cross entropy on the same samples as `holdout_accuracy`, in nats.
    pub holdout_loss: Option<f64>,
    /// Samples that the weights were trained on and not yet forgot.
    pub samples: u64,
}

impl VersionMetrics {
    /// How far an update's hold-out accuracy lies below the last exactly trained version's, on the same
    /// samples: those of two draws differ by chance.
    pub fn accuracy_drop(&self) -> Option<f64> {
        Some(self.holdout_accuracy_exact? - self.holdout_accuracy?)
    }
}
