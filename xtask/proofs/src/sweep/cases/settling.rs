//! Ack, nack and bury.

use anyhow::{Error, Result};
use ipc_queue::{ByteDelivery, DeadReason};

use crate::sweep::actor::{ATTEMPT_LIMIT, Play};
use crate::sweep::operation::State;
use crate::sweep::outcome::{Message, Outcome};
use crate::sweep::scenery::{MOMENT, Scenery, Set, kept, receive, send, shorten};

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
        let (held, rest) = moved_on(play)?;
        held.settle(play, &rest, None, ByteDelivery::ack)
    }),
    State::new("lost", |play| lost(play, ByteDelivery::ack)),
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
        let (held, rest) = moved_on(play)?;
        let then = held.given_back(None);
        held.settle(play, &rest, Some(then), ByteDelivery::nack)
    }),
    State::new("delayed", |play| delay(play, Scenery::OneReady, None)),
    State::new("delayed-chunked", |play| {
        delay(play, Scenery::ChunkReady, None)
    }),
    State::new("delayed-last-attempt", |play| {
        delay(play, Scenery::GivenBackTwice, Some(DeadReason::Nacked))
    }),
    State::new("lost", |play| lost(play, ByteDelivery::nack)),
];

pub const BURY: &[State] = &[
    State::new("fresh", |play| bury(play, Scenery::OneReady)),
    State::new("chunked", |play| bury(play, Scenery::ChunkReady)),
    State::new("expired-before", |play| bury(play, Scenery::Expired)),
    State::new("last-attempt", |play| bury(play, Scenery::GivenBackTwice)),
];

/// A delivery that the actor holds.
struct Held {
    delivery: ByteDelivery<'static>,
    number: u64,
}

fn ack(play: &Play, scenery: Scenery, rest: &[u64]) -> Result<()> {
    let held = Held::take(&scenery.set(play)?)?;
    held.settle(play, &fresh(rest), None, ByteDelivery::ack)
}

fn nack(play: &Play, scenery: Scenery, rest: &[u64], dead: Option<DeadReason>) -> Result<()> {
    let held = Held::take(&scenery.set(play)?)?;
    let then = held.given_back(dead);
    held.settle(play, &fresh(rest), Some(then), ByteDelivery::nack)
}

fn delay(play: &Play, scenery: Scenery, dead: Option<DeadReason>) -> Result<()> {
    let held = Held::take(&scenery.set(play)?)?;
    let (before, after) = held.outcomes(&[], Some(held.given_back(dead)));
    play.step(before, after, || held.delivery.nack_after(MOMENT))
}

fn bury(play: &Play, scenery: Scenery) -> Result<()> {
    let held = Held::take(&scenery.set(play)?)?;
    let then = held.given_back(Some(DeadReason::Buried));
    held.settle(play, &[], Some(then), ByteDelivery::bury)
}

impl Held {
    /// The next message.
    fn take(set: &Set) -> Result<Self> {
        let delivery = receive(&set.queue)?;
        let number = Message::number_of(delivery.payload()).map_err(Error::msg)?;
        Ok(Self { delivery, number })
    }

    /// Returns its fate without an ack: it is redelivered, or becomes a dead letter.
    fn given_back(&self, dead: Option<DeadReason>) -> Message {
        let attempt = self.delivery.attempt();
        match dead {
            None => Message::comes(self.number, attempt + 1),
            Some(reason) => Message::dead(self.number, attempt, reason),
        }
    }

    /// Settles it, so that it becomes `then`; the rest stays.
    fn settle<T>(
        self,
        play: &Play,
        rest: &[Message],
        then: Option<Message>,
        settlement: impl FnOnce(ByteDelivery<'static>) -> T,
    ) -> Result<()> {
        let (before, after) = self.outcomes(rest, then);
        play.step(before, after, || settlement(self.delivery))
    }

    /// The content before the settlement, when its lease ends with the actor's death, and after it.
    fn outcomes(&self, rest: &[Message], then: Option<Message>) -> (Outcome, Outcome) {
        let was_last = self.delivery.attempt() == ATTEMPT_LIMIT;
        let crashed = self.given_back(was_last.then_some(DeadReason::Crashed));
        let with = |message| Outcome::of(rest.iter().copied().chain(message));
        (with(Some(crashed)), with(then))
    }
}

fn fresh(numbers: &[u64]) -> Vec<Message> {
    let comes = |number: &u64| Message::comes(*number, 1);
    numbers.iter().map(comes).collect()
}

/// The actor holds 1, in a cell that a sender stepped over.
fn moved_on(play: &Play) -> Result<(Held, Vec<Message>)> {
    let set = Scenery::OneReady.set(play)?;
    let held = Held::take(&set)?;
    send(&set.peer, 2..=3)?;
    receive(&set.peer)?.ack()?;
    send(&set.peer, [4])?;
    kept(set);
    Ok((held, fresh(&[3, 4])))
}

/// The actor settles 1 after its lease expired.
fn lost<T>(play: &Play, settlement: fn(ByteDelivery<'static>) -> T) -> Result<()> {
    let set = Scenery::OneReady.set(play)?;
    let delivery = receive(&set.queue)?;
    shorten(&delivery)?;
    play.look()?;
    let same = || Outcome::of([Message::comes(1, 2)]);
    play.step(same(), same(), || settlement(delivery))
}
