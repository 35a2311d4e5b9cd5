//! A small trained world to forget in.

use burn::tensor::Device;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::Task;
use crate::domain::{
    examples::{Examples, Values},
    model::Recipe,
    network::{LayerSpec, NetworkSpec},
    watch::Unwatched,
};
use crate::nn::{
    cross_fitting::cross_fit,
    fixture::{digits, mlp},
    gradient::{Batch, mean_cross_entropy_gradient},
    network::Network,
    parameters::Parameters,
    prediction::log_probabilities,
    training::train,
};

pub struct World {
    pub recipe: Recipe,
    pub network: Network,
    pub forgotten: Examples,
    pub forgotten_out_of_fold: Vec<f32>,
    pub forgotten_anchor: Vec<f32>,
    pub retained: Examples,
    pub retained_out_of_fold: Vec<f32>,
    pub retained_anchor: Vec<f32>,
    pub holdout: Examples,
    pub holdout_out_of_fold: Vec<f32>,
    pub holdout_anchor: Vec<f32>,
    pub device: Device,
}

impl World {
    /// Trains until the rows are learnt by heart; the first `forget` of them are to go.
    pub fn new(rows: usize, holdout: usize, forget: usize, device: &Device) -> Self {
        let recipe = Recipe {
            epochs: 30,
            batch_size: 16,
            learning_rate: 1e-2,
            seed: 7,
            ..Recipe::default()
        };
        let (examples, holdout) = (digits(rows, 1), digits(holdout, 2));
        let spec = mlp(&examples, 32);
        let predicted = cross_fit(&spec, &examples, &holdout, &recipe, device, &Unwatched).unwrap();
        let network = train(&spec, &examples, &recipe, device, &Unwatched).unwrap();
        let all: Vec<usize> = (0..rows).collect();
        let (forgotten, retained) = all.split_at(forget);
        let (forgotten, retained) = (examples.select(forgotten), examples.select(retained));
        let (forgotten_out_of_fold, retained_out_of_fold) =
            predicted.train.split_at(forget * network.classes());
        Self {
            recipe,
            forgotten_out_of_fold: forgotten_out_of_fold.to_vec(),
            forgotten_anchor: log_probabilities(&network, &forgotten),
            forgotten,
            retained_out_of_fold: retained_out_of_fold.to_vec(),
            retained_anchor: log_probabilities(&network, &retained),
            retained,
            holdout_anchor: log_probabilities(&network, &holdout),
            holdout,
            holdout_out_of_fold: predicted.holdout,
            network,
            device: device.clone(),
        }
    }

    pub fn task(&self) -> Task<'_> {
        Task {
            network: &self.network,
            forgotten: &self.forgotten,
            forgotten_out_of_fold: &self.forgotten_out_of_fold,
            forgotten_anchor: &self.forgotten_anchor,
            retained: &self.retained,
            retained_out_of_fold: &self.retained_out_of_fold,
            retained_anchor: &self.retained_anchor,
            retained_total: self.retained.len(),
            holdout: &self.holdout,
            holdout_out_of_fold: &self.holdout_out_of_fold,
            holdout_anchor: &self.holdout_anchor,
            perturbation: None,
            seed: 3,
            device: &self.device,
        }
    }
}

/// Logistic regression at its optimum, which is one: what it would be without the forgotten rows
/// is known. Two features, three classes, more rows than a plane can tell apart; the forgotten
/// rows are mislabelled, so that they weigh.
pub struct Convex {
    pub network: Network,
    /// At the optimum of the retained rows.
    pub without: Network,
    pub forgotten: Examples,
    pub retained: Examples,
    /// In place of predictions that these methods do not read.
    zeros: Vec<f32>,
    none: Examples,
    device: Device,
}

impl Convex {
    pub fn new() -> Self {
        let (rows, forget) = (240, 12);
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut unit = || (rng.next_u32() >> 8) as f32 / (1_u32 << 24) as f32;
        let values: Vec<f32> = (0..2 * rows).map(|_| 2.0 * unit() - 1.0).collect();
        let labels = (0..rows).map(|row| {
            let (x, y) = (values[2 * row], values[2 * row + 1]);
            let class = if x > 0.3 { 0 } else { 1 + u32::from(y > 0.0) };
            let wrong = row < forget || unit() < 0.3;
            if wrong { (class + 1) % 3 } else { class }
        });
        let labels = labels.collect();
        let ordinals = (0..).take(rows).collect();
        let all = Examples { shape: vec![2], values: Values::Floats(values), labels, ordinals };
        let spec = NetworkSpec { input: vec![2], layers: vec![LayerSpec::Linear(3)] };
        let recipe = Recipe {
            epochs: 800,
            batch_size: 1_000,
            learning_rate: 3e-2,
            seed: 1,
            ..Recipe::default()
        };
        let device = Device::flex();
        let optimum = |rows: &Examples| train(&spec, rows, &recipe, &device, &Unwatched).unwrap();
        let everything: Vec<usize> = (0..rows).collect();
        let (forgotten, retained) = everything.split_at(forget);
        let (forgotten, retained) = (all.select(forgotten), all.select(retained));
        Self {
            network: optimum(&all),
            without: optimum(&retained),
            zeros: vec![0.0; 3 * rows],
            none: all.select(&[]),
            forgotten,
            retained,
            device,
        }
    }

    pub fn task(&self) -> Task<'_> {
        let forgotten = &self.zeros[..3 * self.forgotten.len()];
        let retained = &self.zeros[..3 * self.retained.len()];
        Task {
            network: &self.network,
            forgotten: &self.forgotten,
            forgotten_out_of_fold: forgotten,
            forgotten_anchor: forgotten,
            retained: &self.retained,
            retained_out_of_fold: retained,
            retained_anchor: retained,
            retained_total: self.retained.len(),
            holdout: &self.none,
            holdout_out_of_fold: &[],
            holdout_anchor: &[],
            perturbation: None,
            seed: 3,
            device: &self.device,
        }
    }

    /// Of the mean cross entropy over every row, at the optimum of all.
    pub fn gradient(&self, examples: &Examples) -> Parameters {
        let rows: Vec<usize> = (0..examples.len()).collect();
        let batch = Batch::of_labels(examples, &rows, 3, &self.device.clone().autodiff());
        mean_cross_entropy_gradient(&self.network, &batch).parameters
    }
}
