//! The way of a batch: load, update, measure, judge, publish.

use std::collections::HashSet;

use rand::seq::index;
use serde_json::json;
use uuid::Uuid;

use crate::{
    dataset::encoder::Encoder,
    domain::watch::Watch,
    domain::{
        examples::Examples,
        sample::{SamplePredictions, Split, StoredSample},
        version::{Cause, Version, VersionMetrics},
    },
    fail_point,
    nn::{convex::Perturbation, device::DeviceKind, weights},
    store::{Claimed, NewVersion, Publication},
    unlearning::{
        Method, Task, UnlearningError, Update,
        evidence::{self, Evidence},
        gates,
    },
};

use super::{JobError, Worker, lease::Holding, perturbation::Perturbed, rng_of, seed_of};

/// Hold-out rows that evidence and stopping rule see at most.
const HOLDOUT_ROWS_MAX: usize = 2_048;

/// Ordinals looked up at a time.
const PAGE_ROWS_MIN: usize = 64;
const PAGE_ROWS_MAX: usize = 4_096;

/// What an update computes on; owned, so that it can move to the computing threads.
pub(super) struct Batch {
    parent: Version,
    weights: Vec<u8>,
    forgotten: Rows,
    retained: Rows,
    holdout: Rows,
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

/// What decides which samples a batch draws at random.
pub(super) struct Drawing {
    pub(super) model_id: Uuid,
    pub(super) batch_id: Uuid,
    /// Samples that are left out, beside those that an open request names.
    pub(super) except: HashSet<Uuid>,
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
        // On the heap: what is loaded at once makes a large future.
        let drawing = Drawing { model_id, batch_id: claimed.job.id, except: HashSet::new() };
        let loading = self.load_batch(&drawing, parent, forgotten, update.as_ref());
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
            other => other?,
        };
        fail_point::pass("batch", "measured").await;
        let evidence = json!(updated.evidence);
        if let Err(failure) = gates::judge(&updated.evidence, policy.holdout_accuracy_tolerance) {
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
        tracing::warn!(why, "the update is not published; retraining instead");
        metrics::counter!("forgetd_gate_failures_total").increment(1);
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
        let weights = self.blobs.put(updated.weights).await?;
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
                encoder: parent.encoder.clone(),
                classes: parent.classes.clone(),
                metrics: VersionMetrics {
                    holdout_accuracy: updated.evidence.holdout_accuracy_after,
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
        drawing: &Drawing,
        parent: Version,
        forgotten: Vec<(StoredSample, SamplePredictions)>,
        update: &dyn Update,
    ) -> Result<Batch, JobError> {
        let retained_max = update.retained_rows_max().unwrap_or(usize::MAX);
        let (weights, retained, holdout) = tokio::try_join!(
            async { Ok(self.blobs.get(parent.weights).await?) },
            self.draw(drawing, Split::Train, retained_max),
            self.draw(drawing, Split::Holdout, HOLDOUT_ROWS_MAX),
        )?;
        let perturbation = Perturbed::of(&parent.method)?
            .map(|it| it.draw(&self.service_key, parent.model_id, &parent.network))
            .transpose()?;
        let encoder: Encoder = serde_json::from_value(parent.encoder.clone()).map_err(|error| {
            JobError::Damaged(format!("encoder of {}: {error}", parent.model_id))
        })?;
        Ok(Batch {
            weights,
            forgotten: Rows::encode(&encoder, forgotten)?,
            retained: Rows::encode(&encoder, retained)?,
            holdout: Rows::encode(&encoder, holdout)?,
            perturbation,
            seed: seed_of(drawing.batch_id),
            parent,
        })
    }

    /// At most about `rows_max` live samples of a split, drawn at random by their ordinals: the
    /// cost depends on what is drawn, not on how many samples there are.
    async fn draw(
        &self,
        drawing: &Drawing,
        split: Split,
        rows_max: usize,
    ) -> Result<Vec<(StoredSample, SamplePredictions)>, JobError> {
        let model_id = drawing.model_id;
        let Some(last) = self.store.last_ordinal(model_id).await? else { return Ok(Vec::new()) };
        let all = usize::try_from(last).unwrap_or(usize::MAX).saturating_add(1);
        // Both splits share the ordinals, and some are deleted: look at twice as many.
        let looked_at = rows_max.saturating_mul(2).min(all);
        let ordinals: Vec<i64> = index::sample(&mut rng_of(drawing.batch_id), all, looked_at)
            .into_iter()
            .filter_map(|ordinal| i64::try_from(ordinal).ok())
            .collect();
        let (mut rows, mut ordinals) = (Vec::new(), ordinals.as_slice());
        let mut wanted = rows_max;
        while !ordinals.is_empty() && rows.len() < rows_max {
            let size = wanted.clamp(PAGE_ROWS_MIN, PAGE_ROWS_MAX).min(ordinals.len());
            let (page, later) = ordinals.split_at(size);
            let mut found = self.store.samples_at(model_id, split, page).await?;
            found.retain(|(sample, _)| !drawing.except.contains(&sample.id));
            let hits = found.len().max(1);
            rows.extend(found);
            ordinals = later;
            // As many as are still missing, at the share that was found just now.
            wanted = rows_max.saturating_sub(rows.len()).saturating_mul(size).div_ceil(hits);
        }
        rows.truncate(rows_max);
        Ok(rows)
    }
}

impl Batch {
    /// Of the rows that the parent was made of, those that stay.
    fn retained_total(&self) -> usize {
        let all = usize::try_from(self.parent.metrics.samples).unwrap_or(usize::MAX);
        all.saturating_sub(self.forgotten.examples.len()).max(self.retained.examples.len())
    }

    pub(super) fn apply(
        self,
        update: &dyn Update,
        kind: DeviceKind,
        watch: &dyn Watch,
    ) -> Result<Updated, JobError> {
        let device = kind.device();
        let network = weights::from_safetensors(&self.parent.network, &self.weights, &device)?;
        let task = Task {
            network: &network,
            forgotten: &self.forgotten.examples,
            forgotten_out_of_fold: &self.forgotten.out_of_fold,
            forgotten_anchor: &self.forgotten.anchor,
            retained: &self.retained.examples,
            retained_out_of_fold: &self.retained.out_of_fold,
            retained_anchor: &self.retained.anchor,
            retained_total: self.retained_total(),
            holdout: &self.holdout.examples,
            holdout_out_of_fold: &self.holdout.out_of_fold,
            holdout_anchor: &self.holdout.anchor,
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
            "details": updated.details,
        });
        if let Some(perturbed) = self.parent.method.get("perturbation") {
            method["perturbation"] = perturbed.clone();
        }
        Ok(Updated { weights: weights::to_safetensors(&updated.network), method, evidence })
    }
}

impl Rows {
    fn encode(
        encoder: &Encoder,
        rows: Vec<(StoredSample, SamplePredictions)>,
    ) -> Result<Self, JobError> {
        let (samples, predictions): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        Ok(Self {
            examples: encoder.encode(&samples)?,
            out_of_fold: predictions.iter().flat_map(|row| &row.out_of_fold).copied().collect(),
            anchor: predictions.iter().flat_map(|row| &row.anchor).copied().collect(),
        })
    }
}
