//! Held messages: the holder's health, the end of the lease, and payload memory, as shown by
//! commands that attach later.

use std::time::Duration;

use ipc_queue::QueueOptions;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::place::{Place, Running, ipc, run, wait_until};
use crate::signals::signal;

fn stat(queue: &str) -> Value {
    run(&["stat", queue, "--json"]).expect(0).json()
}

#[test]
fn a_holder_is_alive_then_stopped_then_dead() {
    let place = Place::new("health");
    let name = place.name("jobs");
    let queue = place.make(
        "jobs",
        &QueueOptions::new().lease(Duration::from_secs(3600)),
    );
    queue.sender().send(b"one").unwrap();
    // No other process is attached, so nothing returns the messages of the dead process.
    drop(queue);
    let worker = Running::start(&mut ipc(&["work", &name, "--", "sleep", "1000"]));
    let held = || stat(&name)["leases"][0].clone();
    wait_until("it is held", || held()["health"] == "alive");
    let first = held();
    assert_eq!(first["pid"], worker.0.id());
    let left = first["lease_left_seconds"].as_f64().unwrap();
    let renewed = first["renewed_ago_seconds"].as_f64().unwrap();
    assert!(left > 3000.0 && left <= 3600.0, "{first}");
    assert!((left + renewed - 3600.0).abs() < 0.01, "{first}");
    assert!(
        first["held_at_most_seconds"].as_f64().unwrap() >= renewed,
        "{first}"
    );
    signal(&worker, Signal::SIGSTOP);
    wait_until("it is stopped", || held()["health"] == "stopped");
    let shown = run(&["stat", &name]).expect(0).out;
    assert!(shown.contains("stopped"), "{shown}");
    let figures = run(&["stat", &name, "--prometheus"]).expect(0).out;
    let line = format!("ipc_queue_leased_by_stopped{{queue=\"{name}\"}} 1");
    assert!(figures.contains(&line), "{figures}");
    let top = ["top", &format!("shm:{name}"), "--once", "--every", "1ms"];
    assert!(run(&top).expect(0).out.contains("stopped"));
    drop(worker);
    wait_until("it is dead", || held()["health"] == "dead");
    let shown = run(&["stat", &name]).expect(0).out;
    assert!(shown.contains("dead"), "{shown}");
}

#[test]
fn a_lease_without_time_limit_is_shown_to_end_with_its_holder() {
    let place = Place::new("no-end");
    let queue = place.make_with_one("jobs");
    let receiver = queue.receiver();
    let held = receiver.recv().unwrap();
    let name = place.name("jobs");
    assert_eq!(stat(&name)["leases"][0]["lease_left_seconds"], Value::Null);
    let shown = run(&["stat", &name]).expect(0).out;
    assert!(shown.contains("its holder's end"), "{shown}");
    held.ack().unwrap();
}

#[test]
fn the_largest_payload_shown_to_fit_is_accepted() {
    let place = Place::new("pool");
    let options = QueueOptions::new().capacity(64);
    let options = options.max_message_bytes(64 << 10).pool_bytes(256 << 10);
    let queue = place.make("jobs", &options);
    let name = place.name("jobs");
    let sender = queue.sender();
    let pool = || stat(&name)["pool"].clone();
    let number = |name: &str| pool()[name].as_u64().unwrap();
    assert_eq!(
        (number("used_bytes"), number("largest_fit_bytes")),
        (0, 64 << 10)
    );
    let mut sent = 0;
    loop {
        let fits = usize::try_from(number("largest_fit_bytes")).unwrap();
        if fits < 8 << 10 {
            // One byte more is refused.
            assert!(sender.try_send(&vec![1; fits + 1]).is_err());
            break;
        }
        sender.try_send(&vec![1; fits]).unwrap();
        sent += 1;
    }
    assert!(sent > 2, "{sent}");
    let (used, total) = (number("used_bytes"), number("total_bytes"));
    assert!(used > 128 << 10 && used <= total, "{}", pool());
    let shown = run(&["stat", &name]).expect(0).out;
    assert!(shown.contains("finds memory now"), "{shown}");
}

#[test]
fn a_blocked_sender_and_a_blocked_receiver_are_seen() {
    let place = Place::new("blocked");
    let queue = place.make("jobs", &QueueOptions::new().capacity(1));
    let name = place.name("jobs");
    let receiver = Running::start(&mut ipc(&["recv", &name, "--follow"]));
    wait_until("a receiver waits", || stat(&name)["receivers_wait"] == true);
    drop(receiver);
    queue.transport().pause().unwrap();
    queue.sender().send(b"one").unwrap();
    let _sender = Running::start(&mut ipc(&["send", &name, "two"]));
    wait_until("a sender waits", || stat(&name)["senders_wait"] == true);
    let shown = run(&["stat", &name]).expect(0).out;
    assert!(shown.contains("a sender, for room"), "{shown}");
}
