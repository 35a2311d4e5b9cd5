//! Proofs as text, as in C2SP tlog-proof: one leaf's inclusion with the checkpoint that it is
//! included in.

use std::fmt::{self, Write as _};

use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::domain::identity::Digest;

const HEADER: &str = "c2sp.org/tlog-proof@v1";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlogProof {
    /// The leaf itself, so that the proof needs nothing beside it.
    pub entry: String,
    pub index: u64,
    pub hashes: Vec<Digest>,
    /// The signed note, as it was served.
    pub checkpoint: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no proof of C2SP tlog-proof: {0}")]
pub struct TlogProofError(&'static str);

impl TlogProof {
    /// # Errors
    /// When the text has another form, or carries no entry in its `extra` line.
    pub fn parse(text: &str) -> Result<Self, TlogProofError> {
        let failed = TlogProofError;
        let (head, checkpoint) = text.split_once("\n\n").ok_or(failed("no empty line"))?;
        let mut lines = head.split('\n');
        if lines.next() != Some(HEADER) {
            return Err(failed("the first line is another"));
        }
        let entry = lines
            .next()
            .and_then(|line| line.strip_prefix("extra "))
            .and_then(|line| BASE64_STANDARD.decode(line).ok())
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or(failed("the line `extra` does not hold the entry"))?;
        let index = lines
            .next()
            .and_then(|line| line.strip_prefix("index "))
            .and_then(|text| text.parse::<u64>().ok().filter(|it| it.to_string() == text))
            .ok_or(failed("the line `index` holds no number"))?;
        let hashes = lines
            .map(|line| {
                let bytes = BASE64_STANDARD.decode(line).ok()?;
                <[u8; 32]>::try_from(bytes).ok().map(Digest::from_bytes)
            })
            .collect::<Option<Vec<_>>>()
            .ok_or(failed("a hash is not 32 bytes in base64"))?;
        Ok(Self { entry, index, hashes, checkpoint: checkpoint.to_owned() })
    }
}

impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = BASE64_STANDARD.encode(&self.entry);
        write!(f, "{HEADER}\nextra {entry}\nindex {}\n", self.index)?;
        for hash in &self.hashes {
            writeln!(f, "{}", BASE64_STANDARD.encode(hash.as_bytes()))?;
        }
        f.write_char('\n')?;
        f.write_str(&self.checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_round_trip_in_the_specifications_form() {
        let proof = TlogProof {
            entry: "{}".into(),
            index: 73_894,
            hashes: vec![Digest::of(b"a"), Digest::of(b"b")],
            checkpoint: "example.com/log\n2\nroot\n\n\u{2014} example.com/log AAAA\n".into(),
        };
        let text = proof.to_string();
        let lines: Vec<_> = text.lines().take(4).collect();
        let first = BASE64_STANDARD.encode(Digest::of(b"a").as_bytes());
        assert_eq!(lines, ["c2sp.org/tlog-proof@v1", "extra e30=", "index 73894", &first]);
        assert_eq!(TlogProof::parse(&text).unwrap(), proof);
        let lone = TlogProof { hashes: Vec::new(), index: 0, ..proof };
        assert_eq!(TlogProof::parse(&lone.to_string()).unwrap(), lone);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "c2sp.org/tlog-proof@v2\nextra e30=\nindex 0\n\nx",
            "c2sp.org/tlog-proof@v1\nindex 0\n\nx",
            "c2sp.org/tlog-proof@v1\nextra e30=\nindex 00\n\nx",
            "c2sp.org/tlog-proof@v1\nextra e30=\nindex 0\nAAAA\n\nx",
            "c2sp.org/tlog-proof@v1\nextra e30=\nindex 0\n",
        ] {
            assert!(TlogProof::parse(text).is_err(), "{text}");
        }
    }
}
