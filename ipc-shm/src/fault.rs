//! What becomes of a mapping whose file is cut short while it is mapped.
//!
//! Touching a page that the file does not have any more makes the kernel send SIGBUS, which ends a process that does
//! not handle it. So the first mapping installs a handler. When the address lies in a mapping of ours, it puts
//! private zeroes in place of the *whole* mapping, in one step and with a mark already in them, and lets the
//! instruction run again: from then on this process neither sees nor changes what others share, and whoever looks at the
//! marked word knows it. The whole, not the page: half old and half zero would be a state that no algorithm
//! expects, and a thread could go on in it without meeting the mark.
//!
//! Every other SIGBUS goes to the handler that was there before, or takes its default course. A program that installs
//! its own later passes on what it does not know, as handlers do, or asks [`handle`]; one that wants none of this
//! calls [`opt_out`] first. A thread that blocks SIGBUS is killed by the kernel.
//!
//! The handler runs between any two instructions of any thread. So it takes no lock, allocates nothing, and finds the
//! mappings in a list whose entries are never freed, only used again.
//! Does not find out about files that were cut where nobody looks, nor tell anybody: see `Segment::check_file`.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};

use nix::errno::Errno;

/// The word that tells the zeroes put in a mapping's place from the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Where it is in the mapping; a multiple of 8.
    pub offset: usize,
    /// What it says.
    pub value: u64,
}

/// Protects a mapping until it is dropped, which must be before the mapping is.
#[derive(Debug)]
pub(crate) struct Protection(&'static Entry);

/// Leaves every SIGBUS to the application: a segment whose file is cut short then ends this process, unless the
/// application's handler asks [`handle`].
///
/// To be called before the first segment is opened; `false` if that was too late and the handler stays.
pub fn opt_out() -> bool {
    OPTED_OUT.store(true, Ordering::SeqCst);
    INSTALLED.get().is_none()
}

/// For an application's own SIGBUS handler: deals with a fault at `address` (`si_addr`, when `si_code` is `BUS_ADRERR`)
/// if that lies in a segment. `true`: return from the handler, and the program goes on.
///
/// Safe to call in a signal handler, and harmless with any address that did fault.
#[must_use]
pub fn handle(address: *const c_void) -> bool {
    let found = entries().find_map(|entry| entry.range_around(address.addr()));
    found.is_some_and(|range| range.replace())
}

/// Protects the `len` bytes mapped at `start`, installing the handler if it is the first time.
///
/// # Safety
/// They stay mapped until the protection is dropped, and nothing in them relies on keeping its value:
/// they may be replaced by zeroes, but for the mark, at any moment.
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
        self.0.give_back();
    }
}

/// A mapping of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: usize,
    len: usize,
    mark: Option<Mark>,
}

impl Range {
    /// Puts zeroes in its place. In a signal handler, so system calls only.
    fn replace(&self) -> bool {
        let (access, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            // Not reserved: hardly any of it will be touched.
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        );
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing else.
        let zeroes = unsafe { libc::mmap(ptr::null_mut(), self.len, access, kind, -1, 0) };
        if zeroes == libc::MAP_FAILED {
            return false;
        }
        if let Some(mark) = self.mark {
            // SAFETY: `protect` is given marks inside their mapping, and this one is as long.
            let word = unsafe { zeroes.byte_add(mark.offset) }.cast::<AtomicU64>();
            // SAFETY: mapped above, 8-aligned since a page and the offset are, and known to nobody else yet.
            let word = unsafe { &*word };
            word.store(mark.value, Ordering::SeqCst);
        }
        let there = ptr::with_exposed_provenance_mut::<c_void>(self.start);
        let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: what it unmaps is a mapping of ours, whose words and bytes may become zero at any moment, as
        // whoever protected it promised; no access to it fails, before or after. One step: no other thread
        // can find the range unmapped, or zero without the mark.
        let moved = unsafe { libc::mremap(zeroes, self.len, self.len, how, there) };
        if moved == libc::MAP_FAILED {
            // SAFETY: mapped above, not moved, and known to nobody else.
            let _ = unsafe { libc::munmap(zeroes, self.len) };
            return false;
        }
        true
    }
}

/// A range that is protected, or a place for one. Never freed.
#[derive(Debug)]
struct Entry {
    /// Odd while the rest changes. Written by whoever takes the entry or gives it back; a reader that sees it odd,
    /// or changed after reading, has not read the range that it is in: that one can't change meanwhile.
    version: AtomicU64,
    /// 0: free.
    start: AtomicUsize,
    len: AtomicUsize,
    mark_offset: AtomicUsize,
    /// 0: no mark.
    mark_value: AtomicU64,
    /// Written before the entry is published, by `push`.
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
        // Whoever changed it since then has changed the version, too.
        let changed = |_| self.change(version + 1, range);
        free && self
            .version
            .compare_exchange(version, version + 1, Ordering::SeqCst, Ordering::SeqCst)
            .map(changed)
            .is_ok()
    }

    /// Only for whoever took it.
    fn give_back(&self) {
        let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
        let free = Range {
            start: 0,
            len: 0,
            mark: None,
        };
        self.change(version, free);
    }

    /// Only for whoever made the version odd, to `odd`.
    fn change(&self, odd: u64, range: Range) {
        let mark = range.mark.unwrap_or(NO_MARK);
        self.start.store(range.start, Ordering::SeqCst);
        self.len.store(range.len, Ordering::SeqCst);
        self.mark_offset.store(mark.offset, Ordering::SeqCst);
        self.mark_value.store(mark.value, Ordering::SeqCst);
        self.version.store(odd + 1, Ordering::SeqCst);
    }

    /// The range, if `address` lies in it.
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

/// The newest entry; each leads to the one before.
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
        let pushed = NEWEST.compare_exchange(newest, at, Ordering::SeqCst, Ordering::SeqCst);
        if pushed.is_ok() {
            return fresh;
        }
    }
}

// --- The signal -------------------------------------------------------------------------------------

static OPTED_OUT: AtomicBool = AtomicBool::new(false);
static INSTALLED: OnceLock<()> = OnceLock::new();
/// What was to be done about SIGBUS before us. Set before our handler is installed.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

fn install() {
    INSTALLED.get_or_init(|| {
        let mut before = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: asks only, and writes to `before`, which is as large.
        let asked = unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), before.as_mut_ptr()) };
        if asked != 0 {
            return;
        }
        // SAFETY: the kernel has just filled it in.
        let before = unsafe { before.assume_init() };
        PREVIOUS.get_or_init(|| before);
        // SAFETY: all zero is a valid value of this plain C structure.
        let mut ours = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
        let handler: Handler = on_bus_error;
        ours.sa_sigaction = handler as usize;
        // On the alternative stack, if the thread has one: another handler of ours may chain to needs it for the
        // overflow of the usual one.
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        // SAFETY: the handler has the signature that SA_SIGINFO asks for, and does only what a handler may.
        let _ = unsafe { libc::sigaction(libc::SIGBUS, &raw const ours, ptr::null_mut()) };
    });
}

type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // The interrupted code may be about to look at its own.
    let errno = Errno::last_raw();
    // SAFETY: the kernel gives a handler with SA_SIGINFO a valid structure; so does whoever chains to us.
    let facts = unsafe { &*info };
    // SAFETY: a signal with this code, sent by the kernel, has an address.
    let address = || unsafe { facts.si_addr() };
    if facts.si_code != libc::BUS_ADRERR || !handle(address()) {
        pass_on(signal, info, context, facts.si_code);
    }
    Errno::set_raw(errno);
}

/// Does what would have been done without us.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void, code: c_int) {
    let previous = PREVIOUS.get();
    let action = previous.map_or(libc::SIG_DFL, |previous| previous.sa_sigaction);
    let with_facts = previous.is_some_and(|previous| previous.sa_flags & libc::SA_SIGINFO != 0);
    // Sent by a process, and not caused by an instruction that would run into it again.
    let was_sent = code <= 0;
    match action {
        libc::SIG_IGN if was_sent => {}
        libc::SIG_IGN | libc::SIG_DFL => {
            // SAFETY: the default action is no code of ours.
            let _ = unsafe { libc::signal(signal, libc::SIG_DFL) };
            if was_sent {
                // SAFETY: delivered when the handler returns; it ends the process.
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
    fn a_missing_page_gives_zeroes_and_a_mark_in_place_of_all() {
        let (file, mapping) = mapped(3);
        mapping.word(8).unwrap().store(5, Ordering::SeqCst);
        file.set_len(PAGE as u64).unwrap();
        // Not touched: not noticed.
        assert_eq!((load(&mapping, 8), load(&mapping, 64)), (5, 0));
        assert_eq!(load(&mapping, 2 * PAGE), 0);
        assert_eq!((load(&mapping, 8), load(&mapping, 64)), (0, 7));
        // Ours alone from now on, and whole.
        mapping.word(8).unwrap().store(6, Ordering::SeqCst);
        mapping.word(PAGE + 8).unwrap().store(6, Ordering::SeqCst);
        let other = Mapping::new(&file, PAGE).unwrap();
        assert_eq!(load(&other, 8), 5);
    }

    #[test]
    fn threads_that_fault_together_all_go_on() {
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
    fn places_in_the_list_are_used_again() {
        for _ in 0..1000 {
            drop(mapped(1));
        }
        // Other tests have theirs.
        assert!(entries().count() < 200, "{}", entries().count());
    }

    /// How a copy of this process ends that does this.
    fn end_of(act: impl FnOnce()) -> WaitStatus {
        // SAFETY: the child uses what exists already, and system calls, then leaves by `_exit`.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                act();
                // SAFETY: ends the child at once, running none of the parent's clean-up.
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
    fn a_fault_elsewhere_ends_the_process_as_it_would_without_us() {
        let (_file, _mapping) = mapped(1);
        let foreign = tempfile::tempfile_in("/dev/shm").unwrap();
        foreign.set_len(PAGE as u64).unwrap();
        let map = memmap2::MmapRaw::map_raw(&foreign).unwrap();
        foreign.set_len(0).unwrap();
        // SAFETY: in the mapping, which is there; the file is not, which is what is tested.
        let end = end_of(|| assert_ne!(unsafe { map.as_ptr().read_volatile() }, 1));
        assert!(is_bus_error(end), "{end:?}");
    }

    #[test]
    fn a_signal_that_was_sent_takes_the_course_that_it_would_without_us() {
        let (_file, _mapping) = mapped(1);
        // The first is taken by the standard library's handler, which leaves the second to the default.
        let end = end_of(|| {
            [(); 2]
                .iter()
                .for_each(|()| nix::sys::signal::raise(Signal::SIGBUS).unwrap())
        });
        assert!(is_bus_error(end), "{end:?}");
    }

    #[test]
    fn a_forked_copy_is_protected_too() {
        let (file, mapping) = mapped(1);
        file.set_len(0).unwrap();
        let end = end_of(|| assert_eq!(load(&mapping, MARK.offset), MARK.value));
        assert!(matches!(end, WaitStatus::Exited(_, 0)), "{end:?}");
    }
}
