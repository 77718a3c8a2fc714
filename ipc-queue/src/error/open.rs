//! Errors of opening and creating queues.

use ipc_proto::{CodecError, NameError, SettingsError, ShapeError};
#[cfg(target_os = "linux")]
use ipc_shm::{CreateError, JoinError, NamespaceError, OpenError};
use thiserror::Error;

use crate::capability::Unsupported;

/// Why a queue was not opened or created.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The address is not one.
    #[error("{address:?} is no queue address: {reason}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The name in the address is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The settings are not valid.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The transport can't do what the settings ask for.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The queue exists with other settings than were insisted on.
    #[error(
        "queue {name:?} has {field} {found}, wanted {wanted}: open it with its own settings, or move \
         its messages to a new queue (ipc bridge OLD NEW --create --close)"
    )]
    SettingsDiffer {
        /// Which queue.
        name: String,
        /// Which setting.
        field: &'static str,
        /// What it has.
        found: String,
        /// What was wanted.
        wanted: String,
    },
    /// There is no such queue.
    #[error("there is no queue {name:?}")]
    NotFound {
        /// Which.
        name: String,
    },
    /// There is such a queue already.
    #[error("queue {name:?} exists already")]
    Exists {
        /// Which.
        name: String,
    },
    /// The queue carries another type.
    #[error("queue {name:?} carries {found}, this program wants {wanted}: is this the right name?")]
    PayloadDiffers {
        /// Which queue.
        name: String,
        /// What it carries.
        found: String,
        /// What was wanted.
        wanted: String,
    },
    /// The queue carries this type, but its shape is another one than this program's, and the
    /// encoding is postcard: messages of one would be read as the other's.
    #[error(
        "queue {name:?} carries {found}, this program's shape of that type is {wanted} (- the \
         queue's, + this program's):{difference}\nLet the old program drain the queue and \
         remove it, or open one of another name; a queue of Encoding::MessagePack or \
         Encoding::Json lets fields be added and removed"
    )]
    ShapeDiffers {
        /// Which queue.
        name: String,
        /// The name of its payloads, with the fingerprint of their shape.
        found: String,
        /// This program's.
        wanted: String,
        /// The two shapes, a line for each field, after a line break.
        difference: String,
    },
    /// The type has no shape that can be found, and the encoding is postcard.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// This program was built without the queue's encoding.
    #[error("queue {name:?}: {source}")]
    Encoding {
        /// Which queue.
        name: String,
        /// The feature that is missing.
        source: CodecError,
    },
    /// No shared memory could be had.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Create(#[from] CreateError),
    /// What is there can't be used.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The folder of the queue can't be used.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Too many processes are attached.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The segment's header is intact but describes no queue.
    #[error("segment {name:?} describes no queue: {reason}; remove it")]
    Geometry {
        /// Which.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The transport's own trouble.
    #[error("{0}")]
    Transport(String),
}
