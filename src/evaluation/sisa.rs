//! SISA training (Bourtoule et al. 2021, arXiv 1912.03817), to compare with: the training samples in
//! shards and a network for each, whose probabilities are averaged. A deletion retrains the shards
//! that its samples lie in, from the start (there are no slices). Exact, for an ensemble of
//! networks that saw less each.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{case::Case, library::Training, training_set::TrainingSet};
use crate::{
    domain::{
        examples::Examples,
        model::{RangeError, check},
    },
    nn::{
        network::Network,
        order::{Purpose, shuffled},
        prediction::log_probabilities,
    },
};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sisa {
    /// Networks of the ensemble.
    shards: usize,
}

impl Default for Sisa {
    fn default() -> Self {
        Self { shards: 5 }
    }
}

impl Sisa {
    pub const NAME: &'static str = "sisa";

    /// # Errors
    /// Names the parameter outside its range.
    pub fn validate(&self) -> Result<(), RangeError> {
        check((2..=100).contains(&self.shards), "shards", self.shards, "2 to 100")
    }

    pub fn parameters(&self) -> serde_json::Value {
        json!(self)
    }

    /// Of every shard, for a case whose rows `deleted` are to be forgotten in the end and of which
    /// `gone` are now.
    pub fn trainings(&self, case: &Case, deleted: &[usize], gone: &[usize]) -> Vec<Training> {
        let base = case.base(deleted);
        let shards = self.shards_of(&base.set, base.plan.recipe.seed);
        (0..self.shards).map(|shard| of_shard(&base, &shards, shard, gone)).collect()
    }

    /// Those of [`Sisa::trainings`] that the deletion of `rows` asks for.
    pub fn retrained(
        &self,
        case: &Case,
        deleted: &[usize],
        before: &[usize],
        rows: &[usize],
    ) -> Vec<Training> {
        let gone: Vec<usize> = before.iter().chain(rows).copied().collect();
        let base = case.base(deleted);
        let shards = self.shards_of(&base.set, base.plan.recipe.seed);
        let touched: BTreeSet<usize> = rows.iter().map(|row| shards[*row]).collect();
        touched.into_iter().map(|shard| of_shard(&base, &shards, shard, &gone)).collect()
    }

    /// The shard of each of the data set's training rows, whichever are left; of equal size.
    fn shards_of(&self, set: &TrainingSet, seed: u64) -> Vec<usize> {
        let order = shuffled(seed, Purpose::Fold, &set.dataset.train.ordinals);
        let mut shards = vec![0; order.len()];
        for (place, row) in order.into_iter().enumerate() {
            shards[row] = place % self.shards;
        }
        shards
    }
}

/// `base` on the rows of one shard that are not `gone`.
fn of_shard(base: &Training, shards: &[usize], shard: usize, gone: &[usize]) -> Training {
    let elsewhere = (0..shards.len()).filter(|row| shards[*row] != shard);
    let without: Vec<usize> = elsewhere.chain(gone.iter().copied()).collect();
    Training { set: base.set.without(&without), ..base.clone() }
}

/// What the networks say on average: the logarithm of their mean probabilities, `[rows, classes]`.
#[expect(clippy::cast_possible_truncation, reason = "predictions have 32 bits")]
pub fn mean_log_probabilities(networks: &[Network], examples: &Examples) -> Vec<f32> {
    let all: Vec<Vec<f32>> = networks.iter().map(|it| log_probabilities(it, examples)).collect();
    let mean = |place: usize| {
        let probabilities = all.iter().map(|predicted| f64::from(predicted[place]).exp());
        (probabilities.sum::<f64>() / all.len() as f64).max(f64::from(f32::MIN_POSITIVE)).ln()
    };
    let places = all.first().map_or(0, Vec::len);
    (0..places).map(|place| mean(place) as f32).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::evaluation::fixture::case;

    #[test]
    fn shards_share_the_rows_out() {
        let (sisa, case) = (Sisa { shards: 7 }, case());
        let shards: Vec<Vec<usize>> =
            sisa.trainings(&case, &[], &[]).iter().map(|it| it.set.rows()).collect();
        assert!(shards.iter().all(|rows| (42..=43).contains(&rows.len())), "300 rows");
        let all: BTreeSet<usize> = shards.concat().into_iter().collect();
        assert_eq!(all.len(), 300, "each row is in one of them");
    }

    #[test]
    fn a_deletion_retrains_the_shards_that_it_lies_in() {
        let (sisa, case) = (Sisa::default(), case());
        let before = sisa.trainings(&case, &[], &[]);
        let of_second = before[2].set.rows();
        let rows = [of_second[0], of_second[5]];
        let after = sisa.trainings(&case, &rows, &rows);
        for (shard, (before, after)) in before.iter().zip(&after).enumerate() {
            assert_eq!(before.key() == after.key(), shard != 2);
        }
        let retrained = sisa.retrained(&case, &rows, &[], &rows);
        assert_eq!(retrained.len(), 1);
        assert_eq!(retrained[0].key(), after[2].key());
        assert_eq!(retrained[0].set.rows().len(), of_second.len() - 2);
    }

    #[test]
    fn an_ensemble_says_the_mean() {
        let (case, device) = (case(), Device::flex());
        let networks = [1, 2].map(|seed| Network::init(&case.spec, seed, &device).unwrap());
        let examples = case.dataset.test.select(&[0, 1, 2]);
        let [one, other] = networks.each_ref().map(|it| log_probabilities(it, &examples));
        let mean = mean_log_probabilities(&networks, &examples);
        for ((mean, one), other) in mean.iter().zip(one).zip(other) {
            assert!((mean.exp() - f32::midpoint(one.exp(), other.exp())).abs() < 1e-6);
        }
    }
}
