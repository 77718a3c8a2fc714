//! A supervised pool of worker processes: what `multiprocessing.Pool` is used for, without the hangs.
//!
//! Jobs lie in a queue, so that a worker's death costs its job an attempt and no other anything: in shared memory, or wherever
//! [the pool's address](PoolBuilder::at) says. A thread of the pool starts the workers, watches their pidfds, and starts others in
//! their places; a second one reads the answers, so that whoever submits to a full queue never keeps answers from being read. Callers
//! wait for tickets. Workers can also be [threads](PoolBuilder::threads), and [guests](PoolBuilder::join) from elsewhere may help.
//!
//! Any worker may be killed at any time: its job comes to another, or is a dead letter when all attempts are used up, and
//! its ticket says so. The pool's process may be killed: the workers see the end of a pipe and end, with whatever they started.
//! Its queues are removed by them then or, in shared memory, by the next pool at the address or of
//! the namespace. Which process has an address is decided by a lock of the kernel (`owner.rs`).
//!
//! Does not fork: workers are programs started anew. Waits for its own children only and, as PID 1,
//! for what these leave in their process groups.

mod answers;
mod builder;
mod child;
mod dead_letters;
mod events;
mod guests;
mod handle;
mod leftovers;
mod letters;
mod lifeline;
mod map;
mod notices;
mod owner;
mod patience;
mod program;
mod queues;
mod request;
mod restart;
mod retry;
mod sigterm;
mod state;
mod status;
mod stream;
mod submit;
mod supervisor;
mod thread;
mod ticket;
mod wire;
mod worker;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use ipc_proto::Kind;
use ipc_queue::transport::Wait;
use ipc_queue::{ControlError, QueueStats, SendOptions};

pub use builder::{PoolBuilder, PoolError};
pub use dead_letters::DeadLetterLimit;
pub use guests::Guests;
pub use handle::PoolHandle;
pub use leftovers::LeftoverJobs;
pub use map::{Map, MapUnordered};
pub use owner::PoolOwner;
pub use request::Request;
pub use restart::{Backoff, Intensity, RestartPolicy};
pub use retry::RetryPolicy;
pub use status::{Loss, PoolStatus, WorkerStatus};
pub use stream::{JobEvent, decode_answer};
pub use submit::SubmitError;
pub use ticket::{JobError, OpenTickets, Ticket, as_completed};
pub use worker::{Context, Handlers};

use leftovers::Found;
use queues::Queues;
use state::Shared;
use wire::{GUEST, Place};

/// Worker processes, and the jobs that they do.
///
/// For any number of threads. Dropped, its workers are killed, and open tickets are answered with
/// [`JobError::PoolEnded`]; [`shutdown`](Self::shutdown) lets them finish first.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Sets up a pool.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    /// Removes what a killed pool left at an address. `Ok(false)`: there is nothing.
    ///
    /// A pool that starts at the address does this by itself: this is for addresses that nobody
    /// comes back to. Over transports that are not this crate's own, nothing tells a killed pool
    /// from a living one: there the queues are removed in any case.
    ///
    /// # Errors
    /// [`PoolError::Taken`] if the process of the pool there is alive; [`PoolError::Control`] if a
    /// queue can't be removed.
    pub fn remove(address: &str) -> Result<bool, PoolError> {
        owner::remove(address)
    }

    fn start(builder: PoolBuilder) -> Result<Self, PoolError> {
        builder.check_names()?;
        builder.check_limits()?;
        if builder.is_own_address() {
            owner::remove_leftovers(builder.namespace_name());
        }
        let address = builder.address();
        let place = Place {
            start: 1,
            name: builder.worker_name.clone(),
            max_jobs: builder.limits.max_jobs,
            keep_alive: builder.kept_alive(&address)?,
            address,
        };
        let mut settings = builder.limits.retry.applied_to(builder.queue.clone());
        settings.lease = place.keep_alive.or(settings.lease);
        let (queues, found) = Queues::create(&place, &settings)?;
        let queues = Arc::new(queues);
        Self::start_at(place.clone(), builder, Arc::clone(&queues), found)
            .inspect_err(|_| drop(queues.remove(&place)))
    }

    fn start_at(
        place: Place,
        builder: PoolBuilder,
        queues: Arc<Queues>,
        found: Found,
    ) -> Result<Self, PoolError> {
        let (poked, poke) = io::pipe()?;
        let mut shared = Shared::new(place, builder.limits, queues, poke);
        (shared.on_progress, shared.on_loss) = (builder.on_progress, builder.on_loss);
        shared.leftover_jobs = found.count();
        let shared = Arc::new(shared);
        let supervisor = supervisor::Supervisor::new(Arc::clone(&shared), builder.program, poked)?;
        found.settle(builder.leftover_jobs, &shared);
        let mut pool = Self {
            shared,
            threads: Vec::new(),
        };
        let spawned = pool.spawn_threads(supervisor);
        // Before the pool is dropped: its threads end by that.
        spawned.inspect_err(|_| drop(pool.shared.queues.remove(&pool.shared.place)))?;
        Ok(pool)
    }

    fn spawn_threads(&mut self, supervisor: supervisor::Supervisor) -> io::Result<()> {
        let reader = Arc::clone(&self.shared);
        self.spawn("ipc-pool-answers", move || answers::read(&reader))?;
        let over = supervisor::Over::of(&self.shared);
        self.spawn("ipc-pool", move || {
            let _over = over;
            supervisor.run();
        })
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let named = std::thread::Builder::new().name(name.to_owned());
        self.threads.push(named.spawn(run)?);
        Ok(())
    }

    /// Who works on what, and for how long.
    ///
    /// # Errors
    /// [`ControlError`] if the queue of jobs does not answer.
    pub fn status(&self) -> Result<PoolStatus, ControlError> {
        let waiting = self.stats()?.0.ready;
        let workers = self.workers();
        let (dead_letters, dropped_dead_letters) = self.shared.dead_letters.counts();
        let state = self.shared.state();
        Ok(PoolStatus {
            workers,
            waiting,
            restarts: state.restarts,
            late_answers: state.late_answers,
            leftover_jobs: self.shared.leftover_jobs,
            dead_letters,
            dropped_dead_letters,
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
        let last = || self.shared.state().last_stats;
        if let Some(last) = last() {
            return Ok(last);
        }
        // It may end meanwhile: then its queues are gone, and the last counters are there.
        self.shared
            .queues
            .stats()
            .or_else(|error| last().ok_or(error))
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
        self.shared.close()
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
            let shutdown = SendOptions::new().kind(Kind::Shutdown).wait(Wait::No);
            let _ = sender.send_with(&[], &shutdown);
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
        end_of(&self.shared)
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

/// Whether the pool ended as it should.
fn end_of(shared: &Shared) -> Result<(), PoolError> {
    match shared.state().ended.clone() {
        Some(reason) if reason == supervisor::DRAINED => Ok(()),
        Some(reason) => Err(PoolError::Ended { reason }),
        None => Err(PoolError::Ended {
            reason: "its thread ended without a reason".to_owned(),
        }),
    }
}
