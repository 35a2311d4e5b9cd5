//! Threads of the worker's own: what computes never runs on the threads that serve.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::oneshot;

use super::JobError;
use crate::priority;

pub(super) struct Compute {
    pool: rayon::ThreadPool,
}

impl Compute {
    pub(super) fn new(threads: usize) -> std::io::Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|index| format!("compute-{index}"))
            .start_handler(|_| priority::stand_back())
            .build()
            .map_err(std::io::Error::other)?;
        Ok(Self { pool })
    }

    /// Runs `work` on the pool; a panic in it is an error, and the pool lives on.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, JobError> + Send + 'static,
    ) -> Result<T, JobError> {
        let (sender, receiver) = oneshot::channel();
        self.pool.spawn(move || {
            let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
                let text = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied());
                Err(JobError::Panicked(text.unwrap_or("no message").to_owned()))
            });
            // The receiver is gone only when the whole worker is.
            let _ = sender.send(done);
        });
        receiver.await.unwrap_or_else(|_| Err(JobError::Panicked("its thread ended".to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_pool_lives_on() {
        let compute = Compute::new(1).unwrap();
        let panicked = compute.run::<()>(|| panic!("seven")).await.unwrap_err();
        assert!(matches!(panicked, JobError::Panicked(text) if text == "seven"));
        assert_eq!(compute.run(|| Ok(8)).await.unwrap(), 8);
    }
}
