//! What becomes of dead letters.

use anyhow::{Context, Result};
use ipc_queue::transport::Transport;
use ipc_queue::{DeadLetterId, DeadReason};

use crate::sweep::actor::Play;
use crate::sweep::operation::State;
use crate::sweep::outcome::{FIRST_CHUNKED, Message, Outcome};
use crate::sweep::scenery::{Scenery, receive, send};

pub const DISCARD: &[State] = &[
    State::new("one", |play| discard(play, 1)),
    State::new("chunked", |play| discard(play, FIRST_CHUNKED)),
];

pub const REQUEUE: &[State] = &[
    State::new("one", |play| requeue(play, 1)),
    State::new("chunked", |play| requeue(play, FIRST_CHUNKED)),
    State::new("no-room", |play| {
        let set = Scenery::Letter.set(play)?;
        send(&set.queue, 2..=3)?;
        let fresh = (2..=3).map(|number| Message::comes(number, 1));
        let same = || Outcome::of(set.content.iter().copied().chain(fresh.clone()));
        let transport = set.queue.transport();
        let id = the_letter(&**transport)?;
        play.step(same(), same(), || transport.requeue(id))
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

/// The copy is there before the letter goes.
fn requeue(play: &Play, number: u64) -> Result<()> {
    let set = Scenery::Empty.set(play)?;
    send(&set.queue, [number])?;
    receive(&set.queue)?.bury()?;
    let transport = set.queue.transport();
    let id = the_letter(&**transport)?;
    let letter = Message::dead(number, 1, DeadReason::Buried);
    let copy = Message::comes(number, 1);
    let parts = [vec![letter], vec![letter, copy], vec![copy]].map(Outcome::of);
    play.step_in_parts(parts, || transport.requeue(id))
}

fn the_letter(transport: &dyn Transport) -> Result<DeadLetterId> {
    let letters = transport.dead_letters()?;
    Ok(letters.first().context("no dead letter")?.id)
}
