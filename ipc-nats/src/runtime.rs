//! The one place where synchronous callers meet the asynchronous client.
//!
//! One small tokio runtime for the process, started at first use, drives connections and timers.
//! Callers poll their own futures in their own threads, so a call costs no hand-over. This also
//! works inside another runtime, where blocking in the usual way would panic.

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
    // Inside a task of another runtime, the budget would never be renewed during the wait.
    pollster::block_on(tokio::task::unconstrained(future))
}

/// Runs a future on the runtime, to its end unless it is aborted.
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    RUNTIME.spawn(future).abort_handle()
}
