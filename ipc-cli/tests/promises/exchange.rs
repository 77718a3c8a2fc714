//! `export` and `import`, selections of messages, `revoke` and `tail`.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::time::Duration;

use ipc_nats::testing::TestServer;
use ipc_queue::{ByteQueue, QueueOptions, SendOptions};
use serde_json::{Value, json};

use crate::place::{Place, Running, ipc, run, run_with, wait_until};

fn send(queue: &ByteQueue, payload: &[u8], tenant: &str) -> String {
    let options = SendOptions::new().header("tenant", tenant).unwrap();
    let sent = queue.sender().send_with(payload, &options);
    sent.unwrap().to_string()
}

/// Returns payloads and tenants of the waiting messages, in order.
fn waiting(place: &Place, queue: &str) -> Vec<(Vec<u8>, String)> {
    let messages = place.look(queue).unwrap().waiting(100).into_iter();
    messages
        .map(|message| {
            let mut headers = message.headers.iter();
            let tenant = headers.find(|(name, _)| *name == "tenant");
            let tenant = tenant.map_or(&b""[..], |(_, value)| value);
            (
                message.payload.clone(),
                String::from_utf8_lossy(tenant).into_owned(),
            )
        })
        .collect()
}

/// Returns a queue with three messages, one of which is not text.
fn three(place: &Place) -> (ByteQueue, [String; 3]) {
    let queue = place.make("jobs", &QueueOptions::new().capacity(16));
    let ids = [
        send(&queue, b"one", "acme"),
        send(&queue, b"\xff\x00two", "acme"),
        send(&queue, b"three", "umbrella"),
    ];
    (queue, ids)
}

fn object(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

#[test]
fn json_printed_by_recv_can_be_sent() {
    let place = Place::new("copy");
    let (queue, _) = three(&place);
    place.make("copy", &QueueOptions::new());
    let before = waiting(&place, "jobs");
    let (jobs, copy) = (place.name("jobs"), place.name("copy"));
    let lines = run(&["recv", &jobs, "--json", "--count", "3"])
        .expect(0)
        .out;
    let sent = run_with(&["send", &copy, "--json"], &lines).expect(0);
    assert_eq!(sent.out.lines().count(), 3, "{sent:?}");
    assert_eq!(waiting(&place, "copy"), before);
    assert_eq!(queue.transport().stats().unwrap().in_use(), 0);
}

#[test]
fn exported_messages_can_be_imported_and_stay() {
    let place = Place::new("export");
    three(&place);
    let before = waiting(&place, "jobs");
    let (jobs, copy) = (place.name("jobs"), place.name("copy"));
    let lines = run(&["export", &jobs]).expect(0).out;
    run_with(&["import", &copy, "--create"], &lines).expect(0);
    assert_eq!(waiting(&place, "copy"), before);
    assert_eq!(waiting(&place, "jobs"), before);
    // An error names the unreadable line, and how many messages were sent before it.
    let ended = run_with(&["import", &copy], &format!("{lines}resize a.png\n")).expect(1);
    assert!(ended.error().contains("3 messages were sent"), "{ended:?}");
    assert!(ended.error().contains("line 4"), "{ended:?}");
}

#[test]
fn messages_are_selected_by_id_age_header_state_and_number() {
    let place = Place::new("select");
    let (queue, ids) = three(&place);
    // Add a dead letter and a delayed message.
    let delayed = SendOptions::new().delay(Duration::from_secs(3600));
    let later = queue.sender().send_with(b"later", &delayed).unwrap();
    queue.receiver().recv().unwrap().bury().unwrap();
    let name = place.name("jobs");
    // Messages of the same moment may come in any order.
    let expect = |args: &[&str], expected: &[&str]| {
        let lines = run(&[&["export", &name], args].concat()).expect(0).out;
        let ids = lines.lines().map(|line| object(line)["message"].clone());
        let ids: HashSet<_> = ids.map(|id| id.as_str().unwrap().to_owned()).collect();
        let expected: HashSet<_> = expected.iter().map(|id| (*id).to_owned()).collect();
        assert_eq!(ids, expected, "{args:?}");
    };
    let [dead, second, third, later] = [&ids[0], &ids[1], &ids[2], &later.to_string()];
    expect(&[], &[second, third, later]);
    expect(&["--state", "ready"], &[second, third]);
    expect(&["--state", "delayed,dead"], &[dead, later]);
    expect(&["--header", "tenant=umbrella"], &[third]);
    expect(&["--id", third], &[third]);
    expect(&["--limit", "1"], &[second]);
    expect(&["--older-than", "1h"], &[]);
    expect(&["--younger-than", "1h", "--state", "dead"], &[dead]);
    run(&["export", &name, "--header", "tenant"]).expect(2);
}

#[test]
fn only_selected_messages_are_deleted() {
    let place = Place::new("delete");
    let (queue, ids) = three(&place);
    let name = place.name("jobs");
    run(&["delete", &name]).expect(2);
    run(&["delete", &name, "--id", "nosuch"]).expect(3);
    let said = run(&["delete", &name, "--header", "tenant=acme"])
        .expect(0)
        .out;
    assert_eq!(said, "2 messages deleted\n");
    let left = [(b"three".to_vec(), "umbrella".to_owned())];
    assert_eq!(waiting(&place, "jobs"), left);
    // A message that a receiver holds is not deleted.
    let receiver = queue.receiver();
    let held = receiver.recv().unwrap();
    run(&["delete", &name, "--id", &ids[2]]).expect(3);
    held.bury().unwrap();
    run(&["delete", &name, "--state", "dead", "--id", &ids[2]]).expect(0);
    assert_eq!(queue.transport().stats().unwrap().in_use(), 0);
}

#[test]
fn some_messages_move_to_another_queue_once() {
    let place = Place::new("move-some");
    let (queue, ids) = three(&place);
    place.make(
        "other",
        &QueueOptions::new().dedup_window(Duration::from_secs(3600)),
    );
    let (jobs, other) = (place.name("jobs"), place.name("other"));
    run(&["move", &jobs, &other, "--header", "tenant=acme"]).expect(0);
    let there = waiting(&place, "other");
    assert_eq!(there.len(), 2);
    assert!(there.iter().all(|(_, tenant)| tenant == "acme"));
    assert_eq!(waiting(&place, "jobs").len(), 1);
    // The state after a kill between the two steps: the message is already in the other queue, so
    // it is only deleted here.
    let line = json!({ "payload": "three", "key": ids[2] });
    run_with(&["import", &other], &line.to_string()).expect(0);
    run(&["move", &jobs, &other, "--state", "ready"]).expect(0);
    assert_eq!(waiting(&place, "other").len(), 3);
    assert_eq!(queue.transport().stats().unwrap().in_use(), 0);
    run(&["move", &jobs, &jobs, "--limit", "1"]).expect(2);
}

#[test]
fn dead_letters_are_selected_by_age_and_number() {
    let place = Place::new("dlq-age");
    let (queue, _) = three(&place);
    let receiver = queue.receiver();
    for _ in 0..3 {
        receiver.recv().unwrap().bury().unwrap();
    }
    let name = place.name("jobs");
    let dropped = |args: &[&str]| {
        run(&[&["dlq", "discard", &name], args].concat())
            .expect(0)
            .out
    };
    assert_eq!(dropped(&["--older-than", "1h"]), "0 dropped\n");
    assert_eq!(
        dropped(&["--older-than", "0s", "--keep", "2"]),
        "1 dropped\n"
    );
    assert_eq!(dropped(&["--keep", "1"]), "1 dropped\n");
    let letters = queue.dead_letters().unwrap();
    assert_eq!((letters.len(), &letters[0].payload[..]), (1, &b"three"[..]));
    run(&["dlq", "requeue", &name, "--older-than", "0s"]).expect(0);
    assert_eq!(queue.transport().stats().unwrap().ready, 1);
    assert_eq!(run(&["dlq", "discard", &name]).code, 2);
}

/// Revokes a message through this address.
fn revoke_at(address: &str, queue: &ByteQueue, id: &str) {
    run(&["revoke", address, id]).expect(3);
    let (stuck, other) = (queue.receiver(), queue.receiver());
    let held = stuck.recv().unwrap();
    assert_eq!(held.id().to_string(), id);
    run(&["revoke", address, id]).expect(0);
    let again = other.recv().unwrap();
    assert_eq!((again.id(), again.attempt()), (held.id(), 2));
    assert!(held.ack().unwrap_err().is_lease_lost());
    again.ack().unwrap();
    run(&["revoke", address, id]).expect(3);
}

#[test]
fn a_stuck_holder_loses_its_message_by_revoke() {
    let place = Place::new("revoke");
    let queue = place.make("jobs", &QueueOptions::new());
    let name = place.name("jobs");
    let id = send(&queue, b"one", "acme");
    revoke_at(&name, &queue, &id);
    // The same through its server.
    let folder = tempfile::tempdir().unwrap();
    let at = format!("unix:{}", folder.path().join("x.sock").display());
    let _server = Running::start(&mut ipc(&["serve", &name, "--at", &at]));
    wait_until("it is served", || run(&["stat", &at]).code == 0);
    let id = send(&queue, b"two", "acme");
    revoke_at(&at, &queue, &id);
}

#[test]
fn a_command_whose_message_was_revoked_is_ended() {
    let place = Place::new("revoke-work");
    let queue = place.make("jobs", &QueueOptions::new());
    let id = send(&queue, b"one", "acme");
    let name = place.name("jobs");
    let args = [
        "work", &name, "--count", "1", "--json", "--", "sleep", "1000",
    ];
    let worker = Running::start(&mut ipc(&args));
    wait_until("it is taken back", || {
        run(&["revoke", &name, &id]).code == 0
    });
    let ended = worker.end().expect(0);
    assert_eq!(ended.json()["outcome"], "lease_lost");
    assert_eq!(queue.transport().stats().unwrap().ready, 1);
}

#[test]
fn a_tail_prints_waiting_and_new_messages_and_takes_none() {
    let place = Place::new("tail");
    let (queue, ids) = three(&place);
    let name = place.name("jobs");
    let args = ["tail", &name, "--count", "2", "--every", "10ms", "--json"];
    let mut tail = Running::start(&mut ipc(&args));
    let mut lines = BufReader::new(tail.0.stdout.take().unwrap()).lines();
    let mut next = || {
        lines
            .next()
            .map(|line| object(&line.unwrap())["message"].clone())
    };
    assert_eq!(next().unwrap(), ids[1]);
    assert_eq!(next().unwrap(), ids[2]);
    let fourth = send(&queue, b"four", "acme");
    assert_eq!(next().unwrap(), fourth);
    // A message that was taken and returned is not new.
    queue
        .receiver()
        .recv()
        .unwrap()
        .snooze(Duration::ZERO)
        .unwrap();
    let fifth = send(&queue, b"five", "acme");
    assert_eq!(next().unwrap(), fifth);
    let stats = queue.transport().stats().unwrap();
    assert_eq!((stats.ready, stats.acked), (5, 0));
    run(&["rm", "--force", &name]).expect(0);
    assert_eq!(next(), None);
    tail.end().expect(0);
}

#[test]
fn queues_elsewhere_are_listed_and_watched_by_their_addresses() {
    let place = Place::new("elsewhere");
    place.make("jobs", &QueueOptions::new());
    let folder = tempfile::tempdir().unwrap();
    let served = format!("unix:{}", folder.path().join("x.sock").display());
    let _server = Running::start(&mut ipc(&["serve", &place.name("jobs"), "--at", &served]));
    wait_until("it is served", || run(&["stat", &served]).code == 0);
    let mut addresses = vec![format!("shm:{}", place.name("jobs")), served];
    let server = ipc_nats::testing::is_installed().then(|| {
        ipc_nats::register();
        TestServer::start()
    });
    match &server {
        Some(server) => {
            let address = server.address("jobs");
            QueueOptions::new().open_bytes(&address).unwrap();
            addresses.push(address);
        }
        None => println!("skipped: ls and top over NATS: no server is installed"),
    }
    for address in &addresses {
        run(&["send", address, "one"]).expect(0);
    }
    let typed: Vec<_> = addresses.iter().map(|address| &address[..]).collect();
    let listed = run(&[&["ls", "--json"], &typed[..]].concat())
        .expect(0)
        .json();
    let watch = ["top", "--once", "--every", "1ms", "--json"];
    let watched = run(&[&watch, &typed[..]].concat()).expect(0).json();
    for (index, address) in addresses.iter().enumerate() {
        assert_eq!(listed[index]["queue"], **address);
        // The first two are one queue.
        let ready = if index < 2 { 2 } else { 1 };
        assert_eq!(listed[index]["stats"]["ready"], ready, "{listed}");
        assert_eq!(watched["queues"][index]["ready"], ready, "{watched}");
    }
    // A missing queue does not hide the others.
    let nowhere = format!("unix:{}", folder.path().join("nowhere.sock").display());
    let ended = run(&["ls", &addresses[0], &nowhere]);
    assert!(ended.code != 0 && ended.out.contains("open"), "{ended:?}");
    ended.error();
}
