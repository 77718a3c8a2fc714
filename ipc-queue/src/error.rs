//! What can go wrong with a queue, one type per operation.

use std::time::Duration;

use ipc_proto::{CodecError, MessageId, NameError, SettingsError, ShapeError};
#[cfg(target_os = "linux")]
use ipc_shm::{CreateError, JoinError, NamespaceError, OpenError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::capability::Unsupported;
use crate::control::ControlError;

/// Why a message was not sent. Comes with the message: see [`SendError`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendFailure {
    /// Every place is taken, counting messages that are leased, delayed or dead.
    #[error(
        "the queue holds {capacity} messages and is full{}: wait, receive some, or create it with a larger capacity",
        and_dead(*dead)
    )]
    Full {
        /// How many it holds.
        capacity: u32,
        /// How many of them are dead letters, which nobody receives: requeue or discard them.
        dead: u64,
    },
    /// There is a place, but no memory for a payload of this size now.
    #[error(
        "the queue's pool has no room for {bytes} bytes now: wait, or create the queue with larger pool_bytes"
    )]
    NoMemory {
        /// How large the payload is.
        bytes: usize,
    },
    /// The time was up while something was missing that the message needs.
    #[error("{missing} for {waited:?}{}", and_dead(*dead))]
    TimedOut {
        /// How long we waited.
        waited: Duration,
        /// What was missing at the last look.
        missing: NoRoom,
        /// How many of the messages in it are dead letters, which nobody receives: requeue or discard them.
        dead: u64,
    },
    /// A message of this key was sent before, and the queue remembers it: this one was not sent, and need not be.
    #[error("message {of} was sent with the same key")]
    Duplicate {
        /// That message.
        of: MessageId,
    },
    /// Somebody else is just sending a message of this key: whether that succeeds is not known yet.
    #[error("somebody else is sending a message with the same key: try again")]
    KeyInUse,
    /// The key has no bytes: every message with it would be a duplicate of the first.
    #[error(
        "the key is empty (is a variable unset?): give a key that tells messages apart, or none"
    )]
    EmptyKey,
    /// The places where this key belongs are taken by others that were sent within the window.
    #[error(
        "the queue remembers {keys} keys, each for {window:?}, and has no place for this one: forget some (ipc forget), wait, or \
         move its messages to a queue with more dedup_keys or a shorter dedup_window (ipc move)"
    )]
    KeysFull {
        /// The number of keys that it remembers now: at least its setting `dedup_keys`.
        keys: u64,
        /// For how long it remembers each: its setting `dedup_window`.
        window: Duration,
    },
    /// The queue can't do what the message's options ask for.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The payload is larger than this queue takes.
    #[error(
        "a payload of {bytes} bytes is larger than the {most} that this queue takes: split it, or create the queue with a larger max_message_bytes"
    )]
    TooLarge {
        /// How large it is.
        bytes: usize,
        /// The most it may be.
        most: usize,
    },
    /// The queue was closed: it takes no more messages.
    #[error("the queue is closed")]
    Closed,
    /// The queue was removed.
    #[error("the queue was removed: nobody would receive this; open it again")]
    Removed,
    /// This process is a forked copy of the one that opened the queue.
    #[error("this process was forked from the one that opened the queue: open it again here")]
    Forked,
    /// The queue's file was deleted, or moved away, by something other than this library.
    #[error(
        "the queue's file was deleted or moved by something other than this library, with what was in it: keep \
         cleaners away from its folder (systemd: RemoveIPC=no), and open it again"
    )]
    Deleted,
    /// Something in this process closed the descriptor of the queue's file. Others may go on.
    #[error(
        "something in this process closed descriptor {descriptor}, the file of queue {queue:?}: open the queue again, \
         and find the code that closes descriptors that are not its own"
    )]
    DescriptorLost {
        /// The queue's name.
        queue: String,
        /// The number that the descriptor had.
        descriptor: i32,
    },
    /// The queue's file was cut short from outside: what was in it is lost. This message was not accepted; whether
    /// those accepted before were received is not known.
    #[error(
        "the queue's shared memory was cut short from outside: what was in it is lost; remove it and create it anew"
    )]
    Truncated,
    /// The shared memory contradicts itself.
    #[error("the queue's memory is damaged: {0}")]
    Damaged(String),
    /// The value has no encoding.
    #[error(transparent)]
    Encode(#[from] CodecError),
    /// The transport's own trouble, such as a lost connection.
    #[error("{0}")]
    Transport(String),
}

/// What a message needs and a queue has none of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NoRoom {
    /// Every place is taken.
    #[error(
        "every place of the queue was taken (receive some, or create it with a larger capacity)"
    )]
    Places,
    /// There are places, but no memory for the payload.
    #[error(
        "the queue's payload memory had no room for {bytes} bytes, whatever places were free (receive some, or \
         create it with larger pool_bytes)"
    )]
    Memory {
        /// The payload's size.
        bytes: u64,
    },
    /// Another sender was sending a message with the same key.
    #[error("another sender was sending a message with the same key (try again)")]
    Key,
}

fn and_dead(dead: u64) -> String {
    match dead {
        0 => String::new(),
        _ => format!(
            ", with {dead} dead letters in it, which nobody receives: requeue or discard them"
        ),
    }
}

/// A value that was not sent, and why.
#[derive(Error)]
#[error("queue {queue:?}: {failure}")]
#[non_exhaustive]
pub struct SendError<T> {
    /// The queue's address, without credentials.
    pub queue: String,
    /// The value, if it was given by value; `()` if by reference.
    pub message: T,
    /// The cause.
    #[source]
    pub failure: SendFailure,
}

impl<T> SendError<T> {
    /// Returns the value that was not sent.
    pub fn into_inner(self) -> T {
        self.message
    }
}

/// Without the message, which need not be printable.
impl<T> std::fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendError")
            .field("queue", &self.queue)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

/// A batch that was not sent to its end, and why.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{sent} messages were sent, then: {failure}")]
pub struct BatchFailure {
    /// How many were sent: the first ones.
    pub sent: usize,
    /// Why the next was not.
    pub failure: SendFailure,
}

/// A batch of which not every delivery could be acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
#[error("{acked} messages were acknowledged, {failed} were not; the first of these: {first}")]
pub struct BatchAckError {
    /// The number of messages that were acknowledged.
    pub acked: usize,
    /// The number of those that were not.
    pub failed: usize,
    /// Why the first was not.
    pub first: SettleError,
}

/// Why nothing was received.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecvError {
    /// There is no message now.
    #[error("the queue is empty")]
    Empty,
    /// The time was up and there was no message.
    #[error("no message came in {waited:?}")]
    TimedOut {
        /// How long we waited.
        waited: Duration,
    },
    /// The queue is paused: there may be messages, but none is delivered until it is resumed.
    #[error("the queue is paused")]
    Paused,
    /// The queue is closed and everything in it was settled, save what this receiver's process holds.
    #[error("the queue is closed and drained")]
    Closed,
    /// A [`Shutdown`](ipc_proto::Kind::Shutdown) message came, and was acknowledged. Only typed
    /// receivers return this; [`recv_any`](crate::Receiver::recv_any) does not.
    #[error("a shutdown message came: stop receiving")]
    Shutdown,
    /// The queue was removed.
    #[error("the queue was removed; open it again")]
    Removed,
    /// This process is a forked copy of the one that opened the queue.
    #[error("this process was forked from the one that opened the queue: open it again here")]
    Forked,
    /// The queue's file was deleted, or moved away, by something other than this library.
    #[error(
        "the queue's file was deleted or moved by something other than this library, with what was in it: keep \
         cleaners away from its folder (systemd: RemoveIPC=no), and open it again"
    )]
    Deleted,
    /// Something in this process closed the descriptor of the queue's file. Others may go on.
    #[error(
        "something in this process closed descriptor {descriptor}, the file of queue {queue:?}: open the queue again, \
         and find the code that closes descriptors that are not its own"
    )]
    DescriptorLost {
        /// The queue's name.
        queue: String,
        /// The number that the descriptor had.
        descriptor: i32,
    },
    /// The queue's file was cut short from outside: what was in it is lost. Messages in it are lost, those
    /// that this process holds included.
    #[error(
        "the queue's shared memory was cut short from outside: what was in it is lost; remove it and create it anew"
    )]
    Truncated,
    /// A message came whose place in shared memory is damaged. It is a dead letter now.
    #[error("a message was lost to damaged memory: {0}")]
    Damaged(String),
    /// A message came that this program can't read as a value of the queue's type. It was given
    /// back, with the error as its reason, for receivers of another version; past the queue's
    /// attempt limit it is a dead letter.
    #[error("message {id} was given back at attempt {attempt}: {source}")]
    Decode {
        /// Which message.
        id: MessageId,
        /// The attempt that this was.
        attempt: u8,
        /// What is wrong with it.
        source: CodecError,
    },
    /// The transport's own trouble, such as a lost connection.
    #[error("{0}")]
    Transport(String),
}

impl RecvError {
    /// Whether it concerns one message only: the next call goes on behind it, and a loop that works
    /// on messages should, too.
    #[must_use]
    pub fn is_of_one_message(&self) -> bool {
        matches!(self, Self::Decode { .. } | Self::Damaged(_))
    }
}

/// Why a delivery was not settled.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SettleError {
    /// The transport can't end a delivery in this way.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The lease expired: somebody else has the message, or had it. Whatever was done for it may be done again.
    #[error("the lease was lost: the message was, or will be, delivered again")]
    LeaseLost,
    /// The queue's file was cut short from outside: what was in it is lost. Nothing was settled. What was read of the
    /// message may have been zeroes, and it will not come again.
    #[error(
        "the queue's shared memory was cut short from outside: what was in it is lost; remove it and create it anew"
    )]
    Truncated,
    /// This process is a forked copy of the one that received the message.
    #[error("this process was forked from the one that received the message, which still holds it")]
    Forked,
    /// The queue's file was deleted, or moved away, by something other than this library.
    #[error(
        "the queue's file was deleted or moved by something other than this library, with what was in it: keep \
         cleaners away from its folder (systemd: RemoveIPC=no), and open it again"
    )]
    Deleted,
    /// Something in this process closed the descriptor of the queue's file. Others may go on.
    #[error(
        "something in this process closed descriptor {descriptor}, the file of queue {queue:?}: open the queue again, \
         and find the code that closes descriptors that are not its own"
    )]
    DescriptorLost {
        /// The queue's name.
        queue: String,
        /// The number that the descriptor had.
        descriptor: i32,
    },
    /// The transport's own trouble, such as a lost connection.
    #[error("{0}")]
    Transport(String),
}

/// Why a queue was not drained.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum DrainError {
    /// The time was up. The queue is closed.
    #[error("queue {queue:?}: {left} messages were left after {waited:?}")]
    TimedOut {
        /// The queue's address, without credentials.
        queue: String,
        /// How long the call waited.
        waited: Duration,
        /// How many messages were not settled then, including delayed ones and those being written.
        left: u64,
    },
    /// The queue could not be closed, or its content could not be asked.
    #[error(transparent)]
    Control(#[from] ControlError),
}

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
