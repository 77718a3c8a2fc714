//! Queues that are created and removed.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

use anyhow::{Context, Result, ensure};
use ipc_queue::transport::OpenMode;

use crate::sweep::actor::Play;
use crate::sweep::operation::State;
use crate::sweep::outcome::{Message, Outcome};
use crate::sweep::scenery::Scenery;

pub const CREATE: &[State] = &[
    State::new("absent", |play| make(play, OpenMode::Create)),
    State::new("exists", |play| {
        let set = Scenery::OneReady.set(play)?;
        let same = || Outcome::of(set.content.clone());
        play.step(same(), same(), || play.open(OpenMode::Create))
    }),
    State::new("after-remove", |play| {
        drop(play.attach()?);
        play.remove()?;
        make(play, OpenMode::Create)
    }),
    State::new("half-removed", |play| {
        half_remove(play)?;
        make(play, OpenMode::Create)
    }),
];

pub const OPEN: &[State] = &[
    State::new("absent", |play| make(play, OpenMode::OpenOrCreate)),
    State::new("empty", |play| {
        drop(play.attach()?);
        open(play, &[])
    }),
    State::new("full", |play| {
        let set = Scenery::Full.set(play)?;
        let content = set.content.clone();
        drop(set);
        open(play, &content)
    }),
    State::new("half-removed", |play| {
        half_remove(play)?;
        make(play, OpenMode::OpenOrCreate)
    }),
];

pub const REMOVE: &[State] = &[
    State::new("empty", |play| {
        drop(play.attach()?);
        remove(play, Outcome::of([]))
    }),
    State::new("full", |play| {
        let set = Scenery::Full.set(play)?;
        let content = set.content.clone();
        drop(set);
        remove(play, Outcome::of(content))
    }),
    State::new("in-use", |play| {
        let set = Scenery::PeerHolds.set(play)?;
        remove(play, Outcome::of(set.content.clone()))
    }),
    State::new("half-removed", |play| {
        half_remove(play)?;
        remove(play, Outcome::absent())
    }),
    State::new("absent", |play| remove(play, Outcome::absent())),
];

fn make(play: &Play, mode: OpenMode) -> Result<()> {
    let (before, after) = (Outcome::absent(), Outcome::of([]));
    play.step(before, after, || play.open(mode))
}

fn open(play: &Play, content: &[Message]) -> Result<()> {
    let same = || Outcome::of(content.to_vec());
    play.step(same(), same(), || play.open(OpenMode::OpenOrCreate))
}

fn remove(play: &Play, before: Outcome) -> Result<()> {
    play.step(before, Outcome::absent(), || play.remove())
}

/// Prepares the state after a remover was killed before it unlinked the name.
fn half_remove(play: &Play) -> Result<()> {
    drop(Scenery::OneReady.set(play)?);
    let path = play.file();
    let mut removed = File::open(&path)?;
    ensure!(play.remove()?, "there is nothing to remove");
    let mut bytes = Vec::new();
    removed.read_to_end(&mut bytes)?;
    let folder = path.parent().context("a file is in a folder")?;
    let mut folders = fs::DirBuilder::new();
    folders.recursive(true).mode(0o700).create(folder)?;
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    std::io::Write::write_all(&mut file, &bytes)?;
    Ok(())
}
