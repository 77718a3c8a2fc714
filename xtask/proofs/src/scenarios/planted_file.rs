//! Anything in a queue's place that is not a file is refused, not followed or waited for.
//!
//! It also stays as it was: it may belong to another program.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use ipc_queue::QueueError;
use ipc_queue::transport::OpenMode;
use ipc_shm::{CreateError, NamespaceError, OpenError};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;

use super::Outcome;
use super::order::Order;
use super::stage::{self, Stage};

type Plant = fn(&Path, &Path) -> Result<()>;

const PLANTS: [(&str, Plant); 5] = [
    ("a link to a queue", |path, other| Ok(symlink(other, path)?)),
    ("a link to nothing", |path, _| Ok(symlink("nowhere", path)?)),
    ("a FIFO", |path, _| Ok(mkfifo(path, Mode::S_IRWXU)?)),
    ("a folder", |path, _| Ok(fs::create_dir(path)?)),
    (
        "a socket",
        |path, _| Ok(UnixListener::bind(path).map(drop)?),
    ),
];

pub fn play(stage: &Stage) -> Result<Outcome> {
    let other = stage.file_of("other");
    // Created by a process that is gone: it does not change meanwhile.
    let mut creator = stage.stranger()?;
    let (queue, settings) = ("other".to_owned(), stage::settings());
    creator.perform(Order::Create { queue, settings })?;
    creator.dismiss()?;
    let before = fs::read(&other)?;
    let path = stage.file_of(stage::JOBS);
    for (what, plant) in PLANTS {
        plant(&path, &other).with_context(|| format!("planting {what}"))?;
        refused(&path).with_context(|| what.to_owned())?;
        fs::remove_file(&path).or_else(|_| fs::remove_dir(&path))?;
    }
    ensure!(fs::read(&other)? == before, "a link was followed");
    ipc_queue::remove(stage::address("other"))?;
    folders(stage)?;
    Outcome::kept(json!({ "plants": PLANTS.len() + 1 }))
}

fn refused(path: &Path) -> Result<()> {
    let address = stage::address(stage::JOBS);
    let kind = fs::symlink_metadata(path)?.file_type();
    let no_file =
        |error: &QueueError| matches!(error, QueueError::Open(OpenError::NotAFile { .. }));
    for mode in [OpenMode::Open, OpenMode::OpenOrCreate] {
        let opened = stage::options(mode).open_bytes(&address).map(drop);
        ensure!(opened.as_ref().is_err_and(no_file), "{mode:?}: {opened:?}");
    }
    let created = stage::create(&stage::settings()).map(drop);
    let exists = matches!(
        &created,
        Err(QueueError::Exists { .. } | QueueError::Create(CreateError::Exists { .. }))
    );
    ensure!(exists, "creating: {created:?}");
    let removed = ipc_queue::remove(&address);
    ensure!(
        matches!(&removed, Err(error) if error.open_error().is_some_and(no_file)),
        "removing: {removed:?}"
    );
    ensure!(
        fs::symlink_metadata(path)?.file_type() == kind,
        "it was replaced"
    );
    Ok(())
}

/// A link in the place of the folder is also refused, even if its target is good.
fn folders(stage: &Stage) -> Result<()> {
    let target = stage.folder().join("target");
    fs::DirBuilder::new().mode(0o700).create(&target)?;
    symlink(&target, stage.ipc_folder())?;
    let created = stage::create(&stage::settings()).map(drop);
    let told = matches!(
        &created,
        Err(QueueError::Create(CreateError::Namespace(
            NamespaceError::NotAFolder { .. }
        )))
    );
    ensure!(told, "creating in a folder that is a link: {created:?}");
    ensure!(
        fs::read_dir(&target)?.count() == 0,
        "something was made behind the link"
    );
    fs::remove_file(stage.ipc_folder())?;
    fs::remove_dir(target)?;
    Ok(())
}
