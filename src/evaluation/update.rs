//! A method at work on a case: the requests come one after the other, as in the service.

use std::{mem, ops::Range};

use rand::{SeedableRng as _, seq::index};
use rand_chacha::ChaCha8Rng;

use crate::{
    clock::Clock,
    domain::{examples::Examples, watch::Watch},
    nn::{cross_fitting::OutOfFold, network::Network, prediction::log_probabilities},
    unlearning::{Task, UnlearningError, Update},
};

use super::{library::Training, training_set::TrainingSet};

/// A trained network with all that the service would know about it.
pub struct Trained {
    pub set: TrainingSet,
    pub network: Network,
    pub out_of_fold: OutOfFold,
    /// What the network says of the training rows: `[rows, classes]` natural-log probabilities.
    anchors: Vec<f32>,
    seed: u64,
    clock: Clock,
}

/// What came of the requests so far.
pub struct Forgotten {
    pub network: Network,
    memory: Option<Vec<u8>>,
    /// In the updates alone, without what it takes to gather their samples.
    pub seconds: f64,
    /// Of each update, for the record.
    pub details: Vec<serde_json::Value>,
}

impl Trained {
    pub fn new(
        training: &Training,
        network: Network,
        out_of_fold: OutOfFold,
        clock: &Clock,
    ) -> Self {
        let anchors = log_probabilities(&network, &training.set.dataset.train);
        let set = training.set.clone();
        let (seed, clock) = (training.recipe.seed, clock.clone());
        Self { set, network, out_of_fold, anchors, seed, clock }
    }

    pub fn start(&self) -> Forgotten {
        let network = self.network.clone();
        Forgotten { network, memory: None, seconds: 0.0, details: Vec::new() }
    }

    /// Serves one request: `deleted[request]` are its rows, those before are gone already.
    pub fn forget(
        &self,
        update: &dyn Update,
        state: &mut Forgotten,
        deleted: &[usize],
        request: Range<usize>,
        watch: &dyn Watch,
    ) -> Result<(), UnlearningError> {
        let classes = self.network.classes();
        let (gone, rows) = (&deleted[..request.end], &deleted[request.clone()]);
        // Another seed for each request, and the same for each method.
        let seed = (self.seed << 20) + request.start as u64;
        let pool = self.pool(gone, update.retained_rows_max(), seed);
        let (forgotten, retained) = (self.set.select(rows), self.set.select(&pool));
        let device = self.network.device();
        let task = Task {
            network: &state.network,
            memory: state.memory.as_deref(),
            forgotten: &forgotten,
            forgotten_out_of_fold: &chosen(&self.out_of_fold.train, rows, classes),
            retained: &retained,
            retained_anchor: &chosen(&self.anchors, &pool, classes),
            holdout: self.holdout(),
            holdout_out_of_fold: &self.out_of_fold.holdout,
            seed,
            device: &device,
        };
        let started = self.clock.monotonic();
        let updated = update.update(&task, watch)?;
        state.seconds += self.clock.monotonic().duration_since(started).as_secs_f64();
        state.network = updated.network;
        state.memory = updated.memory;
        state.details.push(updated.details);
        Ok(())
    }

    fn holdout(&self) -> &Examples {
        &self.set.dataset.holdout
    }

    /// Retained rows, ascending, at most as many as the method wants.
    fn pool(&self, gone: &[usize], rows_max: Option<usize>, seed: u64) -> Vec<usize> {
        let mut is_gone = vec![false; self.set.dataset.train.len()];
        for row in gone {
            is_gone[*row] = true;
        }
        let mut live: Vec<usize> = (0..is_gone.len()).filter(|row| !is_gone[*row]).collect();
        if let Some(rows_max) = rows_max.filter(|rows_max| *rows_max < live.len()) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut places = index::sample(&mut rng, live.len(), rows_max).into_vec();
            places.sort_unstable();
            let all = mem::take(&mut live);
            live = places.into_iter().map(|place| all[place]).collect();
        }
        live
    }
}

/// The chosen rows of `[rows, classes]` numbers.
fn chosen(values: &[f32], rows: &[usize], classes: usize) -> Vec<f32> {
    rows.iter().flat_map(|row| &values[row * classes..(row + 1) * classes]).copied().collect()
}

/// The places of each request in `count` deleted rows: as equal as they can be.
pub fn requests(count: usize, requests: usize) -> Vec<Range<usize>> {
    let place = |request: usize| count * request / requests;
    (0..requests).map(|request| place(request)..place(request + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_cover_the_rows_in_order() {
        assert_eq!(requests(10, 1).first(), Some(&(0..10)));
        assert_eq!(requests(10, 3), [0..3, 3..6, 6..10]);
        assert_eq!(requests(4, 4), [0..1, 1..2, 2..3, 3..4]);
    }
}
