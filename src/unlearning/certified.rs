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
use crate::nn::convex::{Objective, PerturbationSpec, RESIDUAL_MAX, norm, theta_of, with_theta};

/// Objective perturbation of Guo, Goldstein, Hannun and van der Maaten 2020 ("Certified Data Removal
/// from Machine Learning Models", theorem 3, with losses summed over the rows): weights are trained to
/// the minimum of `F(theta) + noise . theta`, the noise drawn once from `N(0, sigma^2)` and secret. An
/// update is (epsilon, delta)-indistinguishable from training without the rows if its gradient on the
/// retained rows and the one that such a training may leave ([`RESIDUAL_MAX`]) are together at most
/// `sigma * epsilon / sqrt(2 ln(1.5 / delta))` long.
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

/// Up to here, by the exact delta of Balle and Wang 2018 ("Improving the Gaussian Mechanism for
/// Differential Privacy", theorem 8), the theorem's bound holds for every delta that is allowed; it
/// fails first at 5.217, for a delta of 0.5.
const EPSILON_MAX: f64 = 5.0;

impl Certified {
    /// # Errors
    /// Names the first parameter outside its range.
    pub fn validate(&self) -> Result<(), RangeError> {
        let Self { epsilon, delta, steps_max, .. } = *self;
        check(delta > 0.0 && delta < 0.5, "delta", delta, "above 0 and below 0.5")?;
        self.spec().validate()?;
        let range = "at most 5, beyond which the theorem's bound does not hold";
        check(epsilon <= EPSILON_MAX, "epsilon", epsilon, range)?;
        let range = "at least 0.04 sqrt(2 ln(1.5 / delta)), so that what a training leaves of its \
                     gradient is at most half of what epsilon and delta allow";
        check(self.allowed() >= 2.0 * RESIDUAL_MAX * self.sigma, "epsilon", epsilon, range)?;
        check((1..=1_000).contains(&steps_max), "steps_max", steps_max, "1 to 1000")
    }

    /// How far from each other, in length of their gradients, the update and a training may be.
    fn allowed(&self) -> f64 {
        self.sigma * self.epsilon / (2.0 * (1.5 / self.delta).ln()).sqrt()
    }

    /// The longest gradient of an update that is still certified.
    fn budget(&self) -> f64 {
        self.allowed() - RESIDUAL_MAX * self.sigma
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
