//! Namespaces of this process's own, where the machine permits: for a full file system, an
//! adjustable clock, or process numbers, that no other process sees.

use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};

/// The kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// Mounts, at once.
    Mounts,
    /// Process numbers, for processes started from now on; the first must outlive the others. No
    /// more threads can be started.
    Pids,
    /// A monotonic clock that is this many seconds ahead, for processes started from now on.
    Clock { ahead: u64 },
}

/// Takes the namespace. The inner error says why the machine does not allow it.
pub fn take(own: Own) -> Result<Result<(), String>> {
    let wanted = match own {
        Own::Mounts => CloneFlags::CLONE_NEWNS,
        Own::Pids => CloneFlags::CLONE_NEWPID,
        Own::Clock { .. } => CloneFlags::from_bits_retain(nix::libc::CLONE_NEWTIME),
    };
    let taken = if getuid().is_root() {
        unshare(wanted)
    } else {
        take_as_user(wanted)?
    };
    if let Err(errno) = taken {
        return Ok(Err(format!("{own:?} not permitted here: {errno}")));
    }
    match own {
        Own::Mounts => keep_mounts_to_ourselves()?,
        Own::Pids => {}
        Own::Clock { ahead } => {
            let offsets = format!("monotonic {ahead} 0\nboottime {ahead} 0\n");
            std::fs::write("/proc/self/timens_offsets", offsets).context("setting the clock")?;
        }
    }
    Ok(Ok(()))
}

/// A user other than root may be root in a namespace of its own. This needs to be the only thread.
fn take_as_user(wanted: CloneFlags) -> Result<nix::Result<()>> {
    let (uid, gid) = (getuid(), getgid());
    if let Err(errno) = unshare(wanted | CloneFlags::CLONE_NEWUSER) {
        return Ok(Err(errno));
    }
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    Ok(Ok(()))
}

/// Mounts a new, empty file system of that size.
pub fn mount_small(folder: &Path, bytes: u64) -> Result<()> {
    let options = format!("size={bytes},mode=700");
    mount(
        Some("tmpfs"),
        folder,
        Some("tmpfs"),
        MsFlags::empty(),
        Some(&options[..]),
    )
    .context("mounting a tmpfs")
}

/// Unmounts it.
pub fn unmount(folder: &Path) -> Result<()> {
    umount(folder).context("unmounting")
}

/// Mounts a `/proc` with this process's own numbers, for a process in a new PID namespace.
pub fn mount_own_proc() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    keep_mounts_to_ourselves()?;
    mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        MsFlags::empty(),
        None::<&str>,
    )
    .context("mounting /proc")
}

fn keep_mounts_to_ourselves() -> Result<()> {
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).context("making mounts private")
}
