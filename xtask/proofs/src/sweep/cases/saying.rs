//! Nack and bury with a reason.
//!
//! A reason is visible only in dead letters. So most states end in one: by the settlement, or by
//! the actor's death in its last attempt.

use anyhow::Result;
use ipc_queue::{ByteDelivery, DeadReason, Nack};

use crate::sweep::actor::{ATTEMPT_LIMIT, Play};
use crate::sweep::operation::State;
use crate::sweep::outcome::{FIRST_CHUNKED, Message, Outcome, REASONS};
use crate::sweep::scenery::{MOMENT, Scenery, Set, receive, send, shorten};

pub const NACK: &[State] = &[
    State::new("last-attempt", |play| nack_last(play, [0, 0], 2)),
    State::new("last-attempt-after-another", |play| {
        nack_last(play, [0, 1], 2)
    }),
    State::new("last-attempt-after-two", |play| nack_last(play, [2, 1], 2)),
    State::new("last-attempt-with-none", |play| nack_last(play, [0, 1], 0)),
    State::new("fresh", |play| {
        let delivery = receive(&Scenery::OneReady.set(play)?.queue)?;
        let same = || Outcome::of([Message::comes(1, 2)]);
        play.step(same(), same(), || nack(delivery, 2))
    }),
    State::new("delayed", |play| {
        let delivery = receive(&Scenery::OneReady.set(play)?.queue)?;
        let same = || Outcome::of([Message::comes(1, 2)]);
        play.step(same(), same(), || {
            delivery.nack_with(Nack::new().after(MOMENT).reason(REASONS[2]))
        })
    }),
    State::new("lost", |play| lost(play, |delivery| nack(delivery, 2))),
];

pub const BURY: &[State] = &[
    State::new("fresh", |play| {
        let set = Scenery::OneReady.set(play)?;
        bury(play, &set, 1, 1, 2)
    }),
    State::new("chunked", |play| {
        let set = Scenery::ChunkReady.set(play)?;
        bury(play, &set, FIRST_CHUNKED, 1, 2)
    }),
    State::new("full", |play| {
        // Reasons of other messages are beside it.
        let set = Scenery::Empty.set(play)?;
        send(&set.queue, 2..=3)?;
        for _ in 2..=3 {
            receive(&set.queue)?.bury_with(REASONS[1])?;
        }
        send(&set.queue, [1])?;
        let delivery = receive(&set.queue)?;
        let others = [2, 3].map(|number| Message::dead(number, 1, DeadReason::Buried).saying(1));
        let with = |one| Outcome::of(others.into_iter().chain([one]));
        let before = with(Message::comes(1, 2));
        let after = with(Message::dead(1, 1, DeadReason::Buried).saying(2));
        play.step(before, after, || delivery.bury_with(REASONS[2]))
    }),
    State::new("after-another", |play| {
        let set = Scenery::OneReady.set(play)?;
        nack(receive(&set.queue)?, 1)?;
        bury(play, &set, 1, 2, 2)
    }),
    State::new("requeued", |play| {
        let set = Scenery::OneReady.set(play)?;
        receive(&set.queue)?.bury_with(REASONS[1])?;
        let transport = set.queue.transport();
        for letter in transport.dead_letters()? {
            transport.requeue(letter.id)?;
        }
        bury(play, &set, 1, 1, 2)
    }),
    State::new("lost", |play| {
        lost(play, |delivery| delivery.bury_with(REASONS[2]))
    }),
];

fn nack(delivery: ByteDelivery<'_>, reason: usize) -> Result<(), ipc_queue::SettleError> {
    delivery.nack_with(Nack::new().reason(REASONS[reason]))
}

/// The actor holds 1 for the last time, after it was returned twice with these reasons.
fn nack_last(play: &Play, earlier: [usize; 2], reason: usize) -> Result<()> {
    let set = Scenery::OneReady.set(play)?;
    for reason in earlier {
        nack(receive(&set.queue)?, reason)?;
    }
    let delivery = receive(&set.queue)?;
    let dead =
        |why, said: usize| Outcome::of([Message::dead(1, ATTEMPT_LIMIT, why).saying(said as u8)]);
    // After a kill in the middle, the letter has the former reason, none, or the new one.
    let parts = [
        dead(DeadReason::Crashed, earlier[1]),
        dead(DeadReason::Crashed, 0),
        dead(DeadReason::Crashed, reason),
        dead(DeadReason::Nacked, reason),
    ];
    play.step_in_parts(parts, || nack(delivery, reason))
}

/// The actor holds a message in this attempt, and buries it.
fn bury(play: &Play, set: &Set, number: u64, attempt: u8, reason: u8) -> Result<()> {
    let delivery = receive(&set.queue)?;
    let before = Outcome::of([Message::comes(number, attempt + 1)]);
    let after = Message::dead(number, attempt, DeadReason::Buried).saying(reason);
    play.step(before, Outcome::of([after]), || {
        delivery.bury_with(REASONS[usize::from(reason)])
    })
}

/// The actor settles 1 after its lease expired, and the peer buried it with another reason.
fn lost<T>(play: &Play, settlement: fn(ByteDelivery<'static>) -> T) -> Result<()> {
    let set = Scenery::OneReady.set(play)?;
    let delivery = receive(&set.queue)?;
    shorten(&delivery)?;
    play.look()?;
    receive(&set.peer)?.bury_with(REASONS[1])?;
    let same = || Outcome::of([Message::dead(1, 2, DeadReason::Buried).saying(1)]);
    play.step(same(), same(), || settlement(delivery))
}
