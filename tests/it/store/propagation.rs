//! Completion waits for every live replica; superseded weights go after the last one left them.

use std::time::Duration;

use forgetd::{
    domain::{
        blob_name::BlobName, deletion::DeletionState, identity::Digest, job::JobKind, model::Model,
    },
    store::{Enqueued, Served, StoreError, Superseded, Wakeups},
};
use uuid::Uuid;

use super::{
    LEASE, Ledger, MASTER, at, keyring, new_id, on_both, race, sample_target, subject_target,
};

on_both!(
    a_subject_is_forgotten_only_with_its_last_sample,
    a_subject_of_which_a_sample_is_left_is_not_called_forgotten,
    requests_that_hold_samples_of_each_others_subjects_are_completed,
    a_subject_waits_for_the_replicas_of_its_last_sample,
    completion_waits_for_the_slowest_live_replica,
    completing_again_changes_nothing,
    superseded_weights_go_when_no_replica_serves_them,
    superseded_weights_are_read_page_by_page,
    committed_work_wakes_others,
    a_settlement_that_covers_everything_is_not_called_for_again,
    a_report_without_news_wakes_nobody,
    weights_of_a_job_that_may_publish_them_are_no_orphan,
);

async fn report(ledger: &Ledger, replica: Uuid, model: &Model, epoch: u64, now_s: i64) {
    let served = [Served { model_id: model.id, epoch }];
    ledger.store.report_served(replica, at(now_s), LEASE, &served).await.unwrap();
}

async fn state_of(ledger: &Ledger, id: Uuid) -> DeletionState {
    ledger.store.deletion(id).await.unwrap().unwrap().request.state
}

async fn completion_waits_for_the_slowest_live_replica(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let (quick, dead) = (new_id(), new_id());
    report(ledger, quick, &model, 1, 10).await;
    report(ledger, dead, &model, 1, 10).await;
    ledger.store.report_served(new_id(), at(10), LEASE, &[]).await.unwrap();
    let id = ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    ledger.unlearn(at(21)).await;
    let store = &ledger.store;
    assert!(store.complete_propagated(at(22)).await.unwrap().is_empty(), "both serve epoch 1");
    report(ledger, quick, &model, 2, 23).await;
    assert!(store.complete_propagated(at(24)).await.unwrap().is_empty(), "one serves epoch 1");
    // The dead one's lease ends at 40 s; it counts as live for 5 s more.
    assert!(store.complete_propagated(at(44)).await.unwrap().is_empty());
    assert_eq!(state_of(ledger, id).await, DeletionState::Unlearning);
    assert_eq!(store.complete_propagated(at(46)).await.unwrap(), [id]);
    let request = store.deletion(id).await.unwrap().unwrap().request;
    assert_eq!((request.state, request.completed_at), (DeletionState::Completed, Some(at(46))));
}

async fn completing_again_changes_nothing(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let replica = new_id();
    report(ledger, replica, &model, 1, 10).await;
    let id = ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    ledger.unlearn(at(21)).await;
    ledger.store.retire_replica(replica).await.unwrap();
    ledger.store.retire_replica(replica).await.unwrap();
    let completers = (0..6).map(|_| {
        let store = ledger.store.clone();
        async move { store.complete_propagated(at(22)).await.unwrap() }
    });
    assert_eq!(race(completers).await.concat(), [id]);
    let leaves = "SELECT COUNT(*) FROM audit_events WHERE kind = 'deletion.completed'";
    assert_eq!(ledger.integer(leaves).await, 1);
}

async fn superseded_weights_go_when_no_replica_serves_them(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let store = &ledger.store;
    let replica = new_id();
    report(ledger, replica, &model, 1, 10).await;
    assert!(store.superseded(at(11), None, 9).await.unwrap().is_empty(), "it is the current one");
    ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    ledger.unlearn(at(21)).await;
    assert!(store.superseded(at(22), None, 9).await.unwrap().is_empty(), "it is served still");
    report(ledger, replica, &model, 2, 23).await;
    let version = store.version(model.id, 1).await.unwrap().unwrap();
    let (weights, blob) = (version.weights, version.blob_name());
    let superseded = Superseded { model_id: model.id, epoch: 1, blob };
    assert_eq!(store.superseded(at(24), None, 9).await.unwrap(), [superseded]);
    assert!(store.is_referenced(blob).await.unwrap());
    let digest = Digest::of(b"else");
    for other in [BlobName { digest, ..blob }, BlobName { job_id: new_id(), ..blob }] {
        assert!(!store.is_referenced(other).await.unwrap());
    }
    for _ in 0..2 {
        store.mark_weights_removed(model.id, 1, at(25)).await.unwrap();
    }
    let version = store.version(model.id, 1).await.unwrap().unwrap();
    assert_eq!((version.weights_removed_at, version.weights), (Some(at(25)), weights));
    assert_eq!(version.encoding, None, "words of its samples");
    let leaves = "SELECT COUNT(*) FROM audit_events WHERE kind = 'version.weights_removed'";
    assert_eq!(ledger.integer(leaves).await, 1);
    assert!(!store.is_referenced(blob).await.unwrap());
    assert!(store.superseded(at(26), None, 9).await.unwrap().is_empty());
    let current = store.mark_weights_removed(model.id, 2, at(27)).await;
    assert!(matches!(current, Err(StoreError::Damaged { .. })));
}

const SOON: Duration = Duration::from_secs(10);

/// Waits until the signals of what was committed before have all come in, those through the server
/// too. Silence is all there is to wait for.
async fn fall_silent(wakeups: &mut Wakeups) {
    while tokio::time::timeout(Duration::from_millis(500), wakeups.next()).await.is_ok() {}
}

async fn superseded_weights_are_read_page_by_page(ledger: &Ledger) {
    let mut models = Vec::new();
    for name in ["a", "b"] {
        let model = ledger.trained_model(name, 4).await;
        for _ in 0..2 {
            ledger.train(&model, at(11)).await.unwrap();
        }
        models.push(model.id);
    }
    let (mut after, mut read) = (None, Vec::new());
    while let [page] = ledger.store.superseded(at(12), after, 1).await.unwrap()[..] {
        after = Some((page.model_id, page.epoch));
        read.extend(after);
    }
    assert_eq!(read, [(models[0], 1), (models[0], 2), (models[1], 1), (models[1], 2)]);
}

async fn committed_work_wakes_others(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    // PostgreSQL carries the signal between processes; here a second store stands for one.
    let other = forgetd::store::Store::open(&ledger.url, keyring(MASTER)).await.unwrap();
    let listener = match ledger.raw {
        super::Raw::Sqlite(_) => &ledger.store,
        super::Raw::Postgres(_) => &other,
    };
    let mut wakeups = listener.wakeups();
    fall_silent(&mut wakeups).await;
    ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    tokio::time::timeout(SOON, wakeups.next()).await.unwrap();
    other.close().await;
}

async fn a_report_without_news_wakes_nobody(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let replica = new_id();
    let mut wakeups = ledger.store.wakeups();
    report(ledger, replica, &model, 1, 10).await;
    tokio::time::timeout(SOON, wakeups.next()).await.unwrap();
    fall_silent(&mut wakeups).await;
    report(ledger, replica, &model, 1, 11).await;
    let silence = tokio::time::timeout(Duration::from_millis(300), wakeups.next()).await;
    assert!(silence.is_err(), "replicas that report when woken would never sleep");
}

/// A request for one sample of a subject, whose attempt has failed once and waits for another, and a
/// later one for the whole subject, published; no replica holds anything up.
async fn a_sample_lags_behind_its_subject(ledger: &Ledger) -> (Uuid, Uuid) {
    let model = ledger.trained_model("m", 8).await;
    let of_one_sample = ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    let claimed = ledger.claim(at(21)).await.unwrap();
    ledger.store.fail_attempt(&claimed.lease, at(22), "broke", Some(at(60))).await.unwrap();
    let of_the_subject = ledger.delete(&model, vec![subject_target(0)], at(30)).await;
    assert_eq!(ledger.unlearn(at(31)).await, Some(2));
    (of_one_sample, of_the_subject)
}

async fn a_subject_is_forgotten_only_with_its_last_sample(ledger: &Ledger) {
    let (of_one_sample, of_the_subject) = a_sample_lags_behind_its_subject(ledger).await;
    let complete = async |now| ledger.store.complete_propagated(now).await.unwrap();
    assert!(complete(at(32)).await.is_empty(), "a sample of the subject is still in use");
    assert_eq!(ledger.unlearn(at(61)).await, Some(3));
    let mut completed = complete(at(62)).await;
    completed.extend(complete(at(63)).await);
    completed.sort_unstable();
    assert_eq!(completed, [of_one_sample, of_the_subject]);
    assert_eq!(ledger.integer("SELECT COUNT(*) FROM jobs WHERE state = 'published'").await, 0);
}

async fn a_subject_of_which_a_sample_is_left_is_not_called_forgotten(ledger: &Ledger) {
    let (of_one_sample, of_the_subject) = a_sample_lags_behind_its_subject(ledger).await;
    let claimed = ledger.claim(at(61)).await.unwrap();
    ledger.store.fail_attempt(&claimed.lease, at(62), "broke for good", None).await.unwrap();
    assert!(ledger.store.complete_propagated(at(63)).await.unwrap().is_empty());
    for (id, word) in [(of_one_sample, "broke"), (of_the_subject, "still there")] {
        let request = ledger.store.deletion(id).await.unwrap().unwrap().request;
        assert_eq!(request.state, DeletionState::Failed);
        assert!(request.reason.as_ref().unwrap().contains(word), "{request:?}");
    }
    // Whoever asks again gets the rest.
    let model_id = claimed.model.id;
    let again = ledger.delete(&claimed.model, vec![subject_target(0)], at(64)).await;
    assert_eq!(ledger.unlearn(at(65)).await, Some(3));
    assert_eq!(ledger.store.complete_propagated(at(66)).await.unwrap(), [again]);
    assert_eq!(ledger.store.sample_counts(model_id).await.unwrap().train, 6);
}

/// What one names as a whole, the other holds a sample of, and the other way round.
async fn requests_that_hold_samples_of_each_others_subjects_are_completed(ledger: &Ledger) {
    let (store, model) = (&ledger.store, ledger.trained_model("m", 8).await);
    // Of two samples, the first is another request's, which fails once the second is published.
    let lost = ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    let claimed = ledger.claim(at(21)).await.unwrap();
    store.fail_attempt(&claimed.lease, at(22), "broke", Some(at(60))).await.unwrap();
    let first = ledger.delete(&model, vec![subject_target(0)], at(30)).await;
    ledger.unlearn(at(31)).await;
    let claimed = ledger.claim(at(61)).await.unwrap();
    store.fail_attempt(&claimed.lease, at(62), "broke for good", None).await.unwrap();
    let second = ledger.delete(&model, vec![subject_target(0)], at(63)).await;
    assert!(store.complete_propagated(at(64)).await.unwrap().is_empty(), "a sample is left");
    ledger.unlearn(at(65)).await;
    let mut completed = store.complete_propagated(at(66)).await.unwrap();
    completed.sort_unstable();
    assert_eq!(completed, [first, second]);
    assert_eq!(state_of(ledger, lost).await, DeletionState::Failed);
}

async fn a_subject_waits_for_the_replicas_of_its_last_sample(ledger: &Ledger) {
    let (of_one_sample, of_the_subject) = a_sample_lags_behind_its_subject(ledger).await;
    let model = ledger.store.deletion(of_the_subject).await.unwrap().unwrap().request.model_id;
    let replica = new_id();
    let report = async |epoch, now_s| {
        let served = [Served { model_id: model, epoch }];
        ledger.store.report_served(replica, at(now_s), LEASE, &served).await.unwrap();
    };
    report(2, 40).await;
    assert_eq!(ledger.unlearn(at(61)).await, Some(3));
    report(2, 62).await;
    let complete = async |now| ledger.store.complete_propagated(now).await.unwrap();
    assert!(complete(at(63)).await.is_empty(), "what answers has learnt the last sample");
    report(3, 64).await;
    let mut completed = complete(at(65)).await;
    completed.sort_unstable();
    assert_eq!(completed, [of_one_sample, of_the_subject]);
}

/// Who read that requests wait for a settlement may be told so late that one has ended meanwhile.
async fn a_settlement_that_covers_everything_is_not_called_for_again(ledger: &Ledger) {
    let (store, model) = (&ledger.store, ledger.trained_model("m", 8).await);
    let call = async |now| store.enqueue_settlement_due(new_id(), model.id, at(now)).await.unwrap();
    assert_eq!(call(19).await, None, "nothing was deleted");
    ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    ledger.unlearn(at(21)).await;
    assert_eq!(call(22).await, None, "nothing is completed");
    store.complete_propagated(at(23)).await.unwrap();
    let Some(Enqueued::Queued(job)) = call(24).await else { panic!("not queued") };
    assert_eq!(job.kind, JobKind::Settlement);
    assert_eq!(call(25).await, Some(Enqueued::Already(job)));
    let settlement = ledger.claim(at(26)).await.unwrap();
    assert!(matches!(call(27).await, Some(Enqueued::Already(_))), "it runs");
    ledger.publish_exact(&settlement, at(28)).await;
    assert_eq!(call(29).await, None);
    // By hand it is called for all the same.
    let by_hand =
        store.enqueue_job(new_id(), model.id, JobKind::Settlement, at(30), None).await.unwrap();
    assert!(matches!(by_hand, Enqueued::Queued(_)));
}

/// A later attempt at it may store the very same blob, and publish it.
async fn weights_of_a_job_that_may_publish_them_are_no_orphan(ledger: &Ledger) {
    let (model, store) = (ledger.model("m").await, &ledger.store);
    let blob = BlobName { digest: Digest::of(b"weights"), job_id: new_id() };
    let is_referenced = async || store.is_referenced(blob).await.unwrap();
    assert!(!is_referenced().await);
    store.enqueue_job(blob.job_id, model.id, JobKind::Training, at(1), None).await.unwrap();
    assert!(is_referenced().await);
    let first = ledger.claim(at(2)).await.unwrap();
    assert!(is_referenced().await);
    store.fail_attempt(&first.lease, at(3), "broke", Some(at(4))).await.unwrap();
    assert!(is_referenced().await);
    let second = ledger.claim(at(5)).await.unwrap();
    store.fail_attempt(&second.lease, at(6), "broke", None).await.unwrap();
    assert!(!is_referenced().await);
}
