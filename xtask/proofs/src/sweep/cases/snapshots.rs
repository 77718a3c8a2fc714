//! Forgetting keys, and restoring queues.

use anyhow::Result;
use ipc_queue::snapshot::restore_to;
use ipc_queue::transport::Wait;
use ipc_queue::{DeadReason, Key, QueueOptions, SendOptions};

use crate::sweep::actor::Play;
use crate::sweep::operation::State;
use crate::sweep::outcome::{FIRST_CHUNKED, HEADED_INLINE, Message, Outcome, REASONS, headed};
use crate::sweep::scenery::{Scenery, loan_with, send};

pub const FORGET: &[State] = &[State::new("sent", |play| {
    let set = Scenery::Empty.set(play)?;
    loan_with(&set.queue, 1, &SendOptions::new().key("key"))?.publish()?;
    let same = || Outcome::of([Message::comes(1, 1)]);
    play.step(same(), same(), || {
        set.queue.transport().forget(Key::of("key"))
    })
})];

/// Restoring again completes every interrupted restore.
pub const RESTORE: &[State] = &[
    State::new("absent", |play| restore(play, |_| Ok(()))),
    State::new("exists", |play| {
        restore(play, |play| play.attach().map(drop))
    }),
];

fn restore(play: &Play, prepare: fn(&Play) -> Result<()>) -> Result<()> {
    let set = Scenery::Empty.set(play)?;
    send(&set.queue, [1])?;
    // Separate handles, which are dropped before the save: nothing else may be attached then.
    let (sender, receiver) = (set.queue.sender(), set.queue.receiver());
    receiver.try_recv()?.bury_with(REASONS[1])?;
    let keyed = headed(HEADED_INLINE).key("key");
    sender.send_with(
        &Message::payload(HEADED_INLINE),
        &keyed.clone().wait(Wait::No),
    )?;
    receiver.try_recv()?.nack()?;
    send(&set.queue, [FIRST_CHUNKED])?;
    drop((sender, receiver, set));
    let file = play.save()?;
    prepare(play)?;
    let all = || {
        Outcome::of([
            Message::comes(HEADED_INLINE, 2),
            Message::comes(FIRST_CHUNKED, 1),
            Message::dead(1, 1, DeadReason::Buried).saying(1),
        ])
    };
    let (place, options) = (play.place(), QueueOptions::new());
    play.step(all(), all(), || {
        restore_to(&place, &file, &options, Wait::No)
    })
}
