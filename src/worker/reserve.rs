//! What the next batch of a model will draw, read while there is nothing else to do: most of a
//! small deletion's time would go into it.
//!
//! Samples stay in memory for it between two batches. A request that names one of them takes it
//! out of the draw, and whatever happens to the model clears them all away.

use std::collections::VecDeque;

use tokio::sync::Mutex;
use uuid::Uuid;

use crate::{store::StoreError, unlearning::Method};

use super::{
    Worker,
    draw::{Draw, DrawKey},
};

pub(super) struct Reserve {
    bytes_max: usize,
    /// The model whose batch was the latest comes first.
    entries: Mutex<VecDeque<Entry>>,
}

struct Entry {
    model_id: Uuid,
    /// The model's newest job when the reading began.
    after_job: Option<Uuid>,
    draw: Option<Draw>,
}

/// Models whose next batch is prepared for.
const MODELS_MAX: usize = 8;

impl Reserve {
    /// Holds at most about `bytes_max` of samples; none at all at 0.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, entries: Mutex::default() }
    }

    /// From now on the model's next batch is prepared for.
    pub(super) async fn expect(&self, model_id: Uuid) {
        if self.bytes_max == 0 {
            return;
        }
        let mut entries = self.entries.lock().await;
        entries.retain(|entry| entry.model_id != model_id);
        entries.push_front(Entry { model_id, after_job: None, draw: None });
        entries.truncate(MODELS_MAX);
    }

    /// What was read of that draw, if it was begun.
    pub(super) async fn take(&self, key: &DrawKey) -> Option<Draw> {
        let mut entries = self.entries.lock().await;
        let entry = entries.iter_mut().find(|entry| entry.model_id == key.model_id)?;
        entry.draw.take().filter(|draw| draw.key == *key)
    }
}

impl Worker {
    /// Samples that wait in memory for the models' next batches.
    pub async fn reserved_samples(&self) -> usize {
        let entries = self.reserve.entries.lock().await;
        entries.iter().filter_map(|entry| entry.draw.as_ref()).map(Draw::len).sum()
    }

    /// Reads a little more of what next batches will draw. False when there is nothing to read.
    pub(super) async fn prepare(&self) -> Result<bool, StoreError> {
        let has_read = self.read_in_advance().await;
        metrics::gauge!("forgetd_reserved_samples").set(self.reserved_samples().await as f64);
        has_read
    }

    async fn read_in_advance(&self) -> Result<bool, StoreError> {
        let mut entries = self.reserve.entries.lock().await;
        for place in 0..entries.len() {
            if self.prepare_for(&mut entries[place]).await? {
                make_room(&mut entries, place, self.reserve.bytes_max);
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn prepare_for(&self, entry: &mut Entry) -> Result<bool, StoreError> {
        let newest = self.store.jobs(entry.model_id, None, None, 1).await?.pop();
        let is_at_work = newest.as_ref().is_some_and(|job| !job.state.has_ended());
        let after_job = newest.map(|job| job.id);
        if is_at_work || entry.after_job != after_job {
            entry.draw = None;
            entry.after_job = after_job;
        }
        if is_at_work {
            return Ok(false);
        }
        let Some(key) = self.next_draw(entry.model_id).await? else {
            entry.draw = None;
            return Ok(false);
        };
        match &mut entry.draw {
            Some(draw) if draw.key == key => draw.advance(&self.store).await,
            stale => {
                *stale = Some(Draw::new(key));
                Ok(true)
            }
        }
    }

    /// Of a batch that would start now; `None` where it would draw nothing, or everything.
    async fn next_draw(&self, model_id: Uuid) -> Result<Option<DrawKey>, StoreError> {
        let Some(model) = self.store.model_by_id(model_id).await? else { return Ok(None) };
        let Some(version) = self.store.current_version(model_id).await? else { return Ok(None) };
        let policy = &model.policy;
        match (self.options.method_by_name)(&policy.method, &policy.method_parameters) {
            Ok(Method::Update(update)) if update.retained_rows_max().is_some() => {
                let retained_max = update.retained_rows_max();
                DrawKey::read(&self.store, model_id, version.epoch, retained_max).await.map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// Lets go of the other draws, the oldest first, and in the end of the one at `place`, until what
/// they are going to take up fits.
fn make_room(entries: &mut VecDeque<Entry>, place: usize, bytes_max: usize) {
    let kept = entries[place].model_id;
    let others = entries.iter().rev().map(|entry| entry.model_id).filter(|it| *it != kept);
    for victim in others.chain([kept]).collect::<Vec<_>>() {
        let expected = entries.iter().filter_map(|entry| entry.draw.as_ref());
        if expected.map(Draw::bytes_expected).sum::<usize>() <= bytes_max {
            return;
        }
        entries.retain(|entry| entry.model_id != victim);
    }
}
