//! Signed notes and their keys, as in C2SP signed-note; cosignatures of witnesses, as in
//! C2SP tlog-cosignature (`cosignature/v1`, Ed25519).

use std::{fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ed25519_dalek::{Signature as Ed25519Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use crate::domain::timestamp::Timestamp;

/// Bytes of a note at most: one with many post-quantum cosignatures still fits.
const NOTE_BYTES_MAX: usize = 1 << 20;

const SIGNATURES_MAX: usize = 100;

/// What a key signs, by the specification's identifier byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// The note's text.
    Log,
    /// A time and the note's text: a witness.
    Witness,
}

impl KeyKind {
    const fn byte(self) -> u8 {
        match self {
            Self::Log => 0x01,
            Self::Witness => 0x04,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    #[error("it is no signed note: {0}")]
    Malformed(&'static str),
    #[error("it carries no signature by {0}")]
    Unsigned(String),
    #[error("the signature by {0} does not fit its text")]
    Forged(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("a key's name must not be empty, nor hold spaces or a plus sign")]
    Name,
    #[error("a verifier key looks like name+0123abcd+base64, with Ed25519's 32 bytes in it")]
    Form,
    #[error("the verifier key's id is not that of its name and bytes: part of it was changed")]
    Id,
}

/// Whether a key may be called so.
pub fn is_name(name: &str) -> bool {
    let fits = |c: char| !c.is_whitespace() && !c.is_control() && c != '+';
    !name.is_empty() && name.chars().all(fits)
}

/// A text and who signed it. Nothing is verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Ends in a newline.
    pub text: String,
    pub signatures: Vec<Signature>,
}

/// One signature line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    pub name: String,
    pub key_id: [u8; 4],
    pub bytes: Vec<u8>,
}

impl Note {
    /// # Errors
    /// When the text is no signed note in the specification's only form.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        if text.len() > NOTE_BYTES_MAX {
            return Err(NoteError::Malformed("it is longer than a mebibyte"));
        }
        if text.chars().any(|c| c < ' ' && c != '\n') {
            return Err(NoteError::Malformed("it holds control characters"));
        }
        let split = text.rfind("\n\n").ok_or(NoteError::Malformed("no empty line"))?;
        let (body, lines) = (&text[..=split], &text[split + 2..]);
        let lines = lines
            .strip_suffix('\n')
            .ok_or(NoteError::Malformed("its last line does not end in a newline"))?;
        let signatures = lines.split('\n').map(Signature::parse).collect::<Result<Vec<_>, _>>()?;
        if signatures.len() > SIGNATURES_MAX {
            return Err(NoteError::Malformed("more than 100 signatures"));
        }
        Ok(Self { text: body.to_owned(), signatures })
    }

    /// Whether `key` signed it; for a witness, when.
    ///
    /// # Errors
    /// When there is no signature by this key, or one that does not verify.
    pub fn verify(&self, key: &VerifierKey) -> Result<Option<Timestamp>, NoteError> {
        let mut signed = Err(NoteError::Unsigned(key.name.clone()));
        for signature in &self.signatures {
            if signature.name != key.name || signature.key_id != key.id() {
                continue;
            }
            if !key.fits(&self.text, &signature.bytes) {
                return Err(NoteError::Forged(key.name.clone()));
            }
            signed = Ok(key.time_of(&signature.bytes));
        }
        signed
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

impl Signature {
    /// A line without its newline.
    ///
    /// # Errors
    /// When the line is no signature.
    pub fn parse(line: &str) -> Result<Self, NoteError> {
        let form = NoteError::Malformed("a line after the text is no signature");
        let (name, encoded) = line
            .strip_prefix("\u{2014} ")
            .and_then(|rest| rest.split_once(' '))
            .ok_or(form.clone())?;
        let bytes = BASE64_STANDARD.decode(encoded).map_err(|_| form.clone())?;
        match bytes.split_first_chunk::<4>() {
            Some((key_id, bytes)) if is_name(name) && !bytes.is_empty() => {
                Ok(Self { name: name.to_owned(), key_id: *key_id, bytes: bytes.to_vec() })
            }
            _ => Err(form),
        }
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [self.key_id.as_slice(), &self.bytes].concat();
        write!(f, "\u{2014} {} {}", self.name, BASE64_STANDARD.encode(bytes))
    }
}

/// Whom to believe: a name and an Ed25519 key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    kind: KeyKind,
    key: VerifyingKey,
}

impl VerifierKey {
    /// # Errors
    /// When the name may not stand in a note, or the bytes are no point of the curve.
    pub fn new(name: &str, kind: KeyKind, bytes: &[u8; 32]) -> Result<Self, KeyError> {
        if !is_name(name) {
            return Err(KeyError::Name);
        }
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::Form)?;
        Ok(Self { name: name.to_owned(), kind, key })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The first four bytes of SHA-256 over the name, a newline, the kind and the key.
    pub fn id(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = <[u8; 32]>::from(
            Sha256::new()
                .chain_update(&self.name)
                .chain_update([b'\n', self.kind.byte()])
                .chain_update(self.key.as_bytes())
                .finalize(),
        );
        [a, b, c, d]
    }

    fn fits(&self, text: &str, signature: &[u8]) -> bool {
        let (signature, text) = match self.kind {
            KeyKind::Log => (signature, text.to_owned()),
            KeyKind::Witness => match signature.split_first_chunk::<8>() {
                Some((time, signature)) => (signature, cosigned(u64::from_be_bytes(*time), text)),
                None => return false,
            },
        };
        let signature = Ed25519Signature::from_slice(signature);
        signature.is_ok_and(|it| self.key.verify_strict(text.as_bytes(), &it).is_ok())
    }

    /// When a witness signed.
    fn time_of(&self, signature: &[u8]) -> Option<Timestamp> {
        let (seconds, _) = signature.split_first_chunk::<8>()?;
        let micros = i64::try_from(u64::from_be_bytes(*seconds)).ok()?.checked_mul(1_000_000)?;
        (self.kind == KeyKind::Witness).then_some(Timestamp::from_micros(micros))
    }
}

/// What a witness signs.
fn cosigned(seconds: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {seconds}\n{text}")
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&[self.kind.byte()], self.key.as_bytes().as_slice()].concat();
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id()), BASE64_STANDARD.encode(bytes))
    }
}

impl FromStr for VerifierKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(encoded)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(KeyError::Form);
        };
        let bytes = BASE64_STANDARD.decode(encoded).map_err(|_| KeyError::Form)?;
        let (kind, bytes) = match bytes.split_first() {
            Some((0x01, rest)) => (KeyKind::Log, rest),
            Some((0x04, rest)) => (KeyKind::Witness, rest),
            _ => return Err(KeyError::Form),
        };
        let key = Self::new(name, kind, bytes.try_into().map_err(|_| KeyError::Form)?)?;
        if id == hex::encode(key.id()) { Ok(key) } else { Err(KeyError::Id) }
    }
}

/// Signs the log's checkpoints.
pub struct Signer {
    name: String,
    key: SigningKey,
}

impl Signer {
    /// From Ed25519's 32 secret bytes.
    ///
    /// # Errors
    /// When the name may not stand in a note.
    pub fn new(name: &str, secret: &[u8; 32]) -> Result<Self, KeyError> {
        if !is_name(name) {
            return Err(KeyError::Name);
        }
        Ok(Self { name: name.to_owned(), key: SigningKey::from_bytes(secret) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn verifier_key(&self) -> VerifierKey {
        VerifierKey { name: self.name.clone(), kind: KeyKind::Log, key: self.key.verifying_key() }
    }

    /// The text, which ends in a newline, as a note with one signature.
    pub fn sign(&self, text: String) -> Note {
        let bytes = self.key.sign(text.as_bytes()).to_bytes().to_vec();
        let key_id = self.verifier_key().id();
        Note { text, signatures: vec![Signature { name: self.name.clone(), key_id, bytes }] }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
