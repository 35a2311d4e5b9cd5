//! The way of a batch: load, update, measure, judge, publish.

use serde_json::json;
use uuid::Uuid;

use crate::{
    dataset::encoder::Encoder,
    domain::watch::Watch,
    domain::{
        examples::Examples,
        identity::Digest,
        version::{Cause, Encoding, Version, VersionMetrics},
    },
    fail_point,
    nn::{convex::Perturbation, device::DeviceKind, weights},
    store::{Claimed, NewVersion, Publication},
    unlearning::{
        Method, Task, UnlearningError, Update,
        evidence::{self, Evidence},
        gates::{self, Limits},
    },
};

use super::{
    JobError, Worker,
    draw::{self, Draw, DrawKey, Drawn},
    lease::Holding,
    perturbation::Perturbed,
    seed_of,
};

/// What an update computes on; owned, so that it can move to the computing threads.
pub(super) struct Batch {
    parent: Version,
    encoder: Encoder,
    weights: Vec<u8>,
    forgotten: Vec<Drawn>,
    retained: Vec<Drawn>,
    holdout: Vec<Drawn>,
    /// Of retained and held-out samples, for the record.
    pub(super) drawn: Digest,
    perturbation: Option<Perturbation>,
    seed: u64,
}

/// Samples as a network reads them, with what models said of them.
struct Rows {
    examples: Examples,
    /// `[rows, classes]` log-probabilities.
    out_of_fold: Vec<f32>,
    anchor: Vec<f32>,
}

/// An update that was computed and measured, but not judged yet.
pub(super) struct Updated {
    pub(super) weights: Vec<u8>,
    method: serde_json::Value,
    evidence: Evidence,
}

impl Worker {
    /// Serves a batch: an update that passes its gates is published, one that fails them gives
    /// way to a retraining. Returns the epoch that is current afterwards.
    pub(super) async fn unlearn(
        &self,
        claimed: &Claimed,
        holding: &Holding,
    ) -> Result<Option<u64>, JobError> {
        let model_id = claimed.model.id;
        let forgotten = self.store.batch_samples(claimed.job.id).await?;
        let parent = self.store.current_version(model_id).await?;
        let (Some(parent), false) = (parent, forgotten.is_empty()) else {
            return self.erase_only(claimed).await;
        };
        let policy = &claimed.model.policy;
        let method = (self.options.method_by_name)(&policy.method, &policy.method_parameters);
        let Ok(Method::Update(update)) = method else {
            return self.retrain(claimed, holding, Cause::Settled, None).await;
        };
        let limits = Limits::of(update.as_ref(), policy.holdout_accuracy_tolerance);
        // On the heap: what is loaded at once makes a large future.
        let loading = self.load_batch(claimed.job.id, parent, forgotten, update.as_ref());
        let batch = Box::pin(loading).await?;
        fail_point::pass("batch", "loaded").await;
        holding.check()?;

        let (device, watch) = (self.options.device, holding.watch());
        let parent = batch.parent.clone();
        let updated =
            self.compute.run(move || batch.apply(update.as_ref(), device, watch.as_ref())).await;
        holding.check()?;
        let updated = match updated {
            Err(JobError::Unlearning(UnlearningError::Refused(why))) => {
                return self.retrain_instead(claimed, holding, json!(null), &why).await;
            }
            // Others may have come in since the version was trained.
            Err(JobError::Unlearning(UnlearningError::NothingRetained)) => {
                let why = "all samples that the version was trained on are to be forgotten";
                return self.retrain_instead(claimed, holding, json!(null), why).await;
            }
            other => other?,
        };
        fail_point::pass("batch", "measured").await;
        let evidence = json!(updated.evidence);
        if let Err(failure) = gates::judge(&updated.evidence, limits) {
            let why = failure.to_string();
            return self.retrain_instead(claimed, holding, evidence, &why).await;
        }
        fail_point::pass("batch", "judged").await;
        self.publish_update(claimed, &parent, updated, evidence).await
    }

    async fn retrain_instead(
        &self,
        claimed: &Claimed,
        holding: &Holding,
        update: serde_json::Value,
        why: &str,
    ) -> Result<Option<u64>, JobError> {
        metrics::counter!("forgetd_gate_failures_total").increment(1);
        if let Some(until) = self.waits_for_budget(claimed).await? {
            return Err(JobError::OverBudget { why: why.to_owned(), until });
        }
        tracing::warn!(why, "the update is not published; retraining instead");
        let evidence = json!({"update": update, "gate_failure": why});
        self.retrain(claimed, holding, Cause::Settled, Some(evidence)).await
    }

    /// The batch's samples are in no weights (held out, or ingested since the last training):
    /// there is nothing to unlearn, only content to erase.
    async fn erase_only(&self, claimed: &Claimed) -> Result<Option<u64>, JobError> {
        let publication = Publication {
            lease: claimed.lease,
            now: self.now(),
            version: None,
            predictions: None,
            evidence: None,
        };
        Ok(self.store.publish(&publication).await?)
    }

    async fn publish_update(
        &self,
        claimed: &Claimed,
        parent: &Version,
        updated: Updated,
        evidence: serde_json::Value,
    ) -> Result<Option<u64>, JobError> {
        if let Some(used) = updated.method["details"]["budget_used"].as_f64() {
            let model = claimed.model.name.to_string();
            metrics::gauge!("forgetd_unlearning_budget_used", "model" => model).set(used);
        }
        let weights = self.blobs.put(claimed.job.id, updated.weights).await?.digest;
        fail_point::pass("batch", "stored").await;
        let forgotten = updated.evidence.samples;
        let publication = Publication {
            lease: claimed.lease,
            now: self.now(),
            version: Some(NewVersion {
                cause: Cause::Unlearned,
                parent_epoch: Some(parent.epoch),
                weights,
                network: parent.network.clone(),
                encoding: encoding(parent)?.clone(),
                metrics: VersionMetrics {
                    holdout_accuracy: updated.evidence.holdout_accuracy_after,
                    holdout_accuracy_exact: updated.evidence.holdout_accuracy_exact,
                    holdout_loss: updated.evidence.holdout_loss_after,
                    samples: parent.metrics.samples.saturating_sub(forgotten),
                },
                method: updated.method,
            }),
            predictions: None,
            evidence: Some(evidence),
        };
        Ok(self.store.publish(&publication).await?)
    }

    pub(super) async fn load_batch(
        &self,
        batch_id: Uuid,
        parent: Version,
        forgotten: Vec<Drawn>,
        update: &dyn Update,
    ) -> Result<Batch, JobError> {
        let perturbation = Perturbed::of(&parent.method)?
            .map(|it| it.draw(&self.service_key, parent.model_id, &parent.network))
            .transpose()?;
        let encoder = encoding(&parent)?.encoder.clone();
        let encoder = serde_json::from_value(encoder).map_err(|error| {
            JobError::Damaged(format!("encoder of {}: {error}", parent.model_id))
        })?;
        let retained_max = update.retained_rows_max();
        let key = DrawKey::read(&self.store, &parent, retained_max).await?;
        let draw = match self.reserve.take(&key).await {
            Some(draw) => draw,
            None => Draw::begin(&self.store, key).await?,
        };
        let except = forgotten.iter().map(|(sample, _)| sample.id).collect();
        let (weights, (retained, holdout)) = tokio::try_join!(
            async { Ok::<_, JobError>(self.blobs.get(parent.blob_name()).await?) },
            async { Ok(draw.finish(&self.store, &except).await?) },
        )?;
        Ok(Batch {
            parent,
            encoder,
            weights,
            forgotten,
            drawn: draw::digest(&retained, &holdout),
            retained,
            holdout,
            perturbation,
            seed: seed_of(batch_id),
        })
    }
}

fn encoding(version: &Version) -> Result<&Encoding, JobError> {
    version.encoding.as_ref().ok_or_else(|| {
        JobError::Damaged(format!("{} has no encoding at {}", version.model_id, version.epoch))
    })
}

impl Batch {
    pub(super) fn apply(
        self,
        update: &dyn Update,
        kind: DeviceKind,
        watch: &dyn Watch,
    ) -> Result<Updated, JobError> {
        let rows = |drawn| Rows::encode(&self.encoder, drawn);
        let forgotten = rows(self.forgotten)?;
        let (retained, holdout) = (rows(self.retained)?, rows(self.holdout)?);
        let trained_on = usize::try_from(self.parent.metrics.samples).unwrap_or(usize::MAX);
        let retained_total = trained_on.saturating_sub(forgotten.examples.len());
        let device = kind.device();
        let network = weights::from_safetensors(&self.parent.network, &self.weights, &device)?;
        let task = Task {
            network: &network,
            forgotten: &forgotten.examples,
            forgotten_out_of_fold: &forgotten.out_of_fold,
            forgotten_anchor: &forgotten.anchor,
            retained: &retained.examples,
            retained_out_of_fold: &retained.out_of_fold,
            retained_anchor: &retained.anchor,
            retained_total: retained_total.max(retained.examples.len()),
            holdout: &holdout.examples,
            holdout_out_of_fold: &holdout.out_of_fold,
            holdout_anchor: &holdout.anchor,
            perturbation: self.perturbation.as_ref(),
            seed: self.seed,
            device: &device,
        };
        let updated = update.update(&task, watch)?;
        fail_point::pass_blocking("batch", "updated");
        let evidence = evidence::measure(&task, &updated.network);
        let mut method = json!({
            "name": update.name(),
            "parameters": update.parameters(),
            "seed": self.seed,
            "device": kind,
            "drawn": self.drawn,
            "details": updated.details,
        });
        // What a training says of itself holds until the next.
        for name in ["ordinals", "perturbation"] {
            if let Some(recorded) = self.parent.method.get(name) {
                method[name] = recorded.clone();
            }
        }
        Ok(Updated { weights: weights::to_safetensors(&updated.network), method, evidence })
    }
}

impl Rows {
    fn encode(encoder: &Encoder, drawn: Vec<Drawn>) -> Result<Self, JobError> {
        let (samples, predictions): (Vec<_>, Vec<_>) = drawn.into_iter().unzip();
        Ok(Self {
            examples: encoder.encode(&samples)?,
            out_of_fold: predictions.iter().flat_map(|row| &row.out_of_fold).copied().collect(),
            anchor: predictions.iter().flat_map(|row| &row.anchor).copied().collect(),
        })
    }
}
