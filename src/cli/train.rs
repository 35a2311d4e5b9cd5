//! `forgetd train`: one training run or settlement, in this process.

use std::{sync::Arc, time::Duration};

use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::{
    app::config::Config,
    app::telemetry,
    app::{Ledger, stop_signal, worker},
    clock::{Clock, Ids},
    domain::{
        job::{Job, JobKind, JobState},
        model::{Model, ModelName},
    },
    store::{CancelJob, Enqueued, Store},
};

use super::{CliError, progress::Bars};

/// How often the ledger is asked whether the job has ended.
const ASK_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Args, Debug)]
pub struct TrainArgs {
    #[arg(long)]
    model: ModelName,
    /// Settle: retrain without everything deleted so far, which makes each deletion exact.
    #[arg(long)]
    settle: bool,
}

impl TrainArgs {
    pub async fn run(self, config: &Config) -> Result<(), CliError> {
        let telemetry = telemetry::install(&config.telemetry)?;
        let ledger = Ledger::open(&config.ledger).await?;
        let Some(model) = ledger.store.model(&self.model).await? else {
            return Err(CliError::usage(format!(
                "there is no model {}; `forgetd ingest` makes one from a file",
                self.model
            )));
        };
        let kind = if self.settle { JobKind::Settlement } else { JobKind::Training };
        let job = train(config, &ledger, &model, kind).await?;
        let outcome = describe(&ledger.store, &model, &job).await;
        ledger.store.close().await;
        telemetry.shutdown();
        println!("{}", outcome?);
        Ok(())
    }
}

/// Queues the job, works until it has ended, and returns it. An interrupt cancels it.
pub(super) async fn train(
    config: &Config,
    ledger: &Ledger,
    model: &Model,
    kind: JobKind,
) -> Result<Job, CliError> {
    let (clock, ids) = (Clock::system(), Ids::system());
    let id = ids.next(clock.now());
    let (Enqueued::Queued(job) | Enqueued::Already(job)) =
        ledger.store.enqueue_job(id, model.id, kind, clock.now(), None).await?;
    let bars = Arc::new(Bars::new());
    let shown = bars.clone();
    let worker = worker(config, ledger, clock.clone(), ids)?
        .with_listener(Arc::new(move |kind, progress| shown.show(kind.as_str(), progress)));
    let stop = CancellationToken::new();
    let (working, watching) = (stop.clone(), stop.clone());
    let work = Box::pin(async move { worker.run(working).await });
    let watch = async move {
        let ended = wait_for(&ledger.store, &job, &clock).await;
        watching.cancel();
        ended
    };
    let ((), ended) = tokio::join!(work, watch);
    bars.finish();
    ended
}

async fn wait_for(store: &Store, job: &Job, clock: &Clock) -> Result<Job, CliError> {
    let mut interrupt = std::pin::pin!(stop_signal()?);
    loop {
        let now = store.job(job.id).await?.unwrap_or_else(|| job.clone());
        if matches!(now.state, JobState::Completed | JobState::Failed | JobState::Cancelled) {
            return Ok(now);
        }
        tokio::select! {
            () = tokio::time::sleep(ASK_INTERVAL) => {}
            () = &mut interrupt => {
                if store.cancel_job(job.id, clock.now(), None).await? == CancelJob::Unknown {
                    return Ok(now);
                }
                interrupt.set(stop_signal()?);
            }
        }
    }
}

async fn describe(store: &Store, model: &Model, job: &Job) -> Result<String, CliError> {
    let reason = || job.reason.clone().unwrap_or_else(|| "no reason was recorded".into());
    match job.state {
        JobState::Completed => {}
        JobState::Cancelled => return Err(CliError::usage("cancelled; nothing was published")),
        JobState::Failed => return Err(CliError::usage(format!("it failed: {}", reason()))),
        JobState::Queued | JobState::Running | JobState::Published => {
            return Err(CliError::usage("stopped before the end; the job stays in the queue"));
        }
    }
    let epoch = job.epoch.unwrap_or_default();
    let metrics = store.version(model.id, epoch).await?.map(|v| v.metrics).unwrap_or_default();
    let accuracy = metrics
        .holdout_accuracy
        .map_or_else(String::new, |share| format!(", hold-out accuracy {:.1} %", share * 100.0));
    Ok(format!("{}: version {epoch} of {} samples{accuracy}", model.name, metrics.samples))
}
