//! Requeuing and discarding dead letters.

use anyhow::{Context, Result};
use ipc_queue::transport::Transport;
use ipc_queue::{DeadLetterId, DeadReason};

use crate::sweep::actor::{ATTEMPT_LIMIT, Play};
use crate::sweep::operation::State;
use crate::sweep::outcome::{FIRST_CHUNKED, HEADED_LARGEST, Message, Outcome, REASONS, headed};
use crate::sweep::scenery::{Scenery, loan_with, receive, send};

pub const DISCARD: &[State] = &[
    State::new("one", |play| discard(play, 1)),
    State::new("chunked", |play| discard(play, FIRST_CHUNKED)),
];

pub const REQUEUE: &[State] = &[
    State::new("one", |play| requeue(play, 1)),
    State::new("chunked", |play| requeue(play, FIRST_CHUNKED)),
    State::new("full", |play| {
        let set = Scenery::Letter.set(play)?;
        send(&set.queue, 2..=3)?;
        let transport = set.queue.transport();
        let id = the_letter(&**transport)?;
        let fresh = (1..=3).map(|number| Message::comes(number, 1));
        let (letter, again) = (set.content[0], fresh.clone());
        let before = Outcome::of(fresh.skip(1).chain([letter]));
        play.step(before, Outcome::of(again), || transport.requeue(id))
    }),
    State::new("again", |play| {
        let set = Scenery::Letter.set(play)?;
        let transport = set.queue.transport();
        transport.requeue(the_letter(&**transport)?)?;
        for _ in 0..ATTEMPT_LIMIT {
            receive(&set.queue)?.nack()?;
        }
        let id = the_letter(&**transport)?;
        let letter = Message::dead(1, ATTEMPT_LIMIT, DeadReason::Nacked);
        let again = Message::comes(1, 1);
        play.step(Outcome::of([letter]), Outcome::of([again]), || {
            transport.requeue(id)
        })
    }),
    State::new("with-reason", |play| {
        let set = Scenery::OneReady.set(play)?;
        receive(&set.queue)?.bury_with(REASONS[1])?;
        let transport = set.queue.transport();
        let id = the_letter(&**transport)?;
        let letter = Message::dead(1, 1, DeadReason::Buried).saying(1);
        let again = Message::comes(1, 1);
        play.step(Outcome::of([letter]), Outcome::of([again]), || {
            transport.requeue(id)
        })
    }),
    State::new("headed", |play| {
        let set = Scenery::Empty.set(play)?;
        loan_with(&set.queue, HEADED_LARGEST, &headed(HEADED_LARGEST))?.publish()?;
        receive(&set.queue)?.bury()?;
        let transport = set.queue.transport();
        let id = the_letter(&**transport)?;
        let letter = Message::dead(HEADED_LARGEST, 1, DeadReason::Buried);
        let again = Message::comes(HEADED_LARGEST, 1);
        play.step(Outcome::of([letter]), Outcome::of([again]), || {
            transport.requeue(id)
        })
    }),
    State::new("expired-before", |play| {
        let set = Scenery::Expired.set(play)?;
        receive(&set.queue)?.bury()?;
        let transport = set.queue.transport();
        let id = the_letter(&**transport)?;
        let letter = Message::dead(1, 2, DeadReason::Buried);
        let again = Message::comes(1, 1);
        play.step(Outcome::of([letter]), Outcome::of([again]), || {
            transport.requeue(id)
        })
    }),
];

fn discard(play: &Play, number: u64) -> Result<()> {
    let set = Scenery::Empty.set(play)?;
    send(&set.queue, [number])?;
    receive(&set.queue)?.bury()?;
    let transport = set.queue.transport();
    let id = the_letter(&**transport)?;
    let before = Outcome::of([Message::dead(number, 1, DeadReason::Buried)]);
    play.step(before, Outcome::of([]), || transport.discard(id))
}

fn requeue(play: &Play, number: u64) -> Result<()> {
    let set = Scenery::Empty.set(play)?;
    send(&set.queue, [number])?;
    receive(&set.queue)?.bury()?;
    let transport = set.queue.transport();
    let id = the_letter(&**transport)?;
    let letter = Message::dead(number, 1, DeadReason::Buried);
    let again = Message::comes(number, 1);
    play.step(Outcome::of([letter]), Outcome::of([again]), || {
        transport.requeue(id)
    })
}

fn the_letter(transport: &dyn Transport) -> Result<DeadLetterId> {
    let letters = transport.dead_letters()?;
    Ok(letters.first().context("no dead letter")?.id)
}
