//! The reasons why a queue is not saved, restored or moved.

use std::io;
use std::path::{Path, PathBuf};

use ipc_proto::CodecError;
use thiserror::Error;

use crate::capability::{Feature, Unsupported};
use crate::control::ControlError;
use crate::error::{QueueError, SendPortError};

/// The reason why a queue was not saved, restored or moved. One type for the three operations,
/// because they fail for the same reasons.
///
/// Nothing was changed, unless the variant says otherwise.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The address is not that of a queue in shared memory.
    #[error(
        "{address}: {source} (to save a served queue, use its shm: address; ipc bridge moves \
         messages between transports)"
    )]
    Unsupported {
        /// The address, without credentials.
        address: String,
        /// The missing feature.
        source: Unsupported,
    },
    /// The queue cannot be opened or created.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The queue was removed, or is damaged.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Other processes are attached.
    #[error(
        "queue {queue:?} is in use by process {}: stop it first, or wait longer for its end \
         (nothing was changed)",
        numbers(processes)
    )]
    InUse {
        /// The queue's address.
        queue: String,
        /// Their pids, each in its own PID namespace.
        processes: Vec<u32>,
    },
    /// Another operation on the queue was interrupted. The queue stays frozen.
    #[error(
        "queue {queue:?} is frozen: {what} was interrupted; run it again to complete it, or open \
         the queue as it is now (ipc resume {queue} --give-up)"
    )]
    Unfinished {
        /// The queue's address.
        queue: String,
        /// The operation.
        what: &'static str,
    },
    /// The saved queue still exists, and was opened again since: the messages in the snapshot may
    /// have been delivered.
    #[error(
        "queue {queue:?} was saved in {}, and was used again since: the messages in the file may \
         have been delivered; remove the file, or restore it under another name to inspect it",
        file.display()
    )]
    StillThere {
        /// The queue's address.
        queue: String,
        /// The snapshot.
        file: PathBuf,
    },
    /// The file does not exist.
    #[error("there is no snapshot {}", file.display())]
    NoFile {
        /// The path.
        file: PathBuf,
    },
    /// A file of that name exists, and may be the only place of other messages.
    #[error(
        "{} exists already, and was not written by this save: restore it first, or choose another \
         name",
        file.display()
    )]
    FileExists {
        /// The path.
        file: PathBuf,
    },
    /// The file is not a complete snapshot.
    #[error(
        "{} is damaged at byte {at}: {reason} (nothing was restored; take another copy of the \
         file)",
        file.display()
    )]
    Damaged {
        /// The path.
        file: PathBuf,
        /// The position of the frame that cannot be read.
        at: u64,
        /// The damage.
        reason: String,
    },
    /// A later version of this crate wrote the file.
    #[error(
        "{} has version {found} of the format, this program knows versions up to {known}: restore \
         it with the version of ipc-queue that saved it, or a later one",
        file.display()
    )]
    LaterVersion {
        /// The path.
        file: PathBuf,
        /// The file's version.
        found: u32,
        /// The latest version that this program knows.
        known: u32,
    },
    /// The queue has too little room.
    #[error(
        "queue {queue:?} is too small: its setting {setting} is {has}, and {needed} are needed \
         (nothing was moved; use a queue with a larger value)"
    )]
    TooSmall {
        /// The queue's address.
        queue: String,
        /// The setting to enlarge.
        setting: &'static str,
        /// Its value.
        has: u64,
        /// The minimum, including the present contents of the queue.
        needed: u64,
    },
    /// The queue was created without a feature that is needed.
    #[error(
        "queue {queue:?} was created without {feature}, but {count} messages or keys need it \
         (nothing was moved; use a queue with {feature})"
    )]
    Lacks {
        /// The queue's address.
        queue: String,
        /// The missing feature.
        feature: Feature,
        /// The number of messages or keys that need it.
        count: u64,
    },
    /// Everything was copied, and then the operation failed: the copy was not synced to the disk,
    /// or the queue was not removed. The queue stays frozen: run the operation again.
    #[error(
        "everything in queue {queue:?} is in {to}, but then: {source}; the queue stays frozen: run \
         the operation again to complete it"
    )]
    NotEnded {
        /// The queue's address.
        queue: String,
        /// The file, or the other queue.
        to: String,
        /// The cause.
        source: Box<SnapshotError>,
    },
    /// Everything was restored, and then the file was not removed. A second restore adds nothing.
    #[error(
        "everything in {} is in queue {queue:?}, but the file was not removed: {source}; remove it",
        file.display()
    )]
    FileStays {
        /// The queue's address.
        queue: String,
        /// The snapshot.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Both addresses name the same queue.
    #[error("queue {queue:?} cannot be moved to itself: choose another name")]
    Same {
        /// The queue's address.
        queue: String,
    },
    /// The file or its folder cannot be read or written.
    #[error("{}: {source}", file.display())]
    Io {
        /// The path.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A message cannot be encoded.
    #[error(transparent)]
    Encode(#[from] CodecError),
    /// A message could not be added although there was room. The queue stays frozen: run the
    /// operation again.
    #[error(
        "queue {queue:?}: {source}; it contains only a part of the messages: run the operation \
         again"
    )]
    NotPut {
        /// The queue's address.
        queue: String,
        /// The cause.
        source: SendPortError,
    },
}

impl SnapshotError {
    pub(super) fn io(file: &Path, source: io::Error) -> Self {
        Self::Io {
            file: file.to_owned(),
            source,
        }
    }
}

fn numbers(processes: &[u32]) -> String {
    let numbers: Vec<_> = processes.iter().map(u32::to_string).collect();
    numbers.join(", ")
}
