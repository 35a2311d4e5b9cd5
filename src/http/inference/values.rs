//! The numbers or texts of a tensor, flat or nested, read in one pass.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, SeqAccess, Visitor},
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ArrayBuilder, RefOr, Schema, schema::ArrayItems},
};

/// A tensor's content in row-major order.
#[derive(Debug, PartialEq)]
pub enum Values {
    /// Booleans count as 0 and 1.
    Numbers(Vec<f64>),
    /// What came as bytes of single precision.
    Singles(Vec<f32>),
    Texts(Vec<String>),
}

impl Values {
    pub fn len(&self) -> usize {
        match self {
            Self::Numbers(numbers) => numbers.len(),
            Self::Singles(singles) => singles.len(),
            Self::Texts(texts) => texts.len(),
        }
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut values = Self::Numbers(Vec::new());
        deserializer.deserialize_seq(Flatten { values: &mut values, depth: 0 })?;
        Ok(values)
    }
}

/// Deeper than any shape goes.
const DEPTH_MAX: usize = 8;

struct Flatten<'a> {
    values: &'a mut Values,
    depth: usize,
}

impl Flatten<'_> {
    fn number<E: de::Error>(self, number: f64) -> Result<(), E> {
        match self.values {
            Values::Numbers(numbers) => {
                numbers.push(number);
                Ok(())
            }
            Values::Singles(_) | Values::Texts(_) => {
                Err(E::custom("`data` mixes numbers and strings"))
            }
        }
    }

    fn text<E: de::Error>(self, text: String) -> Result<(), E> {
        match self.values {
            Values::Texts(texts) => texts.push(text),
            Values::Numbers(numbers) if numbers.is_empty() => {
                *self.values = Values::Texts(vec![text]);
            }
            Values::Numbers(_) | Values::Singles(_) => {
                return Err(E::custom("`data` mixes numbers and strings"));
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Flatten<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Flatten<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.depth == 0 {
            "an array of numbers or strings"
        } else {
            "a number, a string or an array of them (null, NaN and infinity are none)"
        })
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<(), E> {
        self.number(number)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<(), E> {
        self.number(number as f64)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<(), E> {
        self.number(number as f64)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.number(f64::from(u8::from(value)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.text(text.to_owned())
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<(), E> {
        self.text(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        if self.depth == DEPTH_MAX {
            return Err(de::Error::custom("`data` is nested too deeply"));
        }
        let depth = self.depth + 1;
        while items.next_element_seed(Flatten { values: &mut *self.values, depth })?.is_some() {}
        Ok(())
    }
}

impl PartialSchema for Values {
    fn schema() -> RefOr<Schema> {
        ArrayBuilder::new()
            .items(ArrayItems::RefOrSchema(Box::new(RefOr::T(Schema::default()))))
            .description(Some("Numbers or strings in row-major order, flat or nested"))
            .into()
    }
}

impl ToSchema for Values {}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Values, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn flat_and_nested_data_are_the_same() {
        let expected = Ok(Values::Numbers(vec![1.0, -2.0, 3.5, 1.0]));
        assert_eq!(parse("[1, -2, 3.5, true]"), expected);
        assert_eq!(parse("[[1, -2], [3.5, true]]"), expected);
        let texts = Ok(Values::Texts(vec!["a".into(), "b\n".into()]));
        assert_eq!(parse(r#"["a", ["b\n"]]"#), texts);
        assert_eq!(parse("[]").unwrap().len(), 0);
    }

    #[test]
    fn what_is_no_tensor_is_refused() {
        let refused = |json: &str, word: &str| {
            let error = parse(json).unwrap_err();
            assert!(error.contains(word), "{json}: {error}");
        };
        refused("1", "an array");
        refused("{}", "an array");
        refused("[1, null]", "null");
        refused("[1, {}]", "a number");
        refused(r#"[1, "a"]"#, "mixes");
        refused(r#"["a", 1]"#, "mixes");
        refused("[1e999]", "out of range");
        refused("[NaN]", "expected");
        refused(&format!("{}1{}", "[".repeat(9), "]".repeat(9)), "deeply");
    }
}
