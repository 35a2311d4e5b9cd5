//! Training from the first weights to the last step.

use burn::module::Module as _;
use burn::optim::GradientsParams;
use burn::tensor::Device;

use super::adam::Adam;
use super::gradient::{Batch, scalar};
use super::network::Network;
use super::order::{Purpose, shuffled};
use super::restriction::restricted_backward;
use crate::domain::{
    examples::Examples,
    model::Recipe,
    network::{NetworkError, NetworkSpec},
    watch::{Progress, Watch},
};

#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    #[error("training was cancelled")]
    Cancelled,
    #[error("there are no samples to train on")]
    NoSamples,
    #[error("the network cannot be built")]
    Network(#[source] NetworkError),
    #[error("the samples have shape {found:?}, but the network takes {expected:?}")]
    Shape { expected: Vec<usize>, found: Vec<usize> },
    #[error("a sample has class {label}, but the network has {classes} classes, counted from 0")]
    Label { label: u32, classes: usize },
    #[error(
        "the loss became {loss} in epoch {epoch}: lower the recipe's `learning_rate` (now \
         {learning_rate}), or look for outsized values among the features"
    )]
    NotFinite { loss: f64, epoch: u32, learning_rate: f64 },
    #[error(
        "the minimum of the perturbed objective is not reached: the gradient that is left is \
         {residual:.3e} long, and may be {residual_max:.3e}; raise the method's `sigma` (of a new \
         model), or look for outsized values among the features"
    )]
    NotPolished { residual: f64, residual_max: f64 },
}

/// How often progress is told, in steps.
const PROGRESS_STEPS: u64 = 10;

/// Trains a new network on every row, to the same bits each time on one machine.
///
/// The order of an epoch derives from the recipe's seed and each row's ordinal: the same recipe
/// over the rows that are left visits them in the same order, without the deleted ones.
pub fn train(
    spec: &NetworkSpec,
    examples: &Examples,
    recipe: &Recipe,
    device: &Device,
    watch: &dyn Watch,
) -> Result<Network, TrainingError> {
    if examples.is_empty() {
        return Err(TrainingError::NoSamples);
    }
    let rows: Vec<usize> = (0..examples.len()).collect();
    train_rows(spec, examples, &rows, recipe, device, &Stage { name: "training", watch })
}

/// Who watches, and what this part of the work is called.
pub(super) struct Stage<'a> {
    pub name: &'a str,
    pub watch: &'a dyn Watch,
}

/// Trains on the chosen rows; none at all leave the network with its first weights.
pub(super) fn train_rows(
    spec: &NetworkSpec,
    examples: &Examples,
    rows: &[usize],
    recipe: &Recipe,
    device: &Device,
    stage: &Stage<'_>,
) -> Result<Network, TrainingError> {
    let network = Network::init(spec, recipe.seed, device).map_err(TrainingError::Network)?;
    check(&network, examples)?;
    let ordinals: Vec<i64> = rows.iter().map(|row| examples.ordinals[*row]).collect();
    let batch_size = (recipe.batch_size as usize).max(1);
    let total = u64::from(recipe.epochs) * rows.len().div_ceil(batch_size) as u64;
    let mut training = Training::new(network, recipe, device);
    let mut done = 0;
    for epoch in 0..recipe.epochs {
        let order = shuffled(recipe.seed, Purpose::Epoch(epoch), &ordinals);
        for batch in order.chunks(batch_size) {
            if stage.watch.is_cancelled() {
                return Err(TrainingError::Cancelled);
            }
            let batch: Vec<usize> = batch.iter().map(|position| rows[*position]).collect();
            training = training.step(examples, &batch, epoch)?;
            done += 1;
            if done % PROGRESS_STEPS == 0 || done == total {
                stage.watch.progressed(&Progress { stage: stage.name.to_owned(), done, total });
            }
        }
    }
    let network = training.network.valid();
    if !network.parameters().is_finite() {
        let (loss, epoch, learning_rate) = (f64::NAN, recipe.epochs, recipe.learning_rate);
        return Err(TrainingError::NotFinite { loss, epoch, learning_rate });
    }
    Ok(network)
}

fn check(network: &Network, examples: &Examples) -> Result<(), TrainingError> {
    if examples.shape != network.spec().input {
        let (expected, found) = (network.spec().input.clone(), examples.shape.clone());
        return Err(TrainingError::Shape { expected, found });
    }
    let classes = network.classes();
    match examples.labels.iter().find(|label| **label as usize >= classes) {
        Some(label) => Err(TrainingError::Label { label: *label, classes }),
        None => Ok(()),
    }
}

struct Training<'a> {
    /// Records gradients.
    network: Network,
    optimizer: Adam,
    recipe: &'a Recipe,
    device: Device,
}

impl<'a> Training<'a> {
    fn new(network: Network, recipe: &'a Recipe, device: &Device) -> Self {
        let device = device.clone().autodiff();
        Self { network: network.train(), optimizer: Adam::default(), recipe, device }
    }

    fn step(
        mut self,
        examples: &Examples,
        rows: &[usize],
        epoch: u32,
    ) -> Result<Self, TrainingError> {
        let recipe = self.recipe;
        let batch = Batch::of_labels(examples, rows, self.network.classes(), &self.device);
        let (loss, gradients) = if recipe.gradient_restriction > 0.0 {
            restricted_backward(&self.network, &batch, recipe.gradient_restriction)
        } else {
            let loss = batch.loss(&self.network);
            let value = scalar(&loss);
            (value, GradientsParams::from_grads(loss.backward(), &self.network))
        };
        if !loss.is_finite() {
            let learning_rate = recipe.learning_rate;
            return Err(TrainingError::NotFinite { loss, epoch: epoch + 1, learning_rate });
        }
        self.network = self.optimizer.step(recipe.learning_rate, self.network, gradients);
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    };

    use super::*;
    use crate::domain::watch::Unwatched;
    use crate::nn::{
        fixture::{devices, digits, images, lenet, mlp, resnet, small_images},
        prediction::{accuracy, log_probabilities},
        weights::to_safetensors,
    };

    fn recipe() -> Recipe {
        Recipe { epochs: 3, batch_size: 16, seed: 4, ..Recipe::default() }
    }

    #[test]
    fn learns_what_can_be_learnt() {
        let (examples, unseen) = (digits(200, 1), digits(100, 2));
        for device in devices() {
            for alpha in [0.0, 0.005] {
                let recipe = Recipe {
                    epochs: 15,
                    learning_rate: 1e-2,
                    gradient_restriction: alpha,
                    ..recipe()
                };
                let network =
                    train(&mlp(&examples, 16), &examples, &recipe, &device, &Unwatched).unwrap();
                let accuracy =
                    accuracy(&log_probabilities(&network, &unseen), &unseen.labels).unwrap();
                assert!(accuracy > 0.9, "{accuracy} with alpha {alpha} on {device:?}");
            }
        }
    }

    #[test]
    fn a_residual_network_learns_too() {
        let (examples, unseen) = (small_images(200, 1), small_images(100, 2));
        let recipe = Recipe { epochs: 10, learning_rate: 3e-3, ..recipe() };
        let network = train(&resnet(), &examples, &recipe, &Device::flex(), &Unwatched).unwrap();
        let accuracy = accuracy(&log_probabilities(&network, &unseen), &unseen.labels).unwrap();
        assert!(accuracy > 0.8, "{accuracy}");
    }

    #[test]
    fn the_same_recipe_gives_the_same_bits_in_any_pool_and_beside_other_trainings() {
        for (spec, examples, alpha) in [
            (mlp(&digits(96, 1), 300), digits(96, 1), 0.0),
            (lenet(), images(96, 1), 0.0),
            (lenet(), images(96, 1), 0.005),
            (resnet(), small_images(96, 1), 0.005),
        ] {
            for device in devices() {
                let recipe =
                    Recipe { epochs: 1, batch_size: 64, gradient_restriction: alpha, ..recipe() };
                let weights = |seed| {
                    let recipe = Recipe { seed, ..recipe.clone() };
                    to_safetensors(&train(&spec, &examples, &recipe, &device, &Unwatched).unwrap())
                };
                let alone = weights(4);
                assert!(alone == weights(4), "a second run");
                for threads in [1, 3] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                    assert!(alone == pool.unwrap().install(|| weights(4)), "{threads} threads");
                }
                let (a, b) = std::thread::scope(|scope| {
                    let a = scope.spawn(|| weights(4));
                    let b = scope.spawn(|| weights(5));
                    (a.join().unwrap(), b.join().unwrap())
                });
                assert!(alone == a, "beside another training");
                assert!(alone != b, "another seed");
            }
        }
    }

    #[test]
    fn stops_when_told_to_and_says_how_far_it_is() {
        struct After(u64, AtomicU64, Mutex<Vec<Progress>>);
        impl Watch for After {
            fn progressed(&self, progress: &Progress) {
                self.2.lock().unwrap().push(progress.clone());
            }
            fn is_cancelled(&self) -> bool {
                self.1.fetch_add(1, Ordering::Relaxed) >= self.0
            }
        }
        let examples = digits(64, 1);
        let run = |steps| {
            let watch = After(steps, AtomicU64::new(0), Mutex::new(Vec::new()));
            let device = Device::flex();
            let result = train(&mlp(&examples, 4), &examples, &recipe(), &device, &watch);
            (result.map(|_| ()), watch.1.into_inner(), watch.2.into_inner().unwrap())
        };
        let (result, asked, _) = run(2);
        assert!(matches!(result, Err(TrainingError::Cancelled)));
        assert_eq!(asked, 3, "no step after the cancellation");
        let (result, _, told) = run(1_000);
        result.unwrap();
        let last = told.last().unwrap();
        assert_eq!((last.stage.as_str(), last.done, last.total), ("training", 12, 12));
    }

    #[test]
    fn bad_input_is_named() {
        let device = Device::flex();
        let examples = digits(20, 1);
        let spec = mlp(&examples, 4);
        let fails = |examples: &Examples, recipe: &Recipe| {
            train(&spec, examples, recipe, &device, &Unwatched).unwrap_err()
        };
        assert!(matches!(fails(&examples.select(&[]), &recipe()), TrainingError::NoSamples));
        let mut wrong = examples.clone();
        wrong.labels[3] = 10;
        assert!(matches!(fails(&wrong, &recipe()), TrainingError::Label { label: 10, .. }));
        let mut wrong = examples.clone();
        wrong.shape = vec![8, 8];
        assert!(matches!(fails(&wrong, &recipe()), TrainingError::Shape { .. }));
        let mut huge = examples.clone();
        huge.values = crate::domain::examples::Values::Floats(vec![1e38; 20 * 64]);
        let error = fails(&huge, &Recipe { learning_rate: 1.0, ..recipe() });
        assert!(matches!(error, TrainingError::NotFinite { .. }));
        assert!(error.to_string().contains("learning_rate"), "{error}");
    }
}
