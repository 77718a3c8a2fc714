//! Removing a segment: first a flag that all attached processes see, then the name.
//!
//! The remover may be killed in between. The next process that opens, creates or removes that name
//! then finishes the removal.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use ipc_proto::Name;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use rustix::fs::{AtFlags as StatxAt, StatxAttributes, StatxFlags, statx};

use super::file::{OpenError, check_owner, open_file};
use super::{REMOVED, Segment, SystemError, file_name, file_of, path_of};
use crate::events;
use crate::layout::{self, Kind};
use crate::mapping::Mapping;
use crate::namespace::Namespace;
use crate::wait::Event;

impl Segment {
    /// Removes the name. Returns `Ok(false)` if it did not exist.
    ///
    /// Attached processes are woken and find the segment removed. Their memory stays valid until
    /// they unmap it. Safe to call from several processes at the same time, and after a crash
    /// halfway. Also removes damaged segments.
    ///
    /// # Errors
    /// The variants of [`OpenError`] that concern the folder or the file's owner.
    pub fn remove(namespace: &Namespace, name: &Name, kind: Kind) -> Result<bool, OpenError> {
        remove_if(namespace, name, kind, |_| true)
    }

    /// Removes anything that has the name, including what [`remove`](Self::remove) refuses: a file
    /// that other users may access, a link, a FIFO, an empty folder. Returns `Ok(false)` if the
    /// name did not exist.
    ///
    /// Never follows a link, so the target of a link stays. If it is a segment, attached processes
    /// are notified as by `remove`.
    ///
    /// # Errors
    /// [`OpenError::ForeignOwner`] if it belongs to another user; [`OpenError::FolderNotEmpty`];
    /// the errors of the namespace's folder, which must belong to this user and be closed to
    /// others.
    pub fn remove_by_force(
        namespace: &Namespace,
        name: &Name,
        kind: Kind,
    ) -> Result<bool, OpenError> {
        let path = path_of(namespace, name, kind);
        let Some(folder) = namespace.open()? else {
            return Ok(false);
        };
        let folder = namespace.lock(folder)?;
        let removed = unlink_anything(&folder, &path);
        drop(folder);
        namespace.remove_if_empty();
        if matches!(removed, Ok(true)) {
            events::removed(&path);
        }
        removed
    }
}

fn unlink_anything(folder: &OwnedFd, path: &Path) -> Result<bool, OpenError> {
    let name = file_of(path);
    let stat = match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::ENOENT) => return Ok(false),
        Err(errno) => return Err(SystemError::new("stat", path, errno).into()),
    };
    check_owner(&stat, path)?;
    let kind = stat.st_mode & SFlag::S_IFMT.bits();
    let how = if kind == SFlag::S_IFDIR.bits() {
        UnlinkatFlags::RemoveDir
    } else {
        UnlinkatFlags::NoRemoveDir
    };
    if kind == SFlag::S_IFREG.bits() {
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        // If this process cannot open the file, no process of this user has it open as a segment.
        if let Ok(file) = openat(folder, name, flags, Mode::empty()) {
            let file = File::from(file);
            check_not_mounted(&file, path)?;
            raise_removed(&file);
        }
    }
    match unlinkat(folder, name, how) {
        Ok(()) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Err(OpenError::FolderNotEmpty {
            path: path.to_owned(),
        }),
        Err(errno) => Err(SystemError::new("remove", path, errno).into()),
    }
}

/// Removes the name if the file that it now belongs to passes `condition`.
pub(super) fn remove_if(
    namespace: &Namespace,
    name: &Name,
    kind: Kind,
    condition: impl Fn(&File) -> bool,
) -> Result<bool, OpenError> {
    let path = path_of(namespace, name, kind);
    let Some(folder) = namespace.open()? else {
        namespace.remove_if_empty();
        return Ok(false);
    };
    // Only removers unlink, and only one at a time. So the file opened here is the file unlinked
    // below.
    let folder = namespace.lock(folder)?;
    let file = match open_file(&*folder, &path, OFlag::O_RDWR) {
        Ok(file) if condition(&file) => file,
        Ok(_) | Err(OpenError::NotFound { .. }) => {
            // A creator that was killed before linking leaves the folders, and so does a killed
            // remover.
            drop(folder);
            namespace.remove_if_empty();
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    check_not_mounted(&file, &path)?;
    raise_removed(&file);
    let unlinked = unlinkat(
        &*folder,
        &file_name(name, kind)[..],
        UnlinkatFlags::NoRemoveDir,
    );
    drop(folder);
    namespace.remove_if_empty();
    match unlinked {
        Ok(()) => {
            events::removed(&path);
            Ok(true)
        }
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(SystemError::new("remove", path, errno).into()),
    }
}

/// Finishes a removal that is in progress or was interrupted. Returns `false` if there is none.
pub(super) fn finish_removal(
    namespace: &Namespace,
    folder: &OwnedFd,
    name: &Name,
    kind: Kind,
) -> bool {
    // Nothing has checked the file yet, so it may contain anything.
    let is_half_removed = |file: &File| {
        let mut magic = [0; 8];
        let read = file.read_exact_at(&mut magic, 0);
        read.is_ok() && u64::from_le_bytes(magic) == layout::MAGIC && is_flagged(file)
    };
    open_file(folder, &path_of(namespace, name, kind), OFlag::O_RDONLY)
        .is_ok_and(|file| is_half_removed(&file))
        && remove_if(namespace, name, kind, is_half_removed).is_ok()
}

pub(super) fn is_flagged(file: &File) -> bool {
    let mut flags = [0; 8];
    let read = file.read_exact_at(&mut flags, layout::FLAGS as u64);
    read.is_ok() && u64::from_le_bytes(flags) & REMOVED != 0
}

/// Refuses a file on which something is mounted, such as itself: its name cannot be removed, so its
/// users must not be told that it was.
fn check_not_mounted(file: &File, path: &Path) -> Result<(), SystemError> {
    let found = statx(file, c"", StatxAt::EMPTY_PATH, StatxFlags::empty());
    // Without the attribute, older kernels: `unlinkat` tells, but too late.
    match found {
        Ok(found) if found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) => {
            Err(SystemError::new("remove", path, Errno::EBUSY))
        }
        _ => Ok(()),
    }
}

/// Marks the segment as removed and wakes all its users, if the file is long enough to have a flag.
fn raise_removed(file: &File) {
    let long_enough = file
        .metadata()
        .is_ok_and(|data| data.len() >= layout::SLOTS as u64);
    if !long_enough {
        return;
    }
    let Ok(mapping) = Mapping::new(file, layout::SLOTS) else {
        return;
    };
    if mapping.word(0).map(|magic| magic.load(Ordering::Relaxed)) != Ok(layout::MAGIC) {
        return;
    }
    if let Ok(flags) = mapping.word(layout::FLAGS) {
        flags.fetch_or(REMOVED, Ordering::SeqCst);
    }
    for index in 0..layout::EVENT_COUNT {
        if let Ok(word) = mapping.word32(layout::EVENTS + 64 * index) {
            Event::new(word).notify_all();
        }
    }
}
