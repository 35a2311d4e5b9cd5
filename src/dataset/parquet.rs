//! Parquet: tables, and images as data sets on the web store them.

mod checked;
mod column;
mod format;
mod image;
#[cfg(test)]
mod tests;
mod thrift;

use std::{
    collections::BTreeSet,
    error::Error,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use ::parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
            ParquetRecordBatchReaderBuilder,
        },
    },
    file::reader::ChunkReader,
};
use arrow_array::{RecordBatch, RecordBatchReader};
use arrow_schema::Field;

use self::{checked::Checked, image::ImageColumn};
use super::{
    cell::Spot,
    raw_sample::{Place, RawSample, ReadError},
};
use crate::domain::{
    alias::AliasKind,
    features::{Cell, Features},
    schema::{Column, ColumnKind, InputSchema},
};

/// Rows decoded at a time: enough to be fast, few enough for large images.
const BATCH_ROWS: usize = 64;

/// Which columns say what a sample is; all others may be features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// `<source>-<row>`, from 0, serves where there is none.
    pub sample_id: Option<String>,
    /// Tells rows of several files apart.
    pub source: String,
    /// The sample's id serves where there is none.
    pub subject_id: Option<String>,
    /// Column of strings or whole numbers.
    pub label: String,
    /// Column of `train` and `holdout`.
    pub split: Option<String>,
    /// Columns of what else a subject is known by.
    pub aliases: Vec<(AliasKind, String)>,
}

/// Starts to read samples of a model with this schema. Named columns are found by their name. A
/// tensor `[channels, height, width]` is read from the image column: encoded JPEG or PNG as binary
/// or as a struct with binary `bytes`; if there are several, the one called `img` or `image`.
///
/// # Errors
/// When the file is no Parquet, lacks a column, or one has a type that cannot serve.
pub fn samples<T: ChunkReader + 'static>(
    file: T,
    schema: &InputSchema,
    mapping: &Mapping,
) -> Result<Samples, ReadError> {
    let builder = open(file)?;
    let present = builder.schema().clone();
    for name in mapping.names() {
        column::check_text(&present, name)?;
    }
    let mut wanted: Vec<_> = mapping.names().map(str::to_owned).collect();
    let (batches, features) = match schema {
        InputSchema::Columns(columns) => {
            for column in columns {
                column::check_feature(&present, column)?;
                wanted.push(column.name.clone());
            }
            let batches = project(builder, &wanted)?;
            let read = batches.schema();
            let place =
                |column: &Column| Ok((column::position(&read, &column.name)?, column.clone()));
            let places = columns.iter().map(place).collect::<Result<_, ReadError>>()?;
            (batches, Layout::Columns(places))
        }
        InputSchema::Tensor(tensor) => {
            let image = ImageColumn::new(image::find(&present, mapping)?, tensor)?;
            wanted.push(image.name.clone());
            (project(builder, &wanted)?, Layout::Image(image))
        }
    };
    Ok(Samples {
        batches,
        mapping: mapping.clone(),
        features,
        batch: None,
        at: 0,
        row: 0,
        ended: false,
    })
}

/// The schema of a file: the tensor of its first image if it has an image column, and otherwise
/// every column that the mapping does not name, numeric or categorical by its type.
///
/// # Errors
/// When the file is no Parquet, lacks a column, or has no rows or no usable schema.
pub fn infer_schema<T: ChunkReader + 'static>(
    file: T,
    mapping: &Mapping,
) -> Result<InputSchema, ReadError> {
    let builder = open(file)?;
    if builder.metadata().file_metadata().num_rows() == 0 {
        return Err(ReadError::Empty);
    }
    let present = builder.schema().clone();
    for name in mapping.names() {
        column::check_text(&present, name)?;
    }
    let schema = if image::is_there(&present, mapping) {
        let name = image::find(&present, mapping)?;
        let mut batches = project(builder, std::slice::from_ref(&name))?;
        let first = decode(0, || batches.next().transpose())?.ok_or(ReadError::Empty)?;
        InputSchema::Tensor(image::shape_of_first(&name, &first)?)
    } else {
        let column = |field: &Field| {
            column::kind(field).map(|kind| Column { name: field.name().clone(), kind })
        };
        let columns = column::beside(&present, mapping).map(column);
        InputSchema::Columns(columns.collect::<Result<_, _>>()?)
    };
    schema.validate()?;
    Ok(schema)
}

fn open<T: ChunkReader + 'static>(
    file: T,
) -> Result<ParquetRecordBatchReaderBuilder<Checked<T>>, ReadError> {
    if file.len() == 0 {
        return Err(ReadError::Empty);
    }
    // Without the hints that Arrow's own writer leaves, strings are strings, however packed.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let metadata =
        decode(0, || ArrowReaderMetadata::try_new(Arc::new(checked::metadata(&file)?), options))?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(Checked::from(file), metadata);
    let mut names = BTreeSet::new();
    match builder.schema().fields().iter().find(|field| !names.insert(field.name())) {
        Some(field) => Err(ReadError::DuplicateColumn(field.name().clone())),
        None => Ok(builder),
    }
}

/// Reads only the wanted columns, all of which are there.
fn project<T: ChunkReader + 'static>(
    builder: ParquetRecordBatchReaderBuilder<T>,
    wanted: &[String],
) -> Result<ParquetRecordBatchReader, ReadError> {
    let fields = builder.schema().fields().iter().enumerate();
    let roots = fields.filter(|(_, field)| wanted.contains(field.name())).map(|(root, _)| root);
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots.collect::<Vec<_>>());
    decode(0, || builder.with_projection(mask).with_batch_size(BATCH_ROWS).build())
}

/// One step of the decoder, which panics at some files whose parts contradict each other. Where it
/// did, it must not be asked again.
fn decode<T, E: Error + Send + Sync + 'static>(
    row: u64,
    step: impl FnOnce() -> Result<T, E>,
) -> Result<T, ReadError> {
    let place = Place::Row(row);
    match catch_unwind(AssertUnwindSafe(step)) {
        Ok(done) => done.map_err(|source| ReadError::Parquet { place, source: Box::new(source) }),
        Err(_) => {
            Err(ReadError::Parquet { place, source: "its parts contradict each other".into() })
        }
    }
}

impl Mapping {
    fn names(&self) -> impl Iterator<Item = &str> {
        let optional = self.sample_id.iter().chain(&self.subject_id).chain(&self.split);
        let aliases = self.aliases.iter().map(|(_, column)| column);
        optional.chain([&self.label]).chain(aliases).map(String::as_str)
    }
}

/// Samples of a Parquet file, in its order.
pub struct Samples {
    batches: ParquetRecordBatchReader,
    mapping: Mapping,
    features: Layout,
    batch: Option<RecordBatch>,
    /// Next row of the batch.
    at: usize,
    /// Next row of the file.
    row: u64,
    ended: bool,
}

enum Layout {
    /// Each with its position among the columns that are read.
    Columns(Vec<(usize, Column)>),
    Image(ImageColumn),
}

impl Iterator for Samples {
    type Item = Result<RawSample, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            if let Some(batch) = self.batch.as_ref().filter(|batch| self.at < batch.num_rows()) {
                let sample = self.sample(batch);
                self.ended = sample.is_err();
                self.at += 1;
                self.row += 1;
                return Some(sample);
            }
            match decode(self.row, || self.batches.next().transpose()) {
                Ok(Some(batch)) => (self.batch, self.at) = (Some(batch), 0),
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
                Ok(None) => {
                    self.ended = true;
                    return (self.row == 0).then_some(Err(ReadError::Empty));
                }
            }
        }
        None
    }
}

impl Samples {
    fn sample(&self, batch: &RecordBatch) -> Result<RawSample, ReadError> {
        let place = Place::Row(self.row);
        let text = |column: &str| {
            let spot = Spot { place, column };
            column::text(&spot, column::array(batch, column)?, self.at)
        };
        let name = |column: &String| Spot { place, column }.name(text(column)?);
        let features = match &self.features {
            Layout::Columns(columns) => {
                let cell = |(position, Column { name, kind }): &(usize, Column)| {
                    let spot = Spot { place, column: name };
                    let array = batch.column(*position).as_ref();
                    match kind {
                        ColumnKind::Categorical => {
                            column::text(&spot, array, self.at).map(Cell::Text)
                        }
                        ColumnKind::Numeric => column::number(&spot, array, self.at)
                            .and_then(|number| spot.finite(number))
                            .map(Cell::Number),
                    }
                };
                columns.iter().map(cell).collect::<Result<_, _>>().map(Features::Row)?
            }
            Layout::Image(image) => image.pixels(batch, self.at, place).map(Features::Pixels)?,
        };
        let sample_id = match &self.mapping.sample_id {
            Some(column) => name(column)?,
            None => format!("{}-{}", self.mapping.source, self.row),
        };
        let alias = |kind, column: &String| {
            let spot = Spot { place, column };
            let array = column::array(batch, column)?;
            // A null is an empty cell.
            if array.is_null(self.at) {
                return Ok(None);
            }
            spot.alias(kind, &column::text(&spot, array, self.at)?)
        };
        let split = |column: &String| Spot { place, column }.split(&text(column)?);
        Ok(RawSample {
            subject_id: match &self.mapping.subject_id {
                Some(column) => name(column)?,
                None => sample_id.clone(),
            },
            sample_id,
            split: self.mapping.split.as_ref().map(split).transpose()?,
            features,
            label: name(&self.mapping.label)?,
            aliases: self
                .mapping
                .aliases
                .iter()
                .filter_map(|(kind, column)| alias(*kind, column).transpose())
                .collect::<Result<_, _>>()?,
        })
    }
}
