//! A supervised pool of worker processes: what `multiprocessing.Pool` is used for, without the hangs.
//!
//! Jobs lie in a queue in shared memory, so that a worker's death costs its job an attempt and no other anything. A
//! thread of the pool starts the workers, watches their pidfds, and starts others in their places; a second one reads the
//! answers, so that whoever submits to a full queue never keeps answers from being read. Callers wait for tickets.
//!
//! Any worker may be killed at any time: its job comes to another, or is a dead letter when all attempts are used up, and
//! its ticket says so. The pool's process may be killed: the workers see the end of a pipe and end, with whatever they started.
//! What lies in shared memory then is taken away by them, or by the next pool of the namespace.
//!
//! Does not fork: workers are programs started anew. Waits for its own children only.

mod builder;
mod child;
mod restart;
mod state;
mod supervisor;
mod ticket;
mod wire;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipc_proto::codec;
use ipc_queue::transport::{OpenMode, Wait};
use ipc_queue::{DeadLetter, QueueOptions, RecvError, SendFailure, ShmQueue};
use ipc_shm::Namespace;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use builder::{PoolBuilder, PoolError};
pub use restart::{Backoff, Intensity, RestartPolicy};
pub use ticket::{JobError, Ticket, as_completed};
pub use worker::{Context, Handlers};

use state::Shared;
use ticket::{Canceller, Entry};
use wire::{Job, Place, Report, Unwanted};

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
    /// Its process.
    pub pid: u32,
    /// Since when.
    pub age: Duration,
    /// Whether it takes jobs.
    pub ready: bool,
    /// The ticket of the job that it has, and for how long it has had it.
    pub job: Option<(u64, Duration)>,
    /// How many it has done.
    pub jobs_done: u64,
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
        remove_leftovers(&builder.namespace);
        let place = Place {
            namespace: builder.namespace,
            pool: format!("pool-{}-{:08x}", std::process::id(), fastrand::u32(..)),
            start: 0,
            max_jobs: builder.limits.max_jobs,
        };
        let create = |address: &str| {
            let options = QueueOptions::new().settings(builder.queue.clone());
            options.mode(OpenMode::Create).open_bytes(address)
        };
        let made = || -> Result<_, PoolError> {
            let (jobs, answers) = (create(&place.jobs())?, create(&place.answers())?);
            Ok((jobs, answers, Unwanted::create(&place)?))
        };
        let (jobs, answers, unwanted) = made().inspect_err(|_| place.remove_all())?;
        let (poked, poke) = std::io::pipe()?;
        let (limits, on_progress) = (builder.limits, builder.on_progress);
        let shared = Arc::new(Shared::new(
            place,
            limits,
            jobs,
            answers,
            unwanted,
            on_progress,
            poke,
        ));
        let mut pool = Self {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
        };
        let reader = Arc::clone(&shared);
        pool.spawn("ipc-pool-answers", move || read_answers(&reader))?;
        let supervisor = supervisor::Supervisor::new(shared, builder.program, poked)?;
        pool.spawn("ipc-pool", move || supervisor.run())?;
        Ok(pool)
    }

    fn spawn(
        &mut self,
        name: &str,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), std::io::Error> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        self.threads.push(thread);
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

    fn submit_within<I: Serialize, O>(
        &self,
        name: &str,
        input: &I,
        begin_within: Option<Duration>,
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
        self.shared.tickets.lock().insert(number, entry);
        let pool: Arc<dyn Canceller> = Arc::clone(&self.shared) as _;
        let ticket = Ticket::new(number, Arc::clone(&self.shared.tickets), pool);
        // Its number's bit may be that of a job of long ago.
        let _ = self.shared.unwanted.set(number, false);
        if let Err(error) = self.send(&job) {
            self.shared.tickets.lock().remove(&number);
            return Err(error);
        }
        if begin_within.is_some() {
            self.shared.expiring.store(true, Ordering::SeqCst);
            self.shared.poke();
        }
        Ok(ticket)
    }

    fn send(&self, job: &[u8]) -> Result<(), PoolError> {
        match self.shared.jobs.sender().send(job) {
            Ok(_) => {}
            Err(SendFailure::Closed | SendFailure::Removed) => return Err(self.why_ended()),
            Err(failure) => return Err(failure.into()),
        }
        // Sent while the pool ended: nobody will look.
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
    #[must_use]
    pub fn status(&self) -> PoolStatus {
        let now = Instant::now();
        let waiting = self.shared.jobs.transport().stats().ready;
        let state = self.shared.state();
        let workers = state.workers.values().map(|worker| WorkerStatus {
            pid: worker.pid,
            age: now.saturating_duration_since(worker.started_at),
            ready: worker.ready,
            job: worker
                .running
                .map(|running| (running.ticket, running.time(now))),
            jobs_done: worker.jobs_done,
        });
        PoolStatus {
            workers: workers.collect(),
            waiting,
            restarts: state.restarts,
            late_answers: state.late_answers,
            ended: state.ended.clone(),
        }
    }

    /// The jobs that each worker died over that had them, with their inputs encoded in them.
    #[must_use]
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.shared.jobs.transport().dead_letters()
    }

    /// Takes no more jobs, lets the workers finish those that there are, at most for the drain time-out, and ends.
    ///
    /// # Errors
    /// [`PoolError::Ended`] if it ended otherwise, or some job had to be given up.
    pub fn shutdown(mut self) -> Result<(), PoolError> {
        self.shared.state().draining = true;
        self.shared.jobs.transport().close();
        self.shared.poke();
        self.join();
        self.end()
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

/// Takes in what workers say, until the queue of answers is removed.
fn read_answers(shared: &Shared) {
    let receiver = shared.answers.receiver();
    loop {
        let delivery = match receiver.recv_within(Wait::Forever) {
            Ok(delivery) => delivery,
            Err(RecvError::Damaged(_)) => continue,
            Err(_) => return,
        };
        if let Ok(Report { start, what }) = codec::decode(delivery.payload()) {
            shared.hear(start, what);
        }
        let _ = delivery.ack();
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
                namespace: namespace.to_owned(),
                pool: pool.to_owned(),
                start: 0,
                max_jobs: 0,
            };
            place.remove_all();
        }
    }
}
