//! Delayed messages, messages with keys, and dropped messages: dropped to make room, by a purge, or
//! because they expired.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use ipc_queue::transport::Wait;
use ipc_queue::{OverflowPolicy, SendOptions};

use crate::sweep::actor::Play;
use crate::sweep::operation::State;
use crate::sweep::outcome::{FIRST_CHUNKED, KEYED_CHUNKED, KEYED_INLINE, Message, Outcome, keyed};
use crate::sweep::scenery::{MOMENT, Scenery, Set, kept, loan_with, receive, send};

const NEW: u64 = 50;
const NEW_CHUNKED: u64 = 150;

pub const DELAYED: &[State] = &[
    State::new("empty", |play| {
        put_off(&Scenery::Empty.set(play)?, play, NEW)
    }),
    State::new("last-place", |play| {
        put_off(&Scenery::LastPlace.set(play)?, play, NEW)
    }),
    State::new("past-writing", |play| {
        put_off(&Scenery::PeerWrites.set(play)?, play, NEW)
    }),
    State::new("spare-place", |play| {
        put_off(&Scenery::SparePlace.set(play)?, play, NEW)
    }),
    State::new("chunked", |play| {
        put_off(&Scenery::Empty.set(play)?, play, NEW_CHUNKED)
    }),
    State::new("stepped-over", put_off_stepped_over),
];

pub const EXPIRING: &[State] = &[
    State::new("empty", |play| expiring(play, Scenery::Empty, NEW)),
    State::new("later-lap", |play| expiring(play, Scenery::LaterLap, NEW)),
    State::new("chunked", |play| {
        expiring(play, Scenery::Empty, NEW_CHUNKED)
    }),
];

/// Afterwards a message exists if and only if its key is remembered: the survivor checks this
/// (`survivor::check_key`).
pub const KEYED: &[State] = &[
    State::new("empty", |play| {
        send_keyed(&Scenery::Empty.set(play)?, play, KEYED_INLINE)
    }),
    State::new("last-place", |play| {
        send_keyed(&Scenery::LastPlace.set(play)?, play, KEYED_INLINE)
    }),
    State::new("spare-place", |play| {
        send_keyed(&Scenery::SparePlace.set(play)?, play, KEYED_INLINE)
    }),
    State::new("chunked", |play| {
        send_keyed(&Scenery::Empty.set(play)?, play, KEYED_CHUNKED)
    }),
    State::new("stepped-over", send_keyed_stepped_over),
    State::new("delayed", |play| {
        let set = Scenery::Empty.set(play)?;
        send_with(&set, play, KEYED_INLINE, keyed(KEYED_INLINE).delay(MOMENT))
    }),
    State::new("known", |play| {
        let set = Scenery::Empty.set(play)?;
        loan_with(&set.queue, KEYED_INLINE, &keyed(KEYED_INLINE))?.publish()?;
        let same = || Outcome::of([Message::comes(KEYED_INLINE, 1)]);
        let (sender, options) = (set.queue.sender(), keyed(KEYED_INLINE));
        play.step(same(), same(), || {
            sender.send_with(&Message::payload(NEW), &options.clone().wait(Wait::No))
        })
    }),
    State::new("in-use", |play| {
        let set = Scenery::Empty.set(play)?;
        kept(loan_with(&set.peer, KEYED_INLINE, &keyed(KEYED_INLINE))?);
        let nothing = || Outcome::of([]);
        let (sender, options) = (set.queue.sender(), keyed(KEYED_INLINE));
        play.step(nothing(), nothing(), || {
            sender.send_with(&Message::payload(NEW), &options.clone().wait(Wait::No))
        })
    }),
    State::new("abandoned", |play| {
        let set = Scenery::Empty.set(play)?;
        let held = loan_with(&set.queue, KEYED_INLINE, &keyed(KEYED_INLINE))?;
        let nothing = || Outcome::of([]);
        play.step(nothing(), nothing(), || drop(held))
    }),
];

pub const DROP_OLDEST: &[State] = &[
    State::new("full", |play| drop_oldest(play, Scenery::Full, 1, NEW)),
    State::new("no-chunk", |play| {
        drop_oldest(play, Scenery::NoChunk, FIRST_CHUNKED, NEW_CHUNKED)
    }),
    State::new("keyed", |play| {
        drop_oldest_with(play, Scenery::Full, 1, KEYED_INLINE, keyed(KEYED_INLINE))
    }),
];

pub const PURGE: &[State] = &[
    State::new("empty", |play| purge(play, Scenery::Empty)),
    State::new("full", |play| purge(play, Scenery::Full)),
    State::new("given-back", |play| purge(play, Scenery::GivenBack)),
    State::new("zombie", |play| purge(play, Scenery::Expired)),
    State::new("zombie-chunked", |play| purge(play, Scenery::ChunkExpired)),
    State::new("delayed", |play| purge(play, Scenery::Delayed)),
];

pub const UNWANTED: State = State::new("unwanted", |play| {
    let set = Scenery::Empty.set(play)?;
    for number in [1, FIRST_CHUNKED] {
        let soon = SendOptions::new().expires_in(MOMENT);
        loan_with(&set.queue, number, &soon)?.publish()?;
    }
    thread::sleep(3 * MOMENT);
    // The first process that finds it drops it.
    let none = || Outcome::of([]);
    play.step_watcher(none(), none())
});

fn put_off(set: &Set, play: &Play, number: u64) -> Result<()> {
    let later = SendOptions::new().delay(MOMENT);
    let (sender, payload) = (set.queue.sender(), Message::payload(number));
    let with = set
        .content
        .iter()
        .copied()
        .chain([Message::comes(number, 1)]);
    let (before, after) = (Outcome::of(set.content.clone()), Outcome::of(with));
    play.step(before, after, || {
        sender.send_with(&payload, &later.clone().wait(Wait::No))
    })
}

fn put_off_stepped_over(play: &Play) -> Result<()> {
    let set = Scenery::Empty.set(play)?;
    let held = loan_with(&set.queue, NEW, &SendOptions::new().delay(MOMENT))?;
    send(&set.peer, [1])?;
    receive(&set.peer)?.ack()?;
    let after = Outcome::of([Message::comes(NEW, 1)]);
    play.step(Outcome::of([]), after, || held.publish())
}

fn expiring(play: &Play, scenery: Scenery, number: u64) -> Result<()> {
    let in_an_hour = SendOptions::new().expires_in(Duration::from_secs(3600));
    send_with(&scenery.set(play)?, play, number, in_an_hour)
}

fn send_keyed(set: &Set, play: &Play, number: u64) -> Result<()> {
    send_with(set, play, number, keyed(number))
}

fn send_with(set: &Set, play: &Play, number: u64, options: SendOptions) -> Result<()> {
    let (sender, payload) = (set.queue.sender(), Message::payload(number));
    let content = || set.content.iter().copied();
    let with = content().chain([Message::comes(number, 1)]);
    play.step(Outcome::of(content()), Outcome::of(with), || {
        sender.send_with(&payload, &options.clone().wait(Wait::No))
    })
}

fn send_keyed_stepped_over(play: &Play) -> Result<()> {
    let set = Scenery::Empty.set(play)?;
    let held = loan_with(&set.queue, KEYED_INLINE, &keyed(KEYED_INLINE))?;
    send(&set.peer, [1])?;
    receive(&set.peer)?.ack()?;
    let after = Outcome::of([Message::comes(KEYED_INLINE, 1)]);
    play.step(Outcome::of([]), after, || held.publish())
}

fn drop_oldest(play: &Play, scenery: Scenery, oldest: u64, number: u64) -> Result<()> {
    drop_oldest_with(play, scenery, oldest, number, SendOptions::new())
}

/// The oldest message is received, without a user, before it goes.
fn drop_oldest_with(
    play: &Play,
    scenery: Scenery,
    oldest: u64,
    number: u64,
    options: SendOptions,
) -> Result<()> {
    let set = scenery.set(play)?;
    let dropping = options.overflow(OverflowPolicy::DropOldest);
    let (sender, payload) = (set.queue.sender(), Message::payload(number));
    let others = set.content.iter().copied();
    let others: Vec<_> = others
        .filter(|message| message.number() != oldest)
        .collect();
    let with = |one: Message| Outcome::of(others.iter().copied().chain([one]));
    let parts = [
        with(Message::comes(oldest, 1)),
        with(Message::comes(oldest, 2)),
        Outcome::of(others.clone()),
        with(Message::comes(number, 1)),
    ];
    play.step_in_parts(parts, || {
        sender.send_with(&payload, &dropping.clone().wait(Wait::No))
    })
}

/// From the first cell on.
fn purge(play: &Play, scenery: Scenery) -> Result<()> {
    let set = scenery.set(play)?;
    let parts = (0..=set.content.len()).map(|gone| Outcome::of(set.content[gone..].to_vec()));
    let parts: Vec<_> = parts.collect();
    let transport = set.queue.transport();
    play.step_in_parts(parts, || transport.purge())
}
