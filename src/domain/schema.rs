//! What the samples of a model look like, as the caller gives them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The input of a model: named columns, or one tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InputSchema {
    /// A table row; each column is an input tensor of its own in predictions.
    Columns(Vec<Column>),
    /// One tensor, named `input` in predictions.
    Tensor(TensorSchema),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Column {
    #[schema(max_length = 200)]
    pub name: String,
    pub kind: ColumnKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    /// Standardised with the training rows' mean and deviation.
    Numeric,
    /// One-hot over the values seen in training; an unseen value encodes as all zeros.
    Categorical,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TensorSchema {
    /// `[features]` or `[channels, height, width]`.
    pub shape: Vec<usize>,
    /// What the raw numbers are divided by before the network sees them; 255 for images.
    #[serde(default = "TensorSchema::no_scale")]
    pub scale: u32,
}

impl TensorSchema {
    fn no_scale() -> u32 {
        1
    }
}

/// The schema is unusable; says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    #[error("the schema has no columns")]
    NoColumns,
    #[error("the schema has {0} columns, more than the {COLUMNS_MAX} allowed")]
    TooManyColumns(usize),
    #[error("column {0:?} is named twice or has no name")]
    ColumnName(String),
    #[error(
        "the tensor shape {0:?} must have one or three dimensions, between 1 and 16777216 numbers in all"
    )]
    Shape(Vec<usize>),
    #[error("the tensor scale must be at least 1")]
    Scale,
}

const COLUMNS_MAX: usize = 10_000;
const TENSOR_MAX: usize = 1 << 24;

impl InputSchema {
    /// # Errors
    /// When no sample could have this schema.
    pub fn validate(&self) -> Result<(), SchemaError> {
        match self {
            Self::Columns(columns) if columns.is_empty() => Err(SchemaError::NoColumns),
            Self::Columns(columns) if columns.len() > COLUMNS_MAX => {
                Err(SchemaError::TooManyColumns(columns.len()))
            }
            Self::Columns(columns) => {
                let mut names = std::collections::BTreeSet::new();
                match columns.iter().find(|c| c.name.is_empty() || !names.insert(&c.name)) {
                    Some(column) => Err(SchemaError::ColumnName(column.name.clone())),
                    None => Ok(()),
                }
            }
            Self::Tensor(tensor) => {
                let numbers = tensor.shape.iter().try_fold(1_usize, |a, b| a.checked_mul(*b));
                let fits = numbers.is_some_and(|n| (1..=TENSOR_MAX).contains(&n));
                if !fits || !matches!(tensor.shape.len(), 1 | 3) {
                    Err(SchemaError::Shape(tensor.shape.clone()))
                } else if tensor.scale == 0 {
                    Err(SchemaError::Scale)
                } else {
                    Ok(())
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_schemas_are_refused() {
        let tensor = |shape: &[usize]| {
            InputSchema::Tensor(TensorSchema { shape: shape.to_vec(), scale: 1 }).validate()
        };
        assert_eq!(tensor(&[3, 32, 32]), Ok(()));
        for shape in [&[][..], &[0], &[2, 2], &[usize::MAX, 2, 2]] {
            assert!(matches!(tensor(shape), Err(SchemaError::Shape(_))), "{shape:?}");
        }
        let column = Column { name: "age".into(), kind: ColumnKind::Numeric };
        let twice = InputSchema::Columns(vec![column.clone(), column]);
        assert_eq!(twice.validate(), Err(SchemaError::ColumnName("age".into())));
    }
}
