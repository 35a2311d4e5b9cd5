//! The log's tree and its checkpoints, whoever writes and signs at the same time.

use std::sync::Arc;

use forgetd::{
    audit::{
        checkpoint::Checkpoint,
        note::{Note, Signer},
        tile::Tile,
        tree::{Frontier, empty_root},
    },
    clock::Clock,
    domain::{audit::leaf_hash, identity::Digest, job::JobKind},
    notary::{Certification, Notary, NotaryError},
    store::{AuditFilter, NewCheckpoint, PutCheckpoint, Store},
};
use tokio_util::sync::CancellationToken;

use super::{Ledger, Raw, at, new_deletion, new_id, on_both, race, sample_target};

on_both!(
    every_checkpoint_fits_the_leaves_under_concurrent_writers_and_signers,
    a_checkpoint_follows_the_last_one_only,
    the_logs_key_is_adopted_once_and_changed_on_purpose,
    a_log_of_many_tiles_is_proven_and_served,
    a_rewritten_log_is_not_signed,
    a_certificate_needs_a_completed_request,
    a_certificate_is_signed_by_the_logs_present_key,
);

fn signer(secret: u8) -> Signer {
    Signer::new("log.test/audit", &[secret; 32]).unwrap()
}

async fn notary(store: &Store) -> Notary {
    Notary::open(store.clone(), signer(1), Clock::manual(at(50))).await.unwrap()
}

async fn every_checkpoint_fits_the_leaves_under_concurrent_writers_and_signers(ledger: &Ledger) {
    let model = ledger.trained_model("m", 16).await;
    let signers = [notary(&ledger.store).await, notary(&ledger.store).await].map(Arc::new);
    let mut writers = Vec::new();
    for writer in 0..8_u64 {
        let (store, model) = (ledger.store.clone(), model.clone());
        writers.push(tokio::spawn(async move {
            for _ in 0..20 {
                let new = new_deletion(&model, vec![sample_target(writer)], at(20));
                store.accept_deletion(&new, 1_000).await.unwrap();
                store.cancel_deletion(new.id, at(21), None).await.unwrap();
            }
        }));
    }
    // They sign for as long as anybody writes, however slow that is.
    let written = CancellationToken::new();
    let mut signing = Vec::new();
    for notary in &signers {
        let (notary, written) = (Arc::clone(notary), written.clone());
        signing.push(tokio::spawn(async move {
            while !written.is_cancelled() {
                notary.checkpoint().await.unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    written.cancel();
    for signer in signing {
        signer.await.unwrap();
    }
    let last = signers[0].checkpoint().await.unwrap();
    // Created, ingested, queued, published, the key; received and cancelled each time.
    assert_eq!(last.size, 5 + 8 * 20 * 2);
    let events = ledger.store.audit_events(&AuditFilter::default(), 0, 10_000).await.unwrap();
    let notes = ledger.texts("SELECT note FROM audit_checkpoints ORDER BY size").await;
    assert!(notes.len() > 2, "only {} checkpoints were signed", notes.len());
    let mut tree = Frontier::default();
    let mut checkpoints = notes.iter().map(|note| {
        Checkpoint::open(&Note::parse(note).unwrap(), &signer(1).verifier_key()).unwrap()
    });
    let mut next = checkpoints.next();
    for event in &events {
        tree.push(leaf_hash(event.entry.as_bytes()));
        if let Some(checkpoint) = next.take_if(|it| it.size == tree.size()) {
            assert_eq!(checkpoint.root, tree.root(), "at size {}", checkpoint.size);
            next = checkpoints.next();
        }
    }
    assert!(next.is_none(), "a checkpoint over more leaves than there are");
}

async fn a_checkpoint_follows_the_last_one_only(ledger: &Ledger) {
    let (store, key) = (&ledger.store, signer(1).verifier_key().to_string());
    ledger.trained_model("m", 8).await;
    let checkpoint = |size| NewCheckpoint {
        size,
        root: empty_root(),
        note: format!("note of {size}"),
        verifier_key: key.clone(),
        signed_at: at(30),
    };
    let put = async |size, after| store.put_checkpoint(&checkpoint(size), after).await;
    assert_eq!(put(2, None).await.unwrap(), PutCheckpoint::ForeignKey(None));
    assert!(store.adopt_log_key(&key, None, at(29)).await.unwrap());
    assert_eq!(store.latest_checkpoint(false).await.unwrap(), None);
    assert_eq!(put(2, None).await.unwrap(), PutCheckpoint::Stored);
    assert_eq!(put(2, None).await.unwrap(), PutCheckpoint::Overtaken);
    assert_eq!(put(2, Some(2)).await.unwrap(), PutCheckpoint::Overtaken);
    assert_eq!(put(3, None).await.unwrap(), PutCheckpoint::Overtaken);
    assert_eq!(put(3, Some(2)).await.unwrap(), PutCheckpoint::Stored);
    let beyond = put(1_000, Some(3)).await.unwrap_err().to_string();
    assert!(beyond.contains("more leaves"), "{beyond}");

    assert_eq!(store.latest_checkpoint(true).await.unwrap(), None);
    for line in ["\u{2014} w AAAA", "\u{2014} w BBBB"] {
        store.put_cosignature(2, "w+1+x", line).await.unwrap();
    }
    let cosigned = store.latest_checkpoint(true).await.unwrap().unwrap();
    assert_eq!((cosigned.size, cosigned.cosignatures), (2, vec!["\u{2014} w BBBB".to_owned()]));
    let latest = store.latest_checkpoint(false).await.unwrap().unwrap();
    assert_eq!((latest.size, latest.note.as_str()), (3, "note of 3"));
    assert!(latest.cosignatures.is_empty());
}

async fn the_logs_key_is_adopted_once_and_changed_on_purpose(ledger: &Ledger) {
    let store = &ledger.store;
    let openings = (1..=4).map(|secret| {
        let store = store.clone();
        async move { Notary::open(store, signer(secret), Clock::manual(at(1))).await.ok() }
    });
    assert_eq!(race(openings).await.iter().flatten().count(), 1, "one key signs");
    assert_eq!(store.audit_size().await.unwrap(), 1);
    let first = store.log_key().await.unwrap().unwrap();

    let clock = Clock::manual(at(2));
    let again = Notary::adopt(store, &signer(9), &clock).await.unwrap();
    assert_eq!(again.as_ref(), Some(&first));
    let refused = Notary::open(store.clone(), signer(1), clock.clone()).await.err().unwrap();
    assert!(matches!(refused, NotaryError::ForeignKey { .. }), "{refused}");
    let notary = Notary::open(store.clone(), signer(9), clock.clone()).await.unwrap();
    let events = store.audit_events(&AuditFilter::default(), 0, 9).await.unwrap();
    assert_eq!(events.len(), 2, "nothing is adopted twice");
    assert!(events[1].entry.contains(&first) && events[1].entry.contains("log_key.adopted"));

    // A process that still has a key of before signs nothing more.
    assert_eq!(notary.checkpoint().await.unwrap().size, 2);
    Notary::adopt(store, &signer(7), &clock).await.unwrap();
    let refused = notary.checkpoint().await.unwrap_err();
    assert!(matches!(refused, NotaryError::ForeignKey { .. }), "{refused}");
}

/// Leaves without meaning, whose hashes are their own.
async fn fill(ledger: &Ledger, leaves: u64) {
    match &ledger.raw {
        Raw::Sqlite(pool) => {
            sqlx::query(
                "INSERT INTO audit_events (idx, kind, entry, leaf_hash, occurred_at)
                 WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < $1 - 1)
                 SELECT i, 'x', 'entry ' || i, randomblob(32), 0 FROM n",
            )
            .bind(leaves.cast_signed())
            .execute(pool)
            .await
            .unwrap();
            sqlx::query("UPDATE audit_head SET next_idx = $1")
                .bind(leaves.cast_signed())
                .execute(pool)
                .await
                .unwrap();
        }
        Raw::Postgres(pool) => {
            sqlx::query(
                "INSERT INTO audit_events (idx, kind, entry, leaf_hash, occurred_at)
                 SELECT i, 'x', 'entry ' || i, sha256(i::text::bytea), 0
                 FROM generate_series(0, $1 - 1) AS i",
            )
            .bind(leaves.cast_signed())
            .execute(pool)
            .await
            .unwrap();
            sqlx::query("UPDATE audit_head SET next_idx = $1")
                .bind(leaves.cast_signed())
                .execute(pool)
                .await
                .unwrap();
        }
    }
}

async fn a_log_of_many_tiles_is_proven_and_served(ledger: &Ledger) {
    fill(ledger, 69_999).await;
    // The leaf about the key is the 70,000th.
    let notary = notary(&ledger.store).await;
    let untouched = Tile { level: 0, index: 0, width: 256 };
    assert_eq!(notary.tile(untouched).await.unwrap(), None, "nothing is signed yet");
    let signed = notary.checkpoint().await.unwrap();
    assert_eq!(signed.size, 70_000);
    let mut tree = Frontier::default();
    let mut leaves = Vec::new();
    for first in (0..70_000).step_by(10_000) {
        leaves.extend(ledger.store.audit_hashes(0, first, 10_000).await.unwrap());
    }
    for leaf in &leaves {
        tree.push(*leaf);
    }
    assert_eq!((tree.size(), tree.root()), (70_000, signed.root));
    for (level, roots) in [(1, 273), (2, 1), (3, 0)] {
        assert_eq!(ledger.store.audit_nodes(level).await.unwrap(), roots);
    }
    let tile = async |level, index, width| {
        let bytes = notary.tile(Tile { level, index, width }).await.unwrap();
        bytes.map(|bytes| bytes.len() / 32)
    };
    assert_eq!(tile(0, 272, 256).await, Some(256));
    assert_eq!(tile(0, 273, 112).await, Some(112));
    assert_eq!(tile(0, 273, 7).await, Some(7), "as an older checkpoint had it");
    assert_eq!(tile(0, 273, 113).await, None);
    assert_eq!(tile(0, 273, 256).await, None);
    assert_eq!(tile(0, 274, 1).await, None);
    assert_eq!((tile(1, 0, 256).await, tile(1, 1, 17).await), (Some(256), Some(17)));
    assert_eq!((tile(2, 0, 1).await, tile(2, 0, 2).await), (Some(1), None));
    assert_eq!(tile(3, 0, 1).await, None);
    let entries = notary.entries(Tile { level: 0, index: 1, width: 2 }).await.unwrap().unwrap();
    assert_eq!(entries, b"\0\x09entry 256\0\x09entry 257");
    let last = leaves[69_999];
    assert_eq!(
        notary.tile(Tile { level: 0, index: 273, width: 112 }).await.unwrap().unwrap()[111 * 32..],
        *last.as_bytes()
    );

    // The next one costs no more than what is new.
    let model = ledger.model("m").await;
    ledger.store.enqueue_job(new_id(), model.id, JobKind::Training, at(3), None).await.unwrap();
    assert_eq!(notary.checkpoint().await.unwrap().size, 70_002);
}

async fn a_rewritten_log_is_not_signed(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let notary = notary(&ledger.store).await;
    let before = notary.checkpoint().await.unwrap();
    // Somebody with the database's password changes what the log said of the past.
    let other = leaf_hash(b"{}");
    let sql = "UPDATE audit_events SET entry = '{}', leaf_hash = $1 WHERE idx = 1";
    match &ledger.raw {
        Raw::Sqlite(pool) => {
            let sql = sqlx::query(sql).bind(other.as_bytes().as_slice());
            sql.execute(pool).await.map(drop).unwrap();
        }
        Raw::Postgres(pool) => {
            let sql = sqlx::query(sql).bind(other.as_bytes().as_slice());
            sql.execute(pool).await.map(drop).unwrap();
        }
    }
    assert_eq!(notary.checkpoint().await.unwrap().root, before.root, "signed before");
    ledger.store.enqueue_job(new_id(), model.id, JobKind::Settlement, at(60), None).await.unwrap();
    let refused = notary.checkpoint().await.unwrap_err();
    assert!(
        matches!(refused, NotaryError::Rewritten { size, .. } if size == before.size),
        "{refused}"
    );
    let latest = notary.latest().await.unwrap().unwrap();
    assert_eq!(latest.size, before.size);
}

async fn a_certificate_needs_a_completed_request(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let notary = notary(&ledger.store).await;
    let unknown = notary.certify(new_id(), None).await.unwrap();
    assert!(matches!(unknown, Certification::Unknown), "{unknown:?}");
    let id = ledger.delete(&model, vec![sample_target(0), sample_target(99)], at(20)).await;
    let queued = notary.certify(id, None).await.unwrap();
    assert!(matches!(queued, Certification::NotCompleted(_)), "{queued:?}");
    ledger.unlearn(at(21)).await;
    ledger.store.complete_propagated(at(22)).await.unwrap();
    let Certification::Certified(certificate) = notary.certify(id, Some(1)).await.unwrap() else {
        panic!("no certificate of a completed request");
    };
    let statement = certificate.statement();
    assert_eq!((statement.request.id, statement.request.samples), (id, 1));
    assert_eq!(statement.request.targets.len(), 2);
    let version = statement.version.as_ref().unwrap();
    let parent = ledger.store.version(model.id, 1).await.unwrap().unwrap();
    assert_eq!(version.weights_before, Some(parent.weights));
    assert_ne!(version.weights_after, parent.weights);
    assert_eq!(statement.batch.evidence["verdict"], "inconclusive");
    let beyond = notary.certify(id, Some(1_000)).await.unwrap();
    assert!(matches!(beyond, Certification::Beyond(_)), "{beyond:?}");

    // Destroying the parent's weights and settling are in the next certificate.
    ledger.store.mark_weights_removed(model.id, 1, at(23)).await.unwrap();
    ledger.store.enqueue_job(new_id(), model.id, JobKind::Settlement, at(24), None).await.unwrap();
    let settlement = ledger.claim(at(25)).await.unwrap();
    ledger.publish_exact(&settlement, at(26)).await;
    let Certification::Certified(later) = notary.certify(id, None).await.unwrap() else {
        panic!("no certificate of a settled request");
    };
    let statement = later.statement();
    assert_eq!(statement.weights_destroyed.len(), 1);
    assert_eq!(statement.weights_destroyed[0].weights, parent.weights);
    let settled = &statement.settlement.as_ref().unwrap().version;
    assert_eq!(settled.weights_after, Digest::of(settlement.job.id.as_bytes()));
}

async fn a_certificate_is_signed_by_the_logs_present_key(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let id = ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    ledger.unlearn(at(21)).await;
    ledger.store.complete_propagated(at(22)).await.unwrap();
    let before = notary(&ledger.store).await;
    let signed = before.checkpoint().await.unwrap();
    // A witness cosigned; who it is is not looked at.
    let line = signed.note.signatures[0].to_string();
    ledger.store.put_cosignature(signed.size, "w+1+x", &line).await.unwrap();
    let certified = async |notary: &Notary| match notary.certify(id, None).await.unwrap() {
        Certification::Certified(certificate) => Note::parse(certificate.checkpoint()).unwrap(),
        other => panic!("no certificate of a completed request: {other:?}"),
    };
    assert_eq!(certified(&before).await.signatures.len(), 2, "the cosigned one");

    let clock = Clock::manual(at(50));
    Notary::adopt(&ledger.store, &signer(2), &clock).await.unwrap();
    let after = Notary::open(ledger.store.clone(), signer(2), clock).await.unwrap();
    let note = certified(&after).await;
    assert_eq!(note.verify(&after.verifier_key()), Ok(None));
    assert_eq!(certified(&after).await, note, "signed once");
}
