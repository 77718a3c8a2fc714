//! Workers for a pool that another process has, on this host or another.
//!
//! This process starts them, replaces those that die, and has them end with itself. What they do is between them and the pool: the
//! address of its queues is all that is known of it here.

use std::fmt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::builder::{PoolBuilder, PoolError};
use super::queues::Queues;
use super::state::Shared;
use super::supervisor::Supervisor;
use super::wire::{GUEST, Place};

/// Workers for another process's pool. Dropped, they are killed.
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
            // So many may be started before two hosts could call two of theirs the same.
            start: GUEST | u64::from(fastrand::u32(..)) << 24,
            name: builder.worker_name,
            max_jobs: builder.limits.max_jobs,
            keep_alive: None,
            address,
        };
        let queues = Arc::new(Queues::open(&place)?);
        // As the pool has set it: its own workers renew theirs.
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

    /// Waits until the pool has ended, and its guests with it.
    ///
    /// # Errors
    /// [`PoolError::Ended`] says why the workers ended, if it was for another reason.
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
