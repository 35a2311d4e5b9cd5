//! Out-of-fold predictions: what a model that never saw a sample says about it.

use burn::tensor::Device;

use super::network::Network;
use super::order::{Purpose, draw};
use super::prediction::log_probabilities;
use super::training::{Stage, TrainingError, train_rows};
use crate::domain::{examples::Examples, model::Recipe, network::NetworkSpec, watch::Watch};

/// Natural-log probabilities by models that never saw the row.
#[derive(Clone, Debug, PartialEq)]
pub struct OutOfFold {
    /// `[train rows, classes]`
    pub train: Vec<f32>,
    /// `[hold-out rows, classes]`
    pub holdout: Vec<f32>,
}

/// k-fold cross-fitting with the recipe's k and seed: each fold's model is what an exact
/// retraining without the fold would give.
///
/// A hold-out row is predicted by one fold model only, chosen by its ordinal, as a training row
/// is: both are then draws of the same kind, which an average over models would not be. Fold
/// models are dropped as soon as they have predicted. A fold that holds every training row leaves
/// its model with its first weights.
pub fn cross_fit(
    spec: &NetworkSpec,
    train: &Examples,
    holdout: &Examples,
    recipe: &Recipe,
    device: &Device,
    watch: &dyn Watch,
) -> Result<OutOfFold, TrainingError> {
    if train.is_empty() {
        return Err(TrainingError::NoSamples);
    }
    let train_folds: Vec<u64> =
        train.ordinals.iter().map(|ordinal| fold_of(*ordinal, recipe)).collect();
    // With fewer rows than folds some folds are empty; their model would have seen every row.
    let folds: Vec<u64> =
        (0..u64::from(recipe.folds)).filter(|fold| train_folds.contains(fold)).collect();
    let holdout_folds: Vec<u64> = holdout
        .ordinals
        .iter()
        .map(|ordinal| {
            let place = draw(recipe.seed, Purpose::Fold, *ordinal) % folds.len() as u64;
            folds.iter().copied().nth(usize::try_from(place).unwrap_or(0)).unwrap_or(0)
        })
        .collect();

    let mut predicted = OutOfFold { train: Vec::new(), holdout: Vec::new() };
    for (number, fold) in (1..).zip(&folds) {
        let seen: Vec<usize> = (0..train.len()).filter(|row| train_folds[*row] != *fold).collect();
        let name = format!("out-of-fold {number}/{}", folds.len());
        let stage = Stage { name: &name, watch };
        let network = train_rows(spec, train, &seen, recipe, device, &stage)?;
        predict_fold(&network, train, &train_folds, *fold, &mut predicted.train);
        predict_fold(&network, holdout, &holdout_folds, *fold, &mut predicted.holdout);
    }
    Ok(predicted)
}

fn fold_of(ordinal: i64, recipe: &Recipe) -> u64 {
    draw(recipe.seed, Purpose::Fold, ordinal) % u64::from(recipe.folds.max(1))
}

/// Writes the predictions for the rows of `fold` to their places in `predicted`.
fn predict_fold(
    network: &Network,
    examples: &Examples,
    folds: &[u64],
    fold: u64,
    predicted: &mut Vec<f32>,
) {
    let classes = network.classes();
    predicted.resize(examples.len() * classes, 0.0);
    let rows: Vec<usize> = (0..examples.len()).filter(|row| folds[*row] == fold).collect();
    let values = log_probabilities(network, &examples.select(&rows));
    for (row, values) in rows.iter().zip(values.chunks_exact(classes)) {
        predicted[row * classes..(row + 1) * classes].copy_from_slice(values);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::domain::watch::{Progress, Unwatched};
    use crate::nn::{
        fixture::{digits, mlp},
        prediction::mean_cross_entropy,
        training::train,
    };

    fn recipe() -> Recipe {
        Recipe { epochs: 4, batch_size: 16, folds: 3, seed: 9, ..Recipe::default() }
    }

    #[test]
    fn a_row_is_predicted_by_the_retraining_without_its_fold() {
        let (train_rows, holdout) = (digits(60, 1), digits(10, 2));
        let (spec, recipe, device) = (mlp(&train_rows, 8), recipe(), Device::flex());
        let predicted =
            cross_fit(&spec, &train_rows, &holdout, &recipe, &device, &Unwatched).unwrap();
        assert_eq!((predicted.train.len(), predicted.holdout.len()), (600, 100));

        let fold = fold_of(train_rows.ordinals[0], &recipe);
        let others: Vec<usize> =
            (0..60).filter(|row| fold_of(train_rows.ordinals[*row], &recipe) != fold).collect();
        let without =
            train(&spec, &train_rows.select(&others), &recipe, &device, &Unwatched).unwrap();
        let expected = log_probabilities(&without, &train_rows.select(&[0]));
        for (found, expected) in predicted.train.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    #[test]
    fn rows_that_were_not_seen_are_predicted_worse() {
        let (train_rows, holdout) = (digits(60, 1), digits(60, 2));
        let recipe = Recipe { epochs: 40, learning_rate: 1e-2, ..recipe() };
        let (spec, device) = (mlp(&train_rows, 32), Device::flex());
        let predicted =
            cross_fit(&spec, &train_rows, &holdout, &recipe, &device, &Unwatched).unwrap();
        let full = train(&spec, &train_rows, &recipe, &device, &Unwatched).unwrap();
        let loss = |values: &[f32], examples: &Examples| {
            mean_cross_entropy(values, &examples.labels).unwrap()
        };
        let seen = loss(&log_probabilities(&full, &train_rows), &train_rows);
        let unseen = loss(&predicted.train, &train_rows);
        assert!(unseen > 1.5 * seen, "{unseen} {seen}");
        let held_out = loss(&predicted.holdout, &holdout);
        assert!((unseen / held_out).ln().abs() < 1.0, "{unseen} {held_out}");
    }

    #[test]
    fn fewer_rows_than_folds_and_no_holdout_work() {
        let recipe = Recipe { folds: 5, ..recipe() };
        for rows in 1..4 {
            let examples = digits(rows, 1);
            let empty = examples.select(&[]);
            let spec = mlp(&examples, 4);
            let predicted =
                cross_fit(&spec, &examples, &empty, &recipe, &Device::flex(), &Unwatched).unwrap();
            assert_eq!((predicted.train.len(), predicted.holdout.len()), (rows * 10, 0));
            for row in predicted.train.chunks_exact(10) {
                let total: f32 = row.iter().map(|value| value.exp()).sum();
                assert!((total - 1.0).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn progress_names_the_fold() {
        struct Stages(Mutex<Vec<String>>);
        impl Watch for Stages {
            fn progressed(&self, progress: &Progress) {
                self.0.lock().unwrap().push(progress.stage.clone());
            }
            fn is_cancelled(&self) -> bool {
                false
            }
        }
        let examples = digits(40, 1);
        let watch = Stages(Mutex::new(Vec::new()));
        let spec = mlp(&examples, 4);
        cross_fit(&spec, &examples, &examples.select(&[]), &recipe(), &Device::flex(), &watch)
            .unwrap();
        let mut stages = watch.0.into_inner().unwrap();
        stages.dedup();
        assert_eq!(stages, ["out-of-fold 1/3", "out-of-fold 2/3", "out-of-fold 3/3"]);
    }
}
