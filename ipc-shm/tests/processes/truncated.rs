//! A file that is cut short while a process uses it: an error that names it, whatever the process was doing, and
//! not its death by SIGBUS. What else the process wants with that signal is still done.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use ipc_shm::{AccessError, LockError, Namespace, OpenError, SharedBuffer, fault};

use crate::support::{Peer, Scratch, listen, our_thread, say, until_asleep};
use crate::{connect, scratch_with_buffer};

const LEN: usize = 100_000;
/// To nothing; into the header's page; into the bytes.
const CUTS: [u64; 3] = [0, 2048, 50_000];

/// Plays the role of whoever is doing something when the file is cut.
pub fn be_cut(namespace: &Namespace, doing: &str) {
    match doing {
        "write" => write_for_ever(&connect(namespace)),
        "read" => read_for_ever(&connect(namespace)),
        "lock" => wait_for_lock(&connect(namespace)),
        "own handler before" => with_own_handler(namespace, install_own),
        "own handler after" => with_own_handler(namespace, || {}),
        "opted out" => opted_out(namespace),
        other => panic!("nobody does {other:?}"),
    }
    say("truncated");
}

fn is_truncated(error: &AccessError) -> bool {
    matches!(error, AccessError::Lock(LockError::Truncated { name }) if name == "b")
}

fn write_for_ever(buffer: &SharedBuffer) {
    say("ready");
    let bytes = [7; LEN];
    loop {
        if let Err(error) = buffer.write_at(0, &bytes) {
            assert!(is_truncated(&error), "{error}");
            break;
        }
    }
    let error = buffer.read_to_vec(0, LEN).unwrap_err();
    assert!(is_truncated(&error), "{error}");
}

fn read_for_ever(buffer: &SharedBuffer) {
    buffer.write_at(0, &[7; LEN]).unwrap();
    say("ready");
    loop {
        match buffer.read_to_vec(0, LEN) {
            // Cut but not noticed yet, the last page that there is ends in zeroes.
            Ok(bytes) => assert!(bytes.iter().filter(|byte| **byte != 7).count() < 4096),
            Err(error) => {
                assert!(is_truncated(&error), "{error}");
                break;
            }
        }
    }
    let error = buffer.write_at(0, &[7]).unwrap_err();
    assert!(is_truncated(&error), "{error}");
}

/// For one that another thread of this process has.
fn wait_for_lock(buffer: &SharedBuffer) {
    let guard = buffer.lock().unwrap();
    thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let waiting = scope.spawn(move || {
            tell.send(our_thread()).unwrap();
            buffer.lock().map(drop)
        });
        until_asleep(told.recv().unwrap());
        say("ready");
        let error = waiting.join().unwrap().unwrap_err();
        assert!(matches!(error, LockError::Truncated { .. }), "{error}");
    });
    assert!(is_truncated(&guard.read_to_vec(0, LEN).unwrap_err()));
}

static SEEN: AtomicUsize = AtomicUsize::new(0);

/// A program's own handler, that asks us, and otherwise maps something in place of what is missing.
extern "C" fn own_handler(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: valid, as the kernel promises.
    let info = unsafe { &*info };
    // SAFETY: a fault has an address.
    let address = unsafe { info.si_addr() };
    if fault::handle(address) {
        return;
    }
    SEEN.fetch_add(1, Ordering::SeqCst);
    let page = address.map_addr(|address| address / 4096 * 4096);
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: in place of the page that is missing.
    let mapped = unsafe { libc::mmap(page, 4096, access, how, -1, 0) };
    assert_eq!(mapped, page);
}

fn install_own() {
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = own_handler;
    // SAFETY: all zero is a valid value of this plain C structure.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for.
    let installed =
        unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    assert_eq!(installed, 0);
}

/// A fault in a mapping of the program's is its handler's business, one in ours is ours, whoever came first.
fn with_own_handler(namespace: &Namespace, before: impl FnOnce()) {
    let is_before = {
        before();
        // SAFETY: all zero is a valid value; the call only fills it in.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut action) };
        action.sa_sigaction == own_handler as *const () as usize
    };
    let buffer = connect(namespace);
    if !is_before {
        install_own();
    }
    say("ready");
    listen();
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.set_len(4096).unwrap();
    let own = memmap2::MmapRaw::map_raw(&file).unwrap();
    file.set_len(0).unwrap();
    // SAFETY: mapped; the file is not there, which is for the handler to see to.
    assert_eq!(unsafe { own.as_ptr().read_volatile() }, 0);
    assert_eq!(SEEN.load(Ordering::SeqCst), 1);
    let error = buffer.read_to_vec(0, LEN).unwrap_err();
    assert!(is_truncated(&error), "{error}");
    assert_eq!(SEEN.load(Ordering::SeqCst), 1);
}

fn opted_out(namespace: &Namespace) {
    assert!(fault::opt_out());
    let buffer = connect(namespace);
    say("ready");
    listen();
    let _ = buffer.read_to_vec(0, LEN);
}

/// Starts the role, cuts the file when it is ready, and tells it to go on.
fn cut(doing: &str, to: u64) -> (Scratch, Peer) {
    let (scratch, buffer) = scratch_with_buffer(LEN);
    drop(buffer);
    let mut peer = scratch.start(&format!("cut {doing}"));
    peer.expect("ready");
    let path = scratch.namespace.path().join("b.buffer");
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(to)
        .unwrap();
    // Who opted out may be dead by now: its watcher looks at the memory, too. What the others say is heard below.
    let _ = peer.try_tell("go on");
    (scratch, peer)
}

#[track_caller]
fn assert_is_told(doing: &str) {
    for to in CUTS {
        let (scratch, mut peer) = cut(doing, to);
        peer.expect("truncated");
        let end = peer.end();
        assert!(end.success(), "{end}");
        let error = SharedBuffer::connect(&scratch.namespace, "b").unwrap_err();
        let wanted = matches!(error, ipc_shm::BufferError::Open(OpenError::Header { .. }));
        assert!(wanted, "{error}");
        assert!(SharedBuffer::remove(&scratch.namespace, "b").unwrap());
        assert!(scratch.is_empty());
    }
}

#[test]
fn a_writer_of_a_buffer_that_is_cut_is_told() {
    assert_is_told("write");
}

#[test]
fn a_reader_of_a_buffer_that_is_cut_is_told() {
    assert_is_told("read");
}

#[test]
fn one_that_waits_for_a_lock_on_what_is_cut_is_told() {
    assert_is_told("lock");
}

#[test]
fn a_handler_that_was_there_before_gets_what_is_its_own() {
    assert_is_told("own handler before");
}

#[test]
fn a_handler_that_came_later_can_ask_us() {
    assert_is_told("own handler after");
}

#[test]
fn whoever_opted_out_dies_as_the_kernel_says() {
    let (_scratch, peer) = cut("opted out", 0);
    let end = peer.end();
    let signal = std::os::unix::process::ExitStatusExt::signal(&end);
    assert_eq!(signal, Some(libc::SIGBUS), "{end}");
}

#[test]
fn one_that_was_cut_while_in_use_is_refused_however_long_it_is_now() {
    let (scratch, buffer) = scratch_with_buffer(LEN);
    let path = scratch.namespace.path().join("b.buffer");
    let file = File::options().write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(50_000).unwrap();
    // We ourselves, in at most a slice.
    while buffer.lock().is_ok() {
        thread::yield_now();
    }
    file.set_len(len).unwrap();
    let error = SharedBuffer::connect(&scratch.namespace, "b").unwrap_err();
    let wanted = matches!(
        error,
        ipc_shm::BufferError::Open(OpenError::Truncated { .. })
    );
    assert!(wanted, "{error}");
    assert!(SharedBuffer::remove(&scratch.namespace, "b").unwrap());
}
