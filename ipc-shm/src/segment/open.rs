//! Opening a segment. Nothing is trusted: neither the file's owner and mode nor its header.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ipc_proto::Name;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use thiserror::Error;

use super::remove::{is_flagged, remove_if};
use super::{Segment, SystemError, file_of, map, map_read_only, path_of};
use crate::boot;
use crate::clock::{self, UnknownClock};
use crate::descriptor::Kept;
use crate::events;
use crate::layout::{self, Expected, Header, HeaderError};
use crate::namespace::{Namespace, NamespaceError};
use crate::user;

/// The reason why a segment was not opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No segment has that name.
    #[error(
        "{} does not exist: was it created by the same user, in the same namespace and container?",
        path.display()
    )]
    NotFound {
        /// Its path.
        path: PathBuf,
    },
    /// The name belongs to a link, FIFO or folder and not to a regular file.
    #[error(
        "{} is not a regular file, so it is not a segment: remove it by force, or choose another \
         name",
        path.display()
    )]
    NotAFile {
        /// Its path.
        path: PathBuf,
    },
    /// A folder has the name of a segment, and is not empty.
    #[error(
        "{} is a folder that is not empty: check its content, then run rm -r on it",
        path.display()
    )]
    FolderNotEmpty {
        /// Its path.
        path: PathBuf,
    },
    /// The segment was created before the machine's last start, in a folder on a disk.
    #[error(
        "{} was created before the machine's last start, or in a container with its own boot id, \
         so its times and locks mean nothing: save its content (open it read-only), then remove it",
        path.display()
    )]
    OtherBoot {
        /// Its path.
        path: PathBuf,
    },
    /// This process's clock cannot be compared with those of others.
    #[error(transparent)]
    Clock(#[from] UnknownClock),
    /// Another user owns the file.
    #[error(
        "{} belongs to user {owner}, not to this process's user {us}: have user {owner} or root \
         remove it",
        path.display()
    )]
    ForeignOwner {
        /// Its path.
        path: PathBuf,
        /// The owner of the file.
        owner: u32,
        /// The user of this process.
        us: u32,
    },
    /// Other users may access the file.
    #[error(
        "{} has mode {mode:03o} instead of 600, so other users could have changed it: run \
         chmod 600 on it if you trust its content, otherwise remove it by force",
        path.display()
    )]
    OpenToOthers {
        /// Its path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The header is not the expected one.
    #[error("cannot use {}: {source}", path.display())]
    Header {
        /// Its path.
        path: PathBuf,
        /// The problem with the header.
        source: HeaderError,
    },
    /// The file was truncated while in use, whatever its length is now.
    #[error(
        "other code truncated {} while it was in use, and its content is lost: remove it",
        path.display()
    )]
    Truncated {
        /// Its path.
        path: PathBuf,
    },
    /// The folder is refused.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] SystemError),
}

impl Segment {
    /// Opens the segment of that name.
    ///
    /// # Errors
    /// [`OpenError::NotFound`], also during a removal. [`NamespaceError::Busy`] if the remover is
    /// stopped. Every other variant describes a problem with the file, which is left unchanged.
    pub fn open(
        namespace: &Namespace,
        name: &Name,
        expected: &Expected,
    ) -> Result<Self, OpenError> {
        let path = path_of(namespace, name, expected.kind);
        let Some(folder) = namespace.open()? else {
            return Err(OpenError::NotFound { path });
        };
        clock::check()?;
        let file = keep(open_file(&folder, &path, OFlag::O_RDWR)?, &path)?;
        let header = read_header(file.file(), expected).map_err(|error| error.at(&path))?;
        if boot::is_another(header.boot, &file) {
            return Err(OpenError::OtherBoot { path });
        }
        let segment = map(namespace, name, header, file)
            .map_err(|error| SystemError::new("map", &path, error))?;
        if segment.is_removed() {
            // Its remover may have been killed before it unlinked the name.
            remove_if(namespace, name, expected.kind, is_flagged)?;
            return Err(OpenError::NotFound { path });
        }
        if segment.is_truncated() {
            return Err(OpenError::Truncated { path });
        }
        segment.note_place();
        events::opened(&segment);
        Ok(segment)
    }

    /// Opens the segment of that name read-only, so it cannot disturb other processes. Such a
    /// segment cannot be joined, and operations that would change it do nothing.
    ///
    /// A write to one of its words ends the process. A segment of an earlier boot can also be
    /// opened; its times and participants then mean nothing.
    ///
    /// # Errors
    /// As [`open`](Self::open), except [`OpenError::OtherBoot`].
    pub fn open_read_only(
        namespace: &Namespace,
        name: &Name,
        expected: &Expected,
    ) -> Result<Self, OpenError> {
        let path = path_of(namespace, name, expected.kind);
        let Some(folder) = namespace.open()? else {
            return Err(OpenError::NotFound { path });
        };
        let file = keep(open_file(&folder, &path, OFlag::O_RDONLY)?, &path)?;
        let header = read_header(file.file(), expected).map_err(|error| error.at(&path))?;
        let segment = map_read_only(namespace, name, header, file)
            .map_err(|error| SystemError::new("map", &path, error))?;
        if segment.is_removed() {
            return Err(OpenError::NotFound { path });
        }
        if segment.is_truncated() {
            return Err(OpenError::Truncated { path });
        }
        Ok(segment)
    }
}

fn keep(file: File, path: &Path) -> Result<Kept, OpenError> {
    Ok(Kept::regular(file.into()).map_err(|error| SystemError::new("keep open", path, error))?)
}

pub(super) fn open_file(folder: impl AsFd, path: &Path, access: OFlag) -> Result<File, OpenError> {
    let name = file_of(path);
    let failed = |action| move |errno: Errno| SystemError::new(action, path, errno);
    // Checked before it is opened, because opening a planted FIFO or device could block or have
    // effects.
    match fstatat(folder.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => check_file(&stat, path)?,
        Err(Errno::ENOENT) => {
            return Err(OpenError::NotFound {
                path: path.to_owned(),
            });
        }
        Err(errno) => return Err(failed("stat")(errno).into()),
    }
    let flags = access | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match openat(folder.as_fd(), name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::ENOENT) => {
            return Err(OpenError::NotFound {
                path: path.to_owned(),
            });
        }
        Err(errno) => return Err(failed("open")(errno).into()),
    };
    check_file(&fstat(&file).map_err(failed("stat"))?, path)?;
    Ok(file.into())
}

fn check_file(stat: &FileStat, path: &Path) -> Result<(), OpenError> {
    if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        return Err(OpenError::NotAFile {
            path: path.to_owned(),
        });
    }
    check_owner(stat, path)?;
    let mode = stat.st_mode & 0o777;
    if mode & 0o077 != 0 {
        return Err(OpenError::OpenToOthers {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

pub(super) fn check_owner(stat: &FileStat, path: &Path) -> Result<(), OpenError> {
    // A process without a user number was refused when the folder was checked.
    let (owner, us) = (stat.st_uid, user::ours());
    if owner == us {
        return Ok(());
    }
    let path = path.to_owned();
    Err(OpenError::ForeignOwner { path, owner, us })
}

/// The error of reading a header.
enum Unreadable {
    Io(io::Error),
    Header(HeaderError),
}

impl Unreadable {
    fn at(self, path: &Path) -> OpenError {
        let path = path.to_owned();
        match self {
            Self::Io(source) => SystemError::new("read", path, source).into(),
            Self::Header(source) => OpenError::Header { path, source },
        }
    }
}

fn read_header(file: &File, expected: &Expected) -> Result<Header, Unreadable> {
    let file_bytes = file.metadata().map_err(Unreadable::Io)?.len();
    if file_bytes < layout::SLOTS as u64 {
        return Err(Unreadable::Header(HeaderError::TooShort {
            found: file_bytes,
            least: layout::SLOTS,
        }));
    }
    let mut bytes = [0; layout::FLAGS];
    file.read_exact_at(&mut bytes, 0).map_err(Unreadable::Io)?;
    let mut long_name = Vec::new();
    if let Some((at, len)) = Header::long_name_at(&bytes)
        && (at + len) as u64 <= file_bytes
    {
        long_name.resize(len, 0);
        file.read_exact_at(&mut long_name, at as u64)
            .map_err(Unreadable::Io)?;
    }
    Header::from_bytes(&bytes, &long_name, file_bytes, expected).map_err(Unreadable::Header)
}
