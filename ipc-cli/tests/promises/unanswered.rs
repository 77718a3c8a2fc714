//! A server that stops answering: the exit code is 0 only if the request was carried out.
//! `matrix/silent.rs` has a server that never answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use ipc_queue::{ByteQueue, LocalQueue, Name, QueueOptions, UnixServer};
use tempfile::TempDir;

use crate::place::{Ended, run, wait_until};
use crate::proxy::{Fault, Proxy};

/// The state of the queue, seen without the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    exists: bool,
    ready: u64,
    dead: u64,
    paused: bool,
    closed: bool,
}

/// Two messages and a dead letter.
const BEFORE: State = State {
    exists: true,
    ready: 2,
    dead: 1,
    paused: false,
    closed: false,
};
const REMOVED: State = State {
    exists: false,
    ready: 0,
    dead: 0,
    ..BEFORE
};

/// A served queue.
struct Served {
    queue: ByteQueue,
    name: Name,
    _server: UnixServer,
    folder: TempDir,
}

impl Served {
    fn new(before: State) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("unanswered-{}", NUMBER.fetch_add(1, Ordering::SeqCst));
        let queue = QueueOptions::new()
            .open_bytes(format!("local:{name}"))
            .unwrap();
        queue.sender().send(b"dead").unwrap();
        queue.receiver().recv().unwrap().bury().unwrap();
        for payload in [&b"one"[..], b"two"].iter().take(before.ready as usize) {
            queue.sender().send(payload).unwrap();
        }
        let transport = queue.transport();
        if before.closed {
            transport.close().unwrap();
        }
        if before.paused {
            transport.pause().unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let name = Name::new(&name).unwrap();
        let removed = name.clone();
        let options = UnixServer::options().any_payload();
        let server = options
            .removable(move || Ok(LocalQueue::remove(&removed)))
            .bind(folder.path().join("server.sock"), Arc::clone(transport))
            .unwrap();
        Self {
            queue,
            name,
            _server: server,
            folder,
        }
    }

    fn proxy(&self, fault: Fault, request: usize) -> Proxy {
        let at = self.folder.path().join("proxy.sock");
        Proxy::start(&at, &self.folder.path().join("server.sock"), fault, request)
    }

    fn letter(&self) -> String {
        let letters = self.queue.transport().dead_letters().unwrap_or_default();
        let parts = letters.first().map(|letter| letter.id.parts());
        parts.map_or_else(String::new, |(place, version)| format!("{place}.{version}"))
    }

    fn state(&self) -> State {
        match self.queue.transport().stats() {
            Err(_) => REMOVED,
            Ok(stats) => State {
                exists: true,
                ready: stats.ready,
                dead: stats.dead,
                paused: stats.paused,
                closed: stats.closed,
            },
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = LocalQueue::remove(&self.name);
    }
}

/// A subcommand that asks a server. `AT` and `LETTER` are replaced by the address and a dead
/// letter.
struct Case {
    args: &'static [&'static str],
    before: State,
    /// The state after it has done its work.
    after: State,
    /// The exit code if nothing fails.
    code: i32,
    /// The text that it then prints.
    says: &'static str,
}

const fn case(args: &'static [&'static str], after: State, says: &'static str) -> Case {
    Case {
        args,
        before: BEFORE,
        after,
        code: 0,
        says,
    }
}

/// Makes each of its requests fail in every way, one at a time.
#[track_caller]
fn try_out(case: &Case) {
    thread::scope(|scope| {
        let faults = Fault::ALL.map(|fault| scope.spawn(move || try_fault(case, fault)));
        for tried in faults {
            tried.join().unwrap();
        }
    });
}

fn try_fault(case: &Case, fault: Fault) {
    let mut request = 0;
    loop {
        let served = Served::new(case.before);
        let proxy = served.proxy(fault, request);
        let letter = served.letter();
        let args = case.args.iter().map(|arg| match *arg {
            "AT" => format!("unix:{}", proxy.address()),
            "LETTER" => letter.clone(),
            arg => arg.to_owned(),
        });
        let first = ["--answer-timeout".to_owned(), fault.patience().to_owned()];
        let args: Vec<_> = first.into_iter().chain(args).collect();
        let ended = run(&args);
        let what = format!("{:?}, {fault:?} at request {request}: {ended:?}", case.args);
        check(case, &ended, &served, &what);
        if !proxy.is_reached() {
            if ended.code == case.code {
                assert!(request > 1, "it asks nothing: {what}");
                return;
            }
            // On a slow machine the client may time out before the failure is injected.
            continue;
        }
        request += 1;
        if fault == Fault::Delay {
            assert_eq!(ended.code, case.code, "{what}");
        }
    }
}

fn check(case: &Case, ended: &Ended, served: &Served, what: &str) {
    if ended.code == case.code {
        // Work of the server for a connection that was cut may end later.
        wait_until(what, || served.state() == case.after);
        assert!(ended.out.contains(case.says), "{what}");
    } else {
        assert_eq!(ended.code, 6, "{what}");
        // A printed message may be delivered again; the error says so.
        let is_said = ended.error().contains("printed, but not acked");
        assert!(ended.out.is_empty() || is_said, "{what}");
        let state = served.state();
        assert!(
            state == case.before || state == case.after,
            "{state:?} {what}"
        );
    }
    if ended.code != 0 {
        ended.error();
    }
}

macro_rules! cases {
    ($($name:ident: $case:expr;)*) => {
        $(#[test]
        fn $name() {
            try_out(&$case);
        })*
    };
}

cases! {
    a_statistic_is_never_made_up: case(&["stat", "AT", "--json"], BEFORE, "\"ready\":2");
    leases_are_never_made_up: case(&["stat", "AT", "--json"], BEFORE, "\"leases\":[]");
    figures_for_a_scraper_are_never_made_up:
        case(&["stat", "AT", "--prometheus"], BEFORE, "dead_letters{");
    a_picture_is_never_made_up:
        case(&["top", "AT", "--once", "--every", "1ms", "--json"], BEFORE, "\"ready\":2");
    letters_are_listed_or_not_at_all: case(&["dlq", "ls", "AT", "--json"], BEFORE, "\"dead\"");
    a_letter_is_shown_or_not_at_all:
        case(&["dlq", "show", "AT", "LETTER", "--json"], BEFORE, "\"dead\"");
    a_letter_that_is_said_to_be_requeued_is:
        case(&["dlq", "requeue", "AT", "LETTER"], State { ready: 3, dead: 0, ..BEFORE }, "1 req");
    all_letters_that_are_said_to_be_requeued_are:
        case(&["dlq", "requeue", "AT", "--all"], State { ready: 3, dead: 0, ..BEFORE }, "1 req");
    a_letter_that_is_said_to_be_dropped_is:
        case(&["dlq", "drop", "AT", "LETTER"], State { dead: 0, ..BEFORE }, "1 dropped");
    what_is_said_to_be_purged_is:
        case(&["purge", "AT"], State { ready: 0, ..BEFORE }, "2 messages dropped");
    what_is_said_to_be_paused_is: case(&["pause", "AT"], State { paused: true, ..BEFORE }, "");
    what_is_said_to_be_resumed_is: Case {
        before: State { paused: true, ..BEFORE },
        ..case(&["resume", "AT"], BEFORE, "delivers")
    };
    what_is_said_to_be_reopened_is: Case {
        before: State { closed: true, ..BEFORE },
        ..case(&["reopen", "AT"], BEFORE, "takes messages again")
    };
    what_is_said_to_be_drained_is: Case {
        before: State { ready: 0, ..BEFORE },
        ..case(&["drain", "AT"], State { ready: 0, closed: true, ..BEFORE }, "was settled")
    };
    what_is_said_to_be_sent_is:
        case(&["send", "AT", "three"], State { ready: 3, ..BEFORE }, "-");
    what_is_said_to_be_received_is: case(&["recv", "AT"], State { ready: 1, ..BEFORE }, "one");
    what_a_command_is_said_to_have_done_is_done: case(
        &["work", "AT", "--json", "--count", "1", "--", "true"],
        State { ready: 1, ..BEFORE },
        "\"outcome\":\"acked\"",
    );
    what_is_said_to_be_removed_is: case(&["rm", "AT", "--force"], REMOVED, "is removed");
    what_may_not_be_empty_is_not_removed:
        Case { code: 5, ..case(&["rm", "AT"], BEFORE, "") };
    a_paused_queue_is_not_closed_by_a_drain_that_is_refused: Case {
        before: State { paused: true, ..BEFORE },
        code: 5,
        ..case(&["drain", "AT"], State { paused: true, ..BEFORE }, "")
    };
}
