//! The parts of a repetition, and their results.

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::payload::Tally;
use crate::switches::Switches;
use crate::work::{Placement, Role, Times, Work};

/// The queues of a repetition.
pub const THERE: &str = "there";
pub const BACK: &str = "back";

/// One part of a repetition.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Part {
    pub work: Work,
    pub role: Role,
    /// The part's index among all parts, and their number.
    pub index: usize,
    pub count: usize,
    pub placement: Placement,
    pub times: Times,
}

/// The result of a part.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub sent: Tally,
    pub received: Tally,
    /// The number of messages sent in the time that counts.
    pub measured: u64,
    /// The start of that time, and the time when the last message had been received.
    pub began_ns: u64,
    pub ended_ns: u64,
    /// The duration of each round trip.
    pub trip_ns: Option<f64>,
    /// The probes before and after, from the part that leads them.
    pub probes: Option<[f64; 2]>,
    /// The thread's switches during the work.
    #[serde(default)]
    pub switches: Switches,
    /// The processor time of the whole process during the work.
    #[serde(default)]
    pub cpu_ns: u64,
    /// The peak memory of this process, or of one that it started.
    #[serde(default)]
    pub peak_bytes: u64,
}

impl Outcome {
    /// Records the end.
    pub fn ended(mut self) -> Self {
        self.ended_ns = clock::now_ns();
        self
    }
}
