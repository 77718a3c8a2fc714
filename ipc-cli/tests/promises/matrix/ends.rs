//! The signals that ask a command to end, for all rows: while it writes the answer, while it reads
//! standard input, and while it waits for the users of a queue.

use std::fs;
use std::io::{ErrorKind, Write, pipe};
use std::os::fd::AsFd;
use std::process::{Child, Stdio};

use ipc_queue::QueueOptions;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::{SYS_read, SYS_write, c_long};
use nix::sys::signal::Signal;

use super::{BEFORE, Case, Cell, Kind, SAVED, State, act, for_each};
use crate::place::{Ended, Running, wait_until};
use crate::signals::{ENDS, has_handler, signal};

/// Returns a full pipe, whose writer blocks, and its reader.
fn full_pipe() -> (Stdio, impl Sized) {
    let (reader, mut writer) = pipe().unwrap();
    let set = |flag| fcntl(writer.as_fd(), FcntlArg::F_SETFL(flag)).unwrap();
    set(OFlag::O_NONBLOCK);
    let full = loop {
        if let Err(error) = (&mut &writer).write(&[0; 4096]) {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    set(OFlag::empty());
    let _ = writer.flush();
    (writer.into(), reader)
}

/// Returns `true` if a process waits in this system call on this descriptor.
fn is_in(child: &Child, call: c_long, descriptor: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{}/syscall", child.id())).unwrap();
    let mut words = text.split(' ');
    words.next() == Some(&call.to_string()) && words.next() == Some(&format!("{descriptor:#x}"))
}

/// Returns `true` if the kernel shows the system call of a process.
fn can_be_seen(test: &str) -> bool {
    let can = fs::read_to_string("/proc/self/syscall").is_ok();
    if !can {
        println!("skipped: {test}: /proc has no system calls here");
    }
    can
}

/// Ends a process that can't finish its work. Returns how it ended, and the signal that ended it.
///
/// A command that finishes what it holds treats the first signal as a request. A SIGHUP is never
/// more than a request, even if it is repeated.
fn end_by(mut running: Running, end: Signal) -> (Ended, Signal) {
    let asks_first = has_handler(&running, end);
    signal(&running, end);
    if !asks_first {
        return (running.end(), end);
    }
    let insisting = match end {
        Signal::SIGHUP => Signal::SIGTERM,
        end => end,
    };
    // Two signals of one kind may become one if the first was not handled yet.
    wait_until("it has ended", || {
        signal(&running, insisting);
        running.0.try_wait().unwrap().is_some()
    });
    (running.end(), insisting)
}

/// The state once another process has freed what the ended one held.
fn state_after_recovery(cell: &Cell<'_>) -> State {
    if cell.place.look("jobs").is_some() {
        drop(cell.place.make("jobs", &QueueOptions::new()));
    }
    cell.state()
}

#[test]
fn a_command_that_cannot_print_is_ended_by_each_signal_and_its_exit_code_says_so() {
    if !can_be_seen("signals during output") {
        return;
    }
    for end in ENDS {
        for_each("ends", |cell| {
            let (full, _reader) = full_pipe();
            let mut command = cell.command();
            let mut child = command.stdin(Stdio::piped()).stdout(full).spawn().unwrap();
            let input = cell.case.input.unwrap_or_default();
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(input.as_bytes()).unwrap();
            drop(stdin);
            let args = cell.case.args;
            wait_until(&format!("{args:?} prints"), || is_in(&child, SYS_write, 1));
            let (ended, by) = end_by(Running(child), end);
            assert_eq!(ended.code, 128 + by as i32, "{args:?} {end}: {ended:?}");
            let state = match cell.case.kind {
                Kind::Take => cell.case.before,
                _ => cell.case.after,
            };
            // After one line of input, the command prints its answer before it begins the next.
            let is_first_of_two = input.lines().count() == 2;
            let state = match is_first_of_two {
                true => State {
                    ready: state.ready - 1,
                    ..state
                },
                false => state,
            };
            assert_eq!(
                state_after_recovery(cell),
                state,
                "{args:?} {end}: {ended:?}"
            );
        });
    }
}

#[test]
fn a_command_that_waits_for_input_is_ended_by_each_signal_and_sends_nothing() {
    if !can_be_seen("signals during input") {
        return;
    }
    for end in ENDS {
        for_each("input", |cell| {
            if cell.case.input.is_none() {
                return;
            }
            let mut child = cell.command().stdin(Stdio::piped()).spawn().unwrap();
            let _input = child.stdin.take();
            let args = cell.case.args;
            wait_until(&format!("{args:?} reads"), || is_in(&child, SYS_read, 0));
            let (ended, by) = end_by(Running(child), end);
            assert_eq!(ended.code, 128 + by as i32, "{args:?} {end}: {ended:?}");
            assert_eq!(cell.state(), cell.case.before, "{args:?} {end}: {ended:?}");
        });
    }
}

/// The rows that wait until nothing else uses the queue.
const ALONE: [&[&str]; 3] = [
    &["save", "QUEUE", "FILE", "--timeout", "1h"],
    &["move", "QUEUE", "OTHER", "--timeout", "1h"],
    &["restore", "FILE", "QUEUE", "--timeout", "1h"],
];

#[test]
fn a_command_that_waits_for_the_users_of_a_queue_is_ended_by_each_signal_and_moves_nothing() {
    for end in ENDS {
        for args in ALONE {
            let before = match args[0] {
                "restore" => SAVED,
                _ => BEFORE,
            };
            let case = Case {
                before,
                ..act(args, before)
            };
            let cell = Cell::new(&case, "alone");
            let user = cell.place.make("jobs", &QueueOptions::new());
            let running = Running::start(&mut cell.command());
            let waits = || cell.place.look("jobs").unwrap().participants().len() == 2;
            wait_until(&format!("{args:?} waits"), waits);
            let (ended, by) = end_by(running, end);
            assert_eq!(ended.code, 128 + by as i32, "{args:?} {end}: {ended:?}");
            // The user of the queue continues: nothing is frozen.
            user.sender().send(b"three").unwrap();
            user.receiver().recv().unwrap().ack().unwrap();
            assert_eq!(cell.state(), before, "{args:?} {end}: {ended:?}");
        }
    }
}
