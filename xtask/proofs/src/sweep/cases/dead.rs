//! Recovering what dead processes held: when opening their queue, or when their death is noticed.

use anyhow::{Result, ensure};
use ipc_queue::transport::OpenMode;
use ipc_queue::{ByteQueue, DeadReason};

use crate::sweep::actor::Play;
use crate::sweep::dying::Dying;
use crate::sweep::operation::State;
use crate::sweep::outcome::{Message, Outcome};
use crate::sweep::scenery::{MOMENT, kept, receive};

pub const RECOVER: &[State] = &[
    State::new("open-idle", |play| open_after(play, Dying::Idle)),
    State::new("open-receiver", |play| open_after(play, Dying::Receiver)),
    State::new("open-chunk-receiver", |play| {
        open_after(play, Dying::ChunkReceiver)
    }),
    State::new("open-last-receiver", |play| {
        open_after(play, Dying::LastReceiver)
    }),
    State::new("open-sender", |play| open_after(play, Dying::Sender)),
    State::new("open-chunk-sender", |play| {
        open_after(play, Dying::ChunkSender)
    }),
    State::new("open-zombie", |play| open_after(play, Dying::Zombie)),
    State::new("open-quarantine", |play| {
        open_after(play, Dying::Quarantine)
    }),
    State::new("open-everything", |play| {
        open_after(play, Dying::Everything)
    }),
    State::new("open-all-received", |play| {
        open_after(play, Dying::AllReceived)
    }),
    State::new("notice-receiver", |play| notice(play, Dying::Receiver)),
    State::new("notice-last-receiver", |play| {
        notice(play, Dying::LastReceiver)
    }),
    State::new("notice-chunk-sender", |play| {
        notice(play, Dying::ChunkSender)
    }),
    State::new("notice-zombie", |play| notice(play, Dying::Zombie)),
    State::new("notice-quarantine", |play| notice(play, Dying::Quarantine)),
    State::new("notice-everything", |play| notice(play, Dying::Everything)),
];

/// Two receivers may die with a message; the third attempt is the last one anyway.
pub const CRASH_LIMIT: &[State] = &[
    State::new("open-second", |play| {
        kept(after_a_crash(play)?);
        play.let_die(Dying::NextReceiver)?;
        play.step(given_up(), given_up(), || play.open(OpenMode::Open))
    }),
    State::new("notice-second", |play| {
        kept(after_a_crash(play)?);
        play.let_die(Dying::NextReceiver)?;
        play.step_watcher(given_up(), given_up())
    }),
    State::new("open-after-nack", |play| {
        kept(play.attach_with_crash_limit(2)?);
        play.let_die(Dying::NackedReceiver)?;
        let same = || Outcome::of(Dying::NackedReceiver.leaves());
        play.step(same(), same(), || play.open(OpenMode::Open))
    }),
    State::new("nack", |play| {
        let delivery = receive(&after_a_crash(play)?)?;
        let again = Outcome::of([Message::comes(1, 3)]);
        play.step(given_up(), again, || delivery.nack())
    }),
    State::new("snooze", |play| {
        let delivery = receive(&after_a_crash(play)?)?;
        let again = Outcome::of([Message::comes(1, 2)]);
        play.step(given_up(), again, || delivery.snooze(MOMENT))
    }),
    State::new("ack", |play| {
        let delivery = receive(&after_a_crash(play)?)?;
        play.step(given_up(), Outcome::of([]), || delivery.ack())
    }),
];

/// A queue with a limit of two crashes, in which message 1 is ready after the first.
fn after_a_crash(play: &Play) -> Result<ByteQueue> {
    let queue = play.attach_with_crash_limit(2)?;
    play.let_die(Dying::Receiver)?;
    play.look()?;
    ensure!(
        queue.transport().stats()?.ready == 1,
        "the message is not ready again"
    );
    Ok(queue)
}

fn given_up() -> Outcome {
    Outcome::of([Message::dead(1, 2, DeadReason::Crashed)])
}

fn open_after(play: &Play, dying: Dying) -> Result<()> {
    play.let_die(dying)?;
    let same = || Outcome::of(dying.leaves());
    play.step(same(), same(), || play.open(OpenMode::Open))
}

fn notice(play: &Play, dying: Dying) -> Result<()> {
    kept(play.attach()?);
    play.let_die(dying)?;
    let same = || Outcome::of(dying.leaves());
    play.step_watcher(same(), same())
}

/// Recovers the queue that the tracer put into the folder.
pub fn recover_given(play: &Play) -> Result<()> {
    let unknown = Outcome::absent;
    play.step(unknown(), unknown(), || play.open(OpenMode::Open))
}
