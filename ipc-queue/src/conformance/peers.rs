//! The promises about holders of messages: the list of leases, and redelivery after a kill.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ipc_proto::QueueSettings;

use super::control::expect_unsupported;
use super::{PATIENCE, Subject, Trial, content, number_in, settings};
use crate::bytes::ByteQueue;
use crate::capability::Feature;

/// The output of a holder once it has a message.
const HELD: &str = "holds a message until it is killed";
/// Longer than any test: a test that has to wait for this shows that a death was not noticed.
const LEASE: Duration = Duration::from_secs(3600);

/// The work of the process that [`Subject::holder`] starts. It receives a message, reports that on
/// its standard output, and holds the message until it is killed, or until its standard input ends.
///
/// # Panics
/// If there is no message.
pub fn hold_until_killed(queue: &ByteQueue) {
    let receiver = queue.receiver();
    let held = receiver.recv().expect("a message was sent");
    println!("{HELD}");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(held);
}

/// Another process, which is killed at the end of its test.
struct Holder(Child);

impl Holder {
    /// Starts the process and waits until it holds a message.
    fn start(mut command: Command) -> Self {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = Self(piped.spawn().expect("the holder's program"));
        let said = holder.0.stdout.take().expect("it is piped");
        let mut lines = BufReader::new(said).lines().map_while(Result::ok);
        assert!(
            lines.any(|line| line.contains(HELD)),
            "the holder ended without a message: does it call hold_until_killed?"
        );
        holder
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The message is delivered long before its lease ends, to any receiver.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_killed_receivers_message_is_redelivered(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&QueueSettings {
        lease: Some(LEASE),
        ..settings(2)
    });
    if !queue.transport().capabilities().has(Feature::DeathNoticed) {
        return; // Not declared: then it is delivered again when its lease ends.
    }
    for number in 0..3 {
        let sent = queue.sender().try_send(&content(number, 1000));
        let id = sent.expect("a place");
        let command = subject.holder(&trial.name);
        let command =
            command.expect("a subject that notices deaths must implement Subject::holder");
        let receiver = queue.receiver();
        let holder = Holder::start(command);
        drop(holder);
        let again = receiver.recv_timeout(PATIENCE / 2);
        let again = again.expect("its death is noticed");
        assert_eq!((again.id(), again.attempt()), (id, 2));
        assert_eq!(number_in(again.payload()), number);
        again.ack().expect("we hold it");
    }
}

/// The list contains each leased message with its attempt, and nothing else.
///
/// # Panics
/// If the subject breaks the promise.
pub fn leases_can_be_listed(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let (queue, other) = (trial.create(&settings(4)), trial.open());
    let leases = || {
        let leases = other.transport().leases().unwrap();
        let mut held: Vec<_> = leases
            .into_iter()
            .map(|lease| (lease.message.sequence, lease.attempt, lease.pid))
            .collect();
        held.sort_unstable();
        held
    };
    if !queue.transport().capabilities().has(Feature::Leases) {
        expect_unsupported(queue.transport().leases(), Feature::Leases);
        return;
    }
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let ids = [1, 2, 3].map(|number| sender.try_send(&content(number, 10)).expect("a place"));
    assert_eq!(leases(), []);
    receiver
        .try_recv()
        .expect("it was sent")
        .bury()
        .expect("we hold it");
    let second = receiver.try_recv().expect("it was sent");
    let elsewhere = other.receiver();
    elsewhere
        .try_recv()
        .expect("it was sent")
        .nack()
        .expect("we hold it");
    let third = elsewhere.try_recv().expect("it was returned");
    let us = std::process::id();
    let (of_second, of_third) = ((ids[1].sequence, 1, us), (ids[2].sequence, 2, us));
    assert_eq!(leases(), [of_second, of_third]);
    second.ack().expect("we hold it");
    assert_eq!(leases(), [of_third]);
    drop(third);
    assert_eq!(leases(), []);
}
