//! Remote workers: workers for a pool of another process, on this host or another.
//!
//! This process starts them, replaces those that die, and makes them end with itself. It does not
//! take part in their work for the pool. All it knows of the pool is the address of its queues.

use std::fmt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::builder::{PoolBuilder, PoolError};
use super::queues::Queues;
use super::state::Shared;
use super::supervisor::Supervisor;
use super::wire::{GUEST, Place};

/// Remote workers for another process's pool. Dropping this kills them.
pub struct Guests {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Guests {
    pub(super) fn start(builder: PoolBuilder) -> Result<Self, PoolError> {
        builder.check_names()?;
        builder.check_limits()?;
        let address = builder.address();
        let mut place = Place {
            // This many workers can be started before two hosts could use the same number.
            start: GUEST | u64::from(fastrand::u32(..)) << 24,
            name: builder.worker_name,
            max_jobs: builder.limits.max_jobs,
            keep_alive: None,
            address,
        };
        let queues = Arc::new(Queues::open(&place)?);
        // As the pool has set it, because its own workers renew their leases.
        let settings = queues.jobs.transport().settings();
        place.keep_alive = settings.lease;
        let (poked, poke) = std::io::pipe()?;
        let mut shared = Shared::new(place, builder.limits, queues, poke);
        shared.on_loss = builder.on_loss;
        let shared = Arc::new(shared);
        let supervisor = Supervisor::new(Arc::clone(&shared), builder.program, poked)?;
        let named = thread::Builder::new().name("ipc-pool-guests".to_owned());
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

impl Drop for Guests {
    fn drop(&mut self) {
        self.shared.state().kill = true;
        self.shared.poke();
        self.join();
    }
}

impl fmt::Debug for Guests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guests").field(&self.shared.place).finish()
    }
}
