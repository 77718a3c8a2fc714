//! Submitting jobs: a ticket is created, then its job is sent to the pool's queue.
//!
//! The ticket's entry exists before the job does, so that no answer arrives too early. If the job
//! cannot be sent, the entry is removed.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ipc_proto::codec;
use ipc_queue::transport::Wait;
use ipc_queue::{DeadLetter, DeadLetterId, SendFailure, SendOptions, Unavailable};
use serde::Serialize;
use thiserror::Error;

use super::ticket::{Canceller, Entry};
use super::wire::{Job, LENGTH_BYTES};
use super::{Pool, PoolError, Ticket, dead_letters};
use crate::value;

/// A job that was not submitted, with the reason.
#[derive(Error)]
#[error("{failure}")]
#[non_exhaustive]
pub struct SubmitError<I> {
    /// The job's input, as it was passed.
    pub input: I,
    /// The reason. For a full queue it is [`PoolError::NoRoom`].
    pub failure: PoolError,
}

/// Without the input, which need not be printable.
impl<I> fmt::Debug for SubmitError<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmitError")
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

/// Returns `true` if the job queue is closed or gone.
fn is_end(failure: &SendFailure) -> bool {
    matches!(
        failure,
        SendFailure::Closed | SendFailure::Unavailable(Unavailable::Removed)
    )
}

impl Pool {
    /// Submits a job: a worker runs the handler `name` on `input`. Waits while the job queue is
    /// full.
    ///
    /// [`try_submit`](Self::try_submit) does not wait, and [`submit_timeout`](Self::submit_timeout)
    /// waits for a limited time. Dead letters take no room in the queue: see
    /// [`dead_letters`](Self::dead_letters).
    ///
    /// # Errors
    /// [`PoolError::Ended`] if there are no workers any more, with the reason; `Send` if the job
    /// has no encoding, or is too large.
    pub fn submit<I: Serialize, O>(&self, name: &str, input: &I) -> Result<Ticket<O>, PoolError> {
        self.submit_within(name, input, None, Wait::Forever)
    }

    /// Submits a job if the queue has room for it now.
    ///
    /// # Errors
    /// [`SubmitError`] returns the input; for a full queue it contains [`PoolError::NoRoom`].
    ///
    /// # Examples
    /// ```no_run
    /// # use ipc_node::pool::{Pool, PoolError, SubmitError};
    /// # let pool = Pool::builder().start()?;
    /// match pool.try_submit::<u64, u64>("square", 7) {
    ///     Ok(ticket) => println!("{}", ticket.wait()?),
    ///     Err(SubmitError { input, failure: PoolError::NoRoom { .. }, .. }) => {
    ///         println!("{input} has to wait");
    ///     }
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_submit<I: Serialize, O>(
        &self,
        name: &str,
        input: I,
    ) -> Result<Ticket<O>, SubmitError<I>> {
        self.submit_or_hand_back(name, input, Wait::No)
    }

    /// Submits a job; waits for at most `time` while the queue is full.
    ///
    /// # Errors
    /// [`SubmitError`] returns the input; if the queue stayed full, it contains
    /// [`PoolError::NoRoom`].
    pub fn submit_timeout<I: Serialize, O>(
        &self,
        name: &str,
        input: I,
        time: Duration,
    ) -> Result<Ticket<O>, SubmitError<I>> {
        self.submit_or_hand_back(name, input, Wait::at_most(time))
    }

    /// Submits a job; waits until `deadline` while the queue is full.
    ///
    /// # Errors
    /// Those of [`submit_timeout`](Self::submit_timeout).
    pub fn submit_deadline<I: Serialize, O>(
        &self,
        name: &str,
        input: I,
        deadline: Instant,
    ) -> Result<Ticket<O>, SubmitError<I>> {
        self.submit_or_hand_back(name, input, Wait::Until(deadline))
    }

    /// Submits a job that is no longer wanted if no worker begins it within `time`. Its answer is
    /// then [`JobError::Expired`](super::JobError::Expired).
    ///
    /// # Errors
    /// Those of [`submit`](Self::submit).
    pub fn submit_expiring<I: Serialize, O>(
        &self,
        name: &str,
        input: &I,
        time: Duration,
    ) -> Result<Ticket<O>, PoolError> {
        self.submit_within(name, input, Some(time), Wait::Forever)
    }

    /// Submits a job with content that is not encoded. `fill` writes the content where the worker
    /// will [read it](super::Context::content), and returns how much of the `room` it used. Waits
    /// for that room as specified.
    ///
    /// # Errors
    /// Those of [`submit`](Self::submit), and [`PoolError::System`] with the error of `fill`. Then
    /// nothing was submitted.
    pub fn submit_with<I: Serialize, O>(
        &self,
        name: &str,
        input: &I,
        room: usize,
        wait: Wait,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> Result<Ticket<O>, PoolError> {
        let send = |job: &[u8]| -> Result<(), PoolError> {
            let sender = self.shared.queues.jobs.sender();
            let mut loan = sender.loan_with(
                job.len() + room + LENGTH_BYTES,
                &SendOptions::new().wait(wait),
            )?;
            let (head, rest) = loan.split_at_mut(job.len());
            head.copy_from_slice(job);
            let (content, length) = rest.split_at_mut(room);
            let filled = u32::try_from(fill(content)?.min(room)).map_err(io::Error::other)?;
            length.copy_from_slice(&filled.to_le_bytes());
            loan.publish()?;
            Ok(())
        };
        self.submit_as(name, input, None, send)
    }

    fn submit_or_hand_back<I: Serialize, O>(
        &self,
        name: &str,
        input: I,
        wait: Wait,
    ) -> Result<Ticket<O>, SubmitError<I>> {
        let submitted = self.submit_within(name, &input, None, wait);
        submitted.map_err(|failure| SubmitError { input, failure })
    }

    fn submit_within<I: Serialize, O>(
        &self,
        name: &str,
        input: &I,
        begin_within: Option<Duration>,
        wait: Wait,
    ) -> Result<Ticket<O>, PoolError> {
        self.submit_as(name, input, begin_within, |job| self.send(job, wait))
    }

    pub(super) fn send(&self, job: &[u8], wait: Wait) -> Result<(), PoolError> {
        let options = SendOptions::new().wait(wait);
        let sent = self
            .shared
            .with_sender(|sender| sender.send_with(job, &options).map(drop));
        sent?;
        Ok(())
    }

    fn submit_as<I: Serialize, O>(
        &self,
        name: &str,
        input: &I,
        begin_within: Option<Duration>,
        send: impl FnOnce(&[u8]) -> Result<(), PoolError>,
    ) -> Result<Ticket<O>, PoolError> {
        let send = self.encoded(name, input, send)?;
        let deadline = |time| Some((Instant::now().checked_add(time)?, time));
        self.ticketed(Entry::begun_by(begin_within.and_then(deadline)), send)
    }

    /// Encodes the input. The returned function sends the job under a number.
    pub(super) fn encoded<I: Serialize>(
        &self,
        name: &str,
        input: &I,
        send: impl FnOnce(&[u8]) -> Result<(), PoolError>,
    ) -> Result<impl FnOnce(u64) -> Result<(), PoolError>, PoolError> {
        let input = value::encode(input)?;
        let attempts = self.shared.limits.retry.attempts();
        Ok(move |ticket| {
            let job = Job {
                ticket,
                handler: name,
                input: &input,
                attempts,
            };
            send(&codec::encode(&job)?)
        })
    }

    fn ticketed<O>(
        &self,
        entry: Entry,
        send: impl FnOnce(u64) -> Result<(), PoolError>,
    ) -> Result<Ticket<O>, PoolError> {
        let number = self.submit_numbered(entry, send)?;
        let pool: Arc<dyn Canceller> = Arc::clone(&self.shared) as _;
        Ok(Ticket::new(number, Arc::clone(&self.shared.tickets), pool))
    }

    /// Takes a number, then calls `send` to send the job under it.
    pub(super) fn submit_numbered(
        &self,
        entry: Entry,
        send: impl FnOnce(u64) -> Result<(), PoolError>,
    ) -> Result<u64, PoolError> {
        let number = self.shared.next_ticket.fetch_add(1, Ordering::Relaxed);
        let expires = entry.begin_by.is_some();
        let open = {
            let mut entries = self.shared.tickets.lock();
            entries.insert(number, entry);
            entries.len()
        };
        self.shared.want_workers(open);
        // Before sending, which may wait: dead letters may fill the queue, and this wakes the
        // supervisor, which moves them.
        self.shared.wake_if_idle();
        if let Err(error) = send(number).and_then(|()| self.check_not_ended(number)) {
            self.shared.tickets.lock().remove(&number);
            return Err(match error {
                PoolError::Send(error) if is_end(&error.failure) => self.why_ended(),
                other => other,
            });
        }
        if expires {
            self.shared.expiring.store(true, Ordering::SeqCst);
            self.shared.wake_supervisor();
        }
        Ok(number)
    }

    /// A job that was sent while the pool ended is never handled.
    fn check_not_ended(&self, ticket: u64) -> Result<(), PoolError> {
        // Done first, so that a pool that ends later counts the job.
        self.shared.tickets.sent(ticket);
        match self.shared.state().ended {
            Some(_) => Err(self.why_ended()),
            None => Ok(()),
        }
    }

    fn why_ended(&self) -> PoolError {
        let ended = self.shared.state().ended.clone();
        let reason = ended.unwrap_or_else(|| "it is draining".to_owned());
        PoolError::Ended { reason }
    }

    /// Returns the jobs that ended as dead letters, oldest first: each worker that had one died, or
    /// could not read it. Their ids are for [`requeue_dead_letter`](Self::requeue_dead_letter) and
    /// [`discard_dead_letter`](Self::discard_dead_letter).
    ///
    /// The pool keeps them itself, so they take no room in the job queue. It keeps up to
    /// [`PoolBuilder::dead_letter_limit`](super::PoolBuilder::dead_letter_limit), then drops the
    /// oldest; [`PoolStatus`](super::PoolStatus) counts those.
    #[must_use]
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.shared.dead_letters.all()
    }

    /// Submits the job of a dead letter again, with all of its attempts, if the queue has room for
    /// it now. Returns `Ok(None)` if there is no such letter any more.
    ///
    /// # Errors
    /// Those of [`try_submit`](Self::try_submit). The letter then stays.
    pub fn requeue_dead_letter<O>(&self, id: DeadLetterId) -> Result<Option<Ticket<O>>, PoolError> {
        let Some(letter) = self.shared.dead_letters.take(id) else {
            return Ok(None);
        };
        let submitted = self.ticketed(Entry::default(), |ticket| {
            let job = dead_letters::renumbered(&letter.payload, ticket);
            let unreadable = || io::Error::other("the dead letter is not a job of a pool");
            self.send(&job.ok_or_else(unreadable)?, Wait::No)
        });
        submitted
            .map(Some)
            .inspect_err(|_| self.shared.dead_letters.put_back(letter))
    }

    /// Drops a dead letter. Returns `false` if there is no such letter any more.
    pub fn discard_dead_letter(&self, id: DeadLetterId) -> bool {
        self.shared.dead_letters.take(id).is_some()
    }
}
