//! An inference request, and the samples in it.

use std::collections::HashMap;

use serde::Deserialize;
use utoipa::ToSchema;

use super::values::Values;
use crate::domain::{
    features::{Cell, Features},
    schema::{Column, ColumnKind, InputSchema, TensorSchema},
};

/// Most rows in one request.
const ROWS_MAX: u64 = 1_024;

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
    /// Of the protocol; none is known, all are passed over.
    #[serde(default, rename = "parameters")]
    #[schema(value_type = Option<Object>)]
    _parameters: Option<serde_json::Map<String, serde_json::Value>>,
    /// One for each column of the model's schema, or the one tensor named `input`.
    #[schema(min_items = 1)]
    inputs: Vec<InputTensor>,
    /// Which outputs to send; all without.
    #[serde(default)]
    outputs: Option<Vec<RequestedOutput>>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputTensor {
    name: String,
    /// The first dimension counts rows: 1 to 1024.
    #[schema(min_items = 1, max_items = 8)]
    shape: Vec<u64>,
    datatype: Datatype,
    #[serde(default, rename = "parameters")]
    #[schema(value_type = Option<Object>)]
    _parameters: Option<serde_json::Map<String, serde_json::Value>>,
    data: Values,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestedOutput {
    name: OutputName,
    #[serde(default, rename = "parameters")]
    #[schema(value_type = Option<Object>)]
    _parameters: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputName {
    Probabilities,
    Label,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Fp64,
    /// Text.
    Bytes,
}

/// Which outputs to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outputs {
    pub probabilities: bool,
    pub label: bool,
}

impl InferenceRequest {
    /// # Errors
    /// When an output is asked for twice.
    pub fn outputs(&self) -> Result<Outputs, String> {
        match self.outputs.as_deref() {
            None | Some([]) => Ok(Outputs { probabilities: true, label: true }),
            Some(requested) => {
                let count = |name| requested.iter().filter(|output| output.name == name).count();
                let counts = [count(OutputName::Probabilities), count(OutputName::Label)];
                if counts.iter().any(|count| *count > 1) {
                    return Err("an output is asked for twice".into());
                }
                Ok(Outputs { probabilities: counts[0] == 1, label: counts[1] == 1 })
            }
        }
    }

    /// The samples, as the model's schema has them.
    ///
    /// # Errors
    /// Names the input that does not fit.
    pub fn rows(&self, schema: &InputSchema) -> Result<Vec<Features>, String> {
        match schema {
            InputSchema::Tensor(tensor) => self.tensors(tensor),
            InputSchema::Columns(columns) => self.table(columns),
        }
    }

    fn tensors(&self, schema: &TensorSchema) -> Result<Vec<Features>, String> {
        let [input] = self.inputs.as_slice() else {
            return Err(format!(
                "the model has one input, `{INPUT}`, but the request has {}",
                self.inputs.len()
            ));
        };
        if input.name != INPUT {
            return Err(format!("the model's input is named `{INPUT}`, not {:?}", input.name));
        }
        let width: usize = schema.shape.iter().product();
        let sample: Vec<u64> = schema.shape.iter().map(|side| *side as u64).collect();
        let rest = input.shape.get(1..).unwrap_or_default();
        if rest != sample && rest != [width as u64] {
            return Err(format!(
                "input `{INPUT}` must have the shape [rows, {}] or [rows, {width}], not {:?}",
                schema.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                input.shape
            ));
        }
        let rows = input.row_count()?;
        let numbers = input.numbers(rows * width)?;
        let single = |number: &f64| {
            #[expect(clippy::cast_possible_truncation, reason = "checked to be finite below")]
            let single = *number as f32;
            if single.is_finite() {
                Ok(single)
            } else {
                Err(format!("input `{INPUT}`: {number} is too large for single precision"))
            }
        };
        numbers
            .chunks_exact(width)
            .map(|row| row.iter().map(single).collect::<Result<_, _>>().map(Features::Floats))
            .collect()
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

impl InputTensor {
    fn row_count(&self) -> Result<usize, String> {
        match self.shape.first() {
            Some(rows @ 1..=ROWS_MAX) => Ok(usize::try_from(*rows).unwrap_or(usize::MAX)),
            Some(rows) => {
                Err(format!("input {:?} has {rows} rows; a request has 1 to {ROWS_MAX}", self.name))
            }
            None => Err(format!("the shape of input {:?} is empty", self.name)),
        }
    }

    fn column_count(&self) -> Result<usize, String> {
        match self.shape.as_slice() {
            [_] | [_, 1] => self.row_count(),
            shape => Err(format!(
                "input {:?} must have the shape [rows] or [rows, 1], not {shape:?}",
                self.name
            )),
        }
    }

    fn numbers(&self, count: usize) -> Result<&[f64], String> {
        let numbers = match (&self.data, self.datatype) {
            (Values::Numbers(numbers), datatype) if datatype != Datatype::Bytes => numbers,
            _ => {
                return Err(format!(
                    "input {:?} takes numbers, with a datatype such as FP32 or INT64",
                    self.name
                ));
            }
        };
        self.check_count(count)?;
        match numbers.iter().find(|number| !self.datatype.holds(**number)) {
            Some(number) => {
                Err(format!("input {:?}: {number} is no finite number of its datatype", self.name))
            }
            None => Ok(numbers),
        }
    }

    fn texts(&self, count: usize) -> Result<Vec<Cell>, String> {
        match (&self.data, self.datatype) {
            (Values::Texts(texts), Datatype::Bytes) => {
                self.check_count(count)?;
                Ok(texts.iter().cloned().map(Cell::Text).collect())
            }
            _ => Err(format!("input {:?} takes strings, with the datatype BYTES", self.name)),
        }
    }

    fn check_count(&self, count: usize) -> Result<(), String> {
        if self.data.len() == count {
            Ok(())
        } else {
            Err(format!(
                "input {:?} of shape {:?} needs {count} values, but has {}",
                self.name,
                self.shape,
                self.data.len()
            ))
        }
    }
}

impl Datatype {
    /// Whether a number is one of this datatype; large integers are compared as doubles.
    fn holds(self, number: f64) -> bool {
        let whole = |low: f64, high: f64| number.fract() == 0.0 && (low..=high).contains(&number);
        match self {
            Self::Bool => whole(0.0, 1.0),
            Self::Uint8 => whole(0.0, f64::from(u8::MAX)),
            Self::Uint16 => whole(0.0, f64::from(u16::MAX)),
            Self::Uint32 => whole(0.0, f64::from(u32::MAX)),
            Self::Uint64 => whole(0.0, u64::MAX as f64),
            Self::Int8 => whole(f64::from(i8::MIN), f64::from(i8::MAX)),
            Self::Int16 => whole(f64::from(i16::MIN), f64::from(i16::MAX)),
            Self::Int32 => whole(f64::from(i32::MIN), f64::from(i32::MAX)),
            Self::Int64 => whole(i64::MIN as f64, i64::MAX as f64),
            Self::Fp16 => number.abs() <= 65_504.0,
            Self::Fp32 => number.abs() <= f64::from(f32::MAX),
            Self::Fp64 => number.is_finite(),
            Self::Bytes => false,
        }
    }
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "`json!` makes values")]
mod tests;
