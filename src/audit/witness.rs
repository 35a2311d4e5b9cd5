//! The log's side of C2SP tlog-witness: what it asks a witness, and what it makes of the answer.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::note::{Note, NoteError, Signature, VerifierKey};
use crate::domain::identity::Digest;

/// The body of `add-checkpoint`: the size that the witness cosigned last, the proof from there,
/// and the checkpoint.
pub fn request(old: u64, proof: &[Digest], checkpoint: &Note) -> String {
    let proof = proof.iter().map(|hash| BASE64_STANDARD.encode(hash.as_bytes()) + "\n");
    format!("old {old}\n{}\n{checkpoint}", proof.collect::<String>())
}

/// The size that a witness answers when it cosigned another one last; no other answer is of this
/// type.
pub fn known_size(content_type: &str, answer: &str) -> Option<u64> {
    let text = answer.strip_suffix('\n').filter(|_| content_type == "text/x.tlog.size")?;
    text.parse().ok().filter(|size: &u64| size.to_string() == text)
}

/// The cosignature by this witness in its answer, after checking it.
///
/// # Errors
/// When there is none, or it does not fit the checkpoint.
pub fn cosignature(
    answer: &str,
    checkpoint: &Note,
    witness: &VerifierKey,
) -> Result<Signature, NoteError> {
    let lines = answer.lines().map(Signature::parse).collect::<Result<Vec<_>, _>>()?;
    let own = |it: &Signature| it.name == witness.name() && it.key_id == witness.id();
    let signature = lines.into_iter().find(own);
    let signature = signature.ok_or_else(|| NoteError::Unsigned(witness.name().to_owned()))?;
    let cosigned = Note { text: checkpoint.text.clone(), signatures: vec![signature.clone()] };
    cosigned.verify(witness)?;
    Ok(signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_has_the_specifications_form() {
        let note = Note::parse("a\n3\nb\n\n\u{2014} a AAAAAAA=\n").unwrap();
        let proof = [Digest::of(b"x")];
        let hash = BASE64_STANDARD.encode(proof[0].as_bytes());
        assert_eq!(
            request(2, &proof, &note),
            format!("old 2\n{hash}\n\na\n3\nb\n\n\u{2014} a AAAAAAA=\n")
        );
        assert_eq!(request(0, &[], &note), format!("old 0\n\n{note}"));
    }

    #[test]
    fn sizes_are_plain_decimals() {
        let of = "text/x.tlog.size";
        assert_eq!(known_size(of, "20852014\n"), Some(20_852_014));
        assert_eq!(known_size("text/plain", "20852014\n"), None);
        for other in ["", "1", "01\n", "+1\n", "-1\n", "1\n\n"] {
            assert_eq!(known_size(of, other), None, "{other:?}");
        }
    }
}
