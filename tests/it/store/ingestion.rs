//! Ingestion, and what keeps deleted samples out.

use std::time::Instant;

use forgetd::{
    domain::{
        features::Features,
        sample::{NewSample, SampleCounts, Split},
    },
    store::{Acceptance, AuditFilter, Conflict, IngestError, Ingestion},
};

use super::{
    Ledger, Raw, at, features_of, new_id, on_both, race, sample_key, sample_target, samples,
    subject_key, subject_target,
};

on_both!(
    samples_come_back_in_order,
    dropped_ingestions_leave_nothing,
    conflicts_name_the_position,
    tombstones_hold_until_they_are_lifted,
    a_deletion_during_an_ingestion_is_seen_at_its_commit,
    a_key_has_room_for_one_sample,
    concurrent_ingestions_get_ordinals_of_their_own,
);

async fn samples_come_back_in_order(ledger: &Ledger) {
    let model = ledger.model("m").await;
    let started = Instant::now();
    ledger.ingest(&model, &samples(0..5_000, 4_000)).await;
    println!("5,000 samples ingested in {:?} on {}", started.elapsed(), ledger.url);
    ledger.ingest(&model, &samples(5_000..5_010, 9_000)).await;
    let counts = ledger.store.sample_counts(model.id).await.unwrap();
    assert_eq!(counts, SampleCounts { train: 4_010, holdout: 1_000 });
    assert_eq!(ledger.store.last_ordinal(model.id).await.unwrap(), Some(5_009));
    let (mut after, mut ordinals) = (-1, Vec::new());
    loop {
        let page = ledger.store.samples(model.id, Split::Train, after, 999).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.ordinal;
        for sample in page {
            let number = u64::try_from(sample.ordinal).unwrap();
            assert_eq!(sample.features, Features::Pixels(features_of(number)));
            assert_eq!(
                (sample.label, sample.split),
                (format!("label {}", number % 2), Split::Train)
            );
            ordinals.push(sample.ordinal);
        }
    }
    assert_eq!(ordinals, (0..4_000).chain(5_000..5_010).collect::<Vec<_>>());
}

async fn dropped_ingestions_leave_nothing(ledger: &Ledger) {
    let model = ledger.model("m").await;
    let mut ingestion = ledger.store.begin_ingestion(new_id(), model.id).await.unwrap();
    ingestion.add(&samples(0..10, 10)).await.unwrap();
    drop(ingestion);
    ledger.ingest(&model, &samples(0..3, 2)).await;
    let counts = ledger.store.sample_counts(model.id).await.unwrap();
    assert_eq!(counts, SampleCounts { train: 2, holdout: 1 });
    assert_eq!(ledger.store.last_ordinal(model.id).await.unwrap(), Some(2));
    assert_eq!(ledger.integer("SELECT COUNT(*) FROM ingestions").await, 1);
}

fn conflict(result: Result<(), IngestError>) -> (u64, Conflict) {
    match result.unwrap_err() {
        IngestError::Conflict { position, conflict, .. } => (position, conflict),
        IngestError::Store(error) => panic!("{error}"),
    }
}

async fn begin(ledger: &Ledger, model_id: uuid::Uuid) -> Ingestion {
    ledger.store.begin_ingestion(new_id(), model_id).await.unwrap()
}

async fn conflicts_name_the_position(ledger: &Ledger) {
    let model = ledger.model("m").await;
    ledger.ingest(&model, &samples(0..4, 4)).await;
    let mut ingestion = begin(ledger, model.id).await;
    ingestion.add(&samples(4..8, 8)).await.unwrap();
    let known = [samples(8..10, 10), samples(3..4, 4)].concat();
    assert_eq!(conflict(ingestion.add(&known).await), (6, Conflict::Exists));
    let ended = ingestion.commit(at(2), None).await.map(drop);
    assert_eq!(conflict(ended), (6, Conflict::Exists), "nothing of it is kept");
    assert_eq!(ledger.store.sample_counts(model.id).await.unwrap().train, 4);
    let mut ingestion = begin(ledger, model.id).await;
    let twice = [samples(4..6, 9), samples(4..5, 9)].concat();
    assert_eq!(conflict(ingestion.add(&twice).await), (2, Conflict::Exists));
}

async fn tombstones_hold_until_they_are_lifted(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    ledger.delete(&model, vec![subject_target(0), sample_target(4)], at(20)).await;
    ledger.unlearn(at(21)).await;
    let new_of_the_subject = NewSample { key: sample_key(77), ..samples(0..1, 9).remove(0) };
    let known_of_a_stranger = NewSample { subject: subject_key(500), ..samples(0..1, 9).remove(0) };
    for (sample, expected) in [
        (samples(4..5, 9).remove(0), Conflict::SampleDeleted),
        (known_of_a_stranger, Conflict::SampleDeleted),
        (new_of_the_subject.clone(), Conflict::SubjectDeleted),
    ] {
        let mut ingestion = begin(ledger, model.id).await;
        assert_eq!(conflict(ingestion.add(&[sample]).await), (0, expected));
    }
    let store = &ledger.store;
    let administrator = new_id();
    let by = Some(administrator);
    assert!(store.lift_tombstone(model.id, subject_target(0), by, at(30)).await.unwrap());
    assert!(!store.lift_tombstone(model.id, subject_target(0), None, at(30)).await.unwrap());
    let events = store.audit_events(&AuditFilter::default(), 0, 100).await.unwrap();
    let lifted: Vec<_> =
        events.iter().filter(|event| event.entry.contains("tombstone.lifted")).collect();
    let names_it = |entry: &str| {
        entry.contains(&subject_key(0).to_string()) && entry.contains(&administrator.to_string())
    };
    assert!(lifted.len() == 1 && names_it(&lifted[0].entry), "lifting is on record, once");
    let again = [samples(0..2, 9), vec![new_of_the_subject]].concat();
    ledger.ingest(&model, &again).await;
    let mut ingestion = begin(ledger, model.id).await;
    let still = ingestion.add(&samples(4..5, 9)).await;
    assert_eq!(conflict(still), (0, Conflict::SampleDeleted));
}

async fn a_deletion_during_an_ingestion_is_seen_at_its_commit(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let mut ingestion = begin(ledger, model.id).await;
    let sample = NewSample { key: sample_key(77), ..samples(0..1, 9).remove(0) };
    ingestion.add(&[sample]).await.unwrap();
    let new = super::new_deletion(&model, vec![subject_target(0)], at(20));
    let store = ledger.store.clone();
    let deletion = tokio::spawn(async move { store.accept_deletion(&new, 9).await.unwrap() });
    if matches!(ledger.raw, Raw::Sqlite(_)) {
        // One writer at a time: the deletion waits, and then finds the new sample.
        ingestion.commit(at(21), None).await.unwrap();
        let Acceptance::Accepted(details) = deletion.await.unwrap() else { panic!("refused") };
        assert_eq!(details.request.samples, 3);
    } else {
        deletion.await.unwrap();
        let refused = ingestion.commit(at(21), None).await.map(drop);
        assert_eq!(conflict(refused), (0, Conflict::SubjectDeleted));
    }
}

/// A sample like the first one, under another id.
macro_rules! copy {
    ($id:literal) => {
        concat!(
            "INSERT INTO samples
                 (id, model_id, ordinal, sample_key, subject_key, split, ingestion_id)
             SELECT ",
            $id,
            ", model_id, 100, sample_key, subject_key, split, ingestion_id
             FROM samples WHERE ordinal = 0"
        )
    };
}

/// Whatever the verbs let through, of a key's samples one at most was not let in again.
async fn a_key_has_room_for_one_sample(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let copy = async || match &ledger.raw {
        Raw::Sqlite(pool) => sqlx::query(copy!("randomblob(16)")).execute(pool).await.map(drop),
        Raw::Postgres(pool) => {
            sqlx::query(copy!("gen_random_uuid()")).execute(pool).await.map(drop)
        }
    };
    let is_refused = |copied: Result<(), sqlx::Error>| {
        copied.unwrap_err().as_database_error().unwrap().is_unique_violation()
    };
    assert!(is_refused(copy().await), "it is live");
    ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    assert!(is_refused(copy().await), "it is claimed");
    ledger.unlearn(at(21)).await;
    assert!(is_refused(copy().await), "it is deleted");
    assert!(ledger.store.lift_tombstone(model.id, sample_target(0), None, at(22)).await.unwrap());
    copy().await.unwrap();
}

async fn concurrent_ingestions_get_ordinals_of_their_own(ledger: &Ledger) {
    let model = ledger.model("m").await;
    let ingestions = (0..4).map(|n| {
        let (store, model_id) = (ledger.store.clone(), model.id);
        async move {
            let mut ingestion = store.begin_ingestion(new_id(), model_id).await.unwrap();
            ingestion.add(&samples(n * 50..n * 50 + 50, 1_000)).await.unwrap();
            ingestion.commit(at(1), None).await.unwrap();
        }
    });
    race(ingestions).await;
    assert_eq!(ledger.store.sample_counts(model.id).await.unwrap().train, 200);
    assert_eq!(ledger.store.last_ordinal(model.id).await.unwrap(), Some(199));
}
