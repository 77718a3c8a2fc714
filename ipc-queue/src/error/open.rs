//! Errors of opening and creating queues.

use ipc_proto::{CodecError, NameError, SettingsError, ShapeError};
#[cfg(target_os = "linux")]
use ipc_shm::{CreateError, JoinError, NamespaceError, OpenError};
use thiserror::Error;

use crate::capability::Unsupported;

/// The reason why a queue was not opened or created.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The address is not valid.
    #[error("invalid queue address {address:?}: {reason}")]
    Address {
        /// The address that was given.
        address: String,
        /// The reason.
        reason: String,
    },
    /// The name in the address is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The settings are not valid.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The transport does not support something that the settings ask for.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The queue exists, and a setting differs from the one required.
    #[error(
        "queue {name:?} has {field} {found}, wanted {wanted}: open it with its own settings, or \
         move its messages to a new queue (ipc bridge OLD NEW --create --close)"
    )]
    SettingsDiffer {
        /// The queue's name.
        name: String,
        /// The setting's name.
        field: &'static str,
        /// The value that the queue has.
        found: String,
        /// The value that was required.
        wanted: String,
    },
    /// There is no such queue, or no process serves it.
    #[error("there is no queue {name:?}{}", hint_of_missing(name))]
    NotFound {
        /// The queue's name.
        name: String,
    },
    /// The queue exists already.
    #[error("queue {name:?} exists already")]
    Exists {
        /// The queue's name.
        name: String,
    },
    /// The queue carries payloads of another type.
    #[error("queue {name:?} carries {found}, this program wants {wanted}: is this the right name?")]
    PayloadDiffers {
        /// The queue's name.
        name: String,
        /// The type that it carries.
        found: String,
        /// The type that was requested.
        wanted: String,
    },
    /// The queue carries a type of this name, but with another shape than this program's. With the
    /// encoding postcard, messages of one would be read as the other.
    #[error(
        "queue {name:?} carries {found}, this program's shape of that type is {wanted} (- the \
         queue's, + this program's):{difference}\nLet the old program drain the queue and remove \
         it, or open one of another name; a queue of Encoding::MessagePack or Encoding::Json lets \
         fields be added and removed"
    )]
    ShapeDiffers {
        /// The queue's name.
        name: String,
        /// The name of its payloads, with the fingerprint of their shape.
        found: String,
        /// The same, of this program's type.
        wanted: String,
        /// The two shapes as a difference, a line for each field, after a line break.
        difference: String,
    },
    /// The shape of the type cannot be determined, and the encoding is postcard.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// This program was built without the queue's encoding.
    #[error("queue {name:?}: {source}")]
    Encoding {
        /// The queue's name.
        name: String,
        /// The missing feature of this build.
        source: CodecError,
    },
    /// Shared memory could not be created.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The existing file cannot be used.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The folder of the queue cannot be used.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Too many processes are attached.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The segment's header is intact, but does not describe a queue.
    #[error("segment {name:?} does not describe a queue: {reason}; remove it")]
    Geometry {
        /// The segment's name.
        name: String,
        /// The reason.
        reason: String,
    },
    /// A failure of the transport.
    #[error("{0}")]
    Transport(String),
}

impl QueueError {
    /// Names the queue by its address. A transport knows only the queue's name, or its file.
    pub(crate) fn about(mut self, address: &str) -> Self {
        if let Self::SettingsDiffer { name, .. }
        | Self::PayloadDiffers { name, .. }
        | Self::NotFound { name }
        | Self::Exists { name } = &mut self
        {
            address.clone_into(name);
        }
        self
    }
}

fn hint_of_missing(name: &str) -> &'static str {
    if name.starts_with("unix:") {
        ": no process serves one at that socket; start its server first"
    } else {
        ""
    }
}
