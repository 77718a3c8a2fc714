//! Leases and delays: extending them, and ending them in time.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use ipc_queue::DeadReason;

use super::terms::UNWANTED;
use crate::sweep::actor::Play;
use crate::sweep::operation::State;
use crate::sweep::outcome::{FIRST_CHUNKED, Message, Outcome};
use crate::sweep::scenery::{MOMENT, Scenery, kept, receive, shorten};

pub const EXTEND: &[State] = &[
    State::new("fresh", |play| extend(play, Scenery::OneReady, Lease::Good)),
    State::new("chunked", |play| {
        extend(play, Scenery::ChunkReady, Lease::Good)
    }),
    State::new("expired-unnoticed", |play| {
        extend(play, Scenery::OneReady, Lease::Over)
    }),
    State::new("lost", |play| extend(play, Scenery::OneReady, Lease::Lost)),
];

pub const EXPIRE: &[State] = &[
    // Where it is stopped, a survivor has all of them, and settles them meanwhile.
    State::new("nothing", |play| {
        let set = Scenery::Full.set(play)?;
        let same = || Outcome::of(set.content.clone());
        play.step_watcher(same(), same())
    }),
    State::new("one", |play| {
        expire(play, Scenery::OneReady, &[Message::comes(1, 2)])
    }),
    State::new("chunked", |play| {
        expire(
            play,
            Scenery::ChunkReady,
            &[Message::comes(FIRST_CHUNKED, 2)],
        )
    }),
    State::new("three", |play| {
        let all = (1..=3).map(|number| Message::comes(number, 2));
        expire(play, Scenery::Full, &all.collect::<Vec<_>>())
    }),
    State::new("last-attempt", expire_last_attempt),
    State::new("poison", expire_poison),
    State::new("delay", |play| {
        let set = Scenery::Delayed.set(play)?;
        thread::sleep(3 * MOMENT);
        let same = || Outcome::of(set.content.clone());
        play.step_watcher(same(), same())
    }),
    UNWANTED,
];

/// The state of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lease {
    Good,
    Over,
    Lost,
}

fn extend(play: &Play, scenery: Scenery, lease: Lease) -> Result<()> {
    let set = scenery.set(play)?;
    let delivery = receive(&set.queue)?;
    let number = Message::number_of(delivery.payload()).map_err(anyhow::Error::msg)?;
    if lease != Lease::Good {
        shorten(&delivery)?;
    }
    if lease == Lease::Lost {
        play.look()?;
    }
    let same = || Outcome::of([Message::comes(number, 2)]);
    play.step(same(), same(), || delivery.extend(Duration::from_secs(60)))
}

/// The peer, which lives, held all messages for too long.
fn expire(play: &Play, scenery: Scenery, content: &[Message]) -> Result<()> {
    let set = scenery.set(play)?;
    for _ in content {
        let delivery = receive(&set.peer)?;
        shorten(&delivery)?;
        kept(delivery);
    }
    let same = || Outcome::of(content.to_vec());
    play.step_watcher(same(), same())
}

/// Only the dead letter shows whether a lease ended in time or with its holder's death.
fn expire_last_attempt(play: &Play) -> Result<()> {
    let set = Scenery::GivenBackTwice.set(play)?;
    let delivery = receive(&set.peer)?;
    shorten(&delivery)?;
    kept(delivery);
    let dead = |reason| Outcome::of([Message::dead(1, 3, reason)]);
    play.step_watcher(dead(DeadReason::Crashed), dead(DeadReason::Expired))
}

/// A second holder is too slow while the first may still be reading.
fn expire_poison(play: &Play) -> Result<()> {
    let set = Scenery::Expired.set(play)?;
    let delivery = receive(&set.queue)?;
    shorten(&delivery)?;
    kept(delivery);
    play.step_watcher(
        Outcome::of([Message::comes(1, 3)]),
        Outcome::of([Message::dead(1, 2, DeadReason::Expired)]),
    )
}
