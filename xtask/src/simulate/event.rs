//! What can happen, and what is said over the network.

use super::agenda::Time;
use super::faults::Heal;
use super::replica::Word;

/// A message's number in the ledger.
pub type Message = u32;

/// A process on a host, in one of its lives: what is meant for an earlier life does not reach the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    pub host: u32,
    pub slot: u8,
    pub life: u32,
}

/// One replica of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    pub partition: u16,
    /// Which of the partition's replicas.
    pub replica: u8,
}

#[derive(Debug)]
pub enum Event {
    /// A process goes on.
    Step {
        who: Who,
        step: Step,
    },
    /// An answer reaches a process.
    Reply {
        who: Who,
        call: u32,
        reply: Reply,
    },
    /// The others on a host notice that a process ended.
    Noticed {
        dead: Who,
    },
    ProcessStarts {
        host: u32,
        slot: u8,
        life: u32,
    },
    HostStarts {
        host: u32,
    },
    /// A request reaches a replica that is, or was, the leader.
    Request {
        seat: Seat,
        request: Request,
    },
    /// What one replica says to another.
    Raft {
        from: u8,
        to: Seat,
        word: Box<Word>,
    },
    /// A replica looks at its clock.
    Tick {
        seat: Seat,
    },
    /// The time to acknowledge a delivery is over.
    AckWait {
        seat: Seat,
        term: u32,
        sequence: u32,
        attempt: u8,
    },
    /// A server writes to its disk what it only said it had.
    Sync {
        server: u8,
    },
    ServerStarts {
        server: u8,
        life: u32,
    },
    Trouble,
    Heals(Heal),
    /// No more trouble from now on, and nobody sends anything new.
    Calm,
    /// Is everything drained?
    Look,
}

/// What a process had planned.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Look what there is to do, by the clock.
    Wake,
    /// Look what there is to do, because somebody sent something.
    Rung,
    /// The work on a delivery is done.
    Done { call: u32 },
    /// An answer did not come in time.
    Missing { call: u32 },
}

/// What a process asks of a partition.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub who: Who,
    pub call: u32,
    pub ask: Ask,
}

#[derive(Clone, Copy, Debug)]
pub enum Ask {
    /// Store a message, unless one with this key was stored lately.
    Publish { message: Message, key: u32 },
    /// Deliver the next message, if there is one before this time.
    Pull { until: Time },
    /// Forget a message. Not fenced: whoever knows its sequence may.
    Ack { sequence: u32, message: Message },
    /// Store what became of a message, unless that is stored already.
    Answer(Answer),
}

/// What became of a message, said by one worker for one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub message: Message,
    /// Tells this delivery's answer from all others.
    pub token: u32,
    pub outcome: Outcome,
    /// Whether it was sent when its worker's lease was over already. Only the ledger looks at this.
    pub is_late: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    DeadLetter,
}

/// What a partition answers.
#[derive(Clone, Copy, Debug)]
pub enum Reply {
    Stored,
    /// There is no room; ask again later.
    Full,
    Delivery(Delivery),
    Acked,
    /// Whether it is this answer that was stored.
    Answered {
        is_first: bool,
    },
}

#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    pub message: Message,
    pub sequence: u32,
    pub attempt: u8,
}
