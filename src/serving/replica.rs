//! Follows the ledger: loads what was published, answers from it, and reports which epoch this
//! process serves. Without a report that the ledger took in time, nothing is answered.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use burn::tensor::Device;
use tokio::{select, task, time::sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    clock::Clock,
    dataset::encoder::Encoder,
    domain::{chain::Chain, model::Model, version::Version},
    fail_point,
    nn::weights::{self, WeightsError},
    serving::{
        registry::{Published, Registry, ReportStart},
        timed::Timed,
        version::ServedVersion,
    },
    store::{BlobError, Blobs, Served, Store, StoreError},
};

/// This process as one of those that answer from the ledger's newest versions.
pub struct Replica {
    /// New at each start.
    pub id: Uuid,
    pub store: Store,
    pub blobs: Blobs,
    pub registry: Arc<Registry>,
    pub clock: Clock,
    pub device: Device,
    /// How long a report allows this process to answer.
    pub lease_duration: Duration,
    /// How often the ledger is asked when nothing wakes it, and told when nothing has changed; well
    /// below the lease's duration.
    pub poll_interval: Duration,
    pub reported: Reported,
}

/// What the ledger was told last.
#[derive(Default)]
pub struct Reported(Mutex<Option<(ReportStart, Vec<Served>)>>);

impl Reported {
    fn lock(&self) -> MutexGuard<'_, Option<(ReportStart, Vec<Served>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the ledger was told the same, if that is no longer ago than this.
    fn lately(&self, served: &[Served], now: ReportStart, age: Duration) -> Option<ReportStart> {
        let reported = self.lock();
        let (at, told) = reported.as_ref()?;
        let is_young = now.monotonic.duration_since(at.monotonic) < age
            && (at.wall..at.wall.plus(age)).contains(&now.wall);
        (is_young && told == served).then_some(*at)
    }
}

/// Why a version cannot be served; the one before it goes on.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the ledger cannot say what to load")]
    Store(#[from] StoreError),
    #[error("the model or its version is gone from the ledger")]
    Gone,
    #[error("the weights cannot be fetched")]
    Blob(#[from] BlobError),
    #[error("the stored encoder cannot be read")]
    Encoder(#[source] serde_json::Error),
    #[error("the weights do not make the network")]
    Weights(#[source] WeightsError),
    #[error("the network gives {found} probabilities a row for {classes} classes")]
    Classes { found: usize, classes: usize },
    #[error("loading panicked")]
    Panicked(#[source] task::JoinError),
}

impl Replica {
    /// Keeps up with the ledger until cancelled; then stops answering and signs off.
    pub async fn run(&self, cancellation: CancellationToken) {
        let mut wakeups = self.store.wakeups();
        loop {
            if let Err(error) = self.sync().await {
                metrics::counter!("forgetd_replica_sync_failures_total").increment(1);
                tracing::warn!(error = %Chain(&error), "cannot follow the ledger");
            }
            select! {
                () = cancellation.cancelled() => break,
                () = wakeups.next() => {}
                () = self.registry.departed() => {}
                () = sleep(self.poll_interval) => {}
            }
        }
        self.registry.fence();
        if let Err(error) = self.store.retire_replica(self.id).await {
            tracing::warn!(error = %Chain(&error), "cannot sign off");
        }
    }

    /// Loads what is newer in the ledger than here, and reports what is served. A version that
    /// cannot be loaded is logged and counted; the one before it goes on answering.
    ///
    /// # Errors
    /// When the ledger cannot be read or does not take the report.
    pub async fn sync(&self) -> Result<(), StoreError> {
        let newer = self.announce().await?;
        if newer.is_empty() {
            return Ok(());
        }
        fail_point::pass("replica", "announced").await;
        let mut loading = pin!(self.load_all(newer.keys().copied()));
        // Loading may take longer than the lease.
        loop {
            select! {
                () = &mut loading => break,
                () = sleep(self.lease_duration / 4) => self.report(&newer).await?,
            }
        }
        // What this lets complete, a worker completes: the ledger wakes it.
        self.report(&HashMap::new()).await?;
        fail_point::pass("replica", "reported").await;
        Ok(())
    }

    /// Tells the ledger which epochs this replica is about to load, and returns them once they are
    /// still current after it knows: from then on a deletion that supersedes them waits for this
    /// replica before it is called completed.
    ///
    /// A replica whose lease has ended may have been counted as dead, and deletions completed past
    /// it: it answers again only from what is current.
    async fn announce(&self) -> Result<HashMap<Uuid, u64>, StoreError> {
        let mut newer = self.newer().await?;
        loop {
            let start = self.tell(&newer).await?;
            let is_fenced = self.registry.is_fenced();
            let is_current = !is_fenced && newer.is_empty();
            let now_newer = if is_current { HashMap::new() } else { self.newer().await? };
            if now_newer == newer {
                if is_fenced {
                    self.registry.withhold(|model_id| newer.contains_key(&model_id));
                }
                self.registry.renew_lease(start, self.lease_duration);
                return Ok(newer);
            }
            newer = now_newer;
        }
    }

    /// The ledger's current epoch of each model of which an older one, or none, answers here.
    async fn newer(&self) -> Result<HashMap<Uuid, u64>, StoreError> {
        let epochs = self.store.current_epochs().await?;
        self.registry.retain(|model_id| epochs.iter().any(|(id, _)| *id == model_id));
        let is_newer =
            |(model_id, epoch): &(Uuid, u64)| self.registry.epoch(*model_id) < Some(*epoch);
        Ok(epochs.into_iter().filter(is_newer).collect())
    }

    async fn load_all(&self, model_ids: impl Iterator<Item = Uuid>) {
        for model_id in model_ids {
            match self.load(model_id).await {
                Ok(version) => {
                    let (model, epoch) = (version.model.name.clone(), version.epoch);
                    if self.registry.publish(version) == Published::Now {
                        fail_point::pass("replica", "loaded").await;
                        #[expect(clippy::cast_precision_loss, reason = "epochs are small")]
                        metrics::gauge!("forgetd_served_epoch", "model" => model.to_string())
                            .set(epoch as f64);
                        tracing::info!(%model, epoch, "serving a new version");
                    }
                }
                Err(error) => {
                    metrics::counter!("forgetd_version_load_failures_total").increment(1);
                    tracing::error!(error = %Chain(&error), %model_id, "cannot load the current version");
                }
            }
        }
    }

    async fn load(&self, model_id: Uuid) -> Result<ServedVersion, LoadError> {
        let version = self.store.current_version(model_id).await?.ok_or(LoadError::Gone)?;
        let model = self.store.model_by_id(model_id).await?.ok_or(LoadError::Gone)?;
        let weights = self.blobs.get(version.blob_name()).await?;
        let device = self.device.clone();
        task::spawn_blocking(move || served(model, version, &weights, &device))
            .await
            .map_err(LoadError::Panicked)?
    }

    /// Goes on answering, if the lease has not ended meanwhile.
    async fn report(&self, announced: &HashMap<Uuid, u64>) -> Result<(), StoreError> {
        let start = self.tell(announced).await?;
        if !self.registry.is_fenced() {
            self.registry.renew_lease(start, self.lease_duration);
        }
        Ok(())
    }

    /// Tells the ledger what may be answered from here: of each model the oldest epoch still held,
    /// or the one that is about to be loaded where there is none yet. Whatever is written wakes this
    /// replica: in a flood of requests it would write as often, so what the ledger was told a moment
    /// ago it is not told again. Returns since when the ledger knows it.
    async fn tell(&self, announced: &HashMap<Uuid, u64>) -> Result<ReportStart, StoreError> {
        let start = ReportStart { monotonic: self.clock.monotonic(), wall: self.clock.now() };
        let mut served = self.registry.served();
        let first = |model_id: &Uuid| served.iter().all(|it| it.model_id != *model_id);
        let firsts: Vec<Served> = announced
            .iter()
            .filter(|(model_id, _)| first(model_id))
            .map(|(model_id, epoch)| Served { model_id: *model_id, epoch: *epoch })
            .collect();
        served.extend(firsts);
        served.sort_unstable_by_key(|it| it.model_id);
        if !self.registry.is_fenced()
            && let Some(earlier) = self.reported.lately(&served, start, self.poll_interval)
        {
            return Ok(earlier);
        }
        self.store.report_served(self.id, start.wall, self.lease_duration, &served).await?;
        *self.reported.lock() = Some((start, served));
        Ok(start)
    }
}

/// Builds the network and runs it, so that its first answer is as fast as the next.
fn served(
    model: Model,
    version: Version,
    bytes: &[u8],
    device: &Device,
) -> Result<ServedVersion, LoadError> {
    let encoding = version.encoding.ok_or(LoadError::Gone)?;
    let encoder: Encoder = serde_json::from_value(encoding.encoder).map_err(LoadError::Encoder)?;
    let network =
        weights::from_safetensors(&version.network, bytes, device).map_err(LoadError::Weights)?;
    let network = Timed::new(network);
    let (found, classes) = (network.classes(), encoder.classes().len());
    if found != classes {
        return Err(LoadError::Classes { found, classes });
    }
    Ok(ServedVersion {
        model,
        epoch: version.epoch,
        weights: version.weights,
        encoder,
        network: Box::new(network),
    })
}
