//! Senders and receivers that are killed at random times, again and again, in the middle of their
//! work.

use std::collections::{HashMap, HashSet};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ipc_queue::conformance::{content, number_in};
use ipc_queue::{ByteQueue, QueueSettings, RecvTimeoutError};

use crate::stage::{LARGEST, Puppet, Stage, say, settings, stats};

#[test]
fn kills_lose_no_accepted_message() {
    storm(&settings(16), 150);
}

#[test]
fn kills_and_stops_lose_no_accepted_message_with_leases() {
    let settings = QueueSettings {
        lease: Some(Duration::from_millis(10)),
        ..settings(16)
    };
    storm(&settings, 100);
}

fn storm(settings: &QueueSettings, kills: u64) {
    let stage = Stage::new(settings);
    let mut random = fastrand::Rng::with_seed(kills);
    let mut logs = Vec::new();
    let mut started = 0;
    let mut start = |role| {
        started += 1;
        Worker::start(&stage, role, started)
    };
    let roles = [
        Role::Sender,
        Role::Sender,
        Role::Receiver,
        Role::Receiver,
        Role::Receiver,
        Role::Receiver,
    ];
    let mut workers: Vec<Worker> = roles.map(&mut start).into_iter().collect();
    for _ in 0..kills {
        // The sleep does not wait for a condition: the kill should hit at a random point.
        thread::sleep(Duration::from_micros(random.u64(..20_000)));
        let which = random.usize(..workers.len());
        if random.u8(..4) == 0 {
            workers[which].process.stop();
            thread::sleep(Duration::from_micros(random.u64(..30_000)));
            if random.bool() {
                workers[which].process.go_on();
            }
        }
        let role = workers[which].role;
        logs.push(std::mem::replace(&mut workers[which], start(role)).kill());
    }
    logs.extend(workers.into_iter().map(Worker::kill));
    Ledger::of(logs.into_iter().flat_map(|log| log.join().unwrap())).settle(&stage);
}

#[derive(Clone, Copy)]
enum Role {
    Sender,
    Receiver,
}

struct Worker {
    role: Role,
    process: Puppet,
    log: JoinHandle<Vec<String>>,
}

impl Worker {
    fn start(stage: &Stage, role: Role, number: u64) -> Self {
        let mut process = match role {
            Role::Sender => stage.start(&format!("sender {number}")),
            Role::Receiver => stage.start("receiver"),
        };
        let log = process.hear_all();
        Self { role, process, log }
    }

    fn kill(mut self) -> JoinHandle<Vec<String>> {
        assert!(
            !self.process.has_ended(),
            "the worker ended by itself, so one of its checks failed"
        );
        self.process.kill();
        self.log
    }
}

/// Sends as fast as possible, and reports each message.
pub fn send_for_ever(queue: &ByteQueue, number: u64) -> ! {
    let sender = queue.sender();
    let mut random = fastrand::Rng::with_seed(number);
    for number in number << 32.. {
        let most = if random.bool() { 100 } else { LARGEST };
        let len = random.usize(8..=most);
        let mut loan = sender.loan(len).unwrap();
        loan.copy_from_slice(&content(number, len));
        if random.u8(..16) == 0 {
            drop(loan);
            continue;
        }
        loan.publish().unwrap();
        say(&format!("sent {number}"));
    }
    unreachable!("numbers do not end")
}

/// Receives as fast as possible, and reports each step before and after.
pub fn receive_for_ever(queue: &ByteQueue) -> ! {
    let receiver = queue.receiver();
    let mut random = fastrand::Rng::new();
    loop {
        let delivery = match receiver.recv_timeout(Duration::from_millis(2)) {
            Ok(delivery) => delivery,
            Err(RecvTimeoutError::TimedOut { .. }) => {
                // Otherwise dead letters would take all places.
                discard_letters(queue);
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let number = number_in(delivery.payload());
        let attempt = delivery.attempt();
        say(&format!("got {number} {attempt}"));
        match random.u8(..16) {
            0 => drop(delivery),
            1 => drop(delivery.nack_after(Duration::from_millis(1))),
            2 => drop(delivery.bury()),
            _ => {
                say(&format!("ending {number}"));
                if delivery.ack().is_ok() {
                    say(&format!("acked {number} {attempt}"));
                }
            }
        }
    }
}

fn discard_letters(queue: &ByteQueue) {
    for letter in queue.transport().dead_letters().unwrap() {
        say(&format!("ending {}", number_in(&letter.payload)));
        let _others_were_faster = queue.transport().discard(letter.id).unwrap();
    }
}

/// The reports of all processes.
#[derive(Default)]
struct Ledger {
    sent: HashSet<u64>,
    /// Messages that a process was about to ack or to discard.
    ending: HashSet<u64>,
    acked: HashMap<u64, u8>,
    /// The highest attempt of each message.
    got: HashMap<u64, u8>,
}

impl Ledger {
    fn of(lines: impl Iterator<Item = String>) -> Self {
        let mut ledger = Self::default();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let number = words[1].parse().unwrap();
            let attempt = || words[2].parse().unwrap();
            match words[0] {
                "sent" => assert!(ledger.sent.insert(number), "{number} was sent twice"),
                "ending" => {
                    ledger.ending.insert(number);
                }
                "acked" => {
                    let before = ledger.acked.insert(number, attempt());
                    assert_eq!(before, None, "{number} was acked twice");
                }
                "got" => {
                    let highest = ledger.got.entry(number).or_default();
                    *highest = attempt().max(*highest);
                }
                other => panic!("unknown report {other:?}"),
            }
        }
        ledger
    }

    /// Drains the queue, and checks that everything adds up.
    fn settle(&self, stage: &Stage) {
        let queue = stage.open();
        let mut left = HashSet::new();
        drain(&queue, |number| {
            left.insert(number);
        });
        for letter in queue.transport().dead_letters().unwrap() {
            left.insert(number_in(&letter.payload));
            assert!(queue.transport().discard(letter.id).unwrap());
        }
        for number in &self.sent {
            let accounted = left.contains(number) || self.ending.contains(number);
            assert!(accounted, "message {number:#x} was accepted and is lost");
        }
        for (number, attempt) in &self.acked {
            assert!(
                !left.contains(number),
                "message {number:#x} was acked and is still there"
            );
            let last = self.got[number];
            assert_eq!(
                last, *attempt,
                "message {number:#x} was acked and delivered again"
            );
        }
        let (sent, acked) = (self.sent.len(), self.acked.len());
        assert!(
            sent > 500 && acked > 300,
            "{sent} sent and {acked} acked: hardly a storm"
        );
        stage.assert_all_free(&queue);
    }
}

/// Receives until nothing is left, including messages that are delayed or about to be freed.
fn drain(queue: &ByteQueue, mut got: impl FnMut(u64)) {
    let receiver = queue.receiver();
    loop {
        match receiver.recv_timeout(Duration::from_millis(1)) {
            Ok(delivery) => {
                let number = number_in(delivery.payload());
                if delivery.ack().is_ok() {
                    got(number);
                }
            }
            Err(RecvTimeoutError::TimedOut { .. }) => {
                let now = stats(queue);
                if now.in_use() == now.dead {
                    return;
                }
            }
            Err(other) => panic!("{other}"),
        }
    }
}
