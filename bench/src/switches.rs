//! What the scheduler did with a thread: the kernel's own counts.

use std::ops::{Add, Sub};

use anyhow::Result;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};

/// Counts of a thread, or of several together.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Switches {
    /// The number of times that it slept.
    pub sleeps: i64,
    /// The number of times that it yielded to another thread, or was made to.
    pub yields: i64,
    /// The number of times that it continued on another core. Zero if the kernel does not tell.
    pub moves: i64,
    /// Time on a core, and the part of it within the kernel.
    pub busy_us: i64,
    pub kernel_us: i64,
}

impl Switches {
    /// Returns the counts of the calling thread so far.
    pub fn until_now() -> Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
        let kernel_us = usage.system_time().num_microseconds();
        Ok(Self {
            sleeps: usage.voluntary_context_switches(),
            yields: usage.involuntary_context_switches(),
            moves: moves().unwrap_or(0),
            busy_us: usage.user_time().num_microseconds() + kernel_us,
            kernel_us,
        })
    }
}

/// Returns how often the thread was moved. Not every kernel has the file.
fn moves() -> Option<i64> {
    let text = std::fs::read_to_string("/proc/thread-self/sched").ok()?;
    let line = text
        .lines()
        .find(|line| line.starts_with("se.nr_migrations"))?;
    line.rsplit(' ').next()?.parse().ok()
}

impl Add for Switches {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            sleeps: self.sleeps + other.sleeps,
            yields: self.yields + other.yields,
            moves: self.moves + other.moves,
            busy_us: self.busy_us + other.busy_us,
            kernel_us: self.kernel_us + other.kernel_us,
        }
    }
}

impl Sub for Switches {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            sleeps: self.sleeps - other.sleeps,
            yields: self.yields - other.yields,
            moves: self.moves - other.moves,
            busy_us: self.busy_us - other.busy_us,
            kernel_us: self.kernel_us - other.kernel_us,
        }
    }
}
