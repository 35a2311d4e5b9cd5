//! Requests of other protocols: all of their deletion requests or none, and where they stand.

use std::time::Duration;

use forgetd::{
    domain::{deletion::DeletionState, identity::Digest, model::Model},
    intake::standing::OpenDsrStatus,
    store::{
        Acceptance, Cancellation, Delivery, Intake, IntakeCancellation, NewCallback, NewDeletion,
        NewIntake, Origin, Recorded, Signing,
    },
};
use uuid::Uuid;

use super::{Ledger, at, new_deletion, new_id, on_both, race, subject_target};

on_both!(
    all_requests_of_an_intake_are_accepted_or_none,
    an_intake_waits_for_earlier_requests,
    an_approval_follows_earlier_requests_too,
    cancelling_withdraws_every_request_of_its_own,
    posted_at_the_same_time_it_is_one_intake,
    each_change_of_status_is_told_once,
    requests_that_end_at_the_same_time_are_told_as_one_end,
    an_address_goes_with_its_last_message,
    what_a_callback_waits_for_is_not_pruned,
    a_sweep_removes_callbacks_that_are_told_nothing_more,
);

fn intake(deletions: Vec<NewDeletion>) -> NewIntake {
    NewIntake {
        id: new_id(),
        body: Digest::of(b"body"),
        origin: Origin::Controller { api_key_id: None },
        received_at: at(20),
        due_by: at(90),
        deletions,
        callbacks: Vec::new(),
    }
}

pub(super) fn subject(model: &Model, number: u64) -> NewDeletion {
    new_deletion(model, vec![subject_target(number)], at(20))
}

pub(super) async fn accept(ledger: &Ledger, new: &NewIntake) -> Intake {
    match ledger.store.accept_intake(new, 100).await.unwrap() {
        Acceptance::Accepted(intake) => intake,
        other => panic!("not accepted but {other:?}"),
    }
}

async fn status(ledger: &Ledger, id: Uuid) -> OpenDsrStatus {
    ledger.store.intake(id).await.unwrap().unwrap().status()
}

async fn all_requests_of_an_intake_are_accepted_or_none(ledger: &Ledger) {
    let (a, b) = (ledger.trained_model("a", 6).await, ledger.trained_model("b", 6).await);
    let new = intake(vec![subject(&b, 0), subject(&a, 0)]);
    let full = ledger.store.accept_intake(&new, 1).await.unwrap();
    assert_eq!(full, Acceptance::QueueFull, "there is room for one");
    assert_eq!(ledger.integer("SELECT COUNT(*) FROM intakes").await, 0);

    let accepted = accept(ledger, &new).await;
    assert_eq!(accepted.own().count(), 2);
    assert_eq!(accepted.status(), OpenDsrStatus::Pending);
    let repeated = ledger.store.accept_intake(&new, 100).await.unwrap();
    assert_eq!(repeated, Acceptance::Repeated(accepted));
    let other = NewIntake { body: Digest::of(b"other"), ..new.clone() };
    assert_eq!(ledger.store.accept_intake(&other, 100).await.unwrap(), Acceptance::KeyReused);
    assert_eq!(ledger.integer("SELECT COUNT(*) FROM deletion_requests").await, 2);

    ledger.unlearn(at(21)).await;
    ledger.store.complete_propagated(at(22)).await.unwrap();
    assert_eq!(status(ledger, new.id).await, OpenDsrStatus::InProgress, "one of two is done");
    ledger.unlearn(at(23)).await;
    ledger.store.complete_propagated(at(24)).await.unwrap();
    assert_eq!(status(ledger, new.id).await, OpenDsrStatus::Completed);
    assert!(ledger.store.intake(new_id()).await.unwrap().is_none());
}

async fn an_intake_waits_for_earlier_requests(ledger: &Ledger) {
    let model = ledger.trained_model("m", 6).await;
    // One sample of the subject is on its way out already, all of another.
    ledger.delete(&model, vec![super::sample_target(0)], at(19)).await;
    ledger.delete(&model, vec![subject_target(2)], at(19)).await;
    let new =
        intake(vec![new_deletion(&model, vec![subject_target(0), subject_target(2)], at(20))]);
    let accepted = accept(ledger, &new).await;
    assert_eq!((accepted.requests.len(), accepted.own().count()), (3, 1));
    let rejected = intake(vec![subject(&model, 2)]);
    let accepted = accept(ledger, &rejected).await;
    assert_eq!(accepted.own().next().unwrap().request.state, DeletionState::Rejected);
    assert_eq!(accepted.status(), OpenDsrStatus::Pending, "the earlier request is open");
    let refused = ledger.store.cancel_intake(rejected.id, at(21), None).await.unwrap();
    assert_eq!(refused, IntakeCancellation::NothingOwn);
    while ledger.store.queue_depth().await.unwrap() > 0 {
        ledger.unlearn(at(22)).await;
        ledger.store.complete_propagated(at(23)).await.unwrap();
    }
    for id in [new.id, rejected.id] {
        assert_eq!(status(ledger, id).await, OpenDsrStatus::Completed);
    }
}

async fn an_approval_follows_earlier_requests_too(ledger: &Ledger) {
    let model = ledger.trained_model("m", 6).await;
    let mut large = new_deletion(&model, (0..6).map(subject_target).collect(), at(20));
    large.approval_above_share = Some(0.5);
    large.targets.dedup();
    let new = intake(vec![large.clone()]);
    assert_eq!(
        accept(ledger, &new).await.own().next().unwrap().request.state,
        DeletionState::Suspended
    );
    let meanwhile =
        ledger.delete(&model, (0..6).step_by(2).map(subject_target).collect(), at(21)).await;
    ledger.store.approve_deletion(large.id, None, at(22)).await.unwrap();
    let intake = ledger.store.intake(new.id).await.unwrap().unwrap();
    assert!(intake.requests.iter().any(|it| it.request.id == meanwhile && !it.is_own));
    assert_eq!(intake.status(), OpenDsrStatus::Pending);
    ledger.unlearn(at(23)).await;
    ledger.store.complete_propagated(at(24)).await.unwrap();
    assert_eq!(status(ledger, new.id).await, OpenDsrStatus::Completed);
}

async fn cancelling_withdraws_every_request_of_its_own(ledger: &Ledger) {
    let (a, b) = (ledger.trained_model("a", 6).await, ledger.trained_model("b", 6).await);
    let new = intake(vec![subject(&a, 0), subject(&b, 0)]);
    accept(ledger, &new).await;
    let cancelled = ledger.store.cancel_intake(new.id, at(21), None).await.unwrap();
    assert_eq!(cancelled, IntakeCancellation::Cancelled);
    assert_eq!(status(ledger, new.id).await, OpenDsrStatus::Cancelled);
    assert_eq!(ledger.store.queue_depth().await.unwrap(), 0);
    assert_eq!(ledger.integer("SELECT COUNT(*) FROM tombstones").await, 0);
    let again = ledger.store.cancel_intake(new.id, at(22), None).await.unwrap();
    assert_eq!(again, IntakeCancellation::NotPending(OpenDsrStatus::Cancelled));
    let unknown = ledger.store.cancel_intake(new_id(), at(22), None).await.unwrap();
    assert_eq!(unknown, IntakeCancellation::Unknown);

    // One of two is under way: that cannot be taken back.
    let started = intake(vec![subject(&a, 0), subject(&b, 0)]);
    accept(ledger, &started).await;
    ledger.claim(at(23)).await.unwrap();
    let refused = ledger.store.cancel_intake(started.id, at(24), None).await.unwrap();
    assert_eq!(refused, IntakeCancellation::NotPending(OpenDsrStatus::InProgress));
}

async fn posted_at_the_same_time_it_is_one_intake(ledger: &Ledger) {
    let (a, b) = (ledger.trained_model("a", 6).await, ledger.trained_model("b", 6).await);
    let new = intake(vec![subject(&a, 0), subject(&b, 0)]);
    let copies = (0..8).map(|_| {
        let mut copy = new.clone();
        copy.deletions.iter_mut().for_each(|deletion| deletion.id = new_id());
        copy.deletions.reverse();
        let store = ledger.store.clone();
        async move { store.accept_intake(&copy, 100).await.unwrap() }
    });
    let mut accepted = 0;
    for answer in race(copies).await {
        match answer {
            Acceptance::Accepted(_) => accepted += 1,
            Acceptance::Repeated(intake) => assert_eq!(intake.own().count(), 2),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(accepted, 1);
    assert_eq!(ledger.integer("SELECT COUNT(*) FROM deletion_requests").await, 2);
}

fn with_callback(deletions: Vec<NewDeletion>) -> NewIntake {
    let callback = NewCallback { id: new_id(), url: "https://example.org/callback".into() };
    NewIntake { callbacks: vec![callback], ..intake(deletions) }
}

/// Takes what waits for the callback, delivers it, and returns the statuses that it tells.
async fn told(ledger: &Ledger, new: &NewIntake) -> Vec<String> {
    let (id, mut statuses) = (new.callbacks[0].id, Vec::new());
    while ledger.store.callbacks_due(at(100), true, 9).await.unwrap().contains(&id) {
        let (token, duration) = (new_id(), Duration::from_secs(30));
        let claimed = ledger.store.claim_messages(id, token, at(100), duration, 1).await.unwrap();
        let claimed = claimed.unwrap();
        assert!(matches!(claimed.signing, Signing::OpenDsr));
        assert_eq!(claimed.url, "https://example.org/callback");
        let [message] = &claimed.messages[..] else { panic!("one at a time") };
        let payload: serde_json::Value = serde_json::from_str(&message.payload).unwrap();
        assert_eq!(payload["subject_request_id"], new.id.to_string());
        statuses.push(payload["request_status"].as_str().unwrap().to_owned());
        let delivered = Delivery::Delivered { status: 200 };
        ledger.store.record_delivery(message.id, token, &delivered, at(100)).await.unwrap();
    }
    statuses
}

async fn each_change_of_status_is_told_once(ledger: &Ledger) {
    let (a, b) = (ledger.trained_model("a", 6).await, ledger.trained_model("b", 6).await);
    let new = with_callback(vec![subject(&a, 0), subject(&b, 0)]);
    accept(ledger, &new).await;
    assert!(told(ledger, &new).await.is_empty(), "pending is what the answer said");
    let repeated = ledger.store.accept_intake(&new, 100).await.unwrap();
    assert!(matches!(repeated, Acceptance::Repeated(_)));
    for _ in 0..2 {
        ledger.unlearn(at(21)).await;
        ledger.store.complete_propagated(at(22)).await.unwrap();
    }
    assert_eq!(told(ledger, &new).await, ["in_progress", "completed"]);

    let nobody = with_callback(Vec::new());
    accept(ledger, &nobody).await;
    assert_eq!(told(ledger, &nobody).await, ["completed"], "no request, and no leaf");
    let withdrawn = with_callback(vec![subject(&a, 2)]);
    accept(ledger, &withdrawn).await;
    ledger.store.cancel_intake(withdrawn.id, at(23), None).await.unwrap();
    assert_eq!(told(ledger, &withdrawn).await, ["cancelled"]);
}

async fn requests_that_end_at_the_same_time_are_told_as_one_end(ledger: &Ledger) {
    let (a, b) = (ledger.trained_model("a", 6).await, ledger.trained_model("b", 6).await);
    for round in 0..3 {
        let new = with_callback(vec![subject(&a, 2 * round), subject(&b, 2 * round)]);
        accept(ledger, &new).await;
        let ends = new.deletions.iter().map(|deletion| {
            let (store, id) = (ledger.store.clone(), deletion.id);
            async move { store.cancel_deletion(id, at(30), None).await.unwrap() }
        });
        assert_eq!(race(ends).await, [Cancellation::Cancelled; 2]);
        // One withdrawn and one waiting is pending still.
        assert_eq!(told(ledger, &new).await, ["cancelled"]);
    }
}

async fn an_address_goes_with_its_last_message(ledger: &Ledger) {
    let model = ledger.trained_model("m", 6).await;
    let count = "SELECT COUNT(*) FROM intake_callbacks";
    let (first, second) =
        (with_callback(vec![subject(&model, 0)]), with_callback(vec![subject(&model, 2)]));
    accept(ledger, &first).await;
    accept(ledger, &second).await;
    ledger.unlearn(at(21)).await;
    assert_eq!(told(ledger, &first).await, ["in_progress"]);
    assert_eq!(ledger.integer(count).await, 2);
    ledger.store.complete_propagated(at(22)).await.unwrap();
    assert_eq!(told(ledger, &first).await, ["completed"]);
    assert_eq!(ledger.integer(count).await, 1);

    let (id, token) = (second.callbacks[0].id, new_id());
    let claimed = ledger.store.claim_messages(id, token, at(23), Duration::from_secs(30), 1).await;
    let message = &claimed.unwrap().unwrap().messages[0];
    let gone = Delivery::Gone { status: 410 };
    let recorded = ledger.store.record_delivery(message.id, token, &gone, at(23)).await.unwrap();
    assert_eq!(recorded, Recorded::Done);
    assert_eq!(ledger.integer(count).await, 0);
    assert!(ledger.store.callbacks_due(at(100), true, 9).await.unwrap().is_empty());
}

async fn what_a_callback_waits_for_is_not_pruned(ledger: &Ledger) {
    let model = ledger.trained_model("m", 6).await;
    let new = with_callback(vec![subject(&model, 0)]);
    accept(ledger, &new).await;
    ledger.store.cancel_intake(new.id, at(21), None).await.unwrap();
    assert_eq!(ledger.store.prune_outbox(at(99), at(99)).await.unwrap(), 0);
    assert_eq!(told(ledger, &new).await, ["cancelled"]);
    assert_eq!(ledger.integer("SELECT COUNT(*) FROM intake_callbacks").await, 0);
    assert_eq!(ledger.store.prune_outbox(at(101), at(101)).await.unwrap(), 1, "it was delivered");
}

async fn a_sweep_removes_callbacks_that_are_told_nothing_more(ledger: &Ledger) {
    let model = ledger.trained_model("m", 6).await;
    let (ended, open) =
        (with_callback(vec![subject(&model, 0)]), with_callback(vec![subject(&model, 2)]));
    accept(ledger, &ended).await;
    accept(ledger, &open).await;
    ledger.store.cancel_intake(ended.id, at(21), None).await.unwrap();
    let count = "SELECT COUNT(*) FROM intake_callbacks";
    ledger.store.prune_outbox(at(0), at(22)).await.unwrap();
    assert_eq!(ledger.integer(count).await, 2, "the end is not told yet");
    // As if its attempts had been recorded side by side.
    ledger
        .execute("UPDATE webhook_messages SET state = 'delivered', ended_at = 2000000000000000")
        .await;
    ledger.store.prune_outbox(at(0), at(23)).await.unwrap();
    assert_eq!(ledger.integer(count).await, 1);
    ledger.store.cancel_intake(open.id, at(24), None).await.unwrap();
    assert_eq!(told(ledger, &open).await, ["cancelled"], "the other was kept");
}
