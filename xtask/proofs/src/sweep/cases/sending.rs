//! Sending, in one call or through a loan.

use anyhow::{Context, Error, Result, ensure};
use ipc_queue::ByteQueue;

use crate::sweep::actor::{CAPACITY, Play};
use crate::sweep::operation::State;
use crate::sweep::outcome::{Message, Outcome};
use crate::sweep::scenery::{Scenery, loan, receive, send};

/// The message that is sent.
const NEW: u64 = 50;
const NEW_CHUNKED: u64 = 150;
const NEW_SHORT: u64 = 190;
/// The first of the messages that only fill places.
const FILLING: u64 = 60;

pub const INLINE: &[State] = &[
    State::new("empty", |play| send_one(play, Scenery::Empty, NEW)),
    State::new("one-ready", |play| send_one(play, Scenery::OneReady, NEW)),
    State::new("last-place", |play| send_one(play, Scenery::LastPlace, NEW)),
    State::new("full", |play| refused(play, Scenery::Full, NEW)),
    State::new("later-lap", |play| send_one(play, Scenery::LaterLap, NEW)),
    State::new("past-leased", |play| past(play, Scenery::PeerHolds, NEW)),
    State::new("past-delayed", |play| past(play, Scenery::Delayed, NEW)),
    State::new("past-dead-letter", |play| past(play, Scenery::Letter, NEW)),
    State::new("past-writing", |play| {
        send_one(play, Scenery::PeerWrites, NEW)
    }),
    State::new("spare-place", |play| {
        send_one(play, Scenery::SparePlace, NEW)
    }),
    State::new("awaited", |play| send_one(play, Scenery::Awaited, NEW)),
];

pub const CHUNKED: &[State] = &[
    State::new("empty", |play| send_one(play, Scenery::Empty, NEW_CHUNKED)),
    State::new("last-place", |play| {
        send_one(play, Scenery::LastPlace, NEW_CHUNKED)
    }),
    State::new("full", |play| refused(play, Scenery::Full, NEW_CHUNKED)),
    State::new("last-chunk", |play| {
        send_one(play, Scenery::ChunkReady, NEW_CHUNKED)
    }),
    State::new("no-chunk", |play| {
        refused(play, Scenery::NoChunk, NEW_CHUNKED)
    }),
    State::new("swallow", |play| {
        send_one(play, Scenery::ShortChunks, NEW_CHUNKED)
    }),
    State::new("swallow-behind-another", |play| {
        send_one(play, Scenery::ShortChunkReady, NEW_CHUNKED)
    }),
    State::new("split", |play| send_one(play, Scenery::Empty, NEW_SHORT)),
    State::new("as-long-as-before", |play| {
        send_one(play, Scenery::ShortChunks, NEW_SHORT)
    }),
    State::new("later-lap", |play| {
        send_one(play, Scenery::LaterLap, NEW_CHUNKED)
    }),
    State::new("spare-place", |play| {
        send_one(play, Scenery::SparePlace, NEW_CHUNKED)
    }),
];

pub const LOAN: &[State] = &[
    State::new("empty", |play| lend(play, Scenery::Empty, NEW)),
    State::new("last-place", |play| lend(play, Scenery::LastPlace, NEW)),
    State::new("full", |play| lend(play, Scenery::Full, NEW)),
    State::new("spare-place", |play| lend(play, Scenery::SparePlace, NEW)),
    State::new("chunked", |play| lend(play, Scenery::Empty, NEW_CHUNKED)),
    State::new("last-chunk", |play| {
        lend(play, Scenery::ChunkReady, NEW_CHUNKED)
    }),
];

pub const ABANDON: &[State] = &[
    State::new("empty", |play| abandon(play, Scenery::Empty, NEW)),
    State::new("one-ready", |play| abandon(play, Scenery::OneReady, NEW)),
    State::new("chunked", |play| abandon(play, Scenery::Empty, NEW_CHUNKED)),
];

pub const PUBLISH: &[State] = &[
    State::new("empty", |play| publish(play, Scenery::Empty, NEW)),
    State::new("last-place", |play| publish(play, Scenery::LastPlace, NEW)),
    State::new("spare-place", |play| {
        publish(play, Scenery::SparePlace, NEW)
    }),
    State::new("awaited", |play| publish(play, Scenery::Awaited, NEW)),
    State::new("chunked", |play| publish(play, Scenery::Empty, NEW_CHUNKED)),
    State::new("stepped-over", |play| {
        publish_stepped_over(play, NEW, Room::Left)
    }),
    State::new("stepped-over-chunked", |play| {
        publish_stepped_over(play, NEW_CHUNKED, Room::Left)
    }),
    State::new("stepped-over-full", |play| {
        publish_stepped_over(play, NEW, Room::None)
    }),
    State::new("stepped-over-full-chunked", |play| {
        publish_stepped_over(play, NEW_CHUNKED, Room::None)
    }),
];

fn send_one(play: &Play, scenery: Scenery, number: u64) -> Result<()> {
    let set = scenery.set(play)?;
    send_into(play, &set.queue, &set.content, number)
}

/// The ring reaches an occupied cell, and there is room behind it.
fn past(play: &Play, scenery: Scenery, number: u64) -> Result<()> {
    let set = scenery.set(play)?;
    let mut content = set.content;
    let others = FILLING..FILLING + CAPACITY as u64 - content.len() as u64;
    send(&set.queue, others.clone())?;
    content.extend(others.map(|number| Message::comes(number, 1)));
    let delivery = receive(&set.queue)?;
    let gone = Message::number_of(delivery.payload()).map_err(Error::msg)?;
    delivery.ack()?;
    content.retain(|message| message.number() != gone);
    send_into(play, &set.queue, &content, number)
}

fn send_into(play: &Play, queue: &ByteQueue, content: &[Message], number: u64) -> Result<()> {
    let (before, after) = without_and_with(content, number);
    let (sender, payload) = (queue.sender(), Message::payload(number));
    play.step(before, after, || sender.try_send(&payload))
}

fn refused(play: &Play, scenery: Scenery, number: u64) -> Result<()> {
    let set = scenery.set(play)?;
    let (sender, payload) = (set.queue.sender(), Message::payload(number));
    let same = || Outcome::of(set.content.clone());
    ensure!(sender.try_send(&payload).is_err(), "there is room");
    play.step(same(), same(), || sender.try_send(&payload))
}

fn lend(play: &Play, scenery: Scenery, number: u64) -> Result<()> {
    let set = scenery.set(play)?;
    let (sender, len) = (set.queue.sender(), Message::payload(number).len());
    let same = || Outcome::of(set.content.clone());
    play.step(same(), same(), || sender.try_loan(len))
}

fn abandon(play: &Play, scenery: Scenery, number: u64) -> Result<()> {
    let set = scenery.set(play)?;
    let held = loan(&set.queue, number)?;
    let same = || Outcome::of(set.content.clone());
    play.step(same(), same(), || drop(held))
}

fn publish(play: &Play, scenery: Scenery, number: u64) -> Result<()> {
    let set = scenery.set(play)?;
    let held = loan(&set.queue, number)?;
    let (before, after) = without_and_with(&set.content, number);
    play.step(before, after, || held.publish())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Left,
    None,
}

fn publish_stepped_over(play: &Play, number: u64, room: Room) -> Result<()> {
    let set = Scenery::Empty.set(play)?;
    let held = loan(&set.queue, number)?;
    send(&set.peer, [1])?;
    receive(&set.peer).context("stepping over")?.ack()?;
    let mut content = set.content.clone();
    if room == Room::None {
        send(&set.peer, 2..=3)?;
        content.extend([Message::comes(2, 1), Message::comes(3, 1)]);
    }
    let (before, after) = without_and_with(&content, number);
    play.step(before, after, || held.publish())
}

fn without_and_with(content: &[Message], number: u64) -> (Outcome, Outcome) {
    let new = Message::comes(number, 1);
    let with = content.iter().copied().chain([new]);
    (Outcome::of(content.to_vec()), Outcome::of(with))
}
