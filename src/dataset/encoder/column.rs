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
    /// Becomes `(x - mean - mean_rest) / deviation`. Single precision, because that comes back
    /// from JSON as it went in, whatever the parser.
    Numeric {
        mean: f32,
        /// What `mean` lacks of the mean, which may be more than the deviation; older versions
        /// have none.
        #[serde(default)]
        mean_rest: f32,
        deviation: f32,
    },
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
            ColumnEncoding::Numeric { mean, mean_rest, deviation } => {
                let found = number(row, &self.name, cell)?;
                let difference = found - f64::from(*mean) - f64::from(*mean_rest);
                let standard = difference / f64::from(*deviation);
                #[expect(clippy::cast_possible_truncation, reason = "networks compute in f32")]
                let standard = standard as f32;
                if !standard.is_finite() {
                    let column = self.name.clone();
                    return Err(EncodingError::TooFar { row, column });
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

/// A deviation that is this part of the largest number is none: sums of the same terms in another
/// order differ by as much in 64 bits, measurements are not as precise, and what the two parts of a
/// mean leave out (2^-50 of it) is next to nothing beside anything larger.
const NOISE: f64 = 1e-12;

/// Mean and deviation; `None` where they overflow.
#[expect(clippy::cast_possible_truncation, reason = "kept in f32; see ColumnEncoding")]
fn standardised(numbers: &[f64]) -> Option<ColumnEncoding> {
    let count = numbers.len().max(1) as f64;
    // From the first number on, so that large numbers which differ little lose nothing.
    let first = numbers.first().copied().unwrap_or(0.0);
    let exact = first + numbers.iter().map(|number| number - first).sum::<f64>() / count;
    let variance = numbers.iter().map(|number| (number - exact).powi(2)).sum::<f64>() / count;
    let mean = exact as f32;
    let mean_rest = (exact - f64::from(mean)) as f32;
    let largest = numbers.iter().fold(0.0, |largest: f64, number| largest.max(number.abs()));
    // A constant column says nothing: it stays near 0, however large its noise is.
    let is_constant = variance.sqrt() <= NOISE * largest;
    let deviation = (if is_constant { largest.max(1.0) } else { variance.sqrt() }) as f32;
    if !mean.is_finite() || !deviation.is_finite() {
        return None;
    }
    let deviation = if deviation == 0.0 { 1.0 } else { deviation };
    Some(ColumnEncoding::Numeric { mean, mean_rest, deviation })
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
