//! Descriptors that are checked before anything is concluded from them.
//!
//! A descriptor is a small number. Any code of the process can close it by mistake, and the kernel
//! gives the number to the next file that is opened. Reading a length, asking for a lock, writing a
//! byte or closing it then concerns that other file. So a descriptor that is kept remembers the
//! device and inode that it stands for, and is compared with them before a result counts. One whose
//! number was taken is not closed: it belongs to other code.
//!
//! Two descriptors of one file have the same inode, so a segment's file also has a random file
//! offset. Only the open file that was tagged has it; nothing else here uses the offset.
//!
//! Kept descriptors also move to high numbers, out of the reach of code that closes low ones.
//! Does not prevent the mistake, and can't see one that happens between the check and the use.

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

/// The file that a path or descriptor stands for, within one boot of one kernel.
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

/// A file whose descriptor is checked before it is closed, and whenever its user asks.
#[derive(Debug)]
pub(crate) struct Kept {
    /// `None` only while this is dropped.
    file: Option<File>,
    identity: FileIdentity,
    /// The file offset that this open file was given; 0 for what has none, such as a pipe.
    tag: u64,
    /// What `/proc` calls it, for anonymous files, which share one inode before Linux 6.9.
    link: Option<PathBuf>,
}

impl Kept {
    /// Keeps a descriptor of a regular file, and tags its open file.
    pub(crate) fn regular(fd: OwnedFd) -> io::Result<Self> {
        let mut kept = Self::new(fd)?;
        // Forty bits: below the largest offset of every file system that holds segments.
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

    /// The file. What it answers counts only if the descriptor [is intact](Self::is_intact)
    /// *afterwards*: one that was lost does not come back.
    pub(crate) fn file(&self) -> &File {
        self.file.as_ref().expect("there until it is dropped")
    }

    /// What `fstat` says, or `None` if the number stands for something else by now, or for nothing.
    pub(crate) fn stat(&self) -> Option<FileStat> {
        let stat = fstat(self.file()).ok()?;
        let same = FileIdentity::of(&stat) == self.identity && self.has_tag();
        same.then_some(stat)
    }

    /// Whether the number still stands for what was opened.
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
            // The number is other code's now, or nobody's. Closing it would be the mistake that we
            // suffered from.
            let _ = file.map(IntoRawFd::into_raw_fd);
        }
    }
}

/// A pipe that tells a thread which polls it to look again.
///
/// Never writes to, reads or closes a file that took its number after it was closed by mistake. An
/// eventfd could not be told from another one: all have the same inode.
#[derive(Debug)]
pub struct Notifier {
    reader: Kept,
    /// `None`: the reader is opened for writing, too.
    writer: Option<Kept>,
}

impl Notifier {
    /// A pipe with nothing in it: one descriptor, or two where `/proc` is not mounted.
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

    /// Makes it readable; `false` if the descriptor was lost.
    pub fn notify(&self) -> bool {
        let writer = self.writer.as_ref().unwrap_or(&self.reader);
        if !writer.is_intact() {
            return false;
        }
        // Full: readable already.
        let _ = writer.file().write(&[1]);
        true
    }

    /// Makes it unreadable; `false` if the descriptor was lost.
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

    /// Whether its numbers still stand for this pipe.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.reader.is_intact() && self.writer.as_ref().is_none_or(Kept::is_intact)
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// A connection whose descriptor is checked before it is used, and before it is closed: another
/// socket that took its number gets none of its bytes.
#[derive(Debug)]
pub struct KeptSocket {
    /// `None` only while this is dropped.
    stream: Option<UnixStream>,
    identity: FileIdentity,
}

impl KeptSocket {
    /// Keeps a connection, under a high number.
    ///
    /// # Errors
    /// The system does not say what the descriptor stands for.
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
    /// Something in this process closed its descriptor.
    pub fn stream(&self) -> io::Result<&UnixStream> {
        if self.is_intact() {
            return Ok(self.unchecked());
        }
        Err(io::Error::other(format!(
            "something in this process closed descriptor {}, a connection of a queue: open the queue \
             again, and find the code that closes descriptors that are not its own",
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

/// Unchecked, to be waited for: a wait that ends for another file is followed by a check.
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
            // As in `Kept`.
            let _ = stream.map(IntoRawFd::into_raw_fd);
        }
    }
}

/// The lowest number for a descriptor that is kept: above what a loop over "the first few hundred"
/// closes, and below half of the usual limit of 1,024.
const LEAST_NUMBER: RawFd = 512;

/// The same descriptor under a high number, if the limit allows one; otherwise as it is.
fn out_of_reach(fd: OwnedFd) -> OwnedFd {
    let least: u64 = LEAST_NUMBER.unsigned_abs().into();
    let room = 64;
    let allowed = getrlimit(Resource::RLIMIT_NOFILE).is_ok_and(|(soft, _)| soft > least + room);
    if !allowed || fd.as_raw_fd() >= LEAST_NUMBER {
        return fd;
    }
    // None left above: the low number does, since it is checked all the same.
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

    /// What a stray `close` does, and the `open` that gets the number.
    fn replace(number: RawFd, by: &impl AsFd) {
        // SAFETY: takes two numbers and touches no memory of ours; `number` is one that a test
        // wants to lose.
        let replaced = unsafe { libc::dup2(by.as_fd().as_raw_fd(), number) };
        assert_eq!(replaced, number);
    }

    fn is_open(number: RawFd) -> bool {
        fs::exists(format!("/proc/self/fd/{number}")).unwrap()
    }

    #[test]
    fn a_number_that_another_file_took_is_noticed_and_not_closed() {
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
    fn a_number_that_the_same_file_took_is_noticed_too() {
        let (file, kept) = kept();
        replace(kept.number(), &file.reopen().unwrap());
        assert!(!kept.is_intact());
        let again = Kept::regular(file.reopen().unwrap().into()).unwrap();
        replace(kept.number(), &again);
        assert!(!kept.is_intact() && again.is_intact());
    }

    #[test]
    fn what_is_kept_is_closed_when_it_is_dropped_and_not_among_the_low_numbers() {
        let (_file, kept) = kept();
        let number = kept.number();
        assert!(number >= LEAST_NUMBER);
        // Whatever another test opens meanwhile gets a low number, unless it keeps it.
        drop(kept);
        let link = link_of(number);
        assert!(link.is_none_or(|link| !link.to_string_lossy().contains("deleted")));
    }

    #[test]
    fn a_notifier_writes_nothing_to_a_file_that_took_its_number() {
        let notifier = Notifier::new().unwrap();
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
