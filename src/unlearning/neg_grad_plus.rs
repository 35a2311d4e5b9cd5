//! `neg-grad-plus`: down the retained rows' loss and up the forgotten rows' (`NegGrad+` of
//! Kurmanji et al. 2023, arXiv 2302.09880).

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Task, UnlearningError, Update, Updated, descent::descend, fine_tune::retained_batches,
};
use crate::domain::{
    model::{RangeError, check},
    watch::Watch,
};
use crate::nn::{
    gradient::Batch,
    order::{Purpose, chosen},
};

/// Epochs of Adam over the retained rows along
/// `beta * CE(retained) - (1 - beta) * CE(forgotten)`, labels as targets.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NegGradPlus {
    learning_rate: f64,
    rows_per_step: usize,
    epochs: u32,
    beta: f64,
}

impl Default for NegGradPlus {
    fn default() -> Self {
        Self { learning_rate: 1e-3, rows_per_step: 64, epochs: 1, beta: 0.95 }
    }
}

impl NegGradPlus {
    /// # Errors
    /// Names the first parameter outside its range.
    pub fn validate(&self) -> Result<(), RangeError> {
        let (rate, rows, beta) = (self.learning_rate, self.rows_per_step, self.beta);
        check(rate > 0.0 && rate <= 1.0, "learning_rate", rate, "above 0 and at most 1")?;
        check(rows > 0, "rows_per_step", rows, "at least 1")?;
        check(self.epochs > 0, "epochs", self.epochs, "at least 1")?;
        check((0.0..=1.0).contains(&beta), "beta", beta, "0 to 1")
    }
}

impl Update for NegGradPlus {
    fn name(&self) -> &'static str {
        "neg-grad-plus"
    }

    fn parameters(&self) -> serde_json::Value {
        json!(self)
    }

    fn retained_rows_max(&self) -> Option<usize> {
        None
    }

    fn update(&self, task: &Task<'_>, watch: &dyn Watch) -> Result<Updated, UnlearningError> {
        task.check()?;
        let batches = retained_batches(task, self.epochs, self.rows_per_step);
        let steps = u32::try_from(batches.len()).unwrap_or(u32::MAX);
        let device = task.device.clone().autodiff();
        let classes = task.network.classes();
        let network = descend(
            task,
            steps,
            |_| self.learning_rate,
            watch,
            |step, recording| {
                let retained = &batches[step as usize];
                let ordinals = &task.forgotten.ordinals;
                let forgotten =
                    chosen(task.seed, Purpose::Step(step), ordinals, self.rows_per_step);
                let down =
                    Batch::of_labels(task.retained, retained, classes, &device).loss(recording);
                let up =
                    Batch::of_labels(task.forgotten, &forgotten, classes, &device).loss(recording);
                down.mul_scalar(self.beta) - up.mul_scalar(1.0 - self.beta)
            },
        )?;
        Ok(Updated { network, details: json!({"steps": steps}) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::watch::Unwatched;
    use crate::nn::prediction::{log_probabilities, mean_cross_entropy};
    use crate::unlearning::{fine_tune::FineTune, fixture::Convex};

    /// Adam's first step is `learning_rate * g / (|g| + eps)` of the loss' gradient g.
    #[test]
    fn its_first_step_goes_along_the_formula() {
        let convex = Convex::new();
        let method = NegGradPlus { rows_per_step: 1_000, ..NegGradPlus::default() };
        let updated = method.update(&convex.task(), &Unwatched).unwrap();
        let mut expected = convex.gradient(&convex.retained);
        expected.scale(0.95);
        expected.add_scaled(-0.05, &convex.gradient(&convex.forgotten));
        let mut moved = convex.network.parameters();
        moved.add_scaled(-1.0, &updated.network.parameters());
        let mut compared = 0;
        for (moved, expected) in moved.tensors.iter().zip(&expected.tensors) {
            for (moved, expected) in moved.values.iter().zip(&expected.values) {
                if expected.abs() > 1e-5 {
                    assert!((moved - 1e-3 * expected.signum()).abs() < 2e-6, "{moved} {expected}");
                    compared += 1;
                }
            }
        }
        assert!(compared >= 6, "{compared}");
    }

    #[test]
    fn without_ascent_it_is_fine_tuning_and_with_it_the_forgotten_rows_lose() {
        let convex = Convex::new();
        let alone = NegGradPlus { beta: 1.0, ..NegGradPlus::default() };
        let (alone, tuned) = (
            alone.update(&convex.task(), &Unwatched).unwrap().network,
            FineTune::default().update(&convex.task(), &Unwatched).unwrap().network,
        );
        assert_eq!(alone.parameters(), tuned.parameters());
        let loss = |network| {
            let predicted = log_probabilities(network, &convex.forgotten);
            mean_cross_entropy(&predicted, &convex.forgotten.labels).unwrap()
        };
        let method = NegGradPlus { beta: 0.5, epochs: 5, ..NegGradPlus::default() };
        let updated = method.update(&convex.task(), &Unwatched).unwrap();
        assert!(loss(&updated.network) > loss(&convex.network));
    }
}
