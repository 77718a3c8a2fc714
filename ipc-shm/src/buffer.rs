//! Bytes that processes share by name, under one lock.
//!
//! The body of a buffer's segment:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | the lock's word, see `lock` |
//! | 8 | 32 | what is being written and what is torn, see `tear` |
//! | 40 | 8 | the notice: from whom the lock was inherited, if no guard was told yet |
//! | 64 | | the bytes |
//!
//! Any process may die at any moment. One that dies while it writes leaves a tear: the range is remembered in the
//! segment, and reading any of it is an error until somebody writes it anew, or accepts it. One that
//! dies between two writes under one lock leaves whole writes that do not belong together. Whoever inherits the lock
//! leaves a notice of that, for a guard to find and to remove when it is dropped: a mere `read_at` may come
//! first, and would not know what to do about it.
//! The buffer lives until it is removed, whoever uses it. Does not know what the bytes mean, nor tell
//! anybody that they changed.

mod guard;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ipc_proto::{Name, NameError};
use thiserror::Error;

pub use guard::BufferGuard;

use crate::layout::{Expected, Header, HeaderError, Kind, PARAMS, PayloadType, fingerprint};
use crate::liveness::ProcessIdentity;
use crate::lock::{Inherited, LockError, RobustLock};
use crate::mapping::{CACHE_LINE_BYTES, Mapping, Words};
use crate::namespace::{Namespace, NamespaceError};
use crate::participant::{Attachment, JoinError, Member, Participant, Participants, Presence};
use crate::segment::{CreateError, Created, OpenError, OpenOrCreateError, Segment};
use crate::tear::{self, Tears};
use crate::watch::{self, Running, Watched};

/// How long reading and writing wait for the lock, unless told otherwise.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// How many processes can use a buffer at once, unless it is created for more or fewer.
pub const MAX_PROCESSES: u16 = 128;

/// Shared bytes that this process is connected to.
///
/// All methods may be called from several threads at once; they and all other processes take turns, by one
/// lock. Dropping it disconnects this process and leaves the buffer in place.
pub struct SharedBuffer {
    attachment: Arc<Attachment>,
    lock: RobustLock,
    tears: Words<{ tear::WORDS }>,
    /// Written and read by whoever holds the lock.
    notice: Words<1>,
    len: usize,
    timeout: Duration,
    _peers: Arc<Peers>,
}

/// Why a buffer was not created, connected to or removed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BufferError {
    /// That can't be a buffer's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It was not created.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// It was not opened, or not removed.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It exists and has another length.
    #[error("{name:?} has {found} bytes, not {wanted}: connect to it as it is, or remove it first")]
    OtherLength {
        /// Its name.
        name: String,
        /// Its length in bytes.
        found: usize,
        /// The length asked for.
        wanted: usize,
    },
    /// No machine has so much memory.
    #[error("{name:?} can't have {len} bytes: that is more than this machine can address")]
    TooLong {
        /// Its name.
        name: String,
        /// The length asked for.
        len: usize,
    },
    /// As many processes use it as were planned for.
    #[error(
        "{processes} processes use {name:?}, as many as it was made for: end one, or create it with \
         `create_for` more"
    )]
    TooManyProcesses {
        /// Its name.
        name: String,
        /// How many can use it at once.
        processes: u16,
    },
    /// This process could not take a place in it.
    #[error(transparent)]
    Join(JoinError),
}

/// Why bytes were not read or written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AccessError {
    /// They are not in the buffer.
    #[error(
        "{len} bytes at offset {offset} do not lie in a buffer of {size} bytes: nothing was read or written"
    )]
    OutOfRange {
        /// Where they would begin.
        offset: usize,
        /// How many.
        len: usize,
        /// How long the buffer is.
        size: usize,
    },
    /// A process was killed while it wrote some of them.
    #[error(
        "bytes {from}..{to} of {name:?} are torn, their writer was killed half-way: write all of them \
         anew, or take what is there with `accept_torn`"
    )]
    Torn {
        /// The buffer.
        name: String,
        /// The first torn byte.
        from: usize,
        /// The first after it that is whole again.
        to: usize,
    },
    /// The lock was not to be had.
    #[error(transparent)]
    Lock(#[from] LockError),
}

impl SharedBuffer {
    /// Makes a buffer of `len` zeroes and connects to it. It lives until it is [removed](Self::remove).
    ///
    /// Up to [`MAX_PROCESSES`] can use it at once.
    ///
    /// # Errors
    /// [`BufferError::Create`] with [`CreateError::Exists`] if the name is taken, or with
    /// [`CreateError::NoSpace`], and the figures, if the memory is not there.
    pub fn create(namespace: &Namespace, name: &str, len: usize) -> Result<Self, BufferError> {
        Self::create_for(namespace, name, len, MAX_PROCESSES)
    }

    /// As [`create`](Self::create), for up to `processes` that use it at once. Each costs 192 bytes.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_for(
        namespace: &Namespace,
        name: &str,
        len: usize,
        processes: u16,
    ) -> Result<Self, BufferError> {
        let name = Name::new(name)?;
        let header = header(&name, len, processes)?;
        Self::join(Segment::create(namespace, &name, &header)?)
    }

    /// Connects to the buffer of that name.
    ///
    /// # Errors
    /// [`BufferError::Open`] with [`OpenError::NotFound`] if there is none; every other variant says what is
    /// wrong with what was found.
    pub fn connect(namespace: &Namespace, name: &str) -> Result<Self, BufferError> {
        let name = Name::new(name)?;
        Self::join(Segment::open(namespace, &name, &expected())?)
    }

    /// Connects to the buffer of that name, or makes it.
    ///
    /// Of several processes that do this at once, one makes it and all get the same.
    ///
    /// # Errors
    /// [`BufferError::OtherLength`] if it exists and does not have `len` bytes; otherwise as
    /// [`create`](Self::create) and [`connect`](Self::connect), but for `NotFound` and `Exists`.
    pub fn open_or_create(
        namespace: &Namespace,
        name: &str,
        len: usize,
    ) -> Result<(Self, Created), BufferError> {
        let name = Name::new(name)?;
        let header = header(&name, len, MAX_PROCESSES)?;
        let (segment, created) = Segment::open_or_create(namespace, &name, &header)?;
        let found = checked_len(&segment)?;
        if found != len {
            return Err(BufferError::OtherLength {
                name: name.to_string(),
                found,
                wanted: len,
            });
        }
        Ok((Self::join(segment)?, created))
    }

    /// Removes the buffer of that name; `Ok(false)` if there was none.
    ///
    /// Whoever is connected gets [`LockError::Removed`] from the next call, or from the one that waits. Works on
    /// damaged buffers too.
    ///
    /// # Errors
    /// [`BufferError::Name`]; [`BufferError::Open`] if the folder or file is refused.
    pub fn remove(namespace: &Namespace, name: &str) -> Result<bool, BufferError> {
        Ok(Segment::remove(namespace, &Name::new(name)?, KIND)?)
    }

    /// The names of all buffers of a namespace, sorted; also of those that can't be connected to.
    ///
    /// # Errors
    /// [`NamespaceError`] when the folder is refused or can't be read.
    pub fn list(namespace: &Namespace) -> Result<Vec<Name>, NamespaceError> {
        Segment::list(namespace, KIND)
    }

    fn join(segment: Segment) -> Result<Self, BufferError> {
        let len = checked_len(&segment)?;
        let table = Participants::of(&segment);
        free(&segment, &table, &table.departed(&segment));
        let name = segment.name().to_string();
        let attachment = Attachment::join(segment, &our_name()).map_err(|error| match error {
            JoinError::Full { slots, .. } => BufferError::TooManyProcesses {
                name,
                processes: slots,
            },
            other => BufferError::Join(other),
        })?;
        let attachment = Arc::new(attachment);
        let peers = Arc::new(Peers(Arc::clone(&attachment)));
        // Weak: the watcher must not keep us connected.
        let watched: Arc<dyn Watched> = peers.clone();
        watch::watch(Arc::downgrade(&watched));
        let segment = attachment.segment();
        let body = segment.header().body_offset;
        let inside = "checked by `checked_len`";
        Ok(Self {
            lock: RobustLock::new(Arc::clone(&attachment), body + OWNER, LOCK_EVENT).expect(inside),
            tears: segment.mapping().words(body + TEARS, 8, 1).expect(inside),
            notice: segment.mapping().words(body + NOTICE, 8, 1).expect(inside),
            len,
            timeout: LOCK_TIMEOUT,
            _peers: peers,
            attachment,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        self.segment().name()
    }

    /// How many bytes it has. Never changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Who uses it now, this process included. Others may come and go while you look, and one that was killed
    /// this moment is still named.
    #[must_use]
    pub fn users(&self) -> Vec<Participant> {
        let slots = self.attachment.participants().iter();
        slots
            .filter(|slot| slot.presence == Presence::Live)
            .collect()
    }

    /// Sets how long this handle's calls wait for the lock; [`LOCK_TIMEOUT`] at first, `Duration::MAX`: as
    /// long as it takes.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Copies `bytes` to `offset`. Nobody sees a part of it.
    ///
    /// # Errors
    /// [`AccessError::OutOfRange`]; [`AccessError::Lock`] as [`lock`](Self::lock).
    pub fn write_at(&self, offset: usize, bytes: &[u8]) -> Result<(), AccessError> {
        self.range(offset, bytes.len())?;
        self.turn(self.deadline())?.write_at(offset, bytes)
    }

    /// Copies the bytes at `offset` into `to`, as one write left them.
    ///
    /// # Errors
    /// [`AccessError::OutOfRange`]; [`AccessError::Torn`] if the writer of any of them was killed half-way;
    /// [`AccessError::Lock`] as [`lock`](Self::lock). `to` is untouched then.
    pub fn read_at(&self, offset: usize, to: &mut [u8]) -> Result<(), AccessError> {
        self.range(offset, to.len())?;
        self.turn(self.deadline())?.read_at(offset, to)
    }

    /// The `len` bytes at `offset`, as one write left them.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn read_to_vec(&self, offset: usize, len: usize) -> Result<Vec<u8>, AccessError> {
        // Checked before anything of that size is allocated.
        self.range(offset, len)?;
        self.turn(self.deadline())?.read_to_vec(offset, len)
    }

    /// Declares the torn bytes good as they are; which they were.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    pub fn accept_torn(&self) -> Result<Option<Range<usize>>, LockError> {
        self.turn(self.deadline())?.accept_torn()
    }

    /// Locks the buffer for several reads and writes, waiting as long as is [set](Self::set_timeout).
    ///
    /// Not re-entrant: `buffer.read_at(..)` while this thread has a guard waits for itself; use the guard's.
    ///
    /// # Errors
    /// [`LockError::TimedOut`], saying who holds it; [`LockError::Removed`]; [`LockError::Deleted`];
    /// [`LockError::DescriptorLost`]; [`LockError::Truncated`]; [`LockError::ForkedChild`] in a process that was forked after it connected; [`LockError::Damaged`].
    pub fn lock(&self) -> Result<BufferGuard<'_>, LockError> {
        self.lock_until(self.deadline())
    }

    /// As [`lock`](Self::lock), waiting until `deadline`. One that has passed already asks once.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    pub fn lock_deadline(&self, deadline: Instant) -> Result<BufferGuard<'_>, LockError> {
        self.lock_until(Some(deadline))
    }

    fn lock_until(&self, deadline: Option<Instant>) -> Result<BufferGuard<'_>, LockError> {
        let mut guard = self.turn(deadline)?;
        guard.inherited = Inherited::from_word(self.notice().load(Ordering::SeqCst));
        Ok(guard)
    }

    /// Locks, and keeps in the segment what a dead holder left. Killed before that is done, we are a
    /// dead holder ourselves, and whoever is next does it.
    fn turn(&self, deadline: Option<Instant>) -> Result<BufferGuard<'_>, LockError> {
        let lock = self.lock.lock(deadline)?;
        if lock.inherited() != Inherited::No {
            let notice = lock.inherited().to_word();
            self.notice().store(notice, Ordering::SeqCst);
        }
        self.tears().inherit();
        Ok(BufferGuard {
            buffer: self,
            lock,
            inherited: Inherited::No,
        })
    }

    /// A time-out beyond the clock's end is none.
    fn deadline(&self) -> Option<Instant> {
        Instant::now().checked_add(self.timeout)
    }

    fn notice(&self) -> &AtomicU64 {
        &self.notice.get(0)[0]
    }

    fn range(&self, offset: usize, len: usize) -> Result<Range<usize>, AccessError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(offset..end),
            _ => Err(AccessError::OutOfRange {
                offset,
                len,
                size: self.len,
            }),
        }
    }

    /// Only for whoever holds the lock.
    fn tears(&self) -> Tears<'_> {
        Tears::new(self.tears.get(0), self.len)
    }

    fn segment(&self) -> &Segment {
        self.attachment.segment()
    }

    fn mapping(&self) -> &Mapping {
        self.segment().mapping()
    }

    fn offset_of(&self, range: &Range<usize>) -> usize {
        self.segment().header().body_offset + BYTES + range.start
    }
}

impl fmt::Debug for SharedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBuffer")
            .field("path", &self.segment().path())
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Drop for SharedBuffer {
    fn drop(&mut self) {
        if self.attachment.is_this_process() {
            self.attachment.leave();
            let table = self.attachment.participants();
            table.release(self.segment(), self.attachment.member());
        }
    }
}

impl From<OpenOrCreateError> for BufferError {
    fn from(error: OpenOrCreateError) -> Self {
        match error {
            OpenOrCreateError::Open(error) => Self::Open(error),
            OpenOrCreateError::Create(error) => Self::Create(error),
        }
    }
}

/// Who else uses the buffer, for the watcher.
#[derive(Debug)]
struct Peers(Arc<Attachment>);

impl Watched for Peers {
    fn peers(&self) -> Vec<ProcessIdentity> {
        let ours = self.0.member().index;
        let slots = self.0.participants().iter();
        slots
            .filter(|slot| slot.presence == Presence::Live && slot.member.index != ours)
            .map(|slot| slot.process)
            .collect()
    }

    fn look(&self, running: &Running) -> Option<Instant> {
        self.0.check_file();
        if !self.0.is_ours() {
            return None;
        }
        let dead = self.0.departed_beside(running);
        free(self.0.segment(), self.0.participants(), &dead);
        None
    }
}

/// Frees the slots of the dead. What else they held, the lock, is inherited by whoever wants it.
fn free(segment: &Segment, table: &Participants, dead: &[Member]) {
    if dead.is_empty() {
        return;
    }
    // First: killed after it, we leave slots that the next to look frees, and wakes everybody again.
    segment.notify_all();
    for member in dead {
        table.release(segment, *member);
    }
}

fn header(name: &Name, len: usize, processes: u16) -> Result<Header, BufferError> {
    let mut params = [0; PARAMS];
    params[LEN_PARAM] = len as u64;
    let body = BYTES.checked_add(len);
    body.and_then(|body| Header::new(KIND, LAYOUT, PayloadType::bytes(), processes, params, body))
        .ok_or_else(|| BufferError::TooLong {
            name: name.to_string(),
            len,
        })
}

fn expected() -> Expected {
    Expected {
        kind: KIND,
        layout_hash: LAYOUT,
        payload: Some(PayloadType::bytes()),
    }
}

/// The buffer's length, if it fits the file.
fn checked_len(segment: &Segment) -> Result<usize, OpenError> {
    let header = segment.header();
    let found = header.params[LEN_PARAM];
    let room = (header.total_bytes - header.body_offset).checked_sub(BYTES);
    match (usize::try_from(found), room) {
        (Ok(len), Some(room)) if len <= room => Ok(len),
        _ => Err(OpenError::Header {
            path: segment.path(),
            source: HeaderError::Field {
                field: "buffer length",
                found,
            },
        }),
    }
}

/// What this process is called in messages to people: its program's name.
fn our_name() -> String {
    let name = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    name.trim_end().to_owned()
}

const KIND: Kind = Kind::new("buffer");
/// Changes with the table above, or with what `lock` and `tear` mean by their words.
const LAYOUT: u64 =
    fingerprint(b"buffer: owner, writing from to, torn from to, notice, at 64 bytes");
const LEN_PARAM: usize = 0;
const OWNER: usize = 0;
const TEARS: usize = 8;
const NOTICE: usize = 40;
const BYTES: usize = CACHE_LINE_BYTES;
const LOCK_EVENT: usize = 0;
