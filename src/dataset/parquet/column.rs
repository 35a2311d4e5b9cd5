//! Columns of a Parquet file: which types can serve as what, and their values.

use arrow_array::{
    Array, RecordBatch,
    cast::AsArray,
    types::{
        Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
        UInt32Type, UInt64Type,
    },
};
use arrow_schema::{DataType, Field, Schema};

use super::Mapping;
use crate::{
    dataset::{
        cell::{Spot, text_of},
        raw_sample::ReadError,
    },
    domain::schema::{Column, ColumnKind},
};

/// The field of this name.
pub(super) fn field<'a>(schema: &'a Schema, name: &str) -> Result<&'a Field, ReadError> {
    Ok(schema.field(position(schema, name)?))
}

/// All fields that the mapping does not name.
pub(super) fn beside<'a>(
    schema: &'a Schema,
    mapping: &'a Mapping,
) -> impl Iterator<Item = &'a Field> {
    let fields = schema.fields().iter().map(AsRef::as_ref);
    fields.filter(|field: &&Field| mapping.names().all(|name| name != field.name()))
}

/// What a column's type makes it, where nothing else is said.
pub(super) fn kind(field: &Field) -> Result<ColumnKind, ReadError> {
    let data_type = field.data_type();
    if is_number(data_type) {
        Ok(ColumnKind::Numeric)
    } else if is_text(data_type) {
        Ok(ColumnKind::Categorical)
    } else {
        Err(refused(field, "features are numbers, strings or booleans"))
    }
}

pub(super) fn check_feature(schema: &Schema, column: &Column) -> Result<(), ReadError> {
    let field = field(schema, &column.name)?;
    match column.kind {
        ColumnKind::Numeric if !is_number(field.data_type()) => {
            Err(refused(field, "the model's schema has numbers there"))
        }
        ColumnKind::Categorical if !is_text(field.data_type()) && !is_whole(field.data_type()) => {
            Err(refused(field, "the model's schema has a category there"))
        }
        _ => Ok(()),
    }
}

/// Checks a column of identifiers, labels or splits.
pub(super) fn check_text(schema: &Schema, name: &str) -> Result<(), ReadError> {
    let field = field(schema, name)?;
    if is_text(field.data_type()) || is_whole(field.data_type()) {
        Ok(())
    } else {
        Err(refused(field, "strings or whole numbers are needed"))
    }
}

pub(super) fn refused(field: &Field, expected: &str) -> ReadError {
    ReadError::ColumnType {
        column: field.name().clone(),
        expected: expected.to_owned(),
        found: field.data_type().to_string(),
    }
}

/// The column of this name.
pub(super) fn array<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a dyn Array, ReadError> {
    let at = position(batch.schema_ref(), name)?;
    Ok(batch.column(at).as_ref())
}

pub(super) fn position(schema: &Schema, name: &str) -> Result<usize, ReadError> {
    schema.index_of(name).map_err(|_| ReadError::MissingColumn {
        column: name.to_owned(),
        present: schema.fields().iter().map(|field| field.name().clone()).collect(),
    })
}

fn is_whole(data_type: &DataType) -> bool {
    data_type.is_integer()
}

fn is_number(data_type: &DataType) -> bool {
    is_whole(data_type) || matches!(data_type, DataType::Float32 | DataType::Float64)
}

const fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Boolean)
}

/// The value at `row` of a column that passed [`check_feature`] as numeric; it may be NaN.
pub(super) fn number(spot: &Spot, array: &dyn Array, row: usize) -> Result<f64, ReadError> {
    match value(spot, array, row)? {
        Value::Signed(whole) => Ok(whole as f64),
        Value::Unsigned(whole) => Ok(whole as f64),
        Value::Float(number) => Ok(number),
        Value::Text(text) => Err(spot.refuse("a number", text_of(text))),
        Value::Boolean(_) => Err(spot.refuse("a number", "a boolean")),
    }
}

/// The value at `row` of a column that passed [`check_text`].
pub(super) fn text(spot: &Spot, array: &dyn Array, row: usize) -> Result<String, ReadError> {
    match value(spot, array, row)? {
        Value::Signed(whole) => Ok(whole.to_string()),
        Value::Unsigned(whole) => Ok(whole.to_string()),
        Value::Text(text) => Ok(text.to_owned()),
        Value::Boolean(word) => Ok(word.to_string()),
        Value::Float(_) => Err(spot.refuse("a string", "a floating-point number")),
    }
}

enum Value<'a> {
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(&'a str),
    Boolean(bool),
}

fn value<'a>(spot: &Spot, array: &'a dyn Array, row: usize) -> Result<Value<'a>, ReadError> {
    if array.is_null(row) {
        return Err(spot.refuse("a value", "null"));
    }
    Ok(match array.data_type() {
        DataType::Int8 => Value::Signed(array.as_primitive::<Int8Type>().value(row).into()),
        DataType::Int16 => Value::Signed(array.as_primitive::<Int16Type>().value(row).into()),
        DataType::Int32 => Value::Signed(array.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Value::Signed(array.as_primitive::<Int64Type>().value(row)),
        DataType::UInt8 => Value::Unsigned(array.as_primitive::<UInt8Type>().value(row).into()),
        DataType::UInt16 => Value::Unsigned(array.as_primitive::<UInt16Type>().value(row).into()),
        DataType::UInt32 => Value::Unsigned(array.as_primitive::<UInt32Type>().value(row).into()),
        DataType::UInt64 => Value::Unsigned(array.as_primitive::<UInt64Type>().value(row)),
        DataType::Float32 => Value::Float(array.as_primitive::<Float32Type>().value(row).into()),
        DataType::Float64 => Value::Float(array.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => Value::Text(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Value::Text(array.as_string::<i64>().value(row)),
        DataType::Boolean => Value::Boolean(array.as_boolean().value(row)),
        other => return Err(spot.refuse("a number or a string", format!("a {other}"))),
    })
}
