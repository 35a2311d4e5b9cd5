//! What can end an evaluation.

use std::{io, path::PathBuf};

use crate::{
    dataset::{encoder::EncodingError, raw_sample::ReadError},
    domain::network::NetworkError,
    nn::{training::TrainingError, weights::WeightsError},
    unlearning::{MethodError, UnlearningError},
};

#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    /// What was done so far stands in the output folder.
    #[error("stopped; the same command goes on from here")]
    Stopped,
    #[error("there is no suite {name:?}; there are {present}, or give a path that ends in .toml")]
    UnknownSuite { name: String, present: String },
    #[error("cannot read {path}")]
    Input { path: PathBuf, source: io::Error },
    #[error("the suite {name} is not sound TOML of a suite")]
    Toml { name: String, source: Box<toml::de::Error> },
    #[error("the suite is unusable: {0}")]
    Suite(String),
    #[error("the suite names a method that cannot be had")]
    Method(#[source] Box<MethodError>),
    #[error("data set {dataset:?} is read from files; say in which folder they are with --data")]
    NoDataFolder { dataset: String },
    #[error("data set {dataset:?} cannot be read from {path}")]
    Read { dataset: String, path: PathBuf, source: Box<ReadError> },
    #[error("data set {dataset:?} cannot be encoded")]
    Encoding { dataset: String, source: Box<EncodingError> },
    #[error("data set {dataset:?}: {problem}")]
    Data { dataset: String, problem: String },
    #[error("network {network:?} does not fit data set {dataset:?}")]
    Network { network: String, dataset: String, source: Box<NetworkError> },
    #[error("training {what} failed")]
    Training { what: String, source: Box<TrainingError> },
    #[error("{path} is no result of this program; remove it to have it made again")]
    Damaged { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the weights in {path} cannot be used; remove the file to have them made again")]
    Weights { path: PathBuf, source: Box<WeightsError> },
    #[error("cannot write {path}")]
    Output { path: PathBuf, source: io::Error },
    #[error("no thread could be started to compute on")]
    Thread(#[source] io::Error),
    #[error("a figure could not be drawn: {0}")]
    Figure(String),
}

impl EvaluationError {
    pub fn method(source: MethodError) -> Self {
        Self::Method(Box::new(source))
    }
}

/// Why a method has no result.
pub enum Failure {
    /// The method's own; the rest of the case goes on.
    Method(UnlearningError),
    Evaluation(EvaluationError),
}

impl From<EvaluationError> for Failure {
    fn from(error: EvaluationError) -> Self {
        Self::Evaluation(error)
    }
}

impl From<UnlearningError> for Failure {
    fn from(error: UnlearningError) -> Self {
        match error {
            UnlearningError::Cancelled => Self::Evaluation(EvaluationError::Stopped),
            error => Self::Method(error),
        }
    }
}
