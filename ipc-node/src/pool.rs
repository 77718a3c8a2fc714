//! A supervised pool of worker processes, comparable to Python's `multiprocessing.Pool`, but
//! without its hangs.
//!
//! Jobs are kept in a queue, in shared memory or wherever [the pool's address](PoolBuilder::at)
//! says. So a worker's death costs its own job an attempt, and affects no other job. One thread of
//! the pool starts the workers, watches their pidfds and replaces them. A second thread reads the
//! answers, so answers are read even while a caller waits to submit to a full queue. Callers wait
//! for tickets. Workers can also be [threads](PoolBuilder::threads), and [remote
//! workers](PoolBuilder::join) may help.
//!
//! Any worker may be killed at any time. Its job goes to another worker, or becomes a dead letter
//! when all attempts are used up, and its ticket says so. The pool's process may also be killed.
//! The workers then see the end of a pipe, and end together with the programs they started. They
//! also remove the pool's queues. The next pool at the address may do so instead, or in shared
//! memory the next one in the namespace. A lock of the kernel decides which process owns an
//! address, or over transports of other crates a lease.
//!
//! One limit: if a worker is killed from outside at the same moment as the pool's process, the
//! programs that this worker started keep running. No process is left that knows them.
//!
//! The pool does not fork: workers are started as new programs. It waits only for its own children
//! and, as PID 1, for the processes that they leave in their process groups.

mod adoption;
mod answers;
mod builder;
mod cancellations;
mod child;
mod dead_letters;
mod error;
mod events;
mod handle;
mod job_error;
mod job_events;
mod leftovers;
mod letters;
mod lifeline;
mod limits;
mod map;
mod outage;
mod owner;
mod owner_lease;
mod ownership;
mod program;
mod queues;
mod remote;
mod remote_workers;
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
mod worker_exit;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use ipc_proto::Kind;
use ipc_queue::transport::Wait;
use ipc_queue::{ControlError, QueueStats, SendOptions};

pub use builder::PoolBuilder;
pub use dead_letters::DeadLetterLimit;
pub use error::PoolError;
pub use handle::PoolHandle;
pub use job_error::JobError;
pub use job_events::JobEvent;
pub use leftovers::LeftoverJobs;
pub use map::{Map, MapUnordered};
pub use owner::PoolOwner;
pub use remote::{PoolClient, PoolServer, PoolServerStop, RemoteJobError, RemoteTicket};
pub use remote_workers::RemoteWorkers;
pub use request::Request;
pub use restart::{Backoff, Intensity, RestartPolicy};
pub use retry::RetryPolicy;
pub use status::{PoolStatus, WorkerStatus};
pub use stream::decode_answer;
pub use submit::SubmitError;
pub use ticket::{OpenTickets, Ticket, as_completed};
pub use worker::{Context, Handlers};
pub use worker_exit::WorkerExit;

use leftovers::Leftovers;
use queues::Queues;
use state::Shared;
use wire::{REMOTE, WorkerConfig};

/// Worker processes and their jobs.
///
/// Any number of threads can use it. Dropping it kills the workers and answers open tickets with
/// [`JobError::PoolEnded`]. [`shutdown`](Self::shutdown) lets the workers finish first.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Returns a builder for a pool.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    /// Removes what a killed pool left at an address. Returns `Ok(false)` if there is nothing.
    ///
    /// A pool that starts at the address does this by itself, so this is for addresses that are not
    /// used again. Over transports of other crates it waits for up to 15 s until the lease of a
    /// killed pool is over: see [`PoolBuilder::at`].
    ///
    /// # Errors
    /// [`PoolError::Taken`] if the process of the pool there is alive; [`PoolError::Control`] if a
    /// queue cannot be removed.
    pub fn remove(address: &str) -> Result<bool, PoolError> {
        ownership::remove(address)
    }

    fn start(builder: PoolBuilder) -> Result<Self, PoolError> {
        builder.check_process()?;
        builder.check_names()?;
        builder.check_limits()?;
        if builder.is_own_address() {
            ownership::remove_leftovers(builder.namespace_name());
        }
        let address = builder.address();
        let config = WorkerConfig {
            start: 1,
            name: builder.worker_name.clone(),
            max_jobs: builder.limits.max_jobs,
            keep_alive: builder.kept_alive(&address)?,
            address,
        };
        let mut settings = builder.limits.retry.applied_to(builder.queue.clone());
        settings.lease = config.keep_alive.or(settings.lease);
        let (queues, found) = Queues::create(&config, &settings)?;
        let queues = Arc::new(queues);
        Self::start_at(config.clone(), builder, Arc::clone(&queues), found)
            .inspect_err(|_| drop(queues.remove(&config)))
    }

    fn start_at(
        config: WorkerConfig,
        builder: PoolBuilder,
        queues: Arc<Queues>,
        found: Leftovers,
    ) -> Result<Self, PoolError> {
        let (woken, waker) = io::pipe()?;
        let mut shared = Shared::new(config, builder.limits, queues, waker);
        (shared.on_progress, shared.on_worker_exit) = (builder.on_progress, builder.on_worker_exit);
        shared.leftover_jobs = found.count();
        let shared = Arc::new(shared);
        let supervisor = supervisor::Supervisor::new(Arc::clone(&shared), builder.program, woken)?;
        adoption::adopt(found, builder.leftover_jobs, &shared);
        let mut pool = Self {
            shared,
            threads: Vec::new(),
        };
        let spawned = pool.spawn_threads(supervisor);
        // Before the pool is dropped, because this ends its threads.
        spawned.inspect_err(|_| drop(pool.shared.queues.remove(&pool.shared.config)))?;
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

    /// Returns the state of all workers and jobs.
    ///
    /// # Errors
    /// [`ControlError`] if the job queue does not answer.
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

    /// Returns the workers alone. Queries no queue, which takes time over a network.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerStatus> {
        let now = Instant::now();
        let state = self.shared.state();
        let workers = state.workers.iter().map(|(number, worker)| WorkerStatus {
            number: *number,
            name: worker.name.clone(),
            is_remote: number & REMOTE != 0,
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

    /// Returns `true` if the pool has ended; [`PoolStatus::ended`] has the reason. Queries no
    /// queue.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.shared.state().ended.is_some()
    }

    /// Returns the counters of its queues: of the jobs, and of the workers' reports. After its end,
    /// these are the counters just before its queues were removed.
    ///
    /// # Errors
    /// [`ControlError`] if a queue does not answer.
    pub fn stats(&self) -> Result<(QueueStats, QueueStats), ControlError> {
        let last = || self.shared.state().last_stats;
        if let Some(last) = last() {
            return Ok(last);
        }
        // The pool may end meanwhile. Its queues are then gone, but the last counters are kept.
        self.shared
            .queues
            .stats()
            .or_else(|error| last().ok_or(error))
    }

    /// Returns the pool's address, which other processes need to [join](PoolBuilder::join) it.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.shared.config.address
    }

    /// Kills the worker with this [number](WorkerStatus::number), to test what happens to its job.
    /// Has no effect on remote workers and on workers that are gone.
    pub fn kill_worker(&self, number: u64) {
        self.shared.state().condemned.push(number);
        self.shared.wake_supervisor();
    }

    /// Accepts no more jobs, lets the workers finish the existing ones within the drain time-out,
    /// and ends.
    ///
    /// # Errors
    /// [`PoolError::Ended`] if it ended in another way, or if a job had to be given up.
    pub fn shutdown(self) -> Result<(), PoolError> {
        self.close()?;
        self.wait()
    }

    /// Begins to end as [`shutdown`](Self::shutdown) does, but does not wait:
    /// [`has_ended`](Self::has_ended) tells when the pool has ended.
    ///
    /// # Errors
    /// [`ControlError`] if the job queue could not be closed. The supervisor keeps trying.
    pub fn close(&self) -> Result<(), ControlError> {
        self.shared.close()
    }

    /// Like [`close`](Self::close). Also sends each worker a [`Shutdown`](Kind::Shutdown) message,
    /// after the existing jobs.
    ///
    /// # Errors
    /// Those of [`close`](Self::close).
    pub fn close_by_message(&self) -> Result<(), ControlError> {
        self.shared.state().draining = true;
        let sender = self.shared.queues.jobs.sender();
        for _ in 0..self.shared.limits.workers {
            // A worker that gets no message sees that the queue is closed.
            let shutdown = SendOptions::new().kind(Kind::Shutdown).wait(Wait::No);
            let _ = sender.send_with(&[], &shutdown);
        }
        self.close()
    }

    /// Waits until the pool has ended: after SIGTERM, if [that drains
    /// it](PoolBuilder::sigterm_drains), or because its workers cannot start.
    ///
    /// # Errors
    /// Those of [`shutdown`](Self::shutdown).
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
        self.shared.wake_supervisor();
        self.join();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.status()).finish()
    }
}

/// Returns an error unless the pool ended as it should.
fn end_of(shared: &Shared) -> Result<(), PoolError> {
    match shared.state().ended.clone() {
        Some(reason) if reason == supervisor::DRAINED => Ok(()),
        Some(reason) => Err(PoolError::Ended { reason }),
        None => Err(PoolError::Ended {
            reason: "its thread ended without a reason".to_owned(),
        }),
    }
}
