//! Opening the file of a segment: the checks of its owner and of its file type.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use thiserror::Error;

use super::{SystemError, file_of};
use crate::clock::UnknownClock;
use crate::layout::HeaderError;
use crate::namespace::NamespaceError;
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
