//! The situations that need neither a server nor a signal, each for all rows.

use std::io::pipe;
use std::process::Stdio;

use ipc_queue::QueueOptions;

use super::{BEFORE, CASES, Case, Cell, Kind, State, act, for_each};
use crate::place::{Ended, Place, Running, full_disk, ipc, run, run_with, wait_until};

#[test]
fn successful_commands_end_with_0_and_have_their_effect() {
    for_each("plain", |cell| {
        let ended = cell.run(Stdio::piped());
        assert!(ended.err.is_empty(), "{:?}: {ended:?}", cell.case.args);
        cell.expect(ended, 0, cell.case.after);
    });
}

#[test]
fn a_reader_that_left_stops_only_receiving() {
    for_each("gone", |cell| {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let ended = cell.run(writer);
        match cell.case.kind {
            Kind::Take => cell.expect(ended, 1, cell.case.before),
            _ => cell.expect(ended, 0, cell.case.after),
        };
    });
}

#[test]
fn a_full_disk_loses_the_answer_and_not_a_message() {
    for_each("full", |cell| {
        let ended = cell.run(full_disk());
        let state = match cell.case.kind {
            Kind::Take => cell.case.before,
            _ => cell.case.after,
        };
        let ended = cell.expect(ended, 1, state);
        let error = ended.error();
        assert_eq!(error.matches("No space left").count(), 1, "{error}");
        let is_said = error.starts_with("done, but the answer is lost");
        assert_eq!(
            is_said,
            cell.case.kind == Kind::Act,
            "{:?}: {error}",
            cell.case.args
        );
    });
}

#[test]
fn a_closed_output_receives_no_messages() {
    for_each("closed", |cell| {
        if cell.case.input.is_some() {
            return;
        }
        let ended = Ended::of(&mut cell.by_shell(">&-"));
        match cell.case.kind {
            Kind::Take => cell.expect(ended, 5, cell.case.before),
            _ => cell.expect(ended, 0, cell.case.after),
        };
    });
}

/// The options of commands that read lines.
const LINES: [&str; 3] = ["--lines", "--json", "import"];

#[test]
fn without_standard_input_nothing_is_sent_from_it() {
    for redirection in ["<&-", "< /dev/null"] {
        for_each("stdin", |cell| {
            let ended = Ended::of(&mut cell.by_shell(redirection));
            match cell.case.input {
                // It sends no lines, which is all that there were.
                Some(_) if LINES.iter().any(|arg| cell.case.args.contains(arg)) => {
                    cell.expect(ended, 0, cell.case.before)
                }
                Some(_) => cell.expect(ended, 2, cell.case.before),
                None => cell.expect(ended, 0, cell.case.after),
            };
        });
    }
}

#[test]
fn a_local_queue_is_refused() {
    for_each("local", |cell| {
        let Some(at) = cell
            .case
            .args
            .iter()
            .position(|arg| ["QUEUE", "OTHER"].contains(arg))
        else {
            return;
        };
        let mut args = cell.args.clone();
        args[at] = "local:jobs".to_owned();
        let ended = cell.expect(run_with(&args, "three"), 5, cell.case.before);
        assert!(ended.error().contains("in one process only"), "{ended:?}");
        // `check` reports "unknown" on standard output.
        assert!(ended.out.is_empty() || args[0] == "check", "{ended:?}");
    });
    let place = Place::new("local");
    place.make_with_one("jobs");
    let jobs = place.name("jobs");
    run(&["bridge", &jobs, "local:nowhere", "--create", "--close"]).expect(5);
    assert_eq!(place.look("jobs").unwrap().stats().ready, 1);
}

#[test]
fn a_missing_queue_is_reported() {
    for_each("missing", |cell| {
        if !cell.case.args.contains(&"QUEUE") {
            return;
        }
        let args = cell.args.iter().map(|arg| match arg {
            arg if *arg == cell.place.name("jobs") => cell.place.name("nosuch"),
            arg => arg.clone(),
        });
        let args: Vec<_> = args.collect();
        cell.expect(run_with(&args, "three"), 3, cell.case.before);
    });
}

#[test]
fn source_and_destination_must_differ() {
    for_each("same-name", |cell| {
        let place = |what| cell.case.args.iter().position(|arg| *arg == what);
        let (Some(from), Some(to)) = (place("QUEUE"), place("OTHER")) else {
            return;
        };
        let mut args = cell.args.clone();
        args[to] = args[from].clone();
        let code = match cell.case.args[0] {
            "bridge" => 5,
            _ => 2,
        };
        cell.expect(run(&args), code, cell.case.before);
    });
    let place = Place::new("same");
    place.make_with_one("jobs");
    let jobs = place.name("jobs");
    let folder = tempfile::tempdir().unwrap();
    let served = format!("unix:{}", folder.path().join("x.sock").display());
    let _server = Running::start(&mut ipc(&["serve", &jobs, "--at", &served]));
    wait_until("it is served", || run(&["stat", &served]).code == 0);
    for to in [&jobs, &format!("shm:{jobs}")] {
        let ended = run(&["move", &jobs, to]);
        assert!([2, 5].contains(&ended.code), "{ended:?}");
        ended.error();
    }
    for to in [&jobs, &format!("shm:{jobs}"), &served] {
        let ended = run(&["bridge", &jobs, to, "--close"]).expect(5);
        assert!(ended.error().contains("same queue"), "{ended:?}");
    }
    let stats = place.look("jobs").unwrap().stats();
    assert_eq!((stats.ready, stats.closed), (1, false));
}

/// Every way to send a message with a key. The key is that of a message in the queue.
const AGAIN: [(&[&str], &str, i32); 4] = [
    (&["send", "QUEUE", "again", "--key", "first"], "", 7),
    (&["send", "QUEUE", "--key", "first"], "again", 7),
    // Among many lines, those with a known key count as sent, so the same lines can be sent again.
    (
        &["send", "QUEUE", "--json"],
        "{\"payload\":\"again\",\"key\":\"first\"}\n",
        0,
    ),
    (
        &["import", "QUEUE"],
        "{\"payload\":\"again\",\"key\":\"first\"}\n",
        0,
    ),
];

/// The other rows that put messages into a queue, and why they can't repeat a key.
const WITHOUT_KEYS: [(&str, &str); 5] = [
    (
        "bridge",
        "the keys are the messages' ids: bridge.rs starts one again and again",
    ),
    (
        "move",
        "the keys are the messages' ids: exchange.rs moves some twice",
    ),
    (
        "restore",
        "a snapshot is restored once: snapshot.rs kills and starts it again",
    ),
    (
        "dlq",
        "a requeued dead letter stays in its place, with the key that it was sent with",
    ),
    (
        "revoke",
        "the message stays in its place, with the key that it was sent with",
    ),
];

#[test]
fn a_message_with_a_known_key_is_not_sent() {
    for (args, input, code) in AGAIN {
        let case = Case {
            input: Some(input),
            ..act(args, BEFORE)
        };
        let cell = Cell::new(&case, "again");
        let ended = cell.expect(cell.run(Stdio::piped()), code, BEFORE);
        let queue = cell.place.make("jobs", &QueueOptions::new());
        let first = queue.receiver().recv().unwrap().id().to_string();
        assert!(ended.out.contains(&first), "{args:?}: {ended:?}");
    }
}

#[test]
fn every_way_to_send_is_tested_with_a_known_key() {
    let waiting = |state: &State| state.ready + state.other.unwrap_or_default();
    for case in CASES {
        if waiting(&case.after) <= waiting(&case.before) && case.after.other.is_none() {
            continue;
        }
        let name = case.args[0];
        let is_tried = AGAIN.iter().any(|(args, ..)| args[0] == name);
        let is_without = WITHOUT_KEYS.iter().any(|(without, _)| *without == name);
        assert!(
            is_tried || is_without || name == "create",
            "{name}: add it to AGAIN"
        );
    }
}
