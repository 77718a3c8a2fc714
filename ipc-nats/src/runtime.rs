//! The one place where synchronous callers meet the asynchronous client.
//!
//! One small tokio runtime for the process, started when first needed, drives connections and timers. Callers poll their own
//! futures in their own threads, so that a call costs no hand-over; also inside another runtime, where blocking in the
//! usual way would panic.

use std::future::Future;
use std::sync::LazyLock;

use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("ipc-nats")
        .enable_all()
        .build()
        .expect("a process can start two threads and an epoll")
});

const THREADS: usize = 2;

/// Runs a future to its end in this thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let _inside = RUNTIME.enter();
    // Inside another runtime's task its budget would never be renewed while we wait.
    pollster::block_on(tokio::task::unconstrained(future))
}

/// Runs a future on the runtime, to its end unless it is told to stop.
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    RUNTIME.spawn(future).abort_handle()
}
