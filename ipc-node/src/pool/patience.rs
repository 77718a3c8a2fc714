//! For how long a queue may be out of reach before whoever needs it gives up.
//!
//! A server elsewhere may be started again, or its cluster elect another leader. Queues of this host are there or gone: nobody waits for
//! those.

use std::thread;
use std::time::{Duration, Instant};

use ipc_queue::transport::Wait;
use ipc_queue::{RecvFailure, RecvTimeoutError, Unavailable};

use super::wire::Place;

/// Whether a queue that did not answer may answer again.
pub(super) fn may_pass(error: &RecvTimeoutError) -> bool {
    matches!(
        error.failure(),
        Some(RecvFailure::Unavailable(Unavailable::Transport { .. }))
    )
}

/// Since when a queue does not answer.
#[derive(Debug)]
pub(super) struct Patience {
    limit: Duration,
    since: Option<Instant>,
}

/// Longer than a cluster takes to elect a leader, and a server to start.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// How long one call may take, so that trouble shows.
const SLICE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

impl Patience {
    pub(super) fn at(place: &Place) -> Self {
        // Kept alive are leases over transports that notice no death: those to elsewhere.
        let is_elsewhere = place.keep_alive.is_some();
        Self {
            limit: if is_elsewhere { LIMIT } else { Duration::ZERO },
            since: None,
        }
    }

    /// How long to wait in one call for what may never come.
    pub(super) fn wait(&self) -> Wait {
        if self.limit.is_zero() {
            Wait::Forever
        } else {
            Wait::at_most(SLICE)
        }
    }

    /// It answered.
    pub(super) fn relieve(&mut self) {
        self.since = None;
    }

    /// It did not. Waits a little before the next try; `false`: that was enough.
    pub(super) fn pause(&mut self) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        let goes_on = since.elapsed() < self.limit;
        if goes_on {
            thread::sleep(PAUSE);
        }
        goes_on
    }
}
