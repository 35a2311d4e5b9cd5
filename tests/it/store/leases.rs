//! What a worker writes under a lease, and what it may no longer write without.

use std::time::Duration;

use forgetd::{
    domain::{
        deletion::DeletionState,
        job::{JobKind, JobState, Lease},
        version::Cause,
        watch::Progress,
    },
    store::{CancelJob, StoreError},
};

use super::{LEASE, Ledger, at, new_id, on_both, publication, sample_target};

on_both!(
    stale_leases_change_nothing,
    a_released_batch_is_as_it_was,
    a_batch_that_is_put_off_goes_together_later,
    a_failed_request_goes_alone_and_its_attempts_count_on,
    a_request_fails_for_good,
    trainings_are_retried_cancelled_and_failed,
    progress_is_seen,
);

fn is_fenced<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Fenced { .. }))
}

async fn stale_leases_change_nothing(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let id = ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    let claimed = ledger.claim(at(21)).await.unwrap();
    let lease = claimed.lease;
    let store = &ledger.store;
    for stale in [
        Lease { token: new_id(), ..lease },
        Lease { attempt: 2, ..lease },
        Lease { job_id: new_id(), ..lease },
    ] {
        assert!(is_fenced(&store.renew_lease(&stale, at(22), LEASE, None).await));
        assert!(is_fenced(&store.release(&stale, at(22), false).await));
        assert!(is_fenced(&store.fail_attempt(&stale, at(22), "late", None).await));
        assert!(is_fenced(&store.put_off(&stale, at(22), "late", at(23)).await));
        assert!(is_fenced(&store.stage_predictions(&stale, &[]).await));
        assert!(is_fenced(&store.acknowledge_cancel(&stale, at(22)).await));
        let mut late = publication(&claimed, at(22), Cause::Unlearned, Some(1));
        late.lease = stale;
        assert!(is_fenced(&store.publish(&late).await));
    }
    let request = store.deletion(id).await.unwrap().unwrap().request;
    assert_eq!(request.state, DeletionState::Unlearning);
    assert_eq!(store.current_epochs().await.unwrap(), [(model.id, 1)]);
    assert_eq!(ledger.integer("SELECT COUNT(*) FROM samples WHERE deleted_at IS NULL").await, 12);
    let overtaken = publication(&claimed, at(23), Cause::Unlearned, None);
    assert!(is_fenced(&store.publish(&overtaken).await), "made from another version");
    store.publish(&publication(&claimed, at(24), Cause::Unlearned, Some(1))).await.unwrap();
}

async fn a_released_batch_is_as_it_was(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let ids = [
        ledger.delete(&model, vec![sample_target(0)], at(20)).await,
        ledger.delete(&model, vec![sample_target(1)], at(20)).await,
    ];
    let first = ledger.claim(at(21)).await.unwrap();
    ledger.store.release(&first.lease, at(22), false).await.unwrap();
    let request = ledger.store.deletion(ids[0]).await.unwrap().unwrap().request;
    assert_eq!((request.state, request.batch_id), (DeletionState::Queued, None));
    assert!(is_fenced(&ledger.store.release(&first.lease, at(22), false).await), "twice");
    let second = ledger.claim(at(23)).await.unwrap();
    assert_eq!((second.requests.as_slice(), second.lease.attempt), (ids.as_slice(), 1));
    assert_ne!(second.job.id, first.job.id);
}

async fn a_batch_that_is_put_off_goes_together_later(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let store = &ledger.store;
    let mut ids = Vec::new();
    for sample in [0, 1] {
        ids.push(ledger.delete(&model, vec![sample_target(sample)], at(20)).await);
    }
    let batch = ledger.claim(at(21)).await.unwrap();
    // The callers' deadlines, an hour after the requests, are too soon to press.
    let day = Duration::from_hours(24);
    let deadline = store.batch_deadline(batch.job.id, day).await.unwrap();
    assert_eq!(deadline, Some(at(20).plus(day)));
    store.put_off(&batch.lease, at(22), "not now", at(50)).await.unwrap();
    let job = store.job(batch.job.id).await.unwrap().unwrap();
    assert_eq!((job.state, job.reason.as_deref()), (JobState::Cancelled, Some("not now")));
    let request = store.deletion(ids[1]).await.unwrap().unwrap().request;
    assert_eq!((request.state, request.attempts), (DeletionState::Queued, 0));
    assert_eq!(request.reason.as_deref(), Some("not now"));
    assert!(ledger.claim(at(49)).await.is_none());
    let batch = ledger.claim(at(50)).await.unwrap();
    assert_eq!((batch.requests.clone(), batch.lease.attempt), (ids.clone(), 1));

    // A version that is trained without them leaves nothing to wait for.
    store.put_off(&batch.lease, at(51), "not now", at(100)).await.unwrap();
    ledger.train(&model, at(52)).await;
    let batch = ledger.claim(at(53)).await.unwrap();
    assert_eq!(batch.requests, ids);
    assert!(store.batch_samples(batch.job.id).await.unwrap().is_empty());

    // Nor for those that have failed before.
    store.fail_attempt(&batch.lease, at(54), "broke", Some(at(100))).await.unwrap();
    assert!(ledger.claim(at(55)).await.is_none());
    ledger.train(&model, at(56)).await;
    assert_eq!(ledger.claim(at(57)).await.unwrap().requests, ids[..1], "each alone");
}

async fn a_failed_request_goes_alone_and_its_attempts_count_on(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let poison = ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    let other = ledger.delete(&model, vec![sample_target(1)], at(21)).await;
    let batch = ledger.claim(at(22)).await.unwrap();
    assert_eq!(batch.requests, [poison, other]);
    ledger.store.fail_attempt(&batch.lease, at(23), "broke", Some(at(60))).await.unwrap();
    assert!(ledger.claim(at(59)).await.is_none(), "it waits");
    let request = ledger.store.deletion(poison).await.unwrap().unwrap().request;
    assert_eq!((request.state, request.attempts), (DeletionState::Queued, 1));
    assert_eq!(request.reason.as_deref(), Some("broke"));
    let fresh = ledger.delete(&model, vec![sample_target(2)], at(24)).await;
    let alone = ledger.claim(at(60)).await.unwrap();
    assert_eq!((alone.requests.as_slice(), alone.lease.attempt), ([poison].as_slice(), 2));
    ledger.store.fail_attempt(&alone.lease, at(61), "broke again", Some(at(99))).await.unwrap();
    let next = ledger.claim(at(62)).await.unwrap();
    assert_eq!((next.requests.as_slice(), next.lease.attempt), ([other].as_slice(), 2));
    ledger.store.publish(&publication(&next, at(63), Cause::Unlearned, Some(1))).await.unwrap();
    assert_eq!(ledger.claim(at(64)).await.unwrap().requests, [fresh]);
}

async fn a_request_fails_for_good(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let id = ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    let batch = ledger.claim(at(22)).await.unwrap();
    ledger.store.fail_attempt(&batch.lease, at(23), "no way", None).await.unwrap();
    let request = ledger.store.deletion(id).await.unwrap().unwrap().request;
    assert_eq!((request.state, request.reason.as_deref()), (DeletionState::Failed, Some("no way")));
    let job = ledger.store.job(batch.job.id).await.unwrap().unwrap();
    assert_eq!((job.state, job.finished_at), (JobState::Failed, Some(at(23))));
    assert_eq!(ledger.store.sample_counts(model.id).await.unwrap().train, 8);
    let again = ledger.delete(&model, vec![sample_target(0)], at(24)).await;
    assert_eq!(ledger.claim(at(25)).await.unwrap().requests, [again]);
}

async fn trainings_are_retried_cancelled_and_failed(ledger: &Ledger) {
    let model = ledger.model("m").await;
    let store = &ledger.store;
    let id = new_id();
    store.enqueue_job(id, model.id, JobKind::Training, at(1), None).await.unwrap();
    let first = ledger.claim(at(2)).await.unwrap();
    store.fail_attempt(&first.lease, at(3), "disk", Some(at(9))).await.unwrap();
    assert!(ledger.claim(at(8)).await.is_none());
    let second = ledger.claim(at(9)).await.unwrap();
    assert_eq!((second.job.id, second.lease.attempt), (id, 2));
    assert_eq!(store.cancel_job(id, at(10), None).await.unwrap(), CancelJob::Requested);
    let renewal = store.renew_lease(&second.lease, at(11), LEASE, None).await.unwrap();
    assert!(renewal.cancel_requested);
    store.acknowledge_cancel(&second.lease, at(12)).await.unwrap();
    let cancelled = CancelJob::Refused(JobState::Cancelled);
    assert_eq!(store.cancel_job(id, at(13), None).await.unwrap(), cancelled);
    assert_eq!(store.cancel_job(new_id(), at(13), None).await.unwrap(), CancelJob::Unknown);
    let id = new_id();
    store.enqueue_job(id, model.id, JobKind::Training, at(14), None).await.unwrap();
    assert_eq!(store.cancel_job(id, at(15), None).await.unwrap(), CancelJob::Cancelled);
    let id = new_id();
    store.enqueue_job(id, model.id, JobKind::Training, at(16), None).await.unwrap();
    let lost = ledger.claim(at(17)).await.unwrap();
    store.cancel_job(id, at(18), None).await.unwrap();
    assert!(ledger.claim(at(100)).await.is_none(), "its worker was lost while it was cancelled");
    assert_eq!(store.job(id).await.unwrap().unwrap().state, JobState::Cancelled);
    assert!(is_fenced(&store.acknowledge_cancel(&lost.lease, at(101)).await));
}

async fn progress_is_seen(ledger: &Ledger) {
    let model = ledger.model("m").await;
    ledger.store.enqueue_job(new_id(), model.id, JobKind::Training, at(1), None).await.unwrap();
    let claimed = ledger.claim(at(2)).await.unwrap();
    let progress = Progress { stage: "training".into(), done: 3, total: 15 };
    ledger.store.renew_lease(&claimed.lease, at(3), LEASE, Some(&progress)).await.unwrap();
    ledger.store.renew_lease(&claimed.lease, at(4), LEASE, None).await.unwrap();
    let job = ledger.store.job(claimed.job.id).await.unwrap().unwrap();
    assert_eq!(job.progress, Some(progress));
}
