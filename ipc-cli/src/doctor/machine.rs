//! Checks by trying whether this machine and this user can have queues in shared memory at all.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ipc_proto::QueueSettings;
use ipc_queue::shm::Inspector;
use ipc_queue::transport::OpenMode;
use ipc_queue::{ByteQueue, Name, QueueOptions, ShmQueue};
use ipc_shm::Namespace;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use nix::sys::utsname::uname;

use super::{Finding, Grade};
use crate::exit;
use crate::format;
use crate::snapshot::is_in_memory;

/// The prefix of the namespaces that doctors use.
const OURS: &str = "doctor-";
const TRIAL: &str = "trial";

pub fn findings() -> Vec<Finding> {
    let version = format!("ipc {}", env!("CARGO_PKG_VERSION"));
    let mut findings = vec![Finding::fine("version", version), kernel(), files()];
    findings.extend(proc_folder());
    findings.extend(memory());
    findings.push(trial());
    findings
}

fn kernel() -> Finding {
    let version = match uname() {
        Ok(uname) => uname.release().to_string_lossy().into_owned(),
        Err(error) => return Finding::bad("kernel", error.to_string()),
    };
    let mut parts = version
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let number = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let grade = if number >= (5, 10) {
        Grade::Fine
    } else {
        Grade::Bad
    };
    Finding::new(
        "kernel",
        grade,
        format!("{version}; 5.10 or later is needed"),
    )
}

fn files() -> Finding {
    /// Each queue takes one descriptor, and each watched process takes one more.
    const NEEDED: u64 = 256;
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Err(error) => Finding::bad("open files", error.to_string()),
        Ok((files, _)) if files < NEEDED => Finding::bad(
            "open files",
            format!("{files} for each process are too few: allow more, such as ulimit -n 1024"),
        ),
        Ok((files, _)) => Finding::fine(
            "open files",
            format!("{files} for each process: a queue takes one, and one for each other process"),
        ),
    }
}

fn proc_folder() -> Option<Finding> {
    let there = Path::new("/proc/self/fd").exists();
    let what = "/proc is not mounted, and segments are made through it: mount -t proc proc /proc";
    (!there).then(|| Finding::bad("/proc", what))
}

/// Returns the folder of all namespaces, and the folder that contains it.
fn place() -> Result<(PathBuf, PathBuf)> {
    let any = Namespace::new("default")?.path();
    let root = any.parent().context("no folder")?.to_owned();
    let place = root.parent().context("no folder")?.to_owned();
    Ok((root, place))
}

/// Returns `None` if the trial gives a better finding.
fn memory() -> Option<Finding> {
    let (root, place) = place().ok()?;
    let folder = if root.exists() { root } else { place };
    let stat = statvfs(&folder).ok()?;
    let unit = stat.fragment_size() as u64;
    let (all, free) = (
        stat.blocks() as u64 * unit,
        stat.blocks_available() as u64 * unit,
    );
    let is_on_disk = is_in_memory(&folder) == Some(false);
    let figures = format!(
        "{} of {} free in {}{}",
        format::bytes(free),
        format::bytes(all),
        folder.display(),
        if is_on_disk { ", on a disk" } else { "" }
    );
    if all > 0 && free < all / 20 {
        let what = format!("{figures}: remove queues (ipc ls, ipc rm), or mount it larger");
        return Some(Finding::bad("shared memory", what));
    }
    if is_on_disk {
        let what = format!(
            "{figures}: each change is written to it, which costs time. Set IPC_SHM_DIR to a folder \
             on a tmpfs, such as one in /dev/shm"
        );
        return Some(Finding::new("shared memory", Grade::Warn, what));
    }
    let settings = QueueSettings::default();
    let least = settings.pool_bytes + u64::from(settings.capacity * settings.inline_bytes);
    if all > 0 && free < least {
        let what = format!(
            "{figures}, too little for a queue of default settings: remove queues (ipc ls, ipc \
             rm), or mount it larger"
        );
        return Some(Finding::new("shared memory", Grade::Warn, what));
    }
    let what = format!("{figures}; what does not fit is refused with these figures");
    Some(Finding::fine("shared memory", what))
}

/// Creates a queue, sends a message through it, and removes it.
fn trial() -> Finding {
    let metadata = "a queue of our own";
    match try_out() {
        Ok(()) => Finding::fine(metadata, "made, used and removed"),
        Err(error) => {
            let error = exit::in_one_line(&error);
            Finding::bad(metadata, format!("{error}; {}", remedy()))
        }
    }
}

fn remedy() -> String {
    let elsewhere = "set IPC_SHM_DIR to a new folder on a tmpfs that you may write to";
    match place() {
        Ok((_, place)) if !place.exists() => {
            let place = place.display();
            format!("mount -t tmpfs tmpfs {place} after making that folder, or {elsewhere}")
        }
        _ => elsewhere.to_owned(),
    }
}

fn try_out() -> Result<()> {
    let address = format!("shm:{OURS}{}/{TRIAL}", std::process::id());
    let options = QueueOptions::new()
        .capacity(1)
        .max_message_bytes(64)
        .inline_bytes(64);
    let queue = options.mode(OpenMode::Create).open_bytes(&address)?;
    let carried = carry(&queue);
    drop(queue);
    ensure!(
        ipc_queue::remove(&address)?,
        "the queue was gone before it was removed"
    );
    carried
}

/// Removes what another `doctor` left behind when it was killed during its trial.
pub fn clear_up(namespace: &Namespace) {
    let Ok(name) = Name::new(TRIAL) else {
        return;
    };
    if !namespace.name().as_str().starts_with(OURS) {
        return;
    }
    if let Ok(trial) = Inspector::open(namespace, &name) {
        let attached = trial.participants();
        if !attached.is_empty() && attached.iter().all(|(_, gone)| *gone) {
            let _ = ShmQueue::remove(namespace, &name);
        }
    }
}

fn carry(queue: &ByteQueue) -> Result<()> {
    queue.sender().try_send(b"trial")?;
    let receiver = queue.receiver();
    let delivery = receiver.try_recv()?;
    ensure!(
        delivery.payload() == b"trial",
        "another message came than was sent"
    );
    Ok(delivery.ack()?)
}
