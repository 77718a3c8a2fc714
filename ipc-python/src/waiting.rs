//! Waiting without the interpreter's lock, and without missing signals.
//!
//! The main thread waits in slices and runs Python's signal handlers between them, so that Ctrl-C
//! ends every blocking call. If the handler returns, the call continues with the same deadline.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ipc_queue::transport::Wait;
use pyo3::exceptions::PyValueError;
use pyo3::marker::Ungil;
use pyo3::prelude::*;

use crate::arguments::Seconds;

/// How long the main thread waits before it checks for signals.
const MAIN_SLICE: Duration = Duration::from_millis(50);
/// How long other threads wait at a time.
const OTHER_SLICE: Duration = Duration::from_millis(500);

/// The number of forks between the first process that loaded this module and this one. Written by
/// [`after_fork_in_child`] only.
static FORKS: AtomicU64 = AtomicU64::new(0);
/// Nonzero while the watcher's thread is paused. Set before a fork, cleared by the next operation.
static PAUSED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether this is the main thread, and the number of forks when that was determined.
    static IS_MAIN: Cell<Option<(u64, bool)>> = const { Cell::new(None) };
}

/// Returns the number of forks before this process.
pub fn forks() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

/// Ends the watcher's thread, so that Python counts one thread less when it forks.
#[pyfunction]
pub fn before_fork() {
    PAUSED.store(1, Ordering::Relaxed);
    ipc_shm::watch::pause();
}

/// Counts the fork in the child: everything that it inherited belongs to its parent.
#[pyfunction]
pub fn after_fork_in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    PAUSED.store(0, Ordering::Relaxed);
}

/// Starts the watcher's thread again after a fork. Not right after it, since Python counts threads
/// then and warns.
#[inline]
pub fn resume_watcher() {
    if PAUSED.load(Ordering::Relaxed) != 0 {
        PAUSED.store(0, Ordering::Relaxed);
        ipc_shm::watch::resume();
    }
}

/// A Python time-out: `None` means forever, and zero means now.
#[derive(Clone, Copy, Debug)]
pub struct Limit(Option<Duration>);

impl Limit {
    pub fn new(seconds: Option<Seconds>) -> PyResult<Self> {
        match seconds.map(|Seconds(seconds)| seconds) {
            None => Ok(Self(None)),
            Some(seconds) if seconds.is_nan() => {
                Err(PyValueError::new_err("a time-out can't be NaN"))
            }
            // A time beyond the clock's range means forever.
            Some(seconds) => Ok(Self(
                Duration::try_from_secs_f64(seconds.max(0.0))
                    .ok()
                    .filter(|_| seconds < 1e10),
            )),
        }
    }

    pub fn is_zero(self) -> bool {
        self.0 == Some(Duration::ZERO)
    }
}

/// The duration that the argument `name` gives in seconds.
pub fn seconds(name: &str, Seconds(seconds): Seconds) -> PyResult<Duration> {
    let invalid = |_| {
        let text = format!("{name} is {seconds:?}, which is not a number of seconds from 0 on");
        PyValueError::new_err(text)
    };
    Duration::try_from_secs_f64(seconds).map_err(invalid)
}

/// Calls `attempt` until it returns something other than a time-out, or the time is up.
///
/// `attempt` runs without the interpreter's lock and must return when its [`Wait`] is over.
pub fn until<T, E>(
    py: Python<'_>,
    limit: Limit,
    attempt: impl Fn(Wait) -> Result<T, E> + Sync,
    is_time_out: impl Fn(&E) -> bool,
) -> PyResult<Result<T, E>>
where
    T: Send + Ungil,
    E: Send + Ungil,
{
    let deadline = limit.0.and_then(|time| Instant::now().checked_add(time));
    let slice = if is_main_thread(py)? {
        MAIN_SLICE
    } else {
        OTHER_SLICE
    };
    let attempt = &attempt;
    loop {
        let slice_end = Instant::now() + slice;
        let end = deadline.map_or(slice_end, |deadline| deadline.min(slice_end));
        let outcome = py.detach(|| attempt(Wait::Until(end)));
        match outcome {
            Err(error) if is_time_out(&error) => {
                py.check_signals()?;
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return Ok(Err(error));
                }
            }
            other => return Ok(other),
        }
    }
}

fn is_main_thread(py: Python<'_>) -> PyResult<bool> {
    let forks = forks();
    if let Some((known_at, is_main)) = IS_MAIN.get()
        && known_at == forks
    {
        return Ok(is_main);
    }
    let threading = py.import("threading")?;
    let main = threading.call_method0("main_thread")?.getattr("ident")?;
    let is_main = main.eq(threading.call_method0("get_ident")?)?;
    IS_MAIN.set(Some((forks, is_main)));
    Ok(is_main)
}
