//! `fine-tune`: training goes on over what is retained, and what is not seen any more fades.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Task, UnlearningError, Update, Updated, descent::descend};
use crate::domain::{
    model::{RangeError, check},
    watch::Watch,
};
use crate::nn::{
    gradient::Batch,
    order::{Purpose, shuffled},
};

/// Epochs of Adam over the retained rows with their labels.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FineTune {
    learning_rate: f64,
    rows_per_step: usize,
    epochs: u32,
}

impl Default for FineTune {
    fn default() -> Self {
        Self { learning_rate: 1e-3, rows_per_step: 64, epochs: 1 }
    }
}

impl FineTune {
    /// # Errors
    /// Names the first parameter outside its range.
    pub fn validate(&self) -> Result<(), RangeError> {
        let (rate, rows) = (self.learning_rate, self.rows_per_step);
        check(rate > 0.0 && rate <= 1.0, "learning_rate", rate, "above 0 and at most 1")?;
        check(rows > 0, "rows_per_step", rows, "at least 1")?;
        check(self.epochs > 0, "epochs", self.epochs, "at least 1")
    }
}

impl Update for FineTune {
    fn name(&self) -> &'static str {
        "fine-tune"
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
                let rows = &batches[step as usize];
                Batch::of_labels(task.retained, rows, classes, &device).loss(recording)
            },
        )?;
        Ok(Updated { network, details: json!({"steps": steps}) })
    }
}

/// The retained rows in batches, each row once an epoch, in the order that the task's seed gives.
pub(super) fn retained_batches(
    task: &Task<'_>,
    epochs: u32,
    rows_per_step: usize,
) -> Vec<Vec<usize>> {
    (0..epochs)
        .flat_map(|epoch| {
            let order = shuffled(task.seed, Purpose::Epoch(epoch), &task.retained.ordinals);
            order.chunks(rows_per_step).map(<[usize]>::to_vec).collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::watch::Unwatched;
    use crate::nn::prediction::{log_probabilities, mean_divergence};
    use crate::unlearning::fixture::Convex;

    /// A convex loss has one optimum: training on leads to that of the retained rows alone.
    #[test]
    fn goes_to_the_optimum_of_the_retained_rows() {
        let convex = Convex::new();
        let method = FineTune { learning_rate: 3e-3, epochs: 60, rows_per_step: 1_000 };
        let updated = method.update(&convex.task(), &Unwatched).unwrap();
        let exact = log_probabilities(&convex.without, &convex.retained);
        let distance = |network| {
            mean_divergence(&exact, &log_probabilities(network, &convex.retained), 3).unwrap()
        };
        let (before, after) = (distance(&convex.network), distance(&updated.network));
        assert!(after < 0.3 * before, "{after} {before}");
    }

    #[test]
    fn sees_each_retained_row_once_an_epoch() {
        let convex = Convex::new();
        let batches = retained_batches(&convex.task(), 2, 64);
        let mut rows: Vec<usize> = batches.concat();
        rows.sort_unstable();
        assert_eq!(rows.len(), 2 * convex.retained.len());
        assert!(rows.chunks(2).enumerate().all(|(row, twice)| twice == [row, row]));
    }
}
