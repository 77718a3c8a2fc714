//! Keys that are forgotten, and queues that are restored.

use anyhow::Result;
use ipc_queue::snapshot::restore_to;
use ipc_queue::transport::Wait;
use ipc_queue::{DeadReason, Key, QueueOptions, SendOptions};

use crate::sweep::actor::Play;
use crate::sweep::operation::State;
use crate::sweep::outcome::{FIRST_CHUNKED, Message, Outcome};
use crate::sweep::scenery::{Scenery, loan_with, receive, send};

pub const FORGET: &[State] = &[State::new("sent", |play| {
    let set = Scenery::Empty.set(play)?;
    loan_with(&set.queue, 1, &SendOptions::new().key("key"))?.publish()?;
    let same = || Outcome::of([Message::comes(1, 1)]);
    play.step(same(), same(), || {
        set.queue.transport().forget(Key::of("key"))
    })
})];

/// Whatever the kill left, restoring again completes it.
pub const RESTORE: &[State] = &[
    State::new("absent", |play| restore(play, |_| Ok(()))),
    State::new("exists", |play| {
        restore(play, |play| play.attach().map(drop))
    }),
];

fn restore(play: &Play, prepare: fn(&Play) -> Result<()>) -> Result<()> {
    let set = Scenery::Empty.set(play)?;
    send(&set.queue, [1])?;
    receive(&set.queue)?.bury_with("no use")?;
    let keyed = SendOptions::new().key("key").header("trace", "x")?;
    loan_with(&set.queue, 2, &keyed)?.publish()?;
    receive(&set.queue)?.nack()?;
    send(&set.queue, [FIRST_CHUNKED])?;
    drop(set);
    let file = play.save()?;
    prepare(play)?;
    let all = || {
        Outcome::of([
            Message::comes(2, 2),
            Message::comes(FIRST_CHUNKED, 1),
            Message::dead(1, 1, DeadReason::Buried),
        ])
    };
    let (place, options) = (play.place(), QueueOptions::new());
    play.step(all(), all(), || {
        restore_to(&place, &file, &options, Wait::No)
    })
}
