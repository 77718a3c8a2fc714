//! Descriptors that are checked before any result counts.
//!
//! A descriptor is a small number. Any code of the process can close it by mistake, and the kernel
//! then gives the number to the next opened file. From then on, reading a length, testing a lock,
//! writing a byte or closing would affect that other file. So a kept descriptor remembers the
//! device and inode of its file. They are compared before a result counts. A descriptor whose
//! number was taken is not closed, because it belongs to other code.
//!
//! Two descriptors of one file have the same inode. So a segment's file also gets a random file
//! offset, which only the tagged open file has. Nothing else here uses the offset.
//!
//! Kept descriptors are also moved to high numbers, which code that closes low ones does not reach.
//!
//! This module does not prevent the mistake, and cannot detect one between the check and the use.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::{FileStat, fstat};
use nix::unistd::pipe2;

/// The identity of a file, within one boot of one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    pub(crate) fn of(stat: &FileStat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
        }
    }
}

/// A file whose descriptor is checked before it is closed, and whenever the caller asks.
#[derive(Debug)]
pub(crate) struct Kept {
    /// `None` only during drop.
    file: Option<File>,
    identity: FileIdentity,
    /// The file offset of this open file; 0 for files without one, such as a pipe.
    tag: u64,
    /// Its name in `/proc`, for anonymous files, which share one inode before Linux 6.9.
    link: Option<PathBuf>,
}

impl Kept {
    /// Keeps a descriptor of a regular file, and tags its open file.
    pub(crate) fn regular(fd: OwnedFd) -> io::Result<Self> {
        let mut kept = Self::new(fd)?;
        // Forty bits: less than the maximum offset of every file system that holds segments.
        let tag = fastrand::u64(1..1 << 40);
        kept.file().seek(SeekFrom::Start(tag))?;
        kept.tag = tag;
        Ok(kept)
    }

    /// Keeps a pidfd.
    pub(crate) fn anonymous(fd: OwnedFd) -> io::Result<Self> {
        let mut kept = Self::new(fd)?;
        kept.link = link_of(kept.number());
        Ok(kept)
    }

    /// Keeps one end of a pipe.
    pub(crate) fn pipe(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd)
    }

    fn new(fd: OwnedFd) -> io::Result<Self> {
        let fd = out_of_reach(fd);
        Ok(Self {
            identity: FileIdentity::of(&fstat(&fd)?),
            file: Some(fd.into()),
            tag: 0,
            link: None,
        })
    }

    /// Returns the file. A result counts only if the descriptor [is intact](Self::is_intact)
    /// *afterwards*: a lost one does not come back.
    pub(crate) fn file(&self) -> &File {
        self.file.as_ref().expect("there until it is dropped")
    }

    /// Returns the result of `fstat`, or `None` if the number now belongs to another file or to
    /// none.
    pub(crate) fn stat(&self) -> Option<FileStat> {
        let stat = fstat(self.file()).ok()?;
        let same = FileIdentity::of(&stat) == self.identity && self.has_tag();
        same.then_some(stat)
    }

    /// Returns `true` if the number still belongs to the opened file.
    pub(crate) fn is_intact(&self) -> bool {
        self.stat().is_some()
    }

    pub(crate) fn number(&self) -> RawFd {
        self.file().as_raw_fd()
    }

    fn has_tag(&self) -> bool {
        self.tag == 0 || self.file().stream_position().is_ok_and(|at| at == self.tag)
    }

    fn has_link(&self) -> bool {
        self.link.is_none() || link_of(self.number()) == self.link
    }
}

impl AsFd for Kept {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file().as_fd()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let ours = self.is_intact() && self.has_link();
        let file = self.file.take();
        if !ours {
            // The number belongs to other code or is unused. Closing it would repeat the mistake
            // that was made here.
            let _ = file.map(IntoRawFd::into_raw_fd);
        }
    }
}

/// A pipe that wakes a thread which polls it.
///
/// After its descriptor was closed by mistake, it never writes to, reads or closes the file that
/// took the number. An eventfd could not be distinguished from another one, because all have the
/// same inode.
#[derive(Debug)]
pub struct WakePipe {
    reader: Kept,
    /// `None` if the reader is also open for writing.
    writer: Option<Kept>,
}

impl WakePipe {
    /// Creates an empty pipe. It takes one descriptor, or two if `/proc` is not mounted.
    ///
    /// # Errors
    /// The process has too many descriptors.
    pub fn new() -> io::Result<Arc<Self>> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let both = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(format!("/proc/self/fd/{}", reader.as_raw_fd()));
        Ok(Arc::new(match both {
            Ok(both) => Self {
                reader: Kept::pipe(both.into())?,
                writer: None,
            },
            Err(_) => Self {
                reader: Kept::pipe(reader)?,
                writer: Some(Kept::pipe(writer)?),
            },
        }))
    }

    /// Makes the pipe readable. Returns `false` if the descriptor was lost.
    pub fn notify(&self) -> bool {
        let writer = self.writer.as_ref().unwrap_or(&self.reader);
        if !writer.is_intact() {
            return false;
        }
        // A failed write means that the pipe is full, so it is already readable.
        let _ = writer.file().write(&[1]);
        true
    }

    /// Makes the pipe unreadable. Returns `false` if the descriptor was lost.
    #[must_use]
    pub fn clear(&self) -> bool {
        let mut bytes = [0; 256];
        loop {
            if !self.reader.is_intact() {
                return false;
            }
            match self.reader.file().read(&mut bytes) {
                Ok(read) if read == bytes.len() => {}
                _ => return true,
            }
        }
    }

    /// Returns `true` if its numbers still belong to this pipe.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.reader.is_intact() && self.writer.as_ref().is_none_or(Kept::is_intact)
    }
}

impl AsFd for WakePipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// A connection whose descriptor is checked before it is used and before it is closed. Another
/// socket that took its number gets none of its bytes.
#[derive(Debug)]
pub struct KeptSocket {
    /// `None` only during drop.
    stream: Option<UnixStream>,
    identity: FileIdentity,
}

impl KeptSocket {
    /// Keeps a connection, under a high number.
    ///
    /// # Errors
    /// The system cannot identify the descriptor's file.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        let stream = UnixStream::from(out_of_reach(stream.into()));
        Ok(Self {
            identity: FileIdentity::of(&fstat(&stream)?),
            stream: Some(stream),
        })
    }

    /// Returns the connection.
    ///
    /// # Errors
    /// Other code in this process closed its descriptor.
    pub fn stream(&self) -> io::Result<&UnixStream> {
        if self.is_intact() {
            return Ok(self.unchecked());
        }
        Err(io::Error::other(format!(
            "other code in this process closed descriptor {}, a connection of a queue: open the \
             queue again, and find the code that closes descriptors that are not its own",
            self.unchecked().as_raw_fd()
        )))
    }

    fn is_intact(&self) -> bool {
        fstat(self.unchecked()).is_ok_and(|stat| FileIdentity::of(&stat) == self.identity)
    }

    fn unchecked(&self) -> &UnixStream {
        self.stream.as_ref().expect("there until it is dropped")
    }
}

/// Unchecked, for polling only: a poll that returns because of another file is followed by a check.
impl AsFd for KeptSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.unchecked().as_fd()
    }
}

impl Drop for KeptSocket {
    fn drop(&mut self) {
        let number_was_taken = !self.is_intact();
        let stream = self.stream.take();
        if number_was_taken {
            // As in `Kept`: the number belongs to other code.
            let _ = stream.map(IntoRawFd::into_raw_fd);
        }
    }
}

/// The lowest number for a kept descriptor. It is above the range that loops over "the first few
/// hundred" close, and below half of the usual limit of 1,024.
const LEAST_NUMBER: RawFd = 512;

/// Moves a descriptor to a high number if the limit allows one.
fn out_of_reach(fd: OwnedFd) -> OwnedFd {
    let least: u64 = LEAST_NUMBER.unsigned_abs().into();
    let room = 64;
    let allowed = getrlimit(Resource::RLIMIT_NOFILE).is_ok_and(|(soft, _)| soft > least + room);
    if !allowed || fd.as_raw_fd() >= LEAST_NUMBER {
        return fd;
    }
    // Without a free high number the low one is kept, because it is checked in any case.
    rustix::io::fcntl_dupfd_cloexec(&fd, LEAST_NUMBER).unwrap_or(fd)
}

fn link_of(number: RawFd) -> Option<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{number}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> (tempfile::NamedTempFile, Kept) {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        let kept = Kept::regular(file.reopen().unwrap().into()).unwrap();
        (file, kept)
    }

    /// Simulates a mistaken `close`, and the `open` that gets the number.
    fn replace(number: RawFd, by: &impl AsFd) {
        // SAFETY: takes two numbers and accesses none of our memory; `number` is one that a test
        // loses on purpose.
        let replaced = unsafe { libc::dup2(by.as_fd().as_raw_fd(), number) };
        assert_eq!(replaced, number);
    }

    fn is_open(number: RawFd) -> bool {
        fs::exists(format!("/proc/self/fd/{number}")).unwrap()
    }

    #[test]
    fn a_number_that_another_file_took_is_detected_and_not_closed() {
        let (_file, kept) = kept();
        let number = kept.number();
        assert!(kept.is_intact());
        let other = tempfile::tempfile_in("/dev/shm").unwrap();
        replace(number, &other);
        assert!(!kept.is_intact() && kept.stat().is_none());
        drop(kept);
        assert!(is_open(number));
    }

    #[test]
    fn a_number_that_the_same_file_took_is_also_detected() {
        let (file, kept) = kept();
        replace(kept.number(), &file.reopen().unwrap());
        assert!(!kept.is_intact());
        let again = Kept::regular(file.reopen().unwrap().into()).unwrap();
        replace(kept.number(), &again);
        assert!(!kept.is_intact() && again.is_intact());
    }

    #[test]
    fn a_kept_descriptor_has_a_high_number_and_is_closed_when_dropped() {
        let (_file, kept) = kept();
        let number = kept.number();
        assert!(number >= LEAST_NUMBER);
        // Files that other tests open meanwhile get low numbers, unless they are kept.
        drop(kept);
        let link = link_of(number);
        assert!(link.is_none_or(|link| !link.to_string_lossy().contains("deleted")));
    }

    #[test]
    fn a_notifier_does_not_write_to_a_file_that_took_its_number() {
        let notifier = WakePipe::new().unwrap();
        assert!(notifier.notify() && notifier.clear());
        let mut log = tempfile::tempfile_in("/dev/shm").unwrap();
        log.write_all(b"log").unwrap();
        assert!(notifier.writer.is_none());
        replace(notifier.reader.number(), &log);
        assert!(!notifier.notify() && !notifier.clear() && !notifier.is_intact());
        assert_eq!(log.metadata().unwrap().len(), 3);
        assert_eq!(log.stream_position().unwrap(), 3);
    }
}
