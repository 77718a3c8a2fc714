//! A number is not an identity. These tests cover closed and reused descriptors, clocks and users
//! of other namespaces, and names deleted by other code.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::thread;

use ipc_shm::{
    BufferError, CreateError, LockError, Namespace, NamespaceError, OpenError, ProcessIdentity,
    SharedBuffer, clock,
};
use nix::unistd::geteuid;

use crate::support::{
    Scratch, assert_ended_well, in_forked_child, listen, our_thread, say, until_asleep,
    wait_for_death,
};
use crate::{connect, scratch_with_buffer, unshare};

/// Runs the other process of a test.
pub fn run_role(namespace: &Namespace, role: &str) {
    match role {
        "lose descriptor" => lose_descriptor(namespace),
        "lose all descriptors" => lose_all_descriptors(namespace),
        "wait while it goes" => wait_while_it_goes(namespace),
        "use while it goes" => use_while_it_goes(namespace),
        "clock" => say(&clock::monotonic().as_nanos().to_string()),
        "connect and name start" => connect_and_name_start(namespace),
        "fork into time namespace" => fork_into_time_namespace(namespace),
        "connect" => say(&outcome(SharedBuffer::connect(namespace, "b"))),
        "create" => say(&outcome(SharedBuffer::create(namespace, "c", 8))),
        "default folder" => {
            let namespace = Namespace::new("x").unwrap();
            say(&format!("{} {}", geteuid(), namespace.path().display()));
        }
        "odd folder" => odd_folder(),
        "madvise refused" => madvise_refused(namespace),
        other => panic!("no role is called {other:?}"),
    }
}

fn outcome(result: Result<SharedBuffer, BufferError>) -> String {
    match result {
        Ok(_) => "done".to_owned(),
        Err(BufferError::Open(OpenError::Namespace(error)))
        | Err(BufferError::Create(CreateError::Namespace(error))) => match error {
            NamespaceError::UnmappedUser { .. } => format!("UnmappedUser: {error}"),
            NamespaceError::UnmappedOwner { .. } => format!("UnmappedOwner: {error}"),
            other => other.to_string(),
        },
        Err(other) => other.to_string(),
    }
}

pub fn skip(test: &str, why: &str) {
    println!("skipped: {test}: {}", why.trim());
}

// --- Descriptors ---

/// Returns this process's descriptors of files whose names end with `end`.
fn descriptors_of(end: &str) -> Vec<RawFd> {
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let open = fs::read_dir("/proc/self/fd").unwrap();
    open.map(Result::unwrap)
        .filter(|entry| {
            fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().ends_with(end))
        })
        .filter_map(number)
        .collect()
}

fn close(number: RawFd) {
    // SAFETY: takes a number. Other code relies on the descriptor, which is the point of the test.
    assert_eq!(unsafe { libc::close(number) }, 0);
}

/// Gives a number to a file, like the next `open` after a mistaken `close`.
fn reuse(number: RawFd, file: File) {
    // SAFETY: takes two numbers.
    assert_eq!(unsafe { libc::dup2(file.as_raw_fd(), number) }, number);
}

#[track_caller]
fn assert_lost(buffer: &SharedBuffer, number: RawFd) {
    // This process's watcher notices the mistake after at most one slice.
    let error = loop {
        match buffer.lock() {
            Ok(_) => thread::yield_now(),
            Err(error) => break error,
        }
    };
    let wanted = LockError::DescriptorLost {
        name: "b".to_owned(),
        descriptor: number,
    };
    assert_eq!(error, wanted);
}

fn lose_descriptor(namespace: &Namespace) {
    let buffer = connect(namespace);
    let [number] = descriptors_of("/b.buffer")[..] else {
        panic!("one descriptor")
    };
    close(number);
    let path = namespace.path().with_file_name("plugin.log");
    let mut log = File::create(path).unwrap();
    log.write_all(b"short").unwrap();
    reuse(number, log);
    assert_lost(&buffer, number);
    say("lost");
    listen();
    // Follows the error's advice.
    let again = connect(namespace);
    again.write_at(0, b"again").unwrap();
    drop(buffer);
    // Dropping the first handle did not close the file that took its number.
    assert_eq!(descriptors_of("/plugin.log"), [number]);
    say("again");
}

#[test]
fn only_the_process_that_closed_its_descriptor_gets_an_error() {
    let (scratch, buffer) = scratch_with_buffer(100);
    buffer.write_at(0, b"hello").unwrap();
    let mut clumsy = scratch.start("identity lose descriptor");
    clumsy.expect("lost");
    assert_eq!(buffer.read_to_vec(0, 5).unwrap(), b"hello");
    let newcomer = connect(&scratch.namespace);
    assert_eq!(newcomer.read_to_vec(0, 5).unwrap(), b"hello");
    clumsy.send("go on");
    clumsy.expect("again");
    let end = clumsy.end();
    assert!(end.success(), "{end}");
    assert_eq!(buffer.read_to_vec(0, 5).unwrap(), b"again");
    let log = scratch.namespace.path().with_file_name("plugin.log");
    assert_eq!(fs::read(log).unwrap(), b"short");
}

/// Acts like a program that turns into a daemon after it opened a buffer.
fn lose_all_descriptors(namespace: &Namespace) {
    let buffer = connect(namespace);
    let [number] = descriptors_of("/b.buffer")[..] else {
        panic!("one descriptor")
    };
    // Not while the watcher has a temporary descriptor: closing that twice aborts a program
    // compiled with checks.
    until_watcher_sleeps();
    // SAFETY: takes two numbers; nothing else in this process needs descriptors above the standard
    // ones.
    assert_eq!(unsafe { libc::close_range(3, libc::c_uint::MAX, 0) }, 0);
    // This usually takes the same number, for the same file. Only the file offset differs.
    let again = connect(namespace);
    assert_lost(&buffer, number);
    drop(buffer);
    again.write_at(0, b"well").unwrap();
    say("ready");
    // Its watcher works again: it notices a death without any call.
    while again.users().len() > 2 {
        thread::yield_now();
    }
    say("noticed");
}

fn until_watcher_sleeps() {
    let watches = |thread: &Path| {
        fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim() == "ipc-watch")
    };
    let sleeps = |thread: &Path| {
        let call = fs::read_to_string(thread.join("syscall")).unwrap_or_default();
        let number = call
            .split(' ')
            .next()
            .and_then(|number| number.parse().ok());
        #[cfg(target_arch = "x86_64")]
        let calls = [libc::SYS_poll, libc::SYS_ppoll];
        #[cfg(not(target_arch = "x86_64"))]
        let calls = [libc::SYS_ppoll];
        number.is_some_and(|number| calls.contains(&number))
    };
    let threads = || fs::read_dir("/proc/self/task").unwrap();
    let thread = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().path();
    while !threads()
        .map(thread)
        .any(|thread| watches(&thread) && sleeps(&thread))
    {
        thread::yield_now();
    }
}

#[test]
fn a_process_that_closed_all_descriptors_can_reconnect_and_notices_deaths() {
    let (scratch, _buffer) = scratch_with_buffer(8);
    let mut doomed = scratch.start("connect");
    doomed.expect("connected");
    let mut clumsy = scratch.start("identity lose all descriptors");
    clumsy.expect("ready");
    doomed.kill();
    clumsy.expect("noticed");
    let end = clumsy.end();
    assert!(end.success(), "{end}");
}

// --- Names ---

/// Waits for a lock that another thread of this process holds.
fn wait_while_it_goes(namespace: &Namespace) {
    let buffer = connect(namespace);
    let guard = buffer.lock().unwrap();
    thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let buffer = &buffer;
        let waiting = scope.spawn(move || {
            sender.send(our_thread()).unwrap();
            buffer.lock().map(drop)
        });
        until_asleep(receiver.recv().unwrap());
        say("ready");
        let error = waiting.join().unwrap().unwrap_err();
        assert!(matches!(error, LockError::Deleted { .. }), "{error}");
    });
    drop(guard);
    say("deleted");
}

fn use_while_it_goes(namespace: &Namespace) {
    let buffer = connect(namespace);
    say("ready");
    let error = loop {
        match buffer.lock() {
            Ok(_) => thread::yield_now(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LockError::Deleted { .. }), "{error}");
    assert!(error.to_string().contains("RemoveIPC"), "{error}");
    // Follows the error's advice. The name is free now, or belongs to a new buffer.
    match SharedBuffer::connect(namespace, "b") {
        Err(BufferError::Open(OpenError::NotFound { .. })) => {}
        Ok(other) => assert_eq!(other.read_to_vec(0, 3).unwrap(), b"new"),
        Err(error) => panic!("{error}"),
    }
    say("deleted");
}

#[track_caller]
fn assert_deletion_is_reported(delete: impl Fn(&Scratch)) {
    let (scratch, buffer) = scratch_with_buffer(8);
    let mut users = ["wait while it goes", "use while it goes"]
        .map(|role| scratch.start(&format!("identity {role}")));
    // The process that waits also holds the lock, so the other one waits as well.
    users.iter_mut().for_each(|user| user.expect("ready"));
    drop(buffer);
    delete(&scratch);
    for mut user in users {
        user.expect("deleted");
        let end = user.end();
        assert!(end.success(), "{end}");
    }
}

#[test]
fn a_file_deleted_by_a_cleaner_ends_every_wait_and_every_use() {
    assert_deletion_is_reported(|scratch| {
        fs::remove_file(scratch.namespace.path().join("b.buffer")).unwrap();
    });
}

#[test]
fn a_folder_deleted_by_a_cleaner_ends_every_wait_and_every_use() {
    assert_deletion_is_reported(|scratch| {
        fs::remove_dir_all(scratch.path().join("root")).unwrap();
    });
}

#[test]
fn a_moved_folder_is_reported_once_another_buffer_has_the_name() {
    assert_deletion_is_reported(|scratch| {
        let root = scratch.path().join("root");
        fs::rename(&root, scratch.path().join("moved")).unwrap();
        let new = SharedBuffer::create(&scratch.namespace, "b", 8).unwrap();
        new.write_at(0, b"new").unwrap();
    });
}

// --- Clocks ---

/// Returns a command that runs another one with its clocks a million seconds ahead.
fn unshare_time(test: &str) -> Option<Command> {
    let flags = [
        "--time",
        "--monotonic",
        "1000000",
        "--boottime",
        "1000000",
        "--fork",
        "--kill-child",
    ];
    match unshare(&flags) {
        Ok(mut command) => {
            command.arg(std::env::current_exe().unwrap());
            Some(command)
        }
        Err(why) => {
            skip(test, &why);
            None
        }
    }
}

#[test]
fn processes_in_other_time_namespaces_read_the_same_clock() {
    let test = "processes_in_other_time_namespaces_read_the_same_clock";
    let Some(command) = unshare_time(test) else {
        return;
    };
    let before = clock::monotonic().as_nanos();
    let mut there = Scratch::new().start_by(command, "identity clock");
    let said: u128 = there.receive().parse().unwrap();
    let after = clock::monotonic().as_nanos();
    assert!((before..=after).contains(&said), "{before} {said} {after}");
}

fn connect_and_name_start(namespace: &Namespace) {
    let _buffer = connect(namespace);
    say(&ProcessIdentity::current().start_ticks.to_string());
    wait_for_death()
}

#[test]
fn a_process_in_a_shifted_time_namespace_does_not_count_as_dead() {
    let test = "a_process_in_a_shifted_time_namespace_does_not_count_as_dead";
    let (scratch, buffer) = scratch_with_buffer(8);
    let Some(command) = unshare_time(test) else {
        return;
    };
    let mut there = scratch.start_by(command, "identity connect and name start");
    // The start time is unknown rather than wrong.
    there.expect("0");
    // Another process checks the slot when it opens the buffer, and does not free it.
    let _third = connect(&scratch.namespace);
    assert_eq!(buffer.users().len(), 3);
    // The reverse: processes outside do not count as dead inside the namespace.
    let command = unshare_time(test).unwrap();
    let mut second = scratch.start_by(command, "identity connect and name start");
    second.expect("0");
    assert_eq!(buffer.users().len(), 4);
}

fn fork_into_time_namespace(namespace: &Namespace) {
    // Done in a copy with one thread, because `unshare` in one of several threads affects only that
    // thread.
    let (parent, ()) = in_forked_child((), |()| {
        let before = clock::monotonic();
        let much = std::time::Duration::from_secs(900_000);
        // SAFETY: changes only the namespace of future children.
        if unsafe { libc::unshare(libc::CLONE_NEWTIME) } != 0 {
            return say("refused");
        }
        fs::write("/proc/self/timens_offsets", "monotonic 1000000 0").unwrap();
        // Our clock did not change, but the file about our children's clock did.
        assert!(clock::monotonic() - before < much);
        let (child, ()) = in_forked_child((), |()| {
            // The child reads the shift of its own clock again.
            let there = clock::monotonic() - before;
            assert!(there < much, "{there:?}");
            // Now in a namespace with a shift: what follows is said to need a child.
            // SAFETY: changes only the namespace of future children.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWTIME) }, 0);
            let refused = SharedBuffer::create(namespace, "c", 8).unwrap_err();
            let text = refused.to_string();
            assert!(text.contains("in a child process instead"), "{text}");
            let (grandchild, ()) = in_forked_child((), |()| {
                SharedBuffer::create(namespace, "c", 8).unwrap();
            });
            assert_ended_well(grandchild);
        });
        assert_ended_well(child);
        say("done");
    });
    assert_ended_well(parent);
}

#[test]
fn a_child_forked_into_a_time_namespace_reads_the_same_clock() {
    let scratch = Scratch::new();
    let mut there = scratch.start("identity fork into time namespace");
    match &there.receive()[..] {
        "done" => assert!(there.end().success()),
        other => skip(
            "a_child_forked_into_a_time_namespace_reads_the_same_clock",
            other,
        ),
    }
}

// --- Users ---

#[test]
fn a_user_without_a_number_gets_an_error_and_trusts_no_files() {
    let test = "a_user_without_a_number_gets_an_error_and_trusts_no_files";
    let (scratch, _buffer) = scratch_with_buffer(8);
    match unshare(&["--user"]) {
        Ok(mut command) => {
            command.arg(std::env::current_exe().unwrap());
            let mut there = scratch.start_by(command, "identity connect");
            let said = there.receive();
            assert!(said.starts_with("UnmappedUser: "), "{said}");
            assert!(
                said.contains("65534") && said.contains("/etc/subuid"),
                "{said}"
            );
            // The advice: with a number in that namespace, the same user gets in.
            let Ok(mut command) = unshare(&["--user", "--map-current-user"]) else {
                return skip(test, "users can't be mapped");
            };
            command.arg(std::env::current_exe().unwrap());
            let mut there = scratch.start_by(command, "identity connect");
            there.expect("done");
        }
        Err(why) => skip(test, &why),
    }
}

#[test]
fn a_folder_of_a_user_outside_the_namespace_is_refused() {
    let test = "a_folder_of_a_user_outside_the_namespace_is_refused";
    if !geteuid().is_root() {
        return skip(test, "only root can change the owner of a folder");
    }
    let (scratch, _buffer) = scratch_with_buffer(8);
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    chown(scratch.path().join("root"), Some(12345), None).unwrap();
    match unshare(&["--user", "--map-root-user"]) {
        Ok(mut command) => {
            command.arg(std::env::current_exe().unwrap());
            let mut there = scratch.start_by(command, "identity connect");
            let said = there.receive();
            // Even root of that namespace may not enter the folder, but the error can say that it
            // belongs to another user.
            let wanted = said.starts_with("UnmappedOwner: ") || said.contains("Permission denied");
            assert!(wanted, "{said}");
            // The advice: where both sides have the same mapping, the owner is known.
            chown(scratch.path().join("root"), Some(0), None).unwrap();
            let mut command = unshare(&["--user", "--map-root-user"]).unwrap();
            command.arg(std::env::current_exe().unwrap());
            let mut there = scratch.start_by(command, "identity connect");
            there.expect("done");
        }
        Err(why) => skip(test, &why),
    }
}

#[test]
fn a_set_uid_program_ignores_the_folder_in_its_callers_environment() {
    let test = "a_set_uid_program_ignores_the_folder_in_its_callers_environment";
    if !geteuid().is_root() {
        return skip(test, "only root can make a program of another user");
    }
    // Programs are built and run in this folder, so its file system does not ignore set-uid bits.
    let us = std::env::current_exe().unwrap();
    let folder = tempfile::tempdir_in(us.parent().unwrap()).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("program");
    fs::copy(&us, &program).unwrap();
    chown(&program, Some(12345), Some(12345)).unwrap();
    let run = |mode: u32| {
        fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
        let mut command = Command::new(&program);
        command.env("IPC_SHM_DIR", "/dev/shm/callers");
        Scratch::new()
            .start_by(command, "identity default folder")
            .receive()
    };
    assert_eq!(run(0o755), "0 /dev/shm/callers/x");
    let said = run(0o4755);
    if said.starts_with("0 ") {
        return skip(test, "the file system or the kernel ignores set-uid bits");
    }
    assert_eq!(said, "12345 /dev/shm/ipc.12345/x");
}

#[test]
fn an_empty_folder_name_in_the_environment_is_ignored() {
    let mut command = Command::new("/proc/self/exe");
    command.env("IPC_SHM_DIR", "");
    let said = Scratch::new()
        .start_by(command, "identity default folder")
        .receive();
    assert_eq!(said, format!("{0} /dev/shm/ipc.{0}/x", geteuid()));
}

/// Uses the folder in `IPC_SHM_DIR`, whose name is not UTF-8.
fn odd_folder() {
    let namespace = Namespace::new("x").unwrap();
    let buffer = SharedBuffer::create(&namespace, "b", 8).unwrap();
    buffer.write_at(0, b"odd").unwrap();
    assert_eq!(connect(&namespace).read_to_vec(0, 3).unwrap(), b"odd");
    assert_eq!(SharedBuffer::list(&namespace).unwrap().len(), 1);
    assert_eq!(
        namespace.siblings().unwrap(),
        std::slice::from_ref(&namespace)
    );
    let error = SharedBuffer::create(&namespace, "b", 8).unwrap_err();
    assert!(
        error.to_string().contains("already exists"),
        "{error} {error:?} {buffer:?}"
    );
    assert!(SharedBuffer::remove(&namespace, "b").unwrap());
    assert!(buffer.lock().is_err());
    say("done");
}

#[test]
fn a_folder_whose_name_is_not_utf_8_works() {
    let scratch = Scratch::new();
    let name = OsString::from_vec(b"bad\xff".to_vec());
    let mut command = Command::new("/proc/self/exe");
    command.env("IPC_SHM_DIR", scratch.path().join(name));
    let mut peer = scratch.start_by(command, "identity odd folder");
    peer.expect("done");
    assert!(peer.end().success());
}

/// Runs with a seccomp filter that refuses `madvise`.
fn madvise_refused(namespace: &Namespace) {
    let load = |offset: u32| libc::sock_filter {
        code: 0x20, // BPF_LD | BPF_W | BPF_ABS
        jt: 0,
        jf: 0,
        k: offset,
    };
    let answer = |value: u32| libc::sock_filter {
        code: 0x06, // BPF_RET | BPF_K
        jt: 0,
        jf: 0,
        k: value,
    };
    let is_madvise = libc::sock_filter {
        code: 0x15, // BPF_JMP | BPF_JEQ | BPF_K
        jt: 0,
        jf: 1,
        k: u32::try_from(libc::SYS_madvise).unwrap(),
    };
    let refuse = answer(libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).unwrap());
    let mut filter = [load(0), is_madvise, refuse, answer(libc::SECCOMP_RET_ALLOW)];
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: takes numbers.
    let promised = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the program is valid and the call copies it. The filter applies to this thread and
    // its children.
    let filtered = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program, 0, 0) };
    assert_eq!((promised, filtered), (0, 0));
    let buffer = connect(namespace);
    buffer.write_at(0, b"well").unwrap();
    let (child, buffer) = in_forked_child(buffer, |buffer| {
        let error = buffer.lock().unwrap_err();
        assert!(matches!(error, LockError::ForkedChild { .. }), "{error}");
    });
    assert_ended_well(child);
    buffer.write_at(0, b"done").unwrap();
    say("done");
}

#[test]
fn a_buffer_works_where_the_kernel_refuses_madvise() {
    let (scratch, _buffer) = scratch_with_buffer(8);
    let mut peer = scratch.start("identity madvise refused");
    peer.expect("done");
    assert!(peer.end().success());
}
