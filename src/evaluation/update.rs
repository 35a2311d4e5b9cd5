//! A method at work on a case: the requests come one after the other, as in the service.

use std::{mem, ops::Range};

use rand::{SeedableRng as _, seq::index};
use rand_chacha::ChaCha8Rng;

use crate::{
    clock::Clock,
    domain::{examples::Examples, watch::Watch},
    nn::{
        convex::Perturbation, cross_fitting::OutOfFold, network::Network,
        prediction::log_probabilities,
    },
    unlearning::{Task, UnlearningError, Update},
};

use super::{library::Training, suite::DeletionSpec, training_set::TrainingSet};

/// A trained network with all that the service would know about it.
pub struct Trained {
    pub set: TrainingSet,
    pub network: Network,
    pub out_of_fold: OutOfFold,
    /// What the network says of the training rows: `[rows, classes]` natural-log probabilities.
    anchors: Vec<f32>,
    holdout_anchors: Vec<f32>,
    perturbation: Option<Perturbation>,
    seed: u64,
    clock: Clock,
}

/// What came of the requests so far.
pub struct Forgotten {
    pub network: Network,
    /// In the updates alone, without what it takes to gather their samples.
    pub seconds: f64,
    /// Of each update, for the record.
    pub details: Vec<serde_json::Value>,
}

impl Forgotten {
    /// Back to the trained network; the record stays.
    pub fn restart(&mut self, trained: &Trained) {
        self.network = trained.network.clone();
    }
}

impl Trained {
    pub fn new(
        training: &Training,
        network: Network,
        out_of_fold: OutOfFold,
        clock: &Clock,
    ) -> Self {
        let anchors = log_probabilities(&network, &training.set.dataset.train);
        let holdout_anchors = log_probabilities(&network, &training.set.dataset.holdout);
        let set = training.set.clone();
        let perturbation = training.plan.noise(&network);
        let (seed, clock) = (training.plan.recipe.seed, clock.clone());
        Self { set, network, out_of_fold, anchors, holdout_anchors, perturbation, seed, clock }
    }

    pub fn start(&self) -> Forgotten {
        let network = self.network.clone();
        Forgotten { network, seconds: 0.0, details: Vec::new() }
    }

    /// Serves one request, on top of what `state` has forgotten already.
    pub fn forget(
        &self,
        update: &dyn Update,
        state: &mut Forgotten,
        request: &Request<'_>,
        watch: &dyn Watch,
    ) -> Result<(), UnlearningError> {
        let (classes, rows) = (self.network.classes(), request.rows);
        // Another seed for each request, and the same for each method.
        let seed = (self.seed << 20) + request.span.start as u64;
        let pool = self.pool(request, update.retained_rows_max(), seed);
        let (forgotten, retained) = (self.set.select(rows), self.set.select(&pool));
        let device = self.network.device();
        let task = Task {
            network: &state.network,
            forgotten: &forgotten,
            forgotten_out_of_fold: &chosen(&self.out_of_fold.train, rows, classes),
            forgotten_anchor: &chosen(&self.anchors, rows, classes),
            retained: &retained,
            retained_out_of_fold: &chosen(&self.out_of_fold.train, &pool, classes),
            retained_anchor: &chosen(&self.anchors, &pool, classes),
            retained_total: self.set.dataset.train.len() - request.before.len() - rows.len(),
            holdout: self.holdout(),
            holdout_out_of_fold: &self.out_of_fold.holdout,
            holdout_anchor: &self.holdout_anchors,
            perturbation: self.perturbation.as_ref(),
            seed,
            device: &device,
        };
        let started = self.clock.monotonic();
        let updated = update.update(&task, watch)?;
        state.seconds += self.clock.monotonic().duration_since(started).as_secs_f64();
        state.network = updated.network;
        state.details.push(updated.details);
        Ok(())
    }

    fn holdout(&self) -> &Examples {
        &self.set.dataset.holdout
    }

    /// Retained rows, ascending, at most as many as the method wants.
    fn pool(&self, request: &Request<'_>, rows_max: Option<usize>, seed: u64) -> Vec<usize> {
        let mut is_gone = vec![false; self.set.dataset.train.len()];
        for row in request.before.iter().chain(request.rows) {
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

/// One of a deletion's requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Request<'a> {
    /// Rows that are gone when it comes.
    pub before: &'a [usize],
    pub rows: &'a [usize],
    /// Their places among the deleted rows.
    pub span: Range<usize>,
}

/// The requests of a deletion, as equal in size as they can be.
pub fn requests<'a>(deleted: &'a [usize], spec: &DeletionSpec) -> Vec<Request<'a>> {
    let place = |request: usize| deleted.len() * request / spec.requests;
    let request = |number: usize| {
        let span = place(number)..place(number + 1);
        let before = if spec.alone { &[][..] } else { &deleted[..span.start] };
        Request { before, rows: &deleted[span.clone()], span }
    };
    (0..spec.requests).map(request).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::suite::Draw;

    #[test]
    fn requests_cover_the_rows_in_order() {
        let deleted: Vec<usize> = (100..110).collect();
        let spec = |requests, alone| DeletionSpec {
            name: "set".into(),
            draw: Draw::Random,
            rows: Some(10),
            share: None,
            requests,
            alone,
        };
        let one = requests(&deleted, &spec(1, false));
        assert_eq!((one.len(), one[0].rows, one[0].before.len()), (1, deleted.as_slice(), 0));
        let three = requests(&deleted, &spec(3, false));
        let spans: Vec<_> = three.iter().map(|request| request.span.clone()).collect();
        assert_eq!(spans, [0..3, 3..6, 6..10]);
        assert_eq!((three[1].before, three[1].rows), (&deleted[..3], &deleted[3..6]));
        assert!(requests(&deleted, &spec(3, true)).iter().all(|one| one.before.is_empty()));
    }
}
