//! Many jobs of one handler, as streams. Inputs are taken only as answers are taken, so memory is
//! bounded, and the inputs may be endless.
//!
//! A stream keeps several jobs in flight, so that workers never wait for the next one. A request
//! for an answer first submits as many jobs as allowed, then waits. Nothing runs in the background:
//! without requests, nothing is submitted.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{JobError, OpenTickets, Pool, PoolError, SubmitError, Ticket};

/// The default number of jobs that a stream keeps [in flight](MapUnordered::in_flight).
const IN_FLIGHT: usize = 64;

/// The inputs of a stream, and how they are submitted.
struct Source<'p, Inputs: Iterator> {
    pool: &'p Pool,
    handler: String,
    inputs: Inputs,
    /// An input that was taken, but for which the job queue had no room.
    waiting: Option<Inputs::Item>,
    in_flight: usize,
    /// `true` if no more inputs may be taken.
    is_over: bool,
}

/// The outcome of an attempt to submit the next input.
enum Next<O> {
    Submitted(Ticket<O>),
    /// The job queue has no room now.
    NoRoom,
    /// There is no input left.
    NoInput,
    Failed(JobError),
}

/// The answers to jobs in the order in which they arrive: [`Pool::map_unordered`].
#[must_use = "a stream submits nothing until it is asked for answers"]
pub struct MapUnordered<'p, Inputs: Iterator, O> {
    source: Source<'p, Inputs>,
    open: OpenTickets<O>,
    /// The position of each open ticket's input.
    places: HashMap<u64, usize>,
    taken: usize,
}

/// The answers to jobs in the order of their inputs: [`Pool::map`].
#[must_use = "a stream submits nothing until it is asked for answers"]
pub struct Map<'p, Inputs: Iterator, O> {
    source: Source<'p, Inputs>,
    open: VecDeque<Result<Ticket<O>, JobError>>,
}

impl Pool {
    /// Returns the answers of the handler `name` to each input, in the order of the inputs.
    ///
    /// The inputs may be endless: they are taken as the answers are, with at most 64 jobs [in
    /// flight](Map::in_flight). Dropping the stream before its end cancels those jobs.
    ///
    /// An input that cannot be submitted is answered with [`JobError::NotSubmitted`], and the
    /// stream takes no more inputs.
    pub fn map<I: Serialize, O: DeserializeOwned>(
        &self,
        name: &str,
        inputs: impl IntoIterator<Item = I>,
    ) -> Map<'_, impl Iterator<Item = I>, O> {
        Map {
            source: Source::new(self, name, inputs.into_iter()),
            open: VecDeque::new(),
        }
    }

    /// Returns the answers of the handler `name` to each input, in the order in which they arrive.
    /// Each has the input's position, counted from zero.
    ///
    /// In all other respects like [`map`](Self::map).
    pub fn map_unordered<I: Serialize, O: DeserializeOwned>(
        &self,
        name: &str,
        inputs: impl IntoIterator<Item = I>,
    ) -> MapUnordered<'_, impl Iterator<Item = I>, O> {
        MapUnordered {
            source: Source::new(self, name, inputs.into_iter()),
            open: OpenTickets::default(),
            places: HashMap::new(),
            taken: 0,
        }
    }
}

impl<'p, I: Serialize, Inputs: Iterator<Item = I>> Source<'p, Inputs> {
    fn new(pool: &'p Pool, name: &str, inputs: Inputs) -> Self {
        Self {
            pool,
            handler: name.to_owned(),
            inputs,
            waiting: None,
            in_flight: IN_FLIGHT,
            is_over: false,
        }
    }

    /// Submits the next input. If the stream has no job in flight, it blocks until there is room:
    /// the jobs in the queue are those of other callers, so no answer will say that there is room.
    fn submit_next<O>(&mut self, in_flight: usize) -> Next<O> {
        let Some(input) = self.waiting.take().or_else(|| self.inputs.next()) else {
            self.is_over = true;
            return Next::NoInput;
        };
        let submitted = match in_flight {
            0 => {
                let submitted = self.pool.submit(&self.handler, &input);
                submitted.map_err(|failure| SubmitError { input, failure })
            }
            _ => self.pool.try_submit(&self.handler, input),
        };
        match submitted {
            Ok(ticket) => Next::Submitted(ticket),
            Err(SubmitError {
                input,
                failure: PoolError::NoRoom { .. },
            }) => {
                self.waiting = Some(input);
                Next::NoRoom
            }
            Err(error) => {
                self.is_over = true;
                Next::Failed(JobError::NotSubmitted {
                    reason: error.failure.to_string(),
                })
            }
        }
    }

    fn may_submit(&self, in_flight: usize) -> bool {
        let has_input = self.waiting.is_some() || !self.is_over;
        has_input && in_flight < self.in_flight
    }
}

impl<I: Serialize, Inputs: Iterator<Item = I>, O: DeserializeOwned> MapUnordered<'_, Inputs, O> {
    /// Sets the maximum number of jobs in flight, at least one.
    pub fn in_flight(mut self, jobs: usize) -> Self {
        self.source.in_flight = jobs.max(1);
        self
    }
}

impl<I: Serialize, Inputs: Iterator<Item = I>, O: DeserializeOwned> Map<'_, Inputs, O> {
    /// Sets the maximum number of jobs in flight, at least one.
    pub fn in_flight(mut self, jobs: usize) -> Self {
        self.source.in_flight = jobs.max(1);
        self
    }
}

impl<I: Serialize, Inputs: Iterator<Item = I>, O: DeserializeOwned> Iterator
    for MapUnordered<'_, Inputs, O>
{
    type Item = (usize, Result<O, JobError>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // An answer that is already there goes first, because an input may take time to arrive.
            if let Some(answered) = self.take_answer(Some(Duration::ZERO)) {
                return Some(answered);
            }
            if !self.source.may_submit(self.open.len()) {
                return self.take_answer(None);
            }
            match self.source.submit_next(self.open.len()) {
                Next::Submitted(ticket) => {
                    self.places.insert(ticket.number(), self.taken);
                    self.taken += 1;
                    self.open.push(ticket);
                }
                Next::NoRoom => return self.take_answer(None),
                Next::NoInput => {}
                Next::Failed(error) => return Some((self.taken, Err(error))),
            }
        }
    }
}

impl<Inputs: Iterator, O: DeserializeOwned> MapUnordered<'_, Inputs, O> {
    fn take_answer(&mut self, within: Option<Duration>) -> Option<(usize, Result<O, JobError>)> {
        let (number, answer) = self.open.next(within)?;
        Some((self.places.remove(&number)?, answer))
    }
}

impl<I: Serialize, Inputs: Iterator<Item = I>, O: DeserializeOwned> Iterator
    for Map<'_, Inputs, O>
{
    type Item = Result<O, JobError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.source.may_submit(self.open.len()) {
            match self.source.submit_next(self.open.len()) {
                Next::Submitted(ticket) => self.open.push_back(Ok(ticket)),
                Next::NoRoom | Next::NoInput => break,
                Next::Failed(error) => self.open.push_back(Err(error)),
            }
        }
        self.open
            .pop_front()?
            .map_or_else(|error| Some(Err(error)), |ticket| Some(ticket.wait()))
    }
}

impl<Inputs: Iterator, O> Drop for MapUnordered<'_, Inputs, O> {
    fn drop(&mut self) {
        self.open.iter().for_each(Ticket::cancel);
    }
}

impl<Inputs: Iterator, O> Drop for Map<'_, Inputs, O> {
    fn drop(&mut self) {
        self.open.iter().flatten().for_each(Ticket::cancel);
    }
}

impl<Inputs: Iterator, O> fmt::Debug for MapUnordered<'_, Inputs, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapUnordered")
            .field("taken", &self.taken)
            .field("in_flight", &self.open.len())
            .finish_non_exhaustive()
    }
}

impl<Inputs: Iterator, O> fmt::Debug for Map<'_, Inputs, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map")
            .field("in_flight", &self.open.len())
            .finish_non_exhaustive()
    }
}
