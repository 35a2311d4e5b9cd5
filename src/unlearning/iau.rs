//! `iau`: incremental learning of counterfactuals, the default method.
//!
//! The frame is that of Influence Approximation Unlearning (arXiv 2507.23257): to forget a sample
//! is to learn a counterpart of it, corrected by the gradient of what is retained. The counterpart
//! here is the sample with its out-of-fold prediction, so that learning it stops by itself where
//! the network speaks about the sample as if it had never seen it.

use burn::module::Module as _;
use burn::optim::GradientsParams;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::memory::{Memory, Resistance};
use super::{Task, UnlearningError, Update, Updated};
use crate::domain::{
    examples::Examples,
    model::{RangeError, check},
    watch::{Progress, Watch},
};
use crate::nn::{
    gradient::{Batch, scalar},
    network::Network,
    order::{Purpose, chosen},
    prediction::{log_probabilities, mean_divergence},
    training::adam,
};

/// A step minimises
/// `forget_weight * CE(forgotten, out-of-fold) + CE(retained, anchor) + memory_weight * sum F d^2`
/// over at most `rows_per_step` rows of each kind, by Adam.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Iau {
    learning_rate: f64,
    rows_per_step: usize,
    forget_weight: f32,
    /// lambda of the memory of earlier updates.
    memory_weight: f32,
    /// Size of the pool from which the steps draw their retained rows.
    retained_rows_max: usize,
    /// A single sample's divergence says little, so that some steps are always taken.
    steps_min: u32,
    steps_max: u32,
}

impl Default for Iau {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            rows_per_step: 256,
            forget_weight: 1.0,
            memory_weight: 3.0,
            retained_rows_max: 4_096,
            steps_min: 4,
            steps_max: 2_000,
        }
    }
}

/// With fewer hold-out rows than this their mean divergence is too noisy to stop by.
const HOLDOUT_MIN: usize = 20;

/// Rows whose divergence decides about stopping, forgotten or hold-out, at most.
const MEASURED_MAX: usize = 1_024;

/// Steps between two looks at the divergence.
const LOOK_STEPS: u32 = 4;

/// Steps that a small set needs; found with 100 samples on two data sets.
const STEPS_BASE: u32 = 20;

impl Update for Iau {
    fn name(&self) -> &'static str {
        "iau"
    }

    fn parameters(&self) -> serde_json::Value {
        json!(self)
    }

    fn retained_rows_max(&self) -> Option<usize> {
        Some(self.retained_rows_max)
    }

    fn update(&self, task: &Task<'_>, watch: &dyn Watch) -> Result<Updated, UnlearningError> {
        task.check()?;
        let earlier = task
            .memory
            .map(|bytes| Memory::from_bytes(task.network.spec(), bytes))
            .transpose()
            .map_err(UnlearningError::Memory)?;
        let descent = self.descend(task, earlier.as_ref(), watch)?;
        let network = descent.network;
        if !network.parameters().is_finite() {
            return Err(UnlearningError::NotFinite);
        }
        let mut memory = Memory::of(&network, task.forgotten, task.seed);
        if let Some(earlier) = &earlier {
            memory.add(earlier);
        }
        Ok(Updated {
            network,
            memory: Some(memory.to_bytes()),
            details: json!({
                "steps": descent.steps,
                "stopped": descent.stopped,
                "forgotten_divergence_before": descent.before,
                "forgotten_divergence_after": descent.after,
                "holdout_divergence": descent.goal,
                "loss": descent.loss,
            }),
        })
    }
}

struct Descent {
    network: Network,
    steps: u32,
    stopped: &'static str,
    /// Mean KL of the forgotten rows' targets to the network, in nats.
    before: Option<f64>,
    after: Option<f64>,
    /// The same on the hold-out set before the update: what two honest networks differ by.
    goal: Option<f64>,
    /// Of the last step.
    loss: Option<f64>,
}

impl Iau {
    /// # Errors
    /// Names the first parameter outside its range.
    pub fn validate(&self) -> Result<(), RangeError> {
        let weight = |weight: f32| (0.0..=1e6).contains(&weight);
        let (forget, memory) = (self.forget_weight, self.memory_weight);
        let (rows, pool) = (self.rows_per_step, self.retained_rows_max);
        let rate = self.learning_rate;
        check(rate > 0.0 && rate <= 1.0, "learning_rate", rate, "above 0 and at most 1")?;
        check(rows > 0, "rows_per_step", rows, "at least 1")?;
        check(weight(forget), "forget_weight", forget, "0 to 1e6")?;
        check(weight(memory), "memory_weight", memory, "0 to 1e6")?;
        check(pool > 0, "retained_rows_max", pool, "at least 1")?;
        check(self.steps_max > 0, "steps_max", self.steps_max, "at least 1")
    }

    fn descend(
        &self,
        task: &Task<'_>,
        memory: Option<&Memory>,
        watch: &dyn Watch,
    ) -> Result<Descent, UnlearningError> {
        let device = task.device.clone().autodiff();
        let forgotten = Measured::choose(task.forgotten, task.forgotten_out_of_fold, task);
        let holdout = Measured::choose(task.holdout, task.holdout_out_of_fold, task);
        let goal = (holdout.examples.len() >= HOLDOUT_MIN)
            .then(|| holdout.divergence(task.network))
            .flatten()
            .filter(|goal| goal.is_finite());
        let before = forgotten.divergence(task.network);
        let limit = self.steps_limit(task.forgotten.len(), goal.is_some());
        let resistance =
            memory.map(|memory| memory.resistance(task.network, self.memory_weight, &device));

        let mut recording = task.network.clone().train();
        let mut optimizer = adam();
        let mut loss = None;
        let mut stopped = match goal {
            Some(_) => "the limit of steps for this many samples",
            None => "a fixed number of steps, for want of hold-out samples",
        };
        let mut steps = 0;
        while steps < limit {
            if watch.is_cancelled() {
                return Err(UnlearningError::Cancelled);
            }
            let (value, gradients) = self.gradients(task, &recording, resistance.as_ref(), steps);
            loss = Some(value);
            recording = optimizer.step(self.learning_rate, recording, gradients);
            steps += 1;
            let (done, total) = (u64::from(steps), u64::from(limit));
            watch.progressed(&Progress { stage: "unlearning".to_owned(), done, total });
            let look = steps >= self.steps_min && steps.is_multiple_of(LOOK_STEPS);
            if let Some(goal) = goal.filter(|_| look)
                && forgotten.divergence(&recording.valid()).is_some_and(|now| now <= goal)
            {
                stopped = "the forgotten samples diverge no more than hold-out samples";
                break;
            }
        }
        let network = recording.valid();
        let after = forgotten.divergence(&network);
        Ok(Descent { network, steps, stopped, before, after, goal, loss })
    }

    /// The loss of one step and its gradients.
    fn gradients(
        &self,
        task: &Task<'_>,
        recording: &Network,
        resistance: Option<&Resistance>,
        step: u32,
    ) -> (f64, GradientsParams) {
        let batch = |examples: &Examples, targets: &[f32]| {
            let purpose = Purpose::Step(step);
            let rows = chosen(task.seed, purpose, &examples.ordinals, self.rows_per_step);
            let device = task.device.clone().autodiff();
            Batch::of_log_probabilities(examples, targets, &rows, recording.classes(), &device)
        };
        let forget = batch(task.forgotten, task.forgotten_out_of_fold).loss(recording);
        let retain = batch(task.retained, task.retained_anchor).loss(recording);
        let mut loss = forget.mul_scalar(self.forget_weight) + retain;
        if let Some(penalty) = resistance.and_then(|resistance| resistance.penalty(recording)) {
            loss = loss + penalty;
        }
        (scalar(&loss), GradientsParams::from_grads(loss.backward(), recording))
    }

    /// Steps at most for `samples` to forget: more samples need more of them. `measured` says
    /// whether the divergence can stop the update earlier.
    fn steps_limit(&self, samples: usize, measured: bool) -> u32 {
        let samples = u32::try_from(samples).unwrap_or(u32::MAX);
        let more = if measured { samples } else { samples.saturating_sub(100) };
        STEPS_BASE.saturating_add(more).min(self.steps_max)
    }
}

/// Rows with their out-of-fold predictions, few enough to be looked at often.
struct Measured {
    examples: Examples,
    targets: Vec<f32>,
    classes: usize,
}

impl Measured {
    fn choose(examples: &Examples, targets: &[f32], task: &Task<'_>) -> Self {
        let classes = task.network.classes();
        let rows = chosen(task.seed, Purpose::Measure, &examples.ordinals, MEASURED_MAX);
        let targets = rows.iter().flat_map(|row| &targets[row * classes..][..classes]).copied();
        Self { targets: targets.collect(), examples: examples.select(&rows), classes }
    }

    /// Mean `KL(target || network)` in nats; `None` without rows.
    fn divergence(&self, network: &Network) -> Option<f64> {
        let predicted = log_probabilities(network, &self.examples);
        mean_divergence(&self.targets, &predicted, self.classes)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::domain::watch::Unwatched;
    use crate::nn::{
        fixture::devices,
        prediction::{accuracy, mean_cross_entropy},
        weights::to_safetensors,
    };
    use crate::unlearning::fixture::World;

    fn forgotten_divergence(world: &World, network: &Network) -> f64 {
        let predicted = log_probabilities(network, &world.forgotten);
        mean_divergence(&world.forgotten_out_of_fold, &predicted, 10).unwrap()
    }

    #[test]
    fn stops_where_the_forgotten_look_unseen_and_keeps_the_rest() {
        for device in devices() {
            let world = World::new(120, 60, 12, &device);
            let updated = Iau::default().update(&world.task(), &Unwatched).unwrap();
            let (before, after) = (
                forgotten_divergence(&world, &world.network),
                forgotten_divergence(&world, &updated.network),
            );
            assert!(after < 0.9 * before, "{after} {before}");
            let number = |name: &str| updated.details[name].as_f64().unwrap();
            let stopped = updated.details["stopped"].as_str().unwrap();
            if stopped.contains("diverge") {
                assert!(after <= number("holdout_divergence"));
            } else {
                assert!((number("steps") - 32.0).abs() < 0.5, "{stopped}");
            }
            let loss = |network: &Network| {
                let predicted = log_probabilities(network, &world.forgotten);
                mean_cross_entropy(&predicted, &world.forgotten.labels).unwrap()
            };
            assert!(loss(&updated.network) > loss(&world.network));
            let retained = log_probabilities(&updated.network, &world.retained);
            assert!(accuracy(&retained, &world.retained.labels).unwrap() > 0.95);
        }
    }

    #[test]
    fn one_sample_and_no_holdout_take_a_fixed_number_of_steps() {
        let world = World::new(60, 0, 1, &Device::flex());
        let updated = Iau::default().update(&world.task(), &Unwatched).unwrap();
        assert_eq!(updated.details["steps"], 20);
        assert!(updated.details["stopped"].as_str().unwrap().contains("fixed"));
        assert!(
            forgotten_divergence(&world, &updated.network)
                < forgotten_divergence(&world, &world.network)
        );
    }

    #[test]
    fn the_same_task_gives_the_same_bits() {
        let world = World::new(60, 30, 4, &Device::flex());
        let run = |seed| {
            let task = Task { seed, ..world.task() };
            let method = Iau { rows_per_step: 3, ..Iau::default() };
            let updated = method.update(&task, &Unwatched).unwrap();
            (to_safetensors(&updated.network), updated.memory.unwrap())
        };
        assert!(run(1) == run(1));
        assert!(run(1) != run(2));
    }

    #[test]
    fn memory_accumulates_and_holds_the_next_update_back() {
        let world = World::new(60, 0, 6, &Device::flex());
        let first = Iau::default().update(&world.task(), &Unwatched).unwrap();
        let memory = first.memory.unwrap();
        let moved = |memory_weight, memory: Option<&[u8]>| {
            let method = Iau { memory_weight, ..Iau::default() };
            let task = Task { memory, ..world.task() };
            let updated = method.update(&task, &Unwatched).unwrap();
            let mut moved = updated.network.parameters();
            moved.add_scaled(-1.0, &world.network.parameters());
            (moved.norm(), updated.memory.unwrap())
        };
        let (free, _) = moved(0.0, Some(&memory));
        let (held, sum) = moved(1e4, Some(&memory));
        assert!(held < 0.8 * free, "{held} {free}");
        let spec = world.network.spec();
        let read = |bytes: &[u8]| Memory::from_bytes(spec, bytes).unwrap();
        assert_ne!(read(&sum), read(&memory));

        let task = Task { memory: Some(b"no memory"), ..world.task() };
        let error = Iau::default().update(&task, &Unwatched).err().unwrap();
        assert!(matches!(error, UnlearningError::Memory(_)));
    }

    #[test]
    fn stops_when_told_to() {
        struct Never;
        impl Watch for Never {
            fn progressed(&self, _: &Progress) {}
            fn is_cancelled(&self) -> bool {
                true
            }
        }
        let world = World::new(30, 0, 2, &Device::flex());
        let error = Iau::default().update(&world.task(), &Never).err().unwrap();
        assert!(matches!(error, UnlearningError::Cancelled));
    }
}
