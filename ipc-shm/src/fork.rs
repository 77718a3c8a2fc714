//! Detects that this process is a copy made by `fork`.
//!
//! A forked child inherits its parent's mappings and open files, and with them the ability to act
//! as the parent's participant: two processes with one identity. One page that the kernel wipes in
//! the child (`MADV_WIPEONFORK`, Linux 4.14) tells them apart. Checking it costs one load, and any
//! kind of fork is detected.
//!
//! The kernel may refuse that page (a seccomp filter, an emulated kernel). Then a handler of the C
//! library zeroes the same words in the child (`pthread_atfork`). That works for the library's own
//! `fork`, but not for a bare `clone`.
//!
//! This module prevents nothing: the owner of a generation has to compare it.

use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// A number that stays the same for the life of this process and differs in each forked child.
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
    /// Returns this process's generation.
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
        // This is the first call in this process, or the first since it was forked. A child's
        // counter is a copy of its parent's, so no ancestor of it used the next number.
        let next = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        // Success: this thread set the number. Failure: another thread set it first, and its number
        // counts.
        let number = marker
            .compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed)
            .map_or_else(|first| first, |_| next);
        Self { number, marker }
    }

    /// Returns `true` if this process is still the one that took the generation.
    #[inline]
    #[must_use]
    pub fn is_current(self) -> bool {
        self.marker.load(Ordering::Relaxed) == self.number
    }
}

/// A right that belongs to one process until that process gives it up. A forked child does not have
/// it.
#[derive(Debug)]
pub(crate) struct Tenure {
    since: Generation,
    /// The generation's number, or [`GIVEN_UP`]. Written by the thread that gives the right up,
    /// read by all threads of this process.
    number: AtomicU64,
}

/// A number that no generation has.
const GIVEN_UP: u64 = u64::MAX;

impl Tenure {
    /// Creates a right that this process holds from now on.
    pub(crate) fn current() -> Self {
        let since = Generation::current();
        Self {
            since,
            number: AtomicU64::new(since.number),
        }
    }

    /// Returns `true` if this process created the right and still holds it. As cheap as
    /// [`Generation::is_current`].
    #[inline]
    pub(crate) fn is_held(&self) -> bool {
        self.since.marker.load(Ordering::Relaxed) == self.number.load(Ordering::Relaxed)
    }

    /// Returns `true` if this process created the right.
    pub(crate) fn is_this_process(&self) -> bool {
        self.since.is_current()
    }

    /// Gives the right up for good. Returns `true` if it was held until now.
    pub(crate) fn give_up(&self) -> bool {
        self.number.swap(GIVEN_UP, Ordering::SeqCst) != GIVEN_UP
    }
}

/// The last generation number given out in this process or an ancestor. Counted up by
/// `Generation::current`.
static LAST: AtomicU64 = AtomicU64::new(0);
static WORDS: OnceLock<&'static Wiped> = OnceLock::new();

/// Words that are zero in a forked child until the child writes them.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Wiped {
    /// Written by [`Generation::current`] only.
    generation: AtomicU64,
    /// The shift of this process's clock. Only the module `clock` writes it.
    pub(crate) clock: AtomicU64,
}

pub(crate) fn wiped() -> &'static Wiped {
    WORDS.get_or_init(|| wiped_page().unwrap_or_else(wiped_by_handler))
}

fn marker() -> &'static AtomicU64 {
    &wiped().generation
}

/// Returns `None` if the kernel refuses the page.
fn wiped_page() -> Option<&'static Wiped> {
    const PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new private anonymous mapping at an address chosen by the kernel affects no other
    // memory.
    let page = unsafe { mmap_anonymous(None, PAGE, protection, MapFlags::MAP_PRIVATE) }.ok()?;
    // SAFETY: the page was mapped by the line above. Wiping it in a child is its purpose.
    if unsafe { madvise(page, PAGE.get(), MmapAdvise::MADV_WIPEONFORK) }.is_err() {
        // SAFETY: mapped above, and no other code knows it.
        let _ = unsafe { munmap(page, PAGE.get()) };
        return None;
    }
    // SAFETY: page-aligned, zeroed, never unmapped, and only accessed through this reference.
    Some(unsafe { page.cast::<Wiped>().as_ref() })
}

/// Returns the same words, wiped by a handler of the C library.
fn wiped_by_handler() -> &'static Wiped {
    static FALLBACK: Wiped = Wiped {
        generation: AtomicU64::new(0),
        clock: AtomicU64::new(0),
    };
    extern "C" fn wipe() {
        FALLBACK.generation.store(0, Ordering::Relaxed);
        FALLBACK.clock.store(0, Ordering::Relaxed);
    }
    // SAFETY: the handler stores two atomics, which is allowed in a forked child. It is never
    // unloaded.
    let registered = unsafe { pthread_atfork(None, None, Some(wipe)) };
    // There is no memory for one handler, so a forked child could not be told from its parent.
    assert_eq!(registered, 0, "pthread_atfork failed: out of memory");
    &FALLBACK
}

// SAFETY: the declaration matches POSIX.
unsafe extern "C" {
    fn pthread_atfork(
        prepare: Option<extern "C" fn()>,
        parent: Option<extern "C" fn()>,
        child: Option<extern "C" fn()>,
    ) -> libc::c_int;
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    use super::*;
    use crate::liveness::ProcessIdentity;

    #[test]
    fn a_forked_child_has_another_generation_and_its_parent_keeps_its_own() {
        let ours = Generation::current();
        assert!(ours.is_current());
        assert_eq!(ours, Generation::current());
        let known = ProcessIdentity::current();
        assert_eq!(known.pid, std::process::id());
        // SAFETY: the child loads and stores atomics, allocates, which the C library allows, and
        // leaves by `_exit`.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let stale = !ours.is_current();
                let renewed = Generation::current() != ours && Generation::current().is_current();
                let named = ProcessIdentity::current();
                let own = named.pid == std::process::id() && named.pid != known.pid;
                // SAFETY: ends the child at once and runs none of the parent's clean-up.
                unsafe { libc::_exit(i32::from(!(stale && renewed && own))) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
            }
        }
        assert!(ours.is_current());
    }
}
