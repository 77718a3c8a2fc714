//! The kinds of work that subjects do while they are measured.

pub mod alone;
pub mod one_way;
pub mod round_trip;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Work {
    /// Some parts send and some receive, as fast as they can. Every message goes to one receiver.
    OneWay {
        senders: usize,
        receivers: usize,
        bytes: usize,
    },
    /// As above with small messages, for a second: what the receivers get, compared with each other.
    Shares { senders: usize, receivers: usize },
    /// One part sends and waits for the answer.
    RoundTrip { manner: Manner },
    /// One process sends and receives in turn: the cost of a message without another core.
    Alone { bytes: usize },
    /// One process opens both ends, sends a message, receives it, and closes, repeatedly.
    Visit,
    /// One process creates a new queue with both ends.
    Create,
    /// One process opens the receiving end of a queue that another handle uses, and closes it.
    Open,
}

/// The way in which the partners of a round trip wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Manner {
    /// With calls that do not block, repeated.
    Spinning,
    /// In the blocking call, with a partner that answers at once.
    Blocking,
    /// In the blocking call, long enough to be asleep whenever the message arrives.
    Asleep,
}

/// The core of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// Each side on a separate core.
    Pinned,
    /// Where the kernel puts it.
    Unpinned,
    /// All sides on one core.
    #[serde(rename = "one core")]
    OneCore,
}

/// The role of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    Sender,
    Receiver,
    /// Starts the round trips.
    Client,
    /// Answers the round trips.
    Server,
    Both,
}

pub const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// The small message: one cache line.
pub const SMALL: usize = 64;
const A_SECOND: Duration = Duration::from_secs(1);
/// The largest message.
pub const LARGE: usize = MIB;

impl Work {
    /// Returns all works with their placements. What a user gets comes first: the kernel places the
    /// sides. A quick run leaves some out.
    pub fn all(quick: bool) -> Vec<(Self, Placement)> {
        let one_way = |senders, receivers, bytes| Self::OneWay {
            senders,
            receivers,
            bytes,
        };
        let shares = |senders, receivers| Self::Shares { senders, receivers };
        let trip = |manner| Self::RoundTrip { manner };
        let mut all = vec![(one_way(1, 1, SMALL), Placement::Unpinned)];
        if !quick {
            all.push((trip(Manner::Blocking), Placement::Unpinned));
        }
        let mut add = |work: Self| all.push((work, work.placement()));
        for bytes in [SMALL, KIB, 64 * KIB, MIB] {
            add(one_way(1, 1, bytes));
        }
        for manner in [Manner::Spinning, Manner::Blocking, Manner::Asleep] {
            add(trip(manner));
        }
        add(one_way(2, 2, SMALL));
        add(one_way(1, 4, SMALL));
        for bytes in [64 * KIB, MIB] {
            add(Self::Alone { bytes });
        }
        for work in [Self::Visit, Self::Create, Self::Open] {
            add(work);
        }
        if !quick {
            add(one_way(4, 4, SMALL));
            add(shares(1, 4));
            add(shares(4, 4));
            for receivers in [16, 64] {
                add(one_way(1, receivers, SMALL));
                add(shares(1, receivers));
            }
            add(one_way(16, 16, SMALL));
            add(Self::Alone { bytes: SMALL });
        }
        all.push((trip(Manner::Blocking), Placement::OneCore));
        all
    }

    /// Returns its name at a placement. The usual placement is not named.
    pub fn title(self, placement: Placement) -> String {
        if placement == self.placement() {
            self.to_string()
        } else {
            format!("{self}, {}", placement.name())
        }
    }

    /// Returns the times of a repetition: the plan's, if the work has none of its own.
    pub fn times(self, plan: Times) -> Times {
        match self {
            _ if matches!(self, Self::Shares { .. }) || self.is_crowded() => Times {
                measured: A_SECOND,
                ..plan
            },
            _ => plan,
        }
    }

    /// Returns the size of a message.
    pub fn bytes(self) -> usize {
        match self {
            Self::OneWay { bytes, .. } | Self::Alone { bytes } => bytes,
            Self::Shares { .. }
            | Self::RoundTrip { .. }
            | Self::Visit
            | Self::Create
            | Self::Open => SMALL,
        }
    }

    /// Returns whether messages go from one side to another, as fast as they can.
    pub fn has_sides(self) -> bool {
        matches!(self, Self::OneWay { .. } | Self::RoundTrip { .. })
    }

    pub fn is_one_way(self) -> bool {
        matches!(self, Self::OneWay { .. })
    }

    /// Returns whether it has so many parts that only some subjects are measured with them.
    pub fn is_crowded(self) -> bool {
        self.roles().len() > 8
    }

    /// Returns whether the work is about creating and opening ends, not about messages.
    pub fn is_opening(self) -> bool {
        matches!(self, Self::Visit | Self::Create | Self::Open)
    }

    /// Returns the number of messages that each subject's queue holds, if the subject lets that be
    /// chosen.
    pub fn capacity(self) -> usize {
        match self.bytes() {
            0..=KIB => 1024,
            bytes => (8 * MIB / bytes).clamp(8, 64),
        }
    }

    /// Returns the roles of the parts. The cores of the first and the last part are probed.
    pub fn roles(self) -> Vec<Role> {
        match self {
            Self::OneWay {
                senders, receivers, ..
            }
            | Self::Shares { senders, receivers } => {
                [vec![Role::Sender; senders], vec![Role::Receiver; receivers]].concat()
            }
            Self::RoundTrip { .. } => vec![Role::Client, Role::Server],
            Self::Alone { .. } | Self::Visit | Self::Create | Self::Open => vec![Role::Both],
        }
    }

    /// Two sides get one core each. With more sides the kernel decides, as in a program.
    pub fn placement(self) -> Placement {
        if self.roles().len() > 2 {
            Placement::Unpinned
        } else {
            Placement::Pinned
        }
    }

    /// Returns the unit of its figures.
    pub fn unit(self) -> Unit {
        match self {
            Self::RoundTrip { .. } | Self::Visit | Self::Create | Self::Open => Unit::Nanoseconds,
            Self::OneWay { .. } | Self::Alone { .. } => Unit::MessagesPerSecond,
            Self::Shares { .. } => Unit::Share,
        }
    }
}

/// The unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Unit {
    MessagesPerSecond,
    Nanoseconds,
    /// A part of what was due: 1 is all of it.
    Share,
    PerSecond,
    Kills,
    Messages,
    Crates,
    WakeUpsPerSecond,
    NanosecondsPerSecond,
    Bytes,
    Number,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Self::MessagesPerSecond => "msg/s",
            Self::Nanoseconds => "ns",
            Self::Share => "share",
            Self::PerSecond => "/s",
            Self::Kills => "kills",
            Self::Messages => "messages",
            Self::Crates => "crates",
            Self::WakeUpsPerSecond => "wake-ups/s",
            Self::NanosecondsPerSecond => "ns/s",
            Self::Bytes => "B",
            Self::Number => "number",
        }
    }
}

/// The times of a repetition's parts.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Times {
    pub warm_up: Duration,
    pub measured: Duration,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OneWay {
                senders,
                receivers,
                bytes,
            } => {
                let crowd = match (self.is_crowded(), senders) {
                    (false, _) => "",
                    (true, 1) => "many receivers, ",
                    (true, _) => "many senders and receivers, ",
                };
                write!(f, "{crowd}{senders}→{receivers} {}", Size(bytes))
            }
            Self::Shares { senders, receivers } => {
                write!(f, "smallest share of a receiver, {senders}→{receivers}")
            }
            Self::RoundTrip { manner } => {
                let manner = match manner {
                    Manner::Spinning => "spinning",
                    Manner::Blocking => "blocking",
                    Manner::Asleep => "asleep",
                };
                write!(f, "round trip {} {manner}", Size(SMALL))
            }
            Self::Alone { bytes } => write!(f, "alone {}", Size(bytes)),
            Self::Visit => write!(f, "open send receive close"),
            Self::Create => write!(f, "create with both ends"),
            Self::Open => write!(f, "open one end and close"),
        }
    }
}

/// A number of bytes, in readable form.
pub struct Size(pub usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= MIB => write!(f, "{} MiB", bytes / MIB),
            bytes if bytes >= KIB => write!(f, "{} KiB", bytes / KIB),
            bytes => write!(f, "{bytes} B"),
        }
    }
}

impl Placement {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Unpinned => "unpinned",
            Self::OneCore => "one core",
        }
    }
}
