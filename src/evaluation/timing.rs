//! Timings: a method against retraining, one run after the other with nothing beside them.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    case::Case,
    cell::RETRAIN,
    error::{EvaluationError, Failure},
    library::{Library, Training},
    sisa::Sisa,
    statistics::median,
    storage::{self, Storage},
    suite::{Contender, MethodSpec},
    update::{Trained, requests},
};
use crate::{
    clock::Clock,
    domain::{chain::Chain, watch::Watch},
    nn::training::TrainingError,
};

/// A case whose methods are timed.
#[derive(Clone, Debug)]
pub struct Timed {
    pub case: Case,
    /// Runs of each method, at most.
    pub repeats: usize,
    /// What the times were measured on.
    pub processor: String,
}

/// A raw result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TimingCell {
    /// Everything that decides the result but the machine's state.
    pub key: serde_json::Value,
    /// Samples that one update deletes, all requests of a stream together.
    pub deleted: usize,
    /// Of computing, without reading or gathering samples; one a run, all on one thread. For a
    /// stream the sum over its requests, for requests that stand alone their mean.
    pub seconds: Vec<f64>,
    pub failure: Option<String>,
}

/// Times of one deletion on one network, as `results.json` has them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TimingTable {
    pub dataset: String,
    pub network: String,
    pub deletion: String,
    pub train_rows: usize,
    pub deleted: usize,
    pub is_stream: bool,
    /// Of training with the same recipe and seed without the deleted samples; the cross-fitting
    /// that a settlement does as well is not counted.
    pub retraining: Time,
    pub methods: Vec<Time>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Time {
    pub label: String,
    /// The median run.
    pub seconds: f64,
    pub runs: Vec<f64>,
}

impl TimingTable {
    /// How many times `iau-reference`'s time a method takes; `None` where that was not timed.
    pub fn to_reference(&self, time: &Time) -> Option<f64> {
        let reference = self.methods.iter().find(|time| time.label == "iau-reference")?;
        Some(time.seconds / reference.seconds)
    }
}

/// What has taken this long is not run again.
const ENOUGH_SECONDS: f64 = 60.0;

impl Timed {
    /// Key of a method's timing; of retraining's without a method.
    pub fn key(&self, method: Option<&MethodSpec>) -> Result<serde_json::Value, EvaluationError> {
        let cell = self.case.cell_key(method)?;
        Ok(json!({"timing": cell, "repeats": self.repeats, "processor": self.processor}))
    }

    /// Times what the output folder lacks.
    pub fn fill(
        &self,
        library: &Library,
        storage: &Storage,
        clock: &Clock,
        watch: &dyn Watch,
    ) -> Result<(), EvaluationError> {
        let rows = self.case.deleted(library, watch)?;
        let deleted = rows.len() / self.updates();
        for method in std::iter::once(None).chain(self.case.methods.iter().map(Some)) {
            let key = self.key(method)?;
            let path = storage.place("timings", &key, "json");
            if path.exists() {
                continue;
            }
            let timed = match method {
                None => self.time_retraining(&rows, clock, watch),
                Some(method) => self.time_method(method, &rows, library, clock, watch),
            };
            let (seconds, failure) = match timed {
                Ok(seconds) => (seconds, None),
                Err(Failure::Method(error)) => (Vec::new(), Some(Chain(&error).to_string())),
                Err(Failure::Evaluation(error)) => return Err(error),
            };
            storage::write_json(&path, &TimingCell { key, deleted, seconds, failure })?;
        }
        Ok(())
    }

    /// What is known so far; `None` without the retraining's time.
    pub fn table(&self, storage: &Storage) -> Result<Option<TimingTable>, EvaluationError> {
        let cell = |method: Option<&MethodSpec>| {
            storage::read_json::<TimingCell>(&storage.place("timings", &self.key(method)?, "json"))
        };
        let time = |method: Option<&MethodSpec>| -> Result<Option<Time>, EvaluationError> {
            let Some(cell) = cell(method)? else { return Ok(None) };
            let label = method.map_or(RETRAIN, MethodSpec::label).to_owned();
            let time = |seconds| Time { label, seconds, runs: cell.seconds.clone() };
            Ok(median(&cell.seconds).map(time))
        };
        let (Some(TimingCell { deleted, .. }), Some(retraining)) = (cell(None)?, time(None)?)
        else {
            return Ok(None);
        };
        let methods = self.case.methods.iter().filter_map(|method| time(Some(method)).transpose());
        let (dataset, deletion) = (&self.case.dataset, &self.case.deletion);
        Ok(Some(TimingTable {
            dataset: dataset.name.clone(),
            network: self.case.network.name.clone(),
            deletion: deletion.name.clone(),
            train_rows: dataset.train.len(),
            deleted,
            is_stream: deletion.requests > 1 && !deletion.alone,
            methods: methods.collect::<Result<_, _>>()?,
            retraining,
        }))
    }

    fn time_retraining(
        &self,
        deleted: &[usize],
        clock: &Clock,
        watch: &dyn Watch,
    ) -> Result<Vec<f64>, Failure> {
        let training = self.case.settled(deleted);
        self.repeat(|| Ok(time_training(&training, clock, watch)?))
    }

    fn time_method(
        &self,
        spec: &MethodSpec,
        deleted: &[usize],
        library: &Library,
        clock: &Clock,
        watch: &dyn Watch,
    ) -> Result<Vec<f64>, Failure> {
        let update = match spec.contender()? {
            Contender::Nothing => return Ok(Vec::new()),
            Contender::Sisa(sisa) => return self.time_sisa(&sisa, deleted, clock, watch),
            Contender::Update(update) => update,
        };
        let training = self.case.base_of(spec, deleted);
        let network = library.network(&training, watch)?;
        let out_of_fold = library.out_of_fold(&training, watch)?;
        let trained = Trained::new(&training, network, out_of_fold, clock);
        self.repeat(|| {
            let mut state = trained.start();
            for request in requests(deleted, &self.case.deletion) {
                if self.case.deletion.alone {
                    state.restart(&trained);
                }
                trained.forget(update.as_ref(), &mut state, &request, watch)?;
            }
            Ok(state.seconds / self.updates() as f64)
        })
    }

    fn time_sisa(
        &self,
        sisa: &Sisa,
        deleted: &[usize],
        clock: &Clock,
        watch: &dyn Watch,
    ) -> Result<Vec<f64>, Failure> {
        self.repeat(|| {
            let mut seconds = 0.0;
            for request in requests(deleted, &self.case.deletion) {
                let (before, rows) = (request.before, request.rows);
                for training in sisa.retrained(&self.case, deleted, before, rows) {
                    seconds += time_training(&training, clock, watch)?;
                }
            }
            Ok(seconds / self.updates() as f64)
        })
    }

    /// Over how many a run's time is averaged; a stream counts as one.
    fn updates(&self) -> usize {
        if self.case.deletion.alone { self.case.deletion.requests } else { 1 }
    }

    fn repeat(&self, mut run: impl FnMut() -> Result<f64, Failure>) -> Result<Vec<f64>, Failure> {
        let mut seconds = Vec::new();
        while seconds.len() < self.repeats && seconds.iter().sum::<f64>() < ENOUGH_SECONDS {
            seconds.push(run()?);
        }
        Ok(seconds)
    }
}

fn time_training(
    training: &Training,
    clock: &Clock,
    watch: &dyn Watch,
) -> Result<f64, EvaluationError> {
    let examples = training.set.examples();
    let started = clock.monotonic();
    training.plan.train(&examples, watch).map_err(|error| match error {
        TrainingError::Cancelled => EvaluationError::Stopped,
        source => EvaluationError::Training { what: RETRAIN.to_owned(), source: Box::new(source) },
    })?;
    Ok(clock.monotonic().duration_since(started).as_secs_f64())
}
