//! Notices that this process is a copy made by `fork`.
//!
//! A forked child inherits its parent's mappings and open files, and with them the right to act as the
//! parent's participant: two processes with one identity. One page that the kernel wipes in the child
//! (`MADV_WIPEONFORK`, Linux 4.14) tells them apart at the price of one load, whoever forked and however.
//! Does not prevent anything: whoever holds a generation compares it.

use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};

/// A number that is the same for the life of this process, and another in each forked child.
#[derive(Clone, Copy, Debug)]
pub struct Generation {
    number: u64,
    marker: &'static AtomicU64,
}

impl PartialEq for Generation {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Generation {
    /// This process's generation.
    #[must_use]
    pub fn current() -> Self {
        let marker = marker();
        let seen = marker.load(Ordering::Relaxed);
        if seen != 0 {
            return Self {
                number: seen,
                marker,
            };
        }
        // First call in this process, or first since it was forked: the counter was copied from the
        // parent, so the next number was never used by an ancestor.
        let next = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        let number = marker
            .compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed)
            .map_or_else(|first| first, |_| next);
        Self { number, marker }
    }

    /// Whether this process is still the one that took the generation.
    #[inline]
    #[must_use]
    pub fn is_current(self) -> bool {
        self.marker.load(Ordering::Relaxed) == self.number
    }
}

static LAST: AtomicU64 = AtomicU64::new(0);
static MARKER: OnceLock<&'static AtomicU64> = OnceLock::new();

/// Written by `current` only; read everywhere; zeroed by the kernel in a forked child.
fn marker() -> &'static AtomicU64 {
    MARKER.get_or_init(wiped_page)
}

fn wiped_page() -> &'static AtomicU64 {
    const PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new private anonymous mapping at an address of the kernel's choice touches nothing else.
    let page = unsafe { mmap_anonymous(None, PAGE, protection, MapFlags::MAP_PRIVATE) }
        .expect("one page of memory");
    // SAFETY: the page was mapped by the line above; wiping it in a child is what it is for.
    unsafe { madvise(page, PAGE.get(), MmapAdvise::MADV_WIPEONFORK) }
        .expect("MADV_WIPEONFORK, in Linux since 4.14");
    // SAFETY: page-aligned, zeroed, never unmapped, and reached through this reference alone.
    unsafe { page.cast::<AtomicU64>().as_ref() }
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    use super::*;
    use crate::liveness::ProcessIdentity;

    #[test]
    fn a_forked_child_is_another_generation_and_its_parent_is_not() {
        let ours = Generation::current();
        assert!(ours.is_current());
        assert_eq!(ours, Generation::current());
        let known = ProcessIdentity::current();
        assert_eq!(known.pid, std::process::id());
        // SAFETY: the child loads and stores atomics, allocates, which the C library allows it, and leaves by `_exit`.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let stale = !ours.is_current();
                let renewed = Generation::current() != ours && Generation::current().is_current();
                let named = ProcessIdentity::current();
                let own = named.pid == std::process::id() && named.pid != known.pid;
                // SAFETY: ends the child at once, running none of the parent's clean-up.
                unsafe { libc::_exit(i32::from(!(stale && renewed && own))) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
            }
        }
        assert!(ours.is_current());
    }
}
