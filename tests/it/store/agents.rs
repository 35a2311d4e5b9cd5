//! Authorized Agents: their tokens, and what they are told of the requests that they bring.

use std::time::Duration;

use forgetd::{
    domain::{
        deletion::{ExtensionReason, NewDeadline},
        identity::Digest,
        model::Model,
    },
    intake::{
        drp::{DrpReason, DrpState},
        standing::OpenDsrStatus,
    },
    store::{
        Acceptance, AuditFilter, Cancellation, Delivery, Excess, Extension, IntakeCancellation,
        NewAgentToken, NewCallback, NewDeletion, NewIntake, Origin, Requester, Signing,
    },
};
use serde_json::Value;

use super::{
    Ledger, at,
    intakes::{accept, subject},
    new_deletion, new_id, on_both, race, subject_target,
};

on_both!(
    a_token_replaces_the_one_before,
    of_tokens_asked_for_at_once_one_is_issued,
    an_agents_request_is_its_own,
    an_agent_is_told_of_the_end_alone,
    what_the_answer_said_is_not_told_again,
    an_extension_is_told_with_its_reason,
    what_it_counted_on_was_not_revoked_by_the_person,
    a_quota_bounds_what_an_agent_brings_within_a_day,
    intakes_that_race_share_a_quota,
);

fn token(agent_id: &str, text: &str, asked_at: i64) -> NewAgentToken {
    NewAgentToken {
        agent_id: agent_id.into(),
        hash: Digest::of(text.as_bytes()),
        asked_at: at(asked_at),
        issued_at: at(asked_at + 1),
    }
}

async fn a_token_replaces_the_one_before(ledger: &Ledger) {
    let issue = async |new: &NewAgentToken| ledger.store.issue_agent_token(new).await.unwrap();
    let holder =
        async |text: &str| ledger.store.agent_of_token(Digest::of(text.as_bytes())).await.unwrap();
    assert!(issue(&token("FIRST", "a", 10)).await);
    assert!(issue(&token("SECOND", "b", 10)).await);
    assert_eq!(holder("a").await.as_deref(), Some("FIRST"));
    assert_eq!(holder("b").await.as_deref(), Some("SECOND"));
    // The same message again, or one from before.
    for asked_at in [10, 9] {
        assert!(!issue(&token("FIRST", "stolen", asked_at)).await);
    }
    assert_eq!(holder("stolen").await, None);
    assert_eq!(holder("a").await.as_deref(), Some("FIRST"));
    assert!(issue(&token("FIRST", "c", 11)).await);
    assert_eq!(holder("a").await, None);
    assert_eq!(holder("c").await.as_deref(), Some("FIRST"));
    let events = ledger.store.audit_events(&AuditFilter::default(), 0, 100).await.unwrap();
    let entries = events.iter().map(|it| serde_json::from_str::<Value>(&it.entry).unwrap());
    let issued = entries.filter(|entry| entry["kind"] == "agent_token.issued");
    let agents: Vec<_> = issued.map(|entry| entry["details"]["agent"].clone()).collect();
    assert_eq!(agents, ["FIRST", "SECOND", "FIRST"]);
}

async fn of_tokens_asked_for_at_once_one_is_issued(ledger: &Ledger) {
    let issues = (0..8).map(|number| {
        let (store, new) = (ledger.store.clone(), token("FIRST", &number.to_string(), 10));
        async move { store.issue_agent_token(&new).await.unwrap() }
    });
    assert_eq!(race(issues).await.iter().filter(|issued| **issued).count(), 1);
}

fn brought(deletions: Vec<NewDeletion>) -> NewIntake {
    NewIntake {
        id: new_id(),
        body: Digest::of(b"body"),
        origin: Origin::Agent { agent_id: "FIRST".into(), request_id: Some("case 17".into()) },
        received_at: at(20),
        due_by: at(90),
        deletions,
        callbacks: vec![NewCallback { id: new_id(), url: "https://example.org/status".into() }],
    }
}

async fn an_agents_request_is_its_own(ledger: &Ledger) {
    let model = ledger.trained_model("m", 6).await;
    let new = brought(vec![subject(&model, 0)]);
    let accepted = accept(ledger, &new).await;
    assert_eq!(accepted.origin, new.origin);
    let status = accepted.exercise_status();
    assert_eq!(status.agent_request_id.as_deref(), Some("case 17"));
    assert_eq!((status.status, status.request_id), (DrpState::InProgress, new.id));
    let due_by = accepted.own().next().unwrap().request.due_by;
    assert_eq!((status.received_at, status.expected_by), (at(20), Some(due_by)));
    let repeated = ledger.store.accept_intake(&new, 100).await.unwrap();
    assert_eq!(repeated, Acceptance::Repeated(accepted));
    let other = NewIntake { body: Digest::of(b"other"), ..new.clone() };
    assert_eq!(ledger.store.accept_intake(&other, 100).await.unwrap(), Acceptance::KeyReused);
    let cancelled = ledger.store.cancel_intake(new.id, at(21), None).await.unwrap();
    assert_eq!(cancelled, IntakeCancellation::Cancelled);
    let intake = ledger.store.intake(new.id).await.unwrap().unwrap();
    assert_eq!(intake.exercise_status().status, DrpState::Revoked);
}

/// Takes what waits for the callback, delivers it, and returns what it tells.
async fn told(ledger: &Ledger, new: &NewIntake) -> Vec<Value> {
    let (id, mut statuses) = (new.callbacks[0].id, Vec::new());
    // Nobody needs to sign for it.
    while ledger.store.callbacks_due(at(9_000), false, 9).await.unwrap().contains(&id) {
        let (token, duration) = (new_id(), Duration::from_secs(30));
        let claimed = ledger.store.claim_messages(id, token, at(9_000), duration, 1).await.unwrap();
        let claimed = claimed.unwrap();
        assert!(matches!(claimed.signing, Signing::Nobody));
        let [message] = &claimed.messages[..] else { panic!("one at a time") };
        let status: Value = serde_json::from_str(&message.payload).unwrap();
        assert_eq!(status["request_id"], new.id.to_string());
        assert_eq!(status["agent_request_id"], "case 17");
        statuses.push(status);
        let delivered = Delivery::Delivered { status: 200 };
        ledger.store.record_delivery(message.id, token, &delivered, at(9_000)).await.unwrap();
    }
    statuses
}

async fn told_once(ledger: &Ledger, new: &NewIntake) -> Value {
    let mut told = told(ledger, new).await;
    assert_eq!(told.len(), 1, "{told:#?}");
    told.remove(0)
}

async fn an_agent_is_told_of_the_end_alone(ledger: &Ledger) {
    let (a, b) = (ledger.trained_model("a", 6).await, ledger.trained_model("b", 6).await);
    let new = brought(vec![subject(&a, 0), subject(&b, 0)]);
    accept(ledger, &new).await;
    ledger.unlearn(at(21)).await;
    ledger.store.complete_propagated(at(22)).await.unwrap();
    assert!(told(ledger, &new).await.is_empty(), "it is in progress all the while");
    ledger.unlearn(at(23)).await;
    ledger.store.complete_propagated(at(24)).await.unwrap();
    let status = told_once(ledger, &new).await;
    assert_eq!(status["status"], "fulfilled");
    assert_eq!(ledger.integer("SELECT COUNT(*) FROM intake_callbacks").await, 0);

    let mut large = subject(&a, 2);
    large.approval_above_share = Some(0.1);
    let refused = brought(vec![large.clone()]);
    accept(ledger, &refused).await;
    ledger.store.refuse_deletion(large.id, None, at(25)).await.unwrap();
    let status = told_once(ledger, &refused).await;
    assert_eq!(status["status"], "denied");
    assert_eq!(status["reason"], "claim_not_covered");
    let revoked = brought(vec![subject(&b, 4)]);
    accept(ledger, &revoked).await;
    ledger.store.cancel_intake(revoked.id, at(26), None).await.unwrap();
    let status = told_once(ledger, &revoked).await;
    assert_eq!(status["status"], "revoked");
}

async fn what_the_answer_said_is_not_told_again(ledger: &Ledger) {
    let model = ledger.trained_model("m", 6).await;
    for deletions in [Vec::new(), vec![subject(&model, 500)]] {
        let new = brought(deletions);
        let status = accept(ledger, &new).await.exercise_status();
        assert_eq!((status.status, status.reason), (DrpState::Denied, Some(DrpReason::NoMatch)));
        assert!(told(ledger, &new).await.is_empty());
        assert_eq!(ledger.integer("SELECT COUNT(*) FROM intake_callbacks").await, 0);
    }
    // A controller's waits for somebody who signs.
    let deletions = vec![subject(&model, 500)];
    let new = NewIntake { origin: Origin::Controller { api_key_id: None }, ..brought(deletions) };
    accept(ledger, &new).await;
    assert!(ledger.store.callbacks_due(at(30), false, 9).await.unwrap().is_empty());
    assert_eq!(ledger.store.callbacks_due(at(30), true, 9).await.unwrap(), [new.callbacks[0].id]);
}

async fn an_extension_is_told_with_its_reason(ledger: &Ledger) {
    let model = ledger.trained_model("m", 6).await;
    let new = brought(vec![subject(&model, 0)]);
    accept(ledger, &new).await;
    let due_by = new.deletions[0].due_by.plus(Duration::from_hours(24));
    let deadline = NewDeadline { due_by, reason: ExtensionReason::NumberOfRequests };
    let extended = ledger.store.extend_deadline(new.deletions[0].id, &deadline, None, at(21));
    assert_eq!(extended.await.unwrap(), Extension::Extended);
    let status = told_once(ledger, &new).await;
    assert_eq!(status["status"], "in_progress");
    assert_eq!(status["expected_by"], due_by.to_string());
    assert!(status["processing_details"].as_str().unwrap().contains("many requests"));
    ledger.unlearn(at(22)).await;
    ledger.store.complete_propagated(at(23)).await.unwrap();
    let status = told_once(ledger, &new).await;
    assert_eq!(status["status"], "fulfilled");
}

async fn what_it_counted_on_was_not_revoked_by_the_person(ledger: &Ledger) {
    let model = ledger.trained_model("m", 6).await;
    let earlier = ledger.delete(&model, vec![subject_target(0)], at(19)).await;
    let new = brought(vec![subject(&model, 0)]);
    let accepted = accept(ledger, &new).await;
    assert_eq!(accepted.exercise_status().status, DrpState::InProgress);
    let cancelled = ledger.store.cancel_deletion(earlier, at(21), None).await.unwrap();
    assert_eq!(cancelled, Cancellation::Cancelled);
    let intake = ledger.store.intake(new.id).await.unwrap().unwrap();
    let status = intake.exercise_status();
    assert_eq!((status.status, status.reason), (DrpState::Denied, Some(DrpReason::Other)));
    assert_eq!(intake.status(), OpenDsrStatus::Cancelled);
    assert_eq!(told(ledger, &new).await.len(), 1);
}

/// Names two samples in each model, of an agent that may have five deleted a day.
fn limited(models: &[&Model], person: u64, received_s: i64) -> NewIntake {
    let requester = Requester::Agent { id: "FIRST".into(), samples_per_day: Some(5) };
    let deletion = |model: &&Model| NewDeletion {
        requester: Some(requester.clone()),
        ..new_deletion(model, vec![subject_target(2 * person)], at(received_s))
    };
    let deletions = models.iter().map(deletion).collect();
    NewIntake { received_at: at(received_s), ..brought(deletions) }
}

async fn a_quota_bounds_what_an_agent_brings_within_a_day(ledger: &Ledger) {
    const DAY_S: i64 = 24 * 3600;
    let (a, b) = (ledger.trained_model("a", 20).await, ledger.trained_model("b", 20).await);
    let revoked = limited(&[&a, &b], 0, 20);
    accept(ledger, &revoked).await;
    ledger.store.cancel_intake(revoked.id, at(21), None).await.unwrap();
    accept(ledger, &limited(&[&a], 0, 22)).await;
    // All of it or nothing.
    let beyond = limited(&[&a, &b], 1, 32);
    let refused = ledger.store.accept_intake(&beyond, 100).await.unwrap();
    let wait = Duration::from_secs(24 * 3600 - 10);
    let excess = Excess { samples: 2, used: 4, limit: 5, wait };
    assert_eq!(refused, Acceptance::QuotaExceeded(excess));
    assert_eq!(ledger.store.intake(beyond.id).await.unwrap(), None);
    assert_eq!(ledger.store.deletion(beyond.deletions[0].id).await.unwrap(), None);
    accept(ledger, &limited(&[&a], 1, 33)).await;
    accept(ledger, &brought(vec![subject(&a, 4)])).await;
    accept(ledger, &limited(&[&b], 2, 23 + DAY_S)).await;
}

async fn intakes_that_race_share_a_quota(ledger: &Ledger) {
    ledger.store.issue_agent_token(&token("FIRST", "a", 10)).await.unwrap();
    // On models of their own, so that no other lock puts them in order.
    let mut models = Vec::new();
    for name in ["a", "b", "c", "d"] {
        models.push(ledger.trained_model(name, 8).await);
    }
    let stores = [ledger.store.clone(), ledger.of_another_process().await];
    let racers = models.iter().zip(stores.iter().cycle()).map(|(model, store)| {
        let (store, new) = (store.clone(), limited(&[model], 0, 20));
        async move { store.accept_intake(&new, 100).await.unwrap() }
    });
    let answers = race(racers).await;
    assert_eq!(answers.iter().filter(|it| matches!(it, Acceptance::Accepted(_))).count(), 2);
}
