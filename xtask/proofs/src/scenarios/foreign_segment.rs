//! Files and folders of other users, or open to other users, are refused.
//!
//! This covers both directions: this process sees another user's files, and another user sees this
//! process's files.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};

use anyhow::{Context, Result, ensure};
use ipc_queue::QueueError;
use ipc_shm::{NamespaceError, OpenError};
use nix::unistd::geteuid;
use serde_json::json;

use super::Outcome;
use super::order::Order;
use super::stage::{self, INLINE, Stage};

const STRANGER: u32 = 12_345;

pub fn play(stage: &Stage) -> Result<Outcome> {
    let queue = stage::create(&stage::settings())?;
    open_to_others(stage)?;
    if !geteuid().is_root() {
        return Outcome::skipped("only root can give files away");
    }
    owned_by_others(stage)?;
    let refusals = seen_by_others(stage)?;
    stage::send(&queue, [1], INLINE)?;
    stage::take_this(&queue, 1, 1)?;
    Outcome::kept(json!({ "refusals": refusals + 4 }))
}

fn open_to_others(stage: &Stage) -> Result<()> {
    let file = stage.file_of(stage::JOBS);
    fs::set_permissions(&file, Permissions::from_mode(0o640))?;
    let opened = stage::open().map(drop);
    let told = matches!(
        &opened,
        Err(QueueError::Open(OpenError::OpenToOthers {
            mode: 0o640,
            ..
        }))
    );
    ensure!(told, "a file open to others: {opened:?}");
    fs::set_permissions(&file, Permissions::from_mode(0o600))?;

    let folder = file.parent().context("it has a folder")?;
    fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    let opened = stage::open().map(drop);
    let told = matches!(
        namespace_error(&opened),
        Some(NamespaceError::OpenToOthers { mode: 0o755, .. })
    );
    ensure!(told, "a folder open to others: {opened:?}");
    fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    Ok(())
}

fn owned_by_others(stage: &Stage) -> Result<()> {
    let file = stage.file_of(stage::JOBS);
    chown(&file, Some(STRANGER), None)?;
    let opened = stage::open().map(drop);
    let removed = ipc_queue::remove(stage::address(stage::JOBS));
    let is_foreign = |error: &QueueError| matches!(error, QueueError::Open(OpenError::ForeignOwner { owner, .. }) if *owner == STRANGER);
    ensure!(
        opened.as_ref().is_err_and(is_foreign),
        "a foreign file: {opened:?}"
    );
    ensure!(
        matches!(&removed, Err(error) if error.open_error().is_some_and(is_foreign)),
        "removing it: {removed:?}"
    );
    chown(&file, Some(0), None)?;

    let folder = file.parent().context("it has a folder")?;
    chown(folder, Some(STRANGER), None)?;
    let opened = stage::open().map(drop);
    let told = matches!(
        namespace_error(&opened),
        Some(NamespaceError::ForeignOwner {
            owner: STRANGER,
            ..
        })
    );
    ensure!(told, "a foreign folder: {opened:?}");
    chown(folder, Some(0), None)?;
    Ok(())
}

/// Another user can't open, remove or replace this process's files. Returns the number of refusals.
fn seen_by_others(stage: &Stage) -> Result<usize> {
    // Every user may enter as far as the folder of the queues, as in /dev/shm.
    fs::set_permissions(stage.folder(), Permissions::from_mode(0o711))?;
    let mut stranger = stage.stranger()?;
    stranger.perform(Order::BecomeUser { uid: STRANGER })?;
    let queue = || stage::JOBS.to_owned();
    let settings = stage::settings();
    let orders = [
        Order::Attach { queue: queue() },
        Order::Open { queue: queue() },
        Order::Create {
            queue: "other".to_owned(),
            settings,
        },
        Order::Remove { queue: queue() },
    ];
    for order in &orders {
        let refusal = stranger.refused(order)?;
        let told = refusal.contains("ForeignOwner") || refusal.contains("code: 13");
        ensure!(told, "another error: {refusal}");
    }
    Ok(orders.len())
}

/// The error about the folder, wherever it is in the chain.
fn namespace_error(opened: &Result<(), QueueError>) -> Option<&NamespaceError> {
    match opened {
        Err(QueueError::Open(OpenError::Namespace(error)) | QueueError::Namespace(error)) => {
            Some(error)
        }
        _ => None,
    }
}
