//! A NATS server that does not answer: nothing is removed or purged on a guess.

use std::thread;

use ipc_nats::testing::TestServer;
use ipc_queue::{ByteQueue, QueueOptions, QueueStats};

use crate::place::{Ended, run};
use crate::proxy::{Fault, Proxy};

/// Creates a queue with two messages on the test's own server.
fn queue(server: &TestServer, name: &str) -> ByteQueue {
    let queue = QueueOptions::new()
        .open_bytes(server.address(name))
        .unwrap();
    for payload in [b"one", b"two"] {
        queue.sender().send(payload).unwrap();
    }
    queue
}

/// Returns the statistics of the queue, without the proxy; `None` if there is no queue.
fn stats(server: &TestServer, name: &str) -> Option<QueueStats> {
    let queue = QueueOptions::new().open_any(server.address(name)).ok()?;
    queue.transport().stats().ok()
}

/// Stalls each request of the command in turn, before and after the server receives it.
fn stall_each(
    server: &TestServer,
    command: &[&str],
    check: impl Fn(&Ended, Option<QueueStats>) + Sync,
) {
    let check = &check;
    thread::scope(|scope| {
        for fault in [Fault::StallBefore, Fault::StallAfter] {
            scope.spawn(move || stall_each_in_turn(server, command, fault, check));
        }
    });
}

fn stall_each_in_turn(
    server: &TestServer,
    command: &[&str],
    fault: Fault,
    check: &(impl Fn(&Ended, Option<QueueStats>) + Sync),
) {
    let mut request = 0;
    loop {
        let name = format!("{}-{fault:?}-{request}", command[0]).to_lowercase();
        let _queue = queue(server, &name);
        let proxy = Proxy::start_tcp(&server.host(), fault, request);
        let at = format!("nats://{}/{name}", proxy.address());
        let (subcommand, options) = command.split_first().unwrap();
        let args = [&[*subcommand, &at], options].concat();
        let ended = run(&[&args[..], &["--answer-timeout", "1s"]].concat());
        check(&ended, stats(server, &name));
        let _ = ipc_queue::remove(server.address(&name));
        if proxy.is_reached() {
            request += 1;
        } else if ended.code != 6 {
            assert!(request > 2, "it asks nothing: {ended:?}");
            return;
        }
    }
}

#[test]
fn nothing_is_removed_when_a_question_is_not_answered() {
    if !ipc_nats::testing::is_installed() {
        println!("skipped: a NATS server that does not answer: none is installed");
        return;
    }
    ipc_nats::register();
    let server = TestServer::start();
    stall_each(&server, &["rm"], |ended, stats| {
        assert!(ended.code == 5 || ended.code == 6, "{ended:?}");
        ended.error();
        assert_eq!(stats.map(|stats| stats.ready), Some(2), "{ended:?}");
    });
}

#[test]
fn a_reported_purge_on_a_server_really_happened() {
    if !ipc_nats::testing::is_installed() {
        println!("skipped: a NATS server that does not answer: none is installed");
        return;
    }
    ipc_nats::register();
    let server = TestServer::start();
    stall_each(&server, &["purge"], |ended, stats| {
        let ready = stats.map(|stats| stats.ready);
        match ended.code {
            0 => assert_eq!((ready, &ended.out[..]), (Some(0), "2 messages dropped\n")),
            code => assert!(code == 6 && ended.out.is_empty(), "{ended:?}"),
        }
    });
}

/// Each process counts only what it did itself, so a command would count nothing.
#[test]
fn counters_that_no_process_knows_are_unknown_and_not_zero() {
    if !ipc_nats::testing::is_installed() {
        println!("skipped: a NATS server: none is installed");
        return;
    }
    let server = TestServer::start();
    let queue = queue(&server, "counted");
    let address = server.address("counted");
    assert_eq!(queue.transport().stats().unwrap().sent, 2);
    let stat = run(&["stat", &address, "--json"]).expect(0).json();
    let list = run(&["ls", &address, "--json"]).expect(0).json();
    for stats in [&stat["stats"], &list[0]["stats"]] {
        assert_eq!(stats["ready"], 2);
        for unknown in ["sent", "received", "acked", "crashes", "participants"] {
            assert!(stats[unknown].is_null(), "{unknown}: {stats}");
        }
    }
    let top = run(&["top", &address, "--json"]).expect(0).json();
    let line = &top["queues"][0];
    assert_eq!(line["ready"], 2);
    for unknown in [
        "sent_per_second",
        "acked_per_second",
        "redelivered",
        "processes",
    ] {
        assert!(line[unknown].is_null(), "{unknown}: {line}");
    }
    let text = run(&["stat", &address]).expect(0).out;
    assert!(text.contains("unknown: over this transport"), "{text}");
    let figures = run(&["stat", &address, "--prometheus"]).expect(0).out;
    assert!(figures.contains("ipc_queue_ready"), "{figures}");
    assert!(!figures.contains("_total"), "{figures}");
}
