//! Softmax regression in 64 bits: a strictly convex objective, its gradient, and its minimum by
//! Newton's method. What `certified` unlearning measures its residual on.

use std::f64::consts::TAU;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{network::Network, parameters::Parameters, training::TrainingError};
use crate::domain::{
    examples::Examples,
    model::{RangeError, check},
    watch::{Progress, Watch},
};

/// Rows that one thread sums up at a time; fixed, so that the sum does not depend on the threads.
const CHUNK_ROWS: usize = 512;

/// How an objective is perturbed; see `unlearning/certified.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PerturbationSpec {
    pub l2: f64,
    /// Standard deviation of the noise.
    pub sigma: f64,
}

impl PerturbationSpec {
    /// # Errors
    /// Names the first parameter outside its range.
    pub fn validate(&self) -> Result<(), RangeError> {
        let Self { l2, sigma } = *self;
        let positive = |value: f64| value > 0.0 && value <= 1e6;
        check(positive(sigma), "sigma", sigma, "above 0 and at most 1e6")?;
        check(positive(l2), "l2", l2, "above 0 and at most 1e6")
    }
}

/// What is minimised beside the rows' loss: `l2 / 2 * |theta|^2 + noise . theta`.
#[derive(Clone)]
pub struct Perturbation {
    pub spec: PerturbationSpec,
    /// One for each parameter, in the order of [`Parameters`]. Secret.
    pub noise: Vec<f64>,
}

impl Perturbation {
    /// The noise that `seed` decides: `N(0, sigma^2)`, by Box and Muller 1958 from `ChaCha20`. Whoever
    /// knows the seed can take the noise out of the weights.
    pub fn draw(spec: PerturbationSpec, count: usize, seed: [u8; 32]) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut normal = || {
            // In (0, 1], so that the logarithm is finite.
            let (radius, angle) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
            (-2.0 * radius.ln()).sqrt() * (TAU * angle).cos()
        };
        Self { spec, noise: (0..count).map(|_| spec.sigma * normal()).collect() }
    }
}

/// `F(theta) = sum over rows of -log softmax(theta x)[y] + l2 / 2 * |theta|^2 + noise . theta`, in
/// nats, over the weights `[classes, width]` and biases `[classes]` of one linear layer.
pub struct Objective<'a> {
    examples: &'a Examples,
    classes: usize,
    perturbation: &'a Perturbation,
}

/// Where a minimisation ended.
#[derive(Clone, Debug)]
pub struct Minimum {
    pub theta: Vec<f64>,
    /// Euclidean length of the gradient there.
    pub residual: f64,
    /// Newton steps taken.
    pub steps: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the minimisation was cancelled")]
pub struct Cancelled;

/// `theta` of a linear network's weights.
pub fn theta_of(parameters: &Parameters) -> Vec<f64> {
    parameters.tensors.iter().flat_map(|tensor| &tensor.values).copied().map(f64::from).collect()
}

/// The network's weights of `theta`, rounded to 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "weights have 32 bits")]
pub fn with_theta(mut parameters: Parameters, theta: &[f64]) -> Parameters {
    let places = parameters.tensors.iter_mut().flat_map(|tensor| &mut tensor.values);
    places.zip(theta).for_each(|(place, value)| *place = *value as f32);
    parameters
}

/// A polish ends at a gradient of this many standard deviations of the noise.
const POLISHED: f64 = 1e-3;

/// The longest gradient that it may leave, in as many, once its weights are rounded to 32 bits.
pub const RESIDUAL_MAX: f64 = 0.02;

const POLISHING_STEPS_MAX: u32 = 100;

/// The minimum of the perturbed objective, from a trained network on.
///
/// # Errors
/// When the watcher cancels, or the gradient that is left is longer than [`RESIDUAL_MAX`].
///
/// # Panics
/// When the network is not linear, or the noise is another one's.
pub fn polish(
    network: &Network,
    rows: &Examples,
    perturbation: &Perturbation,
    watch: &dyn Watch,
) -> Result<Network, TrainingError> {
    assert!(network.spec().is_linear(), "a linear network");
    let objective = Objective::new(rows, network.classes(), perturbation);
    let weights = network.parameters();
    let sigma = perturbation.spec.sigma;
    let start = theta_of(&weights);
    let minimum = objective
        .minimise(start, POLISHED * sigma, POLISHING_STEPS_MAX, watch)
        .map_err(|_| TrainingError::Cancelled)?;
    let weights = with_theta(weights, &minimum.theta);
    let (residual, residual_max) =
        (norm(&objective.gradient(&theta_of(&weights)).1), RESIDUAL_MAX * sigma);
    // A NaN is within no bound.
    if residual <= residual_max {
        Ok(network.with_parameters(&weights))
    } else {
        Err(TrainingError::NotPolished { residual, residual_max })
    }
}

impl<'a> Objective<'a> {
    /// # Panics
    /// When the noise is not as long as the parameters are many.
    pub fn new(examples: &'a Examples, classes: usize, perturbation: &'a Perturbation) -> Self {
        let count = (examples.width() + 1) * classes;
        assert_eq!(perturbation.noise.len(), count, "noise for each parameter");
        Self { examples, classes, perturbation }
    }

    /// Value and gradient at `theta`.
    pub fn gradient(&self, theta: &[f64]) -> (f64, Vec<f64>) {
        let Perturbation { spec: PerturbationSpec { l2, .. }, noise } = self.perturbation;
        let (loss, mut gradient) = self.sum(theta.len(), |row, input, sum| {
            let predicted = log_softmax(&self.logits(theta, input));
            let label = self.examples.labels[row] as usize;
            let loss = -predicted[label];
            let mut errors: Vec<f64> = predicted.into_iter().map(f64::exp).collect();
            errors[label] -= 1.0;
            self.add_outer(&errors, input, sum);
            loss
        });
        let mut value = loss;
        for ((slope, theta), noise) in gradient.iter_mut().zip(theta).zip(noise) {
            *slope += l2 * theta + noise;
            value += (l2 / 2.0 * theta + noise) * theta;
        }
        (value, gradient)
    }

    /// The Hessian at `theta` times `direction`.
    pub fn hessian_product(&self, theta: &[f64], direction: &[f64]) -> Vec<f64> {
        let (_, mut product) = self.sum(theta.len(), |_, input, sum| {
            let predicted = log_softmax(&self.logits(theta, input));
            let probabilities: Vec<f64> = predicted.into_iter().map(f64::exp).collect();
            let change = self.logits(direction, input);
            let mean: f64 = probabilities.iter().zip(&change).map(|(p, c)| p * c).sum();
            let curved: Vec<f64> =
                probabilities.iter().zip(&change).map(|(p, c)| p * (c - mean)).collect();
            self.add_outer(&curved, input, sum);
            0.0
        });
        for (product, direction) in product.iter_mut().zip(direction) {
            *product += self.perturbation.spec.l2 * direction;
        }
        product
    }

    /// From `start` to where the gradient is at most `residual` long, by Newton steps whose systems
    /// conjugate gradients solve; at most `steps_max` of them, or until none gets further.
    ///
    /// # Errors
    /// When the watcher cancels.
    pub fn minimise(
        &self,
        start: Vec<f64>,
        residual: f64,
        steps_max: u32,
        watch: &dyn Watch,
    ) -> Result<Minimum, Cancelled> {
        let mut theta = start;
        let (mut value, mut gradient) = self.gradient(&theta);
        let mut steps = 0;
        while steps < steps_max && norm(&gradient) > residual {
            let direction = self.newton_direction(&theta, &gradient, watch)?;
            let slope = dot(&gradient, &direction);
            let Some((next, its_value, its_gradient)) =
                self.descend(&theta, value, slope, &direction)
            else {
                break;
            };
            // What the rounding of sums leaves is not worth a step.
            let is_worth_it = norm(&its_gradient) < norm(&gradient) || its_value < value;
            if !is_worth_it {
                break;
            }
            (theta, value, gradient) = (next, its_value, its_gradient);
            steps += 1;
            let (done, total) = (u64::from(steps), u64::from(steps_max));
            watch.progressed(&Progress { stage: "polishing".to_owned(), done, total });
        }
        Ok(Minimum { residual: norm(&gradient), theta, steps })
    }

    /// The first of the full step and its halves that lowers the objective enough (Armijo 1966).
    fn descend(
        &self,
        theta: &[f64],
        value: f64,
        slope: f64,
        direction: &[f64],
    ) -> Option<(Vec<f64>, f64, Vec<f64>)> {
        const ENOUGH: f64 = 1e-4;
        const HALVINGS: u32 = 30;
        let rounding = 1e-13 * value.abs();
        let mut step = 1.0;
        for _ in 0..HALVINGS {
            let next: Vec<f64> = theta.iter().zip(direction).map(|(t, d)| t + step * d).collect();
            let (its_value, its_gradient) = self.gradient(&next);
            if its_value <= value + ENOUGH * step * slope + rounding {
                return Some((next, its_value, its_gradient));
            }
            step /= 2.0;
        }
        None
    }

    /// `-H^-1 gradient`, to a thousandth, by conjugate gradients (Hestenes and Stiefel 1952).
    fn newton_direction(
        &self,
        theta: &[f64],
        gradient: &[f64],
        watch: &dyn Watch,
    ) -> Result<Vec<f64>, Cancelled> {
        const TOLERANCE: f64 = 1e-3;
        const ITERATIONS_MAX: usize = 200;
        let mut solution = vec![0.0; theta.len()];
        let mut left: Vec<f64> = gradient.iter().map(|slope| -slope).collect();
        let mut direction = left.clone();
        let start = dot(&left, &left);
        let mut square = start;
        for _ in 0..ITERATIONS_MAX {
            if square <= start * TOLERANCE * TOLERANCE {
                break;
            }
            if watch.is_cancelled() {
                return Err(Cancelled);
            }
            let applied = self.hessian_product(theta, &direction);
            let step = square / dot(&direction, &applied);
            add_scaled(&mut solution, step, &direction);
            add_scaled(&mut left, -step, &applied);
            let next = dot(&left, &left);
            for (direction, left) in direction.iter_mut().zip(&left) {
                *direction = left + next / square * *direction;
            }
            square = next;
        }
        Ok(solution)
    }

    /// `theta x + bias`, one number a class.
    fn logits(&self, theta: &[f64], input: &[f32]) -> Vec<f64> {
        let (weights, biases) = theta.split_at(self.classes * input.len());
        let rows = weights.chunks_exact(input.len());
        let product =
            |row: &[f64]| row.iter().zip(input).map(|(w, x)| w * f64::from(*x)).sum::<f64>();
        rows.zip(biases).map(|(row, bias)| product(row) + bias).collect()
    }

    /// `sum += factors (input, 1)^T`, in the order of `theta`.
    fn add_outer(&self, factors: &[f64], input: &[f32], sum: &mut [f64]) {
        let (weights, biases) = sum.split_at_mut(self.classes * input.len());
        for ((row, bias), factor) in weights.chunks_exact_mut(input.len()).zip(biases).zip(factors)
        {
            row.iter_mut().zip(input).for_each(|(sum, x)| *sum += factor * f64::from(*x));
            *bias += factor;
        }
    }

    /// Sums over all rows, in parallel, to the same bits on any number of threads.
    fn sum(
        &self,
        length: usize,
        add: impl Fn(usize, &[f32], &mut [f64]) -> f64 + Sync,
    ) -> (f64, Vec<f64>) {
        let rows: Vec<usize> = (0..self.examples.len()).collect();
        let width = self.examples.width();
        let chunks: Vec<(f64, Vec<f64>)> = rows
            .par_chunks(CHUNK_ROWS)
            .map(|rows| {
                let inputs = self.examples.gather(rows);
                let mut sum = vec![0.0; length];
                let inputs = inputs.chunks_exact(width);
                let loss =
                    rows.iter().zip(inputs).map(|(row, input)| add(*row, input, &mut sum)).sum();
                (loss, sum)
            })
            .collect();
        let mut total = (0.0, vec![0.0; length]);
        for (loss, sum) in chunks {
            total.0 += loss;
            add_scaled(&mut total.1, 1.0, &sum);
        }
        total
    }
}

fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    let shift = largest + sum.ln();
    logits.iter().map(|logit| logit - shift).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Euclidean length.
pub fn norm(vector: &[f64]) -> f64 {
    dot(vector, vector).sqrt()
}

fn add_scaled(sum: &mut [f64], factor: f64, other: &[f64]) {
    sum.iter_mut().zip(other).for_each(|(sum, other)| *sum += factor * other);
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::domain::{
        network::{LayerSpec, NetworkSpec},
        watch::Unwatched,
    };
    use crate::nn::fixture::few_digits;

    fn perturbation(count: usize) -> Perturbation {
        let noise = (0..count).map(|at| ((at * 7919) % 13) as f64 / 13.0 - 0.5).collect();
        Perturbation { spec: PerturbationSpec { l2: 0.5, sigma: 1.0 }, noise }
    }

    fn point(count: usize) -> Vec<f64> {
        (0..count).map(|at| ((at * 104_729) % 17) as f64 / 170.0 - 0.05).collect()
    }

    #[test]
    fn noise_is_normal_and_its_seed_decides_it() {
        let spec = PerturbationSpec { l2: 1.0, sigma: 3.0 };
        let noise = Perturbation::draw(spec, 20_000, [1; 32]).noise;
        assert_eq!(noise, Perturbation::draw(spec, 20_000, [1; 32]).noise);
        assert_ne!(noise[..9], Perturbation::draw(spec, 9, [2; 32]).noise[..]);
        let count = noise.len() as f64;
        let mean = noise.iter().sum::<f64>() / count;
        let deviation = norm(&noise) / count.sqrt();
        let beyond = noise.iter().filter(|it| it.abs() > 1.96 * 3.0).count() as f64 / count;
        // Four standard errors each.
        assert!(mean.abs() < 0.085 && (deviation / 3.0 - 1.0).abs() < 0.02, "{mean} {deviation}");
        assert!((beyond - 0.05).abs() < 0.0062, "{beyond}");
    }

    #[test]
    fn gradient_and_curvature_are_those_of_differences() {
        let examples = few_digits(700, 1);
        let count = 9 * 10;
        let perturbation = perturbation(count);
        let objective = Objective::new(&examples, 10, &perturbation);
        let theta = point(count);
        let direction: Vec<f64> = (0..count).map(|at| ((at % 5) as f64 - 2.0) / 10.0).collect();
        let moved = |by: f64| {
            let mut theta = theta.clone();
            add_scaled(&mut theta, by, &direction);
            objective.gradient(&theta)
        };
        let step = 1e-4;
        let ((below, slope_below), (above, slope_above)) = (moved(-step), moved(step));
        let slope = dot(&objective.gradient(&theta).1, &direction);
        let difference = (above - below) / (2.0 * step);
        assert!((slope / difference - 1.0).abs() < 1e-7, "{slope} {difference}");
        let product = objective.hessian_product(&theta, &direction);
        for (at, product) in product.iter().enumerate() {
            let difference = (slope_above[at] - slope_below[at]) / (2.0 * step);
            assert!((product - difference).abs() < 1e-5 * norm(&slope_above), "{at}");
        }
    }

    #[test]
    fn a_polish_that_leaves_too_long_a_gradient_has_failed() {
        let rows = few_digits(700, 1);
        let layers = vec![LayerSpec::Linear(10)];
        let spec = NetworkSpec { input: rows.shape.clone(), layers };
        let network = Network::init(&spec, 1, &Device::flex()).unwrap();
        let count = theta_of(&network.parameters()).len();
        let polished = |sigma| -> Result<f64, TrainingError> {
            let perturbation =
                Perturbation::draw(PerturbationSpec { l2: 1.0, sigma }, count, [1; 32]);
            let objective = Objective::new(&rows, 10, &perturbation);
            let network = polish(&network, &rows, &perturbation, &Unwatched)?;
            Ok(norm(&objective.gradient(&theta_of(&network.parameters())).1))
        };
        assert!(polished(1.0).unwrap() <= RESIDUAL_MAX);
        // Rounding to 32 bits alone leaves more than so little noise allows.
        let error = polished(1e-9).unwrap_err();
        assert!(matches!(error, TrainingError::NotPolished { .. }), "{error}");
        assert!(error.to_string().contains("`sigma`"), "{error}");
    }

    #[test]
    fn the_minimum_is_found_from_anywhere_and_on_any_number_of_threads() {
        let examples = few_digits(700, 1);
        let count = 9 * 10;
        let perturbation = perturbation(count);
        let objective = Objective::new(&examples, 10, &perturbation);
        let from = |start| objective.minimise(start, 1e-9, 50, &Unwatched).unwrap();
        let (a, b) =
            (from(vec![0.0; count]), from(point(count).iter().map(|it| it * 30.0).collect()));
        assert!(a.residual < 1e-9 && b.residual < 1e-9, "{} {}", a.residual, b.residual);
        let apart: Vec<f64> = a.theta.iter().zip(&b.theta).map(|(a, b)| a - b).collect();
        assert!(norm(&apart) < 1e-8, "{}", norm(&apart));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(pool.install(|| from(vec![0.0; count])).theta, a.theta);
    }
}
