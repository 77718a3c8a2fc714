//! How a pool is set up.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipc_proto::{Name, NameError};
use ipc_queue::unix::ServeError;
use ipc_queue::{
    Address, CodecError, NoRoom, QueueError, QueueSettings, SendError, SendTimeoutError,
};
use thiserror::Error;

use super::dead_letters::DeadLetterLimit;
use super::guests::Guests;
use super::leftovers::LeftoverJobs;
use super::owner::{self, PoolOwner};
use super::program::Program;
use super::restart::{Backoff, Intensity, RestartPolicy};
use super::retry::RetryPolicy;
use super::worker::Handlers;
use super::{Loss, Pool};

/// Called with a job's ticket number and how far it is.
pub(super) type OnProgress = dyn Fn(u64, u64, u64) + Send + Sync;
/// Called when a worker ended that was not told to.
pub(super) type OnLoss = dyn Fn(Loss) + Send + Sync;

/// What a pool and its workers may do at most.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub workers: usize,
    pub restart: RestartPolicy,
    pub intensity: Intensity,
    pub backoff: Backoff,
    pub startup: Duration,
    pub job: Option<Duration>,
    pub grace: Duration,
    pub drain: Duration,
    pub max_jobs: u64,
    pub max_memory: Option<u64>,
    pub sigterm_drains: bool,
    pub dead_letters: DeadLetterLimit,
    pub retry: RetryPolicy,
}

/// Sets up a [`Pool`].
#[must_use = "`start` makes the pool"]
pub struct PoolBuilder {
    pub(super) limits: Limits,
    pub(super) queue: QueueSettings,
    namespace: String,
    address: Option<String>,
    keep_alive: Option<Duration>,
    pub(super) leftover_jobs: LeftoverJobs,
    pub(super) worker_name: String,
    pub(super) program: Program,
    pub(super) on_progress: Option<Box<OnProgress>>,
    pub(super) on_loss: Option<Box<OnLoss>>,
}

/// Why there is no pool, or it takes no job.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PoolError {
    /// Its queues could not be made, or used.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Its workers can't be called so.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Its queues could not be served at their sockets.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A pipe, a thread or a process could not be made.
    #[error("the system refuses: {0}")]
    System(#[from] std::io::Error),
    /// Another pool is at the address, and its process is alive.
    #[error("{owner} has a pool at {address:?}: end it, or choose another address")]
    Taken {
        /// The address.
        address: String,
        /// The process of the pool there.
        owner: PoolOwner,
    },
    /// The pool ended, or is ending.
    #[error("the pool ended: {reason}")]
    Ended {
        /// Why; with what a worker that could not start wrote to its standard error.
        reason: String,
    },
    /// One of its queues did not answer.
    #[error(transparent)]
    Control(#[from] ipc_queue::ControlError),
    /// The queue of jobs was full, for as long as the call was told to wait.
    #[error("no room for the job within {waited:.1?}: {missing}")]
    NoRoom {
        /// How long the call waited; zero if it was told not to.
        waited: Duration,
        /// What was missing at the end.
        missing: NoRoom,
    },
    /// The input, or an answer, has no encoding.
    #[error(transparent)]
    Encode(#[from] CodecError),
    /// The job can't be sent.
    #[error("the job can't be sent: {0}")]
    Send(#[from] SendError),
}

impl From<SendTimeoutError> for PoolError {
    fn from(error: SendTimeoutError) -> Self {
        match error {
            SendTimeoutError::TimedOut {
                waited, missing, ..
            } => Self::NoRoom { waited, missing },
            SendTimeoutError::Failed(error) => Self::Send(error),
            other => Self::System(std::io::Error::other(other)),
        }
    }
}

/// As many workers as there are processors; a death over a job is tried twice more; workers get a minute to start, and half a minute
/// to finish when the pool drains; no limit to a job's time, to a worker's memory, or to its jobs.
impl Default for PoolBuilder {
    fn default() -> Self {
        let processors = std::thread::available_parallelism();
        Self {
            limits: Limits {
                workers: processors.map_or(1, usize::from),
                restart: RestartPolicy::default(),
                intensity: Intensity::default(),
                backoff: Backoff::default(),
                startup: Duration::from_secs(60),
                job: None,
                grace: Duration::from_secs(5),
                drain: Duration::from_secs(30),
                max_jobs: 0,
                max_memory: None,
                sigterm_drains: false,
                dead_letters: DeadLetterLimit::default(),
                retry: RetryPolicy::default(),
            },
            queue: QueueSettings::default(),
            namespace: "default".to_owned(),
            address: None,
            keep_alive: None,
            leftover_jobs: LeftoverJobs::default(),
            worker_name: "worker".to_owned(),
            program: Program::default(),
            on_progress: None,
            on_loss: None,
        }
    }
}

impl PoolBuilder {
    /// How many workers.
    pub fn workers(mut self, workers: usize) -> Self {
        self.limits.workers = workers.max(1);
        self
    }

    /// Whether workers that end are replaced.
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.limits.restart = policy;
        self
    }

    /// How many deaths without a job are too many.
    pub fn intensity(mut self, intensity: Intensity) -> Self {
        self.limits.intensity = intensity;
        self
    }

    /// The pauses between such deaths and the next start.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.limits.backoff = backoff;
        self
    }

    /// How long a worker may take to be ready. Then it is killed, which counts as a death.
    pub fn startup_timeout(mut self, time: Duration) -> Self {
        self.limits.startup = time;
        self
    }

    /// How long one attempt at a job may take. Then its worker is killed, and the job is answered with
    /// [`TimedOut`](super::JobError::TimedOut) and not tried again.
    pub fn job_timeout(mut self, time: Duration) -> Self {
        self.limits.job = Some(time);
        self
    }

    /// For how long a worker may have a job without a sign of life: each [`progress`](super::Context::progress) begins
    /// it anew. Then the job is given to another worker, while the first goes on.
    pub fn lease(mut self, time: Duration) -> Self {
        self.queue.lease = Some(time);
        self
    }

    /// How often a job is tried again after an error, a panic or the death of its worker. Default:
    /// after a death only.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.limits.retry = policy;
        self
    }

    /// Number of workers that may die over a job before it is a dead letter. Default 3. The same as
    /// [`RetryPolicy::crashes`].
    pub fn attempt_limit(mut self, workers: u8) -> Self {
        self.limits.retry = self.limits.retry.crashes(workers);
        self
    }

    /// How long the handler of a cancelled job may take to notice. Then its worker is killed. Default 5 s.
    pub fn grace(mut self, time: Duration) -> Self {
        self.limits.grace = time;
        self
    }

    /// How long jobs may take to be done when the pool drains, those included that wait to be
    /// [tried again](Self::retry). Then the workers are killed. Default 30 s.
    pub fn drain_timeout(mut self, time: Duration) -> Self {
        self.limits.drain = time;
        self
    }

    /// After how many jobs a worker is replaced. Default: never.
    pub fn max_jobs(mut self, jobs: u64) -> Self {
        self.limits.max_jobs = jobs;
        self
    }

    /// How much resident memory a worker may use. Then it is killed, and its job, if it has one, tried again by another.
    pub fn max_memory_bytes(mut self, bytes: u64) -> Self {
        self.limits.max_memory = Some(bytes);
        self
    }

    /// How many jobs can wait. Submitting more waits. Default 1,024.
    pub fn capacity(mut self, jobs: u32) -> Self {
        self.queue.capacity = jobs;
        self
    }

    /// The largest job and the largest answer, encoded, and memory for those that are waiting.
    pub fn message_bytes(mut self, largest: u32, all: u64) -> Self {
        self.queue.max_message_bytes = largest;
        self.queue.pool_bytes = all;
        self
    }

    /// How many [dead letters](Pool::dead_letters) the pool keeps. Default: 1,000 letters of 16 MiB
    /// together.
    pub fn dead_letter_limit(mut self, limit: DeadLetterLimit) -> Self {
        self.limits.dead_letters = limit;
        self
    }

    /// The namespace of the pool's queues, in shared memory. Default `default`.
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// The pool's address, over whichever transport: `shm:NAMESPACE/POOL`, `local:POOL`,
    /// `unix:/FOLDER/POOL`, where this process serves it for as long as the pool lasts, or what
    /// another crate's transport has [registered](ipc_queue::transport::register), here and in the workers.
    /// Its queues are at `POOL.jobs` and `POOL.answers` there. Default: one of its own in shared
    /// memory.
    ///
    /// One living process has the address; another gets [`PoolError::Taken`]. In shared memory and
    /// at a socket, what a killed pool left there is replaced: see
    /// [`leftover_jobs`](Self::leftover_jobs). Over other transports nothing tells a killed pool
    /// from a living one: what is there is [`QueueError::Exists`], until [`Pool::remove`].
    pub fn at(mut self, address: &str) -> Self {
        self.address = Some(address.to_owned());
        self
    }

    /// What to do with the jobs that a dead pool left [at](Self::at) the address. Their tickets are
    /// gone with its process. [`PoolStatus::leftover_jobs`](super::PoolStatus::leftover_jobs)
    /// counts them. Default: they become [dead letters](Pool::dead_letters).
    pub fn leftover_jobs(mut self, what: LeftoverJobs) -> Self {
        self.leftover_jobs = what;
        self
    }

    /// Over a transport that does not notice deaths: a worker's job goes to another when nothing was heard of the worker for so
    /// long. Workers say by themselves that they live, however long a job takes. Default: 5 s over transports of other crates,
    /// unless [`lease`](Self::lease) was called.
    pub fn keep_alive(mut self, time: Duration) -> Self {
        self.keep_alive = Some(time);
        self
    }

    /// What workers are called, with a number behind. Default `worker`: `worker-1` and so on.
    pub fn worker_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.worker_name);
        self
    }

    /// Starts workers with this command instead of this program again. Its program calls
    /// [`Handlers::work_if_worker`](super::Handlers::work_if_worker), too. Its standard input is the pool's; its standard
    /// error is passed on.
    pub fn command(mut self, command: Command) -> Self {
        self.program = Program::Other(Box::new(Mutex::new(command)));
        self
    }

    /// Has threads of this process for workers, with these handlers. Then a handler that crashes takes all down, and nothing can be
    /// killed: a worker that should be ends at its next [`progress`](super::Context::progress) or
    /// [`is_cancelled`](super::Context::is_cancelled).
    pub fn threads(mut self, handlers: Handlers) -> Self {
        self.program = Program::Threads(Arc::new(handlers));
        self
    }

    /// A first SIGTERM to this process drains the pool, a second kills it. Default: SIGTERM does what it does. The program
    /// is to end by itself then: [`Pool::wait`] tells when.
    pub fn sigterm_drains(mut self) -> Self {
        self.limits.sigterm_drains = true;
        self
    }

    /// Called whenever a job says how far it is: with its ticket's number, so much, of so much. From a thread of the pool,
    /// which reads no answers meanwhile.
    pub fn on_progress(mut self, tell: impl Fn(u64, u64, u64) + Send + Sync + 'static) -> Self {
        self.on_progress = Some(Box::new(tell));
        self
    }

    /// Called when a worker of this pool ended that was not told to leave. From the thread that replaces workers.
    pub fn on_loss(mut self, tell: impl Fn(Loss) + Send + Sync + 'static) -> Self {
        self.on_loss = Some(Box::new(tell));
        self
    }

    /// Starts workers for the pool [at](Self::at) that address, which another process has, perhaps on another host.
    ///
    /// They are as that pool's own, save that it can't kill them, nor tell them that a job is not wanted any more; what happens to a
    /// job when one dies is up to the transport. They end when the pool does.
    ///
    /// # Errors
    /// [`PoolError`] when there is no such pool, or threads or pipes can't be had.
    pub fn join(self) -> Result<Guests, PoolError> {
        Guests::start(self)
    }

    /// Starts the workers.
    ///
    /// Returns at once; a worker that can't start shows when jobs are waited for, or submitted.
    ///
    /// # Errors
    /// [`PoolError`] when shared memory, threads or pipes can't be had.
    pub fn start(self) -> Result<Pool, PoolError> {
        Pool::start(self)
    }

    /// Where the pool is to be.
    pub(super) fn address(&self) -> String {
        let own = || format!("shm:{}/{}", self.namespace, owner::default_name());
        self.address.clone().unwrap_or_else(own)
    }

    pub(super) fn is_own_address(&self) -> bool {
        self.address.is_none()
    }

    pub(super) fn namespace_name(&self) -> &str {
        &self.namespace
    }

    /// How long leases are that workers renew by themselves.
    pub(super) fn kept_alive(&self, address: &str) -> Result<Option<Duration>, QueueError> {
        const FOREIGN: Duration = Duration::from_secs(5);
        let foreign = matches!(address.parse()?, Address::Other { .. });
        let default = (foreign && self.queue.lease.is_none()).then_some(FOREIGN);
        Ok(self.keep_alive.or(default))
    }

    /// A limit that can't be watched is refused: nobody would notice that it does not hold.
    pub(super) fn check_limits(&self) -> Result<(), PoolError> {
        let is_watched = super::child::resident_bytes(std::process::id()).is_some();
        let is_wanted = self.limits.max_memory.is_some();
        if is_wanted && !is_watched && !matches!(self.program, Program::Threads(_)) {
            let text = "max_memory_bytes needs /proc, which can't be read here: mount it";
            return Err(std::io::Error::other(text).into());
        }
        Ok(())
    }

    pub(super) fn check_names(&self) -> Result<(), PoolError> {
        Name::new(&format!("{}-{}", self.worker_name, self.limits.workers))?;
        Ok(())
    }
}
