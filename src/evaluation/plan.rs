//! How a model is trained, whatever it is trained on.

use serde::Serialize;

use crate::{
    domain::{examples::Examples, model::Recipe, network::NetworkSpec, watch::Watch},
    nn::{
        convex::{Perturbation, PerturbationSpec, polish, theta_of},
        device::DeviceKind,
        network::Network,
        training::{TrainingError, train},
    },
};

#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    pub spec: NetworkSpec,
    pub recipe: Recipe,
    /// Of the objective that a linear network is trained to the minimum of, where a method asks for
    /// that.
    pub perturbation: Option<PerturbationSpec>,
    pub device: DeviceKind,
}

impl Plan {
    /// # Errors
    /// As [`train`] and [`polish`].
    pub fn train(&self, examples: &Examples, watch: &dyn Watch) -> Result<Network, TrainingError> {
        let device = self.device.device();
        let network = train(&self.spec, examples, &self.recipe, &device, watch)?;
        match self.noise(&network) {
            None => Ok(network),
            Some(noise) => polish(&network, examples, &noise, watch),
        }
    }

    #[must_use]
    pub fn with_folds(&self, folds: u32) -> Self {
        let recipe = Recipe { folds, ..self.recipe.clone() };
        Self { recipe, ..self.clone() }
    }

    /// The perturbation with its noise, which the recipe's seed decides: who trains with another
    /// seed draws another noise.
    pub fn noise(&self, network: &Network) -> Option<Perturbation> {
        let spec = self.perturbation?;
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.recipe.seed.to_le_bytes());
        let count = theta_of(&network.parameters()).len();
        Some(Perturbation::draw(spec, count, seed))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        domain::{network::Architecture, watch::Unwatched},
        evaluation::fixture::digits,
        nn::convex::{Objective, norm},
    };

    #[test]
    fn a_perturbed_objective_is_at_its_minimum_and_each_seed_has_its_noise() {
        let dataset = digits();
        let logistic: Architecture = serde_json::from_value(json!({"preset": "logistic"})).unwrap();
        let plan = |seed| Plan {
            spec: logistic.resolve(&dataset.train.shape, dataset.classes.len()).unwrap(),
            recipe: Recipe { epochs: 5, seed, ..Recipe::default() },
            perturbation: Some(PerturbationSpec { l2: 1.0, sigma: 1.0 }),
            device: DeviceKind::Flex,
        };
        let network = plan(1).train(&dataset.train, &Unwatched).unwrap();
        let residual = |seed| {
            let noise = plan(seed).noise(&network).unwrap();
            let objective = Objective::new(&dataset.train, network.classes(), &noise);
            norm(&objective.gradient(&theta_of(&network.parameters())).1)
        };
        // What rounding to 32 bits adds, and the distance of two draws of the noise.
        assert!(residual(1) < 0.01, "{}", residual(1));
        assert!(residual(2) > 10.0, "{}", residual(2));
        let as_it_is = Plan { perturbation: None, ..plan(1) };
        assert!(as_it_is.noise(&network).is_none());
    }
}
