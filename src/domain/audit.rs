//! Entries of the audit log: canonical JSON, hashed as RFC 6962 leaves.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{identity::Digest, timestamp::Timestamp};

/// What happened. Words are stable: they stand in the log for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum AuditKind {
    #[serde(rename = "model.created")]
    ModelCreated,
    #[serde(rename = "samples.ingested")]
    SamplesIngested,
    #[serde(rename = "training.queued")]
    TrainingQueued,
    #[serde(rename = "settlement.queued")]
    SettlementQueued,
    #[serde(rename = "job.failed")]
    JobFailed,
    /// Somebody asked for it; the job ends by an entry of its own.
    #[serde(rename = "job.cancel_requested")]
    JobCancelRequested,
    #[serde(rename = "job.cancelled")]
    JobCancelled,
    /// A batch's transaction: what was erased, and what was measured of its update.
    #[serde(rename = "batch.published")]
    BatchPublished,
    #[serde(rename = "version.published")]
    VersionPublished,
    #[serde(rename = "version.weights_removed")]
    WeightsRemoved,
    #[serde(rename = "deletion.received")]
    DeletionReceived,
    #[serde(rename = "deletion.rejected")]
    DeletionRejected,
    #[serde(rename = "deletion.suspended")]
    DeletionSuspended,
    #[serde(rename = "deletion.approved")]
    DeletionApproved,
    #[serde(rename = "deletion.refused")]
    DeletionRefused,
    #[serde(rename = "deletion.cancelled")]
    DeletionCancelled,
    #[serde(rename = "deletion.batched")]
    DeletionBatched,
    #[serde(rename = "deletion.completed")]
    DeletionCompleted,
    #[serde(rename = "deletion.failed")]
    DeletionFailed,
    #[serde(rename = "deletion.settled")]
    DeletionSettled,
    /// The request is open, and its deadline near.
    #[serde(rename = "deletion.deadline_approaching")]
    DeadlineApproaching,
    #[serde(rename = "deletion.deadline_extended")]
    DeadlineExtended,
    #[serde(rename = "tombstone.lifted")]
    TombstoneLifted,
    #[serde(rename = "master_key.adopted")]
    MasterKeyAdopted,
    #[serde(rename = "master_key.rotated")]
    MasterKeyRotated,
    #[serde(rename = "api_key.created")]
    ApiKeyCreated,
    #[serde(rename = "api_key.rotated")]
    ApiKeyRotated,
    #[serde(rename = "api_key.revoked")]
    ApiKeyRevoked,
    /// An Authorized Agent has its first token, or another one instead.
    #[serde(rename = "agent_token.issued")]
    AgentTokenIssued,
    /// The key that signs the log's checkpoints from here on.
    #[serde(rename = "log_key.adopted")]
    LogKeyAdopted,
    #[serde(rename = "webhook.created")]
    WebhookCreated,
    #[serde(rename = "webhook.changed")]
    WebhookChanged,
    #[serde(rename = "webhook.rotated")]
    WebhookRotated,
    #[serde(rename = "webhook.disabled")]
    WebhookDisabled,
    #[serde(rename = "webhook.activated")]
    WebhookActivated,
    #[serde(rename = "webhook.removed")]
    WebhookRemoved,
}

/// One entry on its way into the log, in the transaction that it records.
#[derive(Clone, Debug)]
pub struct NewAuditEvent {
    pub kind: AuditKind,
    pub model_id: Option<Uuid>,
    /// The model, deletion request, job, version's job, API key or webhook that it is about.
    pub about: Option<Uuid>,
    /// Counts, digests, epochs, pseudonyms; never an identifier of a person.
    pub details: Value,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditEvent {
    /// Index of the leaf, from 0, without gaps.
    pub index: u64,
    pub leaf_hash: Digest,
    /// The leaf: exactly these bytes were hashed.
    pub entry: String,
}

/// Bytes of an entry at most: the log is served in bundles that give lengths 16 bits.
const ENTRY_BYTES_MAX: usize = u16::MAX as usize;

/// Where an entry is too long, a field of its details that is longer stands as its digest.
const FIELD_BYTES_MAX: usize = 4_096;

impl NewAuditEvent {
    /// The leaf's bytes: canonical JSON as in RFC 8785.
    pub fn entry(&self, occurred_at: Timestamp) -> String {
        let whole = self.entry_with(&self.details, occurred_at);
        if whole.len() <= ENTRY_BYTES_MAX {
            return whole;
        }
        let shortened = match &self.details {
            Value::Object(fields) => {
                let field = |(name, value): (&String, &Value)| {
                    (name.clone(), shortened(value).into_owned())
                };
                Value::Object(fields.iter().map(field).collect())
            }
            other => shortened(other).into_owned(),
        };
        self.entry_with(&shortened, occurred_at)
    }

    fn entry_with(&self, details: &Value, occurred_at: Timestamp) -> String {
        canonical(&json!({
            "about": self.about,
            "details": details,
            "kind": self.kind,
            "model_id": self.model_id,
            "occurred_at": occurred_at,
        }))
    }
}

fn shortened(value: &Value) -> Cow<'_, Value> {
    let text = canonical(value);
    if text.len() <= FIELD_BYTES_MAX {
        Cow::Borrowed(value)
    } else {
        Cow::Owned(json!({"bytes": text.len(), "sha256": Digest::of(text.as_bytes())}))
    }
}

/// RFC 8785.
pub fn canonical(value: &Value) -> String {
    serde_json_canonicalizer::to_string(value).expect("a JSON value serializes to memory")
}

/// RFC 6962, section 2.1: SHA-256 of a zero byte and the entry.
pub fn leaf_hash(entry: &[u8]) -> Digest {
    let hash = Sha256::new().chain_update([0]).chain_update(entry).finalize();
    Digest::from_bytes(hash.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_leaf_hashes_as_in_rfc_6962_test_vectors() {
        // Certificate Transparency's reference tree: leaf hash of the empty string.
        let known = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d";
        assert_eq!(leaf_hash(b"").to_string(), known);
    }

    #[test]
    fn entries_are_canonical() {
        let event = NewAuditEvent {
            kind: AuditKind::ModelCreated,
            model_id: None,
            about: None,
            details: json!({"z": 1, "a": {"d": 2, "c": 3}}),
        };
        assert_eq!(
            event.entry(Timestamp::from_micros(0)),
            r#"{"about":null,"details":{"a":{"c":3,"d":2},"z":1},"kind":"model.created","model_id":null,"occurred_at":"1970-01-01T00:00:00Z"}"#
        );
    }

    #[test]
    fn every_entry_fits_into_a_bundle() {
        let long = "x".repeat(70_000);
        let event = NewAuditEvent {
            kind: AuditKind::ModelCreated,
            model_id: None,
            about: None,
            details: json!({"name": "digits", "network": {"layers": [long]}}),
        };
        let entry = event.entry(Timestamp::from_micros(0));
        assert!(entry.len() < 1_000);
        let digest = Digest::of(canonical(&event.details["network"]).as_bytes()).to_string();
        assert!(entry.contains(r#""name":"digits""#) && entry.contains(&digest), "{entry}");
        let fitting = NewAuditEvent { details: json!({"text": "x".repeat(60_000)}), ..event };
        assert!(fitting.entry(Timestamp::from_micros(0)).len() > 60_000);
    }
}
