//! Threads for what works beside the requests: worker, replica, messages. Reading, opening and
//! decoding thousands of rows takes milliseconds at a time, for which a request that is due on the
//! same thread would wait; these threads also stand back behind those of the requests.

use std::io;

use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};

use crate::priority;

/// One thread decodes while another waits for the database or the clock.
const THREADS: usize = 2;

pub(super) struct Background {
    runtime: Option<Runtime>,
}

impl Background {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("background")
            .on_thread_start(priority::stand_back)
            .enable_all()
            .build()?;
        Ok(Self { runtime: Some(runtime) })
    }

    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let runtime = self.runtime.as_ref().expect("it is there until it is dropped");
        runtime.spawn(work)
    }
}

impl Drop for Background {
    /// Waits for nothing: a runtime that did may not be dropped by a task.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
