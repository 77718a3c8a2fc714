//! Causes that all operations share.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The queue cannot be used by this process, or not now.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Unavailable {
    /// The queue was removed.
    #[error("the queue was removed; open it again")]
    Removed,
    /// This process is a forked copy of the process that opened the queue. Messages held by that
    /// process are still held.
    #[error("this process was forked from the one that opened the queue; open it again here")]
    Forked,
    /// The queue's file was deleted or moved by something other than this library.
    #[error(
        "the queue's file was deleted or moved by something other than this library, and its \
         messages with it; keep cleaners away from its folder (systemd: RemoveIPC=no), then open \
         it again"
    )]
    Deleted,
    /// Something in this process closed the descriptor of the queue's file. Other processes are not
    /// affected.
    #[error(
        "something in this process closed descriptor {descriptor}, which belongs to the queue; \
         open the queue again, and find the code that closes descriptors it does not own"
    )]
    DescriptorLost {
        /// The number of the descriptor.
        descriptor: i32,
    },
    /// The queue's file was truncated by something other than this library. Its messages are lost,
    /// including those that this process holds.
    #[error(
        "the queue's shared memory was truncated by another program and its messages are lost; \
         remove the queue and create it again"
    )]
    Truncated,
    /// The transport failed, for example because its connection was lost. Whether the operation
    /// happened is unknown.
    #[error("{reason}")]
    Transport {
        /// The transport's description of the failure.
        reason: String,
    },
}

impl Unavailable {
    /// Creates the error of a failing transport.
    pub fn transport(reason: impl Into<String>) -> Self {
        Self::Transport {
            reason: reason.into(),
        }
    }
}
