//! Who may do what: API keys and their scopes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    identity::Digest,
    model::{RangeError, check},
    timestamp::Timestamp,
};

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Ask for predictions.
    Predict,
    /// Post, watch and cancel deletion requests.
    Delete,
    /// Read models, versions, lineage, requests and the audit log.
    Audit,
    /// Everything, ingestion and training included.
    Admin,
}

impl Scope {
    pub const ALL: [Self; 4] = [Self::Predict, Self::Delete, Self::Audit, Self::Admin];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Predict => "predict",
            Self::Delete => "delete",
            Self::Audit => "audit",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no scope; there are predict, delete, audit and admin")]
pub struct ScopeError(String);

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| ScopeError(text.to_owned()))
    }
}

/// A key as the ledger knows it; the secret itself is shown once, at creation.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKey {
    /// `UUIDv7`.
    pub id: Uuid,
    pub name: String,
    /// Of the secret; a rotation changes both.
    pub hash: Digest,
    pub scopes: Vec<Scope>,
    pub limits: KeyLimits,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
}

/// How much a key may ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct KeyLimits {
    /// Requests within a minute; each process counts its own.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub requests_per_minute: Option<u32>,
    /// Samples that its deletion requests may name within 24 hours.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    pub samples_per_day: Option<u64>,
}

impl KeyLimits {
    /// # Errors
    /// Names the first value outside its range.
    pub fn validate(&self) -> Result<(), RangeError> {
        let rate = self.requests_per_minute.unwrap_or(1);
        let range = "1 to 1000000";
        check((1..=1_000_000).contains(&rate), "requests_per_minute", rate, range)?;
        let samples = self.samples_per_day.unwrap_or(1);
        let range = "1 to 2^53 - 1";
        check((1..1 << 53).contains(&samples), "samples_per_day", samples, range)
    }
}

impl ApiKey {
    /// Whether the key covers `scope`; `admin` covers all.
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.iter().any(|held| *held == scope || *held == Scope::Admin)
    }
}

/// A new key's secret. The prefix makes it known to scanners for secrets.
pub fn secret(random: [u8; 32]) -> String {
    format!("forgetd_{}", hex::encode(random))
}

/// SHA-256 of a key's secret. The secrets are 256 random bits, so that no slow hash is needed.
pub fn hash_secret(secret: &str) -> Digest {
    Digest::from_bytes(Sha256::digest(secret).into())
}
