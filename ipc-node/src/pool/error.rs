//! Errors of a pool as a whole.

use std::time::Duration;

use ipc_proto::NameError;
use ipc_queue::unix::ServeError;
use ipc_queue::{CodecError, NoRoom, QueueError, SendError, SendTimeoutError};
use thiserror::Error;

use super::owner::PoolOwner;

/// The reason why there is no pool, or why it accepts no job.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PoolError {
    /// Its queues could not be created or used.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The worker name is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Its queues could not be served at their sockets.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A pipe, a thread or a process could not be created.
    #[error("the system refuses: {0}")]
    System(#[from] std::io::Error),
    /// A pool started this process as a worker, and it did not begin to work. If it started a pool
    /// instead, each of that pool's workers would do the same, without end.
    #[error(
        "this process is a worker of another pool: call `Handlers::work_if_worker` before a pool \
         is started"
    )]
    InWorker,
    /// Another pool uses the address, and its process is alive.
    #[error("{owner} has a pool at {address:?}: end it, or choose another address")]
    Taken {
        /// The address.
        address: String,
        /// The process of the other pool.
        owner: PoolOwner,
    },
    /// The pool ended, or is ending.
    #[error("the pool ended: {reason}")]
    Ended {
        /// The reason, with the standard error output of a worker that could not start.
        reason: String,
    },
    /// One of its queues did not answer.
    #[error(transparent)]
    Control(#[from] ipc_queue::ControlError),
    /// The job queue was full for the whole time that the call could wait.
    #[error("no room for the job within {waited:.1?}: {missing}")]
    NoRoom {
        /// The time spent waiting; zero if the call must not wait.
        waited: Duration,
        /// The resource that was missing at the end.
        missing: NoRoom,
    },
    /// The input, or an answer, has no encoding.
    #[error(transparent)]
    Encode(#[from] CodecError),
    /// The job cannot be sent.
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
