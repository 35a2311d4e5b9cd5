//! Lists, page by page; opening and migrating.

use forgetd::{
    domain::{
        deletion::{DeletionState, Target},
        identity::Pseudonym,
        job::JobKind,
        sample::Split,
    },
    store::{CreateModel, DeletionFilter, Store, StoreError},
};

use super::{Ledger, MASTER, at, keyring, new_id, on_both, sample_target, subject_target};

on_both!(
    models_are_found_and_listed,
    deletions_are_filtered_and_paged,
    versions_and_jobs_are_paged,
    contributors_are_paged,
    lineage_answers_each_target_in_order,
    opening_again_finds_everything,
);

async fn models_are_found_and_listed(ledger: &Ledger) {
    let models = [ledger.model("a").await, ledger.model("b").await, ledger.model("c").await];
    let store = &ledger.store;
    let taken = store.create_model(&super::model("b"), None).await.unwrap();
    assert_eq!(taken, CreateModel::NameTaken);
    assert_eq!(store.model(&models[1].name).await.unwrap(), Some(models[1].clone()));
    assert_eq!(store.model_by_id(models[2].id).await.unwrap(), Some(models[2].clone()));
    assert_eq!(store.model(&"d".parse().unwrap()).await.unwrap(), None);
    assert_eq!(store.models(None, 2).await.unwrap(), models[..2]);
    assert_eq!(store.models(Some(models[1].id), 2).await.unwrap(), models[2..]);
    assert_eq!(store.current_version(models[0].id).await.unwrap(), None);
    assert_eq!(store.last_ordinal(models[0].id).await.unwrap(), None);
    assert!(live_is_empty(store, &models[0]).await);
}

async fn live_is_empty(store: &Store, model: &forgetd::domain::model::Model) -> bool {
    store.samples(model.id, Split::Train, -1, 9).await.unwrap().is_empty()
}

async fn deletions_are_filtered_and_paged(ledger: &Ledger) {
    let one = ledger.trained_model("one", 8).await;
    let two = ledger.trained_model("two", 8).await;
    let mut ids = Vec::new();
    for number in 0..4 {
        ids.push(
            ledger
                .delete(&one, vec![sample_target(number)], at(20 + i64::try_from(number).unwrap()))
                .await,
        );
    }
    ids.push(ledger.delete(&two, vec![sample_target(0)], at(30)).await);
    ledger.store.cancel_deletion(ids[1], at(31), None).await.unwrap();
    let list = async |filter: DeletionFilter, before, limit| {
        let page = ledger.store.deletions(&filter, before, limit).await.unwrap();
        page.into_iter().map(|(request, _)| request.id).collect::<Vec<_>>()
    };
    let all = DeletionFilter::default;
    assert_eq!(list(all(), None, 2).await, [ids[4], ids[3]]);
    assert_eq!(list(all(), Some(ids[3]), 2).await, [ids[2], ids[1]]);
    let of_two = DeletionFilter { model_id: Some(two.id), ..all() };
    assert_eq!(list(of_two, None, 9).await, [ids[4]]);
    let queued = DeletionFilter { state: Some(DeletionState::Queued), ..all() };
    assert_eq!(list(queued.clone(), None, 9).await, [ids[4], ids[3], ids[2], ids[0]]);
    let queued_of_one = DeletionFilter { model_id: Some(one.id), ..queued };
    assert_eq!(list(queued_of_one, None, 9).await, [ids[3], ids[2], ids[0]]);
    let window =
        DeletionFilter { received_from: Some(at(21)), received_until: Some(at(23)), ..all() };
    assert_eq!(list(window, None, 9).await, [ids[2], ids[1]]);
    let named = ledger.store.deletions(&all(), None, 1).await.unwrap();
    assert_eq!(named[0].1, two.name);
}

async fn versions_and_jobs_are_paged(ledger: &Ledger) {
    let model = ledger.trained_model("m", 4).await;
    ledger.train(&model, at(11)).await;
    ledger.train(&model, at(12)).await;
    ledger.store.enqueue_job(new_id(), model.id, JobKind::Settlement, at(13), None).await.unwrap();
    let epochs = async |below, limit| {
        let page = ledger.store.versions(model.id, below, limit).await.unwrap();
        page.iter().map(|version| version.epoch).collect::<Vec<_>>()
    };
    assert_eq!(epochs(None, 2).await, [3, 2]);
    assert_eq!(epochs(Some(2), 2).await, [1]);
    let jobs = ledger.store.jobs(model.id, None, None, 2).await.unwrap();
    let kinds: Vec<_> = jobs.iter().map(|job| job.kind).collect();
    assert_eq!(kinds, [JobKind::Settlement, JobKind::Training]);
    let rest = ledger.store.jobs(model.id, None, Some(jobs[1].id), 9).await.unwrap();
    assert_eq!(rest.len(), 2);
    let trainings = ledger.store.jobs(model.id, Some(JobKind::Training), None, 9).await.unwrap();
    assert_eq!(trainings.len(), 3);
}

async fn contributors_are_paged(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let all = ledger.store.contributors(model.id, 1, None, 100).await.unwrap();
    let first = ledger.store.contributors(model.id, 1, None, 5).await.unwrap();
    let rest = ledger.store.contributors(model.id, 1, Some(first[4].0), 5).await.unwrap();
    assert_eq!([first, rest].concat(), all);
    assert!(ledger.store.contributors(model.id, 0, None, 5).await.unwrap().is_empty());
}

async fn lineage_answers_each_target_in_order(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let other = ledger.model("other").await;
    let unknown = Target { key: Pseudonym::from_bytes([0; 32]), ..sample_target(0) };
    let targets = [unknown, subject_target(2), sample_target(2)];
    let lineage = ledger.store.lineage(model.id, &targets).await.unwrap();
    assert_eq!(lineage.iter().map(|it| it.target).collect::<Vec<_>>(), targets);
    assert_eq!(lineage.iter().map(|it| it.samples.len()).collect::<Vec<_>>(), [0, 2, 1]);
    assert_eq!(lineage[1].samples[0], lineage[2].samples[0]);
    assert_eq!(lineage[2].samples[0].ingested_at, at(1));
    let elsewhere = ledger.store.lineage(other.id, &targets).await.unwrap();
    assert!(elsewhere.iter().all(|it| it.samples.is_empty()));
}

async fn opening_again_finds_everything(ledger: &Ledger) {
    let model = ledger.trained_model("m", 4).await;
    ledger.store.migrate().await.unwrap();
    ledger.store.ping().await.unwrap();
    ledger.store.close().await;
    let closed = ledger.store.ping().await;
    assert!(matches!(closed, Err(StoreError::Unavailable { operation: "ping", .. })));
    let again = Store::open(&ledger.url, keyring(MASTER)).await.unwrap();
    again.migrate().await.unwrap();
    assert_eq!(again.model(&model.name).await.unwrap(), Some(model));
    again.close().await;
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    for url in ["mysql://host/db", "sqlite:///no/such/folder/db", "postgres://127.0.0.1:1/db"] {
        let refused = Store::open(url, keyring(MASTER)).await.map(drop);
        assert!(matches!(refused, Err(StoreError::Open { .. })), "{url}");
    }
    let secret = "postgres://user:hunter2@127.0.0.1:1/db";
    let error = Store::open(secret, keyring(MASTER)).await.map(drop).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}
