//! One column of a table, fitted on the training rows.

use serde::{Deserialize, Serialize};

use super::EncodingError;
use crate::domain::{
    features::{Cell, Features},
    schema::{Column, ColumnKind},
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ColumnEncoder {
    name: String,
    encoding: ColumnEncoding,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum ColumnEncoding {
    /// Becomes `(x - mean) / deviation`. Single precision, because that comes back from JSON as
    /// it went in, whatever the parser.
    Numeric { mean: f32, deviation: f32 },
    /// Becomes one number per value, 1 for the one that it is. Sorted.
    Categorical { values: Vec<String> },
}

/// The cells of a tabular row with so many columns.
pub(super) fn cells(
    row: usize,
    features: &Features,
    columns: usize,
) -> Result<&[Cell], EncodingError> {
    let found = match features {
        Features::Row(cells) if cells.len() == columns => return Ok(cells),
        Features::Row(cells) => format!("{}", cells.len()),
        Features::Pixels(_) | Features::Floats(_) => "a tensor".into(),
    };
    Err(EncodingError::Form { row, expected: format!("{columns} columns"), found })
}

impl ColumnEncoder {
    /// Fits the column at position `at` of the given rows, each with its number.
    pub fn fit(
        column: &Column,
        at: usize,
        rows: &[(usize, &[Cell])],
    ) -> Result<Self, EncodingError> {
        let name = column.name.clone();
        let encoding = match column.kind {
            ColumnKind::Numeric => {
                let numbers = rows.iter().map(|(row, cells)| number(*row, &name, &cells[at]));
                standardised(&numbers.collect::<Result<Vec<_>, _>>()?)
                    .ok_or_else(|| EncodingError::Spread { column: name.clone() })?
            }
            ColumnKind::Categorical => {
                let mut values: Vec<_> = rows.iter().map(|(_, cells)| text(&cells[at])).collect();
                values.sort_unstable();
                values.dedup();
                ColumnEncoding::Categorical { values }
            }
        };
        Ok(Self { name, encoding })
    }

    /// How many numbers the column becomes.
    pub fn width(&self) -> usize {
        match &self.encoding {
            ColumnEncoding::Numeric { .. } => 1,
            ColumnEncoding::Categorical { values } => values.len(),
        }
    }

    /// Appends the cell's numbers.
    pub fn encode(
        &self,
        row: usize,
        cell: &Cell,
        encoded: &mut Vec<f32>,
    ) -> Result<(), EncodingError> {
        match &self.encoding {
            ColumnEncoding::Numeric { mean, deviation } => {
                let found = number(row, &self.name, cell)?;
                let standard = (found - f64::from(*mean)) / f64::from(*deviation);
                #[expect(clippy::cast_possible_truncation, reason = "networks compute in f32")]
                let standard = standard as f32;
                if !standard.is_finite() {
                    let column = self.name.clone();
                    return Err(EncodingError::TooFar { row, column, found });
                }
                encoded.push(standard);
            }
            ColumnEncoding::Categorical { values } => {
                let hot = values.binary_search(&text(cell)).ok();
                encoded.extend((0..values.len()).map(|at| f32::from(u8::from(Some(at) == hot))));
            }
        }
        Ok(())
    }
}

/// Mean and deviation; `None` where they overflow.
fn standardised(numbers: &[f64]) -> Option<ColumnEncoding> {
    let count = numbers.len().max(1) as f64;
    let mean = numbers.iter().sum::<f64>() / count;
    let variance = numbers.iter().map(|number| (number - mean).powi(2)).sum::<f64>() / count;
    let is_constant = numbers.windows(2).all(|pair| pair[0].to_bits() == pair[1].to_bits());
    #[expect(clippy::cast_possible_truncation, reason = "kept in f32; see ColumnEncoding")]
    let (mean, deviation) = (mean as f32, variance.sqrt() as f32);
    if !mean.is_finite() || !deviation.is_finite() {
        return None;
    }
    // A constant column, up to the rounding of its sum, says nothing: it stays near 0.
    let deviation = if is_constant || deviation == 0.0 { 1.0 } else { deviation };
    Some(ColumnEncoding::Numeric { mean, deviation })
}

fn number(row: usize, column: &str, cell: &Cell) -> Result<f64, EncodingError> {
    match cell {
        Cell::Number(number) if number.is_finite() => Ok(*number),
        Cell::Number(found) => {
            Err(EncodingError::NotFinite { row, column: column.to_owned(), found: *found })
        }
        Cell::Text(_) => Err(EncodingError::Text { row, column: column.to_owned() }),
    }
}

/// A category may be written as a number.
fn text(cell: &Cell) -> String {
    match cell {
        Cell::Number(number) => number.to_string(),
        Cell::Text(text) => text.clone(),
    }
}
