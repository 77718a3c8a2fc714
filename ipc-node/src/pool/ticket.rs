//! The state of each job, and the ticket that its submitter holds.
//!
//! The first answer to a job counts. Later ones are counted and dropped.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipc_proto::codec;
use serde::de::DeserializeOwned;

use super::job_error::{Answer, JobError};
use super::job_events::{JobEvent, JobEvents};

/// The state of a job whose answer was not fetched.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub answer: Option<Answer>,
    /// A worker began the job.
    pub begun: bool,
    /// The time by which it must have begun, and how long the limit was.
    pub begin_by: Option<(Instant, Duration)>,
    /// The progress that it reported.
    pub progress: (u64, u64),
    /// Its job was put into the queue, so it must be answered.
    sent: bool,
    /// Its ticket was dropped.
    abandoned: bool,
    /// The job has no ticket: its events go to the stream.
    pub is_streamed: bool,
}

impl Entry {
    /// Creates the entry of a new job. If a worker must begin it by some time, that is `begin_by`.
    pub(super) fn begun_by(begin_by: Option<(Instant, Duration)>) -> Self {
        Self {
            begin_by,
            ..Self::default()
        }
    }

    /// Creates the entry of a job without a ticket.
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
    /// Notified when a job is answered.
    answered: Condvar,
    /// The events of jobs without tickets. Locked while the entries are locked, or alone.
    pub stream: JobEvents,
}

impl Tickets {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the job of this ticket was sent.
    pub(super) fn sent(&self, ticket: u64) {
        if let Some(entry) = self.lock().get_mut(&ticket) {
            entry.sent = true;
        }
    }

    /// Adds a job that was sent and has no ticket.
    pub(super) fn adopt(&self, ticket: u64) {
        let entry = Entry {
            sent: true,
            abandoned: true,
            ..Entry::default()
        };
        self.lock().insert(ticket, entry);
    }

    /// Returns `true` if a job has a ticket and no answer.
    pub(super) fn is_unanswered(&self, ticket: u64) -> bool {
        let entries = self.lock();
        entries
            .get(&ticket)
            .is_some_and(|entry| entry.answer.is_none())
    }

    /// Returns the number of jobs that were sent and not answered.
    pub(super) fn unanswered(&self) -> usize {
        let owed = |entry: &&Entry| entry.sent && entry.answer.is_none();
        self.lock().values().filter(owed).count()
    }

    /// Answers a job, unless it was answered before. Returns `true` if this was the first answer.
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

    /// Takes an answer, if there is one.
    fn fetch(entries: &mut HashMap<u64, Entry>, ticket: u64) -> Option<Answer> {
        entries.get(&ticket)?.answer.as_ref()?;
        entries.remove(&ticket)?.answer
    }

    /// Waits until `ready` finds something, or until the deadline.
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

/// The pool, as its tickets see it.
pub(super) trait Canceller: Send + Sync {
    /// Cancels the job.
    fn cancel(&self, ticket: u64);
}

/// A submitted job. If the ticket is dropped, the job continues, and its answer is dropped.
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

    /// Returns its number, which no other job of the pool has.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns `true` if the answer has arrived.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let entries = self.tickets.lock();
        entries
            .get(&self.number)
            .is_some_and(|entry| entry.answer.is_some())
    }

    /// Returns the last progress that the job reported: the part done and the total. Both are zero
    /// without a report.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let entries = self.tickets.lock();
        entries
            .get(&self.number)
            .map_or((0, 0), |entry| entry.progress)
    }

    /// Returns `true` if the pool knows that a worker began the job.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        let entries = self.tickets.lock();
        entries.get(&self.number).is_some_and(|entry| entry.begun)
    }

    /// Cancels the job: [`JobError::Cancelled`] is its answer, unless it already has one. A job
    /// that was not begun never begins. The handler of a running job is told, and its worker is
    /// killed after the pool's grace time. Other workers are not affected.
    pub fn cancel(&self) {
        self.pool.cancel(self.number);
    }
}

impl<T> Ticket<T> {
    /// Waits for the encoded answer, without a limit.
    pub(super) fn wait_encoded(self) -> Answer {
        let number = self.number;
        let answer = self
            .tickets
            .wait_for(None, |entries| Tickets::fetch(entries, number));
        answer.unwrap_or(Err(JobError::Cancelled))
    }
}

impl<T: DeserializeOwned> Ticket<T> {
    /// Waits for the answer, without a limit. Also ends if workers die, or the pool.
    ///
    /// # Errors
    /// [`JobError`] says why there is no result.
    pub fn wait(self) -> Result<T, JobError> {
        decoded(self.wait_encoded())
    }

    /// Waits for the answer, for at most `time`. `Err` returns the ticket if the answer did not
    /// arrive.
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

/// Returns the answers to these jobs in the order in which they arrive, each with the position of
/// its ticket.
pub fn as_completed<T: DeserializeOwned>(
    tickets: impl IntoIterator<Item = Ticket<T>>,
) -> impl Iterator<Item = (usize, Result<T, JobError>)> {
    let mut places = HashMap::new();
    let mut open = OpenTickets::default();
    for (config, ticket) in tickets.into_iter().enumerate() {
        places.insert(ticket.number(), config);
        open.push(ticket);
    }
    std::iter::from_fn(move || {
        let (number, answer) = open.next(None)?;
        Some((places.remove(&number)?, answer))
    })
}

/// Tickets whose answers are awaited together, while more tickets may be added.
#[derive(Debug)]
pub struct OpenTickets<T> {
    tickets: HashMap<u64, Ticket<T>>,
}

impl<T> OpenTickets<T> {
    /// Adds a ticket of the same pool as the others.
    pub fn push(&mut self, ticket: Ticket<T>) {
        self.tickets.insert(ticket.number, ticket);
    }

    /// Returns the number of unanswered tickets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tickets.len()
    }

    /// Returns `true` if all tickets were answered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// Iterates over the unanswered tickets.
    pub fn iter(&self) -> impl Iterator<Item = &Ticket<T>> {
        self.tickets.values()
    }
}

impl<T: DeserializeOwned> OpenTickets<T> {
    /// Waits for the next answer, for at most `within`. Returns the ticket's number and the answer,
    /// or `None` if no answer arrived or no ticket is left.
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

/// No tickets.
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

/// Without its ticket, the entry of an answered job is useless.
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
