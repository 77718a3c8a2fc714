//! A named piece of shared memory: one file, one header, one mapping.
//!
//! A segment is built whole in a file without a name, then linked: nobody can ever see half of one, and
//! a creator that is killed leaves nothing. Memory is reserved up front (`fallocate`), so a full
//! file system is an error here and not a SIGBUS later. Removing raises a flag that everybody attached
//! sees, wakes them, and unlinks the name; if the remover dies in between, the next one to open or remove
//! that name finishes it.
//! A file that is cut short from outside while it is mapped is noticed by whoever touches what is missing (`fault`), or by
//! whoever looks ([`Segment::check_whole`]); a flag says so from then on.
//! Does not know who is attached (see `participant`), nor what the body means.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipc_proto::Name;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, OFlag, fallocate, openat};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, geteuid, linkat, unlinkat};
use thiserror::Error;

use crate::fault::Mark;
use crate::fork::Generation;
use crate::layout::{self, Expected, Header, HeaderError, Kind};
use crate::mapping::{CACHE_LINE_BYTES, Mapping, View};
use crate::namespace::{Namespace, NamespaceError};
use crate::wait::Event;

/// An open segment.
#[derive(Debug)]
pub struct Segment {
    namespace: Namespace,
    name: Name,
    header: Header,
    file: File,
    mapping: Arc<Mapping>,
    generation: Generation,
}

/// Why a segment was not created.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The name is taken.
    #[error("{} exists already: open it, or remove it first", path.display())]
    Exists {
        /// Its path.
        path: PathBuf,
    },
    /// The file system is too full.
    #[error(
        "{} has {} free, {name:?} needs {}: lower the capacity or the payload size, or mount it larger",
        path.display(), Bytes(*free), Bytes(*needed)
    )]
    NoSpace {
        /// The folder.
        path: PathBuf,
        /// What was to be created.
        name: String,
        /// Free bytes there.
        free: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// This process may not make files of that size.
    #[error("{name:?} needs {}, but files are limited to {} (ulimit -f)", Bytes(*needed), Bytes(*limit))]
    FileSizeLimit {
        /// What was to be created.
        name: String,
        /// The limit.
        limit: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// The folder is refused.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The system refused.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

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
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
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

impl Segment {
    /// Makes a new, zero-filled segment.
    ///
    /// It appears under its name complete or not at all, whoever is killed meanwhile; of several
    /// processes that create the same name at once, one succeeds.
    ///
    /// # Errors
    /// [`CreateError::Exists`] if the name is taken; [`CreateError::NoSpace`], with the figures, if the
    /// memory is not there, nor within a second.
    pub fn create(
        namespace: &Namespace,
        name: &Name,
        header: &Header,
    ) -> Result<Self, CreateError> {
        let segment = build_patiently(namespace, name, header).inspect_err(|_| {
            // The folders were made for it.
            namespace.remove_if_empty();
        })?;
        // The folder may be removed with its last segment between our opening and linking: again, then.
        const TRIES: usize = 100;
        for _ in 0..TRIES {
            let folder = namespace.open_or_create()?;
            let path = segment.path();
            match link(&segment.file, &folder, &path) {
                Ok(()) => return Ok(segment),
                Err(Errno::ENOENT) => {}
                Err(Errno::EEXIST) => return Err(CreateError::Exists { path }),
                Err(errno) => return Err(create_io("link", &path, errno)),
            }
        }
        Err(create_io("create", &namespace.path(), Errno::ENOENT))
    }

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
        let file = open_file(&folder, &path)?;
        let header = read_header(&file, expected).map_err(|error| error.at(&path))?;
        let segment = map(namespace, name, header, file).map_err(|source| OpenError::Io {
            action: "map",
            path: path.clone(),
            source,
        })?;
        if segment.is_removed() {
            // Its remover may have been killed before it unlinked.
            remove_if(namespace, name, expected.kind, is_flagged)?;
            return Err(OpenError::NotFound { path });
        }
        if segment.is_truncated() {
            return Err(OpenError::Truncated { path });
        }
        Ok(segment)
    }

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

    /// Removes the name; `Ok(false)` if there was none.
    ///
    /// Whoever is attached is woken and finds the segment removed; their memory stays valid until they
    /// let go of it. Safe to call from several processes at once and after a crash in the middle. Works on
    /// damaged segments too.
    ///
    /// # Errors
    /// The variants of [`OpenError`] that speak of the folder and the file's owner.
    pub fn remove(namespace: &Namespace, name: &Name, kind: Kind) -> Result<bool, OpenError> {
        remove_if(namespace, name, kind, |_| true)
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

    /// Looks whether the file is as long as it was made, and begins as it did; says so to everybody if not. One
    /// system call: for those who have time, such as a [watcher](crate::watch).
    ///
    /// Not noticed: a file that was cut inside its body and has grown again meanwhile, if nobody touched what was missing.
    pub fn check_whole(&self) {
        let Ok(data) = self.file.metadata() else {
            return;
        };
        let is_whole = data.len() >= self.header.total_bytes as u64
            && self.word(0).load(Ordering::Relaxed) == layout::MAGIC;
        // Asked first: what was replaced by zeroes has no first word, and no others to tell.
        if !is_whole && !self.is_truncated() {
            self.flags().fetch_or(TRUNCATED, Ordering::SeqCst);
            self.notify_all();
        }
    }

    /// The flags of the segment and its kind. Bits 0 ([`REMOVED`]) and 63 ([`TRUNCATED`]) are the segment's.
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
        (0..layout::EVENT_COUNT).for_each(|index| self.event(index).notify_all());
    }

    /// How often a participant came or went: a change tells that the table should be read again.
    #[must_use]
    pub fn changes(&self) -> &AtomicU64 {
        self.word(layout::CHANGES)
    }

    /// Whether this process opened it, and is not a forked copy of the one that did.
    pub(crate) fn is_ours(&self) -> bool {
        self.generation.is_current()
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        self.mapping
            .word(offset)
            .expect("inside the header, which is mapped")
    }
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

/// In the flags word: the file was cut short while somebody had it mapped. What is seen of it now may be zeroes that
/// nobody else sees; whatever was changed in it *before* this flag was looked for may be lost.
pub const TRUNCATED: u64 = 1 << 63;

/// Builds the segment. Tries for a while when there is no memory: others may just have reserved it for
/// the same segment, of which one will get the name and the rest give their memory back.
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
        // Asked first: memory for a second one need not be there.
        if fstatat(&folder, file_of(&path), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok() {
            return Err(CreateError::Exists { path });
        }
        match build(namespace, &folder, name, header) {
            Err(CreateError::NoSpace { .. }) if Instant::now() < deadline => {
                // Of differing length, so that two that got half of it each don't meet again.
                thread::sleep(Duration::from_millis(fastrand::u64(1..=20)));
            }
            built => return built,
        }
    }
}

/// A segment that has no name yet, and so goes with this process.
fn build(
    namespace: &Namespace,
    folder: &OwnedFd,
    name: &Name,
    header: &Header,
) -> Result<Segment, CreateError> {
    let failed = |action| move |errno| create_io(action, &namespace.path(), errno);
    check_space(namespace, folder, name, header.total_bytes as u64)?;
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let owner_only = Mode::S_IRUSR | Mode::S_IWUSR;
    let fd = openat(folder, ".", flags, owner_only).map_err(failed("make a file in"))?;
    // The umask may have taken even the owner's bits.
    fchmod(&fd, owner_only).map_err(failed("set the mode of a file in"))?;
    let needed = header.total_bytes as u64;
    reserve(&fd, needed).map_err(|errno| match errno {
        Errno::ENOSPC | Errno::ENOMEM => no_space(namespace, folder, name, needed),
        _ => create_io("reserve memory in", &namespace.path(), errno),
    })?;
    let file = File::from(fd);
    let io_failed = |action| {
        move |source| CreateError::Io {
            action,
            path: path_of(namespace, name, header.kind),
            source,
        }
    };
    file.write_all_at(&header.to_bytes(), 0)
        .map_err(io_failed("write"))?;
    map(namespace, name, header.clone(), file).map_err(io_failed("map"))
}

/// Gives a file its size and its memory, in pieces: a signal makes older kernels give up a call and what
/// it reserved.
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
fn link(file: &File, folder: &OwnedFd, path: &Path) -> Result<(), Errno> {
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    let follow = AtFlags::AT_SYMLINK_FOLLOW;
    linkat(AT_FDCWD, &source[..], folder, file_of(path), follow)
}

/// Before reserving: a reservation that fails half-way would first take all the memory there is.
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

fn open_file(folder: impl AsFd, path: &Path) -> Result<File, OpenError> {
    let name = file_of(path);
    let failed = |action| {
        move |errno: Errno| OpenError::Io {
            action,
            path: path.to_owned(),
            source: errno.into(),
        }
    };
    // Looked at before it is opened: opening a planted FIFO or device could block or act.
    match fstatat(folder.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => check_file(&stat, path)?,
        Err(Errno::ENOENT) => {
            return Err(OpenError::NotFound {
                path: path.to_owned(),
            });
        }
        Err(errno) => return Err(failed("stat")(errno)),
    }
    let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match openat(folder.as_fd(), name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::ENOENT) => {
            return Err(OpenError::NotFound {
                path: path.to_owned(),
            });
        }
        Err(errno) => return Err(failed("open")(errno)),
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

/// Removes the name if the file that it stands for now passes `condition`.
fn remove_if(
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
    // Only removers unlink, one at a time: so the file opened here is the file unlinked here.
    let folder = namespace.lock(folder)?;
    let file = match open_file(&*folder, &path) {
        Ok(file) if condition(&file) => file,
        Ok(_) | Err(OpenError::NotFound { .. }) => {
            // A creator killed before it linked leaves the folders, and so does a remover.
            drop(folder);
            namespace.remove_if_empty();
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    raise_removed(&file);
    let unlinked = unlinkat(
        &*folder,
        &file_name(name, kind)[..],
        UnlinkatFlags::NoRemoveDir,
    );
    drop(folder);
    namespace.remove_if_empty();
    match unlinked {
        Ok(()) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(OpenError::Io {
            action: "remove",
            path,
            source: errno.into(),
        }),
    }
}

fn is_flagged(file: &File) -> bool {
    let mut flags = [0; 8];
    let read = file.read_exact_at(&mut flags, layout::FLAGS as u64);
    read.is_ok() && u64::from_le_bytes(flags) & REMOVED != 0
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
            Self::Io(source) => OpenError::Io {
                action: "read",
                path,
                source,
            },
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

fn map(namespace: &Namespace, name: &Name, header: Header, file: File) -> io::Result<Segment> {
    let mark = Mark {
        offset: layout::FLAGS,
        value: TRUNCATED,
    };
    Ok(Segment {
        namespace: namespace.clone(),
        name: name.clone(),
        mapping: Mapping::marked(&file, header.total_bytes, mark)?,
        header,
        file,
        generation: Generation::current(),
    })
}

/// Marks the segment removed and wakes everybody, if its file is long enough to have a flag.
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

fn file_of(path: &Path) -> &OsStr {
    path.file_name().expect("made by `path_of`")
}

fn path_of(namespace: &Namespace, name: &Name, kind: Kind) -> PathBuf {
    namespace.path().join(file_name(name, kind))
}

fn file_name(name: &Name, kind: Kind) -> String {
    format!("{name}.{}", kind.as_str())
}

fn create_io(action: &'static str, path: &Path, errno: Errno) -> CreateError {
    CreateError::Io {
        action,
        path: path.to_owned(),
        source: errno.into(),
    }
}

/// A number of bytes, for people.
struct Bytes(u64);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
        let bytes = self.0 as f64;
        match self.0 {
            0..1024 => write!(f, "{} B", self.0),
            1024..1_048_576 => write!(f, "{:.1} KiB", bytes / 1024.0),
            _ => write!(f, "{:.1} MiB", bytes / 1_048_576.0),
        }
    }
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown, symlink};
    use std::sync::Barrier;

    use nix::unistd::mkfifo;

    use super::*;
    use crate::testing::{Scratch, TEST_KIND};

    fn name() -> Name {
        Name::new("seg").unwrap()
    }

    fn expected() -> Expected {
        Expected {
            kind: TEST_KIND,
            layout_hash: 1,
            payload: None,
        }
    }

    fn open(scratch: &Scratch) -> Result<Segment, OpenError> {
        Segment::open(&scratch.namespace, &name(), &expected())
    }

    fn open_or_create(scratch: &Scratch) -> Result<(Segment, Created), OpenOrCreateError> {
        Segment::open_or_create(&scratch.namespace, &name(), &Scratch::header(3))
    }

    fn remove(scratch: &Scratch) -> Result<bool, OpenError> {
        Segment::remove(&scratch.namespace, &name(), TEST_KIND)
    }

    fn path(scratch: &Scratch) -> PathBuf {
        path_of(&scratch.namespace, &name(), TEST_KIND)
    }

    /// The first word of the body: something to know a segment by.
    fn mark(segment: &Segment) -> &AtomicU64 {
        segment.word(segment.header().body_offset)
    }

    #[track_caller]
    fn assert_nothing_left(scratch: &Scratch) {
        assert_eq!(fs::read_dir(scratch.folder()).unwrap().count(), 0);
    }

    #[test]
    fn what_one_creates_another_opens_until_it_is_removed() {
        let scratch = Scratch::new();
        let created = scratch.create("seg", 3);
        mark(&created).store(7, Ordering::SeqCst);
        let opened = open(&scratch).unwrap();
        assert_eq!(opened.header(), created.header());
        assert_eq!(mark(&opened).load(Ordering::SeqCst), 7);
        let again = Segment::create(&scratch.namespace, &name(), &Scratch::header(3));
        assert!(matches!(again, Err(CreateError::Exists { .. })));
        assert_eq!(
            fs::metadata(path(&scratch)).unwrap().permissions().mode() & 0o777,
            0o600
        );

        assert!(remove(&scratch).unwrap());
        assert!(created.is_removed() && opened.is_removed());
        assert!(matches!(open(&scratch), Err(OpenError::NotFound { .. })));
        assert!(!remove(&scratch).unwrap());
        // Who had it keeps its memory.
        assert_eq!(mark(&opened).load(Ordering::SeqCst), 7);
        assert_nothing_left(&scratch);
    }

    #[test]
    fn listing_names_all_of_one_kind() {
        let scratch = Scratch::new();
        assert_eq!(Segment::list(&scratch.namespace, TEST_KIND).unwrap(), []);
        for segment in ["b", "a.x", "c"] {
            scratch.create(segment, 1);
        }
        let folder = scratch.namespace.path();
        for foreign in ["d.other", "E.test", ".test", "test"] {
            fs::write(folder.join(foreign), "").unwrap();
        }
        // Damaged, but there: it can be removed.
        fs::write(folder.join("c.test"), "").unwrap();
        let names = Segment::list(&scratch.namespace, TEST_KIND).unwrap();
        let names: Vec<_> = names.iter().map(Name::as_str).collect();
        assert_eq!(names, ["a.x", "b", "c"]);
    }

    #[test]
    fn two_that_race_to_open_or_create_get_the_same() {
        let scratch = Scratch::new();
        for _ in 0..8 {
            let barrier = Barrier::new(2);
            let race = || {
                barrier.wait();
                open_or_create(&scratch).unwrap()
            };
            let racers = thread::scope(|scope| {
                [(); 2]
                    .map(|()| scope.spawn(race))
                    .map(|racer| racer.join().unwrap())
            });
            let creators = racers
                .iter()
                .filter(|(_, created)| *created == Created::Yes);
            assert_eq!(creators.count(), 1);
            mark(&racers[0].0).store(1, Ordering::SeqCst);
            assert_eq!(mark(&racers[1].0).load(Ordering::SeqCst), 1);
            assert!(remove(&scratch).unwrap());
        }
        assert_nothing_left(&scratch);
    }

    #[test]
    fn a_removal_that_was_cut_short_is_finished_by_the_next_to_open() {
        let scratch = Scratch::new();
        for finish in [
            |scratch: &Scratch| assert!(matches!(open(scratch), Err(OpenError::NotFound { .. }))),
            |scratch: &Scratch| assert!(remove(scratch).unwrap()),
        ] {
            let old = scratch.create("seg", 3);
            old.flags().fetch_or(REMOVED, Ordering::SeqCst);
            finish(&scratch);
            assert_nothing_left(&scratch);
        }
        scratch
            .create("seg", 3)
            .flags()
            .fetch_or(REMOVED, Ordering::SeqCst);
        let (fresh, created) = open_or_create(&scratch).unwrap();
        assert_eq!((created, fresh.is_removed()), (Created::Yes, false));
        assert!(remove(&scratch).unwrap());
        assert_nothing_left(&scratch);
    }

    #[test]
    fn a_removal_that_is_stopped_half_way_is_an_error_not_a_hang() {
        let scratch = Scratch::new();
        let old = scratch.create("seg", 3);
        let folder = scratch.namespace.open().unwrap().unwrap();
        let _stopped = scratch.namespace.lock(folder).unwrap();
        old.flags().fetch_or(REMOVED, Ordering::SeqCst);
        let error = open_or_create(&scratch).unwrap_err();
        assert!(
            matches!(
                error,
                OpenOrCreateError::Open(OpenError::Namespace(NamespaceError::Busy { .. }))
            ),
            "{error}"
        );
    }

    #[test]
    fn who_saw_the_old_segment_flagged_never_unlinks_the_new_one() {
        let scratch = Scratch::new();
        let old = scratch.create("seg", 3);
        assert!(remove(&scratch).unwrap() && old.is_removed());
        let fresh = scratch.create("seg", 3);
        // What `open` does after it found the old one flagged.
        assert!(!remove_if(&scratch.namespace, &name(), TEST_KIND, is_flagged).unwrap());
        assert!(!fresh.is_removed());
        assert!(open(&scratch).is_ok());
    }

    #[test]
    fn opening_while_others_create_and_remove_never_takes_a_name_away() {
        const ROUNDS: usize = 2_000;
        let scratch = Scratch::new();
        let stop = AtomicU64::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                while stop.load(Ordering::SeqCst) == 0 {
                    if let Err(error) = open(&scratch) {
                        assert!(matches!(error, OpenError::NotFound { .. }), "{error}");
                    }
                }
            });
            let kept = (0..ROUNDS).all(|_| {
                let created = scratch.create("seg", 3);
                !created.is_removed() && remove(&scratch).unwrap()
            });
            stop.store(1, Ordering::SeqCst);
            assert!(kept, "somebody else removed it");
        });
        assert_nothing_left(&scratch);
    }

    #[test]
    fn memory_for_a_second_one_is_not_needed_to_learn_that_there_is_one() {
        let scratch = Scratch::new();
        scratch.create("seg", 3);
        let mut huge = Scratch::header(3);
        huge.total_bytes = 1 << 50;
        let error = Segment::create(&scratch.namespace, &name(), &huge).unwrap_err();
        assert!(matches!(error, CreateError::Exists { .. }), "{error}");
    }

    #[test]
    fn one_that_does_not_fit_says_so_and_leaves_nothing() {
        let scratch = Scratch::new();
        let mut huge = Scratch::header(3);
        huge.total_bytes = 1 << 50;
        let error = Segment::create(&scratch.namespace, &name(), &huge).unwrap_err();
        let CreateError::NoSpace { free, needed, .. } = &error else {
            panic!("{error}")
        };
        assert!(free < needed && *needed == 1 << 50, "{error}");
        assert!(
            error.to_string().contains("needs 1073741824.0 MiB"),
            "{error}"
        );
        assert_nothing_left(&scratch);
    }

    #[test]
    fn folders_left_by_a_killed_creator_go_with_the_next_removal() {
        let scratch = Scratch::new();
        drop(scratch.namespace.open_or_create().unwrap());
        assert!(!remove(&scratch).unwrap());
        assert_nothing_left(&scratch);
        fs::create_dir(scratch.folder().join("root")).unwrap();
        fs::set_permissions(
            scratch.folder().join("root"),
            fs::Permissions::from_mode(0o700),
        )
        .unwrap();
        assert!(!remove(&scratch).unwrap());
        assert_nothing_left(&scratch);
    }

    /// Opening fails as `wanted` says and leaves what it found untouched.
    #[track_caller]
    fn assert_refused(scratch: &Scratch, wanted: fn(&OpenError) -> bool) {
        let look = || {
            let found = fs::symlink_metadata(path(scratch)).unwrap();
            let content = found.is_file().then(|| fs::read(path(scratch)).unwrap());
            (
                found.file_type(),
                found.permissions(),
                found.modified().unwrap(),
                content,
            )
        };
        let before = look();
        let error = open(scratch).unwrap_err();
        assert!(wanted(&error), "{error}");
        let error = open_or_create(scratch).unwrap_err();
        assert!(
            matches!(&error, OpenOrCreateError::Open(error) if wanted(error)),
            "{error}"
        );
        assert_eq!(look(), before);
    }

    #[test]
    fn a_planted_link_fifo_or_folder_is_refused_and_kept() {
        let scratch = Scratch::new();
        drop(scratch.namespace.open_or_create().unwrap());
        let not_a_file = |error: &OpenError| matches!(error, OpenError::NotAFile { .. });
        let target = scratch.folder().join("target");
        fs::write(&target, "precious").unwrap();
        symlink(&target, path(&scratch)).unwrap();
        assert_refused(&scratch, not_a_file);
        assert!(remove(&scratch).is_err_and(|error| not_a_file(&error)));
        assert_eq!(fs::read(&target).unwrap(), b"precious");
        fs::remove_file(path(&scratch)).unwrap();

        mkfifo(&path(&scratch), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        assert_refused(&scratch, not_a_file);
        assert!(remove(&scratch).is_err_and(|error| not_a_file(&error)));
        assert!(fs::metadata(path(&scratch)).unwrap().file_type().is_fifo());
        fs::remove_file(path(&scratch)).unwrap();

        fs::create_dir(path(&scratch)).unwrap();
        assert_refused(&scratch, not_a_file);
        assert!(remove(&scratch).is_err_and(|error| not_a_file(&error)));
    }

    #[test]
    fn a_file_of_another_user_is_refused() {
        if !geteuid().is_root() {
            println!("skipped: only root can give a file away");
            return;
        }
        let scratch = Scratch::new();
        scratch.create("seg", 3);
        chown(path(&scratch), Some(12345), None).unwrap();
        let foreign = |error: &_| matches!(error, OpenError::ForeignOwner { owner: 12345, .. });
        assert_refused(&scratch, foreign);
        assert!(remove(&scratch).is_err_and(|error| foreign(&error)));
    }

    #[test]
    fn a_file_that_others_may_use_is_refused() {
        let scratch = Scratch::new();
        scratch.create("seg", 3);
        fs::set_permissions(path(&scratch), fs::Permissions::from_mode(0o644)).unwrap();
        let open_to_others =
            |error: &_| matches!(error, OpenError::OpenToOthers { mode: 0o644, .. });
        assert_refused(&scratch, open_to_others);
        assert!(remove(&scratch).is_err_and(|error| open_to_others(&error)));
    }

    #[test]
    fn a_damaged_file_is_refused_with_its_own_error_and_can_be_removed() {
        let scratch = Scratch::new();
        let whole = {
            scratch.create("seg", 3);
            fs::read(path(&scratch)).unwrap()
        };
        let mut flipped = whole.clone();
        flipped[130] ^= 1;
        let garbage = vec![0x5a; whole.len()];
        type Case<'a> = (&'a [u8], fn(&HeaderError) -> bool);
        let cases: [Case<'_>; 6] = [
            (&[], |e| matches!(e, HeaderError::TooShort { found: 0, .. })),
            (&whole[..575], |e| {
                matches!(e, HeaderError::TooShort { found: 575, .. })
            }),
            (&whole[..4096], |e| {
                matches!(e, HeaderError::Size { found: 4096, .. })
            }),
            (&garbage[..7], |e| matches!(e, HeaderError::TooShort { .. })),
            (&garbage, |e| matches!(e, HeaderError::Magic { .. })),
            (&flipped, |e| matches!(e, HeaderError::Damaged { .. })),
        ];
        for (content, wanted) in cases {
            // Written over: a new file would have another mode.
            let (_, _) = open_or_create(&scratch).unwrap();
            fs::write(path(&scratch), content).unwrap();
            let error = open(&scratch).unwrap_err();
            assert!(
                matches!(&error, OpenError::Header { source, .. } if wanted(source)),
                "{error}"
            );
            assert_refused(&scratch, |error| matches!(error, OpenError::Header { .. }));
            assert_eq!(fs::read(path(&scratch)).unwrap(), content);
            assert!(remove(&scratch).unwrap());
            assert_nothing_left(&scratch);
        }
    }
}
