//! `influence-first-order`: one step up the forgotten rows' loss (first-order update of Warnecke
//! et al. 2023, arXiv 2108.11577, for rows that are taken out).

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Task, UnlearningError, Update, Updated, reference::full_gradient};
use crate::domain::{
    model::{RangeError, check},
    watch::Watch,
};

/// `theta + rate * sum of grad CE over the forgotten rows`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Influence {
    rate: f32,
}

impl Default for Influence {
    fn default() -> Self {
        Self { rate: 1e-4 }
    }
}

impl Influence {
    /// # Errors
    /// Names the first parameter outside its range.
    pub fn validate(&self) -> Result<(), RangeError> {
        check(self.rate > 0.0 && self.rate <= 1.0, "rate", self.rate, "above 0 and at most 1")
    }
}

impl Update for Influence {
    fn name(&self) -> &'static str {
        "influence-first-order"
    }

    fn parameters(&self) -> serde_json::Value {
        json!(self)
    }

    /// It reads none; a task has some all the same.
    fn retained_rows_max(&self) -> Option<usize> {
        Some(1)
    }

    fn update(&self, task: &Task<'_>, watch: &dyn Watch) -> Result<Updated, UnlearningError> {
        task.check()?;
        let gradient = full_gradient(task.network, task.forgotten, watch)?.parameters;
        let mut weights = task.network.parameters();
        weights.add_scaled(self.rate * task.forgotten.len() as f32, &gradient);
        let network = task.network_with(&weights)?;
        Ok(Updated { network, details: json!({"gradient_norm": gradient.norm()}) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::watch::Unwatched;
    use crate::nn::prediction::log_probabilities;
    use crate::unlearning::fixture::Convex;

    /// The gradient of a logistic network is `(p - y) x'`, summed over the rows by hand.
    #[test]
    fn moves_by_the_sum_of_the_rows_gradients() {
        let convex = Convex::new();
        let rows = &convex.forgotten;
        let updated = Influence { rate: 0.01 }.update(&convex.task(), &Unwatched).unwrap();
        let mut moved = updated.network.parameters();
        moved.add_scaled(-1.0, &convex.network.parameters());
        let predicted = log_probabilities(&convex.network, rows);
        for class in 0..3 {
            for feature in 0..2 {
                let expected: f32 = (0..rows.len())
                    .map(|row| {
                        let label = f32::from(u8::from(rows.labels[row] as usize == class));
                        (predicted[row * 3 + class].exp() - label) * rows.gather(&[row])[feature]
                    })
                    .sum();
                let found = moved.tensors[0].values[class * 2 + feature];
                assert!((found - 0.01 * expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }
}
