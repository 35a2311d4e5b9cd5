//! The image column of a Parquet file: found, measured, and decoded to pixels.

use std::io::Cursor;

use ::image::{ImageDecoder, ImageError, ImageReader, load_from_memory};
use arrow_array::{Array, RecordBatch, cast::AsArray};
use arrow_schema::{DataType, Field, Schema};

use super::{Mapping, column};
use crate::{
    dataset::{
        cell::Spot,
        raw_sample::{Place, ReadError},
    },
    domain::schema::TensorSchema,
};

/// Images are bytes; networks see shares of full brightness.
const SCALE: u32 = 255;

pub(super) struct ImageColumn {
    pub name: String,
    channels: usize,
    height: usize,
    width: usize,
}

/// Whether a column outside the mapping holds binary data.
pub(super) fn is_there(schema: &Schema, mapping: &Mapping) -> bool {
    column::beside(schema, mapping).any(|field| is_image(field.data_type()))
}

/// Name of the image column.
pub(super) fn find(schema: &Schema, mapping: &Mapping) -> Result<String, ReadError> {
    let images: Vec<_> = column::beside(schema, mapping)
        .filter(|field| is_image(field.data_type()))
        .map(Field::name)
        .collect();
    let known = images.iter().find(|name| matches!(name.as_str(), "img" | "image"));
    match (images.as_slice(), known) {
        ([name], _) | (_, Some(name)) => Ok((*name).clone()),
        ([], None) => {
            let all = schema.fields().iter().map(|field| format!("{:?}", field.name()));
            Err(ReadError::Layout(format!(
                "there is no image column (binary, or a struct with binary `bytes`); the file \
                 has {}",
                all.collect::<Vec<_>>().join(", ")
            )))
        }
        (several, None) => Err(ReadError::Layout(format!(
            "the file has several image columns, {several:?}, but none is called img or image"
        ))),
    }
}

fn is_image(data_type: &DataType) -> bool {
    match data_type {
        DataType::Struct(fields) => {
            fields.iter().any(|field| field.name() == "bytes" && is_binary(field.data_type()))
        }
        other => is_binary(other),
    }
}

const fn is_binary(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::LargeBinary)
}

impl ImageColumn {
    /// # Errors
    /// When no image has this shape.
    pub fn new(name: String, schema: &TensorSchema) -> Result<Self, ReadError> {
        match *schema.shape.as_slice() {
            [channels @ (1 | 3), height, width] => Ok(Self { name, channels, height, width }),
            _ => Err(ReadError::Layout(format!(
                "column {name:?} holds images, of shape [1, height, width] or \
                 [3, height, width], but the model's schema has {:?}",
                schema.shape
            ))),
        }
    }

    /// The image's pixels, `[channels, height, width]` flattened; grey and colour become what the
    /// schema has, transparency is dropped.
    pub fn pixels(
        &self,
        batch: &RecordBatch,
        at: usize,
        place: Place,
    ) -> Result<Vec<u8>, ReadError> {
        let spot = Spot { place, column: &self.name };
        let encoded = bytes(&spot, batch, at)?;
        // The size is checked before the pixels are unpacked: a small file can hold a huge image.
        let (width, height, _) = measure(&spot, encoded)?;
        if (height, width) != (self.height, self.width) {
            let expected = format!("an image of {} rows by {} columns", self.height, self.width);
            return Err(spot.refuse(expected, format!("{height} by {width}")));
        }
        if is_cut_jpeg(encoded) {
            return Err(spot.refuse("a whole JPEG image", "one without its end-of-image marker"));
        }
        let image = load_from_memory(encoded).map_err(|source| undecodable(&spot, source))?;
        Ok(match self.channels {
            1 => image.into_luma8().into_raw(),
            _ => planes(&image.into_rgb8().into_raw(), self.channels),
        })
    }
}

/// The tensor of the first image of a batch.
pub(super) fn shape_of_first(name: &str, batch: &RecordBatch) -> Result<TensorSchema, ReadError> {
    let spot = Spot { place: Place::Row(0), column: name };
    let (width, height, has_color) = measure(&spot, bytes(&spot, batch, 0)?)?;
    let channels = if has_color { 3 } else { 1 };
    Ok(TensorSchema { shape: vec![channels, height, width], scale: SCALE })
}

/// From `[pixels, channels]` to `[channels, pixels]`.
fn planes(interleaved: &[u8], channels: usize) -> Vec<u8> {
    (0..channels)
        .flat_map(|channel| interleaved.iter().skip(channel).step_by(channels).copied())
        .collect()
}

fn bytes<'a>(spot: &Spot, batch: &'a RecordBatch, at: usize) -> Result<&'a [u8], ReadError> {
    let mut array = column::array(batch, spot.column)?;
    if let Some(parts) = array.as_struct_opt().filter(|parts| parts.is_valid(at)) {
        array = match parts.column_by_name("bytes") {
            Some(bytes) => bytes.as_ref(),
            None => return Err(spot.refuse("a struct with `bytes`", "one without")),
        };
    }
    if array.is_null(at) {
        return Err(spot.refuse("an image", "null"));
    }
    match array.data_type() {
        DataType::Binary => Ok(array.as_binary::<i32>().value(at)),
        DataType::LargeBinary => Ok(array.as_binary::<i64>().value(at)),
        other => Err(spot.refuse("an image", format!("a {other}"))),
    }
}

/// Width, height and whether there is colour, from the image's header.
fn measure(spot: &Spot, encoded: &[u8]) -> Result<(usize, usize, bool), ReadError> {
    let reader = ImageReader::new(Cursor::new(encoded)).with_guessed_format();
    let decoder = reader
        .map_err(ImageError::IoError)
        .and_then(ImageReader::into_decoder)
        .map_err(|source| undecodable(spot, source))?;
    let (width, height) = decoder.dimensions();
    Ok((width as usize, height as usize, decoder.color_type().has_color()))
}

/// Whether a JPEG image does not end as one, zeros after its end aside. The decoder would fill what is
/// missing with grey.
fn is_cut_jpeg(encoded: &[u8]) -> bool {
    let is_jpeg = encoded.starts_with(&[0xff, 0xd8, 0xff]);
    let length = encoded.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    is_jpeg && !encoded[..length].ends_with(&[0xff, 0xd9])
}

fn undecodable(spot: &Spot, source: ImageError) -> ReadError {
    ReadError::Image { place: spot.place, column: spot.column.to_owned(), source }
}
