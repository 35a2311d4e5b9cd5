//! CSV with a header line, as RFC 4180 describes it; blanks around a cell do not count.

pub mod hashed_list;
mod records;
#[cfg(test)]
mod tests;

use std::io::Read;

use self::records::Records;
use super::{
    cell::{Spot, single, tensor},
    raw_sample::{RawSample, ReadError, Reading},
};
use crate::domain::{
    alias::AliasKind,
    features::Features,
    schema::{Column, ColumnKind, InputSchema},
};

/// Which columns say what a sample is; all others may be features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The subject's id serves where there is none.
    pub sample_id: Option<String>,
    pub subject_id: String,
    pub label: String,
    /// Column of `train` and `holdout`.
    pub split: Option<String>,
    /// Columns of what else a subject is known by.
    pub aliases: Vec<(AliasKind, String)>,
}

/// Starts to read samples of a model with this schema. Named columns are found by their name, in
/// any order, and columns that the schema does not have are passed over; a tensor takes all
/// columns that the mapping does not name, in the file's order.
///
/// # Errors
/// When the header cannot be read, or does not have the columns.
pub fn samples<R: Read>(
    reader: R,
    schema: &InputSchema,
    mapping: &Mapping,
) -> Result<Samples<R>, ReadError> {
    let records = Records::open(reader)?;
    let at = |name: &str| records.position(name);
    let features = match schema {
        InputSchema::Columns(columns) => {
            let places = columns.iter().map(|column| Ok((at(&column.name)?, column.kind)));
            Layout::Columns(places.collect::<Result<_, ReadError>>()?)
        }
        InputSchema::Tensor(schema) => {
            let places = records.positions_beside(mapping.names());
            let expected: usize = schema.shape.iter().product();
            if places.len() != expected {
                return Err(ReadError::Layout(format!(
                    "a tensor of shape {:?} needs {expected} columns of numbers, but beside the \
                     ids, the label and the split there are {}",
                    schema.shape,
                    places.len()
                )));
            }
            Layout::Tensor(places)
        }
    };
    let subject_id = at(&mapping.subject_id)?;
    Ok(Samples {
        sample_id: mapping.sample_id.as_deref().map_or(Ok(subject_id), at)?,
        subject_id,
        label: at(&mapping.label)?,
        split: mapping.split.as_deref().map(at).transpose()?,
        aliases: mapping
            .aliases
            .iter()
            .map(|(kind, column)| Ok((*kind, at(column)?)))
            .collect::<Result<_, ReadError>>()?,
        features,
        records,
        reading: Reading::Nothing,
    })
}

/// The schema of a table: every column that the mapping does not name, numeric if all of its
/// cells are numbers that are finite in single precision. Reads to the end.
///
/// # Errors
/// When the file cannot be read, lacks a mapped column, has no rows, or no usable schema.
pub fn infer_schema(reader: impl Read, mapping: &Mapping) -> Result<InputSchema, ReadError> {
    let mut records = Records::open(reader)?;
    for name in mapping.names() {
        records.position(name)?;
    }
    let mut kinds: Vec<_> = records
        .positions_beside(mapping.names())
        .into_iter()
        .map(|position| (position, ColumnKind::Numeric))
        .collect();
    let mut any = false;
    while records.advance()?.is_some() {
        any = true;
        for (position, kind) in &mut kinds {
            let number = records.record[*position].parse().ok();
            if number.and_then(single).is_none() {
                *kind = ColumnKind::Categorical;
            }
        }
    }
    if !any {
        return Err(ReadError::Empty);
    }
    let column = |(position, kind): (usize, ColumnKind)| Column {
        name: records.header[position].clone(),
        kind,
    };
    let schema = InputSchema::Columns(kinds.into_iter().map(column).collect());
    schema.validate()?;
    Ok(schema)
}

impl Mapping {
    fn names(&self) -> impl Iterator<Item = &str> {
        let aliases = self.aliases.iter().map(|(_, column)| column);
        let optional = self.sample_id.iter().chain(&self.split).chain(aliases);
        optional.chain([&self.subject_id, &self.label]).map(String::as_str)
    }
}

/// Samples of a CSV file, in its order.
pub struct Samples<R> {
    records: Records<R>,
    sample_id: usize,
    subject_id: usize,
    label: usize,
    split: Option<usize>,
    aliases: Vec<(AliasKind, usize)>,
    features: Layout,
    reading: Reading,
}

/// Positions of the features in a record.
enum Layout {
    Columns(Vec<(usize, ColumnKind)>),
    Tensor(Vec<usize>),
}

impl<R: Read> Iterator for Samples<R> {
    type Item = Result<RawSample, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reading == Reading::Ended {
            return None;
        }
        let read = self.read();
        self.reading.step(read)
    }
}

impl<R: Read> Samples<R> {
    fn read(&mut self) -> Result<Option<RawSample>, ReadError> {
        let Some(place) = self.records.advance()? else { return Ok(None) };
        let Records { header, record, .. } = &self.records;
        let spot = |position: usize| Spot { place, column: &header[position] };
        let name = |position: usize| spot(position).name(record[position].to_owned());
        let features = match &self.features {
            Layout::Columns(columns) => columns
                .iter()
                .map(|(position, kind)| spot(*position).cell(*kind, &record[*position]))
                .collect::<Result<_, _>>()
                .map(Features::Row)?,
            Layout::Tensor(positions) => positions
                .iter()
                .map(|position| {
                    let spot = spot(*position);
                    spot.number(&record[*position]).and_then(|number| spot.tensor_number(number))
                })
                .collect::<Result<_, _>>()
                .map(tensor)?,
        };
        Ok(Some(RawSample {
            sample_id: name(self.sample_id)?,
            subject_id: name(self.subject_id)?,
            split: self.split.map(|at| spot(at).split(&record[at])).transpose()?,
            features,
            label: name(self.label)?,
            aliases: self
                .aliases
                .iter()
                .filter_map(|(kind, at)| spot(*at).alias(*kind, &record[*at]).transpose())
                .collect::<Result<_, _>>()?,
        }))
    }
}
