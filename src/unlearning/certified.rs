//! `certified`: for linear networks, whose perturbed objective has one minimum. After a deletion the
//! weights go to the minimum without the deleted samples, and the gradient that is left there is
//! measured; while it is small enough, nobody can tell them from weights that never saw the samples,
//! but for epsilon and delta.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Task, UnlearningError, Update, Updated};
use crate::domain::{
    model::{RangeError, check},
    watch::Watch,
};
use crate::nn::convex::{Objective, PerturbationSpec, norm, theta_of, with_theta};

/// Objective perturbation of Guo, Goldstein, Hannun and van der Maaten 2020 ("Certified Data Removal
/// from Machine Learning Models", theorem 3, with losses summed over the rows): weights are trained to
/// the minimum of `F(theta) + noise . theta`, the noise drawn once from `N(0, sigma^2)` and secret. An
/// update whose gradient on the retained rows is at most `sigma * epsilon / sqrt(2 ln(1.5 / delta))`
/// long is (epsilon, delta)-indistinguishable from training without the rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Certified {
    epsilon: f64,
    delta: f64,
    /// Standard deviation of the noise. More noise lets a longer gradient pass and costs accuracy.
    sigma: f64,
    /// Weight of the squared length of all parameters, against the sum of the rows' losses.
    l2: f64,
    steps_max: u32,
}

impl Default for Certified {
    fn default() -> Self {
        Self { epsilon: 1.0, delta: 1e-5, sigma: 1.0, l2: 1.0, steps_max: 20 }
    }
}

/// The update ends at this part of the allowed gradient; what rounding to 32 bits adds fits above.
const AIM: f64 = 0.1;

impl Certified {
    /// # Errors
    /// Names the first parameter outside its range.
    pub fn validate(&self) -> Result<(), RangeError> {
        let Self { epsilon, delta, steps_max, .. } = *self;
        check(epsilon > 0.0 && epsilon <= 100.0, "epsilon", epsilon, "above 0 and at most 100")?;
        check(delta > 0.0 && delta < 0.5, "delta", delta, "above 0 and below 0.5")?;
        self.spec().validate()?;
        check((1..=1_000).contains(&steps_max), "steps_max", steps_max, "1 to 1000")
    }

    /// The longest gradient that is still certified.
    fn budget(&self) -> f64 {
        self.sigma * self.epsilon / (2.0 * (1.5 / self.delta).ln()).sqrt()
    }

    const fn spec(&self) -> PerturbationSpec {
        PerturbationSpec { l2: self.l2, sigma: self.sigma }
    }
}

impl Update for Certified {
    fn name(&self) -> &'static str {
        "certified"
    }

    fn parameters(&self) -> serde_json::Value {
        json!(self)
    }

    fn retained_rows_max(&self) -> Option<usize> {
        None
    }

    fn takes_any_selection(&self) -> bool {
        true
    }

    fn perturbation(&self) -> Option<PerturbationSpec> {
        Some(self.spec())
    }

    fn update(&self, task: &Task<'_>, watch: &dyn Watch) -> Result<Updated, UnlearningError> {
        task.check()?;
        let perturbation =
            task.perturbation.filter(|it| it.spec == self.spec()).ok_or_else(|| {
                UnlearningError::Refused(
                    "the weights were not trained with this `sigma` and `l2`".to_owned(),
                )
            })?;
        let objective = Objective::new(task.retained, task.network.classes(), perturbation);
        let start = theta_of(&task.network.parameters());
        let before = norm(&objective.gradient(&start).1);
        let aim = AIM * self.budget();
        let minimum = objective
            .minimise(start, aim, self.steps_max, watch)
            .map_err(|_| UnlearningError::Cancelled)?;
        let weights = with_theta(task.network.parameters(), &minimum.theta);
        let (residual, budget) = (norm(&objective.gradient(&theta_of(&weights)).1), self.budget());
        // A NaN is within no budget.
        let is_certified = residual <= budget;
        if !is_certified {
            return Err(UnlearningError::Refused(format!(
                "the gradient that is left is {residual:.3e} long, beyond the {budget:.3e} that \
                 epsilon and delta allow"
            )));
        }
        let details = json!({
            "residual_before": before,
            "residual": residual,
            "budget": budget,
            "budget_used": residual / budget,
            "steps": minimum.steps,
        });
        Ok(Updated { network: task.network_with(&weights)?, details })
    }
}

#[cfg(test)]
mod tests;
