//! The page, `top`, `stat` and the truth agree once a storm of kills is over.

use std::io::Write;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ipc_queue::{QueueOptions, QueueStats};
use serde_json::Value;

use crate::place::{Place, Running, ipc, run, wait_until};
use crate::web::{Web, path};

/// Kills of each kind of process.
const KILLS: usize = 6;

/// Keeps sending lines until nobody reads them.
fn send_lines(sender: &mut Running) {
    let mut lines = sender.0.stdin.take().unwrap();
    thread::spawn(move || {
        for number in 0.. {
            if writeln!(lines, "job {number}").is_err() {
                return;
            }
        }
    });
}

/// Lets a sender, a receiver and workers work, then kills them.
fn kill_all_three(round: usize, name: &str, stats: impl Fn() -> QueueStats) {
    let mut sender = Running::start(
        ipc(&["send", name, "--lines"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null()),
    );
    send_lines(&mut sender);
    let mut receiver = ipc(&["recv", name, "--follow"]);
    let receiver = Running::start(receiver.stdout(Stdio::null()));
    // Buries each third message, and dies over others.
    let command = "case $IPC_MESSAGE in *0|*3|*6) exit 65;; esac; sleep 0.01";
    let worker = ["work", name, "-j", "2", "--", "sh", "-c", command];
    let worker = Running::start(ipc(&worker).stdout(Stdio::null()));
    let before = stats();
    wait_until("each works", || {
        let now = stats();
        now.acked > before.acked + 200 && now.buried > before.buried
    });
    // SIGKILL, each in a different order.
    let mut victims = [Some(sender), Some(receiver), Some(worker)];
    for victim in 0..3 {
        drop(victims[(round + victim) % 3].take());
    }
}

#[test]
fn the_page_agrees_with_top_stat_and_the_truth_after_a_storm_of_kills() {
    let place = Place::new("web-truth");
    let name = place.name("jobs");
    let options = QueueOptions::new().capacity(64).crash_limit(2);
    let queue = place.make("jobs", &options);
    let stats = || queue.transport().stats().unwrap();
    let web = Web::start(&[&place.0]);
    web.line(&name);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        // The page is asked all the time.
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let line = web.line(&name);
                let (ready, held) = (line["ready"].as_u64(), line["held"].as_u64());
                assert!(
                    ready
                        .zip(held)
                        .is_some_and(|(ready, held)| ready + held <= 64)
                );
                web.json(&path("queues", &name));
            }
        });
        for round in 0..KILLS {
            kill_all_three(round, &name, stats);
        }
        // What the dead held is given back, by this process.
        wait_until("it is quiet", || {
            let now = stats();
            (now.leased, now.writing, now.participants) == (0, 0, 1)
        });
        queue.transport().pause().unwrap();
        is_over.store(true, Ordering::Relaxed);
    });
    let quiet = stats();
    let waits = run(&["export", &name]).expect(0).out.lines().count() as u64;
    let letters = run(&["dlq", "ls", &name, "--json"]).expect(0).json();
    let letters = letters.as_array().unwrap().len() as u64;
    assert!(quiet.crashes > 0 && letters > 0, "{quiet:?}");
    // A process that was killed between an operation and its counter has one count less.
    let accounted = quiet.acked + waits + letters;
    let (senders, receivers) = (KILLS as u64, 2 * KILLS as u64);
    assert!(
        accounted <= quiet.sent + senders && quiet.sent <= accounted + receivers,
        "{accounted}: {quiet:?}"
    );

    all_say(&place, &web, &name, &quiet, [waits, letters, 0]);
    // The truth once more, by taking everything.
    queue.transport().resume().unwrap();
    assert_eq!(take_all(&queue), waits);
    let empty: QueueStats = stats();
    assert_eq!((empty.ready, empty.dead), (0, letters));
    wait_until("the page shows that, too", || web.line(&name)["ready"] == 0);
}

/// Asserts that the page, `stat` and `top` show these numbers of waiting, dead and held messages.
fn all_say(place: &Place, web: &Web, name: &str, quiet: &QueueStats, numbers: [u64; 3]) {
    let stat = run(&["stat", name, "--json"]).expect(0).json();
    let shown = web.json(&path("queues", name));
    assert_eq!(shown["stats"], stat["stats"]);
    let mut known = serde_json::to_value(quiet).unwrap();
    // Shown as counters that are null.
    known.as_object_mut().unwrap().remove("only_this_process");
    assert_eq!(stat["stats"], known);
    check(&stat["stats"], &["ready", "dead", "leased"], numbers);
    let top = run(&["top", &place.0, "--json", "--every", "1ms"])
        .expect(0)
        .json();
    check(&top["queues"][0], &["ready", "dead", "held"], numbers);
    wait_until("a sample was taken since", || {
        web.line(name)["state"] == "paused"
    });
    let line = web.line(name);
    check(&line, &["ready", "dead", "held"], numbers);
    assert_eq!(line["in_use"], numbers[0] + numbers[1]);
    assert!(
        line["deaths"].as_u64() >= Some(quiet.crashes),
        "{line}, {quiet:?}"
    );
}

#[track_caller]
fn check(value: &Value, names: &[&str], expected: [u64; 3]) {
    for (name, expected) in names.iter().zip(expected) {
        assert_eq!(value[name], expected, "{name} in {value}");
    }
}

fn take_all(queue: &ipc_queue::ByteQueue) -> u64 {
    let (receiver, mut taken) = (queue.receiver(), 0);
    while let Ok(delivery) = receiver.try_recv() {
        delivery.ack().unwrap();
        taken += 1;
    }
    taken
}
