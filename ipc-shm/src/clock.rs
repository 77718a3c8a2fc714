//! The two clocks.

use std::time::Duration;

use ipc_proto::Timestamp;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Time since boot, the same for every process of the machine, never set back.
///
/// For leases, delays and beats. Stands still while the machine sleeps.
#[inline]
#[must_use]
pub fn monotonic() -> Duration {
    // Never negative.
    Duration::from_nanos(nanos(clock_gettime(ClockId::Monotonic)))
}

/// The wall clock, to about 4 ms: for people, at a tenth of the price of the exact one.
#[inline]
#[must_use]
pub fn wall() -> Timestamp {
    Timestamp::from_nanos(nanos(clock_gettime(ClockId::RealtimeCoarse)))
}

#[inline]
fn nanos(time: Timespec) -> u64 {
    let seconds = time.tv_sec.cast_unsigned();
    seconds
        .wrapping_mul(1_000_000_000)
        .wrapping_add(time.tv_nsec.cast_unsigned())
}
