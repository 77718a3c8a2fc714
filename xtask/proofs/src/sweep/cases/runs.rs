//! Messages that are claimed, published, taken and freed together, and what parts them.

use anyhow::{Result, ensure};
use ipc_proto::Kind;
use ipc_queue::transport::Wait;
use ipc_queue::{Batch, ByteDelivery, ByteQueue, DeadReason};

use crate::sweep::actor::{CAPACITY, Play};
use crate::sweep::operation::State;
use crate::sweep::outcome::{Message, Outcome};
use crate::sweep::scenery::{receive, send};

pub const SEND: &[State] = &[
    State::new("fresh-cells", |play| {
        let queue = play.attach_without_lease()?;
        send_all(play, &queue, &[], &[50, 51, 52])
    }),
    State::new("run-of-room", |play| {
        let queue = freed(play)?;
        send_all(play, &queue, &[], &[50, 51, 52])
    }),
    State::new("part-of-room", |play| {
        let queue = freed(play)?;
        send_all(play, &queue, &[], &[50, 51])
    }),
    State::new("rest-of-room", |play| {
        let queue = freed(play)?;
        send(&queue, [1])?;
        send_all(play, &queue, &[1], &[50, 51])
    }),
    State::new("single-from-room", |play| {
        let queue = freed(play)?;
        send_one(play, &queue, &[])
    }),
    State::new("single-from-rest", |play| {
        let queue = freed(play)?;
        send(&queue, [1])?;
        send_one(play, &queue, &[1])
    }),
];

pub const RECEIVE: &[State] = &[
    State::new("all", |play| take(play, &[1, 2, 3], 3)),
    State::new("part", |play| take(play, &[1, 2, 3], 2)),
    State::new("single", |play| {
        let queue = ready(play, &[1, 2, 3])?;
        let receiver = queue.receiver();
        let after = [
            Message::comes(1, 2),
            Message::comes(2, 1),
            Message::comes(3, 1),
        ];
        let (before, after) = (fresh(&[1, 2, 3]), Outcome::of(after));
        play.step(before, after, || receiver.recv_within(Wait::No))
    }),
    State::new("rest", |play| {
        let queue = ready(play, &[1, 2, 3])?;
        receive(&queue)?.ack()?;
        let receiver = queue.receiver();
        play.step(fresh(&[2, 3]), again(&[2, 3]), || {
            receiver.recv_batch(3, Wait::No)
        })
    }),
];

pub const ACK: &[State] = &[
    State::new("all", |play| {
        let mut batch = held(&ready(play, &[1, 2, 3])?, 3)?;
        play.step(again(&[1, 2, 3]), Outcome::of([]), || batch.ack())
    }),
    State::new("part", |play| {
        let mut batch = held(&ready(play, &[1, 2, 3])?, 2)?;
        let after = Outcome::of([Message::comes(3, 1)]);
        let before = [
            Message::comes(1, 2),
            Message::comes(2, 2),
            Message::comes(3, 1),
        ];
        play.step(Outcome::of(before), after, || batch.ack())
    }),
    State::new("moved-on", |play| {
        let (mut batch, _queue) = moved_on(play)?;
        let before = [
            Message::comes(1, 2),
            Message::comes(2, 2),
            Message::comes(4, 1),
        ];
        let after = Outcome::of([Message::comes(4, 1)]);
        play.step(Outcome::of(before), after, || batch.ack())
    }),
];

pub const SETTLE: &[State] = &[
    State::new("ack-first", |play| settle(play, 0, None, ByteDelivery::ack)),
    State::new("ack-second", |play| {
        settle(play, 1, None, ByteDelivery::ack)
    }),
    State::new("ack-last", |play| settle(play, 2, None, ByteDelivery::ack)),
    State::new("nack-second", |play| {
        let then = Message::comes(2, 2);
        settle(play, 1, Some(then), ByteDelivery::nack)
    }),
    State::new("bury-last", |play| {
        let then = Message::dead(3, 1, DeadReason::Buried);
        settle(play, 2, Some(then), ByteDelivery::bury)
    }),
    State::new("own-second", |play| {
        let then = Message::comes(2, 2);
        settle(play, 1, Some(then), ByteDelivery::into_owned)
    }),
    State::new("ack-moved-on", |play| {
        let (mut batch, _queue) = moved_on(play)?;
        let second = batch.remove(1);
        let before = [
            Message::comes(1, 2),
            Message::comes(2, 2),
            Message::comes(4, 1),
        ];
        let after = Outcome::of([Message::comes(1, 2), Message::comes(4, 1)]);
        play.step(Outcome::of(before), after, || second.ack())
    }),
];

pub const PURGE: &[State] = &[State::new("run", |play| {
    let queue = ready(play, &[1, 2, 3])?;
    let left = (0..=3).map(|count| fresh(&[1, 2, 3][count..]));
    play.step_in_parts(left, || queue.transport().purge())
})];

fn fresh(numbers: &[u64]) -> Outcome {
    Outcome::of(numbers.iter().map(|number| Message::comes(*number, 1)))
}

fn again(numbers: &[u64]) -> Outcome {
    Outcome::of(numbers.iter().map(|number| Message::comes(*number, 2)))
}

/// These are ready, sent together.
fn ready(play: &Play, numbers: &[u64]) -> Result<ByteQueue> {
    let queue = play.attach_without_lease()?;
    send_run(&queue, numbers)?;
    Ok(queue)
}

/// All cells are free, as one run.
fn freed(play: &Play) -> Result<ByteQueue> {
    let queue = ready(play, &[1, 2, 3])?;
    held(&queue, 3)?.ack()?;
    Ok(queue)
}

/// 1 and 2 are held together, and a sender moved them on when it sent 4.
fn moved_on(play: &Play) -> Result<(Batch<'static, ByteDelivery<'static>>, ByteQueue)> {
    let queue = ready(play, &[1, 2])?;
    let batch = held(&queue, 2)?;
    send(&queue, [3])?;
    receive(&queue)?.ack()?;
    send(&queue, [4])?;
    Ok((batch, queue))
}

fn send_run(queue: &ByteQueue, numbers: &[u64]) -> Result<()> {
    let payloads: Vec<_> = numbers.iter().map(|n| Message::payload(*n)).collect();
    let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    let sender = queue.transport().sender();
    sender.send_batch(&payloads, Kind::Data, Wait::No)?;
    Ok(())
}

/// So many messages, received together for as long as this process lives.
fn held(queue: &ByteQueue, count: usize) -> Result<Batch<'static, ByteDelivery<'static>>> {
    let receiver = Box::leak(Box::new(queue.receiver()));
    let batch = receiver.recv_batch(count, Wait::No)?;
    ensure!(batch.len() == count, "{} of {count} received", batch.len());
    Ok(batch)
}

fn send_all(play: &Play, queue: &ByteQueue, there: &[u64], numbers: &[u64]) -> Result<()> {
    ensure!(there.len() + numbers.len() <= CAPACITY as usize, "no room");
    let payloads: Vec<_> = numbers.iter().map(|n| Message::payload(*n)).collect();
    let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    let sender = queue.transport().sender();
    let after = fresh(&[there, numbers].concat());
    play.step(fresh(there), after, || {
        sender.send_batch(&payloads, Kind::Data, Wait::No)
    })
}

fn send_one(play: &Play, queue: &ByteQueue, there: &[u64]) -> Result<()> {
    let sender = queue.sender();
    let after = fresh(&[there, &[50]].concat());
    play.step(fresh(there), after, || {
        sender.try_send(&Message::payload(50))
    })
}

fn take(play: &Play, numbers: &[u64], count: usize) -> Result<()> {
    let queue = ready(play, numbers)?;
    let receiver = queue.receiver();
    let attempt = |rank| if rank < count { 2 } else { 1 };
    let ranked = numbers.iter().enumerate();
    let taken = ranked.map(|(rank, number)| Message::comes(*number, attempt(rank)));
    play.step(fresh(numbers), Outcome::of(taken), || {
        receiver.recv_batch(count, Wait::No)
    })
}

/// Settles one of three that were taken together; it is `then` what it is. The others come again.
fn settle<T>(
    play: &Play,
    which: usize,
    then: Option<Message>,
    settle: impl FnOnce(ByteDelivery<'static>) -> T,
) -> Result<()> {
    let mut batch = held(&ready(play, &[1, 2, 3])?, 3)?;
    let mut left = vec![1, 2, 3];
    left.remove(which);
    let left = left.into_iter().map(|number| Message::comes(number, 2));
    let delivery = batch.remove(which);
    play.step(again(&[1, 2, 3]), Outcome::of(left.chain(then)), || {
        settle(delivery)
    })
}
