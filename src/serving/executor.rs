//! Computes predictions on threads of its own, so that tokio's threads never compute.
//!
//! A thread that becomes free takes its share of what waits for one version and computes it in one
//! pass. There is no timer: where nothing else waits, an entry is computed at once and alone. The
//! rows beside it may move a row's probabilities in their last bits, because matrix products of
//! other sizes add up in another order.
//!
//! The queue is bounded: what does not fit is refused at once. Entries whose client has left
//! are dropped unread, and a panic while computing fails its entry alone.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use tokio::sync::oneshot;

use crate::serving::{registry::Held, version::Predict};

/// Fewer entries are computed one after the other. A product with several rows first lays the
/// weights out anew, whatever the number of rows: one layer of 784 by 256 takes 11 us for one row,
/// 54 us for two to eight and 63 us for 16 (gemm 0.19 in a release build, one core with AVX-512).
const BATCH_ENTRIES_MIN: usize = 8;

/// Entries that are computed together at most: by then a row's share of what a pass costs is
/// small, and more would only wait longer for each other.
const BATCH_ENTRIES_MAX: usize = 32;

/// Why a prediction was not computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServingError {
    #[error("the inference queue is full")]
    Busy,
    #[error("the network panicked on these rows")]
    Panicked,
    #[error("inference is shutting down")]
    ShutDown,
}

/// Threads that compute, behind one bounded queue. Dropped, it finishes nothing more and waits
/// for what is being computed.
pub struct Executor {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

struct Queue {
    entries: Mutex<Entries>,
    changed: Condvar,
    capacity: usize,
    /// How many threads share what waits.
    threads: usize,
}

#[derive(Default)]
struct Entries {
    waiting: VecDeque<Entry>,
    closed: bool,
}

struct Entry {
    network: Arc<dyn Predict>,
    rows: Vec<f32>,
    answer: oneshot::Sender<Result<Vec<f32>, ServingError>>,
}

impl Predict for Held {
    fn probabilities(&self, rows: Vec<f32>) -> Vec<f32> {
        self.network.probabilities(rows)
    }
}

impl Executor {
    /// # Errors
    /// When the machine gives no more threads.
    pub fn start(threads: usize, capacity: usize) -> io::Result<Self> {
        let threads = threads.max(1);
        let (entries, changed) = (Mutex::default(), Condvar::new());
        let queue = Arc::new(Queue { entries, changed, capacity, threads });
        let mut executor = Self { queue, threads: Vec::with_capacity(threads) };
        for number in 0..threads {
            let queue = Arc::clone(&executor.queue);
            let thread = thread::Builder::new()
                .name(format!("inference-{number}"))
                .spawn(move || computing_alone(|| queue.work()))?;
            executor.threads.push(thread);
        }
        Ok(executor)
    }

    /// Probabilities `[n, classes]` of encoded rows, `[n, width]` flattened.
    ///
    /// # Errors
    /// When the queue is full, the network panics, or the executor shuts down meanwhile.
    pub async fn predict(
        &self,
        network: Arc<dyn Predict>,
        rows: Vec<f32>,
    ) -> Result<Vec<f32>, ServingError> {
        let (answer, answered) = oneshot::channel();
        self.queue.push(Entry { network, rows, answer })?;
        answered.await.unwrap_or(Err(ServingError::ShutDown))
    }

    /// Entries that wait.
    pub fn waiting(&self) -> usize {
        self.queue.lock().waiting.len()
    }

    /// Refuses new entries from now on; those that wait get an error.
    pub fn close(&self) {
        let mut entries = self.queue.lock();
        entries.closed = true;
        entries.waiting.clear();
        self.queue.changed.notify_all();
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("an inference thread had died");
            }
        }
    }
}

/// Runs `work` on this thread as a pool of one: tensor operations that would spread over rayon's
/// global pool stay here. Requests are what runs in parallel; a hop to another thread and back
/// takes about as long as an operation on few rows.
fn computing_alone(work: impl FnOnce()) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
    if let Err(error) = &pool {
        tracing::warn!(%error, "predictions compute on the shared pool, which is slower");
    }
    work();
}

impl Queue {
    fn push(&self, entry: Entry) -> Result<(), ServingError> {
        let mut entries = self.lock();
        if entries.closed {
            return Err(ServingError::ShutDown);
        }
        if entries.waiting.len() >= self.capacity {
            // Whoever left makes room.
            entries.waiting.retain(|entry| !entry.answer.is_closed());
            if entries.waiting.len() >= self.capacity {
                return Err(ServingError::Busy);
            }
        }
        entries.waiting.push_back(entry);
        drop(entries);
        self.changed.notify_one();
        Ok(())
    }

    fn work(&self) {
        while let Some(batch) = self.pop() {
            compute(batch);
        }
    }

    /// A thread's share of what waits, all of it for one version; `None` once closed.
    fn pop(&self) -> Option<Vec<Entry>> {
        let mut entries = self.lock();
        loop {
            if let Some(first) = entries.waiting.pop_front() {
                let share = (entries.waiting.len() + 1).div_ceil(self.threads);
                let size = if share < BATCH_ENTRIES_MIN { 1 } else { share.min(BATCH_ENTRIES_MAX) };
                let mut batch = vec![first];
                while batch.len() < size
                    && let Some(next) = entries
                        .waiting
                        .pop_front_if(|next| Arc::ptr_eq(&next.network, &batch[0].network))
                {
                    batch.push(next);
                }
                return Some(batch);
            }
            if entries.closed {
                return None;
            }
            entries = self.changed.wait(entries).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers the entries of one version, those whose client still waits.
fn compute(mut batch: Vec<Entry>) {
    batch.retain(|entry| !entry.answer.is_closed());
    if batch.len() > 1 {
        compute_together(batch);
    } else if let Some(entry) = batch.pop() {
        compute_one(entry);
    }
}

fn compute_one(Entry { network, rows, answer }: Entry) {
    let result = probabilities(network.as_ref(), rows);
    // The version is given up before its answer is, so that whoever has the answer knows that
    // nobody computes from it any more.
    drop(network);
    // Nobody may be waiting any more; then the answer is dropped.
    let _ = answer.send(result);
}

fn compute_together(batch: Vec<Entry>) {
    let network = Arc::clone(&batch[0].network);
    let rows: Vec<f32> = batch.iter().flat_map(|entry| &entry.rows).copied().collect();
    let values = rows.len();
    let Ok(computed) = probabilities(network.as_ref(), rows) else {
        // One of them made it panic; the others must not suffer for it.
        return batch.into_iter().for_each(compute_one);
    };
    // Every row has as many values and as many probabilities as the next.
    let mut from = 0;
    let answers: Vec<_> = batch
        .into_iter()
        .map(|entry| {
            let count = computed.len() * entry.rows.len() / values.max(1);
            from += count;
            (entry.answer, computed[from - count..from].to_vec())
        })
        .collect();
    drop(network);
    for (answer, probabilities) in answers {
        let _ = answer.send(Ok(probabilities));
    }
}

fn probabilities(network: &dyn Predict, rows: Vec<f32>) -> Result<Vec<f32>, ServingError> {
    catch_unwind(AssertUnwindSafe(|| network.probabilities(rows)))
        .map_err(|_| ServingError::Panicked)
}

#[cfg(test)]
mod tests;
