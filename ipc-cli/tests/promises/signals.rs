//! Signals that end a command: which commands finish what they hold, which end at once, and the
//! exit codes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipc_queue::{ByteQueue, QueueOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::place::{Ended, Place, Running, full_disk, ipc, program, run, wait_until};

pub const ENDS: [Signal; 4] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGQUIT,
];

pub fn signal(running: &Running, signal: Signal) {
    let pid = i32::try_from(running.0.id()).unwrap();
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Sends a signal that asks the command to end, and returns once it knows: once its thread for
/// signals has noticed the signal and waits for the next one.
pub fn ask_to_end(running: &Running, end: Signal) {
    let threads = Path::new("/proc")
        .join(running.0.id().to_string())
        .join("task");
    let named = |thread: &PathBuf| {
        fs::read_to_string(thread.join("comm")).is_ok_and(|comm| comm.trim() == "ipc-signals")
    };
    let thread = || {
        let threads = fs::read_dir(&threads).ok()?.flatten();
        threads.map(|entry| entry.path()).find(named)
    };
    wait_until("it listens to signals", || thread().is_some());
    let thread = thread().unwrap();
    let blocked_in = || fs::read_to_string(thread.join("syscall")).unwrap();
    // The number of times that it fell asleep.
    let sleeps = || {
        let status = fs::read_to_string(thread.join("status")).unwrap();
        let mut lines = status.lines();
        let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.unwrap().trim().parse::<u64>().unwrap()
    };
    let mut before = (blocked_in(), sleeps());
    wait_until("it waits for a signal", || {
        let now = (blocked_in(), sleeps());
        let is_asleep = !now.0.starts_with("running") && now == before;
        before = now;
        is_asleep
    });
    signal(running, end);
    wait_until("it waits for the next signal", || {
        sleeps() > before.1 && blocked_in() == before.0
    });
}

pub fn has_handler(running: &Running, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", running.0.id())).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = u64::from_str_radix(mask.unwrap().trim(), 16).unwrap();
    mask >> (signal as i32 - 1) & 1 == 1
}

pub fn wait_for_handler(running: &Running, signal: Signal) {
    wait_until("a handler", || has_handler(running, signal));
}

fn wait_until_attached(running: &Running, place: &Place, queue: &str) {
    let inspector = place.look(queue).unwrap();
    let is_it = |pid| pid == running.0.id();
    wait_until("it is attached", || {
        inspector
            .participants()
            .iter()
            .any(|(slot, _)| is_it(slot.process.pid))
    });
}

fn queue(place: &Place, messages: usize) -> ByteQueue {
    let queue = place.make("jobs", &QueueOptions::new().capacity(4));
    for _ in 0..messages {
        queue.sender().send(b"one").unwrap();
    }
    queue
}

/// Runs a command until it waits, sends the signal, and returns the result.
fn ended_by(end: Signal, place: &Place, args: &[&str]) -> Ended {
    let args: Vec<_> = args
        .iter()
        .map(|arg| arg.replace("QUEUE", &place.name("jobs")))
        .collect();
    let running = Running::start(&mut ipc(&args));
    wait_for_handler(&running, end);
    signal(&running, end);
    running.end()
}

fn code(signal: Signal) -> i32 {
    128 + signal as i32
}

#[test]
fn a_receiver_that_gets_a_signal_reports_what_is_missing() {
    for end in ENDS {
        let place = Place::new("recv-end");
        let queue = queue(&place, 0);
        let ended = ended_by(end, &place, &["recv", "QUEUE", "--count", "2"]).expect(code(end));
        assert!(ended.error().contains("0 of 2 messages"), "{ended:?}");
        // A command that works until it is told to end has done its work.
        ended_by(end, &place, &["recv", "QUEUE", "--follow"]).expect(0);
        assert_eq!(queue.transport().stats().unwrap().in_use(), 0);
    }
}

#[test]
fn a_blocked_sender_dies_of_the_signal_and_sends_nothing() {
    for end in ENDS {
        let place = Place::new("send-end");
        queue(&place, 4);
        let running = Running::start(&mut ipc(&["send", &place.name("jobs"), "five"]));
        wait_until_attached(&running, &place, "jobs");
        signal(&running, end);
        assert_eq!(running.end().code, code(end));
        assert_eq!(place.look("jobs").unwrap().stats().sent, 4);
    }
}

#[test]
fn a_drain_that_gets_a_signal_reports_what_is_left() {
    for end in ENDS {
        let place = Place::new("drain-end");
        let queue = queue(&place, 2);
        let ended = ended_by(end, &place, &["drain", "QUEUE"]).expect(code(end));
        assert!(
            ended.error().contains("closed, with 2 messages left"),
            "{ended:?}"
        );
        let stats = queue.transport().stats().unwrap();
        assert_eq!((stats.ready, stats.closed), (2, true));
    }
}

#[test]
fn a_bridge_that_gets_a_signal_settles_its_messages() {
    for end in ENDS {
        let place = Place::new("bridge-end");
        let queue = queue(&place, 2);
        let (jobs, other) = (place.name("jobs"), place.name("other"));
        let running = Running::start(&mut ipc(&["bridge", &jobs, &other, "--create"]));
        wait_until("both are carried", || {
            queue.transport().stats().unwrap().acked == 2
        });
        signal(&running, end);
        running.end().expect(0);
        assert_eq!(place.look("other").unwrap().stats().ready, 2);
        // It should have continued until the queue is drained, and the queue is not.
        let receiver = queue.receiver();
        queue.sender().send(b"held").unwrap();
        let held = receiver.recv().unwrap();
        let ended = ended_by(end, &place, &["bridge", "QUEUE", &other, "--drain"]);
        ended.expect(code(end));
        held.ack().unwrap();
    }
}

#[test]
fn a_server_drains_its_local_queue_on_every_ending_signal() {
    for end in ENDS {
        let folder = tempfile::tempdir().unwrap();
        let at = format!("unix:{}", folder.path().join("x.sock").display());
        let mut server = Running::start(&mut ipc(&["serve", "local:jobs", "--at", &at]));
        let mut said = BufReader::new(server.0.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        for payload in ["one", "two", "three"] {
            run(&["send", &at, payload]).expect(0);
        }
        signal(&server, end);
        line.clear();
        said.read_line(&mut line).unwrap();
        assert!(line.starts_with("3 messages are left"), "{end}: {line}");
        // SIGHUP never counts as the second signal.
        signal(&server, Signal::SIGHUP);
        for payload in ["one\n", "two\n", "three\n"] {
            assert_eq!(run(&["recv", &at]).expect(0).out, payload);
        }
        server.end().expect(0);
    }
}

#[test]
fn a_second_signal_ends_a_server_at_once_with_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let at = format!("unix:{}", folder.path().join("x.sock").display());
    let mut server = Running::start(&mut ipc(&["serve", "local:jobs", "--at", &at]));
    let mut said = BufReader::new(server.0.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    run(&["send", &at, "one"]).expect(0);
    signal(&server, Signal::SIGTERM);
    said.read_line(&mut line).unwrap();
    signal(&server, Signal::SIGTERM);
    let ended = server.end().expect(code(Signal::SIGTERM));
    assert!(ended.error().contains("second SIGTERM"), "{ended:?}");
}

#[test]
fn a_server_continues_when_nothing_reads_its_output() {
    let folder = tempfile::tempdir().unwrap();
    let at = format!("unix:{}", folder.path().join("x.sock").display());
    let mut server = Running::start(&mut ipc(&["serve", "local:jobs", "--at", &at]));
    let mut said = BufReader::new(server.0.stdout.take().unwrap());
    said.read_line(&mut String::new()).unwrap();
    drop(said);
    run(&["send", &at, "one"]).expect(0);
    signal(&server, Signal::SIGTERM);
    assert_eq!(run(&["recv", &at]).expect(0).out, "one\n");
    server.end().expect(0);
    // If it can't report that it is ready, it does not begin.
    Ended::of(ipc(&["serve", "local:jobs", "--at", &at]).stdout(full_disk())).expect(1);
}

#[test]
fn a_server_under_nohup_outlives_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let at = format!("unix:{}", folder.path().join("x.sock").display());
    let mut shell = program("sh");
    shell.args([
        "-c",
        "trap '' HUP; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_ipc"),
    ]);
    let mut server = Running::start(shell.args(["serve", "local:jobs", "--at", &at]));
    let mut said = BufReader::new(server.0.stdout.take().unwrap());
    said.read_line(&mut String::new()).unwrap();
    wait_for_handler(&server, Signal::SIGTERM);
    assert!(!has_handler(&server, Signal::SIGHUP));
    signal(&server, Signal::SIGHUP);
    run(&["send", &at, "one"]).expect(0);
    run(&["recv", &at, "--timeout", "0s"]).expect(0);
    signal(&server, Signal::SIGTERM);
    server.end().expect(0);
}

#[test]
fn a_receiver_whose_reader_left_returns_its_message() {
    let place = Place::new("reader");
    let queue = queue(&place, 0);
    let mut running = Running::start(&mut ipc(&["recv", &place.name("jobs"), "--follow"]));
    wait_for_handler(&running, Signal::SIGTERM);
    // The reader leaves before a message arrives, so no message loses an attempt.
    drop(running.0.stdout.take());
    running.end().expect(1);
    queue.sender().send(b"one").unwrap();
    let receiver = queue.receiver();
    let delivery = receiver.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(delivery.attempt(), 1);
    delivery.ack().unwrap();
}
