//! Accepting and cancelling deletion requests.

use std::time::Instant;

use forgetd::{
    domain::{
        deletion::{DeletionState, Rejection},
        identity::{Digest, Pseudonym},
        sample::Split,
    },
    store::{Acceptance, AuditFilter, Cancellation, Decision, Idempotency},
};
use serde_json::{Value, json};

use super::{
    Ledger, at, new_deletion, new_id, on_both, race, sample_target, samples, subject_target,
};

on_both!(
    targets_are_resolved_and_counted_once,
    unknown_and_already_deleted_targets_are_rejected,
    a_full_queue_refuses,
    a_repeated_key_gives_the_first_request,
    racing_keys_give_one_request,
    racing_requests_share_no_sample,
    cancelling_frees_the_samples,
    a_request_that_another_counts_on_cannot_be_cancelled,
    who_put_up_the_tombstone_is_no_matter,
    ten_thousand_targets_are_fast,
    a_claim_changes_no_index,
    who_has_read_samples_hears_of_claims_on_them,
);

async fn targets_are_resolved_and_counted_once(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    // Samples 0 and 1 are one subject's; 9 is held out.
    let targets = vec![subject_target(0), sample_target(1), sample_target(9)];
    let details = ledger.accept(&new_deletion(&model, targets.clone(), at(20))).await;
    assert_eq!(details.request.state, DeletionState::Queued);
    assert_eq!(details.request.samples, 3);
    assert_eq!(details.model, model.name);
    let samples: Vec<_> = details.targets.iter().map(|it| (it.samples, it.rejection)).collect();
    assert_eq!(samples, [(2, None), (1, None), (1, None)]);
    let keys: Vec<_> = details.targets.iter().map(|it| it.key).collect();
    assert_eq!(keys, targets.iter().map(|it| it.key).collect::<Vec<_>>());
    assert_eq!(ledger.store.deletion(details.request.id).await.unwrap(), Some(details));
    let counts = ledger.store.sample_counts(model.id).await.unwrap();
    assert_eq!((counts.train, counts.holdout), (6, 3), "named samples are not trained on");
}

async fn unknown_and_already_deleted_targets_are_rejected(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let other = ledger.model("other").await;
    ledger.ingest(&other, &samples(100..102, 102)).await;
    ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    let targets = vec![
        sample_target(0),
        subject_target(0),
        sample_target(100),
        subject_target(100),
        sample_target(5),
    ];
    let details = ledger.accept(&new_deletion(&model, targets, at(21))).await;
    let outcomes: Vec<_> = details.targets.iter().map(|it| (it.samples, it.rejection)).collect();
    let expected = [
        (0, Some(Rejection::AlreadyDeleted)),
        (1, None),
        (0, Some(Rejection::UnknownSample)),
        (0, Some(Rejection::UnknownSubject)),
        (1, None),
    ];
    assert_eq!(outcomes, expected);
    let rejected = new_deletion(&model, vec![sample_target(100)], at(22));
    let details = ledger.accept(&rejected).await;
    assert_eq!((details.request.state, details.request.samples), (DeletionState::Rejected, 0));
    let again = new_deletion(&model, vec![subject_target(0)], at(23));
    let details = ledger.accept(&again).await;
    assert_eq!(details.request.state, DeletionState::Rejected);
    assert_eq!(details.targets[0].rejection, Some(Rejection::AlreadyDeleted));
    assert_eq!(ledger.store.queue_depth().await.unwrap(), 2);
}

async fn a_full_queue_refuses(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    let mut new = new_deletion(&model, vec![sample_target(1)], at(20));
    new.idempotency = Some(idempotency("full", b"body"));
    let refused = ledger.store.accept_deletion(&new, 1).await.unwrap();
    assert_eq!(refused, Acceptance::QueueFull);
    assert_eq!(ledger.store.deletion(new.id).await.unwrap(), None);
    let accepted = ledger.store.accept_deletion(&new, 2).await.unwrap();
    assert!(matches!(accepted, Acceptance::Accepted(_)), "the refusal did not use the key up");
}

pub(super) fn idempotency(key: &str, body: &[u8]) -> Idempotency {
    let key = Pseudonym::from_bytes(*Digest::of(key.as_bytes()).as_bytes());
    Idempotency { api_key_id: uuid::Uuid::nil(), key, body: Digest::of(body) }
}

async fn a_repeated_key_gives_the_first_request(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let mut new = new_deletion(&model, vec![sample_target(0)], at(20));
    new.idempotency = Some(idempotency("k", b"body"));
    let first = ledger.accept(&new).await;
    new.id = new_id();
    let repeated = ledger.store.accept_deletion(&new, 1).await.unwrap();
    assert_eq!(repeated, Acceptance::Repeated(first), "also when the queue is full");
    new.idempotency = Some(idempotency("k", b"another body"));
    assert_eq!(ledger.store.accept_deletion(&new, 9).await.unwrap(), Acceptance::KeyReused);
    let other_caller = Idempotency { api_key_id: new_id(), ..idempotency("k", b"another body") };
    new.idempotency = Some(other_caller);
    new.targets = vec![sample_target(1)];
    ledger.accept(&new).await;
}

async fn racing_keys_give_one_request(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let stores = [ledger.store.clone(), ledger.of_another_process().await];
    let racers = (0..8).map(|racer| {
        let mut new = new_deletion(&model, vec![sample_target(0)], at(20));
        new.idempotency = Some(idempotency("k", b"body"));
        let store = stores[racer % 2].clone();
        async move { store.accept_deletion(&new, 100).await.unwrap() }
    });
    let mut ids = Vec::new();
    let mut accepted = 0;
    for answer in race(racers).await {
        match answer {
            Acceptance::Accepted(details) => {
                accepted += 1;
                ids.push(details.request.id);
            }
            Acceptance::Repeated(details) => ids.push(details.request.id),
            other => panic!("{other:?}"),
        }
    }
    ids.dedup();
    assert_eq!((accepted, ids.len()), (1, 1));
    assert_eq!(ledger.integer("SELECT COUNT(*) FROM deletion_requests").await, 1);
}

async fn racing_requests_share_no_sample(ledger: &Ledger) {
    let model = ledger.trained_model("m", 40).await;
    let stores = [ledger.store.clone(), ledger.of_another_process().await];
    let racers = (0..8).map(|racer| {
        let new = new_deletion(&model, (0..40).map(sample_target).collect(), at(20));
        let store = stores[racer % 2].clone();
        async move { store.accept_deletion(&new, 100).await.unwrap() }
    });
    let mut samples = 0;
    for answer in race(racers).await {
        let Acceptance::Accepted(details) = answer else { panic!("not accepted") };
        samples += details.request.samples;
    }
    assert_eq!(samples, 40);
}

async fn cancelling_frees_the_samples(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let id = ledger.delete(&model, vec![subject_target(0)], at(20)).await;
    let by = Some(new_id());
    let cancelled = ledger.store.cancel_deletion(id, at(21), by).await.unwrap();
    assert_eq!(cancelled, Cancellation::Cancelled);
    let filter = AuditFilter { about: Some(id), ..AuditFilter::default() };
    let events = ledger.store.audit_events(&filter, 0, 100).await.unwrap();
    let leaf: Value = serde_json::from_str(&events.last().unwrap().entry).unwrap();
    let told = (&leaf["kind"], &leaf["details"]["by"]);
    assert_eq!(told, (&json!("deletion.cancelled"), &json!(by)));
    let again = ledger.store.cancel_deletion(id, at(22), None).await.unwrap();
    assert_eq!(again, Cancellation::NotQueued(DeletionState::Cancelled));
    let unknown = ledger.store.cancel_deletion(new_id(), at(22), None).await.unwrap();
    assert_eq!(unknown, Cancellation::Unknown);
    assert_eq!(ledger.store.sample_counts(model.id).await.unwrap().train, 8);
    assert_eq!(ledger.integer("SELECT COUNT(*) FROM tombstones").await, 0);
    assert!(ledger.claim(at(23)).await.is_none(), "nothing is left to serve");
    let id = ledger.delete(&model, vec![sample_target(0)], at(24)).await;
    ledger.claim(at(25)).await.unwrap();
    let late = ledger.store.cancel_deletion(id, at(26), None).await.unwrap();
    assert_eq!(late, Cancellation::NotQueued(DeletionState::Unlearning));
}

/// Whoever asks for the whole subject would be told that it is forgotten, while a sample of it stays.
async fn a_request_that_another_counts_on_cannot_be_cancelled(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let of_one_sample = ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    let of_the_subject = ledger.delete(&model, vec![subject_target(0)], at(21)).await;
    let cancel = async |id| ledger.store.cancel_deletion(id, at(22), None).await.unwrap();
    assert_eq!(cancel(of_one_sample).await, Cancellation::NeededByAnother);
    assert_eq!(cancel(of_the_subject).await, Cancellation::Cancelled);
    assert_eq!(cancel(of_one_sample).await, Cancellation::Cancelled);
    assert_eq!(ledger.store.sample_counts(model.id).await.unwrap().train, 8);
}

/// The subject's tombstone is one request's, whoever else names the subject.
async fn who_put_up_the_tombstone_is_no_matter(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let store = &ledger.store;
    let cancel = async |id| store.cancel_deletion(id, at(40), None).await.unwrap();
    // The first to name it counts on a request that fails for good.
    ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    let claimed = ledger.claim(at(21)).await.unwrap();
    let first = ledger.delete(&model, vec![subject_target(0)], at(22)).await;
    store.fail_attempt(&claimed.lease, at(23), "broke for good", None).await.unwrap();
    let second = ledger.delete(&model, vec![subject_target(0)], at(24)).await;
    assert_eq!(cancel(first).await, Cancellation::NeededByAnother);
    assert_eq!(cancel(second).await, Cancellation::NeededByAnother);
    assert_eq!(ledger.unlearn(at(41)).await, Some(2));
    assert_eq!(store.complete_propagated(at(42)).await.unwrap().len(), 2);
    // One that failed had named it before.
    ledger.delete(&model, vec![subject_target(2)], at(50)).await;
    let claimed = ledger.claim(at(51)).await.unwrap();
    store.fail_attempt(&claimed.lease, at(52), "broke for good", None).await.unwrap();
    let of_one_sample = ledger.delete(&model, vec![sample_target(2)], at(53)).await;
    ledger.delete(&model, vec![subject_target(2)], at(54)).await;
    assert_eq!(cancel(of_one_sample).await, Cancellation::NeededByAnother);
}

async fn ten_thousand_targets_are_fast(ledger: &Ledger) {
    let model = ledger.model("m").await;
    ledger.ingest(&model, &samples(0..10_000, 10_000)).await;
    let targets =
        (0..10_000).map(|n| if n % 2 == 0 { subject_target(n) } else { sample_target(n) });
    let new = new_deletion(&model, targets.collect(), at(20));
    let started = Instant::now();
    let details = ledger.accept(&new).await;
    let elapsed = started.elapsed();
    println!("10,000 targets accepted in {elapsed:?} on {}", ledger.url);
    assert_eq!(details.request.samples, 10_000);
    assert!(elapsed.as_secs() < 10, "took {elapsed:?}");
}

/// No index of samples depends on the request that claims them, nor does a partial one's predicate.
async fn a_claim_changes_no_index(ledger: &Ledger) {
    let [indices, naming_claims] = if ledger.url.starts_with("sqlite:") {
        [
            "SELECT COUNT(*) FROM sqlite_master WHERE tbl_name = 'samples' AND type = 'index'
             AND sql LIKE '%model_id%'",
            "SELECT COUNT(*) FROM sqlite_master WHERE tbl_name = 'samples' AND type = 'index'
             AND sql LIKE '%deletion_id%'",
        ]
    } else {
        [
            "SELECT COUNT(*) FROM pg_indexes WHERE tablename = 'samples'
             AND indexdef LIKE '%model_id%'",
            "SELECT COUNT(*) FROM pg_indexes WHERE tablename = 'samples'
             AND indexdef LIKE '%deletion_id%'",
        ]
    };
    assert_eq!((ledger.integer(indices).await, ledger.integer(naming_claims).await), (4, 0));
}

/// As a batch has that reads its draw in advance.
async fn who_has_read_samples_hears_of_claims_on_them(ledger: &Ledger) {
    let (model, store) = (ledger.trained_model("m", 8).await, &ledger.store);
    let other = ledger.trained_model("other", 8).await;
    let early = ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    ledger.delete(&model, vec![sample_target(1)], at(20)).await;

    let since = store.audit_size().await.unwrap();
    let ordinals: Vec<i64> = (0..8).collect();
    let found = store.samples_at(model.id, Split::Train, &ordinals).await.unwrap();
    assert_eq!((found.samples.len(), found.named.as_slice()), (8, [0, 1].as_slice()));
    let named = async || {
        let named = store.named_samples(model.id, &found.named, since).await.unwrap();
        let mut named: Vec<_> = named.into_iter().collect();
        named.sort_unstable();
        named
    };
    assert_eq!(named().await, [0, 1]);
    ledger.delete(&other, vec![sample_target(2)], at(21)).await;
    ledger.delete(&model, vec![sample_target(3)], at(21)).await;
    let mut new = new_deletion(&model, vec![sample_target(4), sample_target(5)], at(21));
    new.approval_above_share = Some(0.1);
    let suspended = ledger.accept(&new).await.request;
    assert_eq!(suspended.state, DeletionState::Suspended);
    let approved = store.approve_deletion(suspended.id, None, at(22)).await.unwrap();
    assert_eq!(approved, Decision::Done);
    assert_eq!(named().await, [0, 1, 3, 4, 5]);

    assert_eq!(store.cancel_deletion(early, at(23), None).await.unwrap(), Cancellation::Cancelled);
    assert_eq!(named().await, [1, 3, 4, 5], "it is free again");
    assert!(ledger.unlearn(at(24)).await.is_some());
    assert_eq!(named().await, [1, 3, 4, 5], "completed as well");
}
