//! One case: a network that was trained on a data set with a seed, and what it is to forget.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::json;

use super::{
    data::Dataset,
    deletion,
    error::EvaluationError,
    library::{Library, Reference, Training},
    plan::Plan,
    suite::{Contender, DeletionSpec, Draw, MethodSpec, NetworkEntry},
    training_set::TrainingSet,
    update::requests,
};
use crate::{
    domain::{
        model::Recipe,
        network::{Architecture, NetworkSpec},
        watch::Watch,
    },
    nn::{device::DeviceKind, prediction::log_probabilities},
};

#[derive(Clone, Debug)]
pub struct Case {
    pub dataset: Arc<Dataset>,
    pub network: NetworkEntry,
    pub spec: NetworkSpec,
    pub deletion: DeletionSpec,
    pub seed: u64,
    pub retrainings: usize,
    pub reference_models: usize,
    pub retained_measured_max: usize,
    pub methods: Vec<MethodSpec>,
    pub device: DeviceKind,
}

/// From here on are the seeds of retrainings, so many for each case's; a case's is below 2^32.
const RETRAINING_SEEDS: u64 = 1 << 48;
const SEED_STRIDE: u64 = 1_000;

/// From here on are those of reference models: a model whose seed is a case's would share its draws,
/// such as the noise, with a network that it judges.
const REFERENCE_SEEDS: u64 = 1 << 49;

impl Case {
    /// The network for the data set.
    pub fn resolve(
        network: &NetworkEntry,
        dataset: &Dataset,
    ) -> Result<NetworkSpec, EvaluationError> {
        let architecture: &Architecture = &network.architecture;
        architecture.resolve(&dataset.train.shape, dataset.classes.len()).map_err(|source| {
            EvaluationError::Network {
                network: network.name.clone(),
                dataset: dataset.name.clone(),
                source: Box::new(source),
            }
        })
    }

    /// Everything that decides the case, as part of a key.
    pub fn key(&self) -> serde_json::Value {
        let DeletionSpec { draw, rows, share, requests, alone, name: _ } = &self.deletion;
        json!({
            "data": self.dataset.digest,
            "plan": self.plan(self.seed),
            "deletion": {
                "draw": draw, "rows": rows, "share": share, "requests": requests, "alone": alone,
            },
            "retrainings": self.retrainings,
            "reference_models": self.reference_models,
            "retained_measured_max": self.retained_measured_max,
        })
    }

    /// The rows that are deleted, in the order of their deletion.
    pub fn deleted(
        &self,
        library: &Library,
        watch: &dyn Watch,
    ) -> Result<Vec<usize>, EvaluationError> {
        deletion::choose(&self.deletion, &self.dataset, self.seed, || {
            let all = TrainingSet::all(self.dataset.clone());
            let network = library.network(&self.training(all, self.seed), watch)?;
            let train = &self.dataset.train;
            let predicted = log_probabilities(&network, train);
            let rows = predicted.chunks_exact(network.classes()).zip(&train.labels);
            Ok(rows.map(|(row, label)| -f64::from(row[*label as usize])).collect())
        })
    }

    /// As [`Case::base`], which no trained network is needed for: even where one decides what is
    /// deleted, it does not decide what the base is trained on.
    pub fn base_before_choice(&self) -> Result<Training, EvaluationError> {
        if !self.is_mislabelled() {
            return Ok(self.base(&[]));
        }
        let none = || Ok(Vec::new());
        Ok(self.base(&deletion::choose(&self.deletion, &self.dataset, self.seed, none)?))
    }

    /// Numbers of folds whose out-of-fold predictions the methods want.
    pub fn folds(&self) -> BTreeSet<u32> {
        let updates = self.methods.iter().filter(|method| method.wants_folds());
        updates.map(|method| self.folds_of(method)).collect()
    }

    fn folds_of(&self, method: &MethodSpec) -> u32 {
        method.folds.unwrap_or(self.network.recipe.folds)
    }

    pub fn is_the_same_as(&self, other: &Self) -> bool {
        self.is_of_the_table_of(other) && self.seed == other.seed
    }

    /// Whether both differ in their seeds at most.
    pub fn is_of_the_table_of(&self, other: &Self) -> bool {
        self.dataset.name == other.dataset.name
            && self.network.name == other.network.name
            && self.deletion.name == other.deletion.name
    }

    /// Of the network that is to forget `deleted`.
    pub fn base(&self, deleted: &[usize]) -> Training {
        self.training(self.set(deleted), self.seed)
    }

    /// The base with the folds that a method wants.
    pub fn base_of(&self, method: &MethodSpec, deleted: &[usize]) -> Training {
        self.base(deleted).with_folds(self.folds_of(method))
    }

    /// The same recipe with other seeds, without what is deleted.
    pub fn retrained(&self, deleted: &[usize]) -> Vec<Training> {
        let set = self.set(deleted).without(deleted);
        let first = RETRAINING_SEEDS + self.seed * SEED_STRIDE;
        let seeds = (first..).take(self.retrainings);
        seeds.map(|seed| self.training(set.clone(), seed)).collect()
    }

    /// The same recipe and seed without what is deleted: what a settlement makes.
    pub fn settled(&self, deleted: &[usize]) -> Training {
        self.training(self.set(deleted).without(deleted), self.seed)
    }

    /// Of the ensembles that methods ask for in the end, after each request where it stands alone.
    ///
    /// # Errors
    /// When a method cannot be had.
    pub fn ensembles(&self, deleted: &[usize]) -> Result<Vec<Training>, EvaluationError> {
        let mut trainings = Vec::new();
        for method in &self.methods {
            let Contender::Sisa(sisa) = method.contender()? else { continue };
            if self.deletion.alone {
                for request in requests(deleted, &self.deletion) {
                    trainings.extend(sisa.trainings(self, deleted, request.rows));
                }
            } else {
                trainings.extend(sisa.trainings(self, deleted, deleted));
            }
        }
        Ok(trainings)
    }

    /// Shared by all cases of the data set and network; none where the labels were changed, which
    /// the reference models have not seen.
    pub fn references(&self) -> Vec<Reference> {
        if self.is_mislabelled() {
            return Vec::new();
        }
        let models = self.reference_models;
        let reference = |model| Reference {
            dataset: self.dataset.clone(),
            plan: self.plan(REFERENCE_SEEDS + model as u64),
            model,
            models,
        };
        (0..models).map(reference).collect()
    }

    pub fn is_mislabelled(&self) -> bool {
        self.deletion.draw == Draw::Mislabelled
    }

    /// That all deleted samples are of, where that is how they are drawn.
    pub fn class(&self) -> Option<u32> {
        let is_class = self.deletion.draw == Draw::Class;
        is_class.then(|| deletion::class(self.seed, self.dataset.classes.len()))
    }

    fn set(&self, deleted: &[usize]) -> TrainingSet {
        let all = TrainingSet::all(self.dataset.clone());
        if self.is_mislabelled() { all.mislabelling(deleted) } else { all }
    }

    fn training(&self, set: TrainingSet, seed: u64) -> Training {
        Training { set, plan: self.plan(seed) }
    }

    fn plan(&self, seed: u64) -> Plan {
        let recipe = Recipe { seed, ..self.network.recipe.clone() };
        let (spec, perturbation) = (self.spec.clone(), self.network.perturbation);
        Plan { spec, recipe, perturbation, device: self.device }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::fixture::case;

    #[test]
    fn no_two_networks_share_a_seed() {
        let mut seeds = BTreeSet::new();
        let seed_of = |plan: &Plan| plan.recipe.seed;
        for seed in [0, 1, 15, 1_000, (1 << 32) - 1] {
            let case = Case { seed, ..case() };
            assert!(seeds.insert(seed_of(&case.base(&[]).plan)), "{seed}");
            for training in case.retrained(&[]) {
                assert!(seeds.insert(seed_of(&training.plan)), "{seed}");
            }
        }
        // These are the same whatever the case.
        let references = case().references();
        assert_eq!(references.len(), 4);
        for reference in references {
            assert!(seeds.insert(seed_of(&reference.plan)), "reference {}", reference.model);
        }
    }
}
