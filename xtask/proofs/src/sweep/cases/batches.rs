//! Several messages at once: after a death in between, the first ones are done, and the others are
//! not.

use anyhow::Result;
use ipc_proto::Kind;
use ipc_queue::transport::Wait;

use crate::sweep::actor::Play;
use crate::sweep::operation::State;
use crate::sweep::outcome::{Message, Outcome};
use crate::sweep::scenery::Scenery;

pub const SEND: &[State] = &[
    State::new("empty", |play| send(play, Scenery::Empty, &[50, 51, 52], 3)),
    State::new("later-lap", |play| {
        send(play, Scenery::LaterLap, &[50, 51], 2)
    }),
    State::new("chunked", |play| {
        send(play, Scenery::Empty, &[150, 50, 151], 3)
    }),
    State::new("too-many", |play| {
        send(play, Scenery::OneReady, &[50, 51, 52], 2)
    }),
];

pub const RECEIVE: &[State] = &[
    State::new("full", |play| receive(play, Scenery::Full, &[1, 2, 3])),
    State::new("chunked", |play| {
        receive(play, Scenery::NoChunk, &[100, 101])
    }),
    State::new("later-lap", |play| receive(play, Scenery::LaterLap, &[1])),
    State::new("spare-place", |play| {
        receive(play, Scenery::SparePlace, &[2, 3])
    }),
];

pub const ACK: &[State] = &[
    State::new("full", |play| ack(play, Scenery::Full, &[1, 2, 3])),
    State::new("chunked", |play| ack(play, Scenery::NoChunk, &[100, 101])),
    State::new("spare-place", |play| {
        ack(play, Scenery::SparePlace, &[2, 3])
    }),
];

/// Sends these messages, of which `room` fit.
fn send(play: &Play, scenery: Scenery, numbers: &[u64], room: usize) -> Result<()> {
    let set = scenery.set(play)?;
    let sent = |count: usize| {
        let new = numbers[..count].iter().map(|n| Message::comes(*n, 1));
        Outcome::of(set.content.iter().copied().chain(new))
    };
    let payloads: Vec<_> = numbers.iter().map(|n| Message::payload(*n)).collect();
    let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    let sender = set.queue.transport().sender();
    play.step_in_parts((0..=room).map(sent), || {
        sender.send_batch(&payloads, Kind::Data, Wait::No)
    })
}

fn receive(play: &Play, scenery: Scenery, numbers: &[u64]) -> Result<()> {
    let set = scenery.set(play)?;
    let taken = |count: usize| {
        let attempt = |rank| if rank < count { 2 } else { 1 };
        let ranked = numbers.iter().enumerate();
        Outcome::of(ranked.map(|(rank, number)| Message::comes(*number, attempt(rank))))
    };
    let receiver = set.queue.receiver();
    play.step_in_parts((0..=numbers.len()).map(taken), || {
        receiver.recv_batch(numbers.len(), Wait::No)
    })
}

/// The first ones are gone, the others are redelivered.
fn ack(play: &Play, scenery: Scenery, numbers: &[u64]) -> Result<()> {
    let set = scenery.set(play)?;
    let acked = |count: usize| {
        let left = numbers[count..].iter();
        Outcome::of(left.map(|number| Message::comes(*number, 2)))
    };
    let receiver = Box::leak(Box::new(set.queue.receiver()));
    let mut batch = receiver.recv_batch(numbers.len(), Wait::No)?;
    play.step_in_parts((0..=numbers.len()).map(acked), || batch.ack())
}
