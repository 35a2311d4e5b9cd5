//! Answers of the protocol.

use serde::Serialize;
use utoipa::ToSchema;

use super::request::{INPUT, Outputs};
use crate::{
    domain::{
        identity::Digest,
        model::ModelName,
        schema::{ColumnKind, InputSchema},
    },
    serving::version::ServedVersion,
};

const PROBABILITIES: &str = "probabilities";
const LABEL: &str = "label";

#[derive(Debug, Serialize, ToSchema)]
pub struct InferenceResponse {
    model_name: ModelName,
    /// The epoch that answered.
    model_version: String,
    /// As the request had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    id: Option<String>,
    parameters: Parameters,
    outputs: Vec<OutputTensor>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Parameters {
    /// The epoch that answered.
    epoch: u64,
    /// SHA-256 of the weights that answered.
    weights: Digest,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OutputTensor {
    /// `probabilities`, [rows, classes], or `label`, [rows].
    name: &'static str,
    datatype: &'static str,
    shape: Vec<usize>,
    data: Data,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Data {
    Numbers(Vec<f32>),
    Texts(Vec<String>),
}

impl InferenceResponse {
    /// `probabilities` is `[rows, classes]` flattened.
    pub fn new(
        version: &ServedVersion,
        id: Option<String>,
        probabilities: Vec<f32>,
        wanted: Outputs,
    ) -> Self {
        let classes = version.classes();
        let rows = probabilities.len() / classes.len().max(1);
        let labels = wanted.label.then(|| OutputTensor {
            name: LABEL,
            datatype: "BYTES",
            shape: vec![rows],
            data: Data::Texts(labels(&probabilities, classes)),
        });
        let probabilities = wanted.probabilities.then(|| OutputTensor {
            name: PROBABILITIES,
            datatype: "FP32",
            shape: vec![rows, classes.len()],
            data: Data::Numbers(probabilities),
        });
        Self {
            model_name: version.model.name.clone(),
            model_version: version.epoch.to_string(),
            id,
            parameters: Parameters { epoch: version.epoch, weights: version.weights },
            outputs: probabilities.into_iter().chain(labels).collect(),
        }
    }
}

/// The most probable class of each row; the first of equals.
fn labels(probabilities: &[f32], classes: &[String]) -> Vec<String> {
    let label = |row: &[f32]| {
        let best = (1..row.len()).fold(0, |best, at| if row[at] > row[best] { at } else { best });
        classes[best].clone()
    };
    probabilities.chunks_exact(classes.len().max(1)).map(label).collect()
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ModelMetadata {
    name: ModelName,
    /// The epoch that is served; superseded ones never are.
    versions: [String; 1],
    platform: &'static str,
    inputs: Vec<TensorMetadata>,
    outputs: Vec<TensorMetadata>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct TensorMetadata {
    name: String,
    datatype: &'static str,
    /// -1 where any number goes.
    shape: Vec<i64>,
}

impl ModelMetadata {
    pub fn of(version: &ServedVersion) -> Self {
        let tensor = |name: &str, datatype, sides: &[usize]| {
            let sides = sides.iter().map(|side| i64::try_from(*side).unwrap_or(i64::MAX));
            TensorMetadata {
                name: name.to_owned(),
                datatype,
                shape: std::iter::once(-1).chain(sides).collect(),
            }
        };
        let inputs = match &version.model.schema {
            InputSchema::Tensor(schema) => vec![tensor(INPUT, "FP32", &schema.shape)],
            InputSchema::Columns(columns) => columns
                .iter()
                .map(|column| match column.kind {
                    ColumnKind::Numeric => tensor(&column.name, "FP64", &[]),
                    ColumnKind::Categorical => tensor(&column.name, "BYTES", &[]),
                })
                .collect(),
        };
        Self {
            name: version.model.name.clone(),
            versions: [version.epoch.to_string()],
            platform: "burn",
            inputs,
            outputs: vec![
                tensor(PROBABILITIES, "FP32", &[version.classes().len()]),
                tensor(LABEL, "BYTES", &[]),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_probable_class_is_the_label() {
        let classes = ["a", "b", "c"].map(str::to_owned);
        let labels = labels(&[0.2, 0.5, 0.3, 0.4, 0.4, 0.2], &classes);
        assert_eq!(labels, ["b", "a"]);
    }
}
