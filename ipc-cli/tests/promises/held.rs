//! Held messages: the holder's health, the end of the lease, and payload memory, as shown by
//! commands that attach later.

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

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
fn blocked_senders_and_receivers_are_counted_and_a_killed_one_is_not() {
    let place = Place::new("blocked");
    // No process has it open besides those that wait, so that none frees a killed one's slot.
    drop(place.make("jobs", &QueueOptions::new().capacity(1)));
    let name = place.name("jobs");
    let counts = || {
        let stat = stat(&name);
        let count = |side: &str| stat[side].as_u64().unwrap();
        (count("blocked_senders"), count("blocked_receivers"))
    };
    assert_eq!(counts(), (0, 0));
    let receive = || Running::start(&mut ipc(&["recv", &name, "--follow"]));
    let receivers = [receive(), receive()];
    wait_until("two receivers wait", || counts() == (0, 2));
    let shown = run(&["stat", &name]).expect(0).out;
    assert!(shown.contains("2 receivers"), "{shown}");
    // SIGKILL.
    drop(receivers);
    assert_eq!(counts(), (0, 0));
    let queue = place.make("jobs", &QueueOptions::new());
    queue.transport().pause().unwrap();
    queue.sender().send(b"one").unwrap();
    let senders = [(); 3].map(|()| Running::start(&mut ipc(&["send", &name, "two"])));
    wait_until("three senders wait", || counts() == (3, 0));
    let shown = run(&["stat", &name]).expect(0).out;
    assert!(shown.contains("3 senders, waiting for room"), "{shown}");
    let of_each = stat(&name)["participants"].clone();
    let of_each = of_each.as_array().unwrap().iter();
    assert_eq!(of_each.filter(|one| one["blocked_senders"] == 1).count(), 3);
    let metrics = run(&["metrics", &name]).expect(0).out;
    let mut lines = metrics.lines().filter(|line| line.contains(&name));
    let metric = lines.find(|line| line.starts_with("ipc_queue_blocked_senders{"));
    assert!(metric.is_some_and(|line| line.ends_with(" 3")), "{metrics}");
    let top = run(&["top", &place.0, "--json", "--every", "1ms"])
        .expect(0)
        .json();
    assert_eq!(top["queues"][0]["blocked_senders"], 3);
    // They are served one by one.
    for left in [2, 1, 0] {
        queue.transport().resume().unwrap();
        queue.receiver().recv().unwrap().ack().unwrap();
        queue.transport().pause().unwrap();
        wait_until("one less waits", || counts() == (left, 0));
    }
    for sender in senders {
        sender.end().expect(0);
    }
}

#[test]
fn futures_that_wait_count_as_blocked_until_they_are_dropped() {
    let place = Place::new("blocked-tasks");
    let queue = place.make("jobs", &QueueOptions::new());
    let blocked = || place.look("jobs").unwrap().blocked();
    let (mut first, mut second) = (queue.receiver(), queue.receiver());
    let mut context = Context::from_waker(Waker::noop());
    {
        let (mut first, mut second) = (pin!(first.recv_async()), pin!(second.recv_async()));
        for _ in 0..2 {
            assert!(first.as_mut().poll(&mut context).is_pending());
            assert!(second.as_mut().poll(&mut context).is_pending());
            assert_eq!((blocked().senders, blocked().receivers), (0, 2));
        }
    }
    assert_eq!(blocked().receivers, 0);
}

#[test]
fn commands_that_come_later_know_how_long_a_message_has_been_held_at_least() {
    // Without a time limit, and with one that is extended several times.
    for lease in [None, Some(Duration::from_millis(300))] {
        let place = Place::new("held-for");
        let name = place.name("jobs");
        let mut options = QueueOptions::new();
        if let Some(lease) = lease {
            options = options.lease(lease);
        }
        let queue = place.make("jobs", &options);
        queue.sender().send(b"one").unwrap();
        let work = ["work", &name, "-j", "2", "--", "sleep", "1000"];
        let _worker = Running::start(&mut ipc(&work));
        let held = |index: usize, bound: &str| {
            let lease = &stat(&name)["leases"][index];
            lease[format!("held_{bound}_seconds")].as_f64()
        };
        wait_until("it is known", || {
            let least = held(0, "at_least").unwrap_or_default();
            // No lease began as long ago.
            least > lease.unwrap_or_default().as_secs_f64() * 2.0
        });
        assert!(held(0, "at_least") <= held(0, "at_most"));
        let shown = run(&["stat", &name]).expect(0).out;
        let row = shown.lines().find(|line| line.contains(" alive "));
        assert!(row.is_some_and(|row| !row.contains("up to")), "{shown}");
        // Which of the two it took is not known at once, so nothing too long is said.
        let second = Instant::now();
        queue.sender().send(b"two").unwrap();
        let inspector = place.look("jobs").unwrap();
        wait_until("both are held", || inspector.lease_views().len() == 2);
        wait_until("it is known again", || {
            let least = inspector.lease_views()[1].held_at_least;
            assert!(least <= second.elapsed(), "{least:?}");
            !least.is_zero()
        });
        let metrics = run(&["metrics", &name]).expect(0).out;
        let mut lines = metrics.lines();
        let longest = lines.find(|line| line.starts_with("ipc_queue_longest_held_seconds{"));
        assert!(
            longest.is_some_and(|line| !line.ends_with(" 0")),
            "{metrics}"
        );
    }
}
