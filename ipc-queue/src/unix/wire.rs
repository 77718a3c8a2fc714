//! The protocol on the socket.
//!
//! A connection begins with the client's [`Hello`] and the server's [`Greeting`]. Then the client
//! sends requests, and the server answers each under its number. The first requests decide the role
//! of a connection: it may become a sender, a receiver or a notifier. It keeps that role, and
//! stands for one handle of the client.

use std::fmt;
use std::time::{Duration, Instant};

use ipc_proto::{Headers, Kind, MessageId, QueueSettings};
use serde::{Deserialize, Serialize};

use super::failures::{ControlFailed, DrainFailed, RecvFailed, SendFailed, SettleFailed};
use crate::capability::Capabilities;
use crate::contract::LeaseInfo;
use crate::dead_letter::{DeadLetter, DeadLetterId};
use crate::metadata::Metadata;
use crate::send_options::{Key, SendOptions};
use crate::settle::OwnedSettle;
use crate::stats::QueueStats;
use crate::wait::Wait;

/// The protocol version. It changes with every change of the messages below.
pub(super) const PROTOCOL: u16 = 6;
pub(super) const MAGIC: [u8; 4] = *b"ipcq";

/// The beginning of every version's `Hello`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) magic: [u8; 4],
    pub(super) protocol: u16,
}

/// The first message of a client.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) head: Head,
    /// The name of the client's program.
    pub(super) program: String,
}

/// The server's answer to a `Hello`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Greeting {
    Welcome(Box<Welcome>),
    Refused(Refusal),
}

/// The description of the served queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Welcome {
    pub(super) protocol: u16,
    /// The queue's number.
    pub(super) id: u64,
    pub(super) settings: QueueSettings,
    pub(super) capabilities: Capabilities,
    /// The name of its payloads; `None`: any are accepted.
    pub(super) payload: Option<String>,
}

/// The reason why a client is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Refusal {
    NotOurs,
    Protocol { server: u16 },
    Stranger { uid: u32 },
    TooMany { most: u32 },
    Slow,
    NoThread,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOurs => f.write_str("the first message is not of this protocol"),
            Self::Protocol { server } => write!(
                f,
                "the server uses version {server} of the protocol, this program version \
                 {PROTOCOL}: use the same version of ipc-queue for both"
            ),
            Self::Stranger { uid } => write!(
                f,
                "user {uid} is not the server's: only processes of the same user, and the \
                 superuser's, are served"
            ),
            Self::TooMany { most } => write!(
                f,
                "the server has reached its limit of {most} connections: close some, or serve \
                 with a larger max_connections"
            ),
            Self::Slow => f.write_str("the client did not introduce itself in time"),
            Self::NoThread => f.write_str("the server cannot start another thread"),
        }
    }
}

/// The time that the server should wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Patience {
    None,
    For(Duration),
    Endless,
}

impl From<Wait> for Patience {
    fn from(wait: Wait) -> Self {
        match wait {
            Wait::No => Self::None,
            Wait::Until(deadline) => Self::For(deadline.saturating_duration_since(Instant::now())),
            Wait::Forever => Self::Endless,
        }
    }
}

impl From<Patience> for Wait {
    fn from(patience: Patience) -> Self {
        match patience {
            Patience::None => Self::No,
            Patience::For(time) => Self::at_most(time),
            Patience::Endless => Self::Forever,
        }
    }
}

/// The side of a queue: receivers or senders. See [`notifier`](crate::notifier).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Side {
    Items = 0,
    Room = 1,
}

/// A request.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    // For connections without a role.
    Stats,
    IsClosed,
    IsPaused,
    Close,
    Reopen,
    Pause,
    Resume,
    Purge,
    Drain(Patience),
    Leases,
    DeadLetters,
    Requeue(DeadLetterId),
    Discard(DeadLetterId),
    NoteSignal {
        id: DeadLetterId,
        signal: u8,
    },
    Forget(Key),
    Revoke(MessageId),
    DropMessage(MessageId),
    Remove,
    /// Asks whether the queue was removed.
    IsRemoved,
    BecomeSender,
    BecomeReceiver,
    BecomeNotifier(Side),

    // For senders.
    /// Has a payload.
    Send {
        options: SendOptions,
        patience: Patience,
    },
    /// Has all payloads, one after the other.
    SendBatch {
        kind: Kind,
        patience: Patience,
        lengths: Vec<u32>,
    },
    Lend {
        bytes: u64,
        options: SendOptions,
        patience: Patience,
    },
    /// Has a payload.
    Publish {
        loan: u64,
    },
    /// Has no answer.
    Abandon {
        loan: u64,
    },

    // For receivers.
    Receive {
        most: u32,
        patience: Patience,
    },
    Settle {
        ticket: u64,
        how: OwnedSettle,
    },
    /// Acknowledges all of these.
    AckBatch {
        tickets: Vec<u64>,
    },
    Extend {
        ticket: u64,
        by: Duration,
    },

    // For links.
    /// Requests one wake at the next notification.
    Arm,
    /// Wakes another sleeper of the queue. Has no answer.
    WakeOne,
}

/// A message from the server.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    Stats(Result<Box<QueueStats>, ControlFailed>),
    Purged(Result<u64, ControlFailed>),
    Controlled(Result<(), ControlFailed>),
    /// The answer to a yes-or-no question.
    Flag(Result<bool, ControlFailed>),
    Drained(Result<(), DrainFailed>),
    /// A part of the list; more follow.
    Leases(Vec<LeaseInfo>),
    /// One dead letter, with its payload; more follow.
    Letter(DeadLetter),
    /// The end of a list, or the reason why it is incomplete.
    Last(Result<(), ControlFailed>),
    Sent(Result<MessageId, SendFailed>),
    SentBatch {
        sent: u32,
        failure: Option<SendFailed>,
    },
    Lent(Result<u64, SendFailed>),
    /// Has the payloads, one after the other.
    Deliveries {
        list: Vec<Delivered>,
        /// Set if more follow under the same number.
        more: bool,
    },
    Nothing(RecvFailed),
    Settled(Result<(), SettleFailed>),
    /// All were acknowledged, except those at these indexes of the request.
    AckedBatch(Vec<(u32, SettleFailed)>),
    /// A wake. Not an answer.
    Wake,
    /// The reason why the server now closes the connection. Not an answer.
    Violation(String),
}

/// A received message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Delivered {
    pub(super) ticket: u64,
    pub(super) metadata: Metadata,
    pub(super) headers: Headers,
    pub(super) bytes: u32,
}
