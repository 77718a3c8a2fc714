//! Missing memory is an error with figures, and existing queues continue.
//!
//! The scenario runs in a small file system of its own. Everything that a queue will ever need is
//! reserved when it is created. So pages that are first touched when the file system is full exist.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use ipc_proto::QueueSettings;
use ipc_queue::transport::OpenMode;
use ipc_queue::{ByteQueue, QueueError};
use ipc_shm::CreateError;
use nix::errno::Errno;
use serde_json::json;

use super::Outcome;
use super::isolation::{self, Own};
use super::order::Order;
use super::puppeteer::Puppet;
use super::stage::{self, Stage};

const SIZE: u64 = 4 << 20;
const LARGEST: usize = 64 << 10;
const MESSAGES: u64 = 200;

pub fn play(stage: &Stage) -> Result<Outcome> {
    if let Err(reason) = isolation::take(Own::Mounts)? {
        return Outcome::skipped(reason);
    }
    let folder = stage.ipc_folder();
    fs::create_dir(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
    isolation::mount_small(&folder, SIZE)?;
    let figures = overflow(stage, &folder)?;
    stage.check_queues()?;
    isolation::unmount(&folder)?;
    fs::remove_dir(&folder)?;
    Outcome::kept(figures)
}

fn overflow(stage: &Stage, folder: &Path) -> Result<serde_json::Value> {
    let queue = stage::create(&QueueSettings {
        capacity: 64,
        max_message_bytes: u32::try_from(LARGEST)?,
        pool_bytes: 1 << 20,
        ..stage::settings()
    })?;
    let ballast = folder.join("ballast");
    fill(&ballast)?;
    let (free, needed) = refused(&QueueSettings::default())?;
    ensure!(
        free < needed && needed > 8 << 20,
        "{free} B free, needs {needed} B"
    );
    // A new process finds the queue in order.
    let mut newcomer = stage.puppet()?;
    use_everything(&queue, &mut newcomer)?;
    drop(newcomer);

    fs::remove_file(&ballast)?;
    let (free, _) = refused(&QueueSettings::default())?;
    ensure!(free > 0, "nothing is free without the ballast");
    let other = stage::options(OpenMode::Create)
        .settings(stage::settings())
        .open_bytes(stage::address("other"))
        .context("with room for it")?;
    drop(other);
    Ok(json!({ "bytes": SIZE, "needed": needed, "messages": MESSAGES }))
}

/// Creating a queue must fail for lack of memory. Returns the free and the needed memory, as the
/// error says.
fn refused(settings: &QueueSettings) -> Result<(u64, u64)> {
    let address = stage::address("too-large");
    let created = stage::options(OpenMode::OpenOrCreate)
        .settings(settings.clone())
        .open_bytes(&address);
    match created {
        Err(QueueError::Create(CreateError::NoSpace { free, needed, .. })) => Ok((free, needed)),
        Err(other) => bail!("another error: {other:?}"),
        Ok(_) => bail!("there was room"),
    }
}

fn use_everything(queue: &ByteQueue, newcomer: &mut Puppet) -> Result<()> {
    newcomer.tell(&Order::Consume {
        count: usize::try_from(MESSAGES)?,
    })?;
    for number in 0..MESSAGES {
        let bytes = [stage::INLINE, stage::CHUNKED, LARGEST][number as usize % 3];
        stage::send(queue, [number], bytes)?;
    }
    newcomer.hear()?;
    stage::until_free(queue, 2)
}

/// Takes all memory.
fn fill(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    let block = [0; 4096];
    loop {
        match file.write_all(&block) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::ENOSPC as i32) => return Ok(()),
            Err(error) => return Err(error).context("filling"),
        }
    }
}
