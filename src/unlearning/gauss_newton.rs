//! `gauss-newton`: the damped Newton step from the optimum of all rows towards that of the
//! retained ones, with the Gauss-Newton matrix for the Hessian.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Task, UnlearningError, Update, Updated, reference::full_gradient};
use crate::domain::{
    model::{RangeError, check},
    watch::{Progress, Watch},
};
use crate::nn::{
    curvature::gauss_newton_product,
    order::{Purpose, chosen},
    parameters::Parameters,
};

/// `theta + m/(n-m) * (G + damping * I)^-1 * mean gradient over the m forgotten rows`, G the
/// Gauss-Newton matrix of the mean cross entropy over retained rows, the inverse by conjugate
/// gradients. At an optimum of all n rows the retained rows' gradient is `-m/(n-m)` times the
/// forgotten rows'.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GaussNewton {
    damping: f32,
    iterations_max: u32,
    /// Of the residual against the right-hand side; where the iterations end.
    tolerance: f64,
    /// Retained rows that G is taken over.
    rows_max: usize,
}

impl Default for GaussNewton {
    fn default() -> Self {
        Self { damping: 1e-2, iterations_max: 20, tolerance: 1e-3, rows_max: 1_024 }
    }
}

impl GaussNewton {
    /// # Errors
    /// Names the first parameter outside its range.
    pub fn validate(&self) -> Result<(), RangeError> {
        let (damping, tolerance) = (self.damping, self.tolerance);
        check(damping > 0.0 && damping <= 1e3, "damping", damping, "above 0 and at most 1000")?;
        check(self.iterations_max > 0, "iterations_max", self.iterations_max, "at least 1")?;
        check((0.0..1.0).contains(&tolerance), "tolerance", tolerance, "0 to below 1")?;
        check(self.rows_max > 0, "rows_max", self.rows_max, "at least 1")
    }

    /// Solves `(G + damping * I) x = b` by conjugate gradients (Hestenes and Stiefel 1952) from
    /// zero; with how often G was applied, and the residual against b.
    #[expect(clippy::cast_possible_truncation, reason = "weights have 32 bits")]
    fn solve(
        &self,
        b: &Parameters,
        watch: &dyn Watch,
        product: impl Fn(&Parameters) -> Parameters,
    ) -> Result<(Parameters, u32, f64), UnlearningError> {
        let mut x = b.clone();
        x.scale(0.0);
        let (mut residual, mut direction) = (b.clone(), b.clone());
        let start = b.dot(b);
        let mut square = start;
        let mut iterations = 0;
        while iterations < self.iterations_max && square > start * self.tolerance.powi(2) {
            if watch.is_cancelled() {
                return Err(UnlearningError::Cancelled);
            }
            let mut applied = product(&direction);
            applied.add_scaled(self.damping, &direction);
            let step = square / direction.dot(&applied);
            x.add_scaled(step as f32, &direction);
            residual.add_scaled(-step as f32, &applied);
            let next = residual.dot(&residual);
            direction.scale((next / square) as f32);
            direction.add_scaled(1.0, &residual);
            square = next;
            iterations += 1;
            let (done, total) = (u64::from(iterations), u64::from(self.iterations_max));
            watch.progressed(&Progress { stage: "unlearning".to_owned(), done, total });
        }
        let left = if start > 0.0 { (square / start).sqrt() } else { 0.0 };
        Ok((x, iterations, left))
    }
}

impl Update for GaussNewton {
    fn name(&self) -> &'static str {
        "gauss-newton"
    }

    fn parameters(&self) -> serde_json::Value {
        json!(self)
    }

    fn retained_rows_max(&self) -> Option<usize> {
        Some(self.rows_max)
    }

    fn update(&self, task: &Task<'_>, watch: &dyn Watch) -> Result<Updated, UnlearningError> {
        task.check()?;
        let mut b = full_gradient(task.network, task.forgotten, watch)?.parameters;
        b.scale(task.forgotten.len() as f32 / task.retained_total as f32);
        let rows = chosen(task.seed, Purpose::Measure, &task.retained.ordinals, self.rows_max);
        let (step, iterations, residual) = self.solve(&b, watch, |direction| {
            gauss_newton_product(task.network, task.retained, &rows, direction)
        })?;
        let mut weights = task.network.parameters();
        weights.add_scaled(1.0, &step);
        let network = task.network_with(&weights)?;
        let details = json!({
            "iterations": iterations,
            "residual": residual,
            "step_norm": step.norm(),
        });
        Ok(Updated { network, details })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::watch::Unwatched;
    use crate::nn::prediction::{log_probabilities, mean_divergence};
    use crate::unlearning::fixture::Convex;

    #[test]
    fn comes_to_the_optimum_of_the_retained_rows() {
        let convex = Convex::new();
        let method = GaussNewton { damping: 1e-5, tolerance: 1e-5, ..GaussNewton::default() };
        let updated = method.update(&convex.task(), &Unwatched).unwrap();
        let exact = log_probabilities(&convex.without, &convex.retained);
        let distance = |network| {
            mean_divergence(&exact, &log_probabilities(network, &convex.retained), 3).unwrap()
        };
        let (before, after) = (distance(&convex.network), distance(&updated.network));
        assert!(before > 1e-4 && after < 0.03 * before, "{before} {after}");
    }

    #[test]
    fn damping_shortens_the_step_towards_the_plain_gradient() {
        let convex = Convex::new();
        let method = GaussNewton { damping: 1e3, ..GaussNewton::default() };
        let updated = method.update(&convex.task(), &Unwatched).unwrap();
        let mut moved = updated.network.parameters();
        moved.add_scaled(-1.0, &convex.network.parameters());
        let mut expected = convex.gradient(&convex.forgotten);
        expected.scale(12.0 / 228.0 / 1e3);
        let cosine = moved.dot(&expected) / (moved.norm() * expected.norm());
        assert!(cosine > 0.99 && (moved.norm() / expected.norm() - 1.0).abs() < 0.05, "{cosine}");
    }
}
