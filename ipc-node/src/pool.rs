//! A supervised pool of worker processes: what `multiprocessing.Pool` is used for, without the hangs.
//!
//! Jobs lie in a queue, so that a worker's death costs its job an attempt and no other anything: in shared memory, or wherever
//! [the pool's address](PoolBuilder::at) says. A thread of the pool starts the workers, watches their pidfds, and starts others in
//! their places; a second one reads the answers, so that whoever submits to a full queue never keeps answers from being read. Callers
//! wait for tickets. Workers can also be [threads](PoolBuilder::threads), and [guests](PoolBuilder::join) from elsewhere may help.
//!
//! Any worker may be killed at any time: its job comes to another, or is a dead letter when all attempts are used up, and
//! its ticket says so. The pool's process may be killed: the workers see the end of a pipe and end, with whatever they started.
//! Its queues are taken away by them then, or, in shared memory, by the next pool of the namespace.
//!
//! Does not fork: workers are programs started anew. Waits for its own children only.

mod answers;
mod builder;
mod child;
mod events;
mod guests;
mod letters;
mod notices;
mod patience;
mod program;
mod queues;
mod request;
mod restart;
mod signals;
mod sigterm;
mod state;
mod supervisor;
mod thread;
mod ticket;
mod wire;
mod worker;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipc_proto::{Kind, codec};
use ipc_queue::transport::Wait;
use ipc_queue::{ControlError, DeadLetter, QueueStats, SendFailure, ShmQueue};
use ipc_shm::Namespace;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use builder::{PoolBuilder, PoolError};
pub use guests::Guests;
pub use request::Request;
pub use restart::{Backoff, Intensity, RestartPolicy};
pub use ticket::{JobError, OpenTickets, Ticket, as_completed};
pub use worker::{Context, Handlers};

use queues::Queues;
use state::{Shared, Worker};
use ticket::{Canceller, Entry};
use wire::{GUEST, Job, LENGTH_BYTES, Place};

/// Worker processes, and the jobs that they do.
///
/// For any number of threads. Dropped, its workers are killed, and open tickets are answered with
/// [`JobError::PoolEnded`]; [`shutdown`](Self::shutdown) lets them finish first.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What one worker is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerStatus {
    /// What tells it from all others that the pool has or had.
    pub number: u64,
    /// What it is called; whoever comes in its place, too.
    pub name: String,
    /// Its process, in that process's PID namespace.
    pub pid: u32,
    /// Whether another process has started it. One that died is still listed.
    pub is_guest: bool,
    /// Since when.
    pub age: Duration,
    /// Whether it takes jobs.
    pub ready: bool,
    /// The ticket of the job that it has, and for how long it has had it.
    pub job: Option<(u64, Duration)>,
    /// How many it has done.
    pub jobs_done: u64,
}

/// A worker that ended and was not told to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// What it was called.
    pub worker: String,
    /// Its process.
    pub pid: u32,
    /// The ticket of the job that it had, and for how long it had had it.
    pub job: Option<(u64, Duration)>,
    /// What is known of why.
    pub note: String,
}

impl Loss {
    fn of(worker: &Worker, note: &str) -> Self {
        let now = Instant::now();
        Self {
            worker: worker.name.clone(),
            pid: worker.pid,
            job: worker.running.map(|job| (job.ticket, job.time(now))),
            note: note.to_owned(),
        }
    }
}

/// What a pool is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Who works, and on what.
    pub workers: Vec<WorkerStatus>,
    /// Jobs that no worker has begun with.
    pub waiting: u64,
    /// Workers that were started in the places of others.
    pub restarts: u64,
    /// Answers to jobs that had one: done twice, or no longer wanted.
    pub late_answers: u64,
    /// Why it ended, if it has.
    pub ended: Option<String>,
}

impl Pool {
    /// Sets up a pool.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    fn start(builder: PoolBuilder) -> Result<Self, PoolError> {
        builder.check_names()?;
        if builder.is_own_address() {
            remove_leftovers(builder.namespace_name());
        }
        let address = builder.address();
        let place = Place {
            start: 1,
            name: builder.worker_name.clone(),
            max_jobs: builder.limits.max_jobs,
            keep_alive: builder.kept_alive(&address)?,
            address,
        };
        let mut settings = builder.queue.clone();
        settings.lease = place.keep_alive.or(settings.lease);
        let queues = Arc::new(Queues::create(&place, &settings)?);
        Self::start_at(place.clone(), builder, Arc::clone(&queues))
            .inspect_err(|_| queues.remove(&place))
    }

    fn start_at(
        place: Place,
        builder: PoolBuilder,
        queues: Arc<Queues>,
    ) -> Result<Self, PoolError> {
        let (poked, poke) = io::pipe()?;
        let mut shared = Shared::new(place, builder.limits, queues, poke);
        (shared.on_progress, shared.on_loss) = (builder.on_progress, builder.on_loss);
        let shared = Arc::new(shared);
        let mut pool = Self {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
        };
        let reader = Arc::clone(&shared);
        pool.spawn("ipc-pool-answers", move || answers::read(&reader))?;
        let supervisor = supervisor::Supervisor::new(shared, builder.program, poked)?;
        pool.spawn("ipc-pool", move || supervisor.run())?;
        Ok(pool)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let named = std::thread::Builder::new().name(name.to_owned());
        self.threads.push(named.spawn(run)?);
        Ok(())
    }

    /// Has some worker run the handler `name` on `input`. Waits while the queue of jobs is full.
    ///
    /// # Errors
    /// [`PoolError::Ended`] says why there are no workers any more; `Send` that the job has no encoding, or is too large.
    pub fn submit<I: Serialize, O>(&self, name: &str, input: &I) -> Result<Ticket<O>, PoolError> {
        self.submit_within(name, input, None)
    }

    /// The same for a job that nobody wants any more if no worker has begun with it in `time`: [`JobError::Expired`].
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn submit_expiring<I: Serialize, O>(
        &self,
        name: &str,
        input: &I,
        time: Duration,
    ) -> Result<Ticket<O>, PoolError> {
        self.submit_within(name, input, Some(time))
    }

    /// The same for a job with content that is not encoded: `fill` writes it where the worker will
    /// [read it](Context::content), and says how much of the `room` it needed. Waits for that room as told.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), and [`PoolError::System`] with what `fill` says: nothing was submitted then.
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
            let mut loan = sender.loan_as(Kind::Data, job.len() + room + LENGTH_BYTES, wait)?;
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

    fn submit_within<I: Serialize, O>(
        &self,
        name: &str,
        input: &I,
        begin_within: Option<Duration>,
    ) -> Result<Ticket<O>, PoolError> {
        let send = |job: &[u8]| Ok(self.shared.queues.jobs.sender().send(job).map(drop)?);
        self.submit_as(name, input, begin_within, send)
    }

    fn submit_as<I: Serialize, O>(
        &self,
        name: &str,
        input: &I,
        begin_within: Option<Duration>,
        send: impl FnOnce(&[u8]) -> Result<(), PoolError>,
    ) -> Result<Ticket<O>, PoolError> {
        let encode = |input: &I| codec::encode(input).map_err(SendFailure::from);
        let number = self.shared.next_ticket.fetch_add(1, Ordering::Relaxed);
        let job = Job {
            ticket: number,
            handler: name.to_owned(),
            input: encode(input)?,
        };
        let job = codec::encode(&job).map_err(SendFailure::from)?;
        let deadline = |time| Some((Instant::now().checked_add(time)?, time));
        let entry = Entry::begun_by(begin_within.and_then(deadline));
        let was_idle = {
            let mut entries = self.shared.tickets.lock();
            entries.insert(number, entry);
            entries.len() == 1
        };
        let pool: Arc<dyn Canceller> = Arc::clone(&self.shared) as _;
        let ticket = Ticket::new(number, Arc::clone(&self.shared.tickets), pool);
        if let Err(error) = send(&job).and_then(|()| self.check_not_ended()) {
            self.shared.tickets.lock().remove(&number);
            return Err(match error {
                PoolError::Send(SendFailure::Closed | SendFailure::Removed) => self.why_ended(),
                other => other,
            });
        }
        if begin_within.is_some() {
            self.shared.expiring.store(true, Ordering::SeqCst);
        }
        if begin_within.is_some() || was_idle {
            self.shared.poke();
        }
        Ok(ticket)
    }

    /// What was sent while the pool ended: nobody will look.
    fn check_not_ended(&self) -> Result<(), PoolError> {
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

    /// The results of the handler for each input, in the inputs' order. Waits for all.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), when not all could be submitted; those that were run on, unwanted.
    pub fn map<I: Serialize, O: DeserializeOwned>(
        &self,
        name: &str,
        inputs: impl IntoIterator<Item = I>,
    ) -> Result<Vec<Result<O, JobError>>, PoolError> {
        let tickets = self.submit_all(name, inputs)?;
        Ok(tickets.into_iter().map(Ticket::wait).collect())
    }

    /// The results of the handler for each input with the input's place, in the order in which they come.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub fn map_unordered<I: Serialize, O: DeserializeOwned>(
        &self,
        name: &str,
        inputs: impl IntoIterator<Item = I>,
    ) -> Result<impl Iterator<Item = (usize, Result<O, JobError>)>, PoolError> {
        Ok(as_completed(self.submit_all(name, inputs)?))
    }

    fn submit_all<I: Serialize, O>(
        &self,
        name: &str,
        inputs: impl IntoIterator<Item = I>,
    ) -> Result<Vec<Ticket<O>>, PoolError> {
        let mut tickets = Vec::new();
        for input in inputs {
            match self.submit(name, &input) {
                Ok(ticket) => tickets.push(ticket),
                Err(error) => {
                    tickets.iter().for_each(Ticket::cancel);
                    return Err(error);
                }
            }
        }
        Ok(tickets)
    }

    /// Who works on what, and for how long.
    ///
    /// # Errors
    /// [`ControlError`] if the queue of jobs does not answer.
    pub fn status(&self) -> Result<PoolStatus, ControlError> {
        let waiting = self.shared.queues.jobs.transport().stats()?.ready;
        let workers = self.workers();
        let state = self.shared.state();
        Ok(PoolStatus {
            workers,
            waiting,
            restarts: state.restarts,
            late_answers: state.late_answers,
            ended: state.ended.clone(),
        })
    }

    /// The workers alone. Asks no queue, which over a network takes a while.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerStatus> {
        let now = Instant::now();
        let state = self.shared.state();
        let workers = state.workers.iter().map(|(number, worker)| WorkerStatus {
            number: *number,
            name: worker.name.clone(),
            is_guest: number & GUEST != 0,
            pid: worker.pid,
            age: now.saturating_duration_since(worker.started_at),
            ready: worker.ready,
            job: worker
                .running
                .map(|running| (running.ticket, running.time(now))),
            jobs_done: worker.jobs_done,
        });
        workers.collect()
    }

    /// Whether it has ended; [`PoolStatus::ended`] says why. Asks no queue.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.shared.state().ended.is_some()
    }

    /// The counters of its queues: of jobs, and of what workers say. After its end, those just before its queues were removed.
    ///
    /// # Errors
    /// [`ControlError`] if one of them does not answer.
    pub fn stats(&self) -> Result<(QueueStats, QueueStats), ControlError> {
        let last = self.shared.state().last_stats;
        match last {
            Some(last) => Ok(last),
            None => self.shared.queues.stats(),
        }
    }

    /// Where it is: whoever is to [join](PoolBuilder::join) it needs to know.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.shared.place.address
    }

    /// Kills the worker of this [number](WorkerStatus::number), as anybody could with its process: to see what becomes of a job then.
    /// Without effect on guests, and on those that are gone.
    pub fn kill_worker(&self, number: u64) {
        self.shared.state().condemned.push(number);
        self.shared.poke();
    }

    /// The jobs that each worker died over that had them, with their inputs encoded in them.
    ///
    /// # Errors
    /// [`ControlError`] if the queue of jobs does not answer.
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter>, ControlError> {
        self.shared.queues.jobs.transport().dead_letters()
    }

    /// Takes no more jobs, lets the workers finish those that there are, at most for the drain time-out, and ends.
    ///
    /// # Errors
    /// [`PoolError::Ended`] if it ended otherwise, or some job had to be given up.
    pub fn shutdown(self) -> Result<(), PoolError> {
        self.close()?;
        self.wait()
    }

    /// Begins to end as [`shutdown`](Self::shutdown) does, and waits for nothing: [`has_ended`](Self::has_ended) says when it has.
    ///
    /// # Errors
    /// [`ControlError`] if the queue of jobs could not be closed. The supervisor goes on trying.
    pub fn close(&self) -> Result<(), ControlError> {
        self.shared.state().draining = true;
        let closed = self.shared.queues.jobs.transport().close();
        self.shared.poke();
        closed
    }

    /// The same, and tells it to each worker by a [`Shutdown`](Kind::Shutdown) message of its own, behind the jobs that there are.
    ///
    /// # Errors
    /// As [`close`](Self::close).
    pub fn close_by_message(&self) -> Result<(), ControlError> {
        self.shared.state().draining = true;
        let sender = self.shared.queues.jobs.sender();
        for _ in 0..self.shared.limits.workers {
            // Who gets none sees that the queue is closed.
            let _ = sender.send_as(Kind::Shutdown, &[], Wait::No);
        }
        self.close()
    }

    /// Waits until the pool has ended: after SIGTERM, if [that drains](PoolBuilder::sigterm_drains), or because its workers
    /// can't start.
    ///
    /// # Errors
    /// As [`shutdown`](Self::shutdown).
    pub fn wait(mut self) -> Result<(), PoolError> {
        self.join();
        self.end()
    }

    fn end(&self) -> Result<(), PoolError> {
        match self.shared.state().ended.clone() {
            Some(reason) if reason != supervisor::DRAINED => Err(PoolError::Ended { reason }),
            _ => Ok(()),
        }
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state().kill = true;
        self.shared.poke();
        self.join();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.status()).finish()
    }
}

/// Removes what pools left in the namespace whose processes are gone, with all of their workers.
fn remove_leftovers(namespace: &str) {
    let Ok(folder) = Namespace::new(namespace) else {
        return;
    };
    let names = ShmQueue::list(&folder).unwrap_or_default();
    let pools = names
        .iter()
        .filter_map(|name| name.as_str().strip_suffix(".jobs"));
    for pool in pools {
        let pid = pool
            .strip_prefix("pool-")
            .and_then(|rest| rest.split('-').next()?.parse().ok());
        let gone = |pid| {
            let signal = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None);
            signal == Err(nix::errno::Errno::ESRCH)
        };
        if pid.is_some_and(gone) {
            let place = Place {
                address: format!("shm:{namespace}/{pool}"),
                start: 0,
                name: String::new(),
                max_jobs: 0,
                keep_alive: None,
            };
            place.remove_all();
        }
    }
}
