//! Remote workers: workers for a pool of another process, on this host or another.
//!
//! This process starts them, replaces those that die, and makes them end with itself. It does not
//! take part in their work for the pool. All it knows of the pool is the address of its queues.

use std::fmt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::builder::PoolBuilder;
use super::error::PoolError;
use super::queues::Queues;
use super::state::Shared;
use super::supervisor::Supervisor;
use super::wire::{REMOTE, WorkerConfig};

/// Remote workers for another process's pool. Dropping this kills them.
pub struct RemoteWorkers {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl RemoteWorkers {
    pub(super) fn start(builder: PoolBuilder) -> Result<Self, PoolError> {
        builder.check_process()?;
        builder.check_names()?;
        builder.check_limits()?;
        let address = builder.address();
        let mut config = WorkerConfig {
            // This many workers can be started before two hosts could use the same number.
            start: REMOTE | u64::from(fastrand::u32(..)) << 24,
            name: builder.worker_name,
            max_jobs: builder.limits.max_jobs,
            keep_alive: None,
            address,
        };
        let queues = Arc::new(Queues::open(&config)?);
        // As the pool has set it, because its own workers renew their leases.
        let settings = queues.jobs.transport().settings();
        config.keep_alive = settings.lease;
        let (woken, waker) = std::io::pipe()?;
        let mut shared = Shared::new(config, builder.limits, queues, waker);
        shared.on_worker_exit = builder.on_worker_exit;
        let shared = Arc::new(shared);
        let supervisor = Supervisor::new(Arc::clone(&shared), builder.program, woken)?;
        let named = thread::Builder::new().name("ipc-pool-remote".to_owned());
        let thread = named.spawn(move || supervisor.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Waits until the pool and its remote workers have ended.
    ///
    /// # Errors
    /// [`PoolError::Ended`] if the workers ended for another reason.
    pub fn wait(mut self) -> Result<(), PoolError> {
        self.join();
        super::end_of(&self.shared)
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl PoolBuilder {
    /// Starts workers for the pool [at](Self::at) that address, which belongs to another process,
    /// perhaps on another host.
    ///
    /// They act like that pool's own workers, with two exceptions: the pool cannot kill them, and
    /// cannot tell them that a job was cancelled. The transport decides what happens to the job of
    /// one that dies. They end when the pool ends.
    ///
    /// # Errors
    /// [`PoolError`] if there is no such pool, or if threads or pipes cannot be created.
    pub fn join(self) -> Result<RemoteWorkers, PoolError> {
        RemoteWorkers::start(self)
    }
}

impl Drop for RemoteWorkers {
    fn drop(&mut self) {
        self.shared.state().kill = true;
        self.shared.wake_supervisor();
        self.join();
    }
}

impl fmt::Debug for RemoteWorkers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RemoteWorkers")
            .field(&self.shared.config)
            .finish()
    }
}
