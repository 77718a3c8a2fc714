//! A queue with priorities: four rings in one segment. A recovery, a purge or a watcher must
//! process all of them.

use anyhow::{Context, Result};
use ipc_proto::Priority;
use ipc_queue::transport::Wait;
use ipc_queue::{ByteDelivery, ByteQueue, DeadReason, OverflowPolicy, SendOptions};

use crate::sweep::actor::{CAPACITY, Play};
use crate::sweep::dying::Dying;
use crate::sweep::operation::State;
use crate::sweep::outcome::{FIRST_CHUNKED, KEYED_INLINE, Message, Outcome, keyed};
use crate::sweep::scenery::{MOMENT, kept, loan_with, receive, send, shorten};

const NEW: u64 = 50;
const NEW_CHUNKED: u64 = 150;

pub const PRIORITIES: &[State] = &[
    State::new("send-urgent", |play| {
        send_into(play, NEW, with(Priority::Urgent))
    }),
    State::new("send-low-chunked", |play| {
        send_into(play, NEW_CHUNKED, with(Priority::Low))
    }),
    State::new("send-high-delayed", |play| {
        send_into(play, NEW, with(Priority::High).delay(MOMENT))
    }),
    State::new("send-urgent-keyed", |play| {
        let options = keyed(KEYED_INLINE).priority(Priority::Urgent);
        send_into(play, KEYED_INLINE, options)
    }),
    State::new("drop-oldest-low", drop_oldest_low),
    State::new("abandon-high", |play| {
        let queue = open(play)?;
        let held = loan_with(&queue, NEW, &with(Priority::High))?;
        let nothing = || Outcome::of([]);
        play.step(nothing(), nothing(), || drop(held))
    }),
    State::new("receive", |play| {
        let (queue, content) = one_of_each(play)?;
        let (receiver, before) = (queue.receiver(), Outcome::of(content.clone()));
        let after = with_first(&content, Some(Message::comes(4, 2)));
        play.step(before, after, || receiver.recv_within(Wait::No))
    }),
    State::new("receive-batch", |play| {
        let (queue, content) = one_of_each(play)?;
        let receiver = queue.receiver();
        // Most urgent first; the message with the highest number is most urgent.
        let taken = |count: u64| {
            let attempt = |number| if number + count > 4 { 2 } else { 1 };
            Outcome::of((1..=4).map(|number| Message::comes(number, attempt(number))))
        };
        play.step_in_parts((0..=4).map(taken), || {
            receiver.recv_batch(content.len(), Wait::No)
        })
    }),
    State::new("ack", |play| settle(play, None, ByteDelivery::ack)),
    State::new("nack", |play| {
        settle(play, Some(Message::comes(4, 2)), ByteDelivery::nack)
    }),
    State::new("bury", |play| {
        let dead = Message::dead(4, 1, DeadReason::Buried);
        settle(play, Some(dead), ByteDelivery::bury)
    }),
    State::new("requeue", |play| {
        let (queue, number) = letter(play)?;
        let id = queue.transport().dead_letters()?[0].id;
        let before = Outcome::of([Message::dead(number, 1, DeadReason::Buried)]);
        let after = Outcome::of([Message::comes(number, 1)]);
        let transport = queue.transport();
        play.step(before, after, || transport.requeue(id))
    }),
    State::new("discard", |play| {
        let (queue, number) = letter(play)?;
        let id = queue.transport().dead_letters()?[0].id;
        let before = Outcome::of([Message::dead(number, 1, DeadReason::Buried)]);
        let transport = queue.transport();
        play.step(before, Outcome::of([]), || transport.discard(id))
    }),
    State::new("purge", |play| {
        let (queue, _) = one_of_each(play)?;
        // The priority rings in the order of their position in the segment.
        let order = [2, 1, 3, 4];
        let left = |gone: usize| Outcome::of(order[gone..].iter().map(|n| Message::comes(*n, 1)));
        let transport = queue.transport();
        play.step_in_parts((0..=4).map(left), || transport.purge())
    }),
    State::new("expire", |play| {
        let (queue, _) = one_of_each(play)?;
        let peer = play.attach()?;
        for _ in 0..4 {
            let delivery = receive(&peer)?;
            shorten(&delivery)?;
            kept(delivery);
        }
        kept(queue);
        let all = || Outcome::of((1..=4).map(|number| Message::comes(number, 2)));
        play.step_watcher(all(), all())
    }),
    State::new("recover-open", |play| {
        drop(open(play)?);
        play.let_die(Dying::EachLevel)?;
        let left = || Outcome::of(Dying::EachLevel.leaves());
        play.step(left(), left(), || {
            play.open(ipc_queue::transport::OpenMode::Open)
        })
    }),
    State::new("recover-notice", |play| {
        kept(open(play)?);
        play.let_die(Dying::EachLevel)?;
        let left = || Outcome::of(Dying::EachLevel.leaves());
        play.step_watcher(left(), left())
    }),
];

/// Message `n` has the n-th priority, least urgent first.
pub fn send_one_of_each(queue: &ByteQueue) -> Result<()> {
    for (number, priority) in (1..).zip(Priority::ALL) {
        loan_with(queue, number, &with(priority))?.publish()?;
    }
    Ok(())
}

fn with(priority: Priority) -> SendOptions {
    SendOptions::new().priority(priority)
}

fn open(play: &Play) -> Result<ByteQueue> {
    play.attach_with_priorities()
}

fn one_of_each(play: &Play) -> Result<(ByteQueue, Vec<Message>)> {
    let queue = open(play)?;
    send_one_of_each(&queue)?;
    let content = (1..=4).map(|number| Message::comes(number, 1));
    Ok((queue, content.collect()))
}

/// The content with another message, or none, in the place of the most urgent one.
fn with_first(content: &[Message], first: Option<Message>) -> Outcome {
    let others = content.iter().copied().filter(|one| one.number() != 4);
    Outcome::of(others.chain(first))
}

fn send_into(play: &Play, number: u64, options: SendOptions) -> Result<()> {
    let (queue, content) = one_of_each(play)?;
    let (sender, payload) = (queue.sender(), Message::payload(number));
    let after = content.iter().copied().chain([Message::comes(number, 1)]);
    play.step(Outcome::of(content.clone()), Outcome::of(after), || {
        sender.send_with(&payload, &options.clone().wait(Wait::No))
    })
}

/// Only of its own priority ring: the messages of the others stay.
fn drop_oldest_low(play: &Play) -> Result<()> {
    let queue = open(play)?;
    send(&queue, [1])?;
    let low = with(Priority::Low);
    let numbers = FIRST_LOW..FIRST_LOW + u64::from(CAPACITY);
    for number in numbers.clone() {
        loan_with(&queue, number, &low)?.publish()?;
    }
    let others = || {
        let low = numbers
            .clone()
            .skip(1)
            .map(|number| Message::comes(number, 1));
        [Message::comes(1, 1)].into_iter().chain(low)
    };
    let and = |one: Option<Message>| Outcome::of(others().chain(one));
    let parts = [
        and(Some(Message::comes(FIRST_LOW, 1))),
        and(Some(Message::comes(FIRST_LOW, 2))),
        and(None),
        and(Some(Message::comes(NEW, 1))),
    ];
    let (sender, payload) = (queue.sender(), Message::payload(NEW));
    let dropping = low.overflow(OverflowPolicy::DropOldest);
    play.step_in_parts(parts, || {
        sender.send_with(&payload, &dropping.clone().wait(Wait::No))
    })
}

const FIRST_LOW: u64 = 10;

/// Settles the most urgent message, which becomes `then`.
fn settle<T>(
    play: &Play,
    then: Option<Message>,
    settlement: fn(ByteDelivery<'static>) -> T,
) -> Result<()> {
    let (queue, content) = one_of_each(play)?;
    let delivery = receive(&queue)?;
    let before = with_first(&content, Some(Message::comes(4, 2)));
    play.step(before, with_first(&content, then), || settlement(delivery))
}

/// An urgent dead letter.
fn letter(play: &Play) -> Result<(ByteQueue, u64)> {
    let queue = open(play)?;
    let number = FIRST_CHUNKED;
    loan_with(&queue, number, &with(Priority::Urgent))?.publish()?;
    receive(&queue)?.bury()?;
    let letters = queue.transport().dead_letters()?;
    letters.first().context("no dead letter")?;
    Ok((queue, number))
}
