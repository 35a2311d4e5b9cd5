//! A tensor that comes in: its shape, its datatype, and whether its content is what they say.

use std::borrow::Cow;

use serde::Deserialize;
use utoipa::ToSchema;

use super::{binary::Parameters, values::Values};
use crate::domain::features::Cell;

/// Most rows in one request.
const ROWS_MAX: u64 = 1_024;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputTensor {
    pub name: String,
    /// The first dimension counts rows: 1 to 1024.
    #[schema(min_items = 1, max_items = 8)]
    pub shape: Vec<u64>,
    pub datatype: Datatype,
    /// `binary_data_size`: the content follows the JSON object, as so many bytes. Others are
    /// passed over.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Parameters>,
    /// Left out where the content is binary.
    #[serde(default)]
    #[schema(value_type = Values, required = false, nullable = false)]
    pub data: Option<Values>,
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

impl InputTensor {
    pub fn row_count(&self) -> Result<usize, String> {
        match self.shape.first() {
            Some(rows @ 1..=ROWS_MAX) => Ok(usize::try_from(*rows).unwrap_or(usize::MAX)),
            Some(rows) => {
                Err(format!("input {:?} has {rows} rows; a request has 1 to {ROWS_MAX}", self.name))
            }
            None => Err(format!("the shape of input {:?} is empty", self.name)),
        }
    }

    /// Rows of an input that is one column.
    pub fn column_count(&self) -> Result<usize, String> {
        match self.shape.as_slice() {
            [_] | [_, 1] => self.row_count(),
            shape => Err(format!(
                "input {:?} must have the shape [rows] or [rows, 1], not {shape:?}",
                self.name
            )),
        }
    }

    /// `count` finite numbers of the datatype.
    pub fn numbers(&self, count: usize) -> Result<Cow<'_, [f64]>, String> {
        let numbers = match &self.data {
            Some(Values::Numbers(numbers)) if self.datatype != Datatype::Bytes => {
                Cow::Borrowed(numbers.as_slice())
            }
            Some(Values::Singles(singles)) => singles.iter().map(|it| f64::from(*it)).collect(),
            _ => {
                return Err(format!(
                    "input {:?} takes numbers, with a datatype such as FP32 or INT64",
                    self.name
                ));
            }
        };
        self.check_count(count)?;
        if self.datatype.has_all(&numbers) {
            Ok(numbers)
        } else {
            Err(format!("input {:?} holds what is no finite number of its datatype", self.name))
        }
    }

    /// `count` finite numbers of the datatype, in single precision.
    pub fn into_singles(mut self, count: usize) -> Result<Vec<f32>, String> {
        let singles: Vec<f32> = match self.data.take() {
            Some(Values::Singles(singles)) if singles.len() == count => singles,
            data => {
                self.data = data;
                #[expect(clippy::cast_possible_truncation, reason = "what networks compute in")]
                let single = |number: &f64| *number as f32;
                self.numbers(count)?.iter().map(single).collect()
            }
        };
        if all(&singles, f32::is_finite) {
            Ok(singles)
        } else {
            Err(format!(
                "input {:?} holds numbers that are not finite in single precision",
                self.name
            ))
        }
    }

    pub fn texts(&self, count: usize) -> Result<Vec<Cell>, String> {
        match (&self.data, self.datatype) {
            (Some(Values::Texts(texts)), Datatype::Bytes) => {
                self.check_count(count)?;
                Ok(texts.iter().cloned().map(Cell::Text).collect())
            }
            _ => Err(format!("input {:?} takes strings, with the datatype BYTES", self.name)),
        }
    }

    fn check_count(&self, count: usize) -> Result<(), String> {
        let found = self.data.as_ref().map_or(0, Values::len);
        if found == count {
            Ok(())
        } else {
            Err(format!(
                "input {:?} of shape {:?} needs {count} values, but has {found}",
                self.name, self.shape,
            ))
        }
    }
}

impl Datatype {
    /// Whether all numbers are of this datatype; large integers are compared as doubles.
    fn has_all(self, numbers: &[f64]) -> bool {
        let (whole, low, high) = match self {
            Self::Bool => (true, 0.0, 1.0),
            Self::Uint8 => (true, 0.0, f64::from(u8::MAX)),
            Self::Uint16 => (true, 0.0, f64::from(u16::MAX)),
            Self::Uint32 => (true, 0.0, f64::from(u32::MAX)),
            Self::Uint64 => (true, 0.0, u64::MAX as f64),
            Self::Int8 => (true, f64::from(i8::MIN), f64::from(i8::MAX)),
            Self::Int16 => (true, f64::from(i16::MIN), f64::from(i16::MAX)),
            Self::Int32 => (true, f64::from(i32::MIN), f64::from(i32::MAX)),
            Self::Int64 => (true, i64::MIN as f64, i64::MAX as f64),
            Self::Fp16 => (false, -65_504.0, 65_504.0),
            Self::Fp32 => (false, f64::from(f32::MIN), f64::from(f32::MAX)),
            Self::Fp64 => (false, f64::MIN, f64::MAX),
            Self::Bytes => return numbers.is_empty(),
        };
        let within = |number: f64| (low..=high).contains(&number);
        all(numbers, within) && (!whole || all(numbers, |it| it.fract() == 0.0))
    }

    /// Bytes of one number; `None` for texts.
    pub fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }
}

/// Looks at every number, whatever the first ones are, which the compiler turns into vector
/// instructions.
fn all<T: Copy>(numbers: &[T], holds: impl Fn(T) -> bool) -> bool {
    numbers.iter().fold(true, |held, number| held & holds(*number))
}
