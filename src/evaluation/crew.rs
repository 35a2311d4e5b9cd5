//! Independent work on several threads, each computing on its own.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use super::error::EvaluationError;
use crate::domain::watch::{Progress, Watch};

/// Does every piece of work, `threads` at a time, each within a pool of one thread, so that they
/// do not wait for each other's tensors. The first error ends the rest.
pub fn work_through<T: Sync>(
    stage: &str,
    pieces: &[T],
    threads: usize,
    watch: &dyn Watch,
    work: impl Fn(&T, &dyn Watch) -> Result<(), EvaluationError> + Sync,
) -> Result<(), EvaluationError> {
    let shift = Shift {
        stage,
        next: AtomicUsize::new(0),
        done: AtomicU64::new(0),
        total: pieces.len() as u64,
        ended: AtomicBool::new(false),
        error: Mutex::new(None),
        watch,
    };
    if !pieces.is_empty() {
        shift.tell();
    }
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, pieces.len().max(1)) {
            scope.spawn(|| shift.work(pieces, &work));
        }
    });
    match shift.error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None if watch.is_cancelled() => Err(EvaluationError::Stopped),
        None => Ok(()),
    }
}

struct Shift<'a> {
    stage: &'a str,
    next: AtomicUsize,
    done: AtomicU64,
    total: u64,
    ended: AtomicBool,
    error: Mutex<Option<EvaluationError>>,
    watch: &'a dyn Watch,
}

impl Shift<'_> {
    fn work<T>(
        &self,
        pieces: &[T],
        work: &(impl Fn(&T, &dyn Watch) -> Result<(), EvaluationError> + Sync),
    ) where
        T: Sync,
    {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        while !self.is_cancelled() {
            let Some(piece) = pieces.get(self.next.fetch_add(1, Ordering::Relaxed)) else { break };
            let outcome = match &pool {
                Ok(pool) => pool.install(|| work(piece, self)),
                Err(error) => {
                    Err(EvaluationError::Thread(std::io::Error::other(error.to_string())))
                }
            };
            match outcome {
                Ok(()) => {
                    self.done.fetch_add(1, Ordering::Relaxed);
                    self.tell();
                }
                Err(error) => {
                    self.ended.store(true, Ordering::Relaxed);
                    let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert(error);
                }
            }
        }
    }

    fn tell(&self) {
        let done = self.done.load(Ordering::Relaxed);
        self.watch.progressed(&Progress { stage: self.stage.to_owned(), done, total: self.total });
    }
}

/// Pieces do not tell their steps, and end with the first that fails.
impl Watch for Shift<'_> {
    fn progressed(&self, _: &Progress) {}

    fn is_cancelled(&self) -> bool {
        self.ended.load(Ordering::Relaxed) || self.watch.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::watch::Unwatched;

    #[test]
    fn every_piece_is_done_once() {
        let done: Vec<AtomicU64> = (0..50).map(|_| AtomicU64::new(0)).collect();
        let pieces: Vec<usize> = (0..50).collect();
        work_through("test", &pieces, 3, &Unwatched, |piece, _| {
            done[*piece].fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
        assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        work_through("nothing", &Vec::<u8>::new(), 2, &Unwatched, |_, _| Ok(())).unwrap();
    }

    #[test]
    fn the_first_error_ends_the_rest() {
        let started = AtomicU64::new(0);
        let error = work_through("test", &[0; 100], 2, &Unwatched, |_, watch| {
            started.fetch_add(1, Ordering::Relaxed);
            if watch.is_cancelled() {
                return Err(EvaluationError::Stopped);
            }
            Err(EvaluationError::Suite("broken".into()))
        })
        .unwrap_err();
        assert!(matches!(error, EvaluationError::Suite(_) | EvaluationError::Stopped));
        assert!(started.into_inner() <= 2);
    }

    #[test]
    fn a_stop_is_no_success() {
        struct Never;
        impl Watch for Never {
            fn progressed(&self, _: &Progress) {}
            fn is_cancelled(&self) -> bool {
                true
            }
        }
        let error = work_through("test", &[1, 2], 2, &Never, |_, _| Ok(())).unwrap_err();
        assert!(matches!(error, EvaluationError::Stopped));
    }
}
