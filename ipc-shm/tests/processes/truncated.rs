//! Truncating a file while a process uses it.
//!
//! The process gets an error that names the file, whatever it was doing, and is not killed by
//! SIGBUS. The process's own use of that signal still works.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use ipc_shm::{AccessError, LockError, Namespace, OpenError, SharedBuffer, fault};

use crate::support::{Peer, Scratch, listen, our_thread, say, until_asleep};
use crate::{connect, scratch_with_buffer};

const LEN: usize = 100_000;
/// Lengths to which the file is truncated: nothing, within the header's page, within the bytes.
const CUTS: [u64; 3] = [0, 2048, 50_000];

/// Runs the process that uses the buffer while its file is truncated.
pub fn run_role(namespace: &Namespace, doing: &str) {
    match doing {
        "write" => write_for_ever(&connect(namespace)),
        "read" => read_for_ever(&connect(namespace)),
        "lock" => wait_for_lock(&connect(namespace)),
        "own handler before" => with_own_handler(namespace, install_own),
        "own handler after" => with_own_handler(namespace, || {}),
        "opted out" => opted_out(namespace),
        other => panic!("no role is called {other:?}"),
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
            // Until the truncation is noticed, the last remaining page ends in zeroes.
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

/// Waits for a lock that another thread of this process holds.
fn wait_for_lock(buffer: &SharedBuffer) {
    let guard = buffer.lock().unwrap();
    thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let waiting = scope.spawn(move || {
            sender.send(our_thread()).unwrap();
            buffer.lock().map(drop)
        });
        until_asleep(receiver.recv().unwrap());
        say("ready");
        let error = waiting.join().unwrap().unwrap_err();
        assert!(matches!(error, LockError::Truncated { .. }), "{error}");
    });
    assert!(is_truncated(&guard.read_to_vec(0, LEN).unwrap_err()));
}

static SEEN: AtomicUsize = AtomicUsize::new(0);

/// A program's own handler. It calls ours first, and otherwise maps memory in place of the missing
/// page.
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
    // SAFETY: replaces the missing page.
    let mapped = unsafe { libc::mmap(page, 4096, access, how, -1, 0) };
    assert_eq!(mapped, page);
}

fn install_own() {
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = own_handler;
    // SAFETY: all zeroes is a valid value of this plain C structure.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler has the signature that SA_SIGINFO requires.
    let installed =
        unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    assert_eq!(installed, 0);
}

/// A fault in the program's own mapping goes to its handler, and one in ours to our handler,
/// whichever was installed first.
fn with_own_handler(namespace: &Namespace, before: impl FnOnce()) {
    let is_before = {
        before();
        // SAFETY: all zeroes is a valid value; the call only fills it in.
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
    // SAFETY: mapped; the file's page is missing, and the handler replaces it.
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

/// Starts the role, truncates the file when the role is ready, and lets it continue.
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
    // A process that opted out may already be dead, because its watcher also reads the memory. The
    // results of the other roles are checked below.
    let _ = peer.try_send("go on");
    (scratch, peer)
}

#[track_caller]
fn assert_truncation_is_reported(doing: &str) {
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
fn truncating_the_file_gives_a_writer_an_error() {
    assert_truncation_is_reported("write");
}

#[test]
fn truncating_the_file_gives_a_reader_an_error() {
    assert_truncation_is_reported("read");
}

#[test]
fn truncating_the_file_gives_a_waiter_an_error() {
    assert_truncation_is_reported("lock");
}

#[test]
fn a_handler_installed_before_ours_still_gets_its_own_faults() {
    assert_truncation_is_reported("own handler before");
}

#[test]
fn a_handler_installed_after_ours_can_call_ours() {
    assert_truncation_is_reported("own handler after");
}

#[test]
fn a_process_that_opted_out_is_killed_by_the_signal() {
    let (_scratch, peer) = cut("opted out", 0);
    let end = peer.end();
    let signal = std::os::unix::process::ExitStatusExt::signal(&end);
    assert_eq!(signal, Some(libc::SIGBUS), "{end}");
}

#[test]
fn a_file_truncated_while_in_use_is_refused_even_if_it_is_extended_again() {
    let (scratch, buffer) = scratch_with_buffer(LEN);
    let path = scratch.namespace.path().join("b.buffer");
    let file = File::options().write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(50_000).unwrap();
    // This process notices the truncation after at most one slice.
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
