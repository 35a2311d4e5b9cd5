//! `fisher`: noise on the weights, the more the less the retained rows depend on them (Golatkar
//! et al. 2020, arXiv 1911.04933).

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
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

/// `theta + noise * F^(-1/4) * N(0, 1)`, F the diagonal Fisher information of the retained rows;
/// `noise` is the paper's `(lambda sigma_h^2)^(1/4)`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fisher {
    noise: f32,
    /// Smaller information counts as this, so that idle weights get no endless noise.
    information_min: f32,
    rows_max: usize,
}

impl Default for Fisher {
    fn default() -> Self {
        Self { noise: 1e-3, information_min: 1e-8, rows_max: 1_024 }
    }
}

impl Fisher {
    /// # Errors
    /// Names the first parameter outside its range.
    pub fn validate(&self) -> Result<(), RangeError> {
        let (noise, least) = (self.noise, self.information_min);
        check(noise > 0.0 && noise <= 1e3, "noise", noise, "above 0 and at most 1000")?;
        check(least > 0.0 && least <= 1.0, "information_min", least, "above 0 and at most 1")?;
        check(self.rows_max > 0, "rows_max", self.rows_max, "at least 1")
    }
}

impl Update for Fisher {
    fn name(&self) -> &'static str {
        "fisher"
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
        let (rows, seed) = (self.rows_max, task.seed);
        let fisher = importance(task.network, task.retained, Of::Prediction, rows, seed);
        let mut weights = task.network.parameters();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let tensors = weights.tensors.iter_mut().zip(&fisher.tensors);
        let pairs = tensors.flat_map(|(own, fisher)| own.values.iter_mut().zip(&fisher.values));
        for (weight, information) in pairs {
            let spread = information.max(self.information_min).powf(-0.25);
            *weight += self.noise * spread * normal(&mut rng);
        }
        let network = task.network_with(&weights)?;
        Ok(Updated { network, details: json!({"information_norm": fisher.norm()}) })
    }
}

/// A draw from the normal distribution of mean 0 and variance 1 (Box and Muller 1958).
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let mut unit = || ((rng.next_u32() >> 8) as f32 + 0.5) / (1_u32 << 24) as f32;
    (-2.0 * unit().ln()).sqrt() * (std::f32::consts::TAU * unit()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::watch::Unwatched;
    use crate::unlearning::fixture::Convex;

    #[test]
    fn spreads_each_weight_by_the_fourth_root_of_its_information() {
        let convex = Convex::new();
        let method = Fisher { noise: 0.01, ..Fisher::default() };
        let before = convex.network.parameters();
        let mut squares = [0.0_f64; 6];
        for seed in 0..200 {
            let task = Task { seed, ..convex.task() };
            let after = method.update(&task, &Unwatched).unwrap().network.parameters();
            for (square, (after, before)) in squares
                .iter_mut()
                .zip(after.tensors[0].values.iter().zip(&before.tensors[0].values))
            {
                *square += f64::from(after - before).powi(2) / 200.0;
            }
        }
        // The information of a logistic network by hand: the mean of `p (1 - p) x^2`.
        let predicted = crate::nn::prediction::log_probabilities(&convex.network, &convex.retained);
        let rows = convex.retained.len();
        for (weight, square) in squares.iter().enumerate() {
            let (class, feature) = (weight / 2, weight % 2);
            let information: f64 = (0..rows)
                .map(|row| {
                    let p = f64::from(predicted[row * 3 + class]).exp();
                    let x = f64::from(convex.retained.gather(&[row])[feature]);
                    p * (1.0 - p) * x * x / rows as f64
                })
                .sum();
            let expected = 1e-4 / information.sqrt();
            assert!((0.7..1.4).contains(&(square / expected)), "{weight}: {square} {expected}");
        }
    }
}
