//! Suites: what an evaluation runs, declared in TOML.

mod check;

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use super::{error::EvaluationError, sisa::Sisa};
use crate::{
    domain::{model::Recipe, network::Architecture},
    nn::convex::PerturbationSpec,
    unlearning::{self, Method, MethodError, Update},
};

/// The suites that come with the program.
const BUNDLED: [(&str, &str); 4] = [
    ("quick", include_str!("../../evaluation/suites/quick.toml")),
    ("paper", include_str!("../../evaluation/suites/paper.toml")),
    ("curves", include_str!("../../evaluation/suites/curves.toml")),
    ("deep", include_str!("../../evaluation/suites/deep.toml")),
];

/// The name of the method that leaves the network as it is.
pub const NOTHING: &str = "nothing";

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    pub name: String,
    pub about: String,
    /// One network is trained for each, and forgets samples of its own draw.
    pub seeds: Vec<u64>,
    /// Retrainings without the deleted samples, for each seed: what a method is judged by, and
    /// what the floor is made of.
    pub retrainings: usize,
    /// Reference models of the likelihood-ratio attack, for each data set and network; 0 goes
    /// without.
    #[serde(default)]
    pub reference_models: usize,
    /// Retained samples that figures are measured on, at most.
    #[serde(default = "retained_measured_max")]
    pub retained_measured_max: usize,
    #[serde(rename = "dataset")]
    pub datasets: Vec<DatasetSpec>,
    #[serde(rename = "network")]
    pub networks: Vec<NetworkEntry>,
    #[serde(rename = "deletion")]
    pub deletions: Vec<DeletionSpec>,
    #[serde(rename = "method")]
    pub methods: Vec<MethodSpec>,
    #[serde(default, rename = "experiment")]
    pub experiments: Vec<Experiment>,
    #[serde(default, rename = "timing")]
    pub timings: Vec<Timing>,
}

const fn retained_measured_max() -> usize {
    2_000
}

/// Where samples come from, and how many of them are taken. Hold-out samples are given to the
/// methods, test samples to nobody: they judge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetSpec {
    pub name: String,
    /// `digits`; all samples are one pool, from which the three splits are drawn.
    #[serde(default)]
    pub bundled: Option<String>,
    /// File in the data folder, `.csv` or `.parquet`.
    #[serde(default)]
    pub train: Option<String>,
    /// Its samples are drawn for the hold-out set first, for the test set then.
    #[serde(default)]
    pub test: Option<String>,
    #[serde(default = "label")]
    pub label: String,
    /// Column of the data subject, which is no feature; CSV needs one.
    #[serde(default)]
    pub subject: Option<String>,
    /// All that there are, when absent.
    #[serde(default)]
    pub train_rows: Option<usize>,
    pub holdout_rows: usize,
    pub test_rows: usize,
    /// Of the draw.
    #[serde(default)]
    pub seed: u64,
}

fn label() -> String {
    "label".into()
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkEntry {
    pub name: String,
    pub architecture: Architecture,
    /// Its seed is the evaluation's.
    #[serde(default)]
    pub recipe: Recipe,
    /// Of the objective, as `certified` asks for; linear networks only.
    #[serde(default)]
    pub perturbation: Option<PerturbationSpec>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeletionSpec {
    pub name: String,
    pub draw: Draw,
    /// How many samples; or:
    #[serde(default)]
    pub rows: Option<usize>,
    /// Of the training samples, or of the class's for [`Draw::Class`].
    #[serde(default)]
    pub share: Option<f64>,
    /// The samples are deleted in this many requests, one after the other.
    #[serde(default = "one")]
    pub requests: usize,
    /// Each request is served by the trained network instead, as if no other had come; figures
    /// are means over the requests. Small deletions are judged by many of them.
    #[serde(default)]
    pub alone: bool,
}

const fn one() -> usize {
    1
}

/// Which samples are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Draw {
    Random,
    /// Of one class, which the seed decides.
    Class,
    /// Those on which the trained network's loss is highest.
    HighestLoss,
    /// At random; they were given the next class's label before training.
    Mislabelled,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodSpec {
    /// `nothing`, `sisa`, or a method of `unlearning`.
    pub name: String,
    /// The name when absent.
    #[serde(default)]
    pub label: Option<String>,
    #[serde(default)]
    pub parameters: serde_json::Map<String, serde_json::Value>,
    /// Of the cross-fitting; the network's recipe's when absent.
    #[serde(default)]
    pub folds: Option<u32>,
}

/// Every data set with every network, deletion, method and seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    pub datasets: Vec<String>,
    pub networks: Vec<String>,
    pub deletions: Vec<String>,
    /// Labels; all methods when absent.
    #[serde(default)]
    pub methods: Option<Vec<String>>,
    /// The suite's when absent.
    #[serde(default)]
    pub seeds: Option<Vec<u64>>,
}

/// The same grid, run with nothing beside it and timed against retraining.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    pub datasets: Vec<String>,
    pub networks: Vec<String>,
    pub deletions: Vec<String>,
    #[serde(default)]
    pub methods: Option<Vec<String>>,
    /// Sizes of the training set; the data set's own when absent.
    #[serde(default)]
    pub train_rows: Option<Vec<usize>>,
    #[serde(default = "repeats")]
    pub repeats: usize,
}

const fn repeats() -> usize {
    3
}

/// What is done with a case.
pub enum Contender {
    Nothing,
    Sisa(Sisa),
    Update(Box<dyn Update>),
}

impl MethodSpec {
    pub fn label(&self) -> &str {
        self.label.as_deref().unwrap_or(&self.name)
    }

    /// # Errors
    /// When there is no such method, it does not take the parameters, or it is retraining, which
    /// is the floor.
    pub fn contender(&self) -> Result<Contender, EvaluationError> {
        match self.name.as_str() {
            NOTHING => Ok(Contender::Nothing),
            Sisa::NAME => {
                let sisa: Sisa = unlearning::parse(&self.name, &self.parameters)
                    .map_err(EvaluationError::method)?;
                let range = |source| MethodError::Range { method: self.name.clone(), source };
                sisa.validate().map_err(range).map_err(EvaluationError::method)?;
                Ok(Contender::Sisa(sisa))
            }
            name => match unlearning::by_name(name, &self.parameters) {
                Ok(Method::Update(update)) => Ok(Contender::Update(update)),
                Ok(Method::Retrain) => {
                    let problem = "`retrain` is always measured: it is the floor";
                    Err(EvaluationError::Suite(problem.into()))
                }
                Err(error) => Err(EvaluationError::method(error)),
            },
        }
    }

    /// Whether it wants to know what models say that did not see a row.
    pub fn wants_folds(&self) -> bool {
        ![NOTHING, Sisa::NAME].contains(&self.name.as_str())
    }
}

impl Suite {
    /// A bundled suite by its name, or one from a file whose name ends in `.toml`.
    ///
    /// # Errors
    /// When there is none, it cannot be read, or it declares what cannot be run.
    pub fn load(name: &str) -> Result<Self, EvaluationError> {
        let path = Path::new(name);
        let text = if path.extension().is_some_and(|ending| ending == "toml") {
            let input = |source| EvaluationError::Input { path: path.to_owned(), source };
            fs::read_to_string(path).map_err(input)?
        } else {
            let bundled = BUNDLED.iter().find(|(bundled, _)| *bundled == name);
            let Some((_, text)) = bundled else {
                let present = BUNDLED.map(|(name, _)| name).join(", ");
                return Err(EvaluationError::UnknownSuite { name: name.to_owned(), present });
            };
            (*text).to_owned()
        };
        let suite: Self = toml::from_str(&text).map_err(|source| EvaluationError::Toml {
            name: name.to_owned(),
            source: Box::new(source),
        })?;
        suite.check()?;
        Ok(suite)
    }

    /// Without the other data sets, and named after these.
    ///
    /// # Errors
    /// When the suite has no data set of a name.
    pub fn restricted_to(self, datasets: &[String]) -> Result<Self, EvaluationError> {
        if let Some(name) = datasets.iter().find(|name| self.dataset(name).is_none()) {
            return Err(EvaluationError::Suite(format!("there is no data set {name:?}")));
        }
        let kept = |name: &String| datasets.contains(name);
        let mut suite = Self { name: format!("{}, {}", self.name, datasets.join(", ")), ..self };
        suite.datasets.retain(|dataset| kept(&dataset.name));
        suite.experiments.iter_mut().for_each(|experiment| experiment.datasets.retain(kept));
        suite.timings.iter_mut().for_each(|timing| timing.datasets.retain(kept));
        Ok(suite)
    }

    pub fn dataset(&self, name: &str) -> Option<&DatasetSpec> {
        self.datasets.iter().find(|dataset| dataset.name == name)
    }

    pub fn network(&self, name: &str) -> Option<&NetworkEntry> {
        self.networks.iter().find(|network| network.name == name)
    }

    pub fn deletion(&self, name: &str) -> Option<&DeletionSpec> {
        self.deletions.iter().find(|deletion| deletion.name == name)
    }

    pub fn method(&self, label: &str) -> Option<&MethodSpec> {
        self.methods.iter().find(|method| method.label() == label)
    }
}

impl DeletionSpec {
    /// How many of `rows` are deleted; at least one for every request.
    pub fn count(&self, rows: usize) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a count"
        )]
        let of_share = |share: f64| (rows as f64 * share).round() as usize;
        self.rows.or(self.share.map(of_share)).unwrap_or(1).max(self.requests)
    }
}
