//! A named piece of shared memory: one file, one header, one mapping.
//!
//! A segment is built whole in a file without a name, then linked: nobody can ever see half of one, and
//! a creator that is killed leaves nothing. Memory is reserved up front (`fallocate`), so a full
//! file system is an error here and not a SIGBUS later. Removing raises a flag that everybody attached
//! sees, wakes them, and unlinks the name; if the remover dies in between, the next one to open, create or
//! remove that name finishes it.
//! A file that is cut short from outside while it is mapped is noticed by whoever touches what is missing (`fault`), or by
//! whoever looks ([`Segment::check_file`]); a flag says so from then on. The same look notices a file that was deleted by
//! something else, and a descriptor that this process has lost. The last is nobody else's business: no flag says it.
//! Does not know who is attached (see `participant`), nor what the body means.

mod create;
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
pub use open::OpenError;

/// An open segment.
#[derive(Debug)]
pub struct Segment {
    namespace: Namespace,
    name: Name,
    header: Header,
    /// Compared with what was opened before anything is concluded from it. The mapping is made of
    /// the same open file, so the locks of that stay while it is mapped, also when this descriptor
    /// was lost.
    file: Kept,
    mapping: Arc<Mapping>,
    /// What the process's root folder was when the path led here. `None`: it did not, or is
    /// relative.
    root: OnceLock<FileIdentity>,
    is_read_only: bool,
    generation: Generation,
}

/// Why this process must not use a segment any more that others may go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileLoss {
    /// Something in this process closed the descriptor. Its number is kept here to tell which it
    /// was.
    Descriptor(i32),
    /// The name stands for another file now: the folder, or the file, was moved away by something
    /// else.
    Moved,
}

/// Why [`Segment::open_or_create`] did neither.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenOrCreateError {
    /// It exists and can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It does not exist and can't be created.
    #[error(transparent)]
    Create(#[from] CreateError),
}

/// The system refused something.
#[derive(Debug, Error)]
#[error("can't {action} {}: {source}", path.display())]
pub struct SystemError {
    /// What was tried.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Whether a call created what it opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It was there before.
    No,
    /// This call made it.
    Yes,
}

/// In the flags word: the name was, or is about to be, unlinked.
pub const REMOVED: u64 = 1;

/// In the flags word, with [`REMOVED`]: the name was unlinked by something other than this library.
pub const DELETED: u64 = 1 << 62;

/// In the flags word: the file was cut short while somebody had it mapped. What is seen of it now may be zeroes that
/// nobody else sees; whatever was changed in it *before* this flag was looked for may be lost.
pub const TRUNCATED: u64 = 1 << 63;

impl Segment {
    /// Opens the segment of that name, or creates it.
    ///
    /// Of several processes that do this at once, one creates and all get the same segment. The
    /// flag says whether this call created it.
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`create`](Self::create), but for `NotFound` and `Exists`.
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

    /// The names of all segments of a kind, sorted; also those that can't be opened.
    ///
    /// # Errors
    /// [`NamespaceError`] when the folder is refused or can't be read.
    pub fn list(namespace: &Namespace, kind: Kind) -> Result<Vec<Name>, NamespaceError> {
        let suffix = format!(".{}", kind.as_str());
        let files = namespace.files()?;
        let stems = files.iter().filter_map(|file| file.strip_suffix(&suffix));
        Ok(stems.filter_map(|stem| Name::new(stem).ok()).collect())
    }

    /// The namespace it lives in.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Where it is, for people.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        path_of(&self.namespace, &self.name, self.header.kind)
    }

    /// What it says about itself.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its memory.
    #[must_use]
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Whether its name was removed: what is sent now would reach nobody new.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.flags().load(Ordering::SeqCst) & REMOVED != 0
    }

    /// Whether its file was found cut short while mapped: nothing that is done with it now has any use.
    ///
    /// Once true, true for ever. Looked at *after* a change it tells whether the change can have reached others: one
    /// made to private zeroes was made after the flag was raised.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.flags().load(Ordering::SeqCst) & TRUNCATED != 0
    }

    /// Whether its file was deleted by something other than this library: a cleaner, or `rm`.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.flags().load(Ordering::SeqCst) & DELETED != 0
    }

    /// Looks at the file: a few system calls, for those who have time, such as a
    /// [watcher](crate::watch).
    ///
    /// Says so to everybody if the file is shorter than it was made, does not begin as it did, or
    /// was deleted by something else. Not noticed: a file that was cut inside its body and has
    /// grown again meanwhile, if nobody touched what was missing; a deleted file that has a second
    /// name.
    ///
    /// # Errors [`FileLoss`], if only this process is concerned. Nothing is concluded from the file
    /// then, and nobody is told.
    pub fn check_file(&self) -> Result<(), FileLoss> {
        let number = self.file.number();
        let stat = self.file.stat().ok_or(FileLoss::Descriptor(number))?;
        if self.is_read_only {
            return Ok(());
        }
        let length = u64::try_from(stat.st_size).unwrap_or(0);
        let is_whole = length >= self.header.total_bytes as u64
            && self.word(0).load(Ordering::Relaxed) == layout::MAGIC;
        // Asked first: what was replaced by zeroes has no first word, and no others to tell.
        if !is_whole && !self.is_truncated() {
            let before = self.flags().fetch_or(TRUNCATED, Ordering::SeqCst);
            self.notify_all();
            if before & TRUNCATED == 0 {
                events::truncated(self);
            }
        }
        // A remover raises its flag before it unlinks.
        if stat.st_nlink == 0 && !self.is_removed() {
            let before = self.flags().fetch_or(REMOVED | DELETED, Ordering::SeqCst);
            self.notify_all();
            if before & REMOVED == 0 {
                events::deleted(self);
            }
        }
        if self.was_moved(&stat) && !self.is_removed() {
            return Err(FileLoss::Moved);
        }
        Ok(())
    }

    /// Whether the path led to this file when it was opened and leads to another one now. A path
    /// that leads nowhere is not a proof: the process may have another view of the file system than
    /// it had.
    fn was_moved(&self, ours: &FileStat) -> bool {
        let is_another = |there| there != FileIdentity::of(ours);
        self.root.get().is_some()
            && self.file_at_path().is_some_and(is_another)
            && self.root.get() == root_folder().as_ref()
    }

    /// Remembers that the path leads here, if it does.
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

    /// The flags of the segment and its kind. Bits 0 ([`REMOVED`]), 62 ([`DELETED`]) and 63
    /// ([`TRUNCATED`]) are the segment's.
    #[must_use]
    pub fn flags(&self) -> &AtomicU64 {
        self.word(layout::FLAGS)
    }

    /// The same word, to keep.
    ///
    /// # Panics
    /// Never: the word lies inside the header, which is mapped.
    #[must_use]
    pub fn flag_view(&self) -> View<[AtomicU64; 1]> {
        let view = self.mapping.words_at(layout::FLAGS);
        view.expect("inside the header, which is mapped")
    }

    /// One of its four events; all four are notified when the segment is removed or a participant dies.
    ///
    /// # Panics
    /// If `index` is above 3.
    #[must_use]
    pub fn event(&self, index: usize) -> Event<'_> {
        let word = self.mapping.word32(event_at(index));
        Event::new(word.expect("inside the header, which is mapped"))
    }

    /// The word of that event, to keep.
    ///
    /// # Panics
    /// If `index` is above 3.
    #[must_use]
    pub fn event_view(&self, index: usize) -> View<AtomicU32> {
        let view = self.mapping.word32_at(event_at(index));
        view.expect("inside the header, which is mapped")
    }

    /// Wakes everybody who waits for anything in this segment.
    pub fn notify_all(&self) {
        if self.is_read_only {
            return;
        }
        (0..layout::EVENT_COUNT).for_each(|index| self.event(index).notify_all());
    }

    /// How often a participant came or went: a change tells that the table should be read again.
    #[must_use]
    pub fn changes(&self) -> &AtomicU64 {
        self.word(layout::CHANGES)
    }

    /// Whether it was opened for looking only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// Whether this process opened it, and is not a forked copy of the one that did.
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

/// Another one if the process changed it since.
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

/// Where event `index` lies.
fn event_at(index: usize) -> usize {
    assert!(
        index < layout::EVENT_COUNT,
        "event {index} of {}",
        layout::EVENT_COUNT
    );
    layout::EVENTS + CACHE_LINE_BYTES * index
}
