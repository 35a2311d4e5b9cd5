//! What every reader yields: a sample with the caller's own identifiers, or where reading failed.

use std::{error::Error, fmt, io};

use uuid::Uuid;

use crate::domain::{
    alias::AliasKind,
    features::Features,
    identity::{Digest, ServiceKey},
    sample::{NewSample, Split},
    schema::SchemaError,
};

/// A sample as a file gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct RawSample {
    /// The caller's name of the sample.
    pub sample_id: String,
    /// The caller's name of the person.
    pub subject_id: String,
    /// Absent where the file does not say.
    pub split: Option<Split>,
    pub features: Features,
    pub label: String,
    /// What else the person is known by, as hashes that must not be kept as they are.
    pub aliases: Vec<(AliasKind, Digest)>,
}

impl RawSample {
    /// The sample as a model's ledger takes it: with pseudonyms in the place of the caller's
    /// identifiers, and in `default_split` where the file does not say.
    pub fn into_sample(
        self,
        id: Uuid,
        model_id: Uuid,
        key: &ServiceKey,
        default_split: Split,
    ) -> NewSample {
        NewSample {
            id,
            key: key.sample(model_id, &self.sample_id),
            subject: key.subject(&self.subject_id),
            split: self.split.unwrap_or(default_split),
            features: self.features,
            label: self.label,
            aliases: self.aliases.iter().map(|(kind, hash)| key.alias(*kind, hash)).collect(),
        }
    }
}

/// Where in a file something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Line of a text file, from 1; of a record over several lines, the first.
    Line(u64),
    /// Row of a table without lines, from 0.
    Row(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Row(row) => write!(f, "row {row}"),
        }
    }
}

/// How far a reader of text has come: it ends at the end or at the first error, and a file
/// without any sample is an error itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Nothing,
    Some,
    Ended,
}

impl Reading {
    /// What an iterator yields when `read` came next.
    pub(super) fn step(
        &mut self,
        read: Result<Option<RawSample>, ReadError>,
    ) -> Option<Result<RawSample, ReadError>> {
        let before = std::mem::replace(self, Self::Ended);
        match read {
            Ok(Some(sample)) => {
                *self = Self::Some;
                Some(Ok(sample))
            }
            Ok(None) => (before == Self::Nothing).then_some(Err(ReadError::Empty)),
            Err(error) => Some(Err(error)),
        }
    }
}

/// A data file that cannot be used as it is; says where and what was found.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the file holds no samples")]
    Empty,
    #[error("reading the file failed at {place}")]
    Io { place: Place, source: io::Error },
    #[error("there is no column {column:?}; the file has {}", quoted(.present))]
    MissingColumn { column: String, present: Vec<String> },
    #[error("column {0:?} is there twice")]
    DuplicateColumn(String),
    #[error("column {column:?} holds {found}, but {expected}")]
    ColumnType { column: String, expected: String, found: String },
    /// The columns as a whole do not fit the model's schema.
    #[error("{0}")]
    Layout(String),
    #[error("the file has no usable schema")]
    Schema(#[from] SchemaError),
    /// The record cannot be taken apart.
    #[error("{place}: {problem}")]
    Record { place: Place, problem: String },
    #[error("{place}, column {column:?}: expected {expected}, found {found}")]
    Cell { place: Place, column: String, expected: String, found: String },
    #[error("{place}, column {column:?}: the image cannot be decoded")]
    Image { place: Place, column: String, source: image::ImageError },
    #[error("the file is no readable Parquet at {place}")]
    Parquet { place: Place, source: Box<dyn Error + Send + Sync> },
}

/// `"a", "b" and 3 more`.
fn quoted(names: &[String]) -> String {
    const SHOWN: usize = 30;
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect();
    match names.len().checked_sub(SHOWN) {
        Some(hidden @ 1..) => format!("{} and {hidden} more", shown.join(", ")),
        _ => shown.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_become_pseudonyms_on_the_way_into_the_ledger() {
        let key = ServiceKey::new([7; 32]);
        let (id, model_id) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let raw = RawSample {
            sample_id: "s".into(),
            subject_id: "p".into(),
            split: None,
            features: Features::Pixels(vec![1]),
            label: "x".into(),
            aliases: vec![(AliasKind::Email, Digest::of(b"p@example.org"))],
        };
        let sample = raw.clone().into_sample(id, model_id, &key, Split::Holdout);
        assert_eq!((sample.id, sample.split, sample.label.as_str()), (id, Split::Holdout, "x"));
        assert_eq!((sample.key, sample.subject), (key.sample(model_id, "s"), key.subject("p")));
        let alias = key.alias(AliasKind::Email, &Digest::of(b"p@example.org"));
        assert_eq!(sample.aliases, [alias]);
        let raw = RawSample { split: Some(Split::Train), ..raw };
        assert_eq!(raw.into_sample(id, model_id, &key, Split::Holdout).split, Split::Train);
    }
}
