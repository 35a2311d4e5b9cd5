use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::audit::report::Outcome;
use crate::{
    audit::{
        note::Signer,
        tile::{Tile, Tiles, WIDTH},
        tree::{Span, consistency, hashes, inclusion},
    },
    domain::{
        audit::NewAuditEvent,
        deletion::{TargetKind, targets_digest},
        identity::Pseudonym,
        timestamp::Timestamp,
    },
};

const MODEL: Uuid = Uuid::from_u128(1);
const REQUEST: Uuid = Uuid::from_u128(2);
const BATCH: Uuid = Uuid::from_u128(3);
const SETTLEMENT: Uuid = Uuid::from_u128(4);

fn targets() -> Vec<TargetOutcome> {
    let key = Pseudonym::from_bytes([5; 32]);
    vec![TargetOutcome { kind: TargetKind::Subject, key, samples: 2, rejection: None }]
}

fn entry(kind: AuditKind, about: Option<Uuid>, details: Value) -> String {
    NewAuditEvent { kind, model_id: Some(MODEL), about, details }.entry(Timestamp::from_micros(0))
}

fn version(job: Uuid, epoch: u64, cause: &str) -> String {
    let weights = |epoch: u64| Digest::of(&epoch.to_be_bytes());
    let details = json!({
        "cause": cause, "epoch": epoch, "forgetd": "0.1.0",
        "method": {"name": "iau", "seed": 7},
        "metrics": {"holdout_accuracy": 0.875, "holdout_loss": null, "samples": 10},
        "parent_epoch": epoch - 1, "parent_weights": weights(epoch - 1), "weights": weights(epoch),
    });
    entry(AuditKind::VersionPublished, Some(job), details)
}

/// A request's life with an approximate update, then a settlement.
fn story() -> Vec<String> {
    vec![
        entry(AuditKind::ModelCreated, Some(MODEL), json!({"name": "digits"})),
        entry(
            AuditKind::DeletionReceived,
            Some(REQUEST),
            json!({
                "due_by": "2026-12-24T00:00:00Z", "received_at": "2026-11-24T00:00:00Z",
                "rejected": 0, "samples": 2, "targets": 1,
                "targets_digest": targets_digest(&targets()),
            }),
        ),
        entry(AuditKind::DeletionBatched, Some(REQUEST), json!({"batch": BATCH, "samples": 2})),
        version(BATCH, 2, "unlearned"),
        entry(
            AuditKind::BatchPublished,
            Some(BATCH),
            json!({
                "epoch": 2, "erased": 2, "evidence": {"verdict": "inconclusive", "drift": 1e-7},
            }),
        ),
        entry(
            AuditKind::DeletionCompleted,
            Some(REQUEST),
            json!({
                "batch": BATCH, "excluded_from_epoch": 2, "guarantee": "approximate", "samples": 2,
            }),
        ),
        version(SETTLEMENT, 3, "settled"),
        entry(AuditKind::DeletionSettled, Some(REQUEST), json!({"epoch": 3, "job": SETTLEMENT})),
    ]
}

fn signer() -> Signer {
    Signer::new("log.test", &[1; 32]).unwrap()
}

/// A log of these entries only, of which those at `chosen` are certified.
fn certify(entries: &[String], chosen: &[usize]) -> Result<Certificate, CertificateError> {
    let leaves: Vec<_> = entries.iter().map(|entry| leaf_hash(entry.as_bytes())).collect();
    let size = leaves.len() as u64;
    let mut tiles = Tiles::default();
    assert!(leaves.len() <= usize::from(WIDTH));
    tiles.insert(Tile::of_tree(0, 0, size).unwrap(), leaves);
    let root = Span::whole(size).unwrap().hash(&tiles).unwrap();
    let note = Checkpoint::sign(size, root, &signer());
    let leaf = |index: usize| {
        let proof = hashes(&inclusion(index as u64, size), &tiles).unwrap();
        CertifiedLeaf { index: index as u64, entry: entries[index].clone(), proof }
    };
    let from = 3.min(size);
    let growth = hashes(&consistency(from, size), &tiles).unwrap();
    let consistency = Consistency { from, proof: growth };
    let chosen = chosen.iter().map(|index| leaf(*index)).collect();
    Certificate::make(chosen, &targets(), &note, Some(consistency))
}

fn report(certificate: &Certificate, older: Option<&Note>) -> Report {
    let key = signer().verifier_key();
    let trust = Trust { key: &key, witnesses: &[], older: older.map(|older| (older, &key)) };
    verify(&serde_json::to_string(certificate).unwrap(), &trust)
}

fn failures(report: &Report) -> Vec<&str> {
    let failed = report.checks.iter().filter(|check| matches!(check.outcome, Outcome::Fails(_)));
    failed.map(|check| check.statement.as_str()).collect()
}

#[test]
fn a_certificate_holds_before_and_after_the_settlement() {
    let before = certify(&story(), &[0, 1, 2, 3, 4, 5]).unwrap();
    assert_eq!(before.statement().guarantee, Guarantee::Approximate);
    assert_eq!(before.statement().batch.evidence["drift"], 1e-7);
    assert!(report(&before, None).holds(), "{:?}", report(&before, None));
    let after = certify(&story(), &[0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
    assert_eq!(after.statement().guarantee, Guarantee::Exact);
    assert!(report(&after, None).holds());
    assert_ne!(before.does_not_show(), after.does_not_show());
}

#[test]
fn a_deadline_is_what_its_extensions_made_of_it() {
    let with = |entries: &[(usize, AuditKind, Value)]| {
        let mut story = story();
        for (at, kind, details) in entries {
            story.insert(*at, entry(*kind, Some(REQUEST), details.clone()));
        }
        let chosen: Vec<_> = (0..6 + entries.len()).collect();
        certify(&story, &chosen).map(|made| made.statement().request.clone())
    };
    let extended = |from: &str, to: &str| {
        let details = json!({
            "by": null, "due_by": format!("{to}T00:00:00Z"), "reason": "complexity",
            "previous_due_by": format!("{from}T00:00:00Z"),
        });
        (AuditKind::DeadlineExtended, details)
    };
    let suspended = json!({"due_by": "2026-12-20T00:00:00Z"});
    let (kind, first) = extended("2026-12-20", "2026-12-24");
    let (_, second) = extended("2026-12-24", "2027-01-24");
    let both = [
        (1, AuditKind::DeletionSuspended, suspended.clone()),
        (2, kind, first.clone()),
        (4, kind, second.clone()),
    ];
    let request = with(&both).unwrap();
    assert_eq!(request.due_by.to_string(), "2027-01-24T00:00:00Z");
    assert_eq!(request.extensions.len(), 2, "one before the approval and one after");
    assert_eq!(request.extensions[1].previous_due_by.to_string(), "2026-12-24T00:00:00Z");
    let (_, back) = extended("2026-12-24", "2026-12-01");
    for contradicting in [
        vec![(1, AuditKind::DeletionSuspended, suspended)],
        vec![(1, kind, second.clone())],
        vec![(2, kind, first)],
        vec![(2, kind, back)],
        vec![(2, kind, second.clone()), (3, kind, second)],
    ] {
        assert!(with(&contradicting).is_err(), "{contradicting:?}");
    }
}

#[test]
fn an_older_checkpoint_must_lie_before() {
    let certificate = certify(&story(), &[0, 1, 2, 3, 4, 5]).unwrap();
    let older = |entries: &[String]| {
        let mut tree = crate::audit::tree::Frontier::default();
        for entry in entries {
            tree.push(leaf_hash(entry.as_bytes()));
        }
        Checkpoint::sign(tree.size(), tree.root(), &signer())
    };
    let story = story();
    assert!(report(&certificate, Some(&older(&story[..3]))).holds());
    assert!(report(&certificate, Some(&older(&story))).holds(), "the same tree needs no proof");
    let mut other = story[..3].to_vec();
    other[1] = "{}".into();
    assert_eq!(failures(&report(&certificate, Some(&older(&other)))), ["consistency"]);
    assert_eq!(failures(&report(&certificate, Some(&older(&story[..4])))), ["consistency"]);
    let forked = story.iter().rev().cloned().collect::<Vec<_>>();
    assert_eq!(failures(&report(&certificate, Some(&older(&forked)))), ["consistency"]);
}

#[test]
fn a_checkpoint_of_before_a_change_of_keys_is_opened_with_its_key() {
    let certificate = certify(&story(), &[0, 1, 2, 3, 4, 5]).unwrap();
    let retired = Signer::new("log.test", &[2; 32]).unwrap();
    let mut tree = crate::audit::tree::Frontier::default();
    for entry in &story()[..3] {
        tree.push(leaf_hash(entry.as_bytes()));
    }
    let older = Checkpoint::sign(tree.size(), tree.root(), &retired);
    let (key, before) = (signer().verifier_key(), retired.verifier_key());
    let text = serde_json::to_string(&certificate).unwrap();
    for (its_key, holds) in [(&before, true), (&key, false)] {
        let trust = Trust { key: &key, witnesses: &[], older: Some((&older, its_key)) };
        assert_eq!(verify(&text, &trust).holds(), holds);
    }
}

#[test]
fn what_no_field_of_ours_takes_up_is_refused() {
    let certificate = certify(&story(), &[0, 1, 2, 3, 4, 5]).unwrap();
    let key = signer().verifier_key();
    let trust = Trust { key: &key, witnesses: &[], older: None };
    let text = serde_json::to_string(&certificate).unwrap();
    let rewritten = text.replace("accuracy\":0.875", "accuracy\":8.75e-1");
    assert!(rewritten != text && verify(&rewritten, &trust).holds(), "the same number");
    let more = text.replace("\"holdout_loss\":null", "\"holdout_loss\":null,\"audited\":true");
    assert_ne!(more, text);
    assert_eq!(failures(&verify(&more, &trust)), ["statement.version.metrics"]);
}

#[test]
fn leaves_that_do_not_tell_of_one_completed_request_give_no_certificate() {
    let whole = story();
    for left_out in 0..6 {
        let chosen: Vec<_> = (0..6).filter(|index| *index != left_out).collect();
        let error = certify(&whole, &chosen).unwrap_err();
        assert!(
            matches!(error, CertificateError::Statement(StatementError::Missing(_))),
            "{left_out}: {error}"
        );
    }
    // Only the settlement's leaf without its version.
    assert!(certify(&whole, &[0, 1, 2, 3, 4, 5, 7]).is_err());
    let change = |index: usize, from: &str, to: &str| {
        let mut story = story();
        assert!(story[index].contains(from), "{}", story[index]);
        story[index] = story[index].replace(from, to);
        certify(&story, &[0, 1, 2, 3, 4, 5, 6, 7]).unwrap_err().to_string()
    };
    for (index, from, to, what) in [
        (1, r#""samples":2"#, r#""samples":3"#, "numbers of samples"),
        (1, r#""targets":1"#, r#""targets":2"#, "number of targets"),
        (4, r#""epoch":2"#, r#""epoch":3"#, "epoch"),
        (5, r#""excluded_from_epoch":2"#, r#""excluded_from_epoch":1"#, "excludes"),
        (6, "settled", "unlearned", "not exact"),
        (2, "deletion.batched", "deletion.failed", "belongs to nothing"),
    ] {
        let error = change(index, from, to);
        assert!(error.contains(what), "{error} instead of {what}");
    }
    let other = Uuid::from_u128(9).to_string();
    let error = change(0, &MODEL.to_string(), &other);
    assert!(error.contains("belongs to nothing"), "{error}");
}

#[test]
fn a_proof_as_text_holds_by_itself() {
    let certificate = certify(&story(), &[0, 1, 2, 3, 4, 5]).unwrap();
    let key = signer().verifier_key();
    let trust = Trust { key: &key, witnesses: &[], older: None };
    assert!(verify_tlog_proof(certificate.tlog_proof(), &trust).holds());
    let other = certificate.tlog_proof().replace("\nindex 5", "\nindex 4");
    assert_eq!(failures(&verify_tlog_proof(&other, &trust)), ["inclusion of leaf 4"]);
}
