//! The configuration of a pool.

use std::io::Write;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipc_proto::Name;
use ipc_queue::{Address, QueueError, QueueSettings};

use super::Pool;
use super::dead_letters::DeadLetterLimit;
use super::error::PoolError;
use super::leftovers::LeftoverJobs;
use super::lifeline;
use super::limits::{Limits, OnProgress, OnWorkerExit};
use super::ownership;
use super::program::Program;
use super::restart::{Backoff, Intensity, RestartPolicy};
use super::retry::RetryPolicy;
use super::worker::Handlers;
use super::worker_exit::WorkerExit;

/// Configures a [`Pool`].
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
    pub(super) on_worker_exit: Option<Box<OnWorkerExit>>,
}

/// Default values:
///
/// - as many workers as there are processors;
/// - a job is tried again after the first two deaths of its workers;
/// - one minute for a worker to start, and half a minute to finish when the pool drains;
/// - no limit on a job's time, or on the memory or the number of jobs of a worker.
impl Default for PoolBuilder {
    fn default() -> Self {
        let processors = std::thread::available_parallelism();
        Self {
            limits: Limits {
                workers: processors.map_or(1, usize::from),
                on_demand: false,
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
            on_worker_exit: None,
        }
    }
}

impl PoolBuilder {
    /// Sets the number of workers.
    pub fn workers(mut self, workers: usize) -> Self {
        self.limits.workers = workers.max(1);
        self
    }

    /// Starts one worker at once, and another only when more jobs are unanswered than workers were
    /// started. A worker that was started stays. Without this, all are started at once.
    pub fn start_on_demand(mut self) -> Self {
        self.limits.on_demand = true;
        self
    }

    /// Sets the policy for replacing workers that end.
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.limits.restart = policy;
        self
    }

    /// Sets how many deaths without a job make the pool give up.
    pub fn intensity(mut self, intensity: Intensity) -> Self {
        self.limits.intensity = intensity;
        self
    }

    /// Sets the pauses between such deaths and the next start.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.limits.backoff = backoff;
        self
    }

    /// Sets the time limit for a worker to become ready. A slower worker is killed, which counts as
    /// a death.
    pub fn startup_timeout(mut self, time: Duration) -> Self {
        self.limits.startup = time;
        self
    }

    /// Sets the time limit for one attempt at a job. Its worker is then killed, and the job is
    /// answered with [`TimedOut`](super::JobError::TimedOut) and not tried again.
    pub fn job_timeout(mut self, time: Duration) -> Self {
        self.limits.job = Some(time);
        self
    }

    /// Sets how long a worker may have a job without a sign of life. Each
    /// [`progress`](super::Context::progress) restarts this time. When it is over, the job goes to
    /// another worker, while the first one continues.
    pub fn lease(mut self, time: Duration) -> Self {
        self.queue.lease = Some(time);
        self
    }

    /// Sets how often a job is tried again after an error, a panic or the death of its worker.
    /// Default: only after a death.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.limits.retry = policy;
        self
    }

    /// Sets the number of workers that may die over a job before it becomes a dead letter. Default
    /// 3. The same as [`RetryPolicy::crashes`].
    pub fn attempt_limit(mut self, workers: u8) -> Self {
        self.limits.retry = self.limits.retry.crashes(workers);
        self
    }

    /// Sets how long the handler of a cancelled job may take to notice. Then its worker is killed.
    /// Default 5 s.
    pub fn grace(mut self, time: Duration) -> Self {
        self.limits.grace = time;
        self
    }

    /// Sets the time limit for finishing all jobs when the pool drains, including those that wait
    /// to be [tried again](Self::retry). Then the workers are killed. Default 30 s.
    pub fn drain_timeout(mut self, time: Duration) -> Self {
        self.limits.drain = time;
        self
    }

    /// Sets the number of jobs after which a worker is replaced. Default: never.
    pub fn max_jobs(mut self, jobs: u64) -> Self {
        self.limits.max_jobs = jobs;
        self
    }

    /// Sets the resident memory that a worker may use. A larger one is killed, and another worker
    /// tries its job, if it had one.
    pub fn max_memory_bytes(mut self, bytes: u64) -> Self {
        self.limits.max_memory = Some(bytes);
        self
    }

    /// Sets the number of jobs that can wait. Submitting more blocks. Default 1,024.
    pub fn capacity(mut self, jobs: u32) -> Self {
        self.queue.capacity = jobs;
        self
    }

    /// Sets the maximum encoded size of a job or an answer, and the memory for all that are
    /// waiting.
    pub fn message_bytes(mut self, largest: u32, all: u64) -> Self {
        self.queue.max_message_bytes = largest;
        self.queue.pool_bytes = all;
        self
    }

    /// Sets the limit for the [dead letters](Pool::dead_letters) that the pool keeps. Default:
    /// 1,000 letters with 16 MiB in total.
    pub fn dead_letter_limit(mut self, limit: DeadLetterLimit) -> Self {
        self.limits.dead_letters = limit;
        self
    }

    /// Sets the namespace of the pool's queues in shared memory. Default `default`.
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Sets the pool's address, over any transport. It is `shm:NAMESPACE/POOL`, `local:POOL`, or
    /// `unix:/FOLDER/POOL`, where this process serves it as long as the pool exists. It may also
    /// belong to a transport that another crate [registered](ipc_queue::transport::register), here
    /// and in the workers. The queues are at `POOL.jobs` and `POOL.answers`. Default: an address of
    /// its own in shared memory.
    ///
    /// One live process owns the address; another one gets [`PoolError::Taken`]. What a killed pool
    /// left is replaced: see [`leftover_jobs`](Self::leftover_jobs).
    ///
    /// Over transports of other crates the owner has a lease, in a third queue at `POOL.owner`. The
    /// address of a killed pool is free when that lease is over, within 10 s.
    /// [`start`](Self::start) waits for that, for at most 15 s. A live owner renews the lease
    /// meanwhile, and the error is `Taken`. A pool that is stopped, or cut off from the servers,
    /// for longer than the lease ends if another one starts at its address.
    pub fn at(mut self, address: &str) -> Self {
        self.address = Some(address.to_owned());
        self
    }

    /// Sets what happens to the jobs that a dead pool left [at](Self::at) the address. Their
    /// tickets are gone with its process.
    /// [`PoolStatus::leftover_jobs`](super::PoolStatus::leftover_jobs) counts them. Default: they
    /// become [dead letters](Pool::dead_letters).
    pub fn leftover_jobs(mut self, what: LeftoverJobs) -> Self {
        self.leftover_jobs = what;
        self
    }

    /// Sets the time without a sign of life after which a worker's job goes to another, over a
    /// transport that does not notice deaths. Workers send signs of life by themselves, however
    /// long a job takes. Default: 5 s over transports of other crates, unless
    /// [`lease`](Self::lease) was called.
    pub fn keep_alive(mut self, time: Duration) -> Self {
        self.keep_alive = Some(time);
        self
    }

    /// Sets the name of the workers, which is followed by a number. Default `worker`: `worker-1`
    /// and so on.
    pub fn worker_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.worker_name);
        self
    }

    /// Starts workers with this command instead of this program. That program must also call
    /// [`Handlers::work_if_worker`](super::Handlers::work_if_worker). The pool uses its standard
    /// input, and forwards its standard error.
    pub fn command(mut self, command: Command) -> Self {
        self.program = Program::Other(Box::new(Mutex::new(command)));
        self
    }

    /// Uses threads of this process as workers, with these handlers. A handler that crashes then
    /// ends the whole process, and a worker cannot be killed. A worker that should end does so at
    /// its next [`progress`](super::Context::progress) or
    /// [`is_cancelled`](super::Context::is_cancelled).
    pub fn threads(mut self, handlers: Handlers) -> Self {
        self.program = Program::Threads(Arc::new(handlers));
        self
    }

    /// Makes the first SIGTERM to this process drain the pool, and a second one kill it. Default:
    /// SIGTERM keeps its effect. The program must then end by itself: [`Pool::wait`] tells when.
    pub fn sigterm_drains(mut self) -> Self {
        self.limits.sigterm_drains = true;
        self
    }

    /// Sets a callback for the progress of jobs: the ticket's number, the part done, and the total.
    /// It runs on a thread of the pool, which reads no answers meanwhile.
    pub fn on_progress(mut self, tell: impl Fn(u64, u64, u64) + Send + Sync + 'static) -> Self {
        self.on_progress = Some(Box::new(tell));
        self
    }

    /// Sets a callback for workers of this pool that ended unexpectedly. It runs on the thread that
    /// replaces workers.
    pub fn on_worker_exit(mut self, tell: impl Fn(WorkerExit) + Send + Sync + 'static) -> Self {
        self.on_worker_exit = Some(Box::new(tell));
        self
    }

    /// Starts the workers.
    ///
    /// Returns at once. A worker that cannot start causes an error later, when jobs are submitted
    /// or waited for.
    ///
    /// # Errors
    /// [`PoolError::InWorker`] in a worker of another pool that has not called
    /// [`Handlers::work_if_worker`](super::Handlers::work_if_worker). Otherwise [`PoolError`] if
    /// shared memory, threads or pipes cannot be created.
    pub fn start(self) -> Result<Pool, PoolError> {
        Pool::start(self)
    }

    /// Returns the address for the pool.
    pub(super) fn address(&self) -> String {
        let own = || format!("shm:{}/{}", self.namespace, ownership::default_name());
        self.address.clone().unwrap_or_else(own)
    }

    pub(super) fn is_own_address(&self) -> bool {
        self.address.is_none()
    }

    pub(super) fn namespace_name(&self) -> &str {
        &self.namespace
    }

    /// Returns the duration of leases that workers renew by themselves.
    pub(super) fn kept_alive(&self, address: &str) -> Result<Option<Duration>, QueueError> {
        const FOREIGN: Duration = Duration::from_secs(5);
        let foreign = matches!(address.parse()?, Address::Other { .. });
        let default = (foreign && self.queue.lease.is_none()).then_some(FOREIGN);
        Ok(self.keep_alive.or(default))
    }

    /// Refuses a limit that cannot be monitored, because exceeding it would go unnoticed.
    pub(super) fn check_limits(&self) -> Result<(), PoolError> {
        let is_watched = super::child::resident_bytes(std::process::id()).is_some();
        let is_wanted = self.limits.max_memory.is_some();
        if is_wanted && !is_watched && !matches!(self.program, Program::Threads(_)) {
            let text = "max_memory_bytes needs /proc, which can't be read here: mount it";
            return Err(std::io::Error::other(text).into());
        }
        Ok(())
    }

    /// Refuses a pool in a worker that has not called
    /// [`Handlers::work_if_worker`](super::Handlers::work_if_worker). The text is also written to
    /// standard error, because its pool reads that, whatever the program does with the error.
    pub(super) fn check_process(&self) -> Result<(), PoolError> {
        let is_worker = lifeline::config_of_new_worker().is_some();
        if is_worker && !matches!(self.program, Program::Threads(_)) {
            let _ = writeln!(std::io::stderr(), "{}", PoolError::InWorker);
            return Err(PoolError::InWorker);
        }
        Ok(())
    }

    pub(super) fn check_names(&self) -> Result<(), PoolError> {
        Name::new(&format!("{}-{}", self.worker_name, self.limits.workers))?;
        Ok(())
    }
}
