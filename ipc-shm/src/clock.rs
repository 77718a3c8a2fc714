//! The two clocks.
//!
//! `CLOCK_MONOTONIC` is not the same number everywhere: a time namespace shifts it. Times in a
//! segment are read by processes of other namespaces, so [`monotonic`] takes the shift out again:
//! it is the clock of the machine's first namespace. `/proc/self/timens_offsets` says what the
//! shift is. It is asked once in each process, and again in each forked child, which may be in
//! another namespace.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ipc_proto::Timestamp;
use rustix::time::{ClockId, Timespec, clock_gettime};
use thiserror::Error;

use crate::fork;

/// The shift of this process's clocks is not known, so its times mean nothing to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "this process called unshare(CLONE_NEWTIME) inside a time namespace, so the shift of its own clock can't be read: \
     open queues and buffers in a child of it instead"
)]
pub struct UnknownClock;

/// Time since boot, the same for every process of the machine in whatever time namespace, never set
/// back.
///
/// For leases, delays and beats. Stands still while the machine sleeps.
#[inline]
#[must_use]
pub fn monotonic() -> Duration {
    let here = nanos(clock_gettime(ClockId::Monotonic));
    // Never negative: the machine's own clock is not.
    Duration::from_nanos(here.wrapping_sub(shift()))
}

/// The wall clock, to about 4 ms: for people, at a tenth of the price of the exact one.
#[inline]
#[must_use]
pub fn wall() -> Timestamp {
    Timestamp::from_nanos(nanos(clock_gettime(ClockId::RealtimeCoarse)))
}

/// Fails where [`monotonic`] would not agree with other processes.
///
/// # Errors
/// [`UnknownClock`].
pub fn check() -> Result<(), UnknownClock> {
    shifts().map(drop)
}

/// Whether times since boot that `/proc` gives are those of the machine's first namespace.
pub(crate) fn is_boottime_shifted() -> bool {
    shifts().is_ok_and(|shifts| shifts.boottime != 0)
}

/// By how many nanoseconds, wrapping, this namespace's monotonic clock is ahead of the machine's.
#[inline]
fn shift() -> u64 {
    // Written by whichever thread asks first; zero in a forked child, by the kernel.
    let known = fork::wiped().clock.load(Ordering::Relaxed);
    if known & KNOWN != 0 {
        return known.cast_signed().wrapping_shr(1).cast_unsigned();
    }
    ask()
}

/// In the word that keeps the shift, below it: it was asked for. Sixty-three bits are 146 years
/// either way.
const KNOWN: u64 = 1;

#[cold]
fn ask() -> u64 {
    let shift = shifts().map_or(0, |shifts| shifts.monotonic);
    let word = shift.wrapping_shl(1).cast_unsigned() | KNOWN;
    fork::wiped().clock.store(word, Ordering::Relaxed);
    shift.cast_unsigned()
}

/// By how many nanoseconds the clocks of a time namespace are ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shifts {
    monotonic: i64,
    boottime: i64,
}

/// The shifts of this process's namespace.
fn shifts() -> Result<Shifts, UnknownClock> {
    let inode = |name: &str| fs::metadata(format!("/proc/self/ns/{name}")).map(|data| data.ino());
    // The file is about the namespace that children will be in.
    match (inode("time"), inode("time_for_children")) {
        (Ok(FIRST_NAMESPACE), _) => return Ok(Shifts::default()),
        (Ok(ours), Ok(childrens)) if ours != childrens => return Err(UnknownClock),
        _ => {}
    }
    // Not there: the kernel has no time namespaces, or `/proc` is not mounted.
    let text = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    Ok(parse(&text))
}

/// `PROC_TIME_INIT_INO` of the kernel: the inode of the machine's first time namespace.
const FIRST_NAMESPACE: u64 = 0xEFFF_FFFA;

/// Lines of a clock's name, seconds, nanoseconds.
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
    fn shifts_are_read_with_their_signs() {
        let text = "monotonic           7 500000000\nboottime     -1000000         0\n";
        let shifts = parse(text);
        assert_eq!(shifts.monotonic, 7_500_000_000);
        assert_eq!(shifts.boottime, -1_000_000_000_000_000);
        assert_eq!(parse(""), Shifts::default());
    }
}
