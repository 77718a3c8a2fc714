//! A server that accepts connections and never answers, for all rows.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use nix::sys::signal::Signal;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use tempfile::TempDir;

use super::endless::{self, Home};
use super::{Case, Cell, for_each};
use crate::place::{Ended, Place, Running, ipc, run, run_with};
use crate::signals::{ENDS, signal};

/// The placeholders for addresses in the arguments of a row.
const ADDRESSES: [&str; 3] = ["QUEUE", "OTHER", "SPACE"];

/// Returns the exit code of a row that asks no server; `None` if the row asks one.
fn refusal(case: &Case) -> Option<i32> {
    match case.args {
        // These take the name of a namespace, never an address.
        ["nodes", ..] => Some(2),
        // Only queues in shared memory are saved, restored or moved whole.
        ["save" | "restore", ..] | ["move", _, _] => Some(5),
        _ => None,
    }
}

/// Starts a server that accepts connections and never answers.
fn silent_server() -> (TempDir, UnixListener, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("silent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    (folder, listener, format!("unix:{}", path.display()))
}

/// Returns the row's arguments once for each address in it, with a server's address in its place.
fn asking(cell: &Cell<'_>, address: &str) -> Vec<Vec<String>> {
    let args = cell.case.args.iter().enumerate();
    let places = args.filter(|(_, arg)| ADDRESSES.contains(arg));
    let with = |place| {
        let mut args = cell.args.clone();
        args[place] = address.to_owned();
        args
    };
    places.map(|(place, _)| with(place)).collect()
}

#[test]
fn a_server_that_never_answers_is_unreachable_for_every_command() {
    let (_folder, _listener, address) = silent_server();
    for_each("silent", |cell| {
        for args in asking(cell, &address) {
            let args = [&["--answer-timeout=100ms".to_owned()], &args[..]].concat();
            let input = cell.case.input.unwrap_or_default();
            let code = refusal(cell.case).unwrap_or(6);
            let ended = cell.expect(run_with(&args, input), code, cell.case.before);
            // These report "unknown" on standard output.
            let says = ["check", "ls", "metrics"].contains(&cell.case.args[0]);
            assert!(ended.out.is_empty() || says, "{args:?}: {ended:?}");
        }
    });
    let home = Home::new("silent");
    for case in endless::CASES {
        let mut args = case.args(&home);
        if !case.put_address(&mut args, &address) {
            continue;
        }
        let args = [&["--answer-timeout=100ms".to_owned()], &args[..]].concat();
        let ended = run(&args).expect(6);
        assert!(ended.out.is_empty(), "{args:?}: {ended:?}");
    }
}

/// A stopped server accepts nothing, and the kernel keeps only so many connections for it.
#[test]
fn a_server_that_accepts_no_connection_is_unreachable_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stopped.sock");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = SocketAddrUnix::new(&path).unwrap();
    let mut waiting = Vec::new();
    loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        match rustix::net::connect(&socket, &address) {
            Ok(()) => waiting.push(socket),
            Err(error) => break assert_eq!(error, Errno::AGAIN),
        }
    }
    let address = format!("unix:{}", path.display());
    let input = "{\"payload\":{\"text\":\"one\"}}\n";
    for command in ["send", "recv", "stat", "drain", "import"] {
        let ended = run_with(&["--answer-timeout=100ms", command, &address], input).expect(6);
        assert!(
            ended.error().contains("did not answer within 100ms"),
            "{ended:?}"
        );
    }
    // Another server does not take the place of one that may continue.
    let place = Place::new("accepts-nothing");
    place.make_with_one("jobs");
    let refused = run(&["serve", &place.name("jobs"), "--at", &address]).expect(1);
    assert!(
        refused.error().contains("another server is running"),
        "{refused:?}"
    );
}

/// Runs it until it waits for the server's greeting, sends the signal, and returns how it ended.
fn ended_in_greeting(end: Signal, args: &[String], input: &str) -> Ended {
    let (_folder, listener, address) = silent_server();
    let args: Vec<_> = args
        .iter()
        .map(|arg| arg.replace("SILENT", &address))
        .collect();
    let mut child = ipc(&args).stdin(Stdio::piped()).spawn().unwrap();
    // Closed at the end of the statement.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let running = Running(child);
    let _connection = listener.accept().unwrap();
    signal(&running, end);
    running.end()
}

#[test]
fn every_command_that_waits_for_a_server_ends_with_the_first_signal() {
    for end in ENDS {
        for_each("greeting", |cell| {
            if refusal(cell.case).is_some() {
                return;
            }
            for args in asking(cell, "SILENT") {
                let ended = ended_in_greeting(end, &args, cell.case.input.unwrap_or_default());
                assert_eq!(ended.code, 128 + end as i32, "{args:?}: {ended:?}");
                assert!(ended.out.is_empty(), "{args:?}: {ended:?}");
                assert_eq!(cell.state(), cell.case.before, "{args:?}: {ended:?}");
            }
        });
        let home = Home::new("greeting");
        for case in endless::CASES {
            let mut args = case.args(&home);
            if case.put_address(&mut args, "SILENT") {
                let ended = ended_in_greeting(end, &args, "");
                assert_eq!(ended.code, 128 + end as i32, "{args:?}: {ended:?}");
                assert!(ended.out.is_empty(), "{args:?}: {ended:?}");
            }
        }
    }
}
