//! Opening a segment: nothing is believed of the file, its owner and mode, or its header.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ipc_proto::Name;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::geteuid;
use thiserror::Error;

use super::remove::{is_flagged, remove_if};
use super::{Segment, SystemError, file_of, map, map_read_only, path_of};
use crate::events;
use crate::layout::{self, Expected, Header, HeaderError};
use crate::namespace::{Namespace, NamespaceError};

/// Why a segment was not opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is none of that name.
    #[error("{} does not exist: was it created, by the same user, in the same namespace and container?", path.display())]
    NotFound {
        /// Its path.
        path: PathBuf,
    },
    /// The name is no regular file: somebody planted a link, FIFO or folder.
    #[error("{} is no regular file: it was not made by us", path.display())]
    NotAFile {
        /// Its path.
        path: PathBuf,
    },
    /// Another user owns the file.
    #[error("{} belongs to user {owner}, not to us (user {us})", path.display())]
    ForeignOwner {
        /// Its path.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// Others may use the file.
    #[error("{} has mode {mode:03o} instead of 600: others could have written to it", path.display())]
    OpenToOthers {
        /// Its path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Its content is not what was expected.
    #[error("{} can't be used: {source}", path.display())]
    Header {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        source: HeaderError,
    },
    /// It was found cut short while somebody used it, whatever its length is now.
    #[error("{} was cut short from outside while it was in use: what was in it is lost; remove it", path.display())]
    Truncated {
        /// Its path.
        path: PathBuf,
    },
    /// The folder is refused.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The system refused.
    #[error(transparent)]
    Io(#[from] SystemError),
}

impl Segment {
    /// Opens the segment of that name.
    ///
    /// # Errors
    /// [`OpenError::NotFound`], also while a removal is under way; [`NamespaceError::Busy`] if its remover
    /// is stopped; every other variant says what is wrong with what was found, which is left untouched.
    pub fn open(
        namespace: &Namespace,
        name: &Name,
        expected: &Expected,
    ) -> Result<Self, OpenError> {
        let path = path_of(namespace, name, expected.kind);
        let Some(folder) = namespace.open()? else {
            return Err(OpenError::NotFound { path });
        };
        let file = open_file(&folder, &path, OFlag::O_RDWR)?;
        let header = read_header(&file, expected).map_err(|error| error.at(&path))?;
        let segment = map(namespace, name, header, file)
            .map_err(|error| SystemError::new("map", &path, error))?;
        if segment.is_removed() {
            // Its remover may have been killed before it unlinked.
            remove_if(namespace, name, expected.kind, is_flagged)?;
            return Err(OpenError::NotFound { path });
        }
        if segment.is_truncated() {
            return Err(OpenError::Truncated { path });
        }
        events::opened(&segment);
        Ok(segment)
    }

    /// Opens the segment of that name to look at it: the kernel lets nothing be written through this, so it can't disturb
    /// anybody. Such a segment can't be joined, and what would change it does nothing.
    ///
    /// Whoever writes to one of its words all the same is ended by the kernel.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_read_only(
        namespace: &Namespace,
        name: &Name,
        expected: &Expected,
    ) -> Result<Self, OpenError> {
        let path = path_of(namespace, name, expected.kind);
        let Some(folder) = namespace.open()? else {
            return Err(OpenError::NotFound { path });
        };
        let file = open_file(&folder, &path, OFlag::O_RDONLY)?;
        let header = read_header(&file, expected).map_err(|error| error.at(&path))?;
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

pub(super) fn open_file(folder: impl AsFd, path: &Path, access: OFlag) -> Result<File, OpenError> {
    let name = file_of(path);
    let failed = |action| move |errno: Errno| SystemError::new(action, path, errno);
    // Looked at before it is opened: opening a planted FIFO or device could block or act.
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
    let path = || path.to_owned();
    if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        return Err(OpenError::NotAFile { path: path() });
    }
    let us = geteuid().as_raw();
    if stat.st_uid != us {
        let owner = stat.st_uid;
        return Err(OpenError::ForeignOwner {
            path: path(),
            owner,
            us,
        });
    }
    let mode = stat.st_mode & 0o777;
    if mode & 0o077 != 0 {
        return Err(OpenError::OpenToOthers { path: path(), mode });
    }
    Ok(())
}

/// What can go wrong while a header is read.
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
    Header::from_bytes(&bytes, file_bytes, expected).map_err(Unreadable::Header)
}
