//! `iau-reference`: the step that the published code of IAU (arXiv 2507.23257) takes, for
//! comparison. It hardly forgets a batch and wears the network down over many requests.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Task, UnlearningError, Update, Updated};
use crate::domain::{
    examples::Examples,
    model::{RangeError, check},
    watch::{Progress, Watch},
};
use crate::nn::{
    gradient::{Batch, Gradient, mean_cross_entropy_gradient},
    network::Network,
    parameters::Parameters,
};

/// One step of a fresh Adam along `grad(mean loss over retained) - grad(mean loss over
/// forgotten)`, labels as targets, every row of both.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reference {
    learning_rate: f32,
    /// Adam's.
    epsilon: f32,
}

impl Default for Reference {
    fn default() -> Self {
        Self { learning_rate: 1e-3, epsilon: 1e-8 }
    }
}

/// Bounds the memory of one gradient.
const CHUNK_ROWS: usize = 1_024;

impl Update for Reference {
    fn name(&self) -> &'static str {
        "iau-reference"
    }

    fn parameters(&self) -> serde_json::Value {
        json!(self)
    }

    fn retained_rows_max(&self) -> Option<usize> {
        None
    }

    fn update(&self, task: &Task<'_>, watch: &dyn Watch) -> Result<Updated, UnlearningError> {
        task.check()?;
        let retained = full_gradient(task.network, task.retained, watch)?;
        let forgotten = full_gradient(task.network, task.forgotten, watch)?;
        let mut direction = retained.parameters;
        direction.add_scaled(-1.0, &forgotten.parameters);

        let mut weights = task.network.parameters();
        self.step(&mut weights, &direction);
        Ok(Updated {
            network: task.network_with(&weights)?,
            details: json!({
                "steps": 1,
                "stopped": "one step is all it takes",
                "retained_loss_before": retained.loss,
                "forgotten_loss_before": forgotten.loss,
                "gradient_norm": direction.norm(),
            }),
        })
    }
}

impl Reference {
    /// # Errors
    /// Names the first parameter outside its range.
    pub fn validate(&self) -> Result<(), RangeError> {
        let (rate, epsilon) = (self.learning_rate, self.epsilon);
        check(rate > 0.0 && rate <= 1.0, "learning_rate", rate, "above 0 and at most 1")?;
        check(epsilon > 0.0 && epsilon <= 1.0, "epsilon", epsilon, "above 0 and at most 1")
    }

    /// Adam's first step in closed form: its moment estimates, corrected for their bias, are the
    /// gradient and its square.
    fn step(&self, weights: &mut Parameters, gradient: &Parameters) {
        weights.update(gradient, |weight, gradient| {
            weight - self.learning_rate * gradient / (gradient.abs() + self.epsilon)
        });
    }
}

/// The gradient of the mean cross entropy over every row.
pub(super) fn full_gradient(
    network: &Network,
    examples: &Examples,
    watch: &dyn Watch,
) -> Result<Gradient, UnlearningError> {
    let device = network.device().autodiff();
    let rows: Vec<usize> = (0..examples.len()).collect();
    let total = rows.len() as u64;
    let mut sum: Option<Gradient> = None;
    let mut done = 0;
    for chunk in rows.chunks(CHUNK_ROWS) {
        if watch.is_cancelled() {
            return Err(UnlearningError::Cancelled);
        }
        let batch = Batch::of_labels(examples, chunk, network.classes(), &device);
        let part = mean_cross_entropy_gradient(network, &batch);
        let share = chunk.len() as f32 / examples.len() as f32;
        match &mut sum {
            None => {
                let mut first = part;
                first.loss *= f64::from(share);
                first.parameters.scale(share);
                sum = Some(first);
            }
            Some(sum) => {
                sum.loss += f64::from(share) * part.loss;
                sum.parameters.add_scaled(share, &part.parameters);
            }
        }
        done += chunk.len() as u64;
        watch.progressed(&Progress { stage: "unlearning".to_owned(), done, total });
    }
    sum.ok_or(UnlearningError::NothingToForget)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{examples::Values, watch::Unwatched};
    use crate::nn::fixture::{Fixture, devices};
    use crate::nn::prediction::log_probabilities;

    /// A task made of the published batch, and what came of it.
    fn published(device: &burn::tensor::Device) -> (Network, Network) {
        let before = Fixture::network("weights-before", device);
        let (forgotten, retained) = (Fixture::examples("forget"), Fixture::examples("retain"));
        let holdout = forgotten.select(&[]);
        let task = Task {
            network: &before,
            forgotten_out_of_fold: &log_probabilities(&before, &forgotten),
            forgotten_anchor: &log_probabilities(&before, &forgotten),
            forgotten: &forgotten,
            retained_out_of_fold: &log_probabilities(&before, &retained),
            retained_anchor: &log_probabilities(&before, &retained),
            retained_total: retained.len(),
            retained: &retained,
            holdout: &holdout,
            holdout_out_of_fold: &[],
            holdout_anchor: &[],
            perturbation: None,
            seed: 0,
            device,
        };
        let updated = Reference::default().update(&task, &Unwatched).unwrap();
        (before.clone(), updated.network)
    }

    /// Two pooling windows of the forgotten rows hold two largest values that only their last
    /// bits tell apart (4e-7 and 2e-7), at pixels that look different; rounding decided otherwise
    /// where the fixture was made. A change of one pixel by less than 4e-5 each, too small to
    /// matter in any other way, settles them as published.
    fn with_ties_as_published(mut examples: Examples, weights: &Parameters) -> Examples {
        let kernels = &weights.tensors[0].values;
        let Values::Floats(pixels) = &mut examples.values else { unreachable!("the fixture's") };
        // Row, output channel, a pixel that only the lower left patch of the window sees, and by
        // how much that patch's value is to change.
        for (row, channel, y, x, change) in [(8, 4, 15, 26, 1.1e-6), (22, 3, 15, 24, -8e-7)] {
            let weight = |colour: usize| kernels[((channel * 3 + colour) * 5 + 4) * 5];
            let colour = (0..3).max_by(|a, b| weight(*a).abs().total_cmp(&weight(*b).abs()));
            let colour = colour.unwrap();
            let pixel = change / weight(colour);
            assert!(pixel.abs() < 4e-5, "{pixel}");
            pixels[((row * 3 + colour) * 32 + y) * 32 + x] += pixel;
        }
        examples
    }

    #[test]
    fn the_gradient_matches_the_published_code() {
        let expected = Fixture::parameters("gradient");
        for device in devices() {
            let network = Fixture::network("weights-before", &device);
            let forgotten =
                with_ties_as_published(Fixture::examples("forget"), &network.parameters());
            let retained = Fixture::examples("retain");
            let mut found = full_gradient(&network, &retained, &Unwatched).unwrap().parameters;
            let forgotten = full_gradient(&network, &forgotten, &Unwatched).unwrap();
            found.add_scaled(-1.0, &forgotten.parameters);
            for (found, expected) in found.tensors.iter().zip(&expected.tensors) {
                let mut difference = found.clone();
                for (own, other) in difference.values.iter_mut().zip(&expected.values) {
                    *own -= other;
                }
                let relative = difference.norm() / expected.norm();
                assert!(relative < 1e-5, "{}: {relative:e} on {device:?}", found.name);
            }
        }
    }

    #[test]
    fn the_weights_after_the_step_match_the_published_code() {
        let expected = Fixture::parameters("weights-after");
        let gradient = Fixture::parameters("gradient");
        for device in devices() {
            let (before, after) = published(&device);
            assert_ne!(before.parameters(), after.parameters());
            let mut compared = 0;
            let found = after.parameters();
            for ((found, expected), gradient) in
                found.tensors.iter().zip(&expected.tensors).zip(&gradient.tensors)
            {
                let values = found.values.iter().zip(&expected.values).zip(&gradient.values);
                for ((found_value, expected), _) in values.filter(|(_, g)| g.abs() > 1e-6) {
                    let difference = (found_value - expected).abs();
                    assert!(difference < 1e-6, "{}: {difference:e} on {device:?}", found.name);
                    compared += 1;
                }
            }
            assert!(compared > 40_000, "{compared}");
        }
    }

    #[test]
    fn many_chunks_give_the_gradient_of_one() {
        let device = burn::tensor::Device::flex();
        let examples = crate::nn::fixture::digits(CHUNK_ROWS + 100, 1);
        let spec = crate::nn::fixture::mlp(&examples, 8);
        let network = Network::init(&spec, 1, &device).unwrap();
        let all: Vec<usize> = (0..examples.len()).collect();
        let batch = Batch::of_labels(&examples, &all, 10, &device.autodiff());
        let whole = mean_cross_entropy_gradient(&network, &batch);
        let mut chunked = full_gradient(&network, &examples, &Unwatched).unwrap();
        assert!((chunked.loss - whole.loss).abs() < 1e-6);
        chunked.parameters.add_scaled(-1.0, &whole.parameters);
        assert!(chunked.parameters.norm() < 1e-5 * whole.parameters.norm());
    }
}
