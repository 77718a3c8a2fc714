//! Processes that come and go.

use anyhow::Result;
use ipc_queue::ByteQueue;
use ipc_queue::transport::{OpenMode, Wait};

use crate::sweep::actor::{PARTICIPANTS, Play};
use crate::sweep::dying::Dying;
use crate::sweep::operation::State;
use crate::sweep::outcome::{CHUNKED, FIRST_CHUNKED, INLINE, Message, Outcome};
use crate::sweep::scenery::{Scenery, kept, send};

pub const REGISTER: &[State] = &[
    State::new("first", |play| {
        drop(Scenery::Empty.set(play)?);
        register(play, &[])
    }),
    State::new("first-full", |play| {
        let set = Scenery::Full.set(play)?;
        let content = set.content.clone();
        drop(set);
        register(play, &content)
    }),
    State::new("with-peers", |play| {
        let set = Scenery::PeerHolds.set(play)?;
        register(play, &set.content)
    }),
    State::new("last-slot", |play| {
        for _ in 1..PARTICIPANTS {
            kept(play.attach()?);
        }
        register(play, &[])
    }),
    State::new("after-deaths", |play| {
        kept(play.attach()?);
        for _ in 1..PARTICIPANTS {
            play.let_die(Dying::Idle)?;
        }
        register(play, &[])
    }),
    State::new("no-slot", |play| {
        for _ in 0..PARTICIPANTS {
            kept(play.attach()?);
        }
        register(play, &[])
    }),
];

pub const UNREGISTER: &[State] = &[
    State::new("last", |play| unregister(play, |_| Ok(vec![]))),
    State::new("with-peers", |play| {
        kept(play.attach()?);
        unregister(play, |_| Ok(vec![]))
    }),
    State::new("leaving-messages", |play| {
        unregister(play, |queue| {
            send(queue, [1, FIRST_CHUNKED])?;
            Ok(vec![Message::comes(1, 1), Message::comes(FIRST_CHUNKED, 1)])
        })
    }),
    State::new("holding", |play| {
        unregister(play, |queue| {
            send(queue, [1, FIRST_CHUNKED])?;
            let receiver = queue.receiver();
            kept(receiver.recv_within(Wait::No)?);
            Ok(vec![Message::comes(1, 2), Message::comes(FIRST_CHUNKED, 1)])
        })
    }),
    State::new("writing", |play| {
        unregister(play, |queue| {
            let sender = queue.sender();
            kept(sender.try_loan(INLINE)?);
            kept(sender.try_loan(CHUNKED)?);
            Ok(vec![])
        })
    }),
];

fn register(play: &Play, content: &[Message]) -> Result<()> {
    let same = || Outcome::of(content.to_vec());
    play.step(same(), same(), || play.open(OpenMode::Open))
}

/// Detaches without returning what it holds.
fn unregister(play: &Play, forget: fn(&ByteQueue) -> Result<Vec<Message>>) -> Result<()> {
    let queue = play.attach()?;
    let content = forget(&queue)?;
    let same = || Outcome::of(content.clone());
    play.step(same(), same(), || drop(queue))
}
