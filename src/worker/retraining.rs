//! Training and settlement: the same recipe over every live sample that no request names.

use std::sync::Arc;

use burn::tensor::Device;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    dataset::encoder::Encoder,
    domain::{
        examples::Examples,
        identity::ServiceKey,
        model::Model,
        network::NetworkSpec,
        sample::{SamplePredictions, Split, StoredSample},
        version::{Cause, Encoding, VersionMetrics},
        watch::Watch,
    },
    fail_point,
    nn::{
        convex::polish, cross_fitting::cross_fit, device::DeviceKind, network::Network, prediction,
        training, weights,
    },
    store::{Claimed, NewVersion, Publication},
};

use super::{JobError, Worker, lease::Holding, perturbation::Perturbed};

/// Rows read from the ledger at a time.
pub(super) const PAGE_ROWS: u32 = 4_096;

/// Predictions that one transaction writes: others wait for it, some ten milliseconds.
const PREDICTIONS_AT_ONCE: usize = 1_000;

impl Worker {
    /// Trains on all live samples and publishes. Serves training runs, settlements, and batches
    /// whose update did not pass its gates, whose `evidence` then says why.
    pub(super) async fn retrain(
        &self,
        claimed: &Claimed,
        holding: &Holding,
        cause: Cause,
        evidence: Option<Value>,
    ) -> Result<Option<u64>, JobError> {
        let model = &claimed.model;
        let parent_epoch = self.store.current_version(model.id).await?.map(|parent| parent.epoch);
        let train = self.load(model.id, Split::Train, holding).await?;
        let holdout = self.load(model.id, Split::Holdout, holding).await?;
        if train.is_empty() {
            return Err(JobError::NoSamples);
        }
        let (device, watch) = (self.options.device, holding.watch());
        let plan = Plan {
            model: model.clone(),
            perturbed: self.perturbed(model, claimed.job.id),
            service_key: self.service_key.clone(),
        };
        let mut method = plan.method(device);
        method["ordinals"] = json!(ordinals_of(&train, &holdout));
        let training = move || Trained::fit(&plan, &train, holdout, device, watch.as_ref());
        let trained = self.compute.run(training).await;
        holding.check()?;
        let trained = trained?;
        fail_point::pass("retraining", "computed").await;
        let weights = self.blobs.put(claimed.job.id, trained.weights).await?.digest;
        fail_point::pass("retraining", "stored").await;
        for predictions in trained.predictions.chunks(PREDICTIONS_AT_ONCE) {
            self.store.stage_predictions(&claimed.lease, predictions).await?;
        }
        let publication = Publication {
            lease: claimed.lease,
            now: self.now(),
            version: Some(NewVersion {
                cause,
                parent_epoch,
                weights,
                network: trained.network,
                encoding: trained.encoding,
                metrics: trained.metrics,
                method,
            }),
            predictions: Some(trained.predictions.len() as u64),
            evidence,
        };
        Ok(self.store.publish(&publication).await?)
    }

    async fn load(
        &self,
        model_id: Uuid,
        split: Split,
        holding: &Holding,
    ) -> Result<Vec<StoredSample>, JobError> {
        let mut samples: Vec<StoredSample> = Vec::new();
        loop {
            holding.check()?;
            let after = samples.last().map_or(-1, |sample| sample.ordinal);
            let page = self.store.samples(model_id, split, after, PAGE_ROWS).await?;
            if page.is_empty() {
                return Ok(samples);
            }
            samples.extend(page);
        }
    }
}

/// One more than the last of theirs. Batches draw below it, whatever comes in later.
fn ordinals_of(train: &[StoredSample], holdout: &[StoredSample]) -> u64 {
    let last = [train, holdout].into_iter().filter_map(<[_]>::last).map(|sample| sample.ordinal);
    last.max().map_or(0, |last| last.cast_unsigned() + 1)
}

/// How a model is trained.
pub(super) struct Plan {
    pub(super) model: Model,
    pub(super) perturbed: Option<Perturbed>,
    pub(super) service_key: Arc<ServiceKey>,
}

impl Plan {
    /// For the record.
    fn method(&self, device: DeviceKind) -> Value {
        let mut method = json!({"name": "retrain", "recipe": self.model.recipe, "device": device});
        if let Some(perturbed) = &self.perturbed {
            method["perturbation"] = json!(perturbed);
        }
        method
    }
}

/// A network with the encoder that its inputs went through: all that the weights depend on.
pub(super) struct Fitted {
    pub(super) network: Network,
    spec: NetworkSpec,
    encoder: Encoder,
    rows: Examples,
}

impl Fitted {
    pub(super) fn fit(
        plan: &Plan,
        train: &[StoredSample],
        device: &Device,
        watch: &dyn Watch,
    ) -> Result<Self, JobError> {
        let model = &plan.model;
        let encoder = Encoder::fit(&model.schema, train)?;
        let spec = model.architecture.resolve(&encoder.input_shape(), encoder.classes().len())?;
        let rows = encoder.encode(train)?;
        let mut network = training::train(&spec, &rows, &model.recipe, device, watch)?;
        if let Some(perturbed) = &plan.perturbed {
            if !spec.is_linear() {
                return Err(JobError::NotLinear);
            }
            let perturbation = perturbed.draw(&plan.service_key, model.id, &spec)?;
            network = polish(&network, &rows, &perturbation, watch)?;
        }
        Ok(Self { network, spec, encoder, rows })
    }
}

/// What a training run makes, ready to be stored.
struct Trained {
    network: NetworkSpec,
    encoding: Encoding,
    weights: Vec<u8>,
    predictions: Vec<SamplePredictions>,
    metrics: VersionMetrics,
}

impl Trained {
    fn fit(
        plan: &Plan,
        train: &[StoredSample],
        mut holdout: Vec<StoredSample>,
        device: DeviceKind,
        watch: &dyn Watch,
    ) -> Result<Self, JobError> {
        let device = device.device();
        let model = &plan.model;
        let fitted = Fitted::fit(plan, train, &device, watch)?;
        let Fitted { spec, encoder, rows: train_rows, network } = fitted;
        let classes = encoder.classes().to_vec();
        // A label that no training sample has cannot be predicted, nor measure anything.
        holdout.retain(|sample| classes.contains(&sample.label));
        let holdout_rows = encoder.encode(&holdout)?;

        let folds = cross_fit(&spec, &train_rows, &holdout_rows, &model.recipe, &device, watch)?;
        let train_anchors = prediction::log_probabilities(&network, &train_rows);
        let holdout_anchors = prediction::log_probabilities(&network, &holdout_rows);

        let mut predictions = paired(train, &folds.train, &train_anchors, classes.len());
        predictions.extend(paired(&holdout, &folds.holdout, &holdout_anchors, classes.len()));
        let metrics = VersionMetrics {
            holdout_accuracy: prediction::accuracy(&holdout_anchors, &holdout_rows.labels),
            holdout_accuracy_exact: None,
            holdout_loss: prediction::mean_cross_entropy(&holdout_anchors, &holdout_rows.labels),
            samples: train.len() as u64,
        };
        Ok(Self {
            encoding: Encoding {
                encoder: serde_json::to_value(&encoder)
                    .map_err(|error| JobError::Damaged(error.to_string()))?,
                classes,
            },
            weights: weights::to_safetensors(&network),
            predictions,
            metrics,
            network: spec,
        })
    }
}

/// Each sample with its rows of two `[samples, classes]` matrices of log-probabilities.
fn paired(
    samples: &[StoredSample],
    out_of_fold: &[f32],
    anchors: &[f32],
    classes: usize,
) -> Vec<SamplePredictions> {
    let rows = out_of_fold.chunks_exact(classes).zip(anchors.chunks_exact(classes));
    samples
        .iter()
        .zip(rows)
        .map(|(sample, (out_of_fold, anchor))| SamplePredictions {
            sample_id: sample.id,
            out_of_fold: out_of_fold.to_vec(),
            anchor: anchor.to_vec(),
        })
        .collect()
}
