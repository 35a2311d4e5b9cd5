//! Deadlines: warned of once, moved back as far as the policy allows, and in the order of the queue.

use std::time::Duration;

use forgetd::{
    domain::{
        deletion::{DeletionState, ExtensionReason, NewDeadline},
        model::{ExtensionPolicy, Model, Policy},
        timestamp::Timestamp,
        webhook::{EventType, Message},
    },
    store::{AuditFilter, CreateModel, Deadlines, Extension},
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    Ledger, at, new_deletion, new_id, on_both, race, sample_target, samples,
    webhooks::{settings, webhook},
};

on_both!(
    what_is_near_or_missed_is_counted,
    each_deadline_is_warned_of_once,
    an_extension_moves_the_deadline_and_the_queue,
    extensions_are_bounded,
    what_has_ended_has_no_deadline,
);

const DAY: Duration = Duration::from_hours(24);

async fn model(ledger: &Ledger, times_max: u32) -> Model {
    let mut model = super::model("m");
    let extension = ExtensionPolicy { days_max: 2, times_max };
    model.policy = Policy { extension, ..Policy::default() };
    assert_eq!(ledger.store.create_model(&model, None).await.unwrap(), CreateModel::Created);
    ledger.ingest(&model, &samples(0..12, 8)).await;
    ledger.train(&model, at(10)).await;
    model
}

async fn due(ledger: &Ledger, model: &Model, number: u64, due_by: Timestamp) -> Uuid {
    let mut new = new_deletion(model, vec![sample_target(number)], at(20));
    new.due_by = due_by;
    ledger.accept(&new).await;
    new.id
}

async fn extend(ledger: &Ledger, id: Uuid, due_by: Timestamp, now: Timestamp) -> Extension {
    let new = NewDeadline { due_by, reason: ExtensionReason::Complexity };
    ledger.store.extend_deadline(id, &new, None, now).await.unwrap()
}

async fn leaves(ledger: &Ledger, id: Uuid, kind: &str) -> Vec<Value> {
    let filter = AuditFilter { about: Some(id), ..AuditFilter::default() };
    let events = ledger.store.audit_events(&filter, 0, 100).await.unwrap();
    let entries = events.iter().map(|event| serde_json::from_str::<Value>(&event.entry).unwrap());
    entries.filter(|entry| entry["kind"] == kind).collect()
}

async fn what_is_near_or_missed_is_counted(ledger: &Ledger) {
    let model = model(ledger, 1).await;
    let other = ledger.trained_model("other", 8).await;
    for (number, due_by) in [(0, at(90)), (1, at(100)), (2, at(110)), (3, at(200)), (4, at(201))] {
        due(ledger, &model, number, due_by).await;
    }
    due(ledger, &other, 0, at(90)).await;
    let mut suspended = new_deletion(&model, vec![sample_target(5)], at(20));
    (suspended.due_by, suspended.approval_above_share) = (at(150), Some(0.01));
    ledger.accept(&suspended).await;
    let stand = ledger.store.deadlines(model.id, at(200), at(100)).await.unwrap();
    assert_eq!(stand, Deadlines { near: 3, missed: 2, unwarned: 5 });
    let claimed = ledger.claim(at(101)).await.unwrap();
    assert_eq!(claimed.requests.len(), 5);
    let stand = ledger.store.deadlines(model.id, at(200), at(100)).await.unwrap();
    assert_eq!(stand.near + stand.missed, 5, "a worker that has them has not done them");
}

async fn each_deadline_is_warned_of_once(ledger: &Ledger) {
    let model = model(ledger, 1).await;
    let webhook = webhook(&ledger.store, settings()).await;
    let near = due(ledger, &model, 0, at(100)).await;
    let far = due(ledger, &model, 1, at(300)).await;
    let warnings = (0..4).map(|_| {
        let (store, model_id) = (ledger.store.clone(), model.id);
        async move { store.warn_of_deadlines(model_id, at(200), at(50)).await.unwrap() }
    });
    assert_eq!(race(warnings).await.iter().sum::<u64>(), 1, "by one worker");
    let [leaf] = leaves(ledger, near, "deletion.deadline_approaching").await.try_into().unwrap();
    assert_eq!(leaf["details"]["due_by"], at(100).to_string());
    assert!(leaves(ledger, far, "deletion.deadline_approaching").await.is_empty());
    let told = async || {
        let messages = ledger.store.messages(webhook.id, None, None, 99).await.unwrap();
        let is_warning = |it: &&Message| it.event_type == EventType::DeadlineApproaching;
        messages.iter().filter(is_warning).count()
    };
    assert_eq!(told().await, 1);

    // Another deadline is another thing to be warned of.
    assert_eq!(extend(ledger, near, at(150), at(60)).await, Extension::Extended);
    assert_eq!(ledger.store.deadlines(model.id, at(200), at(60)).await.unwrap().unwarned, 1);
    assert_eq!(ledger.store.warn_of_deadlines(model.id, at(200), at(60)).await.unwrap(), 1);
    assert_eq!(ledger.store.warn_of_deadlines(model.id, at(200), at(61)).await.unwrap(), 0);
    assert_eq!(told().await, 2);
}

async fn an_extension_moves_the_deadline_and_the_queue(ledger: &Ledger) {
    let model = model(ledger, 1).await;
    let first = due(ledger, &model, 0, at(100)).await;
    let second = due(ledger, &model, 1, at(200)).await;
    let moved = at(100).plus(DAY);
    assert_eq!(extend(ledger, first, moved, at(30)).await, Extension::Extended);
    let request = ledger.store.deletion(first).await.unwrap().unwrap().request;
    assert_eq!((request.due_by, request.first_due_by), (moved, Some(at(100))));
    let [leaf] = leaves(ledger, first, "deletion.deadline_extended").await.try_into().unwrap();
    assert_eq!(
        leaf["details"],
        serde_json::json!({
            "by": null, "due_by": moved, "previous_due_by": at(100), "reason": "complexity",
        })
    );
    let claimed = ledger.claim(at(31)).await.unwrap();
    assert_eq!(claimed.requests, [second, first], "earliest due first");
}

async fn extensions_are_bounded(ledger: &Ledger) {
    let model = model(ledger, 2).await;
    let (first, latest) = (at(1_000), at(1_000).plus(DAY * 2));
    let id = due(ledger, &model, 0, first).await;
    let out_of_range = Extension::OutOfRange { due_by: first, latest };
    for due_by in [at(999), first, latest.plus(Duration::from_micros(1))] {
        assert_eq!(extend(ledger, id, due_by, at(30)).await, out_of_range, "{due_by}");
    }
    let missed = extend(ledger, id, first.plus(DAY), first).await;
    assert_eq!(missed, Extension::Missed { due_by: first });
    let later = first.plus(DAY);
    assert_eq!(extend(ledger, id, later, at(31)).await, Extension::Extended);
    let beyond = extend(ledger, id, later.plus(DAY * 2), at(32)).await;
    assert_eq!(beyond, Extension::OutOfRange { due_by: later, latest }, "all together");
    assert_eq!(extend(ledger, id, latest, at(33)).await, Extension::Extended);
    assert_eq!(extend(ledger, id, latest, at(34)).await, Extension::Exhausted { limit: 2 });
    assert_eq!(extend(ledger, new_id(), latest, at(34)).await, Extension::Unknown);
    assert_eq!(leaves(ledger, id, "deletion.deadline_extended").await.len(), 2);
    let request = ledger.store.deletion(id).await.unwrap().unwrap().request;
    assert_eq!((request.due_by, request.first_due_by), (latest, Some(first)));
}

async fn what_has_ended_has_no_deadline(ledger: &Ledger) {
    let model = model(ledger, 1).await;
    let id = due(ledger, &model, 0, at(1_000)).await;
    let cancelled = due(ledger, &model, 1, at(1_000)).await;
    ledger.store.cancel_deletion(cancelled, at(21), None).await.unwrap();
    ledger.unlearn(at(22)).await;
    let later = at(2_000);
    let ended = extend(ledger, cancelled, later, at(23)).await;
    assert_eq!(ended, Extension::NotOpen(DeletionState::Cancelled));
    ledger.store.complete_propagated(at(24)).await.unwrap();
    let completed = extend(ledger, id, later, at(25)).await;
    assert_eq!(completed, Extension::NotOpen(DeletionState::Completed));
    let stand = ledger.store.deadlines(model.id, at(3_000), at(3_000)).await.unwrap();
    assert_eq!(stand, Deadlines { near: 0, missed: 0, unwarned: 0 });
    assert_eq!(ledger.store.warn_of_deadlines(model.id, at(3_000), at(30)).await.unwrap(), 0);
}
