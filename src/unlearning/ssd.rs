//! `ssd`: selective synaptic dampening, which shrinks the weights that matter far more to the
//! forgotten rows than to all (Foster et al. 2024, arXiv 2308.07707).

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Task, UnlearningError, Update, Updated,
    importance::{Of, importance},
};
use crate::domain::{
    model::{RangeError, check},
    watch::Watch,
};
use crate::nn::parameters::Parameters;

/// Where a weight's importance for the forgotten rows exceeds `selection` times that for all
/// rows, it is multiplied by `min(dampening * all / forgotten, 1)`; the paper's alpha and lambda.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ssd {
    selection: f32,
    dampening: f32,
    rows_max: usize,
}

impl Default for Ssd {
    fn default() -> Self {
        Self { selection: 10.0, dampening: 1.0, rows_max: 1_024 }
    }
}

impl Ssd {
    /// # Errors
    /// Names the first parameter outside its range.
    pub fn validate(&self) -> Result<(), RangeError> {
        let (selection, dampening) = (self.selection, self.dampening);
        check((0.0..=1e6).contains(&selection), "selection", selection, "0 to 1e6")?;
        check((0.0..=1e6).contains(&dampening), "dampening", dampening, "0 to 1e6")?;
        check(self.rows_max > 0, "rows_max", self.rows_max, "at least 1")
    }

    /// How many weights were dampened.
    fn dampen(&self, weights: &mut Parameters, all: &Parameters, forgotten: &Parameters) -> usize {
        let mut dampened = 0;
        let importances = all.tensors.iter().zip(&forgotten.tensors);
        for (weights, (all, forgotten)) in weights.tensors.iter_mut().zip(importances) {
            let importances = all.values.iter().zip(&forgotten.values);
            for (weight, (all, forgotten)) in weights.values.iter_mut().zip(importances) {
                if *forgotten > self.selection * all {
                    *weight *= (self.dampening * all / forgotten).min(1.0);
                    dampened += 1;
                }
            }
        }
        dampened
    }
}

impl Update for Ssd {
    fn name(&self) -> &'static str {
        "ssd"
    }

    fn parameters(&self) -> serde_json::Value {
        json!(self)
    }

    fn retained_rows_max(&self) -> Option<usize> {
        Some(self.rows_max)
    }

    fn update(&self, task: &Task<'_>, watch: &dyn Watch) -> Result<Updated, UnlearningError> {
        task.check()?;
        if watch.is_cancelled() {
            return Err(UnlearningError::Cancelled);
        }
        let measured = |rows| importance(task.network, rows, Of::Label, self.rows_max, task.seed);
        let (forgotten, mut all) = (measured(task.forgotten), measured(task.retained));
        // All rows are the retained and the forgotten ones.
        let (count, retained) = (task.forgotten.len() as f32, task.retained_total as f32);
        all.scale(retained / (retained + count));
        all.add_scaled(count / (retained + count), &forgotten);
        let mut weights = task.network.parameters();
        let dampened = self.dampen(&mut weights, &all, &forgotten);
        let network = task.network_with(&weights)?;
        Ok(Updated { network, details: json!({"dampened": dampened}) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::watch::Unwatched;
    use crate::unlearning::fixture::{Convex, World};

    #[test]
    fn dampens_by_the_formula() {
        let filled = |values: [f32; 4]| {
            let mut parameters = Convex::new().network.parameters();
            parameters.tensors.truncate(1);
            parameters.tensors[0].values = values.to_vec();
            parameters
        };
        let mut weights = filled([2.0, 2.0, 2.0, -2.0]);
        let (all, forgotten) = (filled([1.0, 1.0, 1.0, 1.0]), filled([9.0, 10.0, 20.0, 40.0]));
        let method = Ssd { dampening: 4.0, ..Ssd::default() };
        assert_eq!(method.dampen(&mut weights, &all, &forgotten), 2);
        assert_eq!(weights.tensors[0].values, [2.0, 2.0, 0.4, -0.2]);
        // It never strengthens a weight.
        let mut weights = filled([2.0; 4]);
        let method = Ssd { selection: 1.0, dampening: 100.0, ..Ssd::default() };
        method.dampen(&mut weights, &all, &forgotten);
        assert_eq!(weights.tensors[0].values, [2.0; 4]);
    }

    #[test]
    fn the_forgotten_rows_lose_confidence() {
        let world = World::new(120, 0, 12, &burn::tensor::Device::flex());
        let method = Ssd { selection: 2.0, ..Ssd::default() };
        let updated = method.update(&world.task(), &Unwatched).unwrap();
        assert!(updated.details["dampened"].as_u64().unwrap() > 0);
        let loss = |network| {
            let predicted = crate::nn::prediction::log_probabilities(network, &world.forgotten);
            crate::nn::prediction::mean_cross_entropy(&predicted, &world.forgotten.labels).unwrap()
        };
        assert!(loss(&updated.network) > loss(&world.network));
    }
}
