//! Sending with headers.

use anyhow::Result;
use ipc_queue::SendOptions;
use ipc_queue::transport::Wait;

use crate::sweep::actor::Play;
use crate::sweep::operation::State;
use crate::sweep::outcome::{
    HEADED_CHUNKED, HEADED_FAR, HEADED_INLINE, HEADED_LARGEST, Message, Outcome, headed,
};
use crate::sweep::scenery::{MOMENT, Scenery, loan_with, receive, send};

pub const SEND: &[State] = &[
    State::new("empty", |play| one(play, Scenery::Empty, HEADED_INLINE)),
    State::new("last-place", |play| {
        one(play, Scenery::LastPlace, HEADED_INLINE)
    }),
    State::new("spare-place", |play| {
        one(play, Scenery::SparePlace, HEADED_INLINE)
    }),
    State::new("in-a-chunk-of-its-own", |play| {
        one(play, Scenery::Empty, HEADED_FAR)
    }),
    State::new("chunked", |play| one(play, Scenery::Empty, HEADED_CHUNKED)),
    State::new("larger-than-chunks", |play| {
        one(play, Scenery::Empty, HEADED_LARGEST)
    }),
    State::new("no-chunk", |play| {
        one(play, Scenery::NoChunk, HEADED_LARGEST)
    }),
    State::new("delayed", |play| {
        let later = headed(HEADED_INLINE).delay(MOMENT);
        one_with(play, Scenery::Empty, HEADED_INLINE, later)
    }),
    State::new("stepped-over", |play| stepped_over(play, HEADED_INLINE)),
    State::new("stepped-over-chunked", |play| {
        stepped_over(play, HEADED_LARGEST)
    }),
];

fn one(play: &Play, scenery: Scenery, number: u64) -> Result<()> {
    one_with(play, scenery, number, headed(number))
}

fn one_with(play: &Play, scenery: Scenery, number: u64, options: SendOptions) -> Result<()> {
    let set = scenery.set(play)?;
    let (sender, payload) = (set.queue.sender(), Message::payload(number));
    let content = || set.content.iter().copied();
    let with = content().chain([Message::comes(number, 1)]);
    play.step(Outcome::of(content()), Outcome::of(with), || {
        sender.send_with(&payload, &options.clone().wait(Wait::No))
    })
}

/// The headers move to the end with the message.
fn stepped_over(play: &Play, number: u64) -> Result<()> {
    let set = Scenery::Empty.set(play)?;
    let held = loan_with(&set.queue, number, &headed(number))?;
    send(&set.peer, [1])?;
    receive(&set.peer)?.ack()?;
    let after = Outcome::of([Message::comes(number, 1)]);
    play.step(Outcome::of([]), after, || held.publish())
}
