//! Trained models, each trained once: whoever asks for one gets it from the output folder, or
//! trains it and leaves it there.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::json;

use super::{
    data::Dataset,
    error::EvaluationError,
    lira,
    plan::Plan,
    storage::{self, Storage},
    training_set::TrainingSet,
};
use crate::{
    domain::{
        examples::{Examples, Values},
        features::{floats_from_bytes, floats_to_bytes},
        model::Recipe,
        watch::Watch,
    },
    nn::{
        cross_fitting::{OutOfFold, cross_fit},
        network::Network,
        prediction::log_probabilities,
        training::TrainingError,
        weights::{from_safetensors, to_safetensors},
    },
    unlearning::evidence::confidence,
};

/// Digest of the code that trains, of the methods', and of the code that measures; another code makes
/// other models and gives other results.
pub const CODE: &str = env!("FORGETD_RESULTS_CODE");

pub struct Library {
    storage: Storage,
}

/// What decides a model.
#[derive(Clone, Debug)]
pub struct Training {
    pub set: TrainingSet,
    pub plan: Plan,
}

/// What decides one of the reference models of a data set and network.
#[derive(Clone, Debug)]
pub struct Reference {
    pub dataset: Arc<Dataset>,
    pub plan: Plan,
    pub model: usize,
    pub models: usize,
}

impl Training {
    pub fn key(&self) -> serde_json::Value {
        json!({
            "code": CODE,
            "set": self.set.key(),
            // Folds are no part of what the network becomes.
            "plan": self.plan.with_folds(Recipe::default().folds),
        })
    }

    pub fn key_with_folds(&self) -> serde_json::Value {
        json!({"training": self.key(), "folds": self.plan.recipe.folds})
    }

    #[must_use]
    pub fn with_folds(&self, folds: u32) -> Self {
        Self { set: self.set.clone(), plan: self.plan.with_folds(folds) }
    }
}

impl Reference {
    /// Share of the pool that a reference model is trained on: as many samples as the judged
    /// models are, but leaving enough models without each sample.
    pub fn share(&self) -> f64 {
        let (train, test) = (self.dataset.train.len() as f64, self.dataset.test.len() as f64);
        (train / (train + test)).clamp(0.5, 0.75)
    }

    pub fn key(&self) -> serde_json::Value {
        json!({
            "code": CODE,
            "data": self.dataset.digest,
            "plan": self.plan,
            "model": self.model,
            "models": self.models,
        })
    }

    /// Whether this model is trained on a row of the pool: training samples, then test samples.
    pub fn includes(&self, row: usize) -> bool {
        lira::is_included(row, self.model, self.models, self.share())
    }
}

impl Library {
    pub fn new(storage: Storage) -> Self {
        Self { storage }
    }

    pub fn network(
        &self,
        training: &Training,
        watch: &dyn Watch,
    ) -> Result<Network, EvaluationError> {
        let path = self.storage.place("models", &training.key(), "safetensors");
        if let Some(bytes) = storage::read(&path)? {
            let Plan { spec, device, .. } = &training.plan;
            return from_safetensors(spec, &bytes, &device.device())
                .map_err(|source| EvaluationError::Weights { path, source: Box::new(source) });
        }
        let examples = training.set.examples();
        let network = training
            .plan
            .train(&examples, watch)
            .map_err(|error| failed(&training.set.dataset.name, error))?;
        storage::write(&path, &to_safetensors(&network))?;
        Ok(network)
    }

    /// Predictions of the whole training split's rows that the training has, in their order, and
    /// of the hold-out set.
    pub fn out_of_fold(
        &self,
        training: &Training,
        watch: &dyn Watch,
    ) -> Result<OutOfFold, EvaluationError> {
        let path = self.storage.place("folds", &training.key_with_folds(), "safetensors");
        if let Some(mut tensors) = tensors(&path)? {
            let mut take = |name: &str| tensors.remove(name).unwrap_or_default();
            return Ok(OutOfFold { train: take("train"), holdout: take("holdout") });
        }
        let Training { set, plan: Plan { spec, recipe, device, .. } } = training;
        let (examples, device) = (set.examples(), device.device());
        let folds = cross_fit(spec, &examples, &set.dataset.holdout, recipe, &device, watch)
            .map_err(|error| failed(&set.dataset.name, error))?;
        write_tensors(&path, &[("train", &folds.train), ("holdout", &folds.holdout)])?;
        Ok(folds)
    }

    /// The reference model's confidences `log p_y - log(1 - p_y)` on every row of the pool. Its
    /// weights are not kept.
    pub fn reference(
        &self,
        reference: &Reference,
        watch: &dyn Watch,
    ) -> Result<Vec<f32>, EvaluationError> {
        let path = self.storage.place("references", &reference.key(), "safetensors");
        if let Some(mut tensors) = tensors(&path)? {
            return Ok(tensors.remove("confidences").unwrap_or_default());
        }
        let pool = joined(&reference.dataset.train, &reference.dataset.test);
        let rows: Vec<usize> = (0..pool.len()).filter(|row| reference.includes(*row)).collect();
        let examples = pool.select(&rows);
        let network = reference
            .plan
            .train(&examples, watch)
            .map_err(|error| failed(&reference.dataset.name, error))?;
        #[expect(clippy::cast_possible_truncation, reason = "predictions have no more digits")]
        let confidences: Vec<f32> = confidences(&log_probabilities(&network, &pool), &pool.labels)
            .into_iter()
            .map(|confidence| confidence as f32)
            .collect();
        write_tensors(&path, &[("confidences", &confidences)])?;
        Ok(confidences)
    }
}

/// `log p_y - log(1 - p_y)` of each row's label.
pub fn confidences(log_probabilities: &[f32], labels: &[u32]) -> Vec<f64> {
    let classes = log_probabilities.len().checked_div(labels.len()).unwrap_or(0).max(1);
    let rows = log_probabilities.chunks_exact(classes).zip(labels);
    rows.map(|(row, label)| confidence(row, *label as usize)).collect()
}

fn tensors(path: &Path) -> Result<Option<BTreeMap<String, Vec<f32>>>, EvaluationError> {
    let Some(bytes) = storage::read(path)? else { return Ok(None) };
    let damaged = |source| EvaluationError::Damaged { path: path.to_owned(), source };
    let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(Box::new(error)))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let floats = floats_from_bytes(view.data()).map_err(|e| damaged(Box::new(e)))?;
        tensors.insert(name, floats);
    }
    Ok(Some(tensors))
}

fn write_tensors(path: &Path, tensors: &[(&str, &Vec<f32>)]) -> Result<(), EvaluationError> {
    let bytes: Vec<(&str, Vec<u8>)> =
        tensors.iter().map(|(name, floats)| (*name, floats_to_bytes(floats))).collect();
    let views = bytes.iter().map(|(name, bytes)| {
        let view = TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes)
            .expect("as many bytes as the shape says");
        (*name, view)
    });
    let file = safetensors::serialize(views, None).expect("views of memory always serialize");
    storage::write(path, &file)
}

fn failed(dataset: &str, error: TrainingError) -> EvaluationError {
    match error {
        TrainingError::Cancelled => EvaluationError::Stopped,
        source => {
            EvaluationError::Training { what: format!("on {dataset:?}"), source: Box::new(source) }
        }
    }
}

/// The rows of both, numbered on.
fn joined(first: &Examples, second: &Examples) -> Examples {
    let all = |examples: &Examples| examples.gather(&(0..examples.len()).collect::<Vec<_>>());
    let values = if let Values::Bytes { bytes: one, scale } = &first.values
        && let Values::Bytes { bytes: other, .. } = &second.values
    {
        Values::Bytes { bytes: [one.as_slice(), other].concat(), scale: *scale }
    } else {
        Values::Floats([all(first), all(second)].concat())
    };
    Examples {
        shape: first.shape.clone(),
        values,
        labels: [first.labels.as_slice(), &second.labels].concat(),
        ordinals: (0..).take(first.len() + second.len()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::watch::{Progress, Unwatched},
        evaluation::fixture::{case, digits, network},
        nn::device::DeviceKind,
    };

    fn library(folder: &Path) -> Library {
        Library::new(Storage::new(folder))
    }

    /// Lets nothing be trained.
    struct Never;

    impl Watch for Never {
        fn progressed(&self, _: &Progress) {}

        fn is_cancelled(&self) -> bool {
            true
        }
    }

    #[test]
    fn a_model_is_trained_once_and_then_read() {
        let folder = tempfile::tempdir().unwrap();
        let (library, dataset) = (library(folder.path()), digits());
        let plan = Plan {
            spec: network(&dataset, 8),
            recipe: Recipe { epochs: 2, folds: 2, seed: 5, ..Recipe::default() },
            perturbation: None,
            device: DeviceKind::Flex,
        };
        let training = Training { plan, set: TrainingSet::all(dataset.clone()) };
        let first = library.network(&training, &Unwatched).unwrap().parameters();
        let folds = library.out_of_fold(&training, &Unwatched).unwrap();
        assert_eq!(folds.train.len(), 3_000);
        assert_eq!(folds.holdout.len(), dataset.holdout.len() * 10);

        assert_eq!(library.network(&training, &Never).unwrap().parameters(), first);
        assert_eq!(library.out_of_fold(&training, &Never).unwrap(), folds);
        let other = Training { set: training.set.without(&[3]), ..training.clone() };
        assert!(matches!(library.network(&other, &Never), Err(EvaluationError::Stopped)));
        // More folds are other predictions by the same model.
        let more = training.with_folds(3);
        assert_eq!(library.network(&more, &Never).unwrap().parameters(), first);
        assert!(matches!(library.out_of_fold(&more, &Never), Err(EvaluationError::Stopped)));
    }

    /// In the key of each: the code of all that decides it, and the device.
    #[test]
    fn keys_name_the_code_and_the_device() {
        let case = case();
        let training = case.base(&[]);
        let reference = case.references().remove(0);
        let cell = case.cell_key(None).unwrap();
        for key in [training.key(), training.key_with_folds()["training"].clone(), reference.key()]
        {
            assert_eq!((&key["code"], &key["plan"]["device"]), (&json!(CODE), &json!("flex")));
        }
        assert_eq!(
            (&cell["code"], &cell["case"]["plan"]["device"]),
            (&json!(CODE), &json!("flex"))
        );
    }

    #[test]
    fn references_are_confident_on_what_they_saw() {
        let folder = tempfile::tempdir().unwrap();
        let (library, dataset) = (library(folder.path()), digits());
        let plan = Plan {
            spec: network(&dataset, 32),
            recipe: Recipe { epochs: 40, learning_rate: 1e-2, ..Recipe::default() },
            perturbation: None,
            device: DeviceKind::Flex,
        };
        let reference = Reference { plan, dataset: dataset.clone(), model: 1, models: 4 };
        let confidences = library.reference(&reference, &Unwatched).unwrap();
        assert_eq!(confidences.len(), 400);
        assert_eq!(library.reference(&reference, &Unwatched).unwrap(), confidences);
        let mean = |seen: bool| {
            let rows: Vec<f32> = (0..400)
                .filter(|row| reference.includes(*row) == seen)
                .map(|row| confidences[row])
                .collect();
            rows.iter().sum::<f32>() / rows.len() as f32
        };
        assert!(mean(true) > mean(false) + 0.5, "{} {}", mean(true), mean(false));
    }
}
