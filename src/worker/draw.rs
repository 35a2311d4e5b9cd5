//! Which samples a batch sees beside those that it forgets: drawn at random by their ordinals, so
//! that the cost depends on what is drawn and hardly on how many samples there are.
//!
//! The version that a batch starts from decides its draw. So most of it can be read before a
//! request comes ([`super::reserve`]), and an auditor who repeats the batch sees the same samples.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::{
    domain::{
        identity::Digest,
        sample::{SamplePredictions, Split, StoredSample},
        version::Version,
    },
    store::{Store, StoreError},
};

use super::{permutation::Permutation, seed_of};

/// Hold-out rows that evidence and stopping rule see at most.
const HOLDOUT_ROWS_MAX: usize = 1_024;

/// Ordinals looked up at a time; opening what is found there keeps a thread that also answers
/// requests busy.
const PAGE_ROWS_MIN: usize = 64;
const PAGE_ROWS_MAX: usize = 256;

/// At most so many ordinals are looked at for one split, or so many for each row that is wanted of it
/// where that is more, and no longer list of the split's own is read. Only of a split that is less
/// than one in 64 of more than sixteen million samples can fewer rows than wanted be drawn for that.
const LOOKED_AT_MAX: usize = 1 << 18;
const LOOKED_AT_PER_ROW_MAX: usize = 64;

/// A sample with what models said of it.
pub(super) type Drawn = (StoredSample, SamplePredictions);

/// The samples that a batch draws, as far as they were read.
pub(super) struct Draw {
    pub(super) key: DrawKey,
    /// Leaves of the audit log before anything was read: of later claims the log tells.
    since: u64,
    retained: Lot,
    holdout: Lot,
}

/// Everything that decides a draw, but for the samples that requests name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DrawKey {
    pub(super) model_id: Uuid,
    /// Of the version that the batch starts from.
    pub(super) epoch: u64,
    /// Ordinals that the model's samples had when the version was trained.
    pub(super) ordinals: u64,
    /// Training samples wanted; the method says how many.
    pub(super) retained_max: usize,
}

/// The draw from one split: the first of its rows in a random order of all ordinals.
struct Lot {
    split: Split,
    wanted: usize,
    order: Permutation,
    listing: Listing,
    /// Of the places at which rows may be found, in their order.
    looked_at: usize,
    /// Found there, in the same order.
    rows: Vec<Drawn>,
    /// Ordinals of those that a request named already.
    named: Vec<i64>,
}

/// Where in the order the split's rows are, when it has so few that it costs less to ask for all of
/// them than to come across some.
enum Listing {
    Unread,
    TooLong,
    /// Ascending, without what was looked at before.
    Places(Vec<u64>),
}

impl DrawKey {
    /// Of a batch that starts from `parent`.
    pub(super) async fn read(
        store: &Store,
        parent: &Version,
        retained_max: Option<usize>,
    ) -> Result<Self, StoreError> {
        let model_id = parent.model_id;
        // Those of a version that was trained before they were recorded are the present ones.
        let recorded = parent.method["ordinals"].as_u64();
        let ordinals = if let Some(recorded) = recorded {
            recorded
        } else {
            let last = store.last_ordinal(model_id).await?;
            last.map_or(0, |last| last.cast_unsigned() + 1)
        };
        let retained_max = retained_max.unwrap_or(usize::MAX);
        Ok(Self { model_id, epoch: parent.epoch, ordinals, retained_max })
    }
}

/// Tells two draws apart: SHA-256 over the number of retained rows, their ordinals, the number of
/// held-out ones and theirs, each as eight bytes, the highest first.
pub(super) fn digest(retained: &[Drawn], holdout: &[Drawn]) -> Digest {
    let mut bytes = Vec::with_capacity((2 + retained.len() + holdout.len()) * size_of::<u64>());
    for drawn in [retained, holdout] {
        bytes.extend((drawn.len() as u64).to_be_bytes());
        bytes.extend(drawn.iter().flat_map(|(sample, _)| sample.ordinal.to_be_bytes()));
    }
    Digest::of(&bytes)
}

impl Draw {
    /// Nothing of it is read yet.
    pub(super) async fn begin(store: &Store, key: DrawKey) -> Result<Self, StoreError> {
        let seed = seed_of(key.model_id).wrapping_add(key.epoch);
        let lot = |split, wanted| Lot::new(split, wanted, key.ordinals, seed);
        let retained = lot(Split::Train, key.retained_max);
        let holdout = lot(Split::Holdout, HOLDOUT_ROWS_MAX);
        Ok(Self { key, since: store.audit_size().await?, retained, holdout })
    }

    /// Reads a little more of it. False when nothing is left to read.
    pub(super) async fn advance(&mut self, store: &Store) -> Result<bool, StoreError> {
        for lot in [&mut self.retained, &mut self.holdout] {
            if !lot.is_read() {
                lot.read(store, self.key.model_id).await?;
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
        let (model_id, since) = (self.key.model_id, self.since);
        tokio::try_join!(
            self.retained.finish(store, model_id, since, except),
            self.holdout.finish(store, model_id, since, except),
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
    fn new(split: Split, wanted: usize, ordinals: u64, seed: u64) -> Self {
        let order = Permutation::new(ordinals, seed);
        Self {
            split,
            wanted,
            order,
            listing: Listing::Unread,
            looked_at: 0,
            rows: Vec::new(),
            named: Vec::new(),
        }
    }

    fn is_read(&self) -> bool {
        self.rows.len() >= self.wanted || self.looked_at == self.places()
    }

    /// At which rows may be found.
    fn places(&self) -> usize {
        match &self.listing {
            Listing::Places(places) => places.len(),
            Listing::Unread | Listing::TooLong => {
                usize::try_from(self.order.len).unwrap_or(usize::MAX).min(self.looked_at_max())
            }
        }
    }

    fn looked_at_max(&self) -> usize {
        self.wanted.saturating_mul(LOOKED_AT_PER_ROW_MAX).max(LOOKED_AT_MAX)
    }

    /// Looks at the next places, or lists where to look.
    async fn read(&mut self, store: &Store, model_id: Uuid) -> Result<(), StoreError> {
        if self.is_worth_listing() {
            return self.list(store, model_id).await;
        }
        let page = self.looked_at..self.places().min(self.looked_at + self.next_page());
        let looked_at = page.end;
        let ordinals: Vec<i64> = match &self.listing {
            Listing::Places(places) => places[page].iter().map(|it| self.ordinal_at(*it)).collect(),
            Listing::Unread | Listing::TooLong => {
                page.map(|place| self.ordinal_at(place as u64)).collect()
            }
        };
        let found = store.samples_at(model_id, self.split, &ordinals).await?;
        self.named.extend(found.named);
        let mut found: HashMap<i64, Drawn> =
            found.samples.into_iter().map(|drawn| (drawn.0.ordinal, drawn)).collect();
        self.rows.extend(ordinals.iter().filter_map(|ordinal| found.remove(ordinal)));
        self.looked_at = looked_at;
        Ok(())
    }

    /// Whether the split, at the share that was found so far, has fewer rows than there are ordinals
    /// to be looked at before enough of them are found.
    fn is_worth_listing(&self) -> bool {
        let share = self.rows.len() as f64 / self.looked_at as f64;
        let missing = self.wanted.saturating_sub(self.rows.len());
        matches!(self.listing, Listing::Unread)
            && self.looked_at > 0
            && share * share * (self.order.len as f64) < missing as f64
    }

    async fn list(&mut self, store: &Store, model_id: Uuid) -> Result<(), StoreError> {
        let (below, limit) = (self.order.len, self.places());
        let ordinals = store.ordinals(model_id, self.split, below, limit as u64).await?;
        if ordinals.len() == limit {
            self.listing = Listing::TooLong;
            return Ok(());
        }
        let places = ordinals.iter().map(|ordinal| self.order.place_of(ordinal.cast_unsigned()));
        let mut places: Vec<u64> = places.filter(|it| *it >= self.looked_at as u64).collect();
        places.sort_unstable();
        self.listing = Listing::Places(places);
        self.looked_at = 0;
        Ok(())
    }

    fn ordinal_at(&self, place: u64) -> i64 {
        self.order.at(place).cast_signed()
    }

    async fn finish(
        mut self,
        store: &Store,
        model_id: Uuid,
        since: u64,
        except: &HashSet<Uuid>,
    ) -> Result<Vec<Drawn>, StoreError> {
        let mut sifted = 0;
        loop {
            while !self.is_read() {
                self.read(store, model_id).await?;
            }
            if self.rows.len() == sifted {
                break;
            }
            let named = store.named_samples(model_id, &self.named, since).await?;
            self.named.clear();
            self.rows.retain(|(row, _)| !named.contains(&row.ordinal) && !except.contains(&row.id));
            sifted = self.rows.len();
        }
        self.rows.truncate(self.wanted);
        self.rows.sort_unstable_by_key(|(row, _)| row.ordinal);
        Ok(self.rows)
    }

    fn bytes_expected(&self) -> usize {
        let rows = self.wanted.min(self.rows.len() + self.places() - self.looked_at);
        let found: usize = self.rows.iter().map(bytes).sum();
        (found / self.rows.len().max(1)).saturating_mul(rows)
    }

    /// As many places as hold what is still missing, at the share that was found so far.
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
