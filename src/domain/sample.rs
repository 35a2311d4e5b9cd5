//! Samples as the ledger keeps them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{features::Features, identity::Pseudonym};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Makes the weights.
    Train,
    /// Never trained on: measures utility, and what honest ignorance looks like.
    Holdout,
}

impl Split {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Holdout => "holdout",
        }
    }
}

/// A sample on its way into the ledger; its identifiers are pseudonyms already.
#[derive(Clone, Debug)]
pub struct NewSample {
    /// `UUIDv7`.
    pub id: Uuid,
    pub key: Pseudonym,
    pub subject: Pseudonym,
    pub split: Split,
    pub features: Features,
    pub label: String,
    /// What else the subject is known by.
    pub aliases: Vec<Pseudonym>,
}

/// A sample with its content, as training and unlearning read it.
#[derive(Clone, Debug)]
pub struct StoredSample {
    pub id: Uuid,
    /// Place in the model's order of ingestion, from 0; gaps where samples were deleted.
    pub ordinal: i64,
    pub split: Split,
    pub features: Features,
    pub label: String,
}

/// What models say about one sample: natural-log probabilities, `[classes]`.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplePredictions {
    pub sample_id: Uuid,
    /// By a model that never saw the sample (k-fold cross-fitting).
    pub out_of_fold: Vec<f32>,
    /// By the full model at the end of its training.
    pub anchor: Vec<f32>,
}

/// How many samples a model has, by split; deleted ones not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SampleCounts {
    pub train: u64,
    pub holdout: u64,
}
