//! The time for which a queue may be out of reach before its user gives up.
//!
//! A server on another host may be restarted, or its cluster may elect another leader. A queue on
//! this host exists or is gone, so there is no waiting for it.

use std::thread;
use std::time::{Duration, Instant};

use ipc_queue::transport::Wait;
use ipc_queue::{RecvFailure, RecvTimeoutError, Unavailable};

use super::wire::WorkerConfig;

/// Returns `true` if a queue that did not answer may answer again.
pub(super) fn is_temporary(error: &RecvTimeoutError) -> bool {
    matches!(
        error.failure(),
        Some(RecvFailure::Unavailable(Unavailable::Transport { .. }))
    )
}

/// The time since which a queue does not answer.
#[derive(Debug)]
pub(super) struct Outage {
    limit: Duration,
    since: Option<Instant>,
}

/// Longer than a cluster takes to elect a leader, and a server to start.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// The time limit of one call, so that problems show.
const SLICE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

impl Outage {
    pub(super) fn at(config: &WorkerConfig) -> Self {
        // Leases are kept alive over transports that do not notice deaths: those to other hosts.
        let is_elsewhere = config.keep_alive.is_some();
        Self {
            limit: if is_elsewhere { LIMIT } else { Duration::ZERO },
            since: None,
        }
    }

    /// Returns how long one call waits for something that may never arrive.
    pub(super) fn wait(&self) -> Wait {
        if self.limit.is_zero() {
            Wait::Forever
        } else {
            Wait::at_most(SLICE)
        }
    }

    /// Records that the queue answered.
    pub(super) fn over(&mut self) {
        self.since = None;
    }

    /// Records that the queue did not answer, and waits before the next try. Returns `false` if it
    /// is time to give up.
    pub(super) fn pause(&mut self) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        let goes_on = since.elapsed() < self.limit;
        if goes_on {
            thread::sleep(PAUSE);
        }
        goes_on
    }
}
