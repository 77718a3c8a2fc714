//! The one place where synchronous callers meet the asynchronous client.
//!
//! One small tokio runtime for the process, started at first use, drives connections and timers.
//! Callers poll their own futures in their own threads, so a call costs no hand-over. This also
//! works inside another runtime, where blocking in the usual way would panic.

use std::future::Future;
use std::sync::OnceLock;

use ipc_queue::ThisProcess;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{AbortHandle, JoinHandle};

/// A runtime, and the process that owns it. A forked copy of the process has none of its threads,
/// so it creates its own; the copy never drops the parent's.
struct Era {
    process: ThisProcess,
    runtime: Runtime,
    next: OnceLock<Box<Era>>,
}

static FIRST: OnceLock<Era> = OnceLock::new();

impl Era {
    fn new() -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("ipc-nats")
            .enable_all()
            .build();
        Self {
            process: ThisProcess::current(),
            runtime: runtime.expect("a process can start two threads and an epoll"),
            next: OnceLock::new(),
        }
    }
}

/// This process's runtime.
fn runtime() -> &'static Runtime {
    let mut era = FIRST.get_or_init(Era::new);
    while !era.process.is_current() {
        era = era.next.get_or_init(|| Box::new(Era::new()));
    }
    &era.runtime
}

const THREADS: usize = 2;

/// Runs a future to its end in this thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let _inside = runtime().enter();
    // Inside a task of another runtime, the budget would never be renewed during the wait.
    pollster::block_on(tokio::task::unconstrained(future))
}

/// Runs a future on the runtime, to its end unless it is aborted.
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    start(future).abort_handle()
}

/// Runs a future on the runtime, which has begun it when this returns or soon after. The handle has
/// its result.
pub(crate) fn start<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    runtime().spawn(future)
}
