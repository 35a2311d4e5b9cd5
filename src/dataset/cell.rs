//! Single values on their way from a file into a sample; refusals name the place and the column.

use super::raw_sample::{Place, ReadError};
use crate::domain::{
    alias::AliasKind,
    features::{Cell, Features},
    identity::Digest,
    sample::Split,
    schema::ColumnKind,
};

/// A quote too many makes one cell of several rows, other people's among them.
const BROKEN: &str = "a line break; is a quote open?";

/// Where a value stands.
#[derive(Clone, Copy)]
pub(super) struct Spot<'a> {
    pub place: Place,
    pub column: &'a str,
}

impl Spot<'_> {
    pub fn refuse(&self, expected: impl Into<String>, found: impl Into<String>) -> ReadError {
        ReadError::Cell {
            place: self.place,
            column: self.column.to_owned(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// A cell from its text, as its column wants it.
    pub fn cell(&self, kind: ColumnKind, text: &str) -> Result<Cell, ReadError> {
        match kind {
            ColumnKind::Numeric => self.number(text).map(Cell::Number),
            ColumnKind::Categorical if text.contains(['\n', '\r']) => {
                Err(self.refuse("a category", BROKEN))
            }
            ColumnKind::Categorical => Ok(Cell::Text(text.to_owned())),
        }
    }

    pub fn number(&self, text: &str) -> Result<f64, ReadError> {
        match text.trim().parse() {
            Ok(number) => self.finite(number),
            Err(_) => Err(self.refuse("a number", text_of(text))),
        }
    }

    pub fn finite(&self, number: f64) -> Result<f64, ReadError> {
        self.tensor_number(number).map(|_| number)
    }

    /// One number of a tensor.
    pub fn tensor_number(&self, number: f64) -> Result<f32, ReadError> {
        let found = "one that is not finite in single precision";
        single(number).ok_or_else(|| self.refuse("a finite number", found))
    }

    /// A sample's or a subject's identifier, or a label. What is refused is not repeated.
    pub fn name(&self, text: String) -> Result<String, ReadError> {
        if text.is_empty() {
            return Err(self.refuse("a name", "nothing"));
        }
        match text.bytes().find(|byte| matches!(byte, b'\0' | b'\n' | b'\r')) {
            None => Ok(text),
            Some(b'\0') => Err(self.refuse("a name", "a NUL character, which no database keeps")),
            Some(_) => Err(self.refuse("a name", BROKEN)),
        }
    }

    /// The hash of an alias; `None` where the cell is empty. What is refused is not repeated.
    pub fn alias(
        &self,
        kind: AliasKind,
        text: &str,
    ) -> Result<Option<(AliasKind, Digest)>, ReadError> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        match kind.digest(text) {
            Some(hash) => Ok(Some((kind, hash))),
            None => Err(self.refuse(kind.expected(), "something else")),
        }
    }

    pub fn split(&self, text: &str) -> Result<Split, ReadError> {
        [Split::Train, Split::Holdout]
            .into_iter()
            .find(|split| split.as_str() == text)
            .ok_or_else(|| self.refuse("\"train\" or \"holdout\"", text_of(text)))
    }
}

/// As the network sees a number, in single precision; `None` where that is not finite.
pub(super) fn single(number: f64) -> Option<f32> {
    #[expect(clippy::cast_possible_truncation, reason = "single precision is what is wanted")]
    let single = number as f32;
    single.is_finite().then_some(single)
}

/// A tensor's numbers, as bytes where they all are.
pub(super) fn tensor(numbers: Vec<f32>) -> Features {
    let is_byte = |number: &f32| (0.0..=255.0).contains(number) && number.fract() == 0.0;
    if numbers.iter().all(is_byte) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "each is a whole number from 0 to 255"
        )]
        let pixels = numbers.into_iter().map(|number| number as u8).collect();
        Features::Pixels(pixels)
    } else {
        Features::Floats(numbers)
    }
}

/// Text as an error tells of it. In a row that has slipped by a column it may be anything of a person.
pub(super) fn text_of(text: &str) -> String {
    format!("text of {} characters", text.chars().count())
}
