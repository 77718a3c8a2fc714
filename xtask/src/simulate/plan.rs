//! How large the simulated world is, and its times.

use super::agenda::{MS, SECOND, Time};
use super::mutation::Break;

/// What distinguishes one run from another. The same plan gives the same result.
#[derive(Clone, Debug)]
pub struct Plan {
    pub hosts: u32,
    pub servers: u8,
    pub partitions: u16,
    /// For how long there are new messages, and trouble.
    pub seconds: u64,
    /// New messages of each host in a second.
    pub rate: f64,
    pub seed: u64,
    pub broken: Option<Break>,
}

impl Plan {
    /// As many servers and partitions as so many hosts would have: one server for some hundred hosts, three partitions on each.
    pub fn new(hosts: u32, seconds: u64, seed: u64) -> Self {
        let servers = u8::try_from(hosts / 100).unwrap_or(u8::MAX).clamp(3, 30);
        Self {
            hosts,
            servers,
            partitions: 3 * u16::from(servers),
            seconds,
            rate: 3.0,
            seed,
            broken: None,
        }
    }

    pub fn is_broken(&self, by: Break) -> bool {
        self.broken == Some(by)
    }

    /// When trouble ends.
    pub fn calm_at(&self) -> Time {
        self.seconds * SECOND
    }
}

/// Each partition's copies.
pub const REPLICAS: usize = 3;
/// Servers, and hosts, share the power of a rack.
pub const RACKS: u8 = 3;

/// The cells of a host's queue.
pub const CELLS: u16 = 128;
/// How long the bridge's lease in the host's queue lasts.
pub const LOCAL_LEASE: Time = 5 * SECOND;
/// How many messages a bridge has under way: many, or those for a partition without a leader would hold up all others.
pub const WINDOW: usize = 64;
/// After which a process asks again, perhaps through another server.
pub const PATIENCE: Time = 2 * SECOND;
/// How often a direct sender asks, before it says that it does not know.
pub const TRIES: u8 = 4;

/// How many messages a partition holds.
pub const LIMIT: usize = 256;
/// For how long a partition remembers ids.
pub const DEDUP_WINDOW: Time = 15 * SECOND;
/// How long a worker may take.
pub const ACK_WAIT: Time = 10 * SECOND;
/// By how much a worker's lease is shorter than the server's, so that what it sends at the end arrives in time.
pub const MARGIN: Time = SECOND;
/// How long a pull waits for a message.
pub const PULL: Time = 5 * SECOND;
/// Deliveries of a message before it is buried.
pub const ATTEMPTS: u8 = 5;

pub const HEARTBEAT: Time = SECOND;
/// A replica that heard nothing for this long, and up to as long again, stands for election.
pub const ELECTION: Time = 4 * SECOND;
pub const TICK: Time = 250 * MS;
/// How long a server's latest words may be in its memory only.
pub const SYNC: Time = 10 * SECOND;

/// From a death until the others on the host have noticed it.
pub const NOTICE: Time = MS;
/// After which there is no hope that the world drains.
pub const DRAIN: Time = 600 * SECOND;
