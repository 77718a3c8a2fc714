//! The two clocks.

use std::time::Duration;

use ipc_proto::Timestamp;

/// Time since boot, the same for every process of the machine, never set back.
///
/// For leases, delays and beats. Stands still while the machine sleeps.
#[must_use]
pub fn monotonic() -> Duration {
    read(libc::CLOCK_MONOTONIC)
}

/// The wall clock, to about 4 ms: for people, at a fifth of the price of the exact one.
#[inline]
#[must_use]
pub fn wall() -> Timestamp {
    let now = gettime(libc::CLOCK_REALTIME_COARSE);
    let seconds = now.tv_sec.cast_unsigned();
    Timestamp::from_nanos(seconds.wrapping_mul(1_000_000_000) + now.tv_nsec.cast_unsigned())
}

fn read(clock: libc::clockid_t) -> Duration {
    let now = gettime(clock);
    Duration::new(now.tv_sec.cast_unsigned(), now.tv_nsec as u32)
}

/// Without checks: both clocks exist on every Linux.
#[inline]
fn gettime(clock: libc::clockid_t) -> libc::timespec {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a live place for the result.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now
}
