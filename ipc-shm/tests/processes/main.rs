//! Tests with real processes that are killed, stopped and forked.

mod creating;
mod identity;
mod support;
mod truncated;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use ipc_shm::{
    AccessError, Attachment, BufferError, BufferGuard, Expected, Header, Inherited, JoinError,
    Kind, LockError, Namespace, Participant, PayloadType, ProcessIdentity, Segment, SharedBuffer,
};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::{
    Peer, Scratch, assert_ended_well, die_with_parent, in_forked_child, listen, our_role,
    our_thread, say, until_asleep, wait_for_death,
};

/// Not a test, unless another test started this binary as its peer.
#[test]
fn role() {
    let Some((role, namespace)) = our_role() else {
        return;
    };
    match &role[..] {
        "hold" => hold(&namespace),
        "connect" => connect_and_wait(&namespace),
        "write for ever" => write_for_ever(&namespace),
        "create and remove" => creating::create_and_remove(&namespace),
        "count" => count_for_ever(&namespace),
        "lock and fork" => lock_and_fork(&namespace),
        "fork and use" => fork_and_use(&namespace),
        "fork two" => fork_two(&namespace),
        "join in fork" => join_in_fork(&namespace),
        "fork into pid namespace" => fork_into_pid_namespace(),
        "fill memory" => creating::fill_memory(&namespace),
        "limit files" => creating::limit_files(&namespace),
        "small group" => creating::small_group(&namespace),
        other => match other.split_once(' ') {
            Some(("cut", doing)) => truncated::run_role(&namespace, doing),
            Some(("identity", role)) => identity::run_role(&namespace, role),
            _ => panic!("no role is called {other:?}"),
        },
    }
}

fn connect(namespace: &Namespace) -> SharedBuffer {
    SharedBuffer::connect(namespace, "b").unwrap()
}

fn scratch_with_buffer(len: usize) -> (Scratch, SharedBuffer) {
    let scratch = Scratch::new();
    let buffer = SharedBuffer::create(&scratch.namespace, "b", len).unwrap();
    (scratch, buffer)
}

fn connect_and_wait(namespace: &Namespace) {
    let _buffer = connect(namespace);
    say("connected");
    wait_for_death()
}

/// Takes the lock. On a first line it writes and unlocks; on a second one it ends.
fn hold(namespace: &Namespace) {
    let buffer = connect(namespace);
    let mut guard = buffer.lock().unwrap();
    say("locked");
    listen();
    guard.write_at(0, b"mine").unwrap();
    drop(guard);
    say("unlocked");
    listen();
}

// --- Killed while writing ---

/// So long that a process is nearly always inside a write. The bytes extend to the end of the file.
const LONG: usize = (16 << 20) - 64;

fn write_for_ever(namespace: &Namespace) {
    let buffer = connect(namespace);
    say("connected");
    let rounds = [vec![1; LONG], vec![2; LONG]];
    for round in rounds.iter().cycle() {
        buffer.write_at(0, round).unwrap();
    }
}

/// Returns `true` if the file contains bytes of several writes.
fn is_half_written(scratch: &Scratch) -> bool {
    let file = File::open(scratch.namespace.path().join("b.buffer")).unwrap();
    let end = file.metadata().unwrap().len();
    let byte = |part: usize| {
        let mut byte = [0];
        let from_end = (LONG / 16 * part) as u64;
        file.read_exact_at(&mut byte, end - from_end).unwrap();
        byte[0]
    };
    // The ends are not compared, because copying may start or finish at either end.
    (2..16).any(|part| byte(part) != byte(1))
}

/// Returns a process that is stopped in the middle of a write.
fn stopped_while_writing(scratch: &Scratch) -> Peer {
    let mut writer = scratch.start("write for ever");
    writer.expect("connected");
    loop {
        writer.stop();
        if is_half_written(scratch) {
            return writer;
        }
        writer.resume();
        thread::yield_now();
    }
}

#[test]
fn a_waiter_gets_the_lock_of_a_killed_writer_and_sees_the_torn_range() {
    let (scratch, buffer) = scratch_with_buffer(LONG);
    let writer = stopped_while_writing(&scratch);
    let (sender, receiver) = channel();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            sender.send(our_thread()).unwrap();
            buffer.lock()
        });
        until_asleep(receiver.recv().unwrap());
        writer.kill();
        let mut guard = waiter.join().unwrap().unwrap();
        assert!(matches!(guard.inherited(), Inherited::FromDead(_)));
        assert_eq!(guard.torn(), Some(0..LONG));
        let error = guard.read_to_vec(LONG / 2, 1).unwrap_err();
        assert!(
            matches!(
                error,
                AccessError::Torn {
                    from: 0,
                    to: LONG,
                    ..
                }
            ),
            "{error}"
        );
        // The bytes really are a mixture.
        guard.accept_torn().unwrap();
        let bytes = guard.read_to_vec(0, LONG).unwrap();
        assert!(bytes.contains(&1) && bytes.iter().any(|byte| *byte != 1));
    });
}

#[test]
fn a_torn_range_is_seen_by_processes_that_connect_after_all_have_gone() {
    let (scratch, buffer) = scratch_with_buffer(LONG);
    drop(buffer);
    stopped_while_writing(&scratch).kill();
    for _ in 0..2 {
        let late = connect(&scratch.namespace);
        let error = late.read_to_vec(0, 1).unwrap_err();
        assert!(matches!(error, AccessError::Torn { .. }), "{error}");
    }
    let healer = connect(&scratch.namespace);
    healer.write_at(0, &vec![7; LONG]).unwrap();
    assert_eq!(
        connect(&scratch.namespace)
            .read_to_vec(LONG - 1, 1)
            .unwrap(),
        [7]
    );
}

// --- The lock ---

#[test]
fn a_stopped_holder_is_named_and_keeps_the_lock() {
    let (scratch, buffer) = scratch_with_buffer(8);
    let mut holder = scratch.start("hold");
    holder.expect("locked");
    holder.stop();
    let soon = Instant::now() + Duration::from_millis(50);
    let error = buffer.lock_deadline(soon).unwrap_err();
    let LockError::TimedOut { holder: named, .. } = &error else {
        panic!("{error}")
    };
    let pid = holder.pid().to_string();
    assert_eq!(named.pid.to_string(), pid);
    assert!(error.to_string().contains(&pid), "{error}");
    holder.resume();
    holder.send("unlock");
    holder.expect("unlocked");
    let guard = buffer.lock().unwrap();
    assert_eq!(guard.inherited(), Inherited::No);
    assert_eq!(guard.read_to_vec(0, 4).unwrap(), b"mine");
}

/// Increments two counters that are equal whenever the lock is free, unless its last holder was
/// killed. Returns the new count.
fn count(guard: &mut BufferGuard<'_>) -> u64 {
    let torn = guard.accept_torn().unwrap();
    let read = |guard: &BufferGuard<'_>, offset| {
        let mut bytes = [0; 8];
        guard.read_at(offset, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    };
    let (first, second) = (read(guard, 0), read(guard, 8));
    if guard.inherited() == Inherited::No {
        assert_eq!(
            (first, torn),
            (second, None),
            "two processes had the lock, or a death was not reported"
        );
    }
    let next = (first + 1).to_le_bytes();
    guard.write_at(0, &next).unwrap();
    guard.write_at(8, &next).unwrap();
    first + 1
}

fn count_for_ever(namespace: &Namespace) {
    let mut buffer = connect(namespace);
    buffer.set_timeout(Duration::MAX);
    loop {
        count(&mut buffer.lock().unwrap());
    }
}

#[test]
fn the_lock_excludes_other_processes_through_fifty_kills() {
    let (scratch, mut buffer) = scratch_with_buffer(16);
    // The lock is not fair, and this machine may be busy.
    buffer.set_timeout(Duration::MAX);
    let start = || Some(scratch.start("count"));
    let mut peers = [start(), start(), start()];
    for kill in 0..50 {
        let before = count(&mut buffer.lock().unwrap());
        let goal = before + fastrand::u64(5..50);
        // The peers do most of the counting.
        while count(&mut buffer.lock().unwrap()) < goal {}
        let doomed = &mut peers[kill % 3];
        doomed.take().unwrap().kill();
        *doomed = start();
    }
}

#[test]
fn a_death_is_noticed_without_any_call() {
    let (scratch, buffer) = scratch_with_buffer(1);
    let mut peer = scratch.start("connect");
    peer.expect("connected");
    assert_eq!(buffer.users().len(), 2);
    peer.kill();
    // Only the watcher can free the slot now.
    while buffer.users().len() > 1 {
        thread::yield_now();
    }
}

#[test]
fn the_slots_of_killed_processes_are_free_for_new_ones() {
    let scratch = Scratch::new();
    let namespace = &scratch.namespace;
    drop(SharedBuffer::create_for(namespace, "b", 1, 3).unwrap());
    for _ in 0..3 {
        let peers = [(); 3].map(|()| {
            let mut peer = scratch.start("connect");
            peer.expect("connected");
            peer
        });
        let error = SharedBuffer::connect(namespace, "b").unwrap_err();
        assert!(
            matches!(error, BufferError::TooManyProcesses { processes: 3, .. }),
            "{error}"
        );
        peers.into_iter().for_each(Peer::kill);
        let _three = [(); 3].map(|()| connect(namespace));
    }
}

// --- Forks ---

/// Leaves a child that lives until its standard input is closed. Then waits to be killed with the
/// lock.
fn lock_and_fork(namespace: &Namespace) {
    let buffer = connect(namespace);
    let _guard = buffer.lock().unwrap();
    let (child, ()) = in_forked_child((), |()| {
        say("forked");
        listen();
    });
    say(&child.to_string());
    wait_for_death()
}

/// Returns `true` if any process holds a lock on the buffer's file.
fn is_any_byte_locked(namespace: &Namespace) -> bool {
    let path = namespace.path().join("b.buffer");
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut lock = libc::flock {
        l_type: i16::try_from(libc::F_WRLCK).unwrap(),
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
    i32::from(lock.l_type) != libc::F_UNLCK
}

#[test]
fn a_forked_child_keeps_neither_the_lock_nor_the_slot_of_its_dead_parent() {
    let scratch = Scratch::new();
    let namespace = &scratch.namespace;
    drop(SharedBuffer::create_for(namespace, "b", 1, 1).unwrap());
    let mut parent = scratch.start("lock and fork");
    let said = [parent.receive(), parent.receive()];
    let child = said.iter().find_map(|line| line.parse().ok()).unwrap();
    let input = parent.kill_but_keep_input();
    // The premise of this test: the child lives and inherited its parent's kernel locks.
    assert!(kill(Pid::from_raw(child), None).is_ok() && is_any_byte_locked(namespace));
    let heir = connect(namespace);
    assert!(matches!(
        heir.lock().unwrap().inherited(),
        Inherited::FromDead(_)
    ));
    assert!(kill(Pid::from_raw(child), None).is_ok());
    drop(input);
}

/// A forked child gets errors, takes nothing from its parent, and can connect on its own.
fn fork_and_use(namespace: &Namespace) {
    let buffer = connect(namespace);
    let parent = std::process::id();
    let (child, guard) = in_forked_child(buffer.lock().unwrap(), |guard| {
        assert_refused(&buffer, guard);
        let own = connect(namespace);
        let error = own.lock_deadline(Instant::now()).unwrap_err();
        assert!(
            matches!(&error, LockError::TimedOut { holder, .. } if holder.pid == parent),
            "{error}"
        );
    });
    assert_ended_well(child);
    let other = connect(namespace);
    let error = other.lock_deadline(Instant::now()).unwrap_err();
    assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
    drop(guard);
    let guard = other.lock_deadline(Instant::now()).unwrap();
    assert_eq!(guard.inherited(), Inherited::No);
    drop(guard);
    let (child, buffer) = in_forked_child(buffer, drop);
    assert_ended_well(child);
    let ours = |user: &Participant| user.process.pid == parent;
    assert_eq!(other.users().iter().filter(|user| ours(user)).count(), 2);
    buffer.write_at(0, b"well").unwrap();
}

/// Runs in a forked child of the process that connected and locked.
fn assert_refused(buffer: &SharedBuffer, mut guard: BufferGuard<'_>) {
    let forked = |error: LockError| {
        assert!(matches!(error, LockError::ForkedChild { .. }), "{error}");
    };
    let refused = |error: AccessError| match error {
        AccessError::Lock(error) => forked(error),
        other => panic!("{other}"),
    };
    forked(buffer.lock().unwrap_err());
    forked(buffer.accept_torn().unwrap_err());
    refused(buffer.read_to_vec(0, 1).unwrap_err());
    refused(buffer.write_at(0, &[1]).unwrap_err());
    refused(guard.read_to_vec(0, 1).unwrap_err());
    refused(guard.write_at(0, &[1]).unwrap_err());
    forked(guard.accept_torn().unwrap_err());
}

#[test]
fn a_forked_child_gets_errors_and_takes_nothing_from_its_parent() {
    let (scratch, _buffer) = scratch_with_buffer(8);
    assert!(scratch.start("fork and use").end().success());
}

/// Two children of one parent have different sender numbers.
fn fork_two(namespace: &Namespace) {
    let parent = connect(namespace);
    let children = [(); 2].map(|()| {
        let (child, ()) = in_forked_child((), |()| {
            die_with_parent();
            let _own = connect(namespace);
            wait_for_death()
        });
        child
    });
    while parent.users().len() < 3 {
        thread::yield_now();
    }
    let mut senders: Vec<_> = parent.users().iter().map(|user| user.sender).collect();
    senders.sort_unstable();
    senders.dedup();
    for child in children {
        kill(child, Signal::SIGKILL).unwrap();
    }
    assert_eq!(senders.len(), 3);
}

#[test]
fn forked_siblings_have_different_sender_numbers() {
    let scratch = Scratch::new();
    drop(SharedBuffer::create(&scratch.namespace, "b", 8).unwrap());
    assert!(scratch.start("fork two").end().success());
}

const KIND: Kind = Kind::new("plain");

/// Processes that inherit one segment would each find the others' locks free.
fn join_in_fork(namespace: &Namespace) {
    let header = Header::new(KIND, 1, PayloadType::bytes(), 4, [0; 14], 64).unwrap();
    let name = "inherited".parse().unwrap();
    let segment = Segment::create(namespace, &name, &header).unwrap();
    let (child, segment) = in_forked_child(segment, |segment| {
        let error = Attachment::join(segment, "child").unwrap_err();
        assert!(matches!(error, JoinError::ForkedChild { .. }), "{error}");
        let expected = Expected {
            kind: KIND,
            layout_hash: 1,
            payload: None,
        };
        let own = Segment::open(namespace, &name, &expected).unwrap();
        Attachment::join(own, "child").unwrap();
    });
    assert_ended_well(child);
    Attachment::join(segment, "parent").unwrap();
}

#[test]
fn a_segment_opened_before_a_fork_cannot_be_joined_in_the_child() {
    assert!(Scratch::new().start("join in fork").end().success());
}

// --- PID namespaces ---

/// Returns a command that runs a program with the arguments appended to it, or the reason why there
/// is none.
fn unshare(flags: &[&str]) -> Result<Command, String> {
    let possible = Command::new("unshare").args(flags).arg("true").output();
    match possible {
        Ok(output) if output.status.success() => {
            let mut command = Command::new("unshare");
            command.args(flags);
            Ok(command)
        }
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(format!("unshare: {error}")),
    }
}

#[test]
fn a_live_holder_in_another_pid_namespace_keeps_the_lock() {
    for more in [&[][..], &["--mount-proc"]] {
        let flags = [&["--pid", "--fork", "--kill-child"], more].concat();
        let mut command = match unshare(&flags) {
            Ok(command) => command,
            Err(why) => return println!("skipped: {why}"),
        };
        // Not `/proc/self/exe`, because that namespace may have another `/proc`.
        command.arg(std::env::current_exe().unwrap());
        let (scratch, buffer) = scratch_with_buffer(8);
        let mut holder = scratch.start_by(command, "hold");
        holder.expect("locked");
        let error = buffer.lock_deadline(Instant::now()).unwrap_err();
        assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
        // This also kills the program that it started.
        holder.kill();
        let guard = buffer.lock().unwrap();
        assert!(matches!(guard.inherited(), Inherited::FromDead(_)));
    }
}

/// A forked child may be in another PID namespace than its parent, and must not report its
/// parent's.
fn fork_into_pid_namespace() {
    let parent = ProcessIdentity::current();
    // SAFETY: changes only the namespace of future children.
    if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
        return println!("skipped: {}", std::io::Error::last_os_error());
    }
    let (child, ()) = in_forked_child((), |()| {
        let child = ProcessIdentity::current();
        assert_eq!(child.pid, 1);
        // The child sees its parent's `/proc`, which knows it by another number. So it cannot
        // identify its own namespace.
        assert_eq!(child.pid_namespace, 0);
    });
    assert_ended_well(child);
    assert_eq!(ProcessIdentity::current(), parent);
}

#[test]
fn a_child_forked_into_a_pid_namespace_does_not_report_its_parents() {
    assert!(
        Scratch::new()
            .start("fork into pid namespace")
            .end()
            .success()
    );
}
