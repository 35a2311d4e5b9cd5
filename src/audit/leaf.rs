//! The log's entries, read back.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use crate::domain::{audit::AuditKind, timestamp::Timestamp};

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    pub about: Option<Uuid>,
    pub details: Value,
    pub kind: AuditKind,
    pub model_id: Option<Uuid>,
    pub occurred_at: Timestamp,
}

#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    #[error("the entry is not JSON: {0}")]
    Json(serde_json::Error),
    #[error("the entry is not in canonical form (RFC 8785)")]
    NotCanonical,
    #[error("the entry is none that this version of forgetd writes: {0}")]
    Foreign(serde_json::Error),
    #[error("the entry's details are not those of its kind: {0}")]
    Details(serde_json::Error),
}

impl Leaf {
    /// # Errors
    /// When the entry is not canonical JSON, or has another shape.
    pub fn read(entry: &str) -> Result<Self, LeafError> {
        let value: Value = serde_json::from_str(entry).map_err(LeafError::Json)?;
        if serde_json_canonicalizer::to_string(&value).map_err(LeafError::Json)? != entry {
            return Err(LeafError::NotCanonical);
        }
        serde_json::from_value(value).map_err(LeafError::Foreign)
    }

    /// The details, as the events of one kind have them.
    ///
    /// # Errors
    /// When a field is missing or of another type.
    pub fn details<T: DeserializeOwned>(&self) -> Result<T, LeafError> {
        T::deserialize(&self.details).map_err(LeafError::Details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::audit::NewAuditEvent;

    #[test]
    fn what_was_written_is_read_back_and_nothing_else() {
        let event = NewAuditEvent {
            kind: AuditKind::DeletionSettled,
            model_id: Some(Uuid::from_u128(1)),
            about: None,
            details: serde_json::json!({"epoch": 3}),
        };
        let entry = event.entry(Timestamp::from_micros(5));
        let leaf = Leaf::read(&entry).unwrap();
        assert_eq!((leaf.kind, leaf.model_id), (event.kind, event.model_id));
        assert_eq!(leaf.occurred_at, Timestamp::from_micros(5));
        assert!(matches!(Leaf::read(&format!("{entry} ")), Err(LeafError::NotCanonical)));
        let reordered = format!("{{\"kind\":\"deletion.settled\",{}", &entry[1..]);
        assert!(matches!(Leaf::read(&reordered), Err(LeafError::NotCanonical)));
        assert!(matches!(Leaf::read("{"), Err(LeafError::Json(_))));
        assert!(matches!(Leaf::read("{}"), Err(LeafError::Foreign(_))));
    }
}
