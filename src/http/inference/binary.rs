//! The protocol's extension for binary tensors: the header `Inference-Header-Content-Length` tells
//! how many bytes of the body are the JSON object; the tensors' bytes follow it end to end, in
//! the order in which the object names them, little-endian and row-major.
//!
//! <https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol/binary-tensor-data-extension>

use axum::http::{HeaderMap, HeaderName};
use half::f16;
use serde::Deserialize;

use super::{
    tensor::{Datatype, InputTensor},
    values::Values,
};
use crate::http::problem::Problem;

/// How the service names the extension.
pub const EXTENSION: &str = "binary_tensor_data";

pub const MEDIA_TYPE: &str = "application/octet-stream";

pub const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// The extension's parameters, each of which means something in one place. Others are of the
/// protocol too, but nobody here knows any: they are passed over.
#[derive(Debug, Default, Deserialize)]
pub struct Parameters {
    /// Of an input: how many bytes it has.
    #[serde(default)]
    pub binary_data_size: Option<u64>,
    /// Of an output that is asked for: whether it is to be binary.
    #[serde(default)]
    pub binary_data: Option<bool>,
    /// Of a request: whether outputs that do not say so themselves are to be binary.
    #[serde(default)]
    pub binary_data_output: Option<bool>,
    /// Without it serde would take an array for an object.
    #[serde(flatten)]
    _others: serde_json::Map<String, serde_json::Value>,
}

/// Parts a body into the JSON object and the bytes after it; there are none without the header.
///
/// # Errors
/// When the header is no length within the body.
pub fn part<'b>(headers: &HeaderMap, body: &'b [u8]) -> Result<(&'b [u8], &'b [u8]), Problem> {
    let Some(length) = headers.get(&JSON_LENGTH) else { return Ok((body, &[])) };
    let digits = length.to_str().ok().filter(|it| it.bytes().all(|b| b.is_ascii_digit()));
    let length: Option<usize> = digits.and_then(|digits| digits.parse().ok());
    length.and_then(|length| body.split_at_checked(length)).ok_or_else(|| Problem::InvalidHeader {
        name: "Inference-Header-Content-Length",
        detail: format!(
            "must be the length of the JSON object in bytes, at most the {} of the body",
            body.len()
        ),
    })
}

/// Gives each binary input its bytes.
///
/// # Errors
/// When an input has no content or two, or the bytes are not what the inputs say.
pub fn attach(inputs: &mut [InputTensor], mut bytes: &[u8]) -> Result<(), String> {
    let given = bytes.len();
    for input in inputs {
        let size = input.parameters.as_ref().and_then(|it| it.binary_data_size);
        match (size, &input.data) {
            (None, Some(_)) => {}
            (None, None) => return Err(format!("input {:?} has no `data`", input.name)),
            (Some(_), Some(_)) => {
                return Err(format!(
                    "input {:?} has both `data` and `binary_data_size`",
                    input.name
                ));
            }
            (Some(size), None) => {
                let own = usize::try_from(size).ok().and_then(|it| bytes.split_at_checked(it));
                let Some((own, rest)) = own else {
                    return Err(format!(
                        "input {:?} is to have {size} bytes, but of the {given} that follow the \
                         JSON object only {} are left",
                        input.name,
                        bytes.len()
                    ));
                };
                bytes = rest;
                let values = values(input.datatype, own);
                input.data =
                    Some(values.map_err(|reason| format!("input {:?}: {reason}", input.name))?);
            }
        }
    }
    if bytes.is_empty() {
        Ok(())
    } else {
        Err(format!("of the {given} bytes after the JSON object {} are no input's", bytes.len()))
    }
}

fn values(datatype: Datatype, bytes: &[u8]) -> Result<Values, String> {
    let Some(size) = datatype.size() else { return texts(bytes).map(Values::Texts) };
    if !bytes.len().is_multiple_of(size) {
        return Err(format!("{} bytes are no whole number of values of {size} bytes", bytes.len()));
    }
    Ok(match datatype {
        Datatype::Bool | Datatype::Uint8 => numbers(bytes, u8::from_le_bytes, f64::from),
        Datatype::Int8 => numbers(bytes, i8::from_le_bytes, f64::from),
        Datatype::Uint16 => numbers(bytes, u16::from_le_bytes, f64::from),
        Datatype::Int16 => numbers(bytes, i16::from_le_bytes, f64::from),
        Datatype::Fp16 => numbers(bytes, f16::from_le_bytes, f64::from),
        Datatype::Uint32 => numbers(bytes, u32::from_le_bytes, f64::from),
        Datatype::Int32 => numbers(bytes, i32::from_le_bytes, f64::from),
        Datatype::Fp32 => {
            let (quads, _) = bytes.as_chunks::<4>();
            Values::Singles(quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect())
        }
        Datatype::Uint64 => numbers(bytes, u64::from_le_bytes, |it| it as f64),
        Datatype::Int64 => numbers(bytes, i64::from_le_bytes, |it| it as f64),
        Datatype::Fp64 => numbers(bytes, f64::from_le_bytes, |it| it),
        Datatype::Bytes => unreachable!("texts have no size"),
    })
}

fn numbers<const SIZE: usize, T>(
    bytes: &[u8],
    read: impl Fn([u8; SIZE]) -> T,
    number: impl Fn(T) -> f64,
) -> Values {
    let (chunks, _) = bytes.as_chunks::<SIZE>();
    Values::Numbers(chunks.iter().map(|chunk| number(read(*chunk))).collect())
}

/// Each text is its length in four bytes, then UTF-8.
fn texts(mut bytes: &[u8]) -> Result<Vec<String>, String> {
    let mut texts = Vec::new();
    while !bytes.is_empty() {
        let length = bytes.split_first_chunk::<4>();
        let text = length.and_then(|(length, rest)| {
            rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
        });
        let Some((text, rest)) = text else {
            return Err("the bytes end within a text or its length".into());
        };
        texts.push(String::from_utf8(text.to_vec()).map_err(|_| "a text is no UTF-8")?);
        bytes = rest;
    }
    Ok(texts)
}

/// Appends numbers as an output's bytes; returns how many bytes.
pub fn push_numbers(numbers: &[f32], bytes: &mut Vec<u8>) -> usize {
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    4 * numbers.len()
}

/// Appends texts as an output's bytes; returns how many bytes.
pub fn push_texts(texts: &[&str], bytes: &mut Vec<u8>) -> usize {
    let before = bytes.len();
    for text in texts {
        bytes.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    bytes.len() - before
}
