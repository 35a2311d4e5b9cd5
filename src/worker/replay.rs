//! Making a version again from what the record says of it, so that its weights can be compared.
//! Nothing is published.

use burn::tensor::Device;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    domain::{
        deletion::Target,
        identity::Digest,
        job::JobKind,
        model::Model,
        sample::StoredSample,
        watch::{Progress, Watch},
    },
    nn::{device::DeviceKind, weights},
    store::StoreError,
    unlearning::{Method, Update},
};

use super::{
    JobError, ProgressListener, Worker,
    retraining::{Fitted, PAGE_ROWS, Plan},
    unlearning::Batch,
};

/// What the record says of a version.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub model_id: Uuid,
    pub epoch: u64,
    /// With every parameter, and the device.
    pub method: Value,
    pub origin: Origin,
}

/// What a version was made from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// So many training samples.
    Samples(u64),
    Parent(RecordedUpdate),
}

#[derive(Clone, Debug)]
pub struct RecordedUpdate {
    pub parent_epoch: u64,
    pub parent_weights: Digest,
    /// Its id decides the seed.
    pub batch_id: Uuid,
    pub targets: Vec<Target>,
    /// Samples that it forgot.
    pub forgotten: u64,
}

/// A version that was made again.
#[derive(Clone, Copy, Debug)]
pub struct Replayed {
    pub weights: Digest,
    /// Whether the record says that the update drew the very samples that it drew here; a training
    /// draws none.
    pub is_same_draw: bool,
}

/// Why a version cannot be made again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("this ledger has no model {0}; name the service's own ledger, or a copy of it")]
    UnknownModel(Uuid),
    #[error("this build of forgetd cannot read the record's {0:?}")]
    Unreadable(&'static str),
    #[error(
        "this build of forgetd has no method {0:?} of these parameters; use the one that made it"
    )]
    OtherMethod(String),
    #[error(
        "of the {of} samples that it was trained on {left} are left: the others were deleted \
         since, and their content with them"
    )]
    SamplesGone { of: u64, left: u64 },
    #[error(
        "an update destroys the content of what it forgets, so that only a copy of the ledger \
         from before, at epoch {parent}, can repeat it; this one is at epoch {current}"
    )]
    NotBefore { parent: u64, current: u64 },
    #[error("epoch {0} of this ledger has other weights than the update was made from")]
    OtherParent(u64),
    #[error(
        "the batch forgot {of} samples, of which this ledger holds {left} under the request's \
         targets: it served other requests too, or this copy is of another time"
    )]
    OtherSamples { of: u64, left: u64 },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Failed(#[from] JobError),
}

impl Worker {
    /// What the recorded version's samples, method and seeds give here and now.
    ///
    /// # Errors
    /// When what it was made from is not there any more, or this build would not do the same.
    pub async fn replay(&self, recorded: Recorded) -> Result<Replayed, ReplayError> {
        let model = self.store.model_by_id(recorded.model_id).await?;
        let model = model.ok_or(ReplayError::UnknownModel(recorded.model_id))?;
        let device: DeviceKind = field(&recorded.method, "device")?;
        let (weights, is_same_draw) = match &recorded.origin {
            Origin::Samples(count) => {
                let plan = Plan {
                    model: Model { recipe: field(&recorded.method, "recipe")?, ..model },
                    perturbed: field(&recorded.method, "perturbation")?,
                    service_key: self.service_key.clone(),
                };
                let trained =
                    self.train_again(plan, recorded.epoch, *count, device.device()).await?;
                (trained, true)
            }
            Origin::Parent(made_by) => {
                let update = self.method_again(&recorded.method)?;
                let batch = self.batch_again(model.id, made_by, update.as_ref()).await?;
                let recorded: Option<Digest> = field(&recorded.method, "drawn")?;
                let is_same_draw = recorded == Some(batch.drawn);
                let watch = self.reporting(JobKind::Unlearning);
                let updating = move || batch.apply(update.as_ref(), device, &watch);
                (self.compute.run(updating).await?.weights, is_same_draw)
            }
        };
        Ok(Replayed { weights: Digest::of(&weights), is_same_draw })
    }

    fn method_again(&self, method: &Value) -> Result<Box<dyn Update>, ReplayError> {
        let name: String = field(method, "name")?;
        match (self.options.method_by_name)(&name, &field(method, "parameters")?) {
            Ok(Method::Update(update)) => Ok(update),
            Ok(Method::Retrain) | Err(_) => Err(ReplayError::OtherMethod(name)),
        }
    }

    async fn train_again(
        &self,
        plan: Plan,
        epoch: u64,
        of: u64,
        device: Device,
    ) -> Result<Vec<u8>, ReplayError> {
        let mut train: Vec<StoredSample> = Vec::new();
        loop {
            let after = train.last().map_or(-1, |sample| sample.ordinal);
            let page = self.store.version_samples(plan.model.id, epoch, after, PAGE_ROWS).await?;
            if page.is_empty() {
                break;
            }
            train.extend(page);
        }
        let left = train.len() as u64;
        if of != left {
            return Err(ReplayError::SamplesGone { of, left });
        }
        let watch = self.reporting(JobKind::Settlement);
        let training = move || {
            let fitted = Fitted::fit(&plan, &train, &device, &watch)?;
            Ok(weights::to_safetensors(&fitted.network))
        };
        Ok(self.compute.run(training).await?)
    }

    async fn batch_again(
        &self,
        model_id: Uuid,
        made_by: &RecordedUpdate,
        update: &dyn Update,
    ) -> Result<Batch, ReplayError> {
        let epoch = made_by.parent_epoch;
        let parent = match self.store.current_version(model_id).await? {
            Some(current) if current.epoch == epoch => current,
            other => {
                let current = other.map_or(0, |version| version.epoch);
                return Err(ReplayError::NotBefore { parent: epoch, current });
            }
        };
        if parent.weights != made_by.parent_weights {
            return Err(ReplayError::OtherParent(epoch));
        }
        let forgotten = self.store.target_samples(model_id, &made_by.targets).await?;
        let (of, left) = (made_by.forgotten, forgotten.len() as u64);
        if of != left {
            return Err(ReplayError::OtherSamples { of, left });
        }
        let loading = self.load_batch(made_by.batch_id, parent, forgotten, update);
        Ok(Box::pin(loading).await?)
    }

    fn reporting(&self, kind: JobKind) -> Reporting {
        Reporting { kind, listener: self.listener.clone() }
    }
}

/// A field of the recorded method.
fn field<T: DeserializeOwned>(method: &Value, name: &'static str) -> Result<T, ReplayError> {
    serde_json::from_value(method[name].clone()).map_err(|_| ReplayError::Unreadable(name))
}

/// Tells the worker's listener; no lease is held that could be lost.
struct Reporting {
    kind: JobKind,
    listener: Option<ProgressListener>,
}

impl Watch for Reporting {
    fn progressed(&self, progress: &Progress) {
        if let Some(listener) = &self.listener {
            listener(self.kind, progress);
        }
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}
