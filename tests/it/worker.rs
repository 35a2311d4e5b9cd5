//! A worker in this process over each database, with methods of unlearning made for the test.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use forgetd::{
    clock::{Clock, Ids},
    domain::{
        deletion::{DeletionRequest, DeletionState, Guarantee},
        features::Features,
        identity::ServiceKey,
        job::{JobKind, JobState},
        model::{Model, SettlementPolicy},
        sample::{NewSample, Split},
        version::{Cause, Version},
        watch::Watch,
    },
    nn::device::DeviceKind,
    serving::{
        registry::Registry,
        replica::{Replica, Reported},
    },
    store::{Blobs, CreateModel},
    unlearning::{
        self, Method, MethodError, MethodParameters, Task, UnlearningError, Update, Updated,
    },
    worker::{Worker, WorkerOptions},
};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    service::eventually,
    store::{LEASE, Ledger, at, model, new_deletion, new_id, on_both, sample_target, samples},
};

on_both!(
    the_last_samples_are_forgotten_once_there_are_others,
    a_panic_in_a_batch_fails_its_attempt_and_not_the_worker,
    what_fails_a_batch_for_good_fails_its_requests_only_alone,
    a_settlement_comes_by_itself_once_the_accuracy_fell,
    a_batch_that_has_to_be_retrained_waits_for_the_budget,
    an_update_is_compared_on_the_samples_that_it_drew,
    what_is_certified_is_published_and_what_is_not_is_retrained,
);

/// A worker that runs until it is stopped.
pub struct Running {
    pub worker: Arc<Worker>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub fn start(
        ledger: &Ledger,
        blobs: &Blobs,
        clock: &Clock,
        method_by_name: fn(&str, &MethodParameters) -> Result<Method, MethodError>,
    ) -> Self {
        Self::with_reserve(ledger, blobs, clock, method_by_name, 1 << 20)
    }

    pub fn with_reserve(
        ledger: &Ledger,
        blobs: &Blobs,
        clock: &Clock,
        method_by_name: fn(&str, &MethodParameters) -> Result<Method, MethodError>,
        reserve_bytes_max: usize,
    ) -> Self {
        let options = WorkerOptions {
            lease_duration: LEASE,
            poll_interval: Duration::from_millis(50),
            attempts_max: 3,
            sweep_interval: Duration::from_mins(10),
            orphan_age: Duration::from_hours(1),
            reserve_bytes_max,
            threads: 1,
            device: DeviceKind::Flex,
            method_by_name,
        };
        let (store, blobs) = (ledger.store.clone(), blobs.clone());
        let key = Arc::new(ServiceKey::new([7; 32]));
        let worker =
            Worker::new(store, blobs, key, clock.clone(), Ids::seeded(1), options).unwrap();
        let (worker, stop) = (Arc::new(worker), CancellationToken::new());
        let (running, stopped) = (worker.clone(), stop.clone());
        let task = tokio::spawn(async move { running.run(stopped).await });
        Self { worker, stop, task }
    }

    /// # Panics
    /// When the worker had died.
    pub async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// A replica that has loaded nothing yet.
pub fn replica(ledger: &Ledger, blobs: &Blobs, clock: &Clock) -> Replica {
    Replica {
        id: new_id(),
        store: ledger.store.clone(),
        blobs: blobs.clone(),
        registry: Arc::new(Registry::new(clock.clone())),
        clock: clock.clone(),
        device: DeviceKind::Flex.device(),
        lease_duration: LEASE,
        poll_interval: LEASE / 4,
        reported: Reported::default(),
    }
}

/// Rows that a logistic regression can learn, 40 to train on and then hold-out ones.
pub fn learnable(number: u64) -> NewSample {
    let [sample] = samples(number..number + 1, 40).try_into().unwrap();
    let side = if number.is_multiple_of(2) { 1.0 } else { -1.0 };
    NewSample {
        features: Features::Floats(vec![side, number as f32 / 100.0, 0.5, -side]),
        split: if number < 40 { Split::Train } else { Split::Holdout },
        ..sample
    }
}

/// `model`, trained by the running worker on learnable rows.
pub async fn train(ledger: &Ledger, model: &Model, clock: &Clock) {
    train_on(ledger, model, clock, &(0..60).map(learnable).collect::<Vec<_>>()).await;
}

pub async fn train_on(ledger: &Ledger, model: &Model, clock: &Clock, samples: &[NewSample]) {
    let store = &ledger.store;
    assert_eq!(store.create_model(model, None).await.unwrap(), CreateModel::Created);
    ledger.ingest(model, samples).await;
    store.enqueue_job(new_id(), model.id, JobKind::Training, clock.now(), None).await.unwrap();
    let version = async || store.current_version(model.id).await.unwrap().map(|it| it.epoch);
    eventually("the model is trained", version, |epoch| *epoch == Some(1)).await;
}

/// A model named `m` that forgets by a method of this name, and settles when the accuracy fell by
/// more than this only.
pub fn model_of(method: &str, after_accuracy_drop: Option<f64>) -> Model {
    let mut model = model("m");
    model.recipe.learning_rate = 0.1;
    method.clone_into(&mut model.policy.method);
    model.policy.holdout_accuracy_tolerance = 1.0;
    model.policy.settlement = SettlementPolicy {
        after_requests: None,
        after_age_s: None,
        after_accuracy_drop,
        ..SettlementPolicy::default()
    };
    model
}

pub async fn forget(ledger: &Ledger, model: &Model, number: u64, clock: &Clock) -> Uuid {
    let deletion = new_deletion(model, vec![sample_target(number)], clock.now());
    ledger.accept(&deletion).await;
    deletion.id
}

pub async fn request_fits(
    ledger: &Ledger,
    id: Uuid,
    what: &str,
    fits: impl Fn(&DeletionRequest) -> bool,
) -> DeletionRequest {
    let request = async || ledger.store.deletion(id).await.unwrap().unwrap().request;
    eventually(what, request, fits).await
}

pub async fn completed(ledger: &Ledger, id: Uuid) -> DeletionRequest {
    let is_completed = |request: &DeletionRequest| request.state == DeletionState::Completed;
    request_fits(ledger, id, "the request is completed", is_completed).await
}

/// What made each version, the newest first.
fn causes(versions: &[Version]) -> Vec<Cause> {
    versions.iter().map(|version| version.cause).collect()
}

/// A method that a test makes.
pub struct Made<F>(pub F);

impl<F: Fn(&Task<'_>) -> Updated + Send + Sync> Update for Made<F> {
    fn name(&self) -> &'static str {
        "made for a test"
    }

    fn parameters(&self) -> serde_json::Value {
        json!({})
    }

    fn retained_rows_max(&self) -> Option<usize> {
        Some(16)
    }

    fn update(&self, task: &Task<'_>, _: &dyn Watch) -> Result<Updated, UnlearningError> {
        Ok(self.0(task))
    }
}

pub fn unchanged(task: &Task<'_>) -> Updated {
    let details = json!({});
    Updated { network: task.network.clone(), details }
}

async fn the_last_samples_are_forgotten_once_there_are_others(ledger: &Ledger) {
    let (clock, blobs) = (Clock::system(), Blobs::open("memory:///").unwrap());
    let worker = Running::start(ledger, &blobs, &clock, unlearning::by_name);
    let model = model_of("iau", None);
    train(ledger, &model, &clock).await;
    let ask = async || {
        let all = new_deletion(&model, (0..40).map(sample_target).collect(), clock.now());
        ledger.accept(&all).await;
        request_fits(ledger, all.id, "it ends", |request| request.state.is_final()).await
    };
    let failed = ask().await;
    assert_eq!((failed.state, failed.attempts), (DeletionState::Failed, 1));
    let reason = failed.reason.unwrap();
    assert!(reason.contains("ingest some first"), "{reason}");
    let others = (60..100).map(|number| NewSample { split: Split::Train, ..learnable(number) });
    ledger.ingest(&model, &others.collect::<Vec<_>>()).await;
    let completed = ask().await;
    assert_eq!(completed.state, DeletionState::Completed);
    assert_eq!(completed.guarantee, Some(Guarantee::Exact), "a new model is made of the others");
    worker.end().await;
}

async fn a_panic_in_a_batch_fails_its_attempt_and_not_the_worker(ledger: &Ledger) {
    /// Each id is the name of a method, whose first update panics.
    fn panics_at_first(name: &str, _: &MethodParameters) -> Result<Method, MethodError> {
        static CALLED: Mutex<Vec<Uuid>> = Mutex::new(Vec::new());
        let id: Uuid = name.parse().map_err(|_| MethodError::Unknown(name.into()))?;
        let update = move |task: &Task<'_>| {
            let is_first = {
                let mut called = CALLED.lock().unwrap();
                let is_first = !called.contains(&id);
                called.push(id);
                is_first
            };
            assert!(!is_first, "a defect in the method");
            unchanged(task)
        };
        Ok(Method::Update(Box::new(Made(update))))
    }
    let (clock, blobs) = (Clock::system(), Blobs::open("memory:///").unwrap());
    let worker = Running::start(ledger, &blobs, &clock, panics_at_first);
    let model = model_of(&new_id().to_string(), None);
    train(ledger, &model, &clock).await;

    let id = forget(ledger, &model, 0, &clock).await;
    let failed =
        request_fits(ledger, id, "an attempt fails", |request| request.reason.is_some()).await;
    let reason = failed.reason.unwrap();
    assert!(reason.contains("panicked") && reason.contains("a defect"), "{reason}");
    // By the next attempt.
    let completed = completed(ledger, id).await;
    assert_eq!((completed.guarantee, completed.reason), (Some(Guarantee::Approximate), None));
    worker.end().await;
}

/// Both together leave nothing to train on. Nor does the first alone, as long as the other one waits;
/// once it has failed, its samples are there for the second.
async fn what_fails_a_batch_for_good_fails_its_requests_only_alone(ledger: &Ledger) {
    let (clock, blobs) = (Clock::system(), Blobs::open("memory:///").unwrap());
    let worker = Running::start(ledger, &blobs, &clock, unlearning::by_name);
    let model = model_of("iau", None);
    train(ledger, &model, &clock).await;
    worker.end().await;
    let mut requests = Vec::new();
    for half in [0..20, 20..40] {
        let new = new_deletion(&model, half.map(sample_target).collect(), clock.now());
        ledger.accept(&new).await;
        requests.push(new.id);
    }
    let worker = Running::start(ledger, &blobs, &clock, unlearning::by_name);
    let mut ended = Vec::new();
    for id in requests {
        let request = request_fits(ledger, id, "it ends", |request| request.state.is_final()).await;
        ended.push((request.state, request.attempts));
    }
    assert_eq!(ended, [(DeletionState::Failed, 2), (DeletionState::Completed, 1)]);
    worker.end().await;
}

/// The method `turn-around`, which makes of every answer its contrary.
fn turns_answers_around(name: &str, _: &MethodParameters) -> Result<Method, MethodError> {
    fn turned_around(task: &Task<'_>) -> Updated {
        let mut weights = task.network.parameters();
        weights.scale(-1.0);
        Updated { network: task.network.with_parameters(&weights), ..unchanged(task) }
    }
    let unknown = || MethodError::Unknown(name.into());
    (name == "turn-around")
        .then(|| Method::Update(Box::new(Made(turned_around)) as Box<dyn Update>))
        .ok_or_else(unknown)
}

/// A day after the last retraining, or once a quarter is left of the time that the policy grants.
async fn a_batch_that_has_to_be_retrained_waits_for_the_budget(ledger: &Ledger) {
    let (clock, blobs) = (Clock::manual(at(0)), Blobs::open("memory:///").unwrap());
    let worker = Running::start(ledger, &blobs, &clock, turns_answers_around);
    let retrained = async |model: &Model| {
        let versions = ledger.store.versions(model.id, None, 10).await.unwrap();
        causes(&versions).iter().filter(|cause| **cause == Cause::Settled).count()
    };
    for (name, due_within_days, hours) in [("slow", 30, 24), ("pressing", 1, 18)] {
        let mut model = model_of("turn-around", None);
        model.name = name.parse().unwrap();
        model.policy.holdout_accuracy_tolerance = 0.1;
        model.policy.due_within_days = due_within_days;
        model.policy.settlement.per_day_max = Some(1);
        train(ledger, &model, &clock).await;
        let id = forget(ledger, &model, 0, &clock).await;
        assert_eq!(completed(ledger, id).await.guarantee, Some(Guarantee::Exact));
        assert_eq!(retrained(&model).await, 1);

        let mut waiting = Vec::new();
        for number in [1, 2] {
            let id = forget(ledger, &model, number, &clock).await;
            let is_put_off = |it: &DeletionRequest| it.reason.is_some();
            let request = request_fits(ledger, id, "it is put off", is_put_off).await;
            assert_eq!((request.state, request.attempts), (DeletionState::Queued, 0));
            let reason = request.reason.unwrap();
            assert!(reason.contains("accuracy") && reason.contains("per_day_max"), "{reason}");
            waiting.push(id);
        }
        clock.advance(Duration::from_mins(60 * hours - 1));
        // What comes now is found to wait as well: the worker has looked at what there is.
        waiting.push(forget(ledger, &model, 3, &clock).await);
        request_fits(ledger, waiting[2], "it is put off", |it| it.reason.is_some()).await;
        assert_eq!(retrained(&model).await, 1);
        clock.advance(Duration::from_mins(1));
        for id in waiting {
            let request = completed(ledger, id).await;
            assert_eq!((request.guarantee, request.reason), (Some(Guarantee::Exact), None));
        }
        assert_eq!(retrained(&model).await, 2, "once for all of them");
    }
    worker.end().await;
}

async fn a_settlement_comes_by_itself_once_the_accuracy_fell(ledger: &Ledger) {
    let (clock, blobs) = (Clock::system(), Blobs::open("memory:///").unwrap());
    let worker = Running::start(ledger, &blobs, &clock, turns_answers_around);
    let model = model_of("turn-around", Some(0.5));
    train(ledger, &model, &clock).await;

    let id = forget(ledger, &model, 0, &clock).await;
    request_fits(ledger, id, "the request is settled", |request| {
        request.guarantee == Some(Guarantee::Exact)
    })
    .await;
    let versions = ledger.store.versions(model.id, None, 10).await.unwrap();
    assert_eq!(causes(&versions), [Cause::Settled, Cause::Unlearned, Cause::Trained]);
    let accuracy = |at: usize| versions[at].metrics.holdout_accuracy.unwrap();
    assert!(accuracy(2) > 0.9 && accuracy(1) < 0.1, "{versions:#?}");
    worker.end().await;
}

/// The accuracies on two draws differ by chance, by which no settlement may come.
async fn an_update_is_compared_on_the_samples_that_it_drew(ledger: &Ledger) {
    #[expect(clippy::unnecessary_wraps, reason = "workers take methods that may be missing")]
    fn stays(_: &str, _: &MethodParameters) -> Result<Method, MethodError> {
        Ok(Method::Update(Box::new(Made(unchanged))))
    }
    let (clock, blobs) = (Clock::system(), Blobs::open("memory:///").unwrap());
    let worker = Running::start(ledger, &blobs, &clock, stays);
    let model = model_of("stays", Some(0.0));
    // Of 3,000 held-out samples one in seven is labelled as the others are.
    let labelled = |number: u64| match number % 7 {
        0 if number >= 40 => NewSample { label: learnable(number + 1).label, ..learnable(number) },
        _ => learnable(number),
    };
    train_on(ledger, &model, &clock, &(0..3_040).map(labelled).collect::<Vec<_>>()).await;
    for number in [0, 1] {
        let id = forget(ledger, &model, number, &clock).await;
        completed(ledger, id).await;
    }
    let versions = ledger.store.versions(model.id, None, 10).await.unwrap();
    assert_eq!(causes(&versions), [Cause::Unlearned, Cause::Unlearned, Cause::Trained]);
    let [second, first, trained] = [0, 1, 2].map(|at: usize| versions[at].metrics);
    assert_eq!((trained.holdout_accuracy_exact, trained.accuracy_drop()), (None, None));
    for updated in [first, second] {
        assert_eq!(updated.accuracy_drop(), Some(0.0), "{updated:?}");
        assert_ne!(updated.holdout_accuracy, trained.holdout_accuracy, "those were other samples");
    }
    worker.end().await;
}

async fn what_is_certified_is_published_and_what_is_not_is_retrained(ledger: &Ledger) {
    let (clock, blobs) = (Clock::system(), Blobs::open("memory:///").unwrap());
    let worker = Running::start(ledger, &blobs, &clock, unlearning::by_name);
    let mut model = model_of("certified", None);
    train(ledger, &model, &clock).await;
    for number in [0, 5] {
        let id = forget(ledger, &model, number, &clock).await;
        completed(ledger, id).await;
    }
    let versions = ledger.store.versions(model.id, None, 10).await.unwrap();
    assert_eq!(causes(&versions), [Cause::Unlearned, Cause::Unlearned, Cause::Trained]);
    let training = json!(versions[2].job_id);
    for version in &versions {
        assert_eq!(version.method["perturbation"]["training"], training);
        assert_eq!(version.method["perturbation"]["sigma"], 1.0);
    }
    let used = versions[0].method["details"]["budget_used"].as_f64().unwrap();
    assert!((0.0..0.1).contains(&used), "{used}");

    // One step does not come near enough to the minimum.
    (model.id, model.name) = (new_id(), "hasty".parse().unwrap());
    let hasty = [("sigma", json!(0.002)), ("epsilon", json!(0.2)), ("steps_max", json!(1))];
    let parameters = hasty.map(|(name, value)| (name.to_owned(), value));
    model.policy.method_parameters.extend(parameters);
    train(ledger, &model, &clock).await;
    let id = forget(ledger, &model, 0, &clock).await;
    request_fits(ledger, id, "the request is settled", |request| {
        request.guarantee == Some(Guarantee::Exact)
    })
    .await;
    let evidence = ledger.store.deletion(id).await.unwrap().unwrap().evidence.unwrap();
    let why = evidence["gate_failure"].to_string();
    assert!(why.contains("epsilon and delta"), "{why}");

    // Noise so faint that a training's own rounding breaks through it: nothing is published.
    (model.id, model.name) = (new_id(), "faint".parse().unwrap());
    model.policy.method_parameters.clear();
    model.policy.method_parameters.insert("sigma".into(), json!(1e-9));
    assert_eq!(ledger.store.create_model(&model, None).await.unwrap(), CreateModel::Created);
    ledger.ingest(&model, &(0..60).map(learnable).collect::<Vec<_>>()).await;
    let job_id = new_id();
    let enqueued = ledger.store.enqueue_job(job_id, model.id, JobKind::Training, clock.now(), None);
    enqueued.await.unwrap();
    let job = async || ledger.store.job(job_id).await.unwrap().unwrap();
    let failed = eventually("the training fails", job, |it| it.state == JobState::Failed).await;
    let why = failed.reason.unwrap();
    assert!(why.contains("gradient") && why.contains("sigma"), "{why}");
    assert!(ledger.store.current_version(model.id).await.unwrap().is_none());
    worker.end().await;
}
