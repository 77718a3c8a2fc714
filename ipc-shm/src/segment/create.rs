//! Creating a segment: it is completed in a file without a name, its memory is reserved, then it is
//! linked.
//!
//! A creator that is killed leaves nothing, a complete segment, or at most an empty folder.

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ipc_proto::Name;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, OFlag, fallocate, openat};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::{Mode, fchmod, fstatat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::linkat;
use thiserror::Error;

use super::remove::finish_removal;
use super::{Segment, SystemError, file_of, map, path_of};
use crate::boot;
use crate::cgroup;
use crate::clock::{self, UnknownClock};
use crate::descriptor::Kept;
use crate::events;
use crate::layout::Header;
use crate::namespace::{Namespace, NamespaceError};

/// The reason why a segment was not created.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The name is taken.
    #[error("{} already exists: open it, or remove it first", path.display())]
    Exists {
        /// Its path.
        path: PathBuf,
    },
    /// The file system is too full.
    #[error(
        "{} has {} free, {name:?} needs {}: lower the capacity or the payload size, or enlarge \
         the file system",
        path.display(), Bytes(*free), Bytes(*needed)
    )]
    NoSpace {
        /// The folder.
        path: PathBuf,
        /// The name of the segment.
        name: String,
        /// The number of free bytes.
        free: u64,
        /// The number of bytes needed.
        needed: u64,
    },
    /// The memory cgroup of this process has too little left, and the kernel would kill the
    /// process.
    #[error(
        "the memory cgroup {} allows {} and has {} left, {name:?} needs {}: lower the capacity or \
         the payload size, or raise the limit",
        group.display(), Bytes(*limit), Bytes(*available), Bytes(*needed)
    )]
    MemoryLimit {
        /// The cgroup's folder.
        group: PathBuf,
        /// The name of the segment.
        name: String,
        /// The cgroup's limit in bytes.
        limit: u64,
        /// The number of bytes left, including memory that the kernel can reclaim.
        available: u64,
        /// The number of bytes needed.
        needed: u64,
    },
    /// This process must not create files of that size.
    #[error(
        "this process must not create files larger than {}, {name:?} needs {}: raise the limit \
         (ulimit -f unlimited), or lower the capacity or the payload size",
        Bytes(*limit), Bytes(*needed)
    )]
    FileSizeLimit {
        /// The name of the segment.
        name: String,
        /// The limit in bytes.
        limit: u64,
        /// The number of bytes needed.
        needed: u64,
    },
    /// This process's clock cannot be compared with those of others.
    #[error(transparent)]
    Clock(#[from] UnknownClock),
    /// The folder is refused.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] SystemError),
}

impl Segment {
    /// Creates a segment filled with zeroes.
    ///
    /// It appears under its name complete or not at all, even if a process is killed meanwhile. Of
    /// several processes that create the same name at the same time, one succeeds.
    ///
    /// # Errors
    /// [`CreateError::Exists`] if the name is taken. [`CreateError::NoSpace`] or
    /// [`CreateError::MemoryLimit`], with the figures, if there is not enough memory within a
    /// second.
    pub fn create(
        namespace: &Namespace,
        name: &Name,
        header: &Header,
    ) -> Result<Self, CreateError> {
        clock::check()?;
        Self::create_in_folder(namespace, name, header).inspect_err(|_| {
            // The folders may have been created for this segment.
            namespace.remove_if_empty();
        })
    }

    fn create_in_folder(
        namespace: &Namespace,
        name: &Name,
        header: &Header,
    ) -> Result<Self, CreateError> {
        let segment = build_patiently(namespace, name, header)?;
        // Another process may remove the folder with its last segment between our opening and
        // linking. Try again in that case.
        const TRIES: usize = 100;
        for _ in 0..TRIES {
            let folder = namespace.open_or_create()?;
            let path = segment.path();
            match link(&segment.file, &folder, &path) {
                Ok(()) => {
                    segment.note_place();
                    events::created(&segment.path(), segment.header().total_bytes);
                    return Ok(segment);
                }
                Err(Errno::ENOENT) => {}
                Err(Errno::EEXIST) => return Err(CreateError::Exists { path }),
                Err(errno) => return Err(SystemError::new("link", path, errno).into()),
            }
        }
        Err(SystemError::new("create", namespace.path(), Errno::ENOENT).into())
    }
}

/// Builds the segment. Without memory it tries again for a while: other processes may have reserved
/// memory for the same segment. One of them gets the name, and the others release their memory.
fn build_patiently(
    namespace: &Namespace,
    name: &Name,
    header: &Header,
) -> Result<Segment, CreateError> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let folder = namespace.open_or_create()?;
        let path = path_of(namespace, name, header.kind);
        // Checked first, because finding an existing segment must not require memory for a second
        // one.
        if fstatat(&folder, file_of(&path), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok() {
            if finish_removal(namespace, &folder, name, header.kind) {
                continue;
            }
            return Err(CreateError::Exists { path });
        }
        match build(namespace, &folder, name, header) {
            Err(CreateError::NoSpace { .. } | CreateError::MemoryLimit { .. })
                if Instant::now() < deadline =>
            {
                // Random, so that two processes that each got half of the memory do not collide
                // again.
                thread::sleep(Duration::from_millis(fastrand::u64(1..=20)));
            }
            built => return built,
        }
    }
}

/// Builds a segment without a name, which vanishes with this process.
fn build(
    namespace: &Namespace,
    folder: &OwnedFd,
    name: &Name,
    header: &Header,
) -> Result<Segment, CreateError> {
    let failed = |action| move |errno: Errno| SystemError::new(action, namespace.path(), errno);
    check_space(namespace, folder, name, header.total_bytes as u64)?;
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let owner_only = Mode::S_IRUSR | Mode::S_IWUSR;
    let fd = openat(folder, ".", flags, owner_only).map_err(failed("make a file in"))?;
    // The umask may have removed even the owner's bits.
    fchmod(&fd, owner_only).map_err(failed("set the mode of a file in"))?;
    let needed = header.total_bytes as u64;
    reserve(&fd, needed).map_err(|errno| match errno {
        Errno::ENOSPC | Errno::ENOMEM => no_space(namespace, folder, name, needed),
        _ => failed("reserve memory in")(errno).into(),
    })?;
    let path = || path_of(namespace, name, header.kind);
    let file = Kept::regular(fd).map_err(|error| SystemError::new("keep open", path(), error))?;
    file.file()
        .write_all_at(&header.to_bytes(), 0)
        .map_err(|error| SystemError::new("write", path(), error))?;
    if let Some((type_name, at)) = header.long_name() {
        file.file()
            .write_all_at(type_name, at as u64)
            .map_err(|error| SystemError::new("write", path(), error))?;
    }
    let mapped = map(namespace, name, header.clone(), file);
    Ok(mapped.map_err(|error| SystemError::new("map", path(), error))?)
}

/// Sets a file's size and reserves its memory, piece by piece. On older kernels a signal aborts a
/// call and releases what it reserved.
fn reserve(file: &OwnedFd, bytes: u64) -> Result<(), Errno> {
    const PIECE: u64 = 16 << 20;
    let mut from = 0;
    while from < bytes {
        let piece = PIECE.min(bytes - from);
        let at = |offset: u64| i64::try_from(offset).map_err(|_| Errno::EFBIG);
        match fallocate(file, FallocateFlags::empty(), at(from)?, at(piece)?) {
            Ok(()) => from += piece,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Gives a file its name.
fn link(file: &Kept, folder: &OwnedFd, path: &Path) -> Result<(), Errno> {
    if !file.is_intact() {
        // Otherwise another file that took the number would get the name.
        return Err(Errno::EBADF);
    }
    let source = format!("/proc/self/fd/{}", file.number());
    let follow = AtFlags::AT_SYMLINK_FOLLOW;
    linkat(AT_FDCWD, &source[..], folder, file_of(path), follow)
}

/// Checks before reserving, because a reservation that fails halfway would first use up all
/// memory.
fn check_space(
    namespace: &Namespace,
    folder: &OwnedFd,
    name: &Name,
    needed: u64,
) -> Result<(), CreateError> {
    if let Ok((limit, _)) = getrlimit(Resource::RLIMIT_FSIZE)
        && needed > limit
    {
        let name = name.to_string();
        return Err(CreateError::FileSizeLimit {
            name,
            limit,
            needed,
        });
    }
    match free_bytes(folder) {
        Some(free) if free < needed => Err(no_space(namespace, folder, name, needed)),
        // On a disk the kernel writes pages out instead of killing the process.
        _ if boot::is_in_memory(folder) => check_memory_limit(name, needed),
        _ => Ok(()),
    }
}

/// Memory for the process itself, and for the kernel's mapping.
const MARGIN: u64 = 512 << 10;

fn check_memory_limit(name: &Name, needed: u64) -> Result<(), CreateError> {
    match cgroup::least_room() {
        Some(room) if room.available < needed.saturating_add(MARGIN) => {
            Err(CreateError::MemoryLimit {
                group: room.group,
                name: name.to_string(),
                limit: room.limit,
                available: room.available,
                needed,
            })
        }
        _ => Ok(()),
    }
}

fn no_space(namespace: &Namespace, folder: &OwnedFd, name: &Name, needed: u64) -> CreateError {
    CreateError::NoSpace {
        path: namespace.path(),
        name: name.to_string(),
        free: free_bytes(folder).unwrap_or(0),
        needed,
    }
}

fn free_bytes(folder: &OwnedFd) -> Option<u64> {
    let stat = fstatvfs(folder).ok()?;
    stat.blocks_available().checked_mul(stat.fragment_size())
}

/// A number of bytes, for messages to people.
struct Bytes(u64);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "only one decimal is shown")]
        let bytes = self.0 as f64;
        match self.0 {
            0..1024 => write!(f, "{} B", self.0),
            1024..1_048_576 => write!(f, "{:.1} KiB", bytes / 1024.0),
            _ => write!(f, "{:.1} MiB", bytes / 1_048_576.0),
        }
    }
}
