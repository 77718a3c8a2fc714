//! Ack, nack and bury.

use anyhow::Result;
use ipc_queue::{ByteDelivery, DeadReason};

use crate::sweep::actor::Play;
use crate::sweep::operation::State;
use crate::sweep::outcome::{Message, Outcome};
use crate::sweep::scenery::{MOMENT, Scenery, Set, receive, send, shorten};

pub const ACK: &[State] = &[
    State::new("fresh", |play| ack(play, Scenery::OneReady, &[])),
    State::new("full", |play| ack(play, Scenery::Full, &[2, 3])),
    State::new("chunked", |play| ack(play, Scenery::ChunkReady, &[])),
    State::new("later-lap", |play| ack(play, Scenery::LaterLap, &[])),
    State::new("given-back", |play| ack(play, Scenery::GivenBack, &[])),
    State::new("expired-before", |play| ack(play, Scenery::Expired, &[])),
    State::new("expired-before-chunked", |play| {
        ack(play, Scenery::ChunkExpired, &[])
    }),
    State::new("moved-on", |play| {
        let (delivery, rest) = moved_on(play)?;
        settle(play, &rest, 2, None, || delivery.ack())
    }),
    State::new("lost", |play| {
        let delivery = lost(play)?;
        let same = || Outcome::of([Message::comes(1, 2)]);
        play.step(same(), same(), || delivery.ack())
    }),
];

pub const NACK: &[State] = &[
    State::new("fresh", |play| nack(play, Scenery::OneReady, &[], None)),
    State::new("full", |play| nack(play, Scenery::Full, &[2, 3], None)),
    State::new("chunked", |play| nack(play, Scenery::ChunkReady, &[], None)),
    State::new("expired-before", |play| {
        nack(play, Scenery::Expired, &[], None)
    }),
    State::new("last-attempt", |play| {
        nack(play, Scenery::GivenBackTwice, &[], Some(DeadReason::Nacked))
    }),
    State::new("moved-on", |play| {
        let (delivery, rest) = moved_on(play)?;
        settle(play, &rest, 2, Some(Message::comes(1, 2)), || {
            delivery.nack()
        })
    }),
    State::new("delayed", |play| delay(play, Scenery::OneReady, None)),
    State::new("delayed-chunked", |play| {
        delay(play, Scenery::ChunkReady, None)
    }),
    State::new("delayed-last-attempt", |play| {
        delay(play, Scenery::GivenBackTwice, Some(DeadReason::Nacked))
    }),
    State::new("lost", |play| {
        let delivery = lost(play)?;
        let same = || Outcome::of([Message::comes(1, 2)]);
        play.step(same(), same(), || delivery.nack())
    }),
];

pub const BURY: &[State] = &[
    State::new("fresh", |play| bury(play, Scenery::OneReady)),
    State::new("chunked", |play| bury(play, Scenery::ChunkReady)),
    State::new("expired-before", |play| bury(play, Scenery::Expired)),
    State::new("last-attempt", |play| bury(play, Scenery::GivenBackTwice)),
];

fn ack(play: &Play, scenery: Scenery, rest: &[u64]) -> Result<()> {
    let (delivery, attempt) = hold(&scenery.set(play)?)?;
    let rest: Vec<_> = rest.iter().map(|n| Message::comes(*n, 1)).collect();
    settle_this(play, &rest, delivery.0, attempt, None, || delivery.1.ack())
}

fn nack(play: &Play, scenery: Scenery, rest: &[u64], dead: Option<DeadReason>) -> Result<()> {
    let ((number, delivery), attempt) = hold(&scenery.set(play)?)?;
    let rest: Vec<_> = rest.iter().map(|n| Message::comes(*n, 1)).collect();
    let then = given_back(number, attempt, dead);
    settle_this(play, &rest, number, attempt, Some(then), || delivery.nack())
}

fn delay(play: &Play, scenery: Scenery, dead: Option<DeadReason>) -> Result<()> {
    let ((number, delivery), attempt) = hold(&scenery.set(play)?)?;
    let then = given_back(number, attempt, dead);
    settle_this(play, &[], number, attempt, Some(then), || {
        delivery.nack_after(MOMENT)
    })
}

fn bury(play: &Play, scenery: Scenery) -> Result<()> {
    let ((number, delivery), attempt) = hold(&scenery.set(play)?)?;
    let then = Message::dead(number, attempt, DeadReason::Buried);
    settle_this(play, &[], number, attempt, Some(then), || delivery.bury())
}

fn given_back(number: u64, attempt: u8, dead: Option<DeadReason>) -> Message {
    match dead {
        None => Message::comes(number, attempt + 1),
        Some(reason) => Message::dead(number, attempt, reason),
    }
}

type Numbered = (u64, ByteDelivery<'static>);

/// Takes the next message. Which, and at which attempt.
fn hold(set: &Set) -> Result<(Numbered, u8)> {
    let delivery = receive(&set.queue)?;
    let number = Message::number_of(delivery.payload()).map_err(anyhow::Error::msg)?;
    let attempt = delivery.attempt();
    Ok(((number, delivery), attempt))
}

fn settle<T>(
    play: &Play,
    rest: &[Message],
    next_attempt: u8,
    then: Option<Message>,
    settlement: impl FnOnce() -> T,
) -> Result<()> {
    settle_this(play, rest, 1, next_attempt - 1, then, settlement)
}

/// Message `number`, held for the `attempt`th time, is settled; the rest stays.
fn settle_this<T>(
    play: &Play,
    rest: &[Message],
    number: u64,
    attempt: u8,
    then: Option<Message>,
    settlement: impl FnOnce() -> T,
) -> Result<()> {
    let crashed = Some(DeadReason::Crashed).filter(|_| attempt == 3);
    let held = given_back(number, attempt, crashed);
    let rest = || rest.iter().copied();
    let (before, after) = (
        Outcome::of(rest().chain([held])),
        Outcome::of(rest().chain(then)),
    );
    play.step(before, after, settlement)
}

/// The actor holds 1, in a cell that a sender stepped over.
fn moved_on(play: &Play) -> Result<(ByteDelivery<'static>, Vec<Message>)> {
    let set = Scenery::OneReady.set(play)?;
    let delivery = receive(&set.queue)?;
    send(&set.peer, 2..=3)?;
    receive(&set.peer)?.ack()?;
    send(&set.peer, [4])?;
    Ok((delivery, vec![Message::comes(3, 1), Message::comes(4, 1)]))
}

/// The actor held 1 until its lease expired.
fn lost(play: &Play) -> Result<ByteDelivery<'static>> {
    let set = Scenery::OneReady.set(play)?;
    let delivery = receive(&set.queue)?;
    shorten(&delivery)?;
    play.look()?;
    std::mem::forget(set);
    Ok(delivery)
}
