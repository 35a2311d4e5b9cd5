//! Who may do what: API keys and their scopes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{identity::Digest, timestamp::Timestamp};

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
    pub hash: Digest,
    pub scopes: Vec<Scope>,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
}

impl ApiKey {
    /// Whether the key covers `scope`; `admin` covers all.
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.iter().any(|held| *held == scope || *held == Scope::Admin)
    }
}

/// SHA-256 of a key's secret. The secrets are 256 random bits, so that no slow hash is needed.
pub fn hash_secret(secret: &str) -> Digest {
    Digest::from_bytes(Sha256::digest(secret).into())
}
