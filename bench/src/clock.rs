//! Time with the same meaning in every process.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Returns the nanoseconds since a fixed moment before the run.
#[inline]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has this clock");
    u64::try_from(Duration::from(now).as_nanos()).expect("centuries to go")
}

/// Returns the processor time of this process so far, with all its threads.
pub fn cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("Linux has this clock");
    u64::try_from(Duration::from(now).as_nanos()).expect("centuries to go")
}

/// Ends a measurement after a fixed time, and reads the clock rarely.
#[derive(Debug)]
pub struct Pacer {
    end_ns: u64,
    read_at_ns: u64,
    burst: u32,
}

/// The target duration of a burst: long compared with reading the clock, short compared with the
/// measurement.
const BURST_NS: u64 = 20_000;

impl Pacer {
    pub fn new(time: Duration) -> Self {
        let now = now_ns();
        Self {
            end_ns: now + u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2),
            read_at_ns: now,
            burst: 1,
        }
    }

    /// Returns the number of operations until the next call; 0 when the time is over.
    pub fn burst(&mut self) -> u32 {
        let now = now_ns();
        if now >= self.end_ns {
            return 0;
        }
        let took = now - std::mem::replace(&mut self.read_at_ns, now);
        if took < BURST_NS {
            self.burst = (self.burst * 2).min(1 << 14);
        } else if took > 4 * BURST_NS {
            self.burst = (self.burst / 2).max(1);
        }
        self.burst
    }
}
