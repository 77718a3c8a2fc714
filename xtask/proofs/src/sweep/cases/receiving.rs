//! Receiving.

use anyhow::Result;
use ipc_queue::DeadReason;
use ipc_queue::transport::Wait;

use crate::sweep::actor::Play;
use crate::sweep::operation::State;
use crate::sweep::outcome::{FIRST_CHUNKED, Message, Outcome};
use crate::sweep::scenery::Scenery;

pub const RECEIVE: &[State] = &[
    State::new("one-ready", |play| {
        take(play, Scenery::OneReady, &[again(1)])
    }),
    State::new("empty", |play| take(play, Scenery::Empty, &[])),
    State::new("full", |play| {
        take(play, Scenery::Full, &[again(1), fresh(2), fresh(3)])
    }),
    State::new("later-lap", |play| {
        take(play, Scenery::LaterLap, &[again(1)])
    }),
    State::new("chunked", |play| {
        take(play, Scenery::ChunkReady, &[again(FIRST_CHUNKED)])
    }),
    State::new("past-writing", |play| {
        take(play, Scenery::PeerWrites, &[again(2)])
    }),
    State::new("past-leased", |play| {
        take(play, Scenery::PeerHolds, &[again(1), again(2)])
    }),
    State::new("only-delayed", |play| {
        take(play, Scenery::Delayed, &[again(1)])
    }),
    State::new("given-back", |play| {
        take(play, Scenery::GivenBack, &[Message::comes(1, 3)])
    }),
    State::new("last-attempt", |play| {
        let dead = Message::dead(1, 3, DeadReason::Crashed);
        take(play, Scenery::GivenBackTwice, &[dead])
    }),
    State::new("expired", |play| {
        take(play, Scenery::Expired, &[Message::comes(1, 3)])
    }),
    State::new("spare-place", |play| {
        take(play, Scenery::SparePlace, &[again(2), fresh(3)])
    }),
];

/// Taken by the actor, which died.
const fn again(number: u64) -> Message {
    Message::comes(number, 2)
}

const fn fresh(number: u64) -> Message {
    Message::comes(number, 1)
}

fn take(play: &Play, scenery: Scenery, after: &[Message]) -> Result<()> {
    let set = scenery.set(play)?;
    let receiver = set.queue.receiver();
    let (before, after) = (Outcome::of(set.content), Outcome::of(after.to_vec()));
    play.step(before, after, || receiver.recv_within(Wait::No))
}
