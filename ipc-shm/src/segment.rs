//! A named piece of shared memory: one file, one header, one mapping.
//!
//! A segment is completed in a file without a name, then linked. So no process ever sees an
//! incomplete segment, and a creator that is killed leaves nothing. All memory is reserved at
//! creation (`fallocate`), so a full file system is an error then, and not a SIGBUS later. Removal
//! sets a flag that all attached processes see, wakes them, and unlinks the name. If the remover
//! dies in between, the next process that opens, creates or removes that name finishes the removal.
//!
//! Other code may truncate a file while it is mapped. The process that touches a missing page
//! notices it (`fault`), and so does [`Segment::check_file`]; a flag then says so. `check_file`
//! also detects a file that other code deleted, and a descriptor that this process lost. No flag
//! reports the last, because it does not concern other processes.
//!
//! This module does not know which processes are attached (see `participant`), or what the body
//! means.

mod create;
mod file;
mod open;
mod remove;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use ipc_proto::Name;
use nix::sys::stat::{FileStat, SFlag, stat};
use thiserror::Error;

use crate::descriptor::{FileIdentity, Kept};
use crate::events;
use crate::fault::Mark;
use crate::fork::Generation;
use crate::layout::{self, Expected, Header, Kind};
use crate::mapping::{CACHE_LINE_BYTES, Mapping, View};
use crate::namespace::{Namespace, NamespaceError};
use crate::wait::Event;

pub use create::CreateError;
pub use file::OpenError;

/// An open segment.
#[derive(Debug)]
pub struct Segment {
    namespace: Namespace,
    name: Name,
    header: Header,
    /// Compared with the opened file before any result counts. The mapping belongs to the same open
    /// file. So the file's locks last as long as the mapping, even if this descriptor is lost.
    file: Kept,
    mapping: Arc<Mapping>,
    /// The process's root folder when the path led to this file. `None` if it never did, or if the
    /// path is relative.
    root: OnceLock<FileIdentity>,
    is_read_only: bool,
    generation: Generation,
}

/// The reason why this process must stop using a segment that others may continue to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileLoss {
    /// Other code in this process closed the descriptor, which had this number.
    Descriptor(i32),
    /// The name now belongs to another file: other code moved the folder or the file away.
    Moved,
}

impl FileLoss {
    /// The number of the lost descriptor, or -1, and the reason in words.
    pub(crate) fn facts(self) -> (i32, &'static str) {
        match self {
            Self::Descriptor(number) => (number, "other code closed its descriptor"),
            Self::Moved => (-1, "its name belongs to another file"),
        }
    }
}

/// The reason why [`Segment::open_or_create`] failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenOrCreateError {
    /// The segment exists and cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The segment does not exist and cannot be created.
    #[error(transparent)]
    Create(#[from] CreateError),
}

/// A system call failed.
#[derive(Debug, Error)]
#[error("cannot {action} {}: {source}", path.display())]
#[non_exhaustive]
pub struct SystemError {
    /// The attempted action.
    pub action: &'static str,
    /// The path concerned.
    pub path: PathBuf,
    /// The system's error.
    pub source: io::Error,
}

/// The origin of an opened segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It existed before.
    No,
    /// This call created it.
    Yes,
}

/// A bit of the flags word: the name was unlinked, or is about to be.
pub const REMOVED: u64 = 1;

/// A bit of the flags word, set together with [`REMOVED`]: other code unlinked the name.
pub const DELETED: u64 = 1 << 62;

/// A bit of the flags word: the file was truncated while it was mapped. The memory may now be
/// zeroes private to this process. Changes made *before* this flag was checked may be lost.
pub const TRUNCATED: u64 = 1 << 63;

impl Segment {
    /// Opens or creates the segment of that name.
    ///
    /// Of several processes that do this at the same time, one creates the segment and all get the
    /// same one. The second value says whether this call created it.
    ///
    /// # Errors
    /// Those of [`open`](Self::open) and [`create`](Self::create), except `NotFound` and `Exists`.
    pub fn open_or_create(
        namespace: &Namespace,
        name: &Name,
        header: &Header,
    ) -> Result<(Self, Created), OpenOrCreateError> {
        let expected = Expected {
            kind: header.kind,
            layout_hash: header.layout_hash,
            payload: Some(header.payload.clone()),
        };
        loop {
            match Self::open(namespace, name, &expected) {
                Err(OpenError::NotFound { .. }) => {}
                opened => return Ok((opened?, Created::No)),
            }
            match Self::create(namespace, name, header) {
                Err(CreateError::Exists { .. }) => {}
                created => return Ok((created?, Created::Yes)),
            }
        }
    }

    /// Returns the names of all segments of a kind, sorted, including those that cannot be opened.
    ///
    /// # Errors
    /// [`NamespaceError`] if the folder is refused or cannot be read.
    pub fn list(namespace: &Namespace, kind: Kind) -> Result<Vec<Name>, NamespaceError> {
        let suffix = format!(".{}", kind.as_str());
        let files = namespace.files()?;
        let stems = files.iter().filter_map(|file| file.strip_suffix(&suffix));
        Ok(stems.filter_map(|stem| Name::new(stem).ok()).collect())
    }

    /// Returns its namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Returns its path, for messages to people.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        path_of(&self.namespace, &self.name, self.header.kind)
    }

    /// Returns its header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Returns its memory.
    #[must_use]
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Returns `true` if its name was removed. No process can open it any more.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.flags().load(Ordering::SeqCst) & REMOVED != 0
    }

    /// Returns `true` if its file was truncated while mapped. Everything written to it now may be
    /// lost.
    ///
    /// Once `true`, it stays `true`. Check it *after* a change: `false` then means that the change
    /// was made in shared memory. The flag is set before private zeroes can be written.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.flags().load(Ordering::SeqCst) & TRUNCATED != 0
    }

    /// Returns `true` if other code deleted its file, such as a cleaner or `rm`.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.flags().load(Ordering::SeqCst) & DELETED != 0
    }

    /// Checks the file with a few system calls. For callers that have time, such as a
    /// [watcher](crate::watch).
    ///
    /// Sets a flag for all processes if the file is too short, has lost its first word, or was
    /// deleted by other code. It does not notice a file that was truncated inside its body and
    /// extended again, if no process touched the missing part. Nor does it notice a deleted file
    /// that has a second name.
    ///
    /// # Errors
    /// [`FileLoss`], if only this process is affected. Nothing is then concluded from the file, and
    /// no flag is set.
    pub fn check_file(&self) -> Result<(), FileLoss> {
        let number = self.file.number();
        let stat = self.file.stat().ok_or(FileLoss::Descriptor(number))?;
        if self.is_read_only {
            return Ok(());
        }
        let length = u64::try_from(stat.st_size).unwrap_or(0);
        let is_whole = length >= self.header.total_bytes as u64
            && self.word(0).load(Ordering::Relaxed) == layout::MAGIC;
        // Checked first, because replacement zeroes have no first word and no other users.
        if !is_whole && !self.is_truncated() {
            // Only the first process that sets the flag reports the event.
            let before = self.flags().fetch_or(TRUNCATED, Ordering::SeqCst);
            self.notify_all();
            if before & TRUNCATED == 0 {
                events::truncated(&self.path(), self.header.total_bytes);
            }
        }
        // A remover sets its flag before it unlinks, so this was other code.
        if stat.st_nlink == 0 && !self.is_removed() {
            let before = self.flags().fetch_or(REMOVED | DELETED, Ordering::SeqCst);
            self.notify_all();
            if before & REMOVED == 0 {
                events::deleted(&self.path());
            }
        }
        if self.was_moved(&stat) && !self.is_removed() {
            return Err(FileLoss::Moved);
        }
        Ok(())
    }

    /// Returns `true` if the path led to this file when it was opened and now leads to another
    /// file. A path that leads nowhere proves nothing: the process may have changed its view of the
    /// file system.
    fn was_moved(&self, ours: &FileStat) -> bool {
        let is_another = |there| there != FileIdentity::of(ours);
        self.root.get().is_some()
            && self.file_at_path().is_some_and(is_another)
            && self.root.get() == root_folder().as_ref()
    }

    /// Remembers that the path leads to this file, if it does.
    fn note_place(&self) {
        let ours = self.file.stat().map(|stat| FileIdentity::of(&stat));
        if ours.is_some() && self.file_at_path() == ours && self.path().is_absolute() {
            let _ = root_folder().map(|root| self.root.set(root));
        }
    }

    fn file_at_path(&self) -> Option<FileIdentity> {
        let stat = stat(&self.path()).ok()?;
        let is_file = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
        is_file.then(|| FileIdentity::of(&stat))
    }

    /// Returns the flags of the segment and of its kind. Bits 0 ([`REMOVED`]), 62 ([`DELETED`]) and
    /// 63 ([`TRUNCATED`]) belong to the segment. Any process may set these three; none clears them.
    #[must_use]
    pub fn flags(&self) -> &AtomicU64 {
        self.word(layout::FLAGS)
    }

    /// Returns the flags word as a view.
    ///
    /// # Panics
    /// Never: the word lies inside the header, which is mapped.
    #[must_use]
    pub fn flag_view(&self) -> View<[AtomicU64; 1]> {
        let view = self.mapping.words_at(layout::FLAGS);
        view.expect("inside the header, which is mapped")
    }

    /// Returns one of the four events. A removal or the death of a participant notifies all four.
    ///
    /// # Panics
    /// If `index` is above 3.
    #[must_use]
    pub fn event(&self, index: usize) -> Event<'_> {
        let word = self.mapping.word32(event_at(index));
        Event::new(word.expect("inside the header, which is mapped"))
    }

    /// Returns the word of that event as a view.
    ///
    /// # Panics
    /// If `index` is above 3.
    #[must_use]
    pub fn event_view(&self, index: usize) -> View<AtomicU32> {
        let view = self.mapping.word32_at(event_at(index));
        view.expect("inside the header, which is mapped")
    }

    /// Wakes all threads that wait for anything in this segment.
    pub fn notify_all(&self) {
        if self.is_read_only {
            return;
        }
        (0..layout::EVENT_COUNT).for_each(|index| self.event(index).notify_all());
    }

    /// Returns the number of joins and departures. A change means that the table should be read
    /// again.
    #[must_use]
    pub fn changes(&self) -> &AtomicU64 {
        self.word(layout::CHANGES)
    }

    /// Returns `true` if the segment was opened read-only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// Returns `true` if this process opened the segment, and is not a forked copy of the one that
    /// did.
    pub(crate) fn is_ours(&self) -> bool {
        self.generation.is_current()
    }

    pub(crate) fn file(&self) -> &Kept {
        &self.file
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        self.mapping
            .word(offset)
            .expect("inside the header, which is mapped")
    }
}

impl SystemError {
    fn new(action: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self {
            action,
            path: path.into(),
            source: source.into(),
        }
    }
}

fn map(namespace: &Namespace, name: &Name, header: Header, file: Kept) -> io::Result<Segment> {
    let mark = Mark {
        offset: layout::FLAGS,
        value: TRUNCATED,
    };
    let mapping = Mapping::marked(file.file(), header.total_bytes, mark)?;
    Ok(mapped(namespace, name, header, file, mapping, false))
}

fn map_read_only(
    namespace: &Namespace,
    name: &Name,
    header: Header,
    file: Kept,
) -> io::Result<Segment> {
    let mapping = Mapping::read_only(file.file(), header.total_bytes)?;
    Ok(mapped(namespace, name, header, file, mapping, true))
}

fn mapped(
    namespace: &Namespace,
    name: &Name,
    header: Header,
    file: Kept,
    mapping: Arc<Mapping>,
    is_read_only: bool,
) -> Segment {
    Segment {
        namespace: namespace.clone(),
        name: name.clone(),
        header,
        file,
        mapping,
        root: OnceLock::new(),
        is_read_only,
        generation: Generation::current(),
    }
}

/// Returns the root folder, which differs after the process changed it.
fn root_folder() -> Option<FileIdentity> {
    stat("/").ok().map(|root| FileIdentity::of(&root))
}

fn file_of(path: &Path) -> &OsStr {
    path.file_name().expect("made by `path_of`")
}

fn path_of(namespace: &Namespace, name: &Name, kind: Kind) -> PathBuf {
    namespace.path().join(file_name(name, kind))
}

fn file_name(name: &Name, kind: Kind) -> String {
    format!("{name}.{}", kind.as_str())
}

/// Returns the offset of event `index`.
fn event_at(index: usize) -> usize {
    assert!(
        index < layout::EVENT_COUNT,
        "event {index} of {}",
        layout::EVENT_COUNT
    );
    layout::EVENTS + CACHE_LINE_BYTES * index
}
