//! `iau`: incremental learning of counterfactuals, the default method.
//!
//! The frame is that of Influence Approximation Unlearning (arXiv 2507.23257): to forget a sample
//! is to learn a counterpart of it, corrected by the gradient of what is retained. The counterpart
//! here is the sample with what a network that never saw it would say ([`Counterfactual`]), so
//! that learning it stops by itself. The correction holds retained samples to what the network
//! says of them before the update; its gradient is zero there, so that an update changes nothing
//! but what forgetting asks for. Rows of which the network is certain hold next to nothing, and
//! are drawn seldom.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::counterfactual::Counterfactual;
use super::descent::descend;
use super::{Task, UnlearningError, Update, Updated};
use crate::domain::{
    examples::Examples,
    model::{RangeError, check},
    watch::Watch,
};
use crate::nn::{
    gradient::Batch,
    network::Network,
    order::{Purpose, chosen, chosen_by_weight},
    prediction::log_probabilities,
};

/// A step of Adam along the gradient of
/// `weight * CE(forgotten, counterfactual) + CE(retained, before)`, with a step size that falls
/// to zero over the update.
///
/// How many forgotten rows there are decides how far a step goes: Adam's first steps are as long
/// as the step size whatever the gradient is, so that a few rows would move the network as much
/// as many.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Iau {
    /// Of the first step, where as many rows are forgotten as a step takes.
    learning_rate: f64,
    /// Rows of each kind.
    rows_per_step: usize,
    /// Of a forgotten row against a retained one.
    forget_weight: f64,
    /// Share of what sets a forgotten row apart from retained ones like it that is taken for the
    /// network's own chance, which a retraining would have as well; the rest is memory.
    own_share: f64,
    /// How fast the targets move on while the forgotten rows lag behind them on average.
    correction: f64,
    /// Size of the pool from which the steps draw their retained rows.
    retained_rows_max: usize,
    /// In that draw, the weight of a row of which the network is certain; that of another one is
    /// larger by the Gini impurity of what the network said of it at the end of its training.
    certain_weight: f64,
    steps_min: u32,
    /// How often each forgotten row is visited, where that takes more steps.
    visits: u32,
    steps_max: u32,
}

impl Default for Iau {
    fn default() -> Self {
        Self {
            learning_rate: 1.5e-3,
            rows_per_step: 64,
            forget_weight: 1.0,
            own_share: 0.75,
            correction: 0.1,
            retained_rows_max: 4_096,
            certain_weight: 1e-3,
            steps_min: 40,
            visits: 15,
            steps_max: 2_000,
        }
    }
}

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
        let expected = Counterfactual::of(task, self.own_share);
        let all: Vec<usize> = (0..task.forgotten.len()).collect();
        let excess = |network| expected.excess(&all, &log_probabilities(network, task.forgotten));
        let (network, lowered) = self.descend(task, &expected, watch)?;
        Ok(Updated {
            details: json!({
                "steps": self.steps(all.len()),
                "confidence_in_excess_before": excess(task.network),
                "confidence_in_excess_after": excess(&network),
                "targets_lowered_by": lowered,
            }),
            network,
        })
    }
}

impl Iau {
    /// # Errors
    /// Names the first parameter outside its range.
    pub fn validate(&self) -> Result<(), RangeError> {
        let (rate, correction, own) = (self.learning_rate, self.correction, self.own_share);
        let (rows, pool) = (self.rows_per_step, self.retained_rows_max);
        let (weight, certain) = (self.forget_weight, self.certain_weight);
        check(rate > 0.0 && rate <= 1.0, "learning_rate", rate, "above 0 and at most 1")?;
        check(rows > 0, "rows_per_step", rows, "at least 1")?;
        check(weight > 0.0 && weight <= 1e6, "forget_weight", weight, "above 0 and at most 1e6")?;
        check((0.0..=1.0).contains(&own), "own_share", own, "0 to 1")?;
        check((0.0..=1.0).contains(&correction), "correction", correction, "0 to 1")?;
        check(pool > 0, "retained_rows_max", pool, "at least 1")?;
        check(certain > 0.0 && certain <= 1e6, "certain_weight", certain, "above 0 to 1e6")?;
        check(self.steps_min > 0, "steps_min", self.steps_min, "at least 1")?;
        check(self.steps_max > 0, "steps_max", self.steps_max, "at least 1")
    }

    /// The network after the last step, and by how much the targets were lowered in the end.
    fn descend(
        &self,
        task: &Task<'_>,
        expected: &Counterfactual,
        watch: &dyn Watch,
    ) -> Result<(Network, f64), UnlearningError> {
        let steps = self.steps(task.forgotten.len());
        let size = (task.forgotten.len() as f64 / self.rows_per_step as f64).min(1.0);
        let learning_rate = self.learning_rate * size.sqrt();
        let weight = self.forget_weight * size;
        let held = Held::of(task, self.draws(task, steps));
        let falling = |step| learning_rate * (1.0 - f64::from(step) / f64::from(steps));
        let mut lowered = 0.0;
        let network = descend(task, steps, falling, watch, |step, recording| {
            let (ordinals, count) = (&task.forgotten.ordinals, self.rows_per_step);
            let rows = chosen(task.seed, Purpose::Step(step), ordinals, count);
            let targets = expected.log_probabilities(&rows, lowered);
            let forgotten = batch(task, task.forgotten, &rows, &targets);
            let (retained, before) = held.at(step);
            let retained = batch(task, task.retained, retained, &before);
            let (forget, predicted) = forgotten.loss_and_predictions(recording);
            lowered += self.correction * expected.excess(&rows, &predicted);
            forget.mul_scalar(weight) + retained.loss(recording)
        })?;
        Ok((network, lowered))
    }

    /// The retained rows of each step.
    fn draws(&self, task: &Task<'_>, steps: u32) -> Vec<Vec<usize>> {
        let (weights, count) = (self.weights(task), self.rows_per_step);
        let ordinals = &task.retained.ordinals;
        let draw =
            |step| chosen_by_weight(task.seed, Purpose::Step(step), ordinals, &weights, count);
        (0..steps).map(draw).collect()
    }

    /// Of each retained row in the steps' draws.
    fn weights(&self, task: &Task<'_>) -> Vec<f64> {
        let impurity = |predicted: &[f32]| {
            1.0 - predicted.iter().map(|it| (2.0 * f64::from(*it)).exp()).sum::<f64>()
        };
        let rows = task.retained_anchor.chunks_exact(task.network.classes());
        rows.map(|predicted| self.certain_weight + impurity(predicted).max(0.0)).collect()
    }

    fn steps(&self, rows: usize) -> u32 {
        let steps = (rows * self.visits as usize).div_ceil(self.rows_per_step);
        u32::try_from(steps).unwrap_or(u32::MAX).max(self.steps_min).min(self.steps_max)
    }
}

/// The retained rows that the steps see, and what the network says of them before the update.
struct Held {
    draws: Vec<Vec<usize>>,
    /// All of the draws' rows, once each, ascending.
    rows: Vec<usize>,
    /// Natural-log probabilities `[rows, classes]`.
    before: Vec<f32>,
    classes: usize,
}

impl Held {
    fn of(task: &Task<'_>, draws: Vec<Vec<usize>>) -> Self {
        let mut rows = draws.concat();
        rows.sort_unstable();
        rows.dedup();
        let before = log_probabilities(task.network, &task.retained.select(&rows));
        Self { draws, rows, before, classes: task.network.classes() }
    }

    /// The rows of a step with what the network said of each.
    fn at(&self, step: u32) -> (&[usize], Vec<f32>) {
        let draw = &self.draws[step as usize];
        let places = draw.iter().map(|row| self.rows.partition_point(|it| it < row));
        let before = places.flat_map(|at| &self.before[at * self.classes..][..self.classes]);
        (draw, before.copied().collect())
    }
}

fn batch(task: &Task<'_>, examples: &Examples, rows: &[usize], targets: &[f32]) -> Batch {
    let all: Vec<usize> = (0..rows.len()).collect();
    let (examples, classes) = (examples.select(rows), task.network.classes());
    let device = task.device.clone().autodiff();
    Batch::of_log_probabilities(&examples, targets, &all, classes, &device)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::domain::watch::{Progress, Unwatched};
    use crate::nn::{
        fixture::devices,
        prediction::{accuracy, mean_divergence},
        weights::to_safetensors,
    };
    use crate::unlearning::fixture::World;

    fn excess(world: &World, network: &Network) -> f64 {
        let rows: Vec<usize> = (0..world.forgotten.len()).collect();
        let predicted = log_probabilities(network, &world.forgotten);
        Counterfactual::of(&world.task(), 0.75).excess(&rows, &predicted)
    }

    #[test]
    fn the_forgotten_look_unseen_and_the_rest_stays() {
        for device in devices() {
            let world = World::new(120, 60, 12, &device);
            let updated = Iau::default().update(&world.task(), &Unwatched).unwrap();
            let (before, after) =
                (excess(&world, &world.network), excess(&world, &updated.network));
            assert!(before > 0.5 && after.abs() < 0.5 * before, "{before} {after}");
            let number = |name: &str| updated.details[name].as_f64().unwrap();
            assert!((number("confidence_in_excess_before") - before).abs() < 1e-9);
            assert!((number("confidence_in_excess_after") - after).abs() < 1e-9);
            let retained = log_probabilities(&updated.network, &world.retained);
            assert!(accuracy(&retained, &world.retained.labels).unwrap() > 0.95);
        }
    }

    #[test]
    fn one_sample_moves_the_network_less_than_many() {
        let drift = |forget| {
            let world = World::new(120, 60, forget, &Device::flex());
            let updated = Iau::default().update(&world.task(), &Unwatched).unwrap();
            let after = log_probabilities(&updated.network, &world.holdout);
            mean_divergence(&world.holdout_anchor, &after, 10).unwrap()
        };
        let (one, many) = (drift(1), drift(30));
        assert!(one > 0.0 && one < 0.2 * many, "{one} {many}");
    }

    #[test]
    fn more_samples_take_more_steps() {
        let iau = Iau::default();
        assert_eq!([1, 100, 500, 1_000_000].map(|rows| iau.steps(rows)), [40, 40, 118, 2_000]);
    }

    #[test]
    fn uncertain_rows_weigh_more() {
        let world = World::new(2, 0, 1, &Device::flex());
        let (mut certain, mut torn) = (vec![f32::NEG_INFINITY; 10], vec![f32::NEG_INFINITY; 10]);
        certain[3] = 0.0;
        (torn[3], torn[7]) = (0.5_f32.ln(), 0.5_f32.ln());
        let task = Task { retained_anchor: &[certain, torn].concat(), ..world.task() };
        let weights = Iau::default().weights(&task);
        assert!(
            (weights[0] - 1e-3).abs() < 1e-6 && (weights[1] - 0.501).abs() < 1e-6,
            "{weights:?}"
        );
    }

    #[test]
    fn does_without_a_holdout() {
        let world = World::new(60, 0, 1, &Device::flex());
        let updated = Iau::default().update(&world.task(), &Unwatched).unwrap();
        assert!(excess(&world, &updated.network).abs() < excess(&world, &world.network).abs());
    }

    #[test]
    fn the_same_task_gives_the_same_bits() {
        let world = World::new(60, 30, 4, &Device::flex());
        let run = |seed| {
            let task = Task { seed, ..world.task() };
            let method = Iau { rows_per_step: 3, ..Iau::default() };
            to_safetensors(&method.update(&task, &Unwatched).unwrap().network)
        };
        assert!(run(1) == run(1));
        assert!(run(1) != run(2));
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
