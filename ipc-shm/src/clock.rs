//! The two clocks.

use std::time::Duration;

use ipc_proto::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// Time since boot, the same for every process of the machine, never set back.
///
/// For leases, delays and beats. Stands still while the machine sleeps.
#[must_use]
pub fn monotonic() -> Duration {
    read(ClockId::CLOCK_MONOTONIC)
}

/// The wall clock, to about 4 ms: for people, at a fifth of the price of the exact one.
#[must_use]
pub fn wall() -> Timestamp {
    let now = read(ClockId::CLOCK_REALTIME_COARSE);
    Timestamp::from_nanos(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

fn read(clock: ClockId) -> Duration {
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}
