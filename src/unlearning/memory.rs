//! What an update remembers of the samples that it forgot, without keeping any of them: the
//! diagonal of their Fisher information, one number per weight. A later update is held back where
//! the earlier forgotten samples were sensitive, so that it does not bring them back.

use burn::module::{Module as _, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData, activation};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::domain::{examples::Examples, network::NetworkSpec};
use crate::nn::{
    gradient::to_parameters,
    network::Network,
    order::{Purpose, chosen},
    parameters::Parameters,
    weights::WeightsError,
};

/// Diagonal Fisher information, the mean over each update's samples, summed over the updates.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    fisher: Parameters,
}

/// Random projections that one estimate averages over; its relative deviation at each weight is
/// about `sqrt(2 / PROBES)`.
const PROBES: u32 = 32;

/// Samples that one estimate reads at most.
const ROWS_MAX: usize = 256;

impl Memory {
    /// Of samples that `network` has just forgotten.
    ///
    /// The Fisher information is `E[g g']` of the gradients `g` of `log p_c`, c drawn from the
    /// network's own prediction. With independent random signs e, the square of the gradient of
    /// `sum over rows and classes of e * sqrt(p_c) * log p_c` has its diagonal for expectation
    /// (Hutchinson 1989): one backward pass a probe, however many rows and classes there are.
    pub fn of(network: &Network, forgotten: &Examples, seed: u64) -> Self {
        let rows = chosen(seed, Purpose::Measure, &forgotten.ordinals, ROWS_MAX);
        let classes = network.classes();
        let device = network.device().autodiff();
        let data = TensorData::new(forgotten.gather(&rows), [rows.len(), forgotten.width()]);
        let inputs = Tensor::<2>::from_data(data, &device);
        let recording = network.clone().train();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut fisher =
            Parameters::of(network.spec(), |_, shape| vec![0.0; shape.iter().product()])
                .expect("the spec of an existing network is sound");
        for _ in 0..PROBES {
            let signs = (0..rows.len() * classes)
                .map(|_| if rng.next_u32() >> 31 == 0 { 1.0_f32 } else { -1.0 })
                .collect();
            let signs = TensorData::new::<f32, _>(signs, [rows.len(), classes]);
            let signs = Tensor::<2>::from_data(signs, &device);
            let predicted = activation::log_softmax(recording.forward(inputs.clone()), 1);
            let weights = predicted.clone().detach().mul_scalar(0.5).exp() * signs;
            let gradients = (predicted * weights).sum().backward();
            let gradients = GradientsParams::from_grads(gradients, &recording);
            let share = 1.0 / (PROBES as f32 * rows.len() as f32);
            fisher.add_scaled_square(share, &to_parameters(&recording, &gradients));
        }
        Self { fisher }
    }

    /// # Errors
    /// When the bytes are no memory of a network of this spec.
    pub fn from_bytes(spec: &NetworkSpec, bytes: &[u8]) -> Result<Self, WeightsError> {
        Ok(Self { fisher: Parameters::from_safetensors(spec, bytes)? })
    }

    /// As safetensors, under the names of the weights.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.fisher.to_safetensors()
    }

    /// Adds what a later update forgot.
    pub fn add(&mut self, later: &Self) {
        self.fisher.add_scaled(1.0, &later.fisher);
    }

    /// The resistance against moving away from `network`'s weights, on the recording `device`.
    pub fn resistance(&self, network: &Network, weight: f32, device: &Device) -> Resistance {
        let upload = |values: Vec<f32>| {
            let count = values.len();
            Tensor::<1>::from_data(TensorData::new(values, [count]), device)
        };
        let scaled = |values: &[f32]| values.iter().map(|value| weight * value).collect();
        let importance = self.fisher.tensors.iter().map(|t| upload(scaled(&t.values))).collect();
        let centre = network.parameters().tensors.into_iter().map(|t| upload(t.values)).collect();
        Resistance { importance, centre }
    }
}

/// `weight * sum F_i (theta_i - centre_i)^2`
pub struct Resistance {
    /// One flat tensor per weight and bias, as `centre`.
    importance: Vec<Tensor<1>>,
    centre: Vec<Tensor<1>>,
}

impl Resistance {
    /// The penalty, `[1]`, for a network that records gradients.
    pub fn penalty(&self, recording: &Network) -> Option<Tensor<1>> {
        let mut visitor = Penalty { resistance: self, index: 0, sum: None };
        recording.visit(&mut visitor);
        visitor.sum
    }
}

struct Penalty<'a> {
    resistance: &'a Resistance,
    index: usize,
    sum: Option<Tensor<1>>,
}

impl ModuleVisitor for Penalty<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let centre = self.resistance.centre[self.index].clone();
        let importance = self.resistance.importance[self.index].clone();
        let moved = param.val().reshape(centre.dims()) - centre;
        let penalty = (importance * moved.square()).sum();
        self.sum = Some(match self.sum.take() {
            Some(sum) => sum + penalty,
            None => penalty,
        });
        self.index += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{
        fixture::{devices, digits, mlp},
        gradient::{Batch, mean_cross_entropy_gradient, scalar},
    };

    /// Every class weighted by its probability, one sample at a time.
    fn exact(network: &Network, examples: &Examples) -> Parameters {
        let device = network.device().autodiff();
        let predicted = crate::nn::prediction::log_probabilities(network, examples);
        let mut sum = network.parameters();
        sum.scale(0.0);
        for row in 0..examples.len() {
            for class in 0..10 {
                let mut labelled = examples.clone();
                labelled.labels[row] = u32::try_from(class).unwrap();
                let batch = Batch::of_labels(&labelled, &[row], 10, &device);
                let gradient = mean_cross_entropy_gradient(network, &batch).parameters;
                let share = predicted[row * 10 + class].exp() / examples.len() as f32;
                sum.add_scaled_square(share, &gradient);
            }
        }
        sum
    }

    #[test]
    fn estimates_the_fisher_information() {
        for device in devices() {
            for rows in [1, 12] {
                let examples = digits(rows, 1);
                let network = Network::init(&mlp(&examples, 6), 2, &device).unwrap();
                let (found, expected) =
                    (Memory::of(&network, &examples, 5).fisher, exact(&network, &examples));
                let cosine = found.dot(&expected) / (found.norm() * expected.norm());
                let total = |p: &Parameters| -> f64 {
                    p.tensors.iter().flat_map(|t| &t.values).map(|v| f64::from(*v)).sum()
                };
                let ratio = total(&found) / total(&expected);
                assert!(cosine > 0.9, "cosine {cosine} for {rows}");
                assert!((0.7..1.4).contains(&ratio), "ratio {ratio} for {rows}");
            }
        }
    }

    #[test]
    fn holds_no_sample() {
        let device = Device::flex();
        let examples = digits(12, 1);
        let network = Network::init(&mlp(&examples, 6), 2, &device).unwrap();
        let of = |rows| Memory::of(&network, &digits(rows, 1), 5).to_bytes();
        assert_eq!(of(1).len(), of(12).len(), "one number a weight, however many samples");
        let memory = of(1);
        let features = digits(1, 1).gather(&[0]);
        let mut runs = features.windows(4).filter(|run| run.iter().all(|value| *value != 0.0));
        let bytes: Vec<u8> = runs.next().unwrap().iter().flat_map(|it| it.to_le_bytes()).collect();
        assert!(!memory.windows(bytes.len()).any(|window| window == bytes));
    }

    #[test]
    fn resists_moves_by_their_importance_and_survives_the_disk() {
        let device = Device::flex();
        let examples = digits(5, 1);
        let network = Network::init(&mlp(&examples, 6), 2, &device).unwrap();
        let mut memory = Memory::of(&network, &examples, 5);
        let again = Memory::from_bytes(network.spec(), &memory.to_bytes()).unwrap();
        assert_eq!(memory, again);
        memory.add(&again);

        let resistance = memory.resistance(&network, 3.0, &device.autodiff());
        let penalty = |network: &Network| {
            let recording = network.clone().train();
            let penalty = resistance.penalty(&recording).unwrap();
            let value = scalar(&penalty);
            // A recorded pass that is never differentiated would leak.
            let _gradients = penalty.backward();
            value
        };
        assert!(penalty(&network).abs() < 1e-12);
        let mut moved = network.parameters();
        moved.tensors[3].values[0] += 0.5;
        let expected = 2.0 * 3.0 * 0.25 * f64::from(again.fisher.tensors[3].values[0]);
        let found = penalty(&network.with_parameters(&moved));
        assert!((found - expected).abs() < 1e-4 * expected, "{found} {expected}");
    }
}
