//! What a network sees of a sample: standardised and one-hot columns, or scaled tensors, fitted
//! on the training rows and kept with each version.

mod column;
#[cfg(test)]
mod tests;

use std::{cmp::Ordering, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use self::column::ColumnEncoder;
use crate::domain::{
    examples::{Examples, Values},
    features::Features,
    sample::{Split, StoredSample},
    schema::{InputSchema, TensorSchema},
};

/// Turns features into a network's inputs and labels into its classes. The same encoder gives
/// the same bits for the same features, also after it went through JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoder {
    input: InputEncoding,
    classes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum InputEncoding {
    Columns(Vec<ColumnEncoder>),
    Tensor(TensorSchema),
}

/// Features or labels that cannot be encoded. Rows count from 0. What a row holds is not repeated: a
/// job's reason stays when the sample is erased.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EncodingError {
    #[error("there are no training samples to fit the encoder on")]
    NoTrainingSamples,
    #[error("row {row}: expected {expected}, found {found}")]
    Form { row: usize, expected: String, found: String },
    #[error("row {row}, column {column:?}: expected a number, found text")]
    Text { row: usize, column: String },
    #[error("row {row}, column {column:?}: expected a finite number, found {found}")]
    NotFinite { row: usize, column: String, found: f64 },
    #[error(
        "row {row}, column {column:?}: the number lies too far from the values seen in training to \
         be a single-precision number"
    )]
    TooFar { row: usize, column: String },
    #[error("column {column:?}: the training values spread too far to be standardised")]
    Spread { column: String },
    #[error("row {row}: the label is not among the model's classes")]
    UnknownLabel { row: usize },
}

impl Encoder {
    /// Learns means, deviations and categories from the training rows, and the classes from all.
    ///
    /// # Errors
    /// When there is no training row, or one does not have the schema's form.
    pub fn fit(schema: &InputSchema, samples: &[StoredSample]) -> Result<Self, EncodingError> {
        let mut classes: Vec<_> = samples.iter().map(|sample| sample.label.clone()).collect();
        classes.sort_by(|a, b| by_number_then_text(a, b));
        classes.dedup();
        let input = match schema {
            InputSchema::Columns(columns) => {
                // Row numbers are those of the samples as given, hold-out rows counted.
                let mut rows = Vec::new();
                for (row, sample) in samples.iter().enumerate() {
                    let cells = column::cells(row, &sample.features, columns.len())?;
                    if sample.split == Split::Train {
                        rows.push((row, cells));
                    }
                }
                let fitted = columns
                    .iter()
                    .enumerate()
                    .map(|(at, column)| ColumnEncoder::fit(column, at, &rows));
                InputEncoding::Columns(fitted.collect::<Result<_, _>>()?)
            }
            InputSchema::Tensor(schema) => InputEncoding::Tensor(schema.clone()),
        };
        if samples.iter().all(|sample| sample.split != Split::Train) {
            return Err(EncodingError::NoTrainingSamples);
        }
        Ok(Self { input, classes })
    }

    /// Shape of one encoded row: `[features]` or `[channels, height, width]`.
    pub fn input_shape(&self) -> Vec<usize> {
        match &self.input {
            InputEncoding::Columns(columns) => {
                vec![columns.iter().map(ColumnEncoder::width).sum()]
            }
            InputEncoding::Tensor(schema) => schema.shape.clone(),
        }
    }

    /// Labels in the order of the network's outputs: numbers by value, then words.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// # Errors
    /// When a sample does not have the form that the encoder was fitted on, or its label is not
    /// among the classes.
    pub fn encode(&self, samples: &[StoredSample]) -> Result<Examples, EncodingError> {
        let classes: BTreeMap<_, _> = self.classes.iter().zip(0_u32..).collect();
        let class = |(row, sample): (usize, &StoredSample)| {
            classes.get(&sample.label).copied().ok_or(EncodingError::UnknownLabel { row })
        };
        let features = || samples.iter().map(|sample| &sample.features);
        Ok(Examples {
            shape: self.input_shape(),
            values: match self.bytes(features())? {
                Some(values) => values,
                None => Values::Floats(self.floats(features())?),
            },
            labels: samples.iter().enumerate().map(class).collect::<Result<_, _>>()?,
            ordinals: samples.iter().map(|sample| sample.ordinal).collect(),
        })
    }

    /// Inputs of a network, `[rows, width]` flattened. A category not seen in training is all
    /// zeros.
    ///
    /// # Errors
    /// Names the row, and the column, that does not have the form that the encoder was fitted on
    /// or holds NaN or infinity.
    pub fn encode_features(&self, rows: &[Features]) -> Result<Vec<f32>, EncodingError> {
        self.floats(rows.iter())
    }

    /// As [`Encoder::encode_features`] for the rows of a tensor, `[rows, width]` flattened, in
    /// place.
    ///
    /// # Errors
    /// When they are no whole number of rows of a tensor, or hold NaN or infinity.
    pub fn encode_tensor(&self, mut values: Vec<f32>) -> Result<Vec<f32>, EncodingError> {
        let width: usize = self.input_shape().iter().product();
        let InputEncoding::Tensor(schema) = &self.input else {
            let (expected, found) = (format!("{width} columns"), "a tensor".into());
            return Err(EncodingError::Form { row: 0, expected, found });
        };
        let row = values.len().checked_div(width).unwrap_or(0);
        if row * width != values.len() {
            check_length(row, values.len() - row * width, schema)?;
        }
        let at_fault = |values: &[f32]| values.iter().position(|number| !number.is_finite());
        // Looking at all of them takes vector instructions, looking for the first does not.
        if !values.iter().fold(true, |finite, number| finite & number.is_finite())
            && let Some(at) = at_fault(&values)
        {
            let (row, column) = (at / width, format!("input[{}]", at % width));
            return Err(EncodingError::NotFinite { row, column, found: values[at].into() });
        }
        if schema.scale != 1 {
            let scale = schema.scale as f32;
            for number in &mut values {
                *number /= scale;
            }
        }
        Ok(values)
    }

    fn floats<'a>(
        &self,
        rows: impl ExactSizeIterator<Item = &'a Features>,
    ) -> Result<Vec<f32>, EncodingError> {
        let width: usize = self.input_shape().iter().product();
        let mut encoded = Vec::with_capacity(rows.len() * width);
        for (row, features) in rows.enumerate() {
            match &self.input {
                InputEncoding::Columns(columns) => {
                    let cells = column::cells(row, features, columns.len())?;
                    for (column, cell) in columns.iter().zip(cells) {
                        column.encode(row, cell, &mut encoded)?;
                    }
                }
                InputEncoding::Tensor(schema) => scale(row, features, schema, &mut encoded)?,
            }
        }
        Ok(encoded)
    }

    /// The rows as bytes, if all of them are pixels.
    fn bytes<'a>(
        &self,
        rows: impl ExactSizeIterator<Item = &'a Features>,
    ) -> Result<Option<Values>, EncodingError> {
        let InputEncoding::Tensor(schema) = &self.input else { return Ok(None) };
        let mut bytes = Vec::with_capacity(rows.len() * schema.shape.iter().product::<usize>());
        for (row, features) in rows.enumerate() {
            let Features::Pixels(pixels) = features else { return Ok(None) };
            check_length(row, pixels.len(), schema)?;
            bytes.extend_from_slice(pixels);
        }
        Ok(Some(Values::Bytes { bytes, scale: schema.scale as f32 }))
    }
}

fn scale(
    row: usize,
    features: &Features,
    schema: &TensorSchema,
    encoded: &mut Vec<f32>,
) -> Result<(), EncodingError> {
    let scale = schema.scale as f32;
    match features {
        Features::Pixels(pixels) => {
            check_length(row, pixels.len(), schema)?;
            encoded.extend(pixels.iter().map(|pixel| f32::from(*pixel) / scale));
        }
        Features::Floats(floats) => {
            check_length(row, floats.len(), schema)?;
            if let Some(at) = floats.iter().position(|number| !number.is_finite()) {
                let column = format!("input[{at}]");
                return Err(EncodingError::NotFinite { row, column, found: floats[at].into() });
            }
            encoded.extend(floats.iter().map(|number| number / scale));
        }
        Features::Row(_) => {
            return Err(EncodingError::Form {
                row,
                expected: format!("a tensor of shape {:?}", schema.shape),
                found: "columns".into(),
            });
        }
    }
    Ok(())
}

fn check_length(row: usize, length: usize, schema: &TensorSchema) -> Result<(), EncodingError> {
    if length == schema.shape.iter().product::<usize>() {
        Ok(())
    } else {
        Err(EncodingError::Form {
            row,
            expected: format!("a tensor of shape {:?}", schema.shape),
            found: format!("{length} numbers"),
        })
    }
}

fn by_number_then_text(a: &str, b: &str) -> Ordering {
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
    match (number(a), number(b)) {
        (Some(x), Some(y)) => x.total_cmp(&y).then_with(|| a.cmp(b)),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}
