//! How much each weight matters for some rows: the mean of squared gradients of log-probabilities.

use burn::module::Module as _;
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData, activation};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::domain::examples::Examples;
use crate::nn::{
    gradient::to_parameters,
    network::Network,
    order::{Purpose, chosen},
    parameters::Parameters,
};

/// Which classes' log-probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// Every class by its probability: the diagonal of the Fisher information.
    Prediction,
    /// The label: the empirical Fisher information.
    Label,
}

/// Random projections that one estimate averages over; its relative deviation at each weight is
/// about `sqrt(2 / PROBES)`.
const PROBES: u32 = 32;

/// Rows in one pass.
const CHUNK_ROWS: usize = 256;

/// Over at most `rows_max` of the rows.
///
/// With independent random signs e, the square of the gradient of `sum of e * sqrt(w) * log p`
/// over rows and classes has the sum of `w * (grad log p)^2` for expectation (Hutchinson 1989):
/// one backward pass a probe, however many rows and classes there are.
pub(super) fn importance(
    network: &Network,
    examples: &Examples,
    of: Of,
    rows_max: usize,
    seed: u64,
) -> Parameters {
    let rows = chosen(seed, Purpose::Measure, &examples.ordinals, rows_max);
    let classes = network.classes();
    let device = network.device().autodiff();
    let recording = network.clone().train();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut sum = network.parameters();
    sum.scale(0.0);
    for rows in rows.chunks(CHUNK_ROWS) {
        let data = TensorData::new(examples.gather(rows), [rows.len(), examples.width()]);
        let inputs = Tensor::<2>::from_data(data, &device);
        for _ in 0..PROBES {
            let mut signs = Vec::with_capacity(rows.len() * classes);
            for row in rows {
                signs.extend((0..classes).map(|class| {
                    let sign = if rng.next_u32() >> 31 == 0 { 1.0_f32 } else { -1.0 };
                    let counts = of == Of::Prediction || examples.labels[*row] as usize == class;
                    if counts { sign } else { 0.0 }
                }));
            }
            let signs = TensorData::new::<f32, _>(signs, [rows.len(), classes]);
            let signs = Tensor::<2>::from_data(signs, &device);
            let predicted = activation::log_softmax(recording.forward(inputs.clone()), 1);
            let weights = match of {
                Of::Prediction => predicted.clone().detach().mul_scalar(0.5).exp() * signs,
                Of::Label => signs,
            };
            let gradients = (predicted * weights).sum().backward();
            let gradients = GradientsParams::from_grads(gradients, &recording);
            sum.add_scaled_square(1.0 / PROBES as f32, &to_parameters(&recording, gradients));
        }
    }
    sum.scale(1.0 / rows.len().max(1) as f32);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{
        fixture::{devices, digits, mlp},
        gradient::{Batch, mean_cross_entropy_gradient},
        prediction::log_probabilities,
    };

    /// One row and class at a time.
    fn exact(network: &Network, examples: &Examples, of: Of) -> Parameters {
        let device = network.device().autodiff();
        let predicted = log_probabilities(network, examples);
        let mut sum = network.parameters();
        sum.scale(0.0);
        for row in 0..examples.len() {
            for class in 0..10_u32 {
                let weight = match of {
                    Of::Prediction => predicted[row * 10 + class as usize].exp(),
                    Of::Label => f32::from(u8::from(examples.labels[row] == class)),
                };
                let mut labelled = examples.clone();
                labelled.labels[row] = class;
                let batch = Batch::of_labels(&labelled, &[row], 10, &device);
                let gradient = mean_cross_entropy_gradient(network, &batch).parameters;
                sum.add_scaled_square(weight / examples.len() as f32, &gradient);
            }
        }
        sum
    }

    #[test]
    fn estimates_the_mean_of_squares() {
        for device in devices() {
            for (rows, of) in [(1, Of::Prediction), (12, Of::Prediction), (12, Of::Label)] {
                let examples = digits(rows, 1);
                let network = Network::init(&mlp(&examples, 6), 2, &device).unwrap();
                let found = importance(&network, &examples, of, 1_000, 5);
                let expected = exact(&network, &examples, of);
                let cosine = found.dot(&expected) / (found.norm() * expected.norm());
                let total = |p: &Parameters| -> f64 {
                    p.tensors.iter().flat_map(|t| &t.values).map(|v| f64::from(*v)).sum()
                };
                let ratio = total(&found) / total(&expected);
                assert!(cosine > 0.9, "cosine {cosine} for {rows} {of:?}");
                assert!((0.7..1.4).contains(&ratio), "ratio {ratio} for {rows} {of:?}");
            }
        }
    }
}
