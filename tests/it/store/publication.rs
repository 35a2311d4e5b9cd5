//! Publishing: versions, contributions, settlement.

use std::time::Duration;

use forgetd::{
    domain::{
        deletion::{DeletionState, Guarantee},
        job::{JobKind, JobState},
        sample::Split,
        version::Cause,
    },
    store::{LineageSample, Publication, StoreError, Unsettled},
};

use super::{
    Ledger, at, new_id, on_both, publication, sample_target, samples, staging, subject_target,
};

on_both!(
    a_training_opens_contributions,
    a_batch_closes_contributions_and_erases,
    a_split_lists_its_live_ordinals,
    publishing_happens_once,
    samples_in_no_version_are_only_erased,
    a_settlement_raises_guarantees,
    a_training_while_a_request_waits_leaves_its_samples_out,
    wrong_predictions_publish_nothing,
    deleted_samples_leave_every_set_of_predictions,
    sets_of_predictions_that_no_version_has_are_removed,
);

async fn lineage_of(ledger: &Ledger, model_id: uuid::Uuid, number: u64) -> LineageSample {
    let lineage = ledger.store.lineage(model_id, &[sample_target(number)]).await.unwrap();
    assert_eq!(lineage.len(), 1);
    lineage[0].samples.last().unwrap().clone()
}

fn epochs(sample: &LineageSample) -> (Option<u64>, Option<u64>) {
    (sample.from_epoch, sample.until_epoch)
}

async fn a_training_opens_contributions(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let version = ledger.store.current_version(model.id).await.unwrap().unwrap();
    assert_eq!((version.epoch, version.cause, version.parent_epoch), (1, Cause::Trained, None));
    assert_eq!(ledger.store.version(model.id, 1).await.unwrap(), Some(version.clone()));
    let job = ledger.store.job(version.job_id).await.unwrap().unwrap();
    assert_eq!((job.state, job.epoch), (JobState::Completed, Some(1)));
    let contributors = ledger.store.contributors(model.id, 1, None, 100).await.unwrap();
    assert_eq!(contributors.len(), 8, "held-out samples do not contribute");
    ledger.ingest(&model, &samples(50..52, 100)).await;
    assert_eq!(ledger.train(&model, at(12)).await, Some(2));
    assert_eq!(epochs(&lineage_of(ledger, model.id, 0).await), (Some(1), None));
    assert_eq!(epochs(&lineage_of(ledger, model.id, 50).await), (Some(2), None));
    assert_eq!(epochs(&lineage_of(ledger, model.id, 9).await), (None, None));
    let at_1 = ledger.store.contributors(model.id, 1, None, 100).await.unwrap();
    assert_eq!(at_1, contributors);
    let retained =
        ledger.store.samples_at(model.id, Split::Train, &[0, 3, 9, 12, 99]).await.unwrap();
    let retained = retained.samples;
    let ordinals: Vec<_> = retained.iter().map(|(sample, _)| sample.ordinal).collect();
    assert_eq!(ordinals, [0, 3, 12]);
    assert_eq!(retained[1].1, super::prediction(retained[1].0.id));
}

async fn a_batch_closes_contributions_and_erases(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let targets = vec![subject_target(0), sample_target(9)];
    let id = ledger.delete(&model, targets, at(20)).await;
    assert_eq!(ledger.unlearn(at(22)).await, Some(2));
    for number in [0, 1] {
        let sample = lineage_of(ledger, model.id, number).await;
        assert_eq!(epochs(&sample), (Some(1), Some(2)));
        assert_eq!(sample.deleted_at, Some(at(22)));
    }
    for sql in [
        "SELECT COUNT(*) FROM sample_contents WHERE sample_id IN
             (SELECT id FROM samples WHERE deleted_at IS NOT NULL)",
        "SELECT COUNT(*) FROM sample_predictions WHERE sample_id IN
             (SELECT id FROM samples WHERE deleted_at IS NOT NULL)",
    ] {
        assert_eq!(ledger.integer(sql).await, 0);
    }
    assert_eq!(ledger.integer("SELECT COUNT(*) FROM sample_contents").await, 9);
    assert_eq!(ledger.integer("SELECT COUNT(*) FROM sample_predictions").await, 9);
    assert_eq!(ledger.store.contributors(model.id, 2, None, 100).await.unwrap().len(), 6);
    assert_eq!(ledger.store.contributors(model.id, 1, None, 100).await.unwrap().len(), 8);
    let details = ledger.store.deletion(id).await.unwrap().unwrap();
    assert_eq!(details.request.state, DeletionState::Unlearning, "not on every replica yet");
    assert_eq!(details.request.excluded_from_epoch, Some(2));
    assert_eq!(details.evidence, Some(serde_json::json!({"verdict": "inconclusive"})));
}

async fn a_split_lists_its_live_ordinals(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let ordinals = async |split, below, limit| {
        ledger.store.ordinals(model.id, split, below, limit).await.unwrap()
    };
    assert_eq!(ordinals(Split::Holdout, 99, 99).await, [8, 9, 10, 11]);
    assert_eq!(ordinals(Split::Holdout, 99, 3).await, [8, 9, 10]);
    assert_eq!(ordinals(Split::Holdout, 10, 99).await, [8, 9]);
    ledger.delete(&model, vec![sample_target(3)], at(20)).await;
    assert_eq!(ordinals(Split::Train, 5, 99).await, [0, 1, 2, 3, 4], "named, but there");
    ledger.unlearn(at(21)).await;
    assert_eq!(ordinals(Split::Train, 5, 99).await, [0, 1, 2, 4]);
}

async fn publishing_happens_once(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    let claimed = ledger.claim(at(21)).await.unwrap();
    let publication = publication(&claimed, at(22), Cause::Unlearned, Some(1));
    assert_eq!(ledger.store.publish(&publication).await.unwrap(), Some(2));
    let second = ledger.store.publish(&publication).await;
    assert!(matches!(second, Err(StoreError::Fenced { .. })));
    assert_eq!(ledger.store.current_epochs().await.unwrap(), [(model.id, 2)]);
}

async fn samples_in_no_version_are_only_erased(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    ledger.ingest(&model, &samples(50..52, 100)).await;
    let id = ledger.delete(&model, vec![sample_target(9), sample_target(50)], at(20)).await;
    let claimed = ledger.claim(at(21)).await.unwrap();
    assert!(ledger.store.batch_samples(claimed.job.id).await.unwrap().is_empty());
    let publication =
        Publication { version: None, ..publication(&claimed, at(22), Cause::Unlearned, Some(1)) };
    assert_eq!(ledger.store.publish(&publication).await.unwrap(), Some(1));
    assert_eq!(ledger.store.complete_propagated(at(23)).await.unwrap(), [id]);
    let request = ledger.store.deletion(id).await.unwrap().unwrap().request;
    assert_eq!(request.guarantee, Some(Guarantee::Exact));
    assert_eq!((request.settled_at, request.excluded_from_epoch), (Some(at(23)), None));
    let contents = "SELECT COUNT(*) FROM sample_contents";
    assert_eq!(ledger.integer(contents).await, 12);
    // But not when a sample contributes: that needs a version.
    ledger.delete(&model, vec![sample_target(0)], at(30)).await;
    let claimed = ledger.claim(at(31)).await.unwrap();
    let bare = Publication { lease: claimed.lease, ..publication };
    assert!(matches!(ledger.store.publish(&bare).await, Err(StoreError::Damaged { .. })));
    assert_eq!(ledger.integer(contents).await, 12);
}

async fn a_settlement_raises_guarantees(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let store = &ledger.store;
    let completed = ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    ledger.unlearn(at(21)).await;
    store.complete_propagated(at(22)).await.unwrap();
    let request = store.deletion(completed).await.unwrap().unwrap().request;
    assert_eq!((request.guarantee, request.settled_at), (Some(Guarantee::Approximate), None));
    let day = Duration::from_hours(24);
    // The caller's deadline, an hour after the request, is too soon to press for a settlement.
    let unsettled = Unsettled { requests: 1, oldest: at(22), deadline: at(20).plus(day) };
    assert_eq!(store.unsettled(model.id, day).await.unwrap(), Some(unsettled));
    // Published, but completed only after the settlement.
    let published = ledger.delete(&model, vec![sample_target(1)], at(23)).await;
    ledger.unlearn(at(24)).await;
    store.enqueue_job(new_id(), model.id, JobKind::Settlement, at(25), None).await.unwrap();
    let settlement = ledger.claim(at(26)).await.unwrap();
    assert_eq!(ledger.publish_exact(&settlement, at(27)).await, Some(4));
    let request = store.deletion(completed).await.unwrap().unwrap().request;
    assert_eq!((request.guarantee, request.settled_at), (Some(Guarantee::Exact), Some(at(27))));
    assert_eq!(store.unsettled(model.id, day).await.unwrap(), None);
    assert_eq!(store.complete_propagated(at(28)).await.unwrap(), [published]);
    let request = store.deletion(published).await.unwrap().unwrap().request;
    assert_eq!((request.guarantee, request.settled_at), (Some(Guarantee::Exact), Some(at(28))));
    let sample = lineage_of(ledger, model.id, 5).await;
    assert_eq!(epochs(&sample), (Some(1), None), "retained samples go on contributing");
}

async fn a_training_while_a_request_waits_leaves_its_samples_out(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let store = &ledger.store;
    store.enqueue_job(new_id(), model.id, JobKind::Training, at(19), None).await.unwrap();
    let training = ledger.claim(at(20)).await.unwrap();
    let id = ledger.delete(&model, vec![sample_target(0)], at(21)).await;
    assert_eq!(ledger.publish_exact(&training, at(22)).await, Some(2));
    assert_eq!(epochs(&lineage_of(ledger, model.id, 0).await), (Some(1), Some(2)));
    let batch = ledger.claim(at(23)).await.unwrap();
    assert!(store.batch_samples(batch.job.id).await.unwrap().is_empty());
    let erasure =
        Publication { version: None, ..publication(&batch, at(24), Cause::Unlearned, Some(2)) };
    store.publish(&erasure).await.unwrap();
    store.complete_propagated(at(25)).await.unwrap();
    let request = store.deletion(id).await.unwrap().unwrap().request;
    assert_eq!(request.excluded_from_epoch, Some(2));
    assert_eq!(request.guarantee, Some(Guarantee::Exact));
}

async fn wrong_predictions_publish_nothing(ledger: &Ledger) {
    let model = ledger.trained_model("m", 4).await;
    let other = ledger.trained_model("other", 4).await;
    let store = &ledger.store;
    store.enqueue_job(new_id(), model.id, JobKind::Training, at(19), None).await.unwrap();
    let training = ledger.claim(at(20)).await.unwrap();
    let held_out = async |model_id| {
        let samples = store.samples(model_id, Split::Holdout, -1, 9).await.unwrap();
        samples.iter().map(|it| super::prediction(it.id)).collect::<Vec<_>>()
    };
    let foreign = held_out(other.id).await;
    store.stage_predictions(&training.lease, &foreign).await.unwrap_err();
    let own = held_out(model.id).await;
    store.stage_predictions(&training.lease, &own).await.unwrap();
    // Fewer than were meant to be.
    let publication = Publication {
        predictions: Some(8),
        ..publication(&training, at(21), Cause::Trained, Some(1))
    };
    store.publish(&publication).await.unwrap_err();
    assert_eq!(ledger.integer("SELECT COUNT(*) FROM sample_predictions").await, 8 + 8 + 4);
    assert_eq!(ledger.integer("SELECT COUNT(*) FROM versions").await, 2);
}

/// A sample is in none, whether its version has it, one that was or one that was to be.
async fn deleted_samples_leave_every_set_of_predictions(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let store = &ledger.store;
    let staged = "SELECT COUNT(*) FROM sample_predictions";
    assert_eq!(ledger.train(&model, at(19)).await, Some(2));
    let lost = staging(store, &model, at(20)).await;
    assert_eq!(ledger.integer(staged).await, 12 + 12 + 3);
    store.release(&lost.lease, at(21), false).await.unwrap();
    let fenced = store.stage_predictions(&lost.lease, &[]).await;
    assert!(matches!(fenced, Err(StoreError::Fenced { .. })));

    ledger.delete(&model, vec![sample_target(0)], at(22)).await;
    assert_eq!(ledger.unlearn(at(23)).await, Some(3));
    assert_eq!(ledger.integer(staged).await, 11 + 11 + 2);
}

async fn sets_of_predictions_that_no_version_has_are_removed(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let store = &ledger.store;
    let (staged, sets) =
        ("SELECT COUNT(*) FROM sample_predictions", "SELECT COUNT(*) FROM prediction_sets");
    assert!(!store.remove_stale_predictions(9).await.unwrap());
    assert_eq!(ledger.integer(staged).await, 12, "they are in use");

    assert_eq!(ledger.train(&model, at(19)).await, Some(2));
    assert_eq!(ledger.integer(staged).await, 24);
    assert!(store.remove_stale_predictions(9).await.unwrap());
    assert_eq!(ledger.integer(staged).await, 15);
    assert!(store.remove_stale_predictions(9).await.unwrap());
    assert_eq!((ledger.integer(staged).await, ledger.integer(sets).await), (12, 1));

    let training = staging(store, &model, at(20)).await;
    assert!(!store.remove_stale_predictions(9).await.unwrap(), "a training writes them");
    store.release(&training.lease, at(21), false).await.unwrap();
    assert!(store.remove_stale_predictions(9).await.unwrap(), "and gave up");
    assert_eq!((ledger.integer(staged).await, ledger.integer(sets).await), (12, 1));
    let found = store.samples_at(model.id, Split::Train, &[0, 7]).await.unwrap();
    assert_eq!(found.samples.len(), 2);
}
