//! What is said over the socket, by whom.
//!
//! A connection begins with the client's [`Hello`] and the server's [`Greeting`]. Then the client asks and the server
//! answers, under the request's number. What a connection is for its first requests decide: one that has become a
//! sender, a receiver or a bell stays one, and then stands for one handle of the client.

use std::fmt;
use std::time::{Duration, Instant};

use ipc_proto::{Headers, Kind, MessageId, QueueSettings};
use serde::{Deserialize, Serialize};

use super::failures::{ControlFailed, DrainFailed, RecvFailed, SendFailed, SettleFailed};
use crate::capability::Capabilities;
use crate::dead_letter::{DeadLetter, DeadLetterId};
use crate::delivery::Metadata;
use crate::send_options::{Key, SendOptions};
use crate::stats::QueueStats;
use crate::transport::{LeaseInfo, OwnedSettle, Wait};

/// Changes with everything that is said here.
pub(super) const PROTOCOL: u16 = 4;
pub(super) const MAGIC: [u8; 4] = *b"ipcq";

/// What every version's `Hello` begins with.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) magic: [u8; 4],
    pub(super) protocol: u16,
}

/// What a client says first.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) head: Head,
    /// What it calls itself.
    pub(super) program: String,
}

/// What the server answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Greeting {
    Welcome(Box<Welcome>),
    Refused(Refusal),
}

/// What is served.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Welcome {
    pub(super) protocol: u16,
    /// The queue's number.
    pub(super) id: u64,
    pub(super) settings: QueueSettings,
    pub(super) capabilities: Capabilities,
    /// What its payloads are; `None`: anything.
    pub(super) payload: Option<String>,
}

/// Why a client is not served.
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
            Self::NotOurs => f.write_str("what was said first is not this protocol"),
            Self::Protocol { server } => write!(
                f,
                "the server speaks version {server} of the protocol, this program {PROTOCOL}: use the same version of ipc-queue for both"
            ),
            Self::Stranger { uid } => write!(
                f,
                "user {uid} is not the server's: only processes of the same user, and the superuser's, are served"
            ),
            Self::TooMany { most } => write!(
                f,
                "the server has {most} connections, which is its most: close some, or serve with a larger max_connections"
            ),
            Self::Slow => f.write_str("nothing was said in time"),
            Self::NoThread => f.write_str("the server can't start another thread"),
        }
    }
}

/// How long the server is to wait.
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

/// Which of a queue's doors: see [`bell`](crate::bell).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Side {
    Items = 0,
    Room = 1,
}

/// What a client asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    // Of any connection that has not become anything.
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
    Remove,
    /// Whether the queue was removed.
    IsRemoved,
    BecomeSender,
    BecomeReceiver,
    BecomeBell(Side),

    // Of a sender.
    /// With a payload.
    Send {
        options: SendOptions,
        patience: Patience,
    },
    /// With all payloads, one after the other.
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
    /// With a payload.
    Publish {
        loan: u64,
    },
    /// Not answered.
    Abandon {
        loan: u64,
    },

    // Of a receiver.
    Receive {
        most: u32,
        patience: Patience,
    },
    Settle {
        ticket: u64,
        how: OwnedSettle,
    },
    Extend {
        ticket: u64,
        by: Duration,
    },

    // Of a bell.
    /// Rings at the next notification, once.
    Arm,
    /// Wakes somebody else. Not answered.
    PassOn,
}

/// What the server says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    Stats(Result<Box<QueueStats>, ControlFailed>),
    Purged(Result<u64, ControlFailed>),
    Controlled(Result<(), ControlFailed>),
    /// Of a question with two answers.
    Flag(Result<bool, ControlFailed>),
    Drained(Result<(), DrainFailed>),
    /// Some of them, then more.
    Leases(Vec<LeaseInfo>),
    /// One of them, with its payload; then more.
    Letter(DeadLetter),
    /// There are no more, or no more can be had.
    Last(Result<(), ControlFailed>),
    Sent(Result<MessageId, SendFailed>),
    SentBatch {
        sent: u32,
        failure: Option<SendFailed>,
    },
    Lent(Result<u64, SendFailed>),
    /// With their payloads, one after the other.
    Deliveries {
        list: Vec<Delivered>,
        /// Whether more follow under the same number.
        more: bool,
    },
    Nothing(RecvFailed),
    Settled(Result<(), SettleFailed>),
    /// It is time to look. Answers nothing.
    Ring,
    /// Why the connection is closed now. Answers nothing.
    Violation(String),
}

/// A message that was received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Delivered {
    pub(super) ticket: u64,
    pub(super) metadata: Metadata,
    pub(super) headers: Headers,
    pub(super) bytes: u32,
}
