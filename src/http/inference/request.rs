//! An inference request, and the samples in it.

use std::collections::HashMap;

use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    binary::{self, Parameters},
    tensor::InputTensor,
};
use crate::domain::{
    features::{Cell, Features},
    misfit,
    schema::{Column, ColumnKind, InputSchema, TensorSchema},
};

/// Name of the one input of a model over tensors.
pub const INPUT: &str = "input";

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "id": "42",
    "inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 0.25]}]
}))]
pub struct InferenceRequest {
    /// Comes back in the answer.
    #[serde(default)]
    #[schema(max_length = 256)]
    pub id: Option<String>,
    /// `binary_data_output`: whether outputs that do not say so themselves are to be binary. Others
    /// are passed over.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    parameters: Option<Parameters>,
    /// One for each column of the model's schema, or the one tensor named `input`.
    #[schema(min_items = 1)]
    inputs: Vec<InputTensor>,
    /// Which outputs to send; all without.
    #[serde(default)]
    outputs: Option<Vec<RequestedOutput>>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestedOutput {
    name: OutputName,
    /// `binary_data`: whether it is to follow the answer's JSON object as bytes. Others are passed
    /// over.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    parameters: Option<Parameters>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputName {
    Probabilities,
    Label,
}

/// Which outputs to send, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outputs {
    pub probabilities: Option<Form>,
    pub label: Option<Form>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Json,
    /// As bytes after the JSON object.
    Binary,
}

/// The samples of a request, before they are encoded.
#[derive(Debug, PartialEq)]
pub enum Rows {
    /// Of a model over tensors: `[rows, width]` flattened.
    Tensor(Vec<f32>),
    /// Of a model over columns.
    Table(Vec<Features>),
}

impl InferenceRequest {
    /// Reads the JSON object, and gives its binary tensors the bytes that follow it.
    ///
    /// # Errors
    /// Says what is wrong with either.
    pub fn read(json: &[u8], binary: &[u8]) -> Result<Self, String> {
        let mut request: Self =
            serde_json::from_slice(json).map_err(|error| misfit::without_content(&error))?;
        binary::attach(&mut request.inputs, binary)?;
        Ok(request)
    }

    /// # Errors
    /// When an output is asked for twice.
    pub fn outputs(&self) -> Result<Outputs, String> {
        let parameters = self.parameters.as_ref();
        let of_all = parameters.and_then(|it| it.binary_data_output).unwrap_or(false);
        let form = |binary: bool| if binary { Form::Binary } else { Form::Json };
        let (mut probabilities, mut label) = (None, None);
        match self.outputs.as_deref() {
            None | Some([]) => {
                (probabilities, label) = (Some(form(of_all)), Some(form(of_all)));
            }
            Some(requested) => {
                for output in requested {
                    let own = output.parameters.as_ref().and_then(|it| it.binary_data);
                    let wanted = match output.name {
                        OutputName::Probabilities => &mut probabilities,
                        OutputName::Label => &mut label,
                    };
                    if wanted.replace(form(own.unwrap_or(of_all))).is_some() {
                        return Err("an output is asked for twice".into());
                    }
                }
            }
        }
        Ok(Outputs { probabilities, label })
    }

    /// The samples, as the model's schema has them.
    ///
    /// # Errors
    /// Names the input that does not fit.
    pub fn into_rows(self, schema: &InputSchema) -> Result<Rows, String> {
        match schema {
            InputSchema::Tensor(tensor) => self.into_tensor(tensor).map(Rows::Tensor),
            InputSchema::Columns(columns) => self.table(columns).map(Rows::Table),
        }
    }

    fn into_tensor(self, schema: &TensorSchema) -> Result<Vec<f32>, String> {
        let [input] = <[InputTensor; 1]>::try_from(self.inputs).map_err(|inputs| {
            format!("the model has one input, `{INPUT}`, but the request has {}", inputs.len())
        })?;
        if input.name != INPUT {
            return Err(format!("the model's input is named `{INPUT}`, not {:?}", input.name));
        }
        let width: usize = schema.shape.iter().product();
        let rest = input.shape.get(1..).unwrap_or_default();
        let is_sample = rest.iter().copied().eq(schema.shape.iter().map(|side| *side as u64));
        if !is_sample && rest != [width as u64] {
            return Err(format!(
                "input `{INPUT}` must have the shape [rows, {}] or [rows, {width}], not {:?}",
                schema.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                input.shape
            ));
        }
        let rows = input.row_count()?;
        input.into_singles(rows * width)
    }

    fn table(&self, columns: &[Column]) -> Result<Vec<Features>, String> {
        let mut inputs: HashMap<&str, &InputTensor> = HashMap::with_capacity(self.inputs.len());
        for input in &self.inputs {
            if inputs.insert(&input.name, input).is_some() {
                return Err(format!("input {:?} is there twice", input.name));
            }
        }
        let mut table: Vec<Vec<Cell>> = Vec::new();
        for (position, column) in columns.iter().enumerate() {
            let input = inputs
                .remove(column.name.as_str())
                .ok_or_else(|| format!("input {:?} is missing", column.name))?;
            let rows = input.column_count()?;
            if position == 0 {
                table.resize_with(rows, || Vec::with_capacity(columns.len()));
            } else if table.len() != rows {
                return Err(format!(
                    "input {:?} has {rows} rows, but {:?} has {}",
                    column.name,
                    columns[0].name,
                    table.len()
                ));
            }
            let cells = match column.kind {
                ColumnKind::Numeric => {
                    input.numbers(rows)?.iter().map(|number| Cell::Number(*number)).collect()
                }
                ColumnKind::Categorical => input.texts(rows)?,
            };
            table.iter_mut().zip(cells).for_each(|(row, cell): (_, Cell)| row.push(cell));
        }
        match inputs.keys().min() {
            Some(extra) => Err(format!("the model has no input {extra:?}")),
            None => Ok(table.into_iter().map(Features::Row).collect()),
        }
    }
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "`json!` makes values")]
mod tests;
