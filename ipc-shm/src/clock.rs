//! The two clocks.
//!
//! `CLOCK_MONOTONIC` differs between time namespaces, each of which shifts it. Processes of several
//! namespaces read the times in a segment. So [`monotonic`] removes the shift: it is the clock of
//! the machine's first namespace. `/proc/self/timens_offsets` contains the shift. Each process
//! reads it once. A forked child reads it again, because it may be in another namespace.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ipc_proto::Timestamp;
use rustix::time::{ClockId, Timespec, clock_gettime};
use thiserror::Error;

use crate::fork;

/// The shift of this process's clocks is unknown, so its times mean nothing to other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the shift of this process's clock is unknown, because it called unshare(CLONE_NEWTIME) inside \
     a time namespace: open queues and buffers in a child process instead"
)]
pub struct UnknownClock;

/// Returns the time since boot. It is the same for every process of the machine, in any time
/// namespace, and is never set back.
///
/// For leases, delays and heartbeats. It does not advance while the machine sleeps.
#[inline]
#[must_use]
pub fn monotonic() -> Duration {
    let here = nanos(clock_gettime(ClockId::Monotonic));
    // Never negative, because the machine's own clock is not.
    Duration::from_nanos(here.wrapping_sub(shift()))
}

/// Returns the wall-clock time, to about 4 ms. For people; it costs a tenth of the exact clock.
#[inline]
#[must_use]
pub fn wall() -> Timestamp {
    Timestamp::from_nanos(nanos(clock_gettime(ClockId::RealtimeCoarse)))
}

/// Checks that [`monotonic`] agrees with other processes.
///
/// # Errors
/// [`UnknownClock`].
pub fn check() -> Result<(), UnknownClock> {
    shifts().map(drop)
}

/// Returns `true` if this namespace shifts the times since boot in `/proc`.
pub(crate) fn is_boottime_shifted() -> bool {
    shifts().is_ok_and(|shifts| shifts.boottime != 0)
}

/// Returns how many nanoseconds, wrapping, this namespace's monotonic clock is ahead of the
/// machine's.
#[inline]
fn shift() -> u64 {
    // Written by the first thread that calls this. The kernel zeroes it in a forked child.
    let known = fork::wiped().clock.load(Ordering::Relaxed);
    if known & KNOWN != 0 {
        return known.cast_signed().wrapping_shr(1).cast_unsigned();
    }
    ask()
}

/// The lowest bit of the word that holds the shift: set once the shift is known. The other 63 bits
/// hold the shift, up to 146 years in either direction.
const KNOWN: u64 = 1;

#[cold]
fn ask() -> u64 {
    let shift = shifts().map_or(0, |shifts| shifts.monotonic);
    let word = shift.wrapping_shl(1).cast_unsigned() | KNOWN;
    fork::wiped().clock.store(word, Ordering::Relaxed);
    shift.cast_unsigned()
}

/// The number of nanoseconds by which the clocks of a time namespace are ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shifts {
    monotonic: i64,
    boottime: i64,
}

/// Reads the shifts of this process's namespace.
fn shifts() -> Result<Shifts, UnknownClock> {
    let inode = |name: &str| fs::metadata(format!("/proc/self/ns/{name}")).map(|data| data.ino());
    // `timens_offsets` describes the namespace of future children.
    match (inode("time"), inode("time_for_children")) {
        (Ok(FIRST_NAMESPACE), _) => return Ok(Shifts::default()),
        (Ok(ours), Ok(childrens)) if ours != childrens => return Err(UnknownClock),
        _ => {}
    }
    // Without the file, the kernel has no time namespaces, or `/proc` is not mounted.
    let text = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    Ok(parse(&text))
}

/// `PROC_TIME_INIT_INO` of the kernel: the inode of the machine's first time namespace.
const FIRST_NAMESPACE: u64 = 0xEFFF_FFFA;

/// Parses lines that consist of a clock's name, seconds and nanoseconds.
fn parse(text: &str) -> Shifts {
    let of = |clock: &str| -> Option<i64> {
        let mut words = text
            .lines()
            .map(str::split_whitespace)
            .find_map(|mut words| (words.next() == Some(clock)).then_some(words))?;
        let seconds: i64 = words.next()?.parse().ok()?;
        let nanos: i64 = words.next()?.parse().ok()?;
        seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
    };
    Shifts {
        monotonic: of("monotonic").unwrap_or(0),
        boottime: of("boottime").unwrap_or(0),
    }
}

#[inline]
fn nanos(time: Timespec) -> u64 {
    let seconds = time.tv_sec.cast_unsigned();
    seconds
        .wrapping_mul(1_000_000_000)
        .wrapping_add(time.tv_nsec.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positive_and_negative_shifts_are_parsed() {
        let text = "monotonic           7 500000000\nboottime     -1000000         0\n";
        let shifts = parse(text);
        assert_eq!(shifts.monotonic, 7_500_000_000);
        assert_eq!(shifts.boottime, -1_000_000_000_000_000);
        assert_eq!(parse(""), Shifts::default());
    }
}
