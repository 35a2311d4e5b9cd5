//! Computes predictions on threads of its own, so that tokio's threads never compute.
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
        let queue =
            Arc::new(Queue { entries: Mutex::default(), changed: Condvar::new(), capacity });
        let mut executor = Self { queue, threads: Vec::with_capacity(threads) };
        for number in 0..threads.max(1) {
            let queue = Arc::clone(&executor.queue);
            let thread = thread::Builder::new()
                .name(format!("inference-{number}"))
                .spawn(move || queue.work())?;
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
        self.changed.notify_one();
        Ok(())
    }

    fn work(&self) {
        while let Some(Entry { network, rows, answer }) = self.pop() {
            if answer.is_closed() {
                continue;
            }
            let result = catch_unwind(AssertUnwindSafe(|| network.probabilities(rows)))
                .map_err(|_| ServingError::Panicked);
            // The version is given up before its answer is, so that whoever has the answer
            // knows that nobody computes from it any more.
            drop(network);
            // Nobody may be waiting any more; then the answer is dropped.
            let _ = answer.send(result);
        }
    }

    fn pop(&self) -> Option<Entry> {
        let mut entries = self.lock();
        loop {
            if let Some(entry) = entries.waiting.pop_front() {
                return Some(entry);
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

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use futures_util::{FutureExt as _, poll};

    use super::*;

    struct Panics;

    impl Predict for Panics {
        fn probabilities(&self, _: Vec<f32>) -> Vec<f32> {
            panic!("as the test wants")
        }
    }

    struct Echo(AtomicUsize);

    impl Predict for Echo {
        fn probabilities(&self, rows: Vec<f32>) -> Vec<f32> {
            self.0.fetch_add(1, Ordering::SeqCst);
            rows
        }
    }

    /// Tells that it has begun, then waits to be let go.
    struct Gate(mpsc::Sender<()>, Mutex<mpsc::Receiver<()>>);

    impl Predict for Gate {
        fn probabilities(&self, rows: Vec<f32>) -> Vec<f32> {
            self.0.send(()).unwrap();
            self.1.lock().unwrap().recv().unwrap();
            rows
        }
    }

    fn gate() -> (Arc<Gate>, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (begun, has_begun) = mpsc::channel();
        let (go, let_go) = mpsc::channel();
        (Arc::new(Gate(begun, Mutex::new(let_go))), has_begun, go)
    }

    #[tokio::test]
    async fn a_panic_fails_its_entry_and_the_thread_lives_on() {
        let executor = Executor::start(1, 4).unwrap();
        let panicked = executor.predict(Arc::new(Panics), vec![1.0]).await;
        assert_eq!(panicked, Err(ServingError::Panicked));
        let echo = Arc::new(Echo(AtomicUsize::new(0)));
        assert_eq!(executor.predict(echo, vec![1.0]).await, Ok(vec![1.0]));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_those_who_left_make_room() {
        let executor = Executor::start(1, 1).unwrap();
        let echo = Arc::new(Echo(AtomicUsize::new(0)));
        let (slow, begun, go) = gate();
        let mut first = Box::pin(executor.predict(slow, vec![1.0]));
        assert!(poll!(&mut first).is_pending());
        begun.recv().unwrap();
        let mut leaver = Box::pin(executor.predict(echo.clone(), vec![2.0]));
        assert!(poll!(&mut leaver).is_pending());
        let refused = executor.predict(echo.clone(), vec![3.0]).now_or_never();
        assert_eq!(refused, Some(Err(ServingError::Busy)));
        drop(leaver);
        let mut stayer = Box::pin(executor.predict(echo.clone(), vec![4.0]));
        assert!(poll!(&mut stayer).is_pending());
        go.send(()).unwrap();
        assert_eq!(first.await, Ok(vec![1.0]));
        assert_eq!(stayer.await, Ok(vec![4.0]));
        assert_eq!(echo.0.load(Ordering::SeqCst), 1, "who left is not computed for");
    }

    #[tokio::test]
    async fn closing_answers_those_who_wait() {
        let executor = Executor::start(1, 4).unwrap();
        let (slow, begun, go) = gate();
        let mut running = Box::pin(executor.predict(slow.clone(), vec![1.0]));
        assert!(poll!(&mut running).is_pending());
        begun.recv().unwrap();
        let mut waiting = Box::pin(executor.predict(slow.clone(), vec![2.0]));
        assert!(poll!(&mut waiting).is_pending());
        executor.close();
        assert_eq!(waiting.await, Err(ServingError::ShutDown));
        let late = executor.predict(slow, vec![3.0]).await;
        assert_eq!(late, Err(ServingError::ShutDown));
        go.send(()).unwrap();
        assert_eq!(running.await, Ok(vec![1.0]));
        drop(executor);
    }
}
