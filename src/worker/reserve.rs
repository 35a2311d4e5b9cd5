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
        count_samples(&*self.reserve.entries.lock().await)
    }

    /// Reads what next batches will draw, page by page, until all of it is read or nobody waits for
    /// it any more.
    pub(super) async fn prepare(&self) -> Result<(), StoreError> {
        self.renew_reserve().await?;
        while self.read_a_page().await? {}
        Ok(())
    }

    /// Lets go of what was read for models to which something has happened since.
    async fn renew_reserve(&self) -> Result<(), StoreError> {
        let mut entries = self.reserve.entries.lock().await;
        for entry in entries.iter_mut() {
            let newest = self.store.jobs(entry.model_id, None, None, 1).await?.pop();
            let is_at_work = newest.as_ref().is_some_and(|job| !job.state.has_ended());
            let key = if is_at_work { None } else { self.next_draw(entry.model_id).await? };
            let after_job = newest.map(|job| job.id);
            let is_valid = entry.after_job == after_job
                && entry.draw.as_ref().map(|draw| &draw.key) == key.as_ref();
            if !is_valid {
                entry.after_job = after_job;
                entry.draw = match key {
                    Some(key) => Some(Draw::begin(&self.store, key).await?),
                    None => None,
                };
            }
        }
        show(&entries);
        Ok(())
    }

    /// False when nothing is left to read.
    async fn read_a_page(&self) -> Result<bool, StoreError> {
        let mut entries = self.reserve.entries.lock().await;
        for place in 0..entries.len() {
            let Some(draw) = &mut entries[place].draw else { continue };
            if draw.advance(&self.store).await? {
                make_room(&mut entries, place, self.reserve.bytes_max);
                show(&entries);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Of a batch that would start now; `None` where it would draw nothing, or everything.
    async fn next_draw(&self, model_id: Uuid) -> Result<Option<DrawKey>, StoreError> {
        let Some(model) = self.store.model_by_id(model_id).await? else { return Ok(None) };
        let Some(version) = self.store.current_version(model_id).await? else { return Ok(None) };
        let policy = &model.policy;
        match (self.options.method_by_name)(&policy.method, &policy.method_parameters) {
            Ok(Method::Update(update)) if update.retained_rows_max().is_some() => {
                let retained_max = update.retained_rows_max();
                DrawKey::read(&self.store, &version, retained_max).await.map(Some)
            }
            _ => Ok(None),
        }
    }
}

fn count_samples(entries: &VecDeque<Entry>) -> usize {
    entries.iter().filter_map(|entry| entry.draw.as_ref()).map(Draw::len).sum()
}

fn show(entries: &VecDeque<Entry>) {
    metrics::gauge!("forgetd_reserved_samples").set(count_samples(entries) as f64);
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
