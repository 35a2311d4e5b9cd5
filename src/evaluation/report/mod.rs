//! What people and programs read of an evaluation.

mod drawings;
mod html;
mod markdown;
mod overview;
mod plot;

use super::{
    error::EvaluationError,
    storage::{self, Storage},
    summary::Summary,
};

/// Writes `results.json`, `report.md` and `report.html`.
pub fn write(summary: &Summary, storage: &Storage) -> Result<(), EvaluationError> {
    storage::write_json(&storage.path("results.json"), summary)?;
    storage::write(&storage.path("report.md"), markdown::render(summary).as_bytes())?;
    storage::write(&storage.path("report.html"), html::render(summary)?.as_bytes())
}
