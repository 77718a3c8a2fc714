//! Answers as a stream, for programs that keep their own table of jobs and need no ticket for each.
//!
//! Such a job is a number. Its events go to one list for all of the pool's streamed jobs, and each
//! call takes the events in the list. The list is bounded by the number of open jobs: there are at
//! most two events for each.

use std::time::Duration;

use ipc_queue::transport::Wait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Pool;
use super::error::PoolError;
use super::job_error::JobError;
use super::job_events::JobEvent;
use super::ticket::{self, Canceller, Entry};

/// Decodes the output in the answer of a [`JobEvent`].
///
/// # Errors
/// The answer's own error, or [`JobError::Decode`] if it is not a value of that type.
pub fn decode_answer<T: DeserializeOwned>(
    answer: Result<Vec<u8>, JobError>,
) -> Result<T, JobError> {
    ticket::decoded(answer)
}

impl Pool {
    /// Submits a job without a ticket and returns its number. [`job_events`](Self::job_events)
    /// returns its events, perhaps even before this call returns.
    ///
    /// # Errors
    /// Those of [`submit`](Self::submit), and [`PoolError::Send`] if there is no room within
    /// `wait`.
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
        self.submit_streamed_with(name, input, wait, |_| ())
    }

    /// Like [`submit_streamed`](Self::submit_streamed), but calls `sending` with the job's number
    /// just before the job is sent: a program's own table can know it before any event comes.
    ///
    /// # Errors
    /// Those of [`submit_streamed`](Self::submit_streamed). The number is then never used.
    pub fn submit_streamed_with<I: Serialize>(
        &self,
        name: &str,
        input: &I,
        wait: Wait,
        sending: impl FnOnce(u64),
    ) -> Result<u64, PoolError> {
        let send = self.encoded(name, input, |job| self.send(job, wait))?;
        self.submit_numbered(Entry::streamed(), |number| {
            sending(number);
            send(number)
        })
    }

    /// Returns the events of the jobs of [`submit_streamed`](Self::submit_streamed) since the last
    /// call, in the order in which they happened. Without events it waits for at most `time`, and
    /// may return none.
    ///
    /// Each event is returned once, to one caller. Every job is answered: with
    /// [`JobError::PoolEnded`] at the latest, when the pool ends.
    #[must_use = "each event is given once"]
    pub fn job_events(&self, time: Duration) -> Vec<JobEvent> {
        self.shared.tickets.stream.take(time)
    }

    /// Cancels a job by its number, as [`Ticket::cancel`](super::Ticket::cancel) does.
    pub fn cancel(&self, job: u64) {
        self.shared.cancel(job);
    }
}
