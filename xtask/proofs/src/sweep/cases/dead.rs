//! Recovering what dead processes held: when opening their queue, or when their death is noticed.

use anyhow::Result;
use ipc_queue::transport::OpenMode;

use crate::sweep::actor::Play;
use crate::sweep::dying::Dying;
use crate::sweep::operation::State;
use crate::sweep::outcome::Outcome;
use crate::sweep::scenery::kept;

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

/// Of whatever lies in the folder: the tracer knows what.
pub fn recover_given(play: &Play) -> Result<()> {
    let unknown = Outcome::absent;
    play.step(unknown(), unknown(), || play.open(OpenMode::Open))
}
