//! One thread makes random calls on a queue, and keeps records that must match the queue's.

use std::collections::HashMap;

use ipc_proto::{MessageId, QueueSettings};

use super::{Subject, Trial, content, rounds, settings};
use crate::bytes::{ByteQueue, ByteReceiver, ByteSender};
use crate::delivery::ByteDelivery;
use crate::error::{TryRecvError, TrySendError};
use crate::loan::Loan;
use crate::stats::QueueStats;

/// The records that a test checks. The other records follow the queue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Focus {
    /// A send succeeds exactly if a place is free.
    Places,
    /// A receive succeeds exactly if a message is ready.
    Messages,
    /// The statistics match the calls made.
    Counts,
}

/// Makes a random walk on a queue of `capacity`, different for each seed.
pub(super) fn walk(subject: &dyn Subject, capacity: u32, seed: u64, focus: Focus) {
    let steps = rounds(subject, 400).max(80);
    let trial = Trial::new(subject);
    let settings = QueueSettings {
        attempt_limit: 3,
        ..settings(capacity)
    };
    let queues = [trial.create(&settings), trial.open()];
    let senders: Vec<_> = queues.iter().map(ByteQueue::sender).collect();
    let receivers: Vec<_> = queues.iter().map(ByteQueue::receiver).collect();
    let mut walk = Walk {
        focus,
        seed,
        settings,
        queue: &queues[0],
        senders: &senders,
        receivers: &receivers,
        random: fastrand::Rng::with_seed(seed),
        numbers: 0,
        ready: HashMap::new(),
        loans: Vec::new(),
        held: Vec::new(),
        counts: QueueStats::default(),
        discarded: 0,
    };
    for _ in 0..steps {
        walk.step();
    }
    walk.finish();
}

struct Walk<'q> {
    focus: Focus,
    seed: u64,
    settings: QueueSettings,
    queue: &'q ByteQueue,
    senders: &'q [ByteSender],
    receivers: &'q [ByteReceiver],
    random: fastrand::Rng,
    numbers: u64,
    /// The ready messages and the number of their deliveries.
    ready: HashMap<MessageId, (Vec<u8>, u8)>,
    loans: Vec<(Vec<u8>, Loan<'q>)>,
    held: Vec<ByteDelivery<'q>>,
    counts: QueueStats,
    discarded: u64,
}

impl<'q> Walk<'q> {
    fn step(&mut self) {
        match self.random.u8(..20) {
            0..=4 => self.send(),
            5..=6 => self.lend(),
            7 => self.end_loan(),
            8..=12 => self.receive(),
            13..=17 => self.settle(),
            18 => self.end_letter(),
            _ => self.compare(),
        }
    }

    fn message(&mut self) -> Vec<u8> {
        self.numbers += 1;
        let most = if self.random.u8(..4) == 0 { 3000 } else { 100 };
        let len = self.random.usize(8..most);
        content(self.numbers, len)
    }

    fn in_use(&self) -> u64 {
        let mut counts = self.counts;
        counts.ready = self.ready.len() as u64;
        counts.writing = self.loans.len() as u64;
        counts.leased = self.held.len() as u64;
        counts.in_use()
    }

    fn has_place(&self) -> bool {
        self.in_use() < self.settings.capacity.into()
    }

    /// Returns the place if the queue gave one, after checking that this was right.
    fn judge<T>(&self, answer: Result<T, TrySendError>) -> Option<T> {
        let right = answer.is_ok() == self.has_place();
        let (seed, used) = (self.seed, self.in_use());
        match &answer {
            Ok(_) => {}
            Err(TrySendError::Full { capacity, .. }) => {
                assert_eq!(*capacity, self.settings.capacity);
            }
            Err(other) => panic!("{other}"),
        }
        assert!(
            right || self.focus != Focus::Places,
            "seed {seed}: {used} of {} places are taken, but a sender got {:?}",
            self.settings.capacity,
            answer.err(),
        );
        answer.ok()
    }

    fn accepted(&mut self, id: MessageId, message: Vec<u8>) {
        self.counts.sent += 1;
        self.counts.bytes_sent += message.len() as u64;
        let twin = self.ready.insert(id, (message, 0));
        assert!(twin.is_none(), "two messages have the id {id:?}");
    }

    fn send(&mut self) {
        let message = self.message();
        let sender = &self.senders[self.random.usize(..self.senders.len())];
        match self.judge(sender.try_send(&message)) {
            Some(id) => self.accepted(id, message),
            None => self.counts.refused += 1,
        }
    }

    fn lend(&mut self) {
        let message = self.message();
        let sender = &self.senders[self.random.usize(..self.senders.len())];
        match self.judge(sender.try_loan(message.len())) {
            Some(loan) => self.loans.push((message, loan)),
            None => self.counts.refused += 1,
        }
    }

    fn end_loan(&mut self) {
        if self.loans.is_empty() {
            return;
        }
        let (message, mut loan) = self
            .loans
            .swap_remove(self.random.usize(..self.loans.len()));
        if self.random.bool() {
            loan.copy_from_slice(&message);
            let id = loan.publish().expect("the loan held a place");
            self.accepted(id, message);
        }
    }

    fn receive(&mut self) {
        let receiver = &self.receivers[self.random.usize(..self.receivers.len())];
        let seed = self.seed;
        let delivery = match receiver.try_recv() {
            Ok(delivery) => delivery,
            Err(TryRecvError::Empty) => {
                assert!(
                    self.ready.is_empty() || self.focus != Focus::Messages,
                    "seed {seed}: {} messages are ready, but a receiver found none",
                    self.ready.len(),
                );
                return;
            }
            Err(other) => panic!("{other}"),
        };
        let (id, attempt) = (delivery.id(), delivery.attempt());
        let (message, before) = self
            .ready
            .remove(&id)
            .expect("only what is ready is delivered");
        assert_eq!(delivery.payload(), message);
        assert_eq!(attempt, before + 1, "seed {seed}");
        self.counts.received += 1;
        self.counts.bytes_received += message.len() as u64;
        self.counts.redelivered += u64::from(attempt > 1);
        self.held.push(delivery);
    }

    fn settle(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let delivery = self.held.swap_remove(self.random.usize(..self.held.len()));
        let (id, attempt, message) = (
            delivery.id(),
            delivery.attempt(),
            delivery.payload().to_vec(),
        );
        let how = self.random.u8(..8);
        let settled = match how {
            0..=3 => delivery.ack(),
            4..=5 => delivery.nack(),
            6 => delivery.bury(),
            _ => {
                drop(delivery);
                Ok(())
            }
        };
        settled.expect("there is no lease to lose");
        match how {
            0..=3 => self.counts.acked += 1,
            6 => {
                self.counts.buried += 1;
                self.counts.dead += 1;
            }
            _ => {
                self.counts.nacked += 1;
                if attempt < self.settings.attempt_limit {
                    self.ready.insert(id, (message, attempt));
                } else {
                    self.counts.dead += 1;
                }
            }
        }
    }

    fn end_letter(&mut self) {
        let letters = self.queue.transport().dead_letters().unwrap();
        assert_eq!(letters.len() as u64, self.counts.dead);
        let Some(letter) = letters.first() else {
            return;
        };
        if self.random.bool() {
            assert!(self.queue.transport().discard(letter.id).unwrap());
            self.discarded += 1;
            self.counts.dead -= 1;
            return;
        }
        let requeued = self.queue.transport().requeue(letter.id);
        assert!(requeued.unwrap(), "the letter was there");
        self.counts.dead -= 1;
        let twin = self
            .ready
            .insert(letter.message, (letter.payload.clone(), 0));
        assert!(
            twin.is_none(),
            "two messages have the id {:?}",
            letter.message
        );
    }

    /// Compares the records with the queue's statistics.
    fn compare(&self) {
        let mut expected = self.counts;
        expected.ready = self.ready.len() as u64;
        expected.writing = self.loans.len() as u64;
        expected.leased = self.held.len() as u64;
        let mut found = self.queue.transport().stats().unwrap();
        // These do not depend on the queue alone, or differ between transports.
        (found.participants, found.chunks_in_use) = (0, 0);
        found.only_this_process = false;
        if self.focus == Focus::Counts {
            assert_eq!(found, expected, "seed {}", self.seed);
            assert_eq!(
                found.sent,
                found.acked + self.discarded + found.in_use() - found.writing
            );
            let ended = found.acked + found.nacked + found.buried + found.leases_lost;
            assert_eq!(found.received, ended + found.leased);
        }
    }

    /// Ends everything that is in progress. Then the queue must be empty, with all its places free.
    fn finish(mut self) {
        self.loans.clear();
        self.compare();
        while !self.held.is_empty() || !self.ready.is_empty() {
            self.receive();
            self.settle();
        }
        for letter in self.queue.transport().dead_letters().unwrap() {
            assert!(self.queue.transport().discard(letter.id).unwrap());
            self.discarded += 1;
            self.counts.dead -= 1;
        }
        self.compare();
        for _ in 0..=self.settings.capacity {
            let message = self.message();
            if let Some(id) = self.judge(self.senders[0].try_send(&message)) {
                self.accepted(id, message);
            }
        }
    }
}
