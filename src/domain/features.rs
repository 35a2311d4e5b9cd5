//! What a sample looks like before it is encoded for a network, and its bytes in the ledger.

use serde::{Deserialize, Serialize};

/// One cell of a tabular row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Cell {
    Number(f64),
    Text(String),
}

/// The features of one sample, as the caller gave them.
#[derive(Clone, Debug, PartialEq)]
pub enum Features {
    /// Cells in the order of the schema's columns.
    Row(Vec<Cell>),
    /// Integers `0..=255` of a flattened tensor, `[channels, height, width]` for images.
    Pixels(Vec<u8>),
    /// A flattened tensor.
    Floats(Vec<f32>),
}

#[derive(Debug, thiserror::Error)]
#[error("stored features are damaged: {0}")]
pub struct FeaturesError(&'static str);

const ROW: u8 = 1;
const PIXELS: u8 = 2;
const FLOATS: u8 = 3;

impl Features {
    /// One tag byte, then JSON (rows), raw bytes (pixels) or little-endian `f32`.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Row(cells) => {
                let mut bytes = vec![ROW];
                serde_json::to_writer(&mut bytes, cells).expect("cells serialize to memory");
                bytes
            }
            Self::Pixels(pixels) => [&[PIXELS], pixels.as_slice()].concat(),
            Self::Floats(floats) => [&[FLOATS], floats_to_bytes(floats).as_slice()].concat(),
        }
    }

    /// What they take up in memory, about.
    pub fn size(&self) -> usize {
        match self {
            Self::Row(cells) => cells.iter().map(Cell::size).sum(),
            Self::Pixels(pixels) => pixels.len(),
            Self::Floats(floats) => size_of_val(floats.as_slice()),
        }
    }

    /// # Errors
    /// When the bytes were not written by [`Features::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FeaturesError> {
        match bytes.split_first() {
            Some((&ROW, rest)) => serde_json::from_slice(rest)
                .map(Self::Row)
                .map_err(|_| FeaturesError("the row is not JSON")),
            Some((&PIXELS, rest)) => Ok(Self::Pixels(rest.to_vec())),
            Some((&FLOATS, rest)) => floats_from_bytes(rest).map(Self::Floats),
            Some(_) => Err(FeaturesError("unknown tag")),
            None => Err(FeaturesError("no bytes")),
        }
    }
}

impl Cell {
    fn size(&self) -> usize {
        let text = match self {
            Self::Number(_) => 0,
            Self::Text(text) => text.len(),
        };
        size_of::<Self>() + text
    }
}

/// Little-endian `f32`, as predictions are kept too.
pub fn floats_to_bytes(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// # Errors
/// When the length is no multiple of four.
pub fn floats_from_bytes(bytes: &[u8]) -> Result<Vec<f32>, FeaturesError> {
    let (quads, rest) = bytes.as_chunks::<4>();
    if rest.is_empty() {
        Ok(quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect())
    } else {
        Err(FeaturesError("not a whole number of f32"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_round_trips() {
        let all = [
            Features::Row(vec![Cell::Number(39.0), Cell::Text("State-gov".into())]),
            Features::Pixels(vec![0, 255, 3]),
            Features::Floats(vec![0.1, -3.5, f32::MIN_POSITIVE]),
        ];
        for features in all {
            assert_eq!(Features::from_bytes(&features.to_bytes()).unwrap(), features);
        }
        assert!(Features::from_bytes(&[]).is_err());
        assert!(Features::from_bytes(&[FLOATS, 1, 2]).is_err());
    }
}
