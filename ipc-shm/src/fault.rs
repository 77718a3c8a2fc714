//! Survives the truncation of a file while it is mapped.
//!
//! Touching a page that the file no longer has makes the kernel send SIGBUS. By default that ends
//! the process. So the first mapping installs a signal handler. If the address lies in one of our
//! mappings, the handler replaces the *whole* mapping by private zeroes. It does so in one step,
//! with a mark already in the zeroes, and then lets the instruction run again. From then on this
//! process neither sees nor changes the shared memory, and code that reads the marked word detects
//! that.
//!
//! The handler replaces the whole mapping rather than one page. Memory that is half old and half
//! zero is a state that no algorithm expects, and a thread could continue in it without meeting the
//! mark.
//!
//! Every other SIGBUS goes to the previously installed handler, or takes its default action. A
//! program may install its own handler later. That handler passes on unknown signals, as handlers
//! do, or calls [`handle`]. A program that wants none of this calls [`opt_out`] first. The kernel
//! kills a thread that blocks SIGBUS.
//!
//! The handler runs between any two instructions of any thread. So it takes no lock and allocates
//! nothing. It finds the mappings in a list whose entries are reused but never freed.
//!
//! This module does not detect the truncation of untouched pages, and reports nothing: see
//! `Segment::check_file`.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};

use nix::errno::Errno;

/// The word that tells replacement zeroes from the original mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Its offset in the mapping, a multiple of 8.
    pub offset: usize,
    /// Its value.
    pub value: u64,
}

/// Protects a mapping until it is dropped. It must be dropped before the mapping.
#[derive(Debug)]
pub(crate) struct Protection(&'static Entry);

/// Leaves every SIGBUS to the application. Truncating the file of a segment then ends this process,
/// unless the application's handler calls [`handle`].
///
/// Call it before the first segment is opened. Returns `false` if that was too late; the handler
/// then stays.
pub fn opt_out() -> bool {
    OPTED_OUT.store(true, Ordering::SeqCst);
    INSTALLED.get().is_none()
}

/// Handles a fault at `address` if that lies in a segment. For an application's own SIGBUS handler:
/// `address` is `si_addr`, and `si_code` must be `BUS_ADRERR`. If it returns `true`, return from
/// the handler, and the program continues.
///
/// Safe to call in a signal handler, and harmless for every address that did fault.
#[must_use]
pub fn handle(address: *const c_void) -> bool {
    let found = entries().find_map(|entry| entry.range_around(address.addr()));
    found.is_some_and(|range| range.replace())
}

/// Protects the `len` bytes mapped at `start`. The first call installs the handler.
///
/// # Safety
/// The bytes stay mapped until the protection is dropped. Nothing may rely on their values: at any
/// moment they may be replaced by zeroes and the mark.
pub(crate) unsafe fn protect(start: NonNull<u8>, len: usize, mark: Option<Mark>) -> Protection {
    if !OPTED_OUT.load(Ordering::SeqCst) {
        install();
    }
    let range = Range {
        start: start.addr().get(),
        len,
        mark,
    };
    let entry = entries().find(|entry| entry.take(range));
    Protection(entry.unwrap_or_else(|| push(range)))
}

impl Drop for Protection {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// An address range that one of our mappings occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: usize,
    len: usize,
    mark: Option<Mark>,
}

impl Range {
    /// Replaces the range by zeroes. Runs in a signal handler, so it uses system calls only.
    fn replace(&self) -> bool {
        let (access, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            // Not reserved, because hardly any of it will be touched.
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        );
        // SAFETY: a new mapping at an address chosen by the kernel affects no other memory.
        let zeroes = unsafe { libc::mmap(ptr::null_mut(), self.len, access, kind, -1, 0) };
        if zeroes == libc::MAP_FAILED {
            return false;
        }
        if let Some(mark) = self.mark {
            // SAFETY: `protect` is given marks inside their mapping, and this mapping has the same
            // length.
            let word = unsafe { zeroes.byte_add(mark.offset) }.cast::<AtomicU64>();
            // SAFETY: mapped above; 8-aligned, because the page and the offset are; not known to
            // other code yet.
            let word = unsafe { &*word };
            word.store(mark.value, Ordering::SeqCst);
        }
        let there = ptr::with_exposed_provenance_mut::<c_void>(self.start);
        let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: this unmaps one of our mappings, whose bytes may become zero at any moment
        // (promised to `protect`). No access to it fails, before or after. It happens in one step,
        // so no other thread finds the range unmapped, or zero without the mark.
        let moved = unsafe { libc::mremap(zeroes, self.len, self.len, how, there) };
        if moved == libc::MAP_FAILED {
            // SAFETY: mapped above, not moved, and not known to other code.
            let _ = unsafe { libc::munmap(zeroes, self.len) };
            return false;
        }
        true
    }
}

/// A protected range, or a free entry. Never freed.
#[derive(Debug)]
struct Entry {
    /// Odd while the other fields change. Written by the thread that takes or releases the entry. A
    /// signal handler that reads an odd version, or a changed one, ignores the entry: the range in
    /// which it faulted cannot change meanwhile.
    version: AtomicU64,
    /// 0 in a free entry.
    start: AtomicUsize,
    len: AtomicUsize,
    mark_offset: AtomicUsize,
    /// 0 if there is no mark.
    mark_value: AtomicU64,
    /// The next older entry. Written by `push` before it publishes this entry.
    next: AtomicPtr<Entry>,
}

impl Entry {
    const fn new() -> Self {
        Self {
            version: AtomicU64::new(0),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            mark_offset: AtomicUsize::new(0),
            mark_value: AtomicU64::new(0),
            next: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Takes the entry if it is free.
    fn take(&self, range: Range) -> bool {
        let version = self.version.load(Ordering::SeqCst);
        let free = version.is_multiple_of(2) && self.start.load(Ordering::SeqCst) == 0;
        // Success: the version is odd, so this thread alone may change the fields.
        let changed = |_| self.change(version + 1, range);
        // Failure: another thread changed the entry since the load. The caller tries another one.
        free && self
            .version
            .compare_exchange(version, version + 1, Ordering::SeqCst, Ordering::SeqCst)
            .map(changed)
            .is_ok()
    }

    /// Releases the entry. Only its owner may call this.
    fn release(&self) {
        let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
        let free = Range {
            start: 0,
            len: 0,
            mark: None,
        };
        self.change(version, free);
    }

    /// Writes the fields. Only the thread that made the version odd, with the value `odd`, may call
    /// this.
    fn change(&self, odd: u64, range: Range) {
        let mark = range.mark.unwrap_or(NO_MARK);
        self.start.store(range.start, Ordering::SeqCst);
        self.len.store(range.len, Ordering::SeqCst);
        self.mark_offset.store(mark.offset, Ordering::SeqCst);
        self.mark_value.store(mark.value, Ordering::SeqCst);
        self.version.store(odd + 1, Ordering::SeqCst);
    }

    /// Returns the entry's range, if `address` lies in it.
    fn range_around(&self, address: usize) -> Option<Range> {
        let version = self.version.load(Ordering::SeqCst);
        let mark = Mark {
            offset: self.mark_offset.load(Ordering::SeqCst),
            value: self.mark_value.load(Ordering::SeqCst),
        };
        let range = Range {
            start: self.start.load(Ordering::SeqCst),
            len: self.len.load(Ordering::SeqCst),
            mark: (mark != NO_MARK).then_some(mark),
        };
        // Keeps the second read of the version after the reads of the fields.
        fence(Ordering::SeqCst);
        let unchanged = version.is_multiple_of(2) && self.version.load(Ordering::SeqCst) == version;
        let inside = address.checked_sub(range.start)? < range.len;
        (unchanged && inside).then_some(range)
    }
}

const NO_MARK: Mark = Mark {
    offset: 0,
    value: 0,
};

/// The newest entry; each entry points to the next older one. Written by `push`, whose store
/// publishes a new entry.
static NEWEST: AtomicPtr<Entry> = AtomicPtr::new(ptr::null_mut());

fn entries() -> impl Iterator<Item = &'static Entry> {
    let entry = |at: &AtomicPtr<Entry>| {
        // SAFETY: null, or a leaked box that is never freed and only ever shared.
        unsafe { at.load(Ordering::SeqCst).as_ref() }
    };
    std::iter::successors(entry(&NEWEST), move |last| entry(&last.next))
}

fn push(range: Range) -> &'static Entry {
    let fresh: &'static Entry = Box::leak(Box::new(Entry::new()));
    fresh.take(range);
    loop {
        let newest = NEWEST.load(Ordering::SeqCst);
        fresh.next.store(newest, Ordering::SeqCst);
        let at = ptr::from_ref(fresh).cast_mut();
        // Success: the entry is in the list. Failure: another thread pushed first, so link to its
        // entry.
        let pushed = NEWEST.compare_exchange(newest, at, Ordering::SeqCst, Ordering::SeqCst);
        if pushed.is_ok() {
            return fresh;
        }
    }
}

// --- The signal ---

static OPTED_OUT: AtomicBool = AtomicBool::new(false);
static INSTALLED: OnceLock<()> = OnceLock::new();
/// The previous action for SIGBUS. Set before our handler is installed.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

fn install() {
    INSTALLED.get_or_init(|| {
        let mut before = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: only queries, and writes to `before`, which has the right size.
        let asked = unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), before.as_mut_ptr()) };
        if asked != 0 {
            return;
        }
        // SAFETY: the kernel has just filled it in.
        let before = unsafe { before.assume_init() };
        PREVIOUS.get_or_init(|| before);
        // SAFETY: all zeroes is a valid value of this plain C structure.
        let mut ours = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
        let handler: Handler = on_bus_error;
        ours.sa_sigaction = handler as usize;
        // The alternative stack is used if the thread has one: a handler that ours forwards to
        // needs it to report a stack overflow.
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        // SAFETY: the handler has the signature that SA_SIGINFO requires, and does only what a
        // handler may do.
        let _ = unsafe { libc::sigaction(libc::SIGBUS, &raw const ours, ptr::null_mut()) };
    });
}

type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // The interrupted code may be about to read its own `errno`.
    let errno = Errno::last_raw();
    // SAFETY: the kernel passes a valid structure to a handler with SA_SIGINFO, and so does a
    // handler that forwards to ours.
    let facts = unsafe { &*info };
    // SAFETY: a signal with this code was sent by the kernel and has an address.
    let address = || unsafe { facts.si_addr() };
    if facts.si_code != libc::BUS_ADRERR || !handle(address()) {
        pass_on(signal, info, context, facts.si_code);
    }
    Errno::set_raw(errno);
}

/// Does what would have happened without our handler.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void, code: c_int) {
    let previous = PREVIOUS.get();
    let action = previous.map_or(libc::SIG_DFL, |previous| previous.sa_sigaction);
    let with_facts = previous.is_some_and(|previous| previous.sa_flags & libc::SA_SIGINFO != 0);
    // The signal was sent by a process. It was not caused by an instruction that would fail again.
    let was_sent = code <= 0;
    match action {
        libc::SIG_IGN if was_sent => {}
        libc::SIG_IGN | libc::SIG_DFL => {
            // SAFETY: installs the default action, which runs no code of ours.
            let _ = unsafe { libc::signal(signal, libc::SIG_DFL) };
            if was_sent {
                // SAFETY: the signal is delivered when the handler returns, and ends the process.
                let _ = unsafe { libc::raise(signal) };
            }
        }
        handler if with_facts => {
            // SAFETY: installed with SA_SIGINFO, so it is a function with this signature.
            let handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: installed without SA_SIGINFO, so it is a function with this signature.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(c_int)>(handler) };
            handler(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;
    use std::thread;

    use nix::sys::signal::Signal;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    use super::*;
    use crate::mapping::Mapping;

    const PAGE: usize = 4096;
    const MARK: Mark = Mark {
        offset: 64,
        value: 7,
    };

    fn mapped(pages: usize) -> (File, Arc<Mapping>) {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len((pages * PAGE) as u64).unwrap();
        let mapping = Mapping::marked(&file, pages * PAGE, MARK).unwrap();
        (file, mapping)
    }

    fn load(mapping: &Mapping, offset: usize) -> u64 {
        mapping.word(offset).unwrap().load(Ordering::SeqCst)
    }

    #[test]
    fn touching_a_missing_page_replaces_the_whole_mapping_by_marked_zeroes() {
        let (file, mapping) = mapped(3);
        mapping.word(8).unwrap().store(5, Ordering::SeqCst);
        file.set_len(PAGE as u64).unwrap();
        // The missing pages were not touched, so nothing is noticed.
        assert_eq!((load(&mapping, 8), load(&mapping, 64)), (5, 0));
        assert_eq!(load(&mapping, 2 * PAGE), 0);
        assert_eq!((load(&mapping, 8), load(&mapping, 64)), (0, 7));
        // From now on the memory is private to this process, and complete.
        mapping.word(8).unwrap().store(6, Ordering::SeqCst);
        mapping.word(PAGE + 8).unwrap().store(6, Ordering::SeqCst);
        let other = Mapping::new(&file, PAGE).unwrap();
        assert_eq!(load(&other, 8), 5);
    }

    #[test]
    fn threads_that_fault_at_the_same_time_all_continue() {
        for _ in 0..50 {
            let (file, mapping) = mapped(16);
            file.set_len(0).unwrap();
            thread::scope(|scope| {
                for page in 0..8 {
                    let mapping = &mapping;
                    scope.spawn(move || {
                        assert_eq!(load(mapping, page * 2 * PAGE), 0);
                        assert_eq!(load(mapping, MARK.offset), MARK.value);
                    });
                }
            });
        }
    }

    #[test]
    fn entries_of_dropped_mappings_are_reused() {
        for _ in 0..1000 {
            drop(mapped(1));
        }
        // Other tests have entries of their own.
        assert!(entries().count() < 200, "{}", entries().count());
    }

    /// Runs `act` in a forked copy of this process. Returns how the copy ended.
    fn end_of(act: impl FnOnce()) -> WaitStatus {
        // SAFETY: the child uses existing memory and system calls only, then leaves by `_exit`.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                act();
                // SAFETY: ends the child at once and runs none of the parent's clean-up.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
                WaitStatus::Signaled(_, signal, _) => WaitStatus::Signaled(child, signal, false),
                other => other,
            },
        }
    }

    fn is_bus_error(end: WaitStatus) -> bool {
        matches!(end, WaitStatus::Signaled(_, Signal::SIGBUS, _))
    }

    #[test]
    fn a_fault_outside_our_mappings_still_ends_the_process() {
        let (_file, _mapping) = mapped(1);
        let foreign = tempfile::tempfile_in("/dev/shm").unwrap();
        foreign.set_len(PAGE as u64).unwrap();
        let map = memmap2::MmapRaw::map_raw(&foreign).unwrap();
        foreign.set_len(0).unwrap();
        // SAFETY: the address lies in the mapping, which exists. The file's page does not, which is
        // the point of the test.
        let end = end_of(|| assert_ne!(unsafe { map.as_ptr().read_volatile() }, 1));
        assert!(is_bus_error(end), "{end:?}");
    }

    #[test]
    fn a_bus_error_sent_by_a_process_still_has_its_default_effect() {
        let (_file, _mapping) = mapped(1);
        // The standard library's handler takes the first signal and leaves the second to the
        // default action.
        let end = end_of(|| {
            [(); 2]
                .iter()
                .for_each(|()| nix::sys::signal::raise(Signal::SIGBUS).unwrap())
        });
        assert!(is_bus_error(end), "{end:?}");
    }

    #[test]
    fn a_forked_copy_is_also_protected() {
        let (file, mapping) = mapped(1);
        file.set_len(0).unwrap();
        let end = end_of(|| assert_eq!(load(&mapping, MARK.offset), MARK.value));
        assert!(matches!(end, WaitStatus::Exited(_, 0)), "{end:?}");
    }
}
