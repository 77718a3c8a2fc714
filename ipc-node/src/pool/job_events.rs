//! The events of streamed jobs that no caller has taken yet.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::job_error::JobError;

/// An event of a job that was submitted with [`submit_streamed`](super::Pool::submit_streamed).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobEvent {
    /// A worker began the job, for the first time.
    Begun {
        /// The job's number.
        job: u64,
    },
    /// The job is answered. This is its last event.
    Answered {
        /// The job's number.
        job: u64,
        /// The encoded output, for [`decode_answer`](super::decode_answer), or the reason why there
        /// is none.
        answer: Result<Vec<u8>, JobError>,
    },
}

/// Events that were not taken yet, oldest first.
#[derive(Debug, Default)]
pub(super) struct JobEvents {
    events: Mutex<VecDeque<JobEvent>>,
    came: Condvar,
}

impl JobEvents {
    pub(super) fn push(&self, event: JobEvent) {
        let mut events = self.lock();
        events.push_back(event);
        // A waiting caller found the list empty.
        if events.len() == 1 {
            drop(events);
            self.came.notify_all();
        }
    }

    /// Takes all events. Waits for the first one, for at most `time`.
    pub(super) fn take(&self, time: Duration) -> Vec<JobEvent> {
        let deadline = Instant::now().checked_add(time);
        let mut events = self.lock();
        while events.is_empty() {
            let left = deadline.map(|deadline| deadline.checked_duration_since(Instant::now()));
            events = match left {
                Some(None) => break,
                Some(Some(left)) => {
                    let woken = self.came.wait_timeout(events, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self
                    .came
                    .wait(events)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
        events.drain(..).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<JobEvent>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
