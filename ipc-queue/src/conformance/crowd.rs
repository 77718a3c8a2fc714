//! Many senders and receivers at once, and the deliveries of each receiver.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use ipc_proto::QueueSettings;

use super::{Subject, Trial, content, number_in, rounds, settings};
use crate::bytes::ByteQueue;

/// The senders and receivers of a queue, and how they behave.
pub(super) struct Crowd {
    pub(super) settings: QueueSettings,
    pub(super) senders: u64,
    pub(super) receivers: u64,
    /// The number of messages of each sender.
    pub(super) each: u64,
    pub(super) sending: Sending,
    pub(super) settling: Settling,
}

/// The behaviour of senders.
#[derive(Clone, Copy)]
pub(super) enum Sending {
    /// They send without pauses.
    Brisk,
    /// Sometimes they hold a loan for a while, or drop one.
    Dawdling,
}

/// The behaviour of receivers.
#[derive(Clone, Copy)]
pub(super) enum Settling {
    Ack,
    /// They nack or drop every third message.
    Fickle,
}

/// One delivery.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receipt {
    pub(super) sender: u64,
    /// The number of the message among that sender's messages.
    pub(super) number: u64,
    pub(super) acked: bool,
}

impl Crowd {
    pub(super) fn of(subject: &dyn Subject, capacity: u32, senders: u64, receivers: u64) -> Self {
        Self {
            settings: QueueSettings {
                attempt_limit: QueueSettings::MAX_ATTEMPTS,
                ..settings(capacity)
            },
            senders,
            receivers,
            each: rounds(subject, 300).into(),
            sending: Sending::Brisk,
            settling: Settling::Ack,
        }
    }

    /// Runs all senders and receivers until everything is sent and settled. Returns the deliveries
    /// of each receiver, in their order.
    pub(super) fn work(&self, subject: &dyn Subject) -> Vec<Vec<Receipt>> {
        let trial = Trial::new(subject);
        let queue = trial.create(&self.settings);
        // The number of receivers that hold each message now.
        let hands: Vec<AtomicU32> = (0..self.senders * self.each).map(|_| 0.into()).collect();
        thread::scope(|scope| {
            let (trial, hands) = (&trial, &hands);
            let receivers: Vec<_> = (0..self.receivers)
                .map(|receiver| {
                    scope.spawn(move || {
                        let _alarm = trial.alarm();
                        self.receive(&trial.open(), receiver, hands)
                    })
                })
                .collect();
            let senders: Vec<_> = (0..self.senders)
                .map(|sender| {
                    scope.spawn(move || {
                        let _alarm = trial.alarm();
                        self.send(&trial.open(), sender);
                    })
                })
                .collect();
            for sender in senders {
                sender.join().expect("the sender is done");
            }
            queue.transport().close().unwrap();
            let receipts = receivers.into_iter().map(|receiver| receiver.join());
            receipts
                .map(|receipts| receipts.expect("the receiver is done"))
                .collect()
        })
    }

    fn send(&self, queue: &ByteQueue, sender: u64) {
        let port = queue.sender();
        let mut random = fastrand::Rng::with_seed(sender);
        for number in 0..self.each {
            let message = content(sender * self.each + number, random.usize(8..600));
            let mut loan = port.loan(message.len()).expect("a place");
            if matches!(self.sending, Sending::Dawdling) && random.u8(..4) == 0 {
                for _ in 0..random.u8(..20) {
                    thread::yield_now();
                }
                if random.bool() {
                    drop(loan);
                    loan = port.loan(message.len()).expect("a place");
                }
            }
            loan.copy_from_slice(&message);
            loan.publish().expect("the loan held a place");
        }
    }

    fn receive(&self, queue: &ByteQueue, receiver: u64, hands: &[AtomicU32]) -> Vec<Receipt> {
        let port = queue.receiver();
        let mut random = fastrand::Rng::with_seed(receiver);
        let mut receipts = Vec::new();
        loop {
            let delivery = match port.recv() {
                Ok(delivery) => delivery,
                Err(error) if error.is_closed() => return receipts,
                Err(error) => panic!("{error}"),
            };
            let number = number_in(delivery.payload());
            let hand = &hands[usize::try_from(number).expect("a small number")];
            assert_eq!(
                hand.fetch_add(1, Ordering::SeqCst),
                0,
                "two have message {number}"
            );
            let fickle = matches!(self.settling, Settling::Fickle) && random.u8(..3) == 0;
            receipts.push(Receipt {
                sender: number / self.each,
                number: number % self.each,
                acked: !fickle,
            });
            hand.fetch_sub(1, Ordering::SeqCst);
            match (fickle, random.bool()) {
                (false, _) => delivery.ack().expect("we hold it"),
                (true, false) => delivery.nack().expect("we hold it"),
                (true, true) => drop(delivery),
            }
        }
    }
}
