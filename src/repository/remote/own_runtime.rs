//! The threads that speak to an object store. They are separate from the threads that serve requests.

use std::future::Future;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{Result, SetupError};

/// Number of threads: they only wait for the network. Files are written and hashed by the threads that ask.
const THREADS: usize = 2;

/// A runtime for one object store.
#[derive(Debug)]
pub(super) struct OwnRuntime {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl OwnRuntime {
    pub(super) fn start() -> Result<OwnRuntime, SetupError> {
        let runtime =
            Builder::new_multi_thread().worker_threads(THREADS).thread_name("object-store").enable_all().build();
        let runtime = runtime.map_err(SetupError::internal)?;
        Ok(OwnRuntime { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Waits for a future. The calling thread is blocked.
    pub(super) fn block_on<F: Future<Output: Send> + Send>(&self, future: F) -> F::Output {
        if Handle::try_current().is_err() {
            return self.handle.block_on(future);
        }
        // A thread that has entered a runtime must not wait for another one, so a thread of its own waits.
        let waiting = std::thread::scope(|scope| scope.spawn(|| self.handle.block_on(future)).join());
        waiting.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        // A thread of a runtime must not wait for the end of another runtime, as a plain drop would.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
