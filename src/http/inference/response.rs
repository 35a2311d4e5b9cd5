//! Answers of the protocol.

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    binary,
    request::{Form, INPUT, Outputs},
};
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
pub struct InferenceResponse<'a> {
    model_name: &'a ModelName,
    /// The epoch that answered.
    model_version: String,
    /// As the request had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    id: Option<&'a str>,
    parameters: Parameters,
    outputs: Vec<OutputTensor<'a>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Parameters {
    /// The epoch that answered.
    epoch: u64,
    /// SHA-256 of the weights that answered.
    weights: Digest,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OutputTensor<'a> {
    /// `probabilities`, [rows, classes], or `label`, [rows].
    name: &'static str,
    datatype: &'static str,
    shape: Vec<usize>,
    /// Of what is sent as bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    parameters: Option<OutputParameters>,
    /// Absent where the content follows the JSON object as bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    data: Option<Data<'a>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OutputParameters {
    /// How many bytes after the JSON object are this output's.
    binary_data_size: usize,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Data<'a> {
    Numbers(&'a [f32]),
    Texts(Vec<&'a str>),
}

impl<'a> InferenceResponse<'a> {
    /// The answer, and the bytes that follow its JSON object. `probabilities` is
    /// `[rows, classes]` flattened.
    pub fn new(
        version: &'a ServedVersion,
        id: Option<&'a str>,
        probabilities: &'a [f32],
        wanted: Outputs,
    ) -> (Self, Vec<u8>) {
        let classes = version.classes();
        let rows = probabilities.len() / classes.len().max(1);
        let mut bytes = Vec::new();
        let mut tensor = |name, shape: &[usize], data: Data<'a>, form| {
            let (size, data) = match form {
                Form::Json => (None, Some(data)),
                Form::Binary => (Some(data.push(&mut bytes)), None),
            };
            let datatype = match name {
                LABEL => "BYTES",
                _ => "FP32",
            };
            let parameters = size.map(|binary_data_size| OutputParameters { binary_data_size });
            OutputTensor { name, datatype, shape: shape.to_vec(), parameters, data }
        };
        let mut outputs = Vec::with_capacity(2);
        if let Some(form) = wanted.probabilities {
            let data = Data::Numbers(probabilities);
            outputs.push(tensor(PROBABILITIES, &[rows, classes.len()], data, form));
        }
        if let Some(form) = wanted.label {
            let data = Data::Texts(labels(probabilities, classes));
            outputs.push(tensor(LABEL, &[rows], data, form));
        }
        let response = Self {
            model_name: &version.model.name,
            model_version: version.epoch.to_string(),
            id,
            parameters: Parameters { epoch: version.epoch, weights: version.weights },
            outputs,
        };
        (response, bytes)
    }
}

impl Data<'_> {
    /// Appends the bytes; returns how many.
    fn push(&self, bytes: &mut Vec<u8>) -> usize {
        match self {
            Self::Numbers(numbers) => binary::push_numbers(numbers, bytes),
            Self::Texts(texts) => binary::push_texts(texts, bytes),
        }
    }
}

/// The most probable class of each row; the first of equals.
fn labels<'a>(probabilities: &[f32], classes: &'a [String]) -> Vec<&'a str> {
    let label = |row: &[f32]| {
        let best = (1..row.len()).fold(0, |best, at| if row[at] > row[best] { at } else { best });
        classes[best].as_str()
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
