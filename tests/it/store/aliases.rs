//! Subjects by what else they are known by.

use forgetd::{
    domain::{
        deletion::{DeletionState, Guarantee, Rejection},
        identity::{Digest, Pseudonym},
        model::Model,
        sample::NewSample,
    },
    intake::standing::Standing,
    store::{Conflict, IngestError},
};

use super::{
    Ledger, at, new_deletion, new_id, on_both, sample_key, samples, subject_key, subject_target,
};

on_both!(
    aliases_lead_to_the_subjects_of_a_model,
    who_comes_back_under_another_name_is_refused,
    a_deletion_during_an_ingestion_is_seen_by_alias_too,
    a_subject_stands_where_its_samples_do,
);

fn alias(name: &str) -> Pseudonym {
    Pseudonym::from_bytes(*Digest::of(name.as_bytes()).as_bytes())
}

/// A sample of a subject who has these aliases.
fn known_as(number: u64, subject: Pseudonym, aliases: &[&str]) -> NewSample {
    NewSample {
        key: sample_key(number),
        subject,
        aliases: aliases.iter().map(|name| alias(name)).collect(),
        ..samples(number..number + 1, 10_000).remove(0)
    }
}

async fn refused(ledger: &Ledger, model: &Model, sample: NewSample) -> Option<Conflict> {
    let mut ingestion = ledger.store.begin_ingestion(new_id(), model.id).await.unwrap();
    match ingestion.add(&[sample]).await {
        Ok(()) => None,
        Err(IngestError::Conflict { conflict, .. }) => Some(conflict),
        Err(IngestError::Store(error)) => panic!("{error}"),
    }
}

async fn aliases_lead_to_the_subjects_of_a_model(ledger: &Ledger) {
    let (model, other) = (ledger.model("m").await, ledger.model("other").await);
    let (anna, ben) = (subject_key(0), subject_key(2));
    let household = [
        known_as(0, anna, &["anna@", "phone"]),
        known_as(1, anna, &["anna@"]),
        known_as(2, ben, &["ben@", "phone"]),
    ];
    ledger.ingest(&model, &household).await;
    let asked = ["anna@", "ben@", "phone", "nobody@"].map(alias);
    let found = ledger.store.alias_subjects(model.id, &asked).await.unwrap();
    let mut both = vec![anna, ben];
    both.sort();
    assert_eq!(found.len(), 3);
    assert_eq!(found[&alias("anna@")], [anna]);
    assert_eq!(found[&alias("ben@")], [ben]);
    assert_eq!(found[&alias("phone")], both);
    assert!(ledger.store.alias_subjects(other.id, &asked).await.unwrap().is_empty());
}

async fn who_comes_back_under_another_name_is_refused(ledger: &Ledger) {
    let model = ledger.trained_model("m", 6).await;
    let anna = subject_key(100);
    ledger.ingest(&model, &[known_as(100, anna, &["anna@"])]).await;
    let comes_back = || known_as(200, subject_key(300), &["anna@"]);
    assert_eq!(refused(ledger, &model, comes_back()).await, None, "she is there under two names");
    ledger.delete(&model, vec![subject_target(100)], at(20)).await;
    assert_eq!(refused(ledger, &model, comes_back()).await, Some(Conflict::SubjectDeleted));
    ledger.unlearn(at(21)).await;
    ledger.store.complete_propagated(at(22)).await.unwrap();
    assert_eq!(refused(ledger, &model, comes_back()).await, Some(Conflict::SubjectDeleted));
    let stranger = known_as(200, subject_key(300), &["ben@"]);
    assert_eq!(refused(ledger, &model, stranger).await, None);
    ledger.store.lift_tombstone(model.id, subject_target(100), None, at(23)).await.unwrap();
    assert_eq!(refused(ledger, &model, comes_back()).await, None);
}

async fn a_deletion_during_an_ingestion_is_seen_by_alias_too(ledger: &Ledger) {
    if matches!(ledger.raw, super::Raw::Sqlite(_)) {
        return; // One writer at a time.
    }
    let model = ledger.trained_model("m", 6).await;
    ledger.ingest(&model, &[known_as(100, subject_key(100), &["anna@"])]).await;
    let mut ingestion = ledger.store.begin_ingestion(new_id(), model.id).await.unwrap();
    ingestion.add(&[known_as(200, subject_key(300), &["anna@"])]).await.unwrap();
    ledger.delete(&model, vec![subject_target(100)], at(20)).await;
    let refused = ingestion.commit(at(21), None).await.unwrap_err();
    assert!(matches!(refused, IngestError::Conflict { conflict: Conflict::SubjectDeleted, .. }));
}

async fn standing(ledger: &Ledger, model: &Model, number: u64) -> Option<Option<Standing>> {
    let subject = subject_key(number);
    let standings = ledger.store.subject_standings(model.id, &[subject]).await.unwrap();
    standings.get(&subject).copied()
}

async fn a_subject_stands_where_its_samples_do(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    assert_eq!(standing(ledger, &model, 500).await, None, "the model never knew it");
    assert_eq!(standing(ledger, &model, 0).await, Some(None), "nobody has asked");

    let mut large = new_deletion(&model, vec![subject_target(0), subject_target(2)], at(20));
    large.approval_above_share = Some(0.1);
    let id = ledger.accept(&large).await.request.id;
    assert_eq!(standing(ledger, &model, 0).await, Some(Some(Standing::Suspended)));
    ledger.store.refuse_deletion(id, None, at(21)).await.unwrap();
    let refused = Standing::Rejected(Rejection::Refused);
    assert_eq!(standing(ledger, &model, 0).await, Some(Some(refused)));

    let cancelled = ledger.delete(&model, vec![subject_target(2)], at(22)).await;
    ledger.store.cancel_deletion(cancelled, at(22), None).await.unwrap();
    assert_eq!(standing(ledger, &model, 2).await, Some(None), "it may be asked for again");

    let id = ledger.delete(&model, vec![subject_target(0)], at(23)).await;
    assert_eq!(standing(ledger, &model, 0).await, Some(Some(Standing::Unlearning)));
    ledger.unlearn(at(24)).await;
    assert_eq!(standing(ledger, &model, 0).await, Some(Some(Standing::Unlearning)));
    ledger.store.complete_propagated(at(25)).await.unwrap();
    let state = ledger.store.deletion(id).await.unwrap().unwrap().request.state;
    assert_eq!(state, DeletionState::Completed);
    let done = Standing::Completed(Guarantee::Approximate);
    assert_eq!(standing(ledger, &model, 0).await, Some(Some(done)));
}
