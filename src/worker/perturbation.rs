//! Perturbed training: what a method such as `certified` asks of it, and what the record keeps of it.
//! The noise itself is kept nowhere; it derives from the service's key and the training's id.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    domain::{
        identity::ServiceKey,
        model::Model,
        network::{NetworkError, NetworkSpec},
    },
    nn::{
        convex::{Perturbation, PerturbationSpec},
        parameters::Parameters,
    },
    unlearning::Method,
};

use super::{JobError, Worker};

/// Of a version's method, `perturbation`: how the objective was perturbed that its weights, or those
/// that it was updated from, were trained to the minimum of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Perturbed {
    #[serde(flatten)]
    pub(super) spec: PerturbationSpec,
    /// The job that trained; with the service's key it decides the noise.
    pub(super) training: Uuid,
}

impl Perturbed {
    /// # Errors
    /// When the record cannot be read.
    pub(super) fn of(method: &Value) -> Result<Option<Self>, JobError> {
        serde_json::from_value(method["perturbation"].clone())
            .map_err(|error| JobError::Damaged(format!("perturbation of a version: {error}")))
    }

    pub(super) fn draw(
        &self,
        key: &ServiceKey,
        model_id: Uuid,
        network: &NetworkSpec,
    ) -> Result<Perturbation, NetworkError> {
        let mut count = 0;
        Parameters::of(network, |_, shape| {
            count += shape.iter().product::<usize>();
            Vec::new()
        })?;
        Ok(Perturbation::draw(self.spec, count, key.noise_seed(model_id, self.training)))
    }
}

impl Worker {
    /// What the model's method asks of a training.
    pub(super) fn perturbed(&self, model: &Model, training: Uuid) -> Option<Perturbed> {
        let policy = &model.policy;
        match (self.options.method_by_name)(&policy.method, &policy.method_parameters) {
            Ok(Method::Update(update)) => {
                update.perturbation().map(|spec| Perturbed { spec, training })
            }
            Ok(Method::Retrain) | Err(_) => None,
        }
    }
}
