//! The distance between the cores of the two sides: one cache line, bounced for 10 ms.
//!
//! On a virtual machine the host moves the cores. Everything measured between two processes changes
//! with their distance, severalfold. So each repetition is probed before and after, and only
//! repetitions at the same distance are compared.

use std::hint;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::clock::now_ns;

/// The distance between two cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distance {
    Near,
    Far,
    /// The distance changed during the repetition, which is dropped.
    Mixed,
    /// The repetition used only one core.
    None,
}

/// A longer round trip counts as far.
const FAR_NS: f64 = 300.0;
const TIME_NS: u64 = 10_000_000;
const TRIPS: u64 = 32;
/// The leader's end mark. Odd numbers are the leader's, even ones the follower's.
const OVER: u64 = u64::MAX;

impl Distance {
    /// Returns the distance that two probes show.
    pub fn of(probes: [f64; 2]) -> Self {
        match probes.map(|trip| trip < FAR_NS) {
            [true, true] => Self::Near,
            [false, false] => Self::Far,
            _ => Self::Mixed,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Far => "far",
            Self::Mixed => "mixed",
            Self::None => "none",
        }
    }
}

/// Bounces the line with a follower. Returns the median round trip in nanoseconds.
pub fn lead(line: &AtomicU64) -> f64 {
    let end = now_ns() + TIME_NS;
    let mut trips = Vec::with_capacity(4096);
    let mut number = 0;
    let mut before = now_ns();
    while before < end {
        for _ in 0..TRIPS {
            line.store(number + 1, Ordering::Release);
            number += 2;
            while line.load(Ordering::Acquire) != number {
                hint::spin_loop();
            }
        }
        let now = now_ns();
        trips.push((now - before) as f64 / TRIPS as f64);
        before = now;
    }
    line.store(OVER, Ordering::Release);
    crate::statistics::median(&mut trips)
}

/// Bounces the line back until the leader ends the probe. The line is then zero again.
pub fn follow(line: &AtomicU64) {
    loop {
        match line.load(Ordering::Acquire) {
            OVER => break,
            number if number % 2 == 1 => line.store(number + 1, Ordering::Release),
            _ => hint::spin_loop(),
        }
    }
    line.store(0, Ordering::Release);
}
