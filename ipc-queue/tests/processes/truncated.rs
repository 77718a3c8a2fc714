//! A file that is truncated while a process uses the queue. The process gets an error with the
//! reason, whatever it was doing, and does not die by SIGBUS.

use std::fs::File;

use ipc_queue::{
    ByteDelivery, ByteQueue, ByteReceiver, ByteSender, ControlFailure, SendFailure, Unavailable,
};

use crate::stage::{LARGEST, Puppet, Stage, listen, say, settings};

/// The new sizes: empty; within the header's page, with nothing of the queue left; within the first
/// page after it.
const CUTS: [u64; 3] = [0, 2048, 4096 + 2048];

/// Plays the role of a process that is `doing` something when the file is truncated.
pub fn be_cut(queue: &ByteQueue, doing: &str) {
    let (sender, receiver) = (queue.sender(), queue.receiver());
    match doing {
        "receive" => receive(&receiver),
        "work" => work(&sender, &receiver),
        "lend" => lend(&sender),
        "read" => read(&sender, &receiver),
        "nothing" => nothing(queue),
        other => panic!("there is no role {other:?}"),
    }
    // From now on every call fails.
    assert_eq!(
        sender.try_send(b"x").unwrap_err().failure(),
        Some(&Unavailable::Truncated.into())
    );
    assert_eq!(
        receiver.try_recv().unwrap_err().failure(),
        Some(&Unavailable::Truncated.into())
    );
    assert_eq!(
        sender.send(b"x").unwrap_err().failure,
        Unavailable::Truncated.into()
    );
    assert_eq!(
        receiver.recv().unwrap_err().failure,
        Unavailable::Truncated.into()
    );
    let transport = queue.transport();
    let outcomes = [
        transport.stats().map(drop),
        transport.leases().map(drop),
        transport.is_closed().map(drop),
        transport.dead_letters().map(drop),
        transport.close(),
    ];
    for outcome in outcomes {
        let failure = outcome.unwrap_err().failure;
        let truncated = ControlFailure::Unavailable(Unavailable::Truncated);
        assert_eq!(failure.to_string(), truncated.to_string());
    }
    say("truncated");
}

fn receive(receiver: &ByteReceiver) {
    say(&format!("blocking {}", nix::unistd::gettid()));
    assert_eq!(
        receiver.recv().unwrap_err().failure,
        Unavailable::Truncated.into()
    );
}

fn work(sender: &ByteSender, receiver: &ByteReceiver) {
    say("ready");
    let payload = vec![0x5a; LARGEST];
    loop {
        match sender.send(&payload) {
            Ok(_) => {}
            Err(error) if error.failure == Unavailable::Truncated.into() => return,
            Err(other) => panic!("{other}"),
        }
        let delivery = match receiver.recv() {
            Ok(delivery) => delivery,
            Err(error) if error.failure == Unavailable::Truncated.into() => return,
            Err(other) => panic!("{other}"),
        };
        let was_whole = delivery.payload() == payload;
        assert!(was_whole || is_truncated(&delivery));
        match delivery.ack() {
            // The payload read before this was the message's.
            Ok(()) => assert!(was_whole),
            Err(error) if error.failure == Unavailable::Truncated.into() => return,
            Err(other) => panic!("{other}"),
        }
    }
}

fn is_truncated(delivery: &ByteDelivery<'_>) -> bool {
    delivery
        .check_whole()
        .is_err_and(|error| error.failure == Unavailable::Truncated.into())
}

fn lend(sender: &ByteSender) {
    let mut loan = sender.loan(LARGEST).unwrap();
    loan[..100].fill(1);
    say("ready");
    listen();
    loan.fill(2);
    assert!(loan.iter().all(|byte| *byte == 2));
    assert_eq!(
        loan.publish().unwrap_err().failure,
        Unavailable::Truncated.into()
    );
}

fn read(sender: &ByteSender, receiver: &ByteReceiver) {
    sender.send(&[3; LARGEST]).unwrap();
    let delivery = receiver.recv().unwrap();
    let other = sender.send(&[4; LARGEST]).and(Ok(receiver.recv()));
    let other = other.unwrap().unwrap();
    assert_eq!(delivery.payload()[0], 3);
    say("ready");
    listen();
    assert!(delivery.payload().iter().all(|byte| [0, 3].contains(byte)));
    assert!(is_truncated(&delivery));
    assert_eq!(
        delivery.ack().unwrap_err().failure,
        Unavailable::Truncated.into()
    );
    drop(other);
}

/// Does nothing, so that only another thread can notice.
fn nothing(queue: &ByteQueue) {
    say("ready");
    listen();
    let sender = queue.sender();
    let truncated = SendFailure::from(Unavailable::Truncated);
    while !sender
        .try_send(b"x")
        .is_err_and(|error| error.failure() == Some(&truncated))
    {
        std::thread::yield_now();
    }
}

fn file(stage: &Stage) -> File {
    File::options().write(true).open(stage.file()).unwrap()
}

#[track_caller]
fn assert_ends_well(mut puppet: Puppet) {
    puppet.expect("truncated");
    let end = puppet.end();
    assert!(end.success(), "{end}");
}

#[test]
fn a_blocked_receiver_gets_the_truncation_error() {
    for cut in CUTS {
        let stage = Stage::new(&settings(8));
        let mut puppet = stage.start("cut receive");
        puppet.asleep();
        file(&stage).set_len(cut).unwrap();
        assert_ends_well(puppet);
    }
}

#[test]
fn a_busy_process_gets_the_truncation_error() {
    for cut in CUTS {
        for _ in 0..5 {
            let stage = Stage::new(&settings(8));
            let mut puppet = stage.start("cut work");
            puppet.expect("ready");
            file(&stage).set_len(cut).unwrap();
            assert_ends_well(puppet);
        }
    }
}

#[test]
fn a_loan_that_is_being_written_is_not_published() {
    written_or_read("cut lend");
}

#[test]
fn a_delivery_that_is_being_read_is_not_settled() {
    written_or_read("cut read");
}

fn written_or_read(role: &str) {
    for cut in CUTS {
        let stage = Stage::new(&settings(8));
        let mut puppet = stage.start(role);
        puppet.expect("ready");
        file(&stage).set_len(cut).unwrap();
        puppet.tell("go on");
        assert_ends_well(puppet);
    }
}

#[test]
fn a_truncated_and_extended_file_is_noticed_within_a_slice() {
    let stage = Stage::new(&settings(8));
    let length = file(&stage).metadata().unwrap().len();
    for role in ["cut receive", "cut nothing"] {
        let stage = Stage::new(&settings(8));
        let mut puppet = stage.start(role);
        if role == "cut receive" {
            puppet.asleep();
        } else {
            puppet.expect("ready");
        }
        file(&stage).set_len(0).unwrap();
        file(&stage).set_len(length).unwrap();
        puppet.tell("go on");
        assert_ends_well(puppet);
    }
}
