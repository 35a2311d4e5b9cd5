//! Certificates of deletion: statements, the leaves that they follow from, and the proof that
//! those stand in a signed log. Made and checked from bytes alone.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    checkpoint::Checkpoint,
    leaf::Leaf,
    note::{Note, VerifierKey},
    report::Report,
    statement::{Statement, StatementError},
    tlog_proof::TlogProof,
    tree::{verify_consistency, verify_inclusion},
};
use crate::domain::{
    audit::{AuditKind, canonical, leaf_hash},
    chain::Chain,
    deletion::{Guarantee, TargetOutcome},
    identity::Digest,
};

/// Changes with the meaning of a certificate's fields.
const FORMAT: &str = "forgetd-certificate/1";

/// What was done for one deletion request, with its proof. `forgetd verify` checks it offline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    #[schema(example = "forgetd-certificate/1")]
    format: String,
    statement: Statement,
    /// In plain words, what must not be read into it.
    does_not_show: Vec<String>,
    /// What the statement follows from, in the log's order.
    leaves: Vec<CertifiedLeaf>,
    /// A signed note, C2SP tlog-checkpoint.
    checkpoint: String,
    /// That the log only grew since an older checkpoint; null when none was asked about.
    consistency: Option<Consistency>,
    /// The completion's leaf alone, in the text form of C2SP tlog-proof.
    tlog_proof: String,
}

/// One entry of the log and the way from it to the checkpoint's root.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CertifiedLeaf {
    pub index: u64,
    /// Canonical JSON (RFC 8785): exactly these bytes were hashed.
    pub entry: String,
    /// RFC 6962 audit path, from the leaf's sibling to the root's child.
    pub proof: Vec<Digest>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Consistency {
    /// Size of the log at the older checkpoint.
    pub from: u64,
    /// RFC 6962 consistency proof from there to the checkpoint.
    pub proof: Vec<Digest>,
}

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("entry {index} of the log cannot be read")]
    Leaf { index: u64, source: super::leaf::LeafError },
    #[error(transparent)]
    Statement(#[from] StatementError),
}

impl Certificate {
    /// # Errors
    /// When the leaves do not tell of one completed request.
    pub fn make(
        leaves: Vec<CertifiedLeaf>,
        targets: &[TargetOutcome],
        checkpoint: &Note,
        consistency: Option<Consistency>,
    ) -> Result<Self, CertificateError> {
        let read = read_all(&leaves)?;
        let statement = Statement::derive(&read, targets)?;
        let checkpoint = checkpoint.to_string();
        let tlog_proof = tlog_proof(&leaves, &read, &checkpoint)?;
        Ok(Self {
            format: FORMAT.to_owned(),
            does_not_show: limits(statement.guarantee),
            statement,
            leaves,
            checkpoint,
            consistency,
            tlog_proof,
        })
    }

    pub const fn statement(&self) -> &Statement {
        &self.statement
    }

    pub fn does_not_show(&self) -> &[String] {
        &self.does_not_show
    }

    pub fn leaves(&self) -> &[CertifiedLeaf] {
        &self.leaves
    }

    pub fn checkpoint(&self) -> &str {
        &self.checkpoint
    }

    pub fn tlog_proof(&self) -> &str {
        &self.tlog_proof
    }
}

fn read_all(leaves: &[CertifiedLeaf]) -> Result<Vec<Leaf>, CertificateError> {
    let read = |leaf: &CertifiedLeaf| {
        let failed = |source| CertificateError::Leaf { index: leaf.index, source };
        Leaf::read(&leaf.entry).map_err(failed)
    };
    leaves.iter().map(read).collect()
}

/// Of the completion's leaf.
fn tlog_proof(
    leaves: &[CertifiedLeaf],
    read: &[Leaf],
    checkpoint: &str,
) -> Result<String, StatementError> {
    let completed = leaves
        .iter()
        .zip(read)
        .find(|(_, leaf)| leaf.kind == AuditKind::DeletionCompleted)
        .map(|(leaf, _)| leaf)
        .ok_or(StatementError::Missing("deletion.completed"))?;
    let proof = TlogProof {
        entry: completed.entry.clone(),
        index: completed.index,
        hashes: completed.proof.clone(),
        checkpoint: checkpoint.to_owned(),
    };
    Ok(proof.to_string())
}

fn limits(guarantee: Guarantee) -> Vec<String> {
    let by_guarantee = match guarantee {
        Guarantee::Approximate => {
            "The guarantee is approximate: the update brought the measured answers on the deleted \
             samples towards those of models that never saw them, as far as the evidence says, no \
             further. It is no proof that nothing about them can be extracted from the weights."
        }
        Guarantee::Exact => {
            "The guarantee is exact: the weights were trained without the samples, or never saw \
             them, by the service's own record. The record names recipe, seed and digests, so that \
             the training can be repeated; the certificate itself does not repeat it."
        }
    };
    [
        "It shows what the service recorded and that the record has not been changed since, not \
         that the record was true when it was written.",
        by_guarantee,
        "It covers what this service's ledger knew under the named targets in this one model: not \
         data held under other identifiers, in other models or other systems.",
        "It says nothing of copies outside the service: backups, database replicas, exported \
         weights, and predictions that were answered before.",
        "It reaches up to its checkpoint at most, and holds the entries that it was given: that none \
         was left out (a tombstone lifted, say) only the whole log shows, which `forgetd verify \
         --log` audits.",
        "Persons and samples appear as HMACs; whose they are, only the holder of the service's key \
         can tell.",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Whom and what the reader of a certificate trusts.
pub struct Trust<'a> {
    pub key: &'a VerifierKey,
    /// Each must have cosigned the checkpoint.
    pub witnesses: &'a [VerifierKey],
    /// An older checkpoint, as the reader kept it, and the key that signed it then.
    pub older: Option<(&'a Note, &'a VerifierKey)>,
}

/// Checks a certificate's every statement against its leaves, its leaves against its checkpoint,
/// and its checkpoint against whom the reader trusts.
pub fn verify(certificate: &str, trust: &Trust<'_>) -> Report {
    let mut report = Report::default();
    let read = serde_json::from_str::<Certificate>(certificate)
        .and_then(|read| Ok((read, serde_json::from_str::<Value>(certificate)?)));
    let (certificate, text) = match read {
        Ok(read) => read,
        Err(error) => {
            report.fail("form", format!("it is no certificate of this version: {error}"));
            return report;
        }
    };
    if certificate.format == FORMAT {
        report.hold("form", FORMAT);
    } else {
        report.fail("form", format!("{:?} is not {FORMAT}", certificate.format));
        return report;
    }
    let Some(checkpoint) = open_checkpoint(&certificate.checkpoint, trust, &mut report) else {
        return report;
    };
    check_leaves(&certificate.leaves, &checkpoint, &mut report);
    if let Some(older) = trust.older {
        check_consistency(certificate.consistency.as_ref(), older, &checkpoint, &mut report);
    }
    check_statements(&certificate, &text["statement"], &mut report);
    report
}

/// Checks a C2SP tlog-proof that carries its entry.
pub fn verify_tlog_proof(text: &str, trust: &Trust<'_>) -> Report {
    let mut report = Report::default();
    let proof = match TlogProof::parse(text) {
        Ok(proof) => proof,
        Err(error) => {
            report.fail("form", error.to_string());
            return report;
        }
    };
    if let Some(checkpoint) = open_checkpoint(&proof.checkpoint, trust, &mut report) {
        let TlogProof { entry, index, hashes: proof, .. } = proof;
        check_leaves(&[CertifiedLeaf { index, entry, proof }], &checkpoint, &mut report);
        if trust.older.is_some() {
            report.fail("consistency", "a tlog-proof carries no consistency proof");
        }
    }
    report
}

/// The checkpoint in a note, if the log signed it; witnesses are held to their cosignatures.
pub fn open_checkpoint(text: &str, trust: &Trust<'_>, report: &mut Report) -> Option<Checkpoint> {
    let note = match Note::parse(text) {
        Ok(note) => note,
        Err(error) => {
            report.fail("signature", error.to_string());
            return None;
        }
    };
    let checkpoint = match Checkpoint::open(&note, trust.key) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            report.fail("signature", Chain(&error).to_string());
            return None;
        }
    };
    let Checkpoint { origin, size, .. } = &checkpoint;
    report.hold("signature", format!("{origin} signed a log of {size} entries"));
    for witness in trust.witnesses {
        let cosigned = note.verify(witness).map(|when| match when {
            Some(time) => format!("cosigned at {time}"),
            None => "signed".to_owned(),
        });
        report.note(format!("witness {}", witness.name()), cosigned);
    }
    Some(checkpoint)
}

fn check_leaves(leaves: &[CertifiedLeaf], checkpoint: &Checkpoint, report: &mut Report) {
    for leaf in leaves {
        let hash = leaf_hash(leaf.entry.as_bytes());
        let Checkpoint { size, root, .. } = checkpoint;
        let included = verify_inclusion(leaf.index, *size, &hash, &leaf.proof, root);
        let index = leaf.index;
        report.note(format!("inclusion of leaf {index}"), included.map(|()| "in the log"));
        let read = Leaf::read(&leaf.entry).map(|leaf| word(leaf.kind));
        report.note(format!("canonical form of leaf {index}"), read);
    }
}

fn word(kind: AuditKind) -> String {
    match serde_json::to_value(kind) {
        Ok(Value::String(word)) => word,
        _ => format!("{kind:?}"),
    }
}

fn check_consistency(
    consistency: Option<&Consistency>,
    (older, key): (&Note, &VerifierKey),
    newer: &Checkpoint,
    report: &mut Report,
) {
    const WHAT: &str = "consistency";
    let older = match Checkpoint::open(older, key) {
        Ok(older) => older,
        Err(error) => {
            return report.fail(WHAT, format!("the older checkpoint: {}", Chain(&error)));
        }
    };
    let proof = match consistency {
        Some(consistency) if consistency.from == older.size => consistency.proof.as_slice(),
        _ if older.size == newer.size => &[],
        _ => {
            return report.fail(
                WHAT,
                format!(
                    "the certificate proves nothing about the log at size {0}: ask for it with \
                     `?since={0}`",
                    older.size
                ),
            );
        }
    };
    let proven = verify_consistency(older.size, newer.size, &older.root, &newer.root, proof);
    let grown = format!("the log only grew, from {} to {} entries", older.size, newer.size);
    report.note(WHAT, proven.map(|()| grown));
}

/// `stated` is the statement as the file has it: what no type of ours takes up must differ too.
fn check_statements(certificate: &Certificate, stated: &Value, report: &mut Report) {
    const WHAT: &str = "statement";
    if !certificate.leaves.is_sorted_by(|a, b| a.index < b.index) {
        return report.fail(WHAT, "the leaves are not in the log's order");
    }
    let derived = read_all(&certificate.leaves).and_then(|leaves| {
        let targets = &certificate.statement.request.targets;
        let statement = Statement::derive(&leaves, targets)?;
        let proof = tlog_proof(&certificate.leaves, &leaves, &certificate.checkpoint)?;
        Ok((statement, proof))
    });
    let (statement, proof) = match derived {
        Ok(derived) => derived,
        Err(error) => return report.fail(WHAT, Chain(&error).to_string()),
    };
    let derived = serde_json::json!(statement);
    let mut differences = Vec::new();
    compare(WHAT, stated, &derived, &mut differences);
    if differences.is_empty() {
        report.hold(WHAT, "every field follows from the leaves");
    }
    for (path, stated, derived) in differences {
        report.fail(path, format!("it states {stated}, but the leaves say {derived}"));
    }
    if certificate.does_not_show == limits(statement.guarantee) {
        report.hold("does_not_show", "says what it must");
    } else {
        report.fail("does_not_show", "the limits were changed");
    }
    if certificate.tlog_proof == proof {
        report.hold("tlog_proof", "is that of the completion's leaf");
    } else {
        report.fail("tlog_proof", "it is not that of the completion's leaf and checkpoint");
    }
}

/// The innermost fields that differ, by their paths.
fn compare(
    path: &str,
    stated: &Value,
    derived: &Value,
    differences: &mut Vec<(String, Value, Value)>,
) {
    match (stated, derived) {
        (Value::Object(a), Value::Object(b))
            if a.len() == b.len() && a.keys().all(|key| b.contains_key(key)) =>
        {
            for (key, value) in a {
                compare(&format!("{path}.{key}"), value, &b[key], differences);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (position, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{position}]"), a, b, differences);
            }
        }
        // 1 and 1.0 are one number.
        _ if canonical(stated) == canonical(derived) => {}
        _ => differences.push((path.to_owned(), stated.clone(), derived.clone())),
    }
}

#[cfg(test)]
mod tests;
