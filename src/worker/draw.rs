//! Which samples a batch sees beside those that it forgets: drawn at random by their ordinals, so
//! that the cost depends on what is drawn and not on how many samples there are.
//!
//! The version that a batch starts from decides its draw. So most of it can be read before a
//! request comes ([`super::reserve`]), and an auditor who repeats the batch sees the same samples.

use std::collections::{HashMap, HashSet};

use rand::{SeedableRng as _, seq::index};
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

use crate::{
    domain::sample::{SamplePredictions, Split, StoredSample},
    store::{Store, StoreError},
};

use super::seed_of;

/// Hold-out rows that evidence and stopping rule see at most.
const HOLDOUT_ROWS_MAX: usize = 2_048;

/// Ordinals looked up at a time; opening what is found there keeps a thread that also answers
/// requests busy.
const PAGE_ROWS_MIN: usize = 64;
const PAGE_ROWS_MAX: usize = 256;

/// A sample with what models said of it.
pub(super) type Drawn = (StoredSample, SamplePredictions);

/// The samples that a batch draws, as far as they were read.
pub(super) struct Draw {
    pub(super) key: DrawKey,
    retained: Lot,
    holdout: Lot,
}

/// Everything that decides a draw, but for the samples that requests name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DrawKey {
    pub(super) model_id: Uuid,
    /// Of the version that the batch starts from.
    pub(super) epoch: u64,
    /// Ordinals that the model's samples have had.
    pub(super) ordinals: usize,
    /// Training samples wanted; the method says how many.
    pub(super) retained_max: usize,
}

/// The draw from one split.
struct Lot {
    split: Split,
    wanted: usize,
    /// In the order of the draw.
    ordinals: Vec<i64>,
    looked_at: usize,
    /// Found there, in the same order.
    rows: Vec<Drawn>,
}

impl DrawKey {
    pub(super) async fn read(
        store: &Store,
        model_id: Uuid,
        epoch: u64,
        retained_max: Option<usize>,
    ) -> Result<Self, StoreError> {
        let last = store.last_ordinal(model_id).await?;
        let ordinals =
            last.map_or(0, |last| usize::try_from(last).unwrap_or(usize::MAX).saturating_add(1));
        let retained_max = retained_max.unwrap_or(usize::MAX);
        Ok(Self { model_id, epoch, ordinals, retained_max })
    }
}

impl Draw {
    pub(super) fn new(key: DrawKey) -> Self {
        let seed = seed_of(key.model_id).wrapping_add(key.epoch);
        let lot = |split, wanted| Lot::new(split, wanted, key.ordinals, seed);
        let retained = lot(Split::Train, key.retained_max);
        let holdout = lot(Split::Holdout, HOLDOUT_ROWS_MAX);
        Self { key, retained, holdout }
    }

    /// Reads a little more of it. False when nothing is left to read.
    pub(super) async fn advance(&mut self, store: &Store) -> Result<bool, StoreError> {
        for lot in [&mut self.retained, &mut self.holdout] {
            if !lot.is_read() {
                lot.read(store, self.key.model_id, PAGE_ROWS_MAX).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Retained and held-out samples in order of ingestion, without those that a request names by
    /// now and those of `except`.
    pub(super) async fn finish(
        self,
        store: &Store,
        except: &HashSet<Uuid>,
    ) -> Result<(Vec<Drawn>, Vec<Drawn>), StoreError> {
        let model_id = self.key.model_id;
        tokio::try_join!(
            self.retained.finish(store, model_id, except),
            self.holdout.finish(store, model_id, except),
        )
    }

    /// Samples that were read.
    pub(super) fn len(&self) -> usize {
        self.retained.rows.len() + self.holdout.rows.len()
    }

    /// What it will take up when it is read, about; 0 before anything was found.
    pub(super) fn bytes_expected(&self) -> usize {
        self.retained.bytes_expected() + self.holdout.bytes_expected()
    }
}

impl Lot {
    fn new(split: Split, wanted: usize, all: usize, seed: u64) -> Self {
        // Both splits share the ordinals, and some are deleted: look at twice as many.
        let looked_at = wanted.saturating_mul(2).min(all);
        let ordinals = index::sample(&mut ChaCha8Rng::seed_from_u64(seed), all, looked_at)
            .into_iter()
            .filter_map(|ordinal| i64::try_from(ordinal).ok())
            .collect();
        Self { split, wanted, ordinals, looked_at: 0, rows: Vec::new() }
    }

    fn is_read(&self) -> bool {
        self.rows.len() >= self.wanted || self.looked_at == self.ordinals.len()
    }

    /// Looks at the next `page` ordinals.
    async fn read(&mut self, store: &Store, model_id: Uuid, page: usize) -> Result<(), StoreError> {
        let left = &self.ordinals[self.looked_at..];
        let page = &left[..page.min(left.len())];
        let found = store.samples_at(model_id, self.split, page).await?;
        let mut found: HashMap<i64, Drawn> =
            found.into_iter().map(|drawn| (drawn.0.ordinal, drawn)).collect();
        self.rows.extend(page.iter().filter_map(|ordinal| found.remove(ordinal)));
        self.looked_at += page.len();
        Ok(())
    }

    async fn finish(
        mut self,
        store: &Store,
        model_id: Uuid,
        except: &HashSet<Uuid>,
    ) -> Result<Vec<Drawn>, StoreError> {
        let mut sifted = 0;
        loop {
            while !self.is_read() {
                self.read(store, model_id, self.next_page()).await?;
            }
            let new: Vec<i64> = self.rows[sifted..].iter().map(|(row, _)| row.ordinal).collect();
            if new.is_empty() {
                break;
            }
            let named = store.named_samples(model_id, &new).await?;
            self.rows.retain(|(row, _)| !named.contains(&row.ordinal) && !except.contains(&row.id));
            sifted = self.rows.len();
        }
        self.rows.truncate(self.wanted);
        self.rows.sort_unstable_by_key(|(row, _)| row.ordinal);
        Ok(self.rows)
    }

    fn bytes_expected(&self) -> usize {
        let rows = self.wanted.min(self.ordinals.len());
        let found: usize = self.rows.iter().map(bytes).sum();
        (found / self.rows.len().max(1)).saturating_mul(rows)
    }

    /// As many ordinals as hold what is still missing, at the share that was found so far.
    fn next_page(&self) -> usize {
        let missing = self.wanted.saturating_sub(self.rows.len());
        let looked_at = self.looked_at.max(1);
        let found = if self.looked_at == 0 { 1 } else { self.rows.len().max(1) };
        missing.saturating_mul(looked_at).div_ceil(found).clamp(PAGE_ROWS_MIN, PAGE_ROWS_MAX)
    }
}

fn bytes((sample, predictions): &Drawn) -> usize {
    let floats = predictions.out_of_fold.len() + predictions.anchor.len();
    size_of::<Drawn>() + sample.features.size() + sample.label.len() + floats * size_of::<f32>()
}
