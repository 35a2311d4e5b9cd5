//! Applies each verb to the store and to the model, and compares.

use std::{collections::BTreeMap, time::Duration};

use forgetd::{
    domain::{
        deletion::{DeletionState, Target as KeyedTarget, TargetKind},
        identity::{Digest, Pseudonym},
        job::{JobKind, JobState, Lease as StoreLease},
        model::{Model, SettlementPolicy},
        sample::{NewSample, Split},
        timestamp::Timestamp,
        version::Cause,
    },
    store::{
        Acceptance, AuditFilter, CancelJob, Cancellation, Claim, Claimed, Decision, Enqueued,
        Idempotency, IngestError, Publication, Served, StoreError,
    },
};
use proptest::sample::Index;
use uuid::Uuid;

use super::{
    NUMBERS, REPLICAS, Verb, WORKERS,
    reference::{
        ATTEMPTS_MAX, Accepted, BATCH_MAX, Fenced, HELD_OUT_FROM, Lease, PREEMPTIONS_MAX,
        Published, QUEUE_MAX, Reference, SHARE, Target, Time, seconds,
    },
    tables::{NEVER, TABLES},
};
use crate::store::{
    LEASE, Ledger, at, claim, model as new_model, new_deletion, new_id, prediction, publication,
    sample_target, samples, subject_target,
};

/// What a worker remembers of its claim, however long ago.
struct Held {
    claimed: Claimed,
    lease: Lease,
    parent: Option<u64>,
    loaded: Vec<Uuid>,
}

pub struct Machine {
    ledger: Ledger,
    reference: Reference,
    models: Vec<Model>,
    workers: [Option<Held>; WORKERS],
    replicas: [Uuid; REPLICAS],
    /// What each replica answers from.
    served: [BTreeMap<usize, u64>; REPLICAS],
    now: Time,
    /// Leaves of the audit log that were looked at.
    leaves: u64,
}

impl Machine {
    /// A model that was trained, and one that was not.
    pub async fn start(ledger: Ledger) -> Self {
        let mut reference = Reference::default();
        let mut models = Vec::new();
        for name in ["trained", "untrained"] {
            let mut model = new_model(name);
            model.policy.batch_requests_max = u32::try_from(BATCH_MAX).unwrap();
            model.policy.settlement = SettlementPolicy {
                preemptions_max: PREEMPTIONS_MAX,
                ..SettlementPolicy::default()
            };
            ledger.store.create_model(&model, None).await.unwrap();
            reference.add_model(model.id);
            models.push(model);
        }
        let leaves = ledger.store.audit_events(&AuditFilter::default(), 0, 100).await.unwrap();
        let mut machine = Self {
            reference,
            models,
            workers: [const { None }; WORKERS],
            replicas: std::array::from_fn(|_| new_id()),
            served: Default::default(),
            now: 0,
            leaves: leaves.len() as u64,
            ledger,
        };
        for verb in [
            Verb::Ingest { model: 0, first: 0, count: NUMBERS },
            Verb::Enqueue { model: 0, kind: JobKind::Training },
            Verb::Claim { worker: 0 },
            Verb::Publish { worker: 0, retrained: true },
            Verb::Report { replica: 0, catches_up: true },
            Verb::Ingest { model: 1, first: 2, count: 6 },
        ] {
            machine.apply(verb).await;
            machine.check().await;
        }
        machine
    }

    pub async fn apply(&mut self, verb: Verb) {
        self.reference.leaves.clear();
        self.now += 1;
        let now = when(self.now);
        match verb {
            Verb::Wait(time) => self.now += seconds(time),
            Verb::Ingest { model, first, count } => self.ingest(model, first..first + count).await,
            Verb::Delete { model, targets, asks_for_approval, key } => {
                self.delete(model, targets, asks_for_approval, key).await;
            }
            Verb::Cancel(request) => {
                let Some(request) = self.request(request) else { return };
                let id = self.reference.requests[request].id;
                let done = self.ledger.store.cancel_deletion(id, now, None).await.unwrap();
                assert_eq!(done == Cancellation::Cancelled, self.reference.cancel(request));
            }
            Verb::Decide { request, approves } => {
                let Some(request) = self.request(request) else { return };
                let (store, id) = (&self.ledger.store, self.reference.requests[request].id);
                let (done, expected) = if approves {
                    let done = store.approve_deletion(id, None, now).await.unwrap();
                    (done, self.reference.approve(request))
                } else {
                    let done = store.refuse_deletion(id, None, now).await.unwrap();
                    (done, self.reference.refuse(request))
                };
                assert_eq!(done == Decision::Done, expected);
            }
            Verb::Lift { model, target } => {
                let id = self.models[model].id;
                let lifted = self.ledger.store.lift_tombstone(id, keyed(target), None, now).await;
                assert_eq!(lifted.unwrap(), self.reference.lift(model, target));
            }
            Verb::Enqueue { model, kind } => {
                let (id, model_id) = (new_id(), self.models[model].id);
                let queued =
                    self.ledger.store.enqueue_job(id, model_id, kind, now, None).await.unwrap();
                let is_new = matches!(queued, Enqueued::Queued(_));
                assert_eq!(is_new, self.reference.enqueue(id, model, kind, self.now));
            }
            Verb::CancelJob(job) => {
                let jobs = self.reference.jobs.len();
                let job = job.index(jobs);
                let id = self.reference.jobs[job].id;
                let done = self.ledger.store.cancel_job(id, now, None).await.unwrap();
                let done = match done {
                    CancelJob::Cancelled => Some(JobState::Cancelled),
                    CancelJob::Requested => Some(JobState::Running),
                    CancelJob::Refused(_) | CancelJob::Unknown => None,
                };
                assert_eq!(done, self.reference.cancel_job(job));
            }
            Verb::Claim { worker } => self.claim(worker).await,
            Verb::Publish { worker, retrained } => self.publish(worker, retrained).await,
            Verb::Renew { worker } => {
                let Some((lease, of_store)) = self.lease(worker) else { return };
                let renewed = self.ledger.store.renew_lease(&of_store, now, LEASE, None).await;
                let renewed = renewed.map(|it| (it.cancel_requested, it.deletions_waiting));
                agree(renewed, self.reference.renew(lease, self.now));
            }
            Verb::GiveBack { worker, preempted } => {
                let Some((lease, of_store)) = self.lease(worker) else { return };
                let done = self.ledger.store.release(&of_store, now, preempted).await;
                agree(done, self.reference.give_back(lease, preempted));
            }
            Verb::Fail { worker, retries } => {
                let Some((lease, of_store)) = self.lease(worker) else { return };
                let retry_at = retries.then_some(self.now + seconds(10));
                let retry = retry_at.map(when);
                let done = self.ledger.store.fail_attempt(&of_store, now, "broke", retry).await;
                agree(done, self.reference.fail(lease, retry_at));
            }
            Verb::Acknowledge { worker } => {
                let Some((lease, of_store)) = self.lease(worker) else { return };
                match self.ledger.store.acknowledge_cancel(&of_store, now).await {
                    Err(StoreError::Damaged { .. }) => {
                        assert_eq!(self.reference.acknowledge(lease), Ok(None));
                    }
                    done => agree(done.map(Some), self.reference.acknowledge(lease)),
                }
            }
            Verb::Report { replica, catches_up } => self.report(replica, catches_up).await,
            Verb::Retire { replica } => {
                self.ledger.store.retire_replica(self.replicas[replica]).await.unwrap();
                self.reference.retire(replica);
            }
            Verb::Complete => {
                let mut completed = self.ledger.store.complete_propagated(now).await.unwrap();
                let mut expected = self.reference.complete(self.now);
                completed.sort_unstable();
                expected.sort_unstable();
                assert_eq!(completed, expected, "completed");
            }
            Verb::Destroy => self.destroy().await,
        }
    }

    /// A worker that loses nothing serves whatever is left, and no replica answers any more: every
    /// request comes to an end, whatever it waited for.
    pub async fn come_to_an_end(&mut self) {
        for replica in 0..REPLICAS {
            self.apply(Verb::Retire { replica }).await;
        }
        let most = self.reference.jobs.len() + self.reference.requests.len();
        for _ in 0..ATTEMPTS_MAX as usize * most {
            for verb in [
                Verb::Wait(4_000),
                Verb::Claim { worker: 0 },
                Verb::Publish { worker: 0, retrained: false },
                Verb::Complete,
            ] {
                self.apply(verb).await;
                self.check().await;
            }
        }
        let states = self.reference.requests.iter().map(|it| it.state);
        let is_open = |it: &DeletionState| !it.is_final() && *it != DeletionState::Suspended;
        assert_eq!(states.filter(is_open).count(), 0, "requests that wait for ever");
    }

    fn request(&self, request: Index) -> Option<usize> {
        let requests = self.reference.requests.len();
        (requests > 0).then(|| request.index(requests))
    }

    fn lease(&self, worker: usize) -> Option<(Lease, StoreLease)> {
        self.workers[worker].as_ref().map(|held| (held.lease, held.claimed.lease))
    }

    async fn ingest(&mut self, model: usize, numbers: std::ops::Range<u64>) {
        let new: Vec<NewSample> = samples(numbers.clone(), HELD_OUT_FROM);
        let (id, model_id, now) = (new_id(), self.models[model].id, when(self.now));
        let mut ingestion = self.ledger.store.begin_ingestion(id, model_id).await.unwrap();
        let came_in = match ingestion.add(&new).await {
            Ok(()) => ingestion.commit(now, None).await.is_ok(),
            Err(IngestError::Conflict { .. }) => {
                drop(ingestion);
                false
            }
            Err(IngestError::Store(error)) => panic!("{error}"),
        };
        let numbered: Vec<_> = new.iter().map(|it| it.id).zip(numbers).collect();
        assert_eq!(came_in, self.reference.ingest(id, model, &numbered));
    }

    async fn delete(
        &mut self,
        model: usize,
        targets: Vec<Target>,
        asks_for_approval: bool,
        key: Option<u8>,
    ) {
        let keyed: Vec<_> = targets.iter().copied().map(keyed).collect();
        let mut new = new_deletion(&self.models[model], keyed, when(self.now));
        // Some are due before others that came earlier.
        let due = self.now + seconds(if targets.len() == 1 { 10_000 } else { 9_990 });
        new.due_by = when(due);
        new.approval_above_share = asks_for_approval.then_some(SHARE);
        new.idempotency = key.map(|key| Idempotency {
            api_key_id: Uuid::nil(),
            key: Pseudonym::from_bytes([key; 32]),
            body: Digest::of(format!("{targets:?}").as_bytes()),
        });
        let accepted = self.ledger.store.accept_deletion(&new, QUEUE_MAX as u64).await.unwrap();
        let position = |id: Uuid, reference: &Reference| {
            reference.requests.iter().position(|request| request.id == id).unwrap()
        };
        let expected = self.reference.accept(new.id, model, &targets, asks_for_approval, key, due);
        let accepted = match accepted {
            Acceptance::Accepted(details) => {
                let outcomes = details.targets.iter();
                let outcomes =
                    outcomes.map(|it| (usize::try_from(it.samples).unwrap(), it.rejection));
                Accepted::New(position(details.request.id, &self.reference), outcomes.collect())
            }
            Acceptance::Repeated(details) => {
                Accepted::Repeated(position(details.request.id, &self.reference))
            }
            Acceptance::KeyReused => Accepted::KeyReused,
            Acceptance::QueueFull => Accepted::QueueFull,
            Acceptance::QuotaExceeded(excess) => panic!("nobody set a quota: {excess:?}"),
        };
        assert_eq!(accepted, expected);
    }

    async fn claim(&mut self, worker: usize) {
        let by = Claim { attempts_max: ATTEMPTS_MAX, ..claim(when(self.now)) };
        let claimed = self.ledger.store.claim(&by).await.unwrap();
        let expected = self.reference.claim(by.token, by.batch_id, self.now);
        let found = claimed.as_ref().map(|it| (it.job.id, it.lease.attempt));
        let lease = expected.map(|it| (self.reference.jobs[it.job].id, it.attempt));
        assert_eq!(found, lease, "claimed");
        let (Some(claimed), Some(lease)) = (claimed, expected) else { return };
        let of_batch = self.reference.of_batch(lease.job);
        let mut requests: Vec<_> = of_batch.map(|it| self.reference.requests[it].id).collect();
        let mut found = claimed.requests.clone();
        requests.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, requests, "the batch's requests");
        let model = &self.reference.models[self.reference.jobs[lease.job].model];
        let (parent, mut loaded) =
            (model.epoch(), model.usable().map(|sample| sample.id).collect::<Vec<_>>());
        let mut stored = Vec::new();
        for split in [Split::Train, Split::Holdout] {
            let rows = self.ledger.store.samples(model.id, split, -1, 1_000).await.unwrap();
            stored.extend(rows.iter().map(|row| row.id));
        }
        stored.sort_unstable();
        loaded.sort_unstable();
        assert_eq!(stored, loaded, "what may be learnt from");
        self.workers[worker] = Some(Held { claimed, lease, parent, loaded });
    }

    async fn publish(&mut self, worker: usize, retrained: bool) {
        let Some(held) = &self.workers[worker] else { return };
        let (job, model) = (held.lease.job, self.reference.jobs[held.lease.job].model);
        let model = &self.reference.models[model];
        let of_batch: Vec<_> = self.reference.of_batch(job).collect();
        let in_weights = model.samples.iter().any(|sample| {
            sample.is_in_weights() && sample.claimed_by.is_some_and(|it| of_batch.contains(&it))
        });
        let trains = model.samples.iter().any(|it| it.is_train() && held.loaded.contains(&it.id));
        let cause = match held.claimed.job.kind {
            JobKind::Unlearning if !in_weights => None,
            JobKind::Unlearning if !retrained => Some(Cause::Unlearned),
            JobKind::Unlearning | JobKind::Settlement => Some(Cause::Settled),
            JobKind::Training => Some(Cause::Trained),
        };
        let is_exact = cause.is_some_and(Cause::is_exact);
        if is_exact && !trains {
            return;
        }
        let what = Published { cause, parent: held.parent, loaded: &held.loaded };
        let filled = publication(
            &held.claimed,
            when(self.now),
            cause.unwrap_or(Cause::Settled),
            held.parent,
        );
        let publication = Publication {
            version: filled.version.filter(|_| cause.is_some()),
            predictions: is_exact.then_some(held.loaded.len() as u64),
            ..filled
        };
        let store = &self.ledger.store;
        let publishing = async {
            if is_exact {
                // In pieces, as a worker does it.
                for samples in held.loaded.chunks(3) {
                    let predictions: Vec<_> = samples.iter().copied().map(prediction).collect();
                    store.stage_predictions(&held.claimed.lease, &predictions).await?;
                }
            }
            store.publish(&publication).await
        };
        let published = publishing.await;
        agree(published, self.reference.publish(held.lease, &what));
    }

    async fn report(&mut self, replica: usize, catches_up: bool) {
        if catches_up {
            let models = self.reference.models.iter().enumerate();
            self.served[replica] =
                models.filter_map(|(model, it)| Some((model, it.epoch()?))).collect();
        }
        let served = self.served[replica].clone();
        let told: Vec<_> = served
            .iter()
            .map(|(model, epoch)| Served { model_id: self.models[*model].id, epoch: *epoch })
            .collect();
        let (id, now) = (self.replicas[replica], when(self.now));
        self.ledger.store.report_served(id, now, LEASE, &told).await.unwrap();
        self.reference.report(replica, served, self.now);
    }

    async fn destroy(&mut self) {
        let (store, now) = (&self.ledger.store, when(self.now));
        let found = store.superseded(now, None, 1_000).await.unwrap();
        let expected = self.reference.superseded(self.now);
        let named = |(model, epoch): &(usize, u64)| (self.models[*model].id, *epoch);
        let listed: Vec<_> = found.iter().map(|it| (it.model_id, it.epoch)).collect();
        assert_eq!(listed, expected.iter().map(named).collect::<Vec<_>>(), "superseded");
        while store.remove_stale_predictions(2).await.unwrap() {}
        for (model, epoch) in expected {
            let id = self.models[model].id;
            let version = store.version(id, epoch).await.unwrap().unwrap();
            store.mark_weights_removed(id, epoch, now).await.unwrap();
            self.reference.destroy(model, epoch, version.job_id);
        }
    }

    /// Both hold the same, and the ledger what holds always.
    pub async fn check(&mut self) {
        self.the_log_tells_of_it().await;
        let held = self.reference.tables();
        for ((what, expected), sql) in held.into_iter().zip(TABLES) {
            assert_eq!(self.ledger.texts(sql).await, expected, "{what}");
        }
        for (what, sql) in NEVER {
            assert_eq!(self.ledger.integer(sql).await, 0, "{what}");
        }
    }

    /// The verb's leaves, and no others, follow those before.
    async fn the_log_tells_of_it(&mut self) {
        let store = &self.ledger.store;
        let events = store.audit_events(&AuditFilter::default(), self.leaves, 1_000).await.unwrap();
        let mut leaves = Vec::new();
        for event in &events {
            assert_eq!(event.index, self.leaves, "leaves without gaps");
            self.leaves += 1;
            let entry: serde_json::Value = serde_json::from_str(&event.entry).unwrap();
            let word = |name: &str| entry[name].as_str().unwrap().to_owned();
            leaves.push((word("kind"), word("about")));
        }
        let told = self.reference.leaves.iter();
        let mut expected: Vec<_> =
            told.map(|(kind, about)| ((*kind).to_owned(), about.to_string())).collect();
        leaves.sort_unstable();
        expected.sort_unstable();
        assert_eq!(leaves, expected, "leaves");
    }
}

fn when(time: Time) -> Timestamp {
    at(0).plus(Duration::from_micros(time.unsigned_abs()))
}

fn keyed((kind, number): Target) -> KeyedTarget {
    match kind {
        TargetKind::Sample => sample_target(number),
        TargetKind::Subject => subject_target(number),
    }
}

#[track_caller]
fn agree<T: PartialEq + std::fmt::Debug>(done: Result<T, StoreError>, expected: Result<T, Fenced>) {
    match (done, expected) {
        (Ok(done), Ok(expected)) => assert_eq!(done, expected),
        (Err(StoreError::Fenced { .. }), Err(Fenced)) => {}
        (done, expected) => panic!("{done:?} where {expected:?} was expected"),
    }
}
