//! Cells: one method on one case, each with a raw result of its own in the output folder.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    bench::Measured,
    case::Case,
    error::{EvaluationError, Failure},
    figure::Figures,
    fitting::Fitting,
    library::{CODE, Library},
    storage::{self, Storage},
    suite::{Contender, MethodSpec},
};
use crate::{
    clock::Clock,
    domain::{chain::Chain, watch::Watch},
};

/// The name under which the retrained networks' own figures stand: the floor.
pub const RETRAIN: &str = "retrain";

/// A raw result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    /// Everything that decides the result.
    pub key: serde_json::Value,
    pub network: String,
    pub dataset: String,
    pub deletion: String,
    pub seed: u64,
    /// Deleted samples.
    pub deleted: usize,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Measured(Box<Results>),
    /// Why the method has none.
    Failed(String),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    pub figures: Figures,
    /// True-positive rates of the loss attack on `attack::grid`.
    pub attack_curve: Option<Vec<f64>>,
    pub lira_curve: Option<Vec<f64>>,
    /// After some of the requests; empty for a single one.
    pub drift: Vec<DriftPoint>,
    /// In the updates, beside other work: no figure to compare by. Timings are cells of their own.
    pub seconds: f64,
    /// What the method told of each update.
    pub details: Vec<serde_json::Value>,
}

/// Measured over the samples deleted so far.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DriftPoint {
    pub requests: usize,
    pub deleted: usize,
    pub figures: Figures,
}

impl Case {
    /// Key of a method's cell on this case; of the floor's without a method.
    ///
    /// # Errors
    /// When the method cannot be had.
    pub fn cell_key(
        &self,
        method: Option<&MethodSpec>,
    ) -> Result<serde_json::Value, EvaluationError> {
        let method = match method {
            None => json!({"name": RETRAIN}),
            Some(spec) => match spec.contender()? {
                Contender::Update(update) => json!({
                    "name": spec.name,
                    "parameters": update.parameters(),
                    "folds": spec.folds,
                }),
                Contender::Sisa(sisa) => {
                    json!({"name": spec.name, "parameters": sisa.parameters()})
                }
                Contender::Nothing => json!({"name": spec.name}),
            },
        };
        Ok(json!({"code": CODE, "case": self.key(), "method": method}))
    }

    /// Makes the cells that the output folder lacks.
    pub fn fill(
        &self,
        library: &Library,
        storage: &Storage,
        clock: &Clock,
        watch: &dyn Watch,
    ) -> Result<(), EvaluationError> {
        let mut missing = Vec::new();
        for method in std::iter::once(None).chain(self.methods.iter().map(Some)) {
            let key = self.cell_key(method)?;
            let path = storage.place("cells", &key, "json");
            if !path.exists() {
                missing.push((method, key, path));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let fitting = Fitting::new(self, library, clock, watch)?;
        for (method, key, path) in missing {
            let outcome = match method.map_or_else(|| fitting.floor(), |it| fitting.run(it)) {
                Ok(results) => Outcome::Measured(Box::new(results)),
                Err(Failure::Method(error)) => Outcome::Failed(Chain(&error).to_string()),
                Err(Failure::Evaluation(error)) => return Err(error),
            };
            let cell = Cell {
                key,
                network: self.network.name.clone(),
                dataset: self.dataset.name.clone(),
                deletion: self.deletion.name.clone(),
                seed: self.seed,
                deleted: fitting.deleted.len(),
                outcome,
            };
            storage::write_json(&path, &cell)?;
        }
        Ok(())
    }
}

impl Results {
    pub fn with(self, measured: Measured) -> Self {
        Self {
            figures: measured.figures,
            attack_curve: measured.attack_curve,
            lira_curve: measured.lira_curve,
            ..self
        }
    }
}
