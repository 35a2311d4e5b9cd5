//! A small trained world to forget in.

use burn::tensor::Device;

use super::Task;
use crate::domain::{examples::Examples, model::Recipe, watch::Unwatched};
use crate::nn::{
    cross_fitting::cross_fit,
    fixture::{digits, mlp},
    network::Network,
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
            holdout: &self.holdout,
            holdout_out_of_fold: &self.holdout_out_of_fold,
            holdout_anchor: &self.holdout_anchor,
            seed: 3,
            device: &self.device,
        }
    }
}
