//! What is known of each job, and the ticket that its submitter holds.
//!
//! The first answer to a job is its answer; whatever comes later is counted and dropped.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipc_proto::codec;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::stream::{JobEvent, Stream};

/// Why a job has no result.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JobError {
    /// The handler said so, panicked, or is unknown to the worker.
    #[error("the job failed{}: {message}", at_attempt(*attempts))]
    Failed {
        /// What it said.
        message: String,
        /// Number of attempts made, this last one included: see
        /// [`RetryPolicy`](super::RetryPolicy).
        attempts: u8,
    },
    /// Each worker that had it died. It is a dead letter now.
    #[error("each of the {attempts} workers that had the job died, the last of {}: {note}", signal_name(*signal))]
    Crashed {
        /// The signal that ended the last one; `None`: it exited by itself.
        signal: Option<i32>,
        /// How many workers had it.
        attempts: u8,
        /// What is known of why.
        note: String,
    },
    /// It is a dead letter for another reason.
    #[error("the job was given up at attempt {attempts}: {why}")]
    GivenUp {
        /// How often it was begun, or taken.
        attempts: u8,
        /// How the last time ended.
        why: String,
    },
    /// It took longer than the pool's job time-out. Its worker was killed.
    #[error("the job was not done within {after:?}; its worker was killed")]
    TimedOut {
        /// The time-out.
        after: Duration,
    },
    /// Its ticket was cancelled.
    #[error("the job was cancelled")]
    Cancelled,
    /// It was not begun in time.
    #[error("the job was not begun within {after:?}")]
    Expired {
        /// The time.
        after: Duration,
    },
    /// The pool ended before it was done.
    #[error("the pool ended before the job was done: {reason}")]
    PoolEnded {
        /// Why.
        reason: String,
    },
    /// It was not submitted by the [stream](super::Pool::map) that it belongs to.
    #[error("the job was not submitted: {reason}")]
    NotSubmitted {
        /// Why, as [`PoolError`](super::PoolError) says it.
        reason: String,
    },
    /// The answer is no value of the ticket's type.
    #[error("the answer can't be read as the wanted type: {message}")]
    Decode {
        /// What is wrong.
        message: String,
    },
}

fn at_attempt(attempts: u8) -> String {
    match attempts {
        0 | 1 => String::new(),
        more => format!(" at attempt {more}, and is not tried again"),
    }
}

fn signal_name(signal: Option<i32>) -> String {
    let Some(number) = signal else {
        return "no signal".to_owned();
    };
    nix::sys::signal::Signal::try_from(number)
        .map_or_else(|_| format!("signal {number}"), |signal| signal.to_string())
}

/// A job's bytes, or why there are none.
pub(super) type Answer = Result<Vec<u8>, JobError>;

/// What is known of one job whose answer was not fetched.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub answer: Option<Answer>,
    /// Some worker began with it.
    pub begun: bool,
    /// By when it must have begun, and how long that was.
    pub begin_by: Option<(Instant, Duration)>,
    /// How far it said it is.
    pub progress: (u64, u64),
    /// Its job is in the queue, or was: it is owed an answer.
    sent: bool,
    /// Nobody has the ticket any more.
    abandoned: bool,
    /// There is no ticket: what becomes of the job goes to the stream.
    pub is_streamed: bool,
}

impl Entry {
    /// Of a job that was not begun, and must be by then, if that is said.
    pub(super) fn begun_by(begin_by: Option<(Instant, Duration)>) -> Self {
        Self {
            begin_by,
            ..Self::default()
        }
    }

    /// Of a job without a ticket.
    pub(super) fn streamed() -> Self {
        Self {
            is_streamed: true,
            ..Self::default()
        }
    }
}

/// All jobs of a pool.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    entries: Mutex<HashMap<u64, Entry>>,
    /// Something was answered.
    answered: Condvar,
    /// What became of jobs that have no tickets. Locked while the entries are, or alone.
    pub stream: Stream,
}

impl Tickets {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job of this ticket was sent.
    pub(super) fn sent(&self, ticket: u64) {
        if let Some(entry) = self.lock().get_mut(&ticket) {
            entry.sent = true;
        }
    }

    /// A job that was sent and whose ticket nobody has.
    pub(super) fn adopt(&self, ticket: u64) {
        let entry = Entry {
            sent: true,
            abandoned: true,
            ..Entry::default()
        };
        self.lock().insert(ticket, entry);
    }

    /// Whether a job has a ticket and no answer.
    pub(super) fn is_unanswered(&self, ticket: u64) -> bool {
        let entries = self.lock();
        entries
            .get(&ticket)
            .is_some_and(|entry| entry.answer.is_none())
    }

    /// The number of jobs that were sent and not answered.
    pub(super) fn unanswered(&self) -> usize {
        let owed = |entry: &&Entry| entry.sent && entry.answer.is_none();
        self.lock().values().filter(owed).count()
    }

    /// Answers a job, unless it was answered before; whether this was the first answer.
    pub(super) fn answer(
        &self,
        entries: &mut HashMap<u64, Entry>,
        ticket: u64,
        answer: Answer,
    ) -> bool {
        let Some(entry) = entries.get_mut(&ticket) else {
            return false;
        };
        if entry.answer.is_some() {
            return false;
        }
        if entry.is_streamed {
            entries.remove(&ticket);
            self.stream.push(JobEvent::Answered {
                job: ticket,
                answer,
            });
        } else if entry.abandoned {
            entries.remove(&ticket);
        } else {
            entry.answer = Some(answer);
            self.answered.notify_all();
        }
        true
    }

    /// Takes an answer that is there.
    fn fetch(entries: &mut HashMap<u64, Entry>, ticket: u64) -> Option<Answer> {
        entries.get(&ticket)?.answer.as_ref()?;
        entries.remove(&ticket)?.answer
    }

    /// Waits until `ready` finds something, or until then.
    fn wait_for<R>(
        &self,
        deadline: Option<Instant>,
        mut ready: impl FnMut(&mut HashMap<u64, Entry>) -> Option<R>,
    ) -> Option<R> {
        let mut entries = self.lock();
        loop {
            if let Some(found) = ready(&mut entries) {
                return Some(found);
            }
            entries = match deadline {
                None => (self.answered)
                    .wait(entries)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.checked_duration_since(Instant::now())?;
                    let woken = self.answered.wait_timeout(entries, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// What a ticket asks of its pool.
pub(super) trait Canceller: Send + Sync {
    /// Makes the job unwanted.
    fn cancel(&self, ticket: u64);
}

/// A job that was submitted. Dropped, the job goes on, and its answer is dropped, too.
#[must_use = "a job's answer, or its failure, is learned by waiting"]
pub struct Ticket<T> {
    number: u64,
    tickets: Arc<Tickets>,
    pool: Arc<dyn Canceller>,
    output: PhantomData<fn() -> T>,
}

impl<T> Ticket<T> {
    pub(super) fn new(number: u64, tickets: Arc<Tickets>, pool: Arc<dyn Canceller>) -> Self {
        Self {
            number,
            tickets,
            pool,
            output: PhantomData,
        }
    }

    /// Its number, which no other job of the pool has.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether the answer is there.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let entries = self.tickets.lock();
        entries
            .get(&self.number)
            .is_some_and(|entry| entry.answer.is_some())
    }

    /// What the job said last of how far it is: so much of so much; zeroes if it said nothing.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let entries = self.tickets.lock();
        entries
            .get(&self.number)
            .map_or((0, 0), |entry| entry.progress)
    }

    /// Whether some worker has begun with it, as far as the pool has heard.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        let entries = self.tickets.lock();
        entries.get(&self.number).is_some_and(|entry| entry.begun)
    }

    /// Makes the job unwanted: [`JobError::Cancelled`] is its answer, unless it has one. If it was not begun it never is; if
    /// it runs, its handler is told, and its worker killed after the pool's grace, that worker only.
    pub fn cancel(&self) {
        self.pool.cancel(self.number);
    }
}

impl<T: DeserializeOwned> Ticket<T> {
    /// Waits for the answer, however long it takes. Ends also if workers die, or the pool.
    ///
    /// # Errors
    /// [`JobError`] says why there is no result.
    pub fn wait(self) -> Result<T, JobError> {
        let number = self.number;
        let answer = self
            .tickets
            .wait_for(None, |entries| Tickets::fetch(entries, number));
        decoded(answer.unwrap_or(Err(JobError::Cancelled)))
    }

    /// Waits for the answer at most so long; `Err` gives the ticket back if it did not come.
    ///
    /// # Errors
    /// The ticket.
    pub fn wait_timeout(self, time: Duration) -> Result<Result<T, JobError>, Self> {
        let number = self.number;
        let deadline = Instant::now().checked_add(time);
        let answer = self
            .tickets
            .wait_for(deadline, |entries| Tickets::fetch(entries, number));
        answer.map(decoded).ok_or(self)
    }
}

/// The answers to these jobs in the order in which they come, each with its place among the tickets given.
pub fn as_completed<T: DeserializeOwned>(
    tickets: impl IntoIterator<Item = Ticket<T>>,
) -> impl Iterator<Item = (usize, Result<T, JobError>)> {
    let mut places = HashMap::new();
    let mut open = OpenTickets::default();
    for (place, ticket) in tickets.into_iter().enumerate() {
        places.insert(ticket.number(), place);
        open.push(ticket);
    }
    std::iter::from_fn(move || {
        let (number, answer) = open.next(None)?;
        Some((places.remove(&number)?, answer))
    })
}

/// Tickets whose answers are waited for all at once, while more may be added.
#[derive(Debug)]
pub struct OpenTickets<T> {
    tickets: HashMap<u64, Ticket<T>>,
}

impl<T> OpenTickets<T> {
    /// Adds one, of the same pool as the others.
    pub fn push(&mut self, ticket: Ticket<T>) {
        self.tickets.insert(ticket.number, ticket);
    }

    /// How many were not answered yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tickets.len()
    }

    /// Whether all were answered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// Those that were not.
    pub fn iter(&self) -> impl Iterator<Item = &Ticket<T>> {
        self.tickets.values()
    }
}

impl<T: DeserializeOwned> OpenTickets<T> {
    /// Waits for the next answer, at most so long: the ticket's number, and the answer. `None` if none came, or there is no ticket
    /// left.
    pub fn next(&mut self, within: Option<Duration>) -> Option<(u64, Result<T, JobError>)> {
        let table = Arc::clone(&self.tickets.values().next()?.tickets);
        let deadline = within.and_then(|time| Instant::now().checked_add(time));
        let (number, answer) = table.wait_for(deadline, |entries| {
            self.tickets.keys().find_map(|number| {
                let answer = Tickets::fetch(entries, *number)?;
                Some((*number, answer))
            })
        })?;
        self.tickets.remove(&number);
        Some((number, decoded(answer)))
    }
}

/// None yet.
impl<T> Default for OpenTickets<T> {
    fn default() -> Self {
        Self {
            tickets: HashMap::new(),
        }
    }
}

pub(super) fn decoded<T: DeserializeOwned>(answer: Answer) -> Result<T, JobError> {
    let bytes = answer?;
    codec::decode(&bytes).map_err(|error| JobError::Decode {
        message: error.to_string(),
    })
}

/// A ticket gone, its job's entry is of no use once it is answered.
impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        let mut entries = self.tickets.lock();
        if let Some(entry) = entries.get_mut(&self.number) {
            entry.abandoned = true;
            if entry.answer.is_some() {
                entries.remove(&self.number);
            }
        }
    }
}

impl<T> fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ticket").field(&self.number).finish()
    }
}
