//! Holding a claim: renewing its lease, and telling the computation when to stop.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    clock::Clock,
    domain::{
        chain::Chain,
        job::{JobKind, Lease},
        watch::{Progress, Watch},
    },
    store::{Claimed, Renewal, Store, StoreError},
};

use super::{JobError, ProgressListener, Worker};

/// Why the computation must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The lease was lost, or could not be renewed in time.
    Fenced,
    /// An administrator cancelled the job.
    Cancelled,
    /// Deletions wait for the model.
    Preempted,
    /// This process is ending.
    Shutdown,
}

/// What the computation sees of its lease.
pub(super) struct JobWatch {
    kind: JobKind,
    progress: Mutex<Option<Progress>>,
    /// The first reason counts.
    stop: OnceLock<Stop>,
    listener: Option<ProgressListener>,
}

impl JobWatch {
    fn stop(&self, why: Stop) {
        self.stop.get_or_init(|| why);
    }

    /// # Errors
    /// `Stopped` once the job must not go on; checked between steps.
    pub(super) fn check(&self) -> Result<(), JobError> {
        match self.stop.get() {
            Some(why) => Err(JobError::Stopped(*why)),
            None => Ok(()),
        }
    }
}

impl Watch for JobWatch {
    fn progressed(&self, progress: &Progress) {
        if let Some(listener) = &self.listener {
            listener(self.kind, progress);
        }
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress.clone());
    }

    fn is_cancelled(&self) -> bool {
        self.stop.get().is_some()
    }
}

/// A held lease; renewed in the background until `end`.
pub(super) struct Holding {
    watch: Arc<JobWatch>,
    done: CancellationToken,
    task: JoinHandle<()>,
}

impl Holding {
    pub(super) fn start(worker: &Worker, claimed: &Claimed, shutdown: CancellationToken) -> Self {
        let watch = Arc::new(JobWatch {
            kind: claimed.job.kind,
            progress: Mutex::new(None),
            stop: OnceLock::new(),
            listener: worker.listener.clone(),
        });
        let done = CancellationToken::new();
        let can_stop = claimed.job.kind != JobKind::Unlearning;
        let renewer = Renewer {
            store: worker.store.clone(),
            clock: worker.clock.clone(),
            lease: claimed.lease,
            lease_duration: worker.options.lease_duration,
            can_stop,
            steps_aside: can_stop
                && claimed.job.preemptions < claimed.model.policy.settlement.preemptions_max,
            watch: watch.clone(),
        };
        let task = tokio::spawn(renewer.run(done.clone(), shutdown));
        Self { watch, done, task }
    }

    pub(super) fn watch(&self) -> Arc<JobWatch> {
        self.watch.clone()
    }

    pub(super) fn check(&self) -> Result<(), JobError> {
        self.watch.check()
    }

    pub(super) async fn end(self) {
        self.done.cancel();
        if self.task.await.is_err() {
            warn!("the lease's renewal had panicked");
        }
    }
}

struct Renewer {
    store: Store,
    clock: Clock,
    lease: Lease,
    lease_duration: Duration,
    /// Whether it can be cancelled, and so listens for signals.
    can_stop: bool,
    /// Whether it gives way to deletions.
    steps_aside: bool,
    watch: Arc<JobWatch>,
}

/// A renewal also tells the ledger the progress, so that it is never older than this.
const RENEWAL_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Signals come in bursts; between two renewals lies at least this.
const RENEWAL_PAUSE: Duration = Duration::from_millis(200);

impl Renewer {
    async fn run(self, done: CancellationToken, shutdown: CancellationToken) {
        let mut wakeups = self.store.wakeups();
        let interval = RENEWAL_INTERVAL_MAX.min(self.lease_duration / 4);
        // Measured on the monotonic clock, from before the ledger was asked: a worker that was
        // frozen finds out at once that its lease may have passed on.
        let mut held_since = Instant::now();
        loop {
            let asked_at = Instant::now();
            match self.renew().await {
                Ok(renewal) => {
                    held_since = asked_at;
                    self.heed(renewal);
                }
                Err(StoreError::Fenced { .. }) => return self.watch.stop(Stop::Fenced),
                Err(error) => warn!(error = %Chain(&error), "could not renew the lease"),
            }
            if held_since.elapsed() >= self.lease_duration {
                return self.watch.stop(Stop::Fenced);
            }
            let pause = tokio::time::sleep(RENEWAL_PAUSE);
            tokio::select! {
                () = done.cancelled() => return,
                () = shutdown.cancelled() => return self.watch.stop(Stop::Shutdown),
                () = pause => {}
            }
            tokio::select! {
                () = done.cancelled() => return,
                () = shutdown.cancelled() => return self.watch.stop(Stop::Shutdown),
                () = tokio::time::sleep(interval) => {}
                () = wakeups.next(), if self.can_stop => {}
            }
        }
    }

    async fn renew(&self) -> Result<Renewal, StoreError> {
        let progress = self.watch.progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.store
            .renew_lease(&self.lease, self.clock.now(), self.lease_duration, progress.as_ref())
            .await
    }

    fn heed(&self, renewal: Renewal) {
        if renewal.cancel_requested {
            self.watch.stop(Stop::Cancelled);
        } else if renewal.deletions_waiting && self.steps_aside {
            self.watch.stop(Stop::Preempted);
        }
    }
}
