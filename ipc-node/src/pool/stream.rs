//! Answers as a stream: for programs that keep their own table of jobs and want no ticket for each.
//!
//! Such a job is a number. What becomes of it is put into one list for all of the pool's streamed
//! jobs, and whoever asks takes what is there. The list is bounded by the number of open jobs: at
//! most two events for each.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipc_queue::transport::Wait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ticket::{self, Canceller, Entry};
use super::{JobError, Pool, PoolError};

/// What became of a job that was submitted with [`Pool::submit_streamed`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobEvent {
    /// A worker began with it, for the first time.
    Begun {
        /// The job's number.
        job: u64,
    },
    /// It is answered: the last event of the job.
    Answered {
        /// The job's number.
        job: u64,
        /// The encoded output, for [`decode_answer`], or why there is none.
        answer: Result<Vec<u8>, JobError>,
    },
}

/// The output in the answer of a [`JobEvent`].
///
/// # Errors
/// The answer's own error, or [`JobError::Decode`] if it is not a value of that type.
pub fn decode_answer<T: DeserializeOwned>(
    answer: Result<Vec<u8>, JobError>,
) -> Result<T, JobError> {
    ticket::decoded(answer)
}

/// Events that nobody has taken yet, oldest first.
#[derive(Debug, Default)]
pub(super) struct Stream {
    events: Mutex<VecDeque<JobEvent>>,
    came: Condvar,
}

impl Stream {
    pub(super) fn push(&self, event: JobEvent) {
        self.lock().push_back(event);
        self.came.notify_all();
    }

    /// Takes all events. Waits for the first, but for at most this long.
    fn take(&self, time: Duration) -> Vec<JobEvent> {
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

impl Pool {
    /// Submits a job without a ticket and returns its number. [`job_events`](Self::job_events)
    /// tells what becomes of it, perhaps before this returns.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), and [`PoolError::Send`] if there is no room and `wait` is over.
    ///
    /// # Examples
    /// ```no_run
    /// # use std::time::Duration;
    /// # use ipc_node::pool::{JobEvent, Pool, decode_answer};
    /// # use ipc_queue::transport::Wait;
    /// # let pool = Pool::builder().start()?;
    /// let mut open = 0;
    /// for n in 0..10_u64 {
    ///     pool.submit_streamed("square", &n, Wait::Forever)?;
    ///     open += 1;
    /// }
    /// while open > 0 {
    ///     for event in pool.job_events(Duration::from_secs(1)) {
    ///         if let JobEvent::Answered { job, answer } = event {
    ///             println!("{job}: {}", decode_answer::<u64>(answer)?);
    ///             open -= 1;
    ///         }
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit_streamed<I: Serialize>(
        &self,
        name: &str,
        input: &I,
        wait: Wait,
    ) -> Result<u64, PoolError> {
        let send = self.encoded(name, input, |job| self.send(job, wait))?;
        self.submit_numbered(Entry::streamed(), send)
    }

    /// What became of the jobs of [`submit_streamed`](Self::submit_streamed) since this was last
    /// asked, in the order in which it happened. Waits for at most `time` if nothing did; then it
    /// is empty.
    ///
    /// Each event is given once, to one caller. Every job is answered: at the latest, with
    /// [`JobError::PoolEnded`], when the pool ends.
    #[must_use = "each event is given once"]
    pub fn job_events(&self, time: Duration) -> Vec<JobEvent> {
        self.shared.tickets.stream.take(time)
    }

    /// Makes a job unwanted by its number, as [`Ticket::cancel`](super::Ticket::cancel) does.
    pub fn cancel(&self, job: u64) {
        self.shared.cancel(job);
    }
}
