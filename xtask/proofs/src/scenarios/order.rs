//! What a puppet can be told, and what it says: one JSON value a line.

use std::ops::Range;

use ipc_proto::QueueSettings;
use ipc_queue::QueueStats;
use serde::{Deserialize, Serialize};

/// What a puppet is told to do. It says one [`Reply`] when that is done, unless noted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Attach to the queue of that name and stay attached.
    Attach { queue: String },
    /// Give everything back and leave the queue.
    Detach,
    /// Create a queue and leave it again.
    Create {
        queue: String,
        settings: QueueSettings,
    },
    /// Create and remove a queue for ever, as far as others let it; says [`Reply::Done`] once it was made.
    ComeAndGo {
        queue: String,
        settings: QueueSettings,
    },
    /// Open a queue, or create it, and leave it again.
    Open { queue: String },
    /// Remove a queue.
    Remove { queue: String },

    /// Send these messages, waiting for room as long as `wait_ms` says each time.
    Send {
        numbers: Range<u64>,
        bytes: usize,
        wait_ms: Option<u64>,
    },
    /// Send messages, numbered from `first`, of each of these sizes in turn; says [`Reply::Sent`] after each.
    SendForever { first: u64, sizes: Vec<usize> },
    /// Take a loan, write a message into it, and keep it.
    Lend { number: u64, bytes: usize },
    /// Publish the oldest loan.
    Publish,
    /// Receive one message and keep it.
    Receive { wait_ms: Option<u64> },
    /// Receive so many messages and keep them.
    Hoard { count: usize },
    /// Receive so many messages and ack each. Says which.
    Consume { count: usize },
    /// Receive and ack until the queue says otherwise; says [`Reply::Settling`] and [`Reply::Acked`] for each.
    WorkForever,
    /// Read the oldest message held once more.
    Check,
    /// Ack the oldest message held.
    Ack,
    /// Give the oldest message held back, to come again after a while.
    NackAfter { delay_ms: u64 },
    /// Say how the queue is.
    Stats,

    /// Fork. The child tries everything and says [`Reply::Child`]; the parent says nothing. The child stays.
    Fork,
    /// Become another program, which is a puppet, too; says [`Reply::Ready`] once more.
    Exec,
    /// From now on handle SIGUSR1 and do nothing about it.
    CatchSignals,
    /// Allow files of so many bytes.
    LimitFileSize { bytes: u64 },
    /// Allow so many open files more than there are.
    LimitOpenFiles { more: u64 },
    /// No more address space than that beyond what is in use: no thread gets its stack.
    LimitMemory { more: u64 },
    /// Allow as much again as may be.
    LiftLimits,
    /// Say how many open files there are.
    CountOpenFiles,
    /// Become another user.
    BecomeUser { uid: u32 },
    /// Make the next process of this PID namespace follow that number.
    SetLastPid { pid: u32 },
    /// Say how long ago the machine started.
    Clock,
}

impl Order {
    /// Send these messages, waiting for room as long as it takes.
    pub const fn send(numbers: Range<u64>, bytes: usize) -> Self {
        Self::Send {
            numbers,
            bytes,
            wait_ms: None,
        }
    }

    /// Receive one message and keep it, waiting as long as it takes.
    pub const RECEIVE: Self = Self::Receive { wait_ms: None };
}

/// What a puppet says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It is there. Its number in its own PID namespace.
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
    /// How the queue is.
    Stats(QueueStats),
    /// How many.
    Count(u64),
    /// What a forked child experienced: what it tried, and what came of it.
    Child {
        pid: i32,
        answers: Vec<(String, String)>,
    },
}
