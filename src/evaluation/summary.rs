//! What the raw results say, over the seeds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    bench::mean_curve,
    case::Case,
    cell::{Cell, Outcome, Results},
    error::EvaluationError,
    figure::{Figure, Figures},
    statistics::Estimate,
    storage::{self, Storage},
    suite::MethodSpec,
    timing::TimingTable,
};
use crate::domain::timestamp::Timestamp;

/// Every table of a suite, as `results.json` has them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    pub suite: String,
    pub about: String,
    pub machine: Machine,
    /// That led to these results, the last of which wrote them; a run that was killed is missing.
    pub runs: Vec<Run>,
    pub retrainings: usize,
    pub reference_models: usize,
    pub tables: Vec<Table>,
    pub timings: Vec<TimingTable>,
}

/// One call of the program on the output folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    pub started_at: Timestamp,
    pub seconds: f64,
    pub ending: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Complete,
    Stopped,
    Failed,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub processor: String,
    pub threads: usize,
    /// Version of the program, and a digest of the code that decides the figures.
    pub program: String,
}

/// All methods on one data set, network and deletion.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    pub dataset: String,
    pub network: String,
    pub deletion: String,
    pub train_rows: usize,
    pub deleted: usize,
    pub requests: usize,
    /// Whether each request was served by the trained network, not by what the last one left.
    pub alone: bool,
    pub seeds: Vec<u64>,
    /// The retrained networks, each against the others.
    pub floor: Row,
    pub methods: Vec<Row>,
}

impl Summary {
    /// With what, when and for how long the results were made.
    pub fn origin(&self) -> String {
        let Machine { processor, threads, program } = &self.machine;
        let seconds: f64 = self.runs.iter().map(|run| run.seconds).sum();
        let when = self.runs.last().map_or_else(String::new, |run| run.started_at.to_string());
        let when =
            when.split('.').next().unwrap_or_default().trim_end_matches('Z').replace('T', " ");
        let runs = match self.runs.len() {
            1 => "one run".to_owned(),
            runs => format!("{runs} runs"),
        };
        format!(
            "forgetd {program} on {processor}, {threads} threads; last run {when} UTC, {runs} of \
             {:.1} minutes in all.",
            seconds / 60.0
        )
    }

    /// A warning where results are missing.
    pub fn incompleteness(&self) -> Option<&'static str> {
        match self.runs.last()?.ending {
            Ending::Complete => None,
            Ending::Stopped => {
                Some("Unfinished: the last run was stopped. Means are over what there is.")
            }
            Ending::Failed => {
                Some("Unfinished: the last run failed. Means are over what there is.")
            }
        }
    }
}

impl Table {
    pub fn title(&self) -> String {
        format!("{}, {}: {}", self.dataset, self.network, self.deletion)
    }

    /// How many samples were deleted, and how.
    pub fn describe(&self) -> String {
        let Self { deleted, train_rows, requests, .. } = self;
        let how = match (*requests, self.alone) {
            (1, _) => "in one request".to_owned(),
            (requests, false) => format!("in {requests} requests, one after the other"),
            (requests, true) => format!(
                "in {requests} requests, each on the trained network as if no other had come; \
                 figures are means over them, and the retrained networks are those without all"
            ),
        };
        let seeds: Vec<String> = self.seeds.iter().map(u64::to_string).collect();
        format!(
            "{deleted} of {train_rows} training samples deleted {how}; seeds {}.",
            seeds.join(", ")
        )
    }

    /// The figures that the table has.
    pub fn columns(&self) -> Vec<Figure> {
        let has_it = |figure: &Figure| self.floor.figures.contains_key(figure);
        Figure::ALL.into_iter().filter(has_it).collect()
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub label: String,
    /// Over the seeds.
    pub figures: BTreeMap<Figure, Estimate>,
    /// The figure less the floor's with the same seed, over the seeds.
    pub gaps: BTreeMap<Figure, Estimate>,
    /// Mean true-positive rates on `attack::grid`.
    pub attack_curve: Option<Vec<f64>>,
    pub lira_curve: Option<Vec<f64>>,
    pub drift: Vec<DriftMean>,
    /// Why the method has no result, one a seed that it failed on.
    pub failures: Vec<String>,
    /// Seeds whose cells are there.
    pub cells: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DriftMean {
    pub requests: usize,
    pub deleted: usize,
    pub figures: BTreeMap<Figure, Estimate>,
}

/// Reads the cells that are there; a suite that was stopped has fewer.
pub fn tables(cases: &[Case], storage: &Storage) -> Result<Vec<Table>, EvaluationError> {
    let mut groups: Vec<Vec<&Case>> = Vec::new();
    for case in cases {
        match groups.iter_mut().find(|group| group[0].is_of_the_table_of(case)) {
            Some(group) => group.push(case),
            None => groups.push(vec![case]),
        }
    }
    let tables = groups.into_iter().map(|group| table(&group, storage));
    tables.filter_map(Result::transpose).collect()
}

/// `None` where no floor is known yet.
fn table(cases: &[&Case], storage: &Storage) -> Result<Option<Table>, EvaluationError> {
    let floors = cells(cases, None, storage)?;
    let Some(first) = floors.first() else { return Ok(None) };
    let mut methods: Vec<&MethodSpec> = Vec::new();
    for method in cases.iter().flat_map(|case| &case.methods) {
        if methods.iter().all(|known| known.label() != method.label()) {
            methods.push(method);
        }
    }
    let rows = methods
        .into_iter()
        .map(|method| Ok(row(method.label(), &cells(cases, Some(method), storage)?, &floors)));
    let case = cases[0];
    Ok(Some(Table {
        dataset: case.dataset.name.clone(),
        network: case.network.name.clone(),
        deletion: case.deletion.name.clone(),
        train_rows: case.dataset.train.len(),
        deleted: first.deleted,
        requests: case.deletion.requests,
        alone: case.deletion.alone,
        seeds: floors.iter().map(|floor| floor.seed).collect(),
        methods: rows.collect::<Result<_, EvaluationError>>()?,
        floor: row("retrain", &floors, &[]),
    }))
}

fn cells(
    cases: &[&Case],
    method: Option<&MethodSpec>,
    storage: &Storage,
) -> Result<Vec<Cell>, EvaluationError> {
    let mut found = Vec::new();
    for case in cases {
        let has_it = |wanted: &MethodSpec| case.methods.iter().any(|m| m.label() == wanted.label());
        if method.is_none_or(has_it) {
            let path = storage.place("cells", &case.cell_key(method)?, "json");
            found.extend(storage::read_json::<Cell>(&path)?);
        }
    }
    Ok(found)
}

fn row(label: &str, cells: &[Cell], floors: &[Cell]) -> Row {
    let measured: Vec<(u64, &Results)> = cells
        .iter()
        .filter_map(|cell| match &cell.outcome {
            Outcome::Measured(results) => Some((cell.seed, &**results)),
            Outcome::Failed(_) => None,
        })
        .collect();
    let gap = |(seed, results): &(u64, &Results), figure: Figure| -> Option<f64> {
        let floor = floors.iter().find(|floor| floor.seed == *seed)?;
        let Outcome::Measured(floor) = &floor.outcome else { return None };
        Some(results.figures.get(&figure)? - floor.figures.get(&figure)?)
    };
    let all: Vec<&Results> = measured.iter().map(|(_, results)| *results).collect();
    let figures: Vec<&Figures> = all.iter().map(|results| &results.figures).collect();
    Row {
        label: label.to_owned(),
        figures: estimates(|figure| {
            figures.iter().filter_map(|figures| figures.get(&figure)).copied().collect()
        }),
        gaps: estimates(|figure| measured.iter().filter_map(|one| gap(one, figure)).collect()),
        attack_curve: mean_curve(all.iter().map(|results| results.attack_curve.as_deref())),
        lira_curve: mean_curve(all.iter().map(|results| results.lira_curve.as_deref())),
        drift: drift(&all),
        failures: cells
            .iter()
            .filter_map(|cell| match &cell.outcome {
                Outcome::Failed(why) => Some(why.clone()),
                Outcome::Measured(_) => None,
            })
            .collect(),
        cells: cells.len(),
    }
}

fn estimates(values: impl Fn(Figure) -> Vec<f64>) -> BTreeMap<Figure, Estimate> {
    let of = |figure| Estimate::of(values(figure)).map(|estimate| (figure, estimate));
    Figure::ALL.into_iter().filter_map(of).collect()
}

fn drift(all: &[&Results]) -> Vec<DriftMean> {
    let Some(first) = all.first() else { return Vec::new() };
    let mean_at = |at: usize| DriftMean {
        requests: first.drift[at].requests,
        deleted: first.drift[at].deleted,
        figures: estimates(|figure| {
            let points = all.iter().filter_map(|results| results.drift.get(at));
            points.filter_map(|point| point.figures.get(&figure)).copied().collect()
        }),
    };
    (0..first.drift.len()).map(mean_at).collect()
}
