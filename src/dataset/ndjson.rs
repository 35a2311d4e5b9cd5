//! NDJSON: one JSON object a line, as the API takes samples.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    io::{BufRead, Read},
};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{
    cell::{Spot, tensor, text_of},
    raw_sample::{Place, RawSample, ReadError, Reading},
};
use crate::domain::{
    alias::AliasKind,
    features::{Cell, Features},
    misfit,
    sample::Split,
    schema::{Column, ColumnKind, InputSchema, TensorSchema},
};

/// Longest line in bytes.
const LINE_MAX: u64 = 16 << 20;

/// Starts to read samples of a model with this schema, each a line such as
/// `{"sample_id": "s-1", "subject_id": "p-1", "split": "train", "label": "x", "features": F}`.
///
/// `split` may be absent, and `sample_id` too: the subject's id serves then. `label` is a string
/// or a number. `aliases` may say what else the subject is known by: `{"email": "p@example.org"}`.
/// `F` is an object with a value for each column of the schema, or the tensor as an array of
/// numbers, flat or nested as its shape is.
pub fn samples<R: BufRead>(reader: R, schema: &InputSchema) -> Samples<R> {
    Samples { reader, schema: schema.clone(), line: 0, reading: Reading::Nothing }
}

/// Samples of an NDJSON file, in its order; blank lines do not count.
pub struct Samples<R> {
    reader: R,
    schema: InputSchema,
    /// Number of the line that was read last, from 1.
    line: u64,
    reading: Reading,
}

impl<R: BufRead> Iterator for Samples<R> {
    type Item = Result<RawSample, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reading == Reading::Ended {
            return None;
        }
        let read = self.read();
        self.reading.step(read)
    }
}

impl<R: BufRead> Samples<R> {
    fn read(&mut self) -> Result<Option<RawSample>, ReadError> {
        let mut line = Vec::new();
        loop {
            line.clear();
            self.line += 1;
            let place = Place::Line(self.line);
            let read = (&mut self.reader).take(LINE_MAX + 1).read_until(b'\n', &mut line);
            match read.map_err(|source| ReadError::Io { place, source })? {
                0 => return Ok(None),
                _ if line.len() as u64 > LINE_MAX => {
                    let problem = format!("the line is longer than {LINE_MAX} bytes");
                    return Err(ReadError::Record { place, problem });
                }
                _ => {}
            }
            let Ok(text) = str::from_utf8(&line) else {
                return Err(ReadError::Record { place, problem: "the text is not UTF-8".into() });
            };
            if !text.trim().is_empty() {
                return sample(text, &self.schema, place).map(Some);
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    sample_id: Option<String>,
    subject_id: String,
    split: Option<Split>,
    label: Value,
    #[serde(borrow)]
    features: &'a RawValue,
    #[serde(default)]
    aliases: BTreeMap<AliasKind, Option<String>>,
}

fn sample(text: &str, schema: &InputSchema, place: Place) -> Result<RawSample, ReadError> {
    let line: Line = serde_json::from_str(text).map_err(|error| broken(text, &error, place))?;
    let spot = |column| Spot { place, column };
    let subject_id = spot("subject_id").name(line.subject_id)?;
    let label = match line.label {
        Value::String(label) => spot("label").name(label)?,
        Value::Number(label) => label.to_string(),
        other => return Err(spot("label").refuse("a string or a number", described(&other))),
    };
    let features = line.features.get();
    let features = match schema {
        InputSchema::Columns(columns) => row(features, columns, place)?,
        InputSchema::Tensor(schema) => numbers(features, schema, place)?,
    };
    Ok(RawSample {
        sample_id: match line.sample_id {
            Some(sample_id) => spot("sample_id").name(sample_id)?,
            None => subject_id.clone(),
        },
        subject_id,
        split: line.split,
        features,
        label,
        aliases: line
            .aliases
            .into_iter()
            .filter_map(|(kind, text)| {
                spot(kind.as_str()).alias(kind, &text.unwrap_or_default()).transpose()
            })
            .collect::<Result<_, _>>()?,
    })
}

fn row(text: &str, columns: &[Column], place: Place) -> Result<Features, ReadError> {
    let Entries(mut entries) = serde_json::from_str(text).map_err(|error| {
        let problem = format!("features: {}", without_position(&error));
        ReadError::Record { place, problem }
    })?;
    let mut cells = Vec::with_capacity(columns.len());
    for Column { name, kind } in columns {
        let spot = Spot { place, column: name };
        let value = entries.remove(name).ok_or_else(|| spot.refuse("a value", "none"))?;
        cells.push(cell(&spot, *kind, value)?);
    }
    match entries.first_key_value() {
        Some((key, _)) => Err(Spot { place, column: key }.refuse("no such feature", "one")),
        None => Ok(Features::Row(cells)),
    }
}

fn cell(spot: &Spot, kind: ColumnKind, value: Value) -> Result<Cell, ReadError> {
    match (kind, value) {
        (ColumnKind::Numeric, Value::Number(number)) => {
            spot.finite(number.as_f64().unwrap_or(f64::NAN)).map(Cell::Number)
        }
        (ColumnKind::Categorical, Value::String(text)) => Ok(Cell::Text(text)),
        (ColumnKind::Categorical, Value::Number(number)) => Ok(Cell::Text(number.to_string())),
        (ColumnKind::Numeric, other) => Err(spot.refuse("a number", described(&other))),
        (ColumnKind::Categorical, other) => Err(spot.refuse("a string", described(&other))),
    }
}

fn numbers(text: &str, schema: &TensorSchema, place: Place) -> Result<Features, ReadError> {
    let shape = &schema.shape;
    let spot = Spot { place, column: "features" };
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let problem = format!("features: {}", without_position(&error));
        ReadError::Record { place, problem }
    })?;
    let length: usize = shape.iter().product();
    let misfit = |found: String| spot.refuse(format!("numbers of shape {shape:?}"), found);
    let mut numbers = Vec::with_capacity(length);
    let is_nested = value.as_array().is_some_and(|items| items.iter().any(Value::is_array));
    if is_nested {
        flatten(&value, shape, &spot, &mut numbers)?;
    } else {
        flatten(&value, &[length], &spot, &mut numbers)?;
    }
    if numbers.len() == length {
        Ok(tensor(numbers))
    } else {
        Err(misfit(format!("{} of them", numbers.len())))
    }
}

/// Appends the numbers of a nested array in row-major order.
fn flatten(
    value: &Value,
    shape: &[usize],
    spot: &Spot,
    numbers: &mut Vec<f32>,
) -> Result<(), ReadError> {
    match (shape.split_first(), value) {
        (Some((length, rest)), Value::Array(items)) if items.len() == *length => {
            items.iter().try_for_each(|item| flatten(item, rest, spot, numbers))
        }
        (Some((length, _)), other) => {
            Err(spot.refuse(format!("an array of {length}"), described(other)))
        }
        (None, Value::Number(number)) => {
            numbers.push(spot.tensor_number(number.as_f64().unwrap_or(f64::NAN))?);
            Ok(())
        }
        (None, other) => {
            let found = format!("{} as number {}", described(other), numbers.len());
            Err(spot.refuse("numbers", found))
        }
    }
}

/// A JSON object as it stands; a key that comes twice is an error.
struct Entries(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object with a value for each column")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if entries.contains_key(&key) {
                        return Err(de::Error::custom(format!("{key:?} is there twice")));
                    }
                    entries.insert(key, value);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

fn broken(text: &str, error: &serde_json::Error, place: Place) -> ReadError {
    // Python writes these words, which JSON does not have. The error stands at their first letter,
    // behind a sign.
    let at = error.column().saturating_sub(1);
    let word = ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| {
        let signed = usize::from(word.starts_with('-'));
        text.get(at.saturating_sub(signed)..).is_some_and(|rest| rest.starts_with(word))
    });
    let problem = match word {
        Some(word) => format!("{word} at byte {} is not a finite number", error.column()),
        None => format!("{} at byte {}", without_position(error), error.column()),
    };
    ReadError::Record { place, problem }
}

/// A JSON error without what it quotes, nor its own line and column: they count from the wrong place.
fn without_position(error: &serde_json::Error) -> String {
    let text = misfit::without_content(error);
    text.rsplit_once(" at line ").map_or(text.clone(), |(message, _)| message.to_owned())
}

/// A value as an error tells of it: what it is, not what it says.
fn described(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "a boolean".into(),
        Value::Number(_) => "a number".into(),
        Value::String(text) => match text.parse::<f64>() {
            Ok(number) if !number.is_finite() => "text that says what is not finite".into(),
            _ => text_of(text),
        },
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Object(_) => "an object".into(),
    }
}
