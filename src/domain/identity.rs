//! Callers' identifiers of persons and samples, kept only as HMAC-SHA-256 under the service's key.

use std::{fmt, str::FromStr};

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretBox};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use uuid::{Builder, Uuid};

use super::alias::AliasKind;

/// HMAC-SHA-256 of a sample id or a subject id; 64 hexadecimal digits in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
pub struct Pseudonym([u8; 32]);

/// SHA-256 of a stored artifact; 64 hexadecimal digits in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("expected 64 hexadecimal digits (32 bytes)")]
pub struct HexError;

macro_rules! hex_of_32_bytes {
    ($name:ident) => {
        impl $name {
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = HexError;

            fn from_str(text: &str) -> Result<Self, HexError> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| HexError)?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

hex_of_32_bytes!(Pseudonym);
hex_of_32_bytes!(Digest);

/// The key under which identifiers become pseudonyms. Losing it means that no stored subject
/// can be found again; leaking it lets its holder test guesses of identifiers.
pub struct ServiceKey(SecretBox<[u8; 32]>);

impl ServiceKey {
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(SecretBox::new(Box::new(bytes)))
    }

    /// Names the key without telling it.
    pub fn key_fingerprint(&self) -> Digest {
        Digest(self.pseudonym(&[b"service key\0"]).0)
    }

    /// Sample ids are the caller's and unique within one model only.
    pub fn sample(&self, model_id: Uuid, sample_id: &str) -> Pseudonym {
        self.pseudonym(&[b"sample\0", model_id.as_bytes(), sample_id.as_bytes()])
    }

    /// Subjects are the same person in every model.
    pub fn subject(&self, subject_id: &str) -> Pseudonym {
        self.pseudonym(&[b"subject\0", subject_id.as_bytes()])
    }

    /// The hash of an alias, which anybody who guesses the alias can compute, under a key.
    pub fn alias(&self, kind: AliasKind, hash: &Digest) -> Pseudonym {
        self.pseudonym(&[b"alias\0", kind.as_str().as_bytes(), b"\0", hash.as_bytes()])
    }

    /// Callers choose them, of whom some make them of identifiers.
    pub fn idempotency_key(&self, key: &str) -> Pseudonym {
        self.pseudonym(&[b"idempotency key\0", key.as_bytes()])
    }

    /// Tells a repeated request from another one of the same idempotency key; a plain hash of
    /// the body would let anybody test guesses of the identifiers in it.
    pub fn fingerprint(&self, body: &[u8]) -> Digest {
        Digest(self.pseudonym(&[b"body\0", body]).0)
    }

    /// Id of what an agent of the Data Rights Protocol asks for: the same for the same request, and
    /// to be guessed by nobody. A `UUIDv8`, and so never one that a controller of OpenDSR chose.
    pub fn agent_request(&self, agent_id: &str, request: &[u8]) -> Uuid {
        let bytes = self.pseudonym(&[b"agent\0", agent_id.as_bytes(), b"\0", request]).0;
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[..16]);
        Builder::from_custom_bytes(id).into_uuid()
    }

    /// Whence a model's secret noise of one training comes; see `unlearning/certified.rs`.
    pub fn noise_seed(&self, model_id: Uuid, training: Uuid) -> [u8; 32] {
        self.pseudonym(&[b"noise\0", model_id.as_bytes(), training.as_bytes()]).0
    }

    fn pseudonym(&self, parts: &[&[u8]]) -> Pseudonym {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose_secret())
            .expect("HMAC takes a key of any length");
        for part in parts {
            mac.update(part);
        }
        Pseudonym(mac.finalize().into_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pseudonyms_depend_on_the_key_the_kind_and_the_model() {
        let key = ServiceKey::new([7; 32]);
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let all = [
            key.sample(a, "x"),
            key.sample(b, "x"),
            key.subject("x"),
            key.idempotency_key("x"),
            ServiceKey::new([8; 32]).subject("x"),
            key.alias(AliasKind::Email, &Digest::of(b"x")),
            key.alias(AliasKind::Ndz, &Digest::of(b"x")),
            Pseudonym::from_bytes(*key.key_fingerprint().as_bytes()),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|other| other != one));
        }
        assert_eq!(key.subject("x"), key.subject("x"));
        let other = ServiceKey::new([8; 32]);
        assert_ne!(key.key_fingerprint(), other.key_fingerprint());
        let requests = [
            key.agent_request("A", b"x"),
            key.agent_request("B", b"x"),
            key.agent_request("A", b"y"),
            ServiceKey::new([8; 32]).agent_request("A", b"x"),
        ];
        for (i, one) in requests.iter().enumerate() {
            assert_eq!(one.get_version_num(), 8);
            assert!(requests[i + 1..].iter().all(|other| other != one));
        }
        assert_eq!(key.subject("x").to_string().parse::<Pseudonym>().unwrap(), key.subject("x"));
    }
}
