//! Delaying a delivery without an attempt.

use std::time::Duration;

use anyhow::{Error, Result};
use ipc_queue::DeadReason;

use crate::sweep::actor::{ATTEMPT_LIMIT, Play};
use crate::sweep::operation::State;
use crate::sweep::outcome::{Message, Outcome};
use crate::sweep::scenery::{MOMENT, Scenery, Set, receive, send, shorten};

pub const SNOOZE: &[State] = &[
    State::new("fresh", |play| snooze(play, Scenery::OneReady, MOMENT)),
    State::new("at-once", |play| {
        snooze(play, Scenery::OneReady, Duration::ZERO)
    }),
    State::new("chunked", |play| snooze(play, Scenery::ChunkReady, MOMENT)),
    State::new("later-lap", |play| snooze(play, Scenery::LaterLap, MOMENT)),
    State::new("last-attempt", |play| {
        snooze(play, Scenery::GivenBackTwice, MOMENT)
    }),
    State::new("last-attempt-at-once", |play| {
        snooze(play, Scenery::GivenBackTwice, Duration::ZERO)
    }),
    State::new("snoozed-before", |play| {
        let set = Scenery::OneReady.set(play)?;
        for _ in 0..2 * ATTEMPT_LIMIT {
            receive(&set.queue)?.snooze(Duration::ZERO)?;
        }
        snooze_next(play, &set, MOMENT)
    }),
    State::new("moved-on", |play| {
        let set = Scenery::OneReady.set(play)?;
        let delivery = receive(&set.queue)?;
        send(&set.peer, 2..=3)?;
        receive(&set.peer)?.ack()?;
        send(&set.peer, [4])?;
        let with = |attempt| {
            let fresh = [3, 4].map(|number| Message::comes(number, 1));
            Outcome::of(fresh.into_iter().chain([Message::comes(1, attempt)]))
        };
        play.step(with(2), with(1), || delivery.snooze(MOMENT))
    }),
    State::new("expired-before", |play| {
        // While a former holder may still be reading, it is a nack.
        let set = Scenery::Expired.set(play)?;
        let delivery = receive(&set.queue)?;
        let same = || Outcome::of([Message::comes(1, 3)]);
        play.step(same(), same(), || delivery.snooze(MOMENT))
    }),
    State::new("lost", |play| {
        let set = Scenery::OneReady.set(play)?;
        let delivery = receive(&set.queue)?;
        shorten(&delivery)?;
        play.look()?;
        let same = || Outcome::of([Message::comes(1, 2)]);
        play.step(same(), same(), || delivery.snooze(MOMENT))
    }),
];

fn snooze(play: &Play, scenery: Scenery, delay: Duration) -> Result<()> {
    snooze_next(play, &scenery.set(play)?, delay)
}

/// Snoozes the only message.
fn snooze_next(play: &Play, set: &Set, delay: Duration) -> Result<()> {
    let delivery = receive(&set.queue)?;
    let number = Message::number_of(delivery.payload()).map_err(Error::msg)?;
    let attempt = delivery.attempt();
    let crashed = match attempt {
        ATTEMPT_LIMIT => Message::dead(number, attempt, DeadReason::Crashed),
        _ => Message::comes(number, attempt + 1),
    };
    let with = |one| Outcome::of([one]);
    play.step(with(crashed), with(Message::comes(number, attempt)), || {
        delivery.snooze(delay)
    })
}
