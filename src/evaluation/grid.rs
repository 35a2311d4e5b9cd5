//! From what a suite declares to the cases that are run.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::{
    case::Case,
    data::Dataset,
    error::EvaluationError,
    suite::{MethodSpec, Suite},
    timing::Timed,
};
use crate::{
    domain::watch::{Progress, Watch},
    nn::device::DeviceKind,
};

/// Data sets in memory, each size of each once.
pub struct Shelf<'a> {
    suite: &'a Suite,
    /// Where the suite's files are.
    folder: Option<&'a Path>,
    device: DeviceKind,
    watch: &'a dyn Watch,
    loaded: BTreeMap<(String, Option<usize>), Arc<Dataset>>,
}

impl<'a> Shelf<'a> {
    pub fn new(
        suite: &'a Suite,
        folder: Option<&'a Path>,
        device: DeviceKind,
        watch: &'a dyn Watch,
    ) -> Self {
        Self { suite, folder, device, watch, loaded: BTreeMap::new() }
    }

    fn take(
        &mut self,
        name: &str,
        train_rows: Option<usize>,
    ) -> Result<Option<Arc<Dataset>>, EvaluationError> {
        let place = (name.to_owned(), train_rows);
        if let Some(dataset) = self.loaded.get(&place) {
            return Ok(Some(dataset.clone()));
        }
        let Some(spec) = self.suite.dataset(name) else { return Ok(None) };
        if self.watch.is_cancelled() {
            return Err(EvaluationError::Stopped);
        }
        let stage = format!("reading {name}");
        self.watch.progressed(&Progress { stage: stage.clone(), done: 0, total: 1 });
        let dataset = Arc::new(Dataset::load(spec, self.folder, train_rows)?);
        self.watch.progressed(&Progress { stage, done: 1, total: 1 });
        self.loaded.insert(place, dataset.clone());
        Ok(Some(dataset))
    }

    /// Every case of the suite's experiments, with the methods that are run on it.
    pub fn cases(&mut self) -> Result<Vec<Case>, EvaluationError> {
        let mut cases: Vec<Case> = Vec::new();
        for experiment in &self.suite.experiments {
            for name in &experiment.datasets {
                let Some(dataset) = self.take(name, None)? else { continue };
                let grid = Grid {
                    networks: &experiment.networks,
                    deletions: &experiment.deletions,
                    methods: experiment.methods.as_deref(),
                    seeds: experiment.seeds.as_ref().unwrap_or(&self.suite.seeds),
                };
                for case in grid.cases(self.suite, &dataset, self.device)? {
                    merge(&mut cases, case);
                }
            }
        }
        Ok(cases)
    }

    /// Every case of the suite's timings, with the first seed.
    pub fn timed(&mut self, processor: &str) -> Result<Vec<Timed>, EvaluationError> {
        let mut timed = Vec::new();
        for timing in &self.suite.timings {
            let sizes = match &timing.train_rows {
                Some(sizes) => sizes.iter().copied().map(Some).collect(),
                None => vec![None],
            };
            for (name, train_rows) in
                timing.datasets.iter().flat_map(|name| sizes.iter().map(move |size| (name, *size)))
            {
                let Some(dataset) = self.take(name, train_rows)? else { continue };
                let grid = Grid {
                    networks: &timing.networks,
                    deletions: &timing.deletions,
                    methods: timing.methods.as_deref(),
                    seeds: self.suite.seeds.get(..1).unwrap_or(&[]),
                };
                let cases = grid.cases(self.suite, &dataset, self.device)?;
                timed.extend(cases.into_iter().map(|case| Timed {
                    case: Case { retrainings: 0, reference_models: 0, ..case },
                    repeats: timing.repeats,
                    processor: processor.to_owned(),
                }));
            }
        }
        Ok(timed)
    }
}

/// What an experiment or a timing names, on one data set.
struct Grid<'a> {
    networks: &'a [String],
    deletions: &'a [String],
    /// Labels; all of the suite's when absent.
    methods: Option<&'a [String]>,
    seeds: &'a [u64],
}

impl Grid<'_> {
    fn cases(
        &self,
        suite: &Suite,
        dataset: &Arc<Dataset>,
        device: DeviceKind,
    ) -> Result<Vec<Case>, EvaluationError> {
        let methods: Vec<MethodSpec> = match self.methods {
            Some(labels) => {
                labels.iter().filter_map(|label| suite.method(label)).cloned().collect()
            }
            None => suite.methods.clone(),
        };
        let mut cases = Vec::new();
        for network in self.networks.iter().filter_map(|name| suite.network(name)) {
            let spec = Case::resolve(network, dataset)?;
            for deletion in self.deletions.iter().filter_map(|name| suite.deletion(name)) {
                cases.extend(self.seeds.iter().map(|seed| Case {
                    dataset: dataset.clone(),
                    network: network.clone(),
                    spec: spec.clone(),
                    deletion: deletion.clone(),
                    seed: *seed,
                    retrainings: suite.retrainings,
                    reference_models: suite.reference_models,
                    retained_measured_max: suite.retained_measured_max,
                    methods: methods.clone(),
                    device,
                }));
            }
        }
        Ok(cases)
    }
}

/// Two experiments may name the same case with other methods.
fn merge(cases: &mut Vec<Case>, case: Case) {
    match cases.iter_mut().find(|known| known.is_the_same_as(&case)) {
        Some(known) => {
            for method in case.methods {
                if known.methods.iter().all(|other| other.label() != method.label()) {
                    known.methods.push(method);
                }
            }
        }
        None => cases.push(case),
    }
}
