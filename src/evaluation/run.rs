//! An evaluation from its suite to its report.

use std::{collections::BTreeSet, path::PathBuf};

use super::{
    case::Case,
    crew::work_through,
    error::EvaluationError,
    grid::Shelf,
    library::{CODE, Library, Reference, Training},
    report,
    storage::{self, Storage},
    suite::Suite,
    summary::{self, Ending, Machine, Run, Summary},
    timing::Timed,
};
use crate::{clock::Clock, domain::watch::Watch, nn::device::DeviceKind};

#[derive(Clone, Debug)]
pub struct Options {
    /// Where the suite's files are.
    pub data: Option<PathBuf>,
    /// Where everything is written to, and what is there already is used again.
    pub out: PathBuf,
    /// Models and cells worked on at a time.
    pub threads: usize,
    pub device: DeviceKind,
}

/// Runs what the output folder lacks, and writes the report. A run that was stopped or failed
/// leaves a report of what there is.
pub fn run(
    suite: &Suite,
    options: &Options,
    clock: &Clock,
    watch: &dyn Watch,
) -> Result<Summary, EvaluationError> {
    let started = (clock.now(), clock.monotonic());
    let storage = Storage::new(&options.out);
    let library = Library::new(storage.clone());
    let machine = Machine::this(options.threads);
    let mut shelf = Shelf::new(suite, options.data.as_deref(), options.device, watch);
    let (cases, timed) = (shelf.cases()?, shelf.timed(&machine.processor)?);
    drop(shelf);

    let done = (|| {
        train(&cases, &timed, &library, options.threads, watch)?;
        work_through("unlearning", &cases, options.threads, watch, |case, watch| {
            case.fill(&library, &storage, clock, watch)
        })?;
        work_through("timing", &timed, 1, watch, |timed, watch| {
            timed.fill(&library, &storage, clock, watch)
        })
    })();
    let ending = match &done {
        Ok(()) => Ending::Complete,
        Err(EvaluationError::Stopped) => Ending::Stopped,
        Err(_) => Ending::Failed,
    };
    let seconds = clock.monotonic().duration_since(started.1).as_secs_f64();
    let runs = record(&storage, Run { started_at: started.0, seconds, ending })?;
    let timings = timed.iter().filter_map(|timed| timed.table(&storage).transpose());
    let summary = Summary {
        suite: suite.name.clone(),
        about: suite.about.clone(),
        machine,
        runs,
        retrainings: suite.retrainings,
        reference_models: suite.reference_models,
        tables: summary::tables(&cases, &storage)?,
        timings: timings.collect::<Result<_, _>>()?,
    };
    report::write(&summary, &storage)?;
    done.map(|()| summary)
}

/// Adds a run to those that the output folder knows of.
fn record(storage: &Storage, run: Run) -> Result<Vec<Run>, EvaluationError> {
    let path = storage.path("runs.json");
    let mut runs: Vec<Run> = storage::read_json(&path)?.unwrap_or_default();
    runs.push(run);
    storage::write_json(&path, &runs)?;
    Ok(runs)
}

/// What is trained, each once.
enum Model<'a> {
    Network(Training),
    OutOfFold(Training),
    Reference(&'a Reference),
}

/// Trains in two waves: which samples are deleted may depend on the networks of the first.
fn train(
    cases: &[Case],
    timed: &[Timed],
    library: &Library,
    threads: usize,
    watch: &dyn Watch,
) -> Result<(), EvaluationError> {
    let references: Vec<Reference> = cases.iter().flat_map(Case::references).collect();
    let mut first = Wave::default();
    for case in cases.iter().chain(timed.iter().map(|timed| &timed.case)) {
        let base = case.base_before_choice()?;
        for folds in case.folds() {
            let base = base.with_folds(folds);
            first.add(&base.key_with_folds(), Model::OutOfFold(base));
        }
        first.add(&base.key(), Model::Network(base));
    }
    for reference in &references {
        first.add(&reference.key(), Model::Reference(reference));
    }
    first.train("training", library, threads, watch)?;

    let mut second = Wave::default();
    for case in cases {
        let deleted = case.deleted(library, watch)?;
        for training in case.retrained(&deleted).into_iter().chain(case.ensembles(&deleted)?) {
            second.add(&training.key(), Model::Network(training));
        }
    }
    second.train("retraining", library, threads, watch)
}

#[derive(Default)]
struct Wave<'a> {
    keys: BTreeSet<String>,
    models: Vec<Model<'a>>,
}

impl<'a> Wave<'a> {
    fn add(&mut self, key: &serde_json::Value, model: Model<'a>) {
        if self.keys.insert(key.to_string()) {
            self.models.push(model);
        }
    }

    fn train(
        &self,
        stage: &str,
        library: &Library,
        threads: usize,
        watch: &dyn Watch,
    ) -> Result<(), EvaluationError> {
        work_through(stage, &self.models, threads, watch, |model, watch| match model {
            Model::Network(training) => library.network(training, watch).map(drop),
            Model::OutOfFold(training) => library.out_of_fold(training, watch).map(drop),
            Model::Reference(reference) => library.reference(reference, watch).map(drop),
        })
    }
}

impl Machine {
    fn this(threads: usize) -> Self {
        let described = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = described
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split(':').nth(1))
            .map_or_else(|| std::env::consts::ARCH.to_owned(), |name| name.trim().to_owned());
        let program = format!("{} ({})", env!("CARGO_PKG_VERSION"), CODE);
        Self { processor, threads, program }
    }
}
