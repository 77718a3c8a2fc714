//! The `tracing` events when processes really die, and the counters then.

use std::io;
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ipc_queue::QueueSettings;
use ipc_queue::conformance::content;

use crate::stage::{PATIENCE, SMALL, Stage, expect_message, next_dead_letter, settings, stats};

static SAID: Mutex<String> = Mutex::new(String::new());

/// Keeps the events of all tests in this process.
struct Keep;

impl io::Write for Keep {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        said.push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Records events from now on.
fn listen() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(|| Keep)
            .init();
    });
}

/// Returns the lines so far that contain all of these words.
fn said(words: &[&str]) -> Vec<String> {
    let said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = said
        .lines()
        .filter(|line| words.iter().all(|word| line.contains(word)));
    lines.map(str::to_owned).collect()
}

/// Waits for an event with these words.
#[track_caller]
fn hear(words: &[&str]) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(line) = said(words).pop() {
            return line;
        }
        assert!(
            Instant::now() < deadline,
            "there was no event with {words:?}"
        );
        thread::yield_now();
    }
}

#[test]
fn a_death_with_a_lease_is_reported_and_counted_once() {
    listen();
    let stage = Stage::new(&settings(2));
    let queue = stage.open();
    queue.sender().try_send(&content(1, SMALL)).unwrap();
    let mut holder = stage.puppet();
    holder.tell("receive");
    assert!(holder.hear().starts_with("blocking"));
    holder.expect("got 1, attempt 1");
    let pid = format!("pid={}", holder.pid());
    holder.kill();
    expect_message(&queue.receiver(), 1, 2).ack().unwrap();
    let died = hear(&["participant died", &pid, " WARN "]);
    assert!(
        died.contains("ipc_shm") && died.contains("jobs.queue"),
        "{died}"
    );
    let recovered = hear(&["recovered", &pid, "queue=shm:test/jobs"]);
    assert!(
        recovered.contains("crashes=1 redelivered=1 dead=0 freed=0"),
        "{recovered}"
    );
    assert_eq!(said(&["participant died", &pid]).len(), 1);
    assert_eq!(said(&["recovered", &pid]).len(), 1);
    let stats = stats(&queue);
    assert_eq!((stats.crashes, stats.expiries, stats.nacked), (1, 0, 0));
    assert_eq!(
        stats.received,
        stats.acked + stats.crashes,
        "each delivery ends once"
    );
}

#[test]
fn counters_of_dead_processes_remain_without_live_ones() {
    let stage = Stage::new(&settings(8));
    for _ in 0..3 {
        let mut both = stage.puppet();
        for number in 0..2 {
            both.tell(&format!("send {number} {SMALL}"));
            assert!(both.hear().starts_with("blocking"));
            both.expect("sent");
        }
        both.tell("receive");
        assert!(both.hear().starts_with("blocking"));
        assert!(both.hear().starts_with("got"));
        both.act("ack", "done");
        both.tell("receive");
        assert!(both.hear().starts_with("blocking"));
        assert!(both.hear().starts_with("got"));
        both.kill();
    }
    let stats = stats(&stage.open());
    assert_eq!((stats.sent, stats.received, stats.acked), (6, 6, 3));
    assert_eq!((stats.crashes, stats.ready, stats.leased), (3, 3, 0));
}

#[test]
fn ends_of_attempts_are_reported_and_counted_separately() {
    listen();
    let stage = Stage::new(&QueueSettings {
        lease: Some(Duration::from_millis(50)),
        attempt_limit: 3,
        ..settings(2)
    });
    let queue = stage.open();
    let receiver = queue.receiver();
    queue.sender().try_send(&content(1, SMALL)).unwrap();
    expect_message(&receiver, 1, 1).nack().unwrap();
    let late = expect_message(&receiver, 1, 2);
    // The lease of the second is over when the message is delivered again.
    let third = expect_message(&receiver, 1, 3);
    assert!(late.ack().unwrap_err().is_lease_lost());
    let message = format!("message_id={}", third.id());
    let buried = third.bury();
    if buried.is_ok() {
        let line = hear(&["dead letter", &message]);
        assert!(line.contains("attempts=3 reason=\"buried\""), "{line}");
    }
    let letter = next_dead_letter(&queue);
    let stats = stats(&queue);
    assert_eq!(stats.nacked, 1);
    assert_eq!(stats.expiries, u64::from(letter.expiries));
    assert_eq!(stats.received, stats.nacked + stats.expiries + stats.buried);
    hear(&["leases expired", "queue=shm:test/jobs"]);
}

#[test]
fn operations_on_a_queue_are_traced() {
    listen();
    let stage = Stage::new(&settings(2));
    let queue = stage.open();
    let transport = queue.transport();
    queue.sender().try_send(&content(1, SMALL)).unwrap();
    transport.pause().unwrap();
    transport.resume().unwrap();
    assert_eq!(transport.purge().unwrap(), 1);
    transport
        .drain(ipc_queue::transport::Wait::Forever)
        .unwrap();
    for what in [
        "queue paused",
        "queue resumed",
        "queue purged",
        "queue closed",
        "queue drained",
    ] {
        hear(&[what, "INFO", "queue=shm:test/jobs"]);
    }
    drop(queue);
    drop(stage);
    hear(&["segment removed", "jobs.queue"]);
}
