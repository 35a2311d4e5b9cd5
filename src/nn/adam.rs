//! Adam (arXiv 1412.6980) in one pass over a tensor's numbers: written in tensor operations, a step
//! is a dozen passes, each into memory of its own.

use std::collections::HashMap;

use burn::module::{Module as _, ModuleMapper, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};

use super::network::{Network, read};

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

/// With betas 0.9 and 0.999 and eps 1e-8, as `PyTorch` sets it up.
#[derive(Default)]
pub struct Adam {
    steps: i32,
    moments: HashMap<ParamId, Moments>,
}

/// Running means of a tensor's gradient and of its square, row-major.
#[derive(Default)]
struct Moments {
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Adam {
    /// `network`, which records gradients, after a step of size `learning_rate`. A tensor without a
    /// gradient stays.
    #[expect(clippy::cast_possible_truncation, reason = "weights have 32 bits")]
    pub fn step(
        &mut self,
        learning_rate: f64,
        network: Network,
        gradients: GradientsParams,
    ) -> Network {
        self.steps += 1;
        network.map(&mut Step {
            moments: &mut self.moments,
            gradients,
            rate: learning_rate as f32 / (1.0 - BETA_1.powi(self.steps)),
            root: (1.0 - BETA_2.powi(self.steps)).sqrt(),
        })
    }
}

struct Step<'a> {
    moments: &'a mut HashMap<ParamId, Moments>,
    gradients: GradientsParams,
    /// The learning rate, over what the first moment lacks for its start at zero.
    rate: f32,
    /// The root of what the second moment lacks.
    root: f32,
}

impl ModuleMapper for Step<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        let gradient = read(gradient);
        let moments = self.moments.entry(param.id).or_default();
        moments.first.resize(gradient.len(), 0.0);
        moments.second.resize(gradient.len(), 0.0);
        param.map(|tensor| {
            let (shape, device) = (tensor.dims(), tensor.device());
            let mut weights = read(tensor.inner());
            let moments = moments.first.iter_mut().zip(&mut moments.second);
            for ((weight, gradient), (first, second)) in
                weights.iter_mut().zip(&gradient).zip(moments)
            {
                *first = BETA_1 * *first + (1.0 - BETA_1) * gradient;
                *second = BETA_2 * *second + (1.0 - BETA_2) * gradient * gradient;
                *weight -= self.rate * *first / (second.sqrt() / self.root + EPSILON);
            }
            Tensor::from_data(TensorData::new(weights, shape), &device).require_grad()
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::optim::AdamConfig;

    use super::*;
    use crate::nn::{
        fixture::{devices, digits, mlp},
        gradient::Batch,
        parameters::Parameters,
    };

    #[test]
    fn agrees_with_tensor_operations() {
        let examples = digits(40, 1);
        for device in devices() {
            let batch =
                Batch::of_labels(&examples, &[3, 1, 4, 15, 9], 10, &device.clone().autodiff());
            let network = Network::init(&mlp(&examples, 8), 1, &device).unwrap();
            let run = |mut step: Box<dyn FnMut(f64, Network, GradientsParams) -> Network>| {
                let mut recording = network.clone().train();
                for rate in [1e-2, 1e-2, 3e-3, 1e-3] {
                    let gradients = batch.loss(&recording).backward();
                    let gradients = GradientsParams::from_grads(gradients, &recording);
                    recording = step(rate, recording, gradients);
                }
                recording.valid().parameters()
            };
            let mut own = Adam::default();
            let found = run(Box::new(move |rate, network, it| own.step(rate, network, it)));
            let mut theirs = AdamConfig::new().with_epsilon(1e-8).init();
            let expected = run(Box::new(move |rate, network, it| theirs.step(rate, network, it)));
            let numbers = |parameters: &Parameters| -> Vec<f32> {
                parameters.tensors.iter().flat_map(|it| it.values.clone()).collect()
            };
            let (found, expected) = (numbers(&found), numbers(&expected));
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
            }
            let moved = numbers(&network.parameters());
            let moved = moved.iter().zip(&expected).map(|(before, after)| (before - after).abs());
            assert!(moved.fold(0.0, f32::max) > 1e-2, "they moved");
        }
    }
}
