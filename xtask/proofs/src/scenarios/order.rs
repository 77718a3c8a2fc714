//! The orders for a child process (code: puppet), and its replies: one JSON value per line.

use std::ops::Range;

use ipc_proto::QueueSettings;
use ipc_queue::QueueStats;
use serde::{Deserialize, Serialize};

/// An order for a child. It sends one [`Reply`] when it is done, unless noted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Attach to the queue of that name and stay attached.
    Attach { queue: String },
    /// Return everything and leave the queue.
    Detach,
    /// Create a queue and leave it again.
    Create {
        queue: String,
        settings: QueueSettings,
    },
    /// Create and remove a queue forever, as far as others allow; reply [`Reply::Done`] after the
    /// first creation.
    ComeAndGo {
        queue: String,
        settings: QueueSettings,
    },
    /// Open a queue, or create it, and leave it again.
    Open { queue: String },
    /// Remove a queue.
    Remove { queue: String },

    /// Send these messages, waiting for room for `wait_ms` each time.
    Send {
        numbers: Range<u64>,
        bytes: usize,
        wait_ms: Option<u64>,
    },
    /// Send messages, numbered from `first`, of these sizes in rotation; reply [`Reply::Sent`]
    /// after each.
    SendForever { first: u64, sizes: Vec<usize> },
    /// Take a loan, write a message into it, and keep it.
    Lend { number: u64, bytes: usize },
    /// Publish the oldest loan.
    Publish,
    /// Receive one message and keep it.
    Receive { wait_ms: Option<u64> },
    /// Receive this number of messages and keep them.
    Hoard { count: usize },
    /// Receive this number of messages and ack each. Reply with their numbers.
    Consume { count: usize },
    /// Receive and ack until the queue ends it; reply [`Reply::Settling`] and [`Reply::Acked`] for
    /// each.
    WorkForever,
    /// Read the oldest held message again.
    Check,
    /// Ack the oldest held message.
    Ack,
    /// Return the oldest held message with a delay.
    NackAfter { delay_ms: u64 },
    /// Reply with the queue's statistics.
    Stats,

    /// Fork. The child tries everything and replies [`Reply::Child`]; the parent does not reply.
    /// The child stays.
    Fork,
    /// Become another program, which is also a child process for orders; reply [`Reply::Ready`]
    /// once more.
    Exec,
    /// From now on handle SIGUSR1 and ignore it.
    CatchSignals,
    /// Limit the size of files to this.
    LimitFileSize { bytes: u64 },
    /// Allow this many more open files.
    LimitOpenFiles { more: u64 },
    /// Allow only this much more address space: no thread gets its stack.
    LimitMemory { more: u64 },
    /// Raise all limits as far as possible.
    LiftLimits,
    /// Reply with the number of open files.
    CountOpenFiles,
    /// Become another user.
    BecomeUser { uid: u32 },
    /// Make the next process of this PID namespace get the number after this one.
    SetLastPid { pid: u32 },
    /// Reply with the time since the machine started.
    Clock,
}

impl Order {
    /// Send these messages, waiting for room without a limit.
    pub const fn send(numbers: Range<u64>, bytes: usize) -> Self {
        Self::Send {
            numbers,
            bytes,
            wait_ms: None,
        }
    }

    /// Receive one message and keep it, waiting without a limit.
    pub const RECEIVE: Self = Self::Receive { wait_ms: None };
}

/// A reply of a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It has started. The number is its own in its PID namespace.
    Ready { pid: u32 },
    /// Done as ordered.
    Done,
    /// Not done: the error, as `Debug` shows it.
    Failed(String),
    /// It holds this message.
    Got { number: u64, attempt: u8 },
    /// It has acked all of these.
    Consumed(Vec<u64>),
    /// The message was accepted.
    Sent(u64),
    /// It is about to ack the message.
    Settling(u64),
    /// The ack was accepted.
    Acked(u64),
    /// The queue's statistics.
    Stats(QueueStats),
    /// A number of things.
    Count(u64),
    /// The experience of a forked child: what it tried, and the results.
    Child {
        pid: i32,
        answers: Vec<(String, String)>,
    },
}
