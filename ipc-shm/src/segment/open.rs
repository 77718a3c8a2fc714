//! Opening a segment. Nothing is trusted: neither the file's owner and mode nor its header.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ipc_proto::Name;
use nix::fcntl::OFlag;

use super::file::{OpenError, open_file};
use super::remove::{is_flagged, remove_if};
use super::{Segment, SystemError, map, map_read_only, path_of};
use crate::boot;
use crate::clock;
use crate::descriptor::Kept;
use crate::events;
use crate::layout::{self, Expected, Header, HeaderError};
use crate::namespace::Namespace;

impl Segment {
    /// Opens the segment of that name.
    ///
    /// # Errors
    /// [`OpenError::NotFound`], also during a removal.
    /// [`NamespaceError::Busy`](crate::NamespaceError::Busy) if the remover is stopped. Every other
    /// variant describes a problem with the file, which is left unchanged.
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
        events::opened(&segment.path(), segment.header().total_bytes);
        Ok(segment)
    }

    /// Opens the segment of that name read-only, so it cannot disturb other processes. Such a
    /// segment cannot be joined, and operations that would change it do nothing.
    ///
    /// A write to one of its words ends the process. A segment of an earlier boot can also be
    /// opened; its times and participants then mean nothing.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), except [`OpenError::OtherBoot`].
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
