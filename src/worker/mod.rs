//! The worker: claims what is queued, holds its lease, computes on its own threads, publishes.
//!
//! `Worker::run` is the loop; `lease.rs` keeps the claim alive and tells the computation when to
//! stop; `unlearning.rs` is the way of a batch, `draw.rs` what it sees beside what it forgets, in the
//! order of `permutation.rs`, and `reserve.rs` how that is read in advance; `retraining.rs` is the way
//! of training and settlement, and `budget.rs` how often requests may call for it; `upkeep.rs` is what
//! any worker may do at any time, twice without harm, of which `destruction.rs` destroys what nobody
//! needs any more; `replay.rs` makes a version again to compare it.

mod budget;
mod compute;
mod deadlines;
mod destruction;
mod draw;
mod lease;
mod permutation;
mod perturbation;
mod replay;
mod reserve;
mod retraining;
mod unlearning;
mod upkeep;

use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span, warn};
use uuid::Uuid;

use crate::{
    clock::{Clock, Ids},
    dataset::encoder::EncodingError,
    domain::{
        chain::Chain, identity::ServiceKey, job::JobKind, network::NetworkError,
        timestamp::Timestamp, version::Cause, watch::Progress,
    },
    nn::{device::DeviceKind, training::TrainingError, weights::WeightsError},
    store::{BlobError, Blobs, Claim, Claimed, Store, StoreError},
    unlearning::{Method, MethodError, MethodParameters, UnlearningError},
};

use compute::Compute;
use lease::Holding;
use reserve::Reserve;

pub use lease::Stop;
pub use replay::{Origin, Recorded, RecordedUpdate, ReplayError, Replayed};

/// How a worker works; see the configuration's `[worker]`.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    pub lease_duration: Duration,
    /// The longest time until queued work is noticed without a signal.
    pub poll_interval: Duration,
    /// Attempts at one job before it fails for good.
    pub attempts_max: u32,
    /// Between two looks for blobs that no version names.
    pub sweep_interval: Duration,
    /// Younger blobs are not suspected: their version may be about to be published.
    pub orphan_age: Duration,
    /// What the next batches will draw is read in advance up to so many bytes of samples.
    pub reserve_bytes_max: usize,
    /// Threads that compute; predictions have their own.
    pub threads: usize,
    pub device: DeviceKind,
    /// The unlearning method of a policy's name, with the policy's parameters.
    pub method_by_name: fn(&str, &MethodParameters) -> Result<Method, MethodError>,
}

/// Told of the progress of whatever this worker does, on the thread that computes.
pub type ProgressListener = Arc<dyn Fn(JobKind, &Progress) + Send + Sync>;

pub struct Worker {
    id: Uuid,
    store: Store,
    blobs: Blobs,
    service_key: Arc<ServiceKey>,
    clock: Clock,
    ids: Ids,
    options: WorkerOptions,
    compute: Compute,
    reserve: Reserve,
    listener: Option<ProgressListener>,
}

/// Why an attempt at a job ended without a publication.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The lease's holder asked the computation to stop.
    #[error("stopped: {0:?}")]
    Stopped(Stop),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Blobs(#[from] BlobError),
    #[error(transparent)]
    Encoding(#[from] EncodingError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Training(#[from] TrainingError),
    #[error(transparent)]
    Unlearning(#[from] UnlearningError),
    #[error(
        "the policy's method works on linear networks alone (preset `logistic`): choose another \
         method, or another network"
    )]
    NotLinear,
    #[error("the ledger is damaged: {0}")]
    Damaged(String),
    #[error("there are no training samples; ingest some first")]
    NoSamples,
    #[error("the computation panicked: {0}")]
    Panicked(String),
    #[error(
        "{why}; the model is to be retrained for it, which was done as often as its policy allows \
         within 24 hours (settlement.per_day_max)"
    )]
    OverBudget { why: String, until: Timestamp },
}

impl JobError {
    /// Whether the same attempt, made again later, may succeed.
    fn is_worth_a_retry(&self) -> bool {
        match self {
            Self::Stopped(_)
            | Self::Store(_)
            | Self::Blobs(_)
            | Self::Panicked(_)
            | Self::OverBudget { .. }
            | Self::Unlearning(_) => true,
            Self::Encoding(_)
            | Self::Network(_)
            | Self::Weights(_)
            | Self::Training(_)
            | Self::NotLinear
            | Self::Damaged(_)
            | Self::NoSamples => false,
        }
    }
}

impl Worker {
    /// # Errors
    /// When its threads cannot be started.
    pub fn new(
        store: Store,
        blobs: Blobs,
        service_key: Arc<ServiceKey>,
        clock: Clock,
        ids: Ids,
        options: WorkerOptions,
    ) -> std::io::Result<Self> {
        let compute = Compute::new(options.threads)?;
        let reserve = Reserve::new(options.reserve_bytes_max);
        let id = ids.next(clock.now());
        let listener = None;
        Ok(Self { id, store, blobs, service_key, clock, ids, options, compute, reserve, listener })
    }

    #[must_use]
    pub fn with_listener(mut self, listener: ProgressListener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Works until `shutdown`; then gives back what it holds and returns. Upkeep goes on beside
    /// the work: nobody's deletion waits for the end of a long settlement to be called completed.
    pub async fn run(&self, shutdown: CancellationToken) {
        tokio::join!(self.work(&shutdown), self.keep_up(&shutdown));
    }

    async fn work(&self, shutdown: &CancellationToken) {
        let mut wakeups = self.store.wakeups();
        while !shutdown.is_cancelled() {
            let unusable = |error| warn!(error = %Chain(&error), "the ledger cannot be used now");
            match self.work_once(shutdown).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => unusable(error),
            }
            let preparing = async {
                self.prepare().await.unwrap_or_else(unusable);
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = wakeups.next() => {}
                () = tokio::time::sleep(self.options.poll_interval) => {}
                () = preparing => {}
            }
        }
    }

    /// At most one job. Says whether there was one.
    async fn work_once(&self, shutdown: &CancellationToken) -> Result<bool, StoreError> {
        let claim = Claim {
            now: self.now(),
            lease_duration: self.options.lease_duration,
            token: self.ids.token(),
            batch_id: self.ids.next(self.now()),
            worker_id: self.id,
            attempts_max: self.options.attempts_max,
        };
        let Some(claimed) = self.store.claim(&claim).await? else {
            return Ok(false);
        };
        let span = info_span!(
            "job",
            job_id = %claimed.job.id,
            kind = claimed.job.kind.as_str(),
            model = %claimed.model.name,
            attempt = claimed.lease.attempt,
        );
        self.work_on(claimed, shutdown).instrument(span).await;
        Ok(true)
    }

    async fn work_on(&self, claimed: Claimed, shutdown: &CancellationToken) {
        info!(requests = claimed.requests.len(), "claimed");
        let started = self.clock.monotonic();
        let holding = Holding::start(self, &claimed, shutdown.clone());
        let done = match claimed.job.kind {
            JobKind::Unlearning => self.unlearn(&claimed, &holding).await,
            JobKind::Training => self.retrain(&claimed, &holding, Cause::Trained, None).await,
            JobKind::Settlement => self.retrain(&claimed, &holding, Cause::Settled, None).await,
        };
        holding.end().await;
        let seconds = self.clock.monotonic().duration_since(started).as_secs_f64();
        metrics::histogram!("forgetd_job_seconds", "kind" => claimed.job.kind.as_str())
            .record(seconds);
        match done {
            Ok(epoch) => {
                info!(epoch, seconds, "published");
                if claimed.job.kind == JobKind::Unlearning {
                    self.reserve.expect(claimed.model.id).await;
                }
            }
            Err(error) => self.give_up(&claimed, &error).await,
        }
    }

    /// Ends an attempt that published nothing; the ledger decides what becomes of its requests.
    async fn give_up(&self, claimed: &Claimed, error: &JobError) {
        let (lease, now) = (&claimed.lease, self.now());
        let kind = claimed.job.kind.as_str();
        let ended = match error {
            JobError::Stopped(Stop::Fenced) | JobError::Store(StoreError::Fenced { .. }) => {
                warn!("the lease has passed on; this attempt's work is dropped");
                return;
            }
            JobError::Stopped(Stop::Shutdown) => self.store.release(lease, now, false).await,
            JobError::Stopped(Stop::Preempted) => self.store.release(lease, now, true).await,
            JobError::Stopped(Stop::Cancelled) => self.store.acknowledge_cancel(lease, now).await,
            JobError::OverBudget { until, .. } => {
                warn!(reason = %error, %until, "the batch waits");
                self.store.put_off(lease, now, &error.to_string(), *until).await
            }
            other => {
                metrics::counter!("forgetd_job_failures_total", "kind" => kind).increment(1);
                let reason = Chain(other).to_string();
                // What fails some requests together need not fail each of them alone.
                let are_several = claimed.requests.len() > 1;
                let retries_left = lease.attempt < self.options.attempts_max;
                let is_retried = are_several || (retries_left && other.is_worth_a_retry());
                let retry_at = is_retried.then(|| now.plus(backoff(claimed)));
                error!(%reason, ?retry_at, "the attempt failed");
                self.store.fail_attempt(lease, now, &reason, retry_at).await
            }
        };
        if let Err(error) = ended {
            warn!(error = %Chain(&error), "could not give the job back; its lease will expire");
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// Randomness that an id decides, so that a job can be replayed.
fn rng_of(id: Uuid) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed_of(id))
}

/// The seed that is recorded with what it made; below 2^53, so that JSON keeps it.
fn seed_of(id: Uuid) -> u64 {
    let (high, low) = id.as_u64_pair();
    (high ^ low) >> 11
}

/// 1, 2, 4, ... seconds up to about four minutes, and up to half as much again, so that jobs which
/// failed together do not return together.
fn backoff(claimed: &Claimed) -> Duration {
    let doublings = claimed.lease.attempt.saturating_sub(1).min(8);
    let jitter = rng_of(claimed.lease.token).random_range(1.0..1.5);
    Duration::from_secs_f64(f64::from(1_u32 << doublings) * jitter)
}
