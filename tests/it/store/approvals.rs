//! Requests that an administrator must approve.

use forgetd::{
    domain::{
        deletion::{DeletionState, Rejection},
        model::Model,
    },
    store::{AuditFilter, Cancellation, Decision, DeletionDetails},
};
use uuid::Uuid;

use super::{Ledger, at, new_deletion, new_id, on_both, sample_target, samples, subject_target};

on_both!(
    a_request_above_the_share_is_suspended,
    a_share_of_nothing_lets_no_training_sample_pass,
    an_approved_request_takes_what_is_there_then,
    a_refused_request_says_so_at_each_target,
    a_suspended_request_can_be_cancelled,
    what_others_deleted_meanwhile_is_rejected,
);

/// Of the training samples.
const SHARE: f64 = 0.25;

async fn post(ledger: &Ledger, model: &Model, numbers: std::ops::Range<u64>) -> DeletionDetails {
    let mut new = new_deletion(model, numbers.map(sample_target).collect(), at(20));
    new.approval_above_share = Some(SHARE);
    ledger.accept(&new).await
}

async fn state(ledger: &Ledger, id: Uuid) -> DeletionState {
    ledger.store.deletion(id).await.unwrap().unwrap().request.state
}

async fn a_request_above_the_share_is_suspended(ledger: &Ledger) {
    // 8 train samples, and 4 held out, which do not count.
    let model = ledger.trained_model("m", 8).await;
    let details = post(ledger, &model, 0..2).await;
    assert_eq!(details.request.state, DeletionState::Queued, "a quarter is not above a quarter");
    let details = post(ledger, &model, 8..12).await;
    assert_eq!(details.request.state, DeletionState::Queued, "nobody trains on the hold-out");

    let details = post(ledger, &model, 2..4).await;
    let request = &details.request;
    assert_eq!((request.state, request.samples), (DeletionState::Suspended, 2));
    let reason = request.reason.as_deref().unwrap();
    assert!(reason.contains("2 of 6"), "{reason}");
    assert!(details.targets.iter().all(|it| (it.samples, it.rejection) == (1, None)));
    let counts = ledger.store.sample_counts(model.id).await.unwrap();
    assert_eq!(counts.train, 6, "its samples are still trained on");
    let claimed = "SELECT COUNT(*) FROM samples WHERE deletion_id IS NOT NULL";
    assert_eq!(ledger.integer(claimed).await, 6, "it keeps nothing out either");
    assert_eq!(ledger.store.queue_depth().await.unwrap(), 3);
    let claimed = ledger.claim(at(21)).await.unwrap();
    assert!(!claimed.requests.contains(&request.id));
    let full = ledger.store.accept_deletion(&new_deletion(&model, Vec::new(), at(22)), 3).await;
    assert_eq!(full.unwrap(), forgetd::store::Acceptance::QueueFull, "it counts as waiting");
}

async fn a_share_of_nothing_lets_no_training_sample_pass(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    for (sample, state) in [(0, DeletionState::Suspended), (8, DeletionState::Queued)] {
        let mut new = new_deletion(&model, vec![sample_target(sample)], at(20));
        new.approval_above_share = Some(0.0);
        let request = ledger.accept(&new).await.request;
        assert_eq!(request.state, state);
        assert!(request.reason.is_none_or(|it| it.contains("names 1 training samples")));
    }
}

async fn an_approved_request_takes_what_is_there_then(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let mut new = new_deletion(&model, vec![subject_target(0), subject_target(2)], at(20));
    new.approval_above_share = Some(SHARE);
    let id = ledger.accept(&new).await.request.id;
    assert_eq!(state(ledger, id).await, DeletionState::Suspended);
    // Meanwhile another request takes one of the samples, and the subject's hold-out comes in.
    ledger.delete(&model, vec![sample_target(0)], at(21)).await;
    let mut late = samples(50..51, 100);
    late[0].subject = super::subject_key(2);
    ledger.ingest(&model, &late).await;

    let administrator = new_id();
    let decided = ledger.store.approve_deletion(id, Some(administrator), at(22)).await.unwrap();
    assert_eq!(decided, Decision::Done);
    let details = ledger.store.deletion(id).await.unwrap().unwrap();
    assert_eq!((details.request.state, details.request.reason), (DeletionState::Queued, None));
    assert_eq!((details.request.samples, details.request.due_by), (4, new.due_by));
    assert_eq!(details.targets.iter().map(|it| it.samples).collect::<Vec<_>>(), [1, 3]);
    ledger.unlearn(at(23)).await;
    ledger.store.complete_propagated(at(24)).await.unwrap();
    assert_eq!(state(ledger, id).await, DeletionState::Completed);

    let again = ledger.store.approve_deletion(id, Some(administrator), at(25)).await.unwrap();
    assert_eq!(again, Decision::NotSuspended(DeletionState::Completed));
    let unknown =
        ledger.store.approve_deletion(new_id(), Some(administrator), at(25)).await.unwrap();
    assert_eq!(unknown, Decision::Unknown);
    let by = administrator.to_string();
    assert_eq!(entries(ledger, id, "deletion.suspended").await.len(), 1);
    let approvals = entries(ledger, id, "deletion.approved").await;
    assert!(approvals.len() == 1 && approvals[0].contains(&by), "{approvals:?}");
}

async fn a_refused_request_says_so_at_each_target(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let id = post(ledger, &model, 0..6).await.request.id;
    let decided = ledger.store.refuse_deletion(id, None, at(22)).await.unwrap();
    assert_eq!(decided, Decision::Done);
    let details = ledger.store.deletion(id).await.unwrap().unwrap();
    assert_eq!((details.request.state, details.request.samples), (DeletionState::Rejected, 0));
    let refused = (0, Some(Rejection::Refused));
    assert!(details.targets.iter().all(|it| (it.samples, it.rejection) == refused));
    let again = ledger.store.refuse_deletion(id, None, at(23)).await.unwrap();
    assert_eq!(again, Decision::NotSuspended(DeletionState::Rejected));
    assert_eq!(ledger.store.sample_counts(model.id).await.unwrap().train, 8);
    assert_eq!(entries(ledger, id, "deletion.refused").await.len(), 1);
}

async fn a_suspended_request_can_be_cancelled(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let id = post(ledger, &model, 0..6).await.request.id;
    assert_eq!(
        ledger.store.cancel_deletion(id, at(22), None).await.unwrap(),
        Cancellation::Cancelled
    );
    let late = ledger.store.approve_deletion(id, None, at(23)).await.unwrap();
    assert_eq!(late, Decision::NotSuspended(DeletionState::Cancelled));
}

async fn what_others_deleted_meanwhile_is_rejected(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let id = post(ledger, &model, 0..6).await.request.id;
    ledger.delete(&model, (0..6).map(sample_target).collect(), at(21)).await;
    ledger.store.approve_deletion(id, None, at(22)).await.unwrap();
    let details = ledger.store.deletion(id).await.unwrap().unwrap();
    assert_eq!(details.request.state, DeletionState::Rejected);
    assert_eq!(details.targets[0].rejection, Some(Rejection::AlreadyDeleted));
}

async fn entries(ledger: &Ledger, id: Uuid, kind: &str) -> Vec<String> {
    let filter = AuditFilter { about: Some(id), ..AuditFilter::default() };
    let events = ledger.store.audit_events(&filter, 0, 100).await.unwrap();
    let entries = events.into_iter().map(|event| event.entry);
    entries.filter(|entry| entry.contains(kind)).collect()
}
