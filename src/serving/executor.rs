//! Computes predictions on threads of its own, so that tokio's threads never compute.
//!
//! A thread takes what waits for one version and computes it in one pass. There is no timer: where
//! nothing else waits, an entry is computed at once and alone. A further thread is woken only when
//! the work at hand would keep those that are awake for longer than [`HELP_AFTER`]: rows computed
//! together cost less than rows computed side by side, and waking a thread costs as much as a small
//! network. The rows beside it may move a row's probabilities in their last bits, because matrix
//! products of other sizes add up in another order.
//!
//! The queue is bounded: what does not fit is refused at once. Entries whose client has left
//! are dropped unread, and a panic while computing fails its entry alone.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::oneshot;

use crate::serving::{registry::Held, version::Predict};

/// Entries that are computed together at most: by then a row's share of what a pass costs is
/// small, and more would only wait longer for each other.
const BATCH_ENTRIES_MAX: usize = 32;

/// How long a thread may have to compute before another helps it, and so about how long an entry
/// may wait while a thread sleeps.
const HELP_AFTER: Duration = Duration::from_micros(500);

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
    /// What is expected of all that waits or is being computed, on one thread.
    load: Duration,
    /// Threads that compute.
    computing: usize,
    /// Threads that are awake or called; those that compute are among them.
    active: usize,
    /// Threads that are called and still sleep.
    called: usize,
    closed: bool,
}

struct Entry {
    network: Arc<dyn Predict>,
    rows: Vec<f32>,
    /// How long it takes alone.
    duration: Duration,
    answer: oneshot::Sender<Result<Vec<f32>, ServingError>>,
}

impl Predict for Held {
    fn probabilities(&self, rows: Vec<f32>) -> Vec<f32> {
        self.network.probabilities(rows)
    }

    fn duration(&self, values: usize) -> Duration {
        self.network.duration(values)
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
        let duration = network.duration(rows.len());
        self.queue.push(Entry { network, rows, duration, answer })?;
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
            let Entries { waiting, load, .. } = &mut *entries;
            waiting.retain(|entry| {
                let stays = !entry.answer.is_closed();
                if !stays {
                    *load -= entry.duration;
                }
                stays
            });
            if entries.waiting.len() >= self.capacity {
                return Err(ServingError::Busy);
            }
        }
        entries.load += entry.duration;
        entries.waiting.push_back(entry);
        self.release(entries);
        Ok(())
    }

    /// Gives the entries back, and wakes one more thread where one is wanted.
    fn release(&self, mut entries: MutexGuard<'_, Entries>) {
        let calls = entries.call_help(self.threads);
        drop(entries);
        if calls {
            self.changed.notify_one();
        }
    }

    fn work(&self) {
        let mut entries = self.lock();
        while !entries.closed {
            if entries.called == 0 {
                entries = self.changed.wait(entries).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            entries.called -= 1;
            while let Some(batch) = entries.take_share(self.threads) {
                let duration: Duration = batch.iter().map(|entry| entry.duration).sum();
                entries.computing += 1;
                self.release(entries);
                compute(batch);
                entries = self.lock();
                entries.computing -= 1;
                entries.load -= duration;
            }
            entries.active -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    /// How many of so many threads the load is worth, one at least.
    fn threads_wanted(&self, threads: usize) -> usize {
        let wanted = self.load.as_nanos().div_ceil(HELP_AFTER.as_nanos());
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX).min(threads);
        wanted.min(self.waiting.len() + self.computing).max(1)
    }

    /// Whether one more thread is to be woken, which is counted as called from here on.
    fn call_help(&mut self, threads: usize) -> bool {
        let calls = !self.waiting.is_empty() && self.active < self.threads_wanted(threads);
        if calls {
            self.active += 1;
            self.called += 1;
        }
        calls
    }

    /// A thread's share of what waits, all of it for one version; `None` where the thread is not
    /// wanted. It stays if nobody else is awake.
    fn take_share(&mut self, threads: usize) -> Option<Vec<Entry>> {
        let wanted = self.threads_wanted(threads);
        if self.active > wanted {
            return None;
        }
        let size = self.waiting.len().div_ceil(wanted).min(BATCH_ENTRIES_MAX);
        let mut batch = vec![self.waiting.pop_front()?];
        while batch.len() < size
            && let Some(next) =
                self.waiting.pop_front_if(|next| Arc::ptr_eq(&next.network, &batch[0].network))
        {
            batch.push(next);
        }
        Some(batch)
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

fn compute_one(Entry { network, rows, answer, .. }: Entry) {
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
pub mod fixture;
#[cfg(test)]
mod tests;
