//! A handle of a pool for other threads, to end the pool while its owner waits for answers.

use std::fmt;
use std::sync::Arc;

use ipc_queue::ControlError;

use super::state::Shared;
use super::{Pool, PoolError, end_of};

/// Ends a [`Pool`] from any thread, such as one that handles Ctrl-C. Cheap to clone.
///
/// It does not keep the pool alive: dropping the pool still ends it.
///
/// ```no_run
/// # use ipc_node::pool::Pool;
/// let pool = Pool::builder().start()?;
/// let handle = pool.handle();
/// std::thread::spawn(move || {
///     // When the user wants to stop:
///     if let Err(error) = handle.shutdown() {
///         eprintln!("{error}");
///     }
/// });
/// let square = pool.submit::<u64, u64>("square", &7)?.wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct PoolHandle {
    shared: Arc<Shared>,
}

impl Pool {
    /// Returns a handle for another thread.
    #[must_use]
    pub fn handle(&self) -> PoolHandle {
        PoolHandle {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl PoolHandle {
    /// Ends the pool as [`Pool::shutdown`] does, and waits until it has ended.
    ///
    /// # Errors
    /// Those of [`Pool::shutdown`].
    pub fn shutdown(&self) -> Result<(), PoolError> {
        self.close()?;
        self.wait()
    }

    /// Begins to end the pool, as [`Pool::close`] does.
    ///
    /// # Errors
    /// Those of [`Pool::close`].
    pub fn close(&self) -> Result<(), ControlError> {
        self.shared.close()
    }

    /// Ends the pool now: kills the workers, and answers open jobs with
    /// [`PoolEnded`](super::JobError::PoolEnded). Does not wait.
    pub fn kill(&self) {
        self.shared.state().kill = true;
        self.shared.wake_supervisor();
    }

    /// Waits until the pool has ended.
    ///
    /// # Errors
    /// Those of [`Pool::wait`].
    pub fn wait(&self) -> Result<(), PoolError> {
        self.shared.wait_until_over();
        end_of(&self.shared)
    }

    /// Returns `true` if the pool has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.shared.state().ended.is_some()
    }
}

impl fmt::Debug for PoolHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PoolHandle")
            .field(&self.shared.config.address)
            .finish()
    }
}
