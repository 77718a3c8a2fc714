//! Saving a queue to a file, restoring it from there, and moving it: for a planned reboot, an
//! upgrade, or other settings.
//!
//! Everything goes along: messages with their ids, headers, attempts, priorities and kinds, delays
//! and expiry, the keys that
//! are remembered, and dead letters with their history and reasons. Nothing depends on how segments
//! are laid out, so another
//! version of this crate, and a queue with other settings, can take it.
//!
//! ```
//! use ipc_queue::snapshot::{restore, save};
//! use ipc_queue::transport::Wait;
//! use ipc_queue::{ByteQueue, QueueOptions};
//!
//! # let folder = tempfile::tempdir()?;
//! let file = folder.path().join("jobs.saved");
//! let jobs = ByteQueue::open("shm:docs/saved")?;
//! jobs.sender().send(b"resize a.png")?;
//! drop(jobs); // nobody may be attached
//! let saved = save("shm:docs/saved", &file, Wait::No)?;
//! assert_eq!(saved.messages, 1);
//!
//! // After the reboot, with room for more.
//! let larger = QueueOptions::new().capacity(4096);
//! restore(&file, "shm:docs/saved", &larger, Wait::No)?;
//! let jobs = ByteQueue::open("shm:docs/saved")?;
//! assert_eq!(jobs.receiver().try_recv()?.payload(), b"resize a.png");
//! assert!(!file.exists());
//! # ipc_queue::remove("shm:docs/saved")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What holds
//!
//! - **Each takes the messages away from where they were.** A save ends with the removal of the
//!   queue, a restore with that of
//!   the file, a move with that of the first queue. A copy that stays would be delivered twice.
//! - **Killed at any moment, run it again.** Until then every message is in at least one of the two
//!   places, and the queues are
//!   frozen: closed and paused, and [`reopen`](crate::transport::Transport::reopen) and `resume`
//!   are refused. Running the same
//!   again completes it, and every message is there exactly once. [`give_up`] opens a frozen queue
//!   with what is in it.
//! - **Nobody else may be attached**, not even idle: what another process holds can't be saved.
//!   Each waits for that as told, and
//!   [`SnapshotError::InUse`] names the processes. What processes held that died is given back
//!   first, and that
//!   attempt counts. A process that attaches meanwhile finds the queue closed and paused.
//! - **It is checked first, then moved.** A damaged file, a queue that is too small, lacks
//!   priorities or keys that are needed,
//!   or is for other payloads: each is an error, and both sides are as they were.
//! - **A snapshot is restored once.** A queue remembers the last six that were restored or moved
//!   into it; restoring one again only
//!   removes the file. A message whose id is in the queue already is not put in twice.
//!
//! What is left of delays, expiry and keys goes on while the machine is off, by the wall clock. If
//! that was set back
//! meanwhile, no time is taken off: a delay is never shorter than it was. If it was set forward,
//! they end early.
//! A queue that was paused is paused after a restore; one that was closed is open. Fencing tokens
//! name the queue that they
//! are of, so those of the restored queue are not comparable with earlier ones.
//!
//! Only queues in shared memory can be saved: `nats:` and similar are kept by their servers, a
//! `local:` queue
//! ends with its process, and a queue behind `unix:` is saved by its own address. The others are
//! [`SnapshotError::Unsupported`]; a [`Bridge`](crate::Bridge) moves messages between any
//! transports.

mod file;
pub(crate) mod record;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipc_proto::{CodecError, MessageId, Name, Priority, QueueSettings};
use ipc_shm::{Namespace, clock};
use thiserror::Error;

use self::file::{End, Frame, Head, Reader, Writer};
use self::record::{StoredKey, StoredMessage};
use crate::address::Address;
use crate::capability::{Feature, Unsupported};
use crate::control::ControlError;
use crate::error::{NoRoom, QueueError, SendPortError, Unavailable};
use crate::options::QueueOptions;
use crate::shm::{Frozen, NotFrozen, NotPut, Room, ShmQueue, TooLittle};
use crate::transport::{AttachAs, OpenMode, OpenRequest, Transport, Wait};

/// What was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Moved {
    /// Messages that were written or put in by this call, dead letters included.
    pub messages: u64,
    /// Messages that were there already: by an earlier call that was cut short.
    pub known: u64,
    /// Keys that are remembered.
    pub keys: u64,
    /// Whether an earlier call had done everything but removed what it took the messages from.
    pub was_done: bool,
}

/// Why a queue was not saved, restored or moved. One type for the three, which fail for the same
/// reasons.
///
/// Nothing was changed, except where it says otherwise.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The address is not one of a queue in shared memory.
    #[error(
        "{address}: {source} (save a served queue by its shm: address; ipc bridge moves messages between transports)"
    )]
    Unsupported {
        /// The address, without credentials.
        address: String,
        /// What it lacks.
        source: Unsupported,
    },
    /// The queue can't be opened or created.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The queue is gone, or damaged.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Other processes are attached.
    #[error(
        "queue {queue:?} is in use by process {}: stop it first, or wait longer for its end (nothing was changed)",
        numbers(processes)
    )]
    InUse {
        /// The queue's address.
        queue: String,
        /// Their numbers, each in its own PID namespace.
        processes: Vec<u32>,
    },
    /// Another operation on the queue was cut short. The queue stays frozen.
    #[error(
        "queue {queue:?} is frozen: {what} was cut short; run it again to complete it, or open the queue with what is in it \
         (ipc resume {queue} --give-up)"
    )]
    Unfinished {
        /// The queue's address.
        queue: String,
        /// Which operation.
        what: &'static str,
    },
    /// The queue that the snapshot was taken of is still there, and was opened again since: what is
    /// in the snapshot may have been
    /// delivered.
    #[error(
        "queue {queue:?} is the one that {} was taken of, and was used again since: what the file holds may have been \
         delivered; remove the file, or restore it under another name to look",
        file.display()
    )]
    StillThere {
        /// The queue's address.
        queue: String,
        /// The snapshot.
        file: PathBuf,
    },
    /// There is no such file.
    #[error("there is no snapshot {}", file.display())]
    NoFile {
        /// The path.
        file: PathBuf,
    },
    /// There is a file of that name, which may be the only place of other messages.
    #[error(
        "{} exists already, and is not what this save began: restore it first, or choose another name",
        file.display()
    )]
    FileExists {
        /// The path.
        file: PathBuf,
    },
    /// The file is not a whole snapshot.
    #[error(
        "{} is damaged at byte {at}: {reason} (nothing was restored; take another copy of the file)",
        file.display()
    )]
    Damaged {
        /// The path.
        file: PathBuf,
        /// Where the frame begins that can't be read.
        at: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A later version of this crate wrote the file.
    #[error(
        "{} has version {found} of the format, this program knows versions up to {known}: restore it with the version of \
         ipc-queue that saved it, or a later one",
        file.display()
    )]
    LaterVersion {
        /// The path.
        file: PathBuf,
        /// The file's version.
        found: u32,
        /// The latest that this program knows.
        known: u32,
    },
    /// Not everything has room in the queue.
    #[error(
        "queue {queue:?} is too small: its setting {setting} is {has}, and {needed} are needed (nothing was moved; use a \
         queue with a larger one)"
    )]
    TooSmall {
        /// The queue's address.
        queue: String,
        /// The setting to enlarge.
        setting: &'static str,
        /// What it is.
        has: u64,
        /// What it must be at least, with what is in the queue now.
        needed: u64,
    },
    /// The queue was created without something that is needed.
    #[error(
        "queue {queue:?} was created without {feature}, and {count} of what is to be put in need it (nothing was moved; use a \
         queue with {feature})"
    )]
    Lacks {
        /// The queue's address.
        queue: String,
        /// What it lacks.
        feature: Feature,
        /// The number of messages, or of keys.
        count: u64,
    },
    /// Both addresses name the same queue.
    #[error("{queue:?} can't be moved to itself: choose another name")]
    Same {
        /// The queue's address.
        queue: String,
    },
    /// The file, or its folder, can't be read or written.
    #[error("{}: {source}", file.display())]
    Io {
        /// The path.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A message can't be written down.
    #[error(transparent)]
    Encode(#[from] CodecError),
    /// A message could not be put in although there was room. The queue stays frozen: run it again.
    #[error("queue {queue:?}: {source}; part of the messages is in it: run the same again")]
    NotPut {
        /// The queue's address.
        queue: String,
        /// Why.
        source: SendPortError,
    },
}

/// Writes everything in a queue to a file, then removes the queue.
///
/// # Errors
/// [`SnapshotError`]. If it is not `Unfinished`, the queue is as it was.
pub fn save(queue: &str, file: &Path, wait: Wait) -> Result<Moved, SnapshotError> {
    save_from(&Place::parse(queue)?, file, wait)
}

/// As [`save`], of a queue in any folder.
///
/// # Errors
/// As [`save`].
pub fn save_from(place: &Place, file: &Path, wait: Wait) -> Result<Moved, SnapshotError> {
    let opened = match place.open_existing() {
        Err(QueueError::NotFound { .. }) if is_of(file, place) => return whole(file),
        opened => opened?,
    };
    let frozen = place.freeze(opened, wait)?;
    if frozen.restoring().is_some() {
        return Err(place.unfinished("a restore or a move into it"));
    }
    let was_begun = frozen.saving();
    match Reader::open(file) {
        Err(SnapshotError::NoFile { .. }) => {}
        Ok(reader) if Some(reader.head.id) == was_begun => {
            let moved = whole(file)?;
            place.remove(frozen)?;
            return Ok(moved);
        }
        Ok(_) | Err(SnapshotError::Damaged { .. } | SnapshotError::LaterVersion { .. }) => {
            place.thaw_unless(frozen, was_begun.is_some());
            return Err(SnapshotError::FileExists {
                file: file.to_owned(),
            });
        }
        Err(error) => {
            place.thaw_unless(frozen, was_begun.is_some());
            return Err(error);
        }
    }
    match write(&frozen, place, file) {
        Ok(end) => {
            place.remove(frozen)?;
            Ok(Moved {
                messages: end.messages,
                keys: end.keys,
                ..Moved::default()
            })
        }
        Err(error) => {
            file::remove_part(file);
            // The file may have its name, if only its folder was not synced. Then the next save
            // goes on.
            place.thaw_unless(frozen, was_begun.is_some() || file.exists());
            Err(error)
        }
    }
}

/// Puts everything in a file into a queue, then removes the file. A queue that does not exist is
/// created, with the settings that
/// the saved one had; those that `options` gives go before. A queue that exists must agree with
/// those that are given.
///
/// A new queue remembers at least as many keys as are in the file.
///
/// # Errors
/// [`SnapshotError`]. If it is not `Unfinished` or `NotPut`, the queue and the file are as they
/// were.
pub fn restore(
    file: &Path,
    queue: &str,
    options: &QueueOptions,
    wait: Wait,
) -> Result<Moved, SnapshotError> {
    restore_to(&Place::parse(queue)?, file, options, wait)
}

/// As [`restore`], into a queue in any folder.
///
/// # Errors
/// As [`restore`].
pub fn restore_to(
    place: &Place,
    file: &Path,
    options: &QueueOptions,
    wait: Wait,
) -> Result<Moved, SnapshotError> {
    let (head, end) = check_whole(file)?;
    let (opened, origin) =
        place.open_or_create(options, &head.settings, &head.payload, end.keys)?;
    let is_the_saved_one = opened.id() == head.queue;
    let frozen = place.freeze(opened, wait)?;
    let moved = match (frozen.restoring(), frozen.saving()) {
        (None, Some(saving)) if saving == head.id => {
            // The save was cut short before it removed the queue: everything is still there.
            frozen.note_done(head.id);
            Moved {
                known: end.messages,
                was_done: true,
                ..Moved::default()
            }
        }
        (_, Some(_)) => return Err(place.unfinished("a save or a move of it")),
        _ if frozen.is_done(head.id) => Moved {
            known: end.messages,
            was_done: true,
            ..Moved::default()
        },
        (None, None) if is_the_saved_one => {
            frozen.thaw();
            return Err(SnapshotError::StillThere {
                queue: place.address.clone(),
                file: file.to_owned(),
            });
        }
        (restoring, None) => {
            if restoring.is_some_and(|id| id != head.id) {
                return Err(place.unfinished("another restore, or a move into it,"));
            }
            let passed = Duration::from_nanos(
                (clock::wall().as_nanos()).saturating_sub(head.saved_at.as_nanos()),
            );
            let source = || Source::of_file(file);
            match Sink::new(&frozen, place, head.id, passed).fill(head.paused, source) {
                Ok(moved) => moved,
                Err(error) => {
                    let stays = frozen_for_good(&error) || restoring.is_some();
                    place.undo(frozen, stays, origin);
                    return Err(error);
                }
            }
        }
    };
    frozen.thaw();
    file::remove(file)?;
    Ok(moved)
}

/// Moves everything in a queue to another one, then removes the first. A second queue that does not
/// exist is created, as by
/// [`restore`].
///
/// # Errors
/// [`SnapshotError`]. If it is not `Unfinished` or `NotPut`, both queues are as they were.
pub fn move_queue(
    from: &str,
    to: &str,
    options: &QueueOptions,
    wait: Wait,
) -> Result<Moved, SnapshotError> {
    let (from, to) = (Place::parse(from)?, Place::parse(to)?);
    if from.address == to.address {
        return Err(SnapshotError::Same {
            queue: from.address,
        });
    }
    let first = from.open_existing()?;
    let payload = first.payload().unwrap_or_default().to_owned();
    let settings = first.settings().clone();
    let first = from.freeze(first, wait)?;
    if first.restoring().is_some() {
        return Err(from.unfinished("a restore or a move into it"));
    }
    let was_begun = first.saving().is_some();
    let keys = first.keys();
    let second = to
        .open_or_create(options, &settings, &payload, keys.len() as u64)
        .map_err(SnapshotError::from)
        .and_then(|(second, origin)| Ok((to.freeze(second, wait)?, origin)));
    let (second, origin) = match second {
        Ok(second) => second,
        Err(error) => {
            from.thaw_unless(first, was_begun);
            return Err(error);
        }
    };
    let id = first.begin_saving();
    let restoring = second.restoring();
    if second.saving().is_some() || restoring.is_some_and(|other| other != id) {
        from.thaw_unless(first, was_begun);
        return Err(to.unfinished("another save, restore or move"));
    }
    let moved = if second.is_done(id) {
        Moved {
            was_done: true,
            ..Moved::default()
        }
    } else {
        let source = || Ok(Source::of_queue(&first, &keys));
        let paused = first.was_paused();
        match Sink::new(&second, &to, id, Duration::ZERO).fill(paused, source) {
            Ok(moved) => moved,
            Err(error) => {
                let stays = frozen_for_good(&error) || restoring.is_some();
                to.undo(second, stays, origin);
                from.thaw_unless(first, stays || was_begun);
                return Err(error);
            }
        }
    };
    second.thaw();
    from.remove(first)?;
    Ok(moved)
}

/// Opens a queue that an operation left frozen, with whatever is in it. Messages that are also in
/// the other place may be
/// delivered twice if the operation is run again after all.
///
/// # Errors
/// [`SnapshotError`]; `InUse` while a process is at it.
pub fn give_up(queue: &str, wait: Wait) -> Result<(), SnapshotError> {
    let place = Place::parse(queue)?;
    let opened = place.open_existing()?;
    place.freeze(opened, wait)?.thaw();
    Ok(())
}

/// Whether a queue was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Found,
    Created,
}

/// A queue in shared memory, by its name and the folder of its namespace.
#[derive(Clone, Debug)]
pub struct Place {
    namespace: Namespace,
    name: Name,
    address: String,
}

impl Place {
    /// The queue `name` of a namespace.
    #[must_use]
    pub fn new(namespace: &Namespace, name: &Name) -> Self {
        Self {
            address: format!("shm:{}/{name}", namespace.name()),
            namespace: namespace.clone(),
            name: name.clone(),
        }
    }

    /// That of an opened queue.
    #[must_use]
    pub fn of(queue: &ShmQueue) -> Self {
        let (namespace, name) = queue.place();
        Self::new(&namespace, &name)
    }

    fn parse(address: &str) -> Result<Self, SnapshotError> {
        let Address::Shm { namespace, name } = address.parse()? else {
            return Err(SnapshotError::Unsupported {
                address: crate::address::without_secrets(address).to_string(),
                source: Unsupported::by_transport(Feature::Snapshot),
            });
        };
        let namespace = Namespace::new(namespace.as_str()).map_err(QueueError::from)?;
        Ok(Self::new(&namespace, &name))
    }

    fn open_existing(&self) -> Result<ShmQueue, QueueError> {
        let request = OpenRequest {
            mode: OpenMode::Open,
            payload: OpenRequest::ANY_PAYLOAD.to_owned(),
            attach_as: AttachAs::Tool,
            ..OpenRequest::default()
        };
        ShmQueue::open(&self.namespace, &self.name, &request)
    }

    fn open_or_create(
        &self,
        options: &QueueOptions,
        settings: &QueueSettings,
        payload: &str,
        keys: u64,
    ) -> Result<(ShmQueue, Origin), QueueError> {
        let mut request = options.over(settings.clone(), payload);
        if !options.gives("dedup_keys") && request.settings.dedup_window.is_some() {
            let keys = u32::try_from(keys).unwrap_or(u32::MAX);
            let keys = keys.min(QueueSettings::MAX_DEDUP_KEYS).next_power_of_two();
            request.settings.dedup_keys = request.settings.dedup_keys.max(keys);
        }
        loop {
            for (mode, origin) in [
                (OpenMode::Open, Origin::Found),
                (OpenMode::Create, Origin::Created),
            ] {
                request.mode = mode;
                match ShmQueue::open(&self.namespace, &self.name, &request) {
                    Err(QueueError::NotFound { .. }) if origin == Origin::Found => {}
                    // Created by another process just now.
                    Err(QueueError::Exists { .. }) if origin == Origin::Created => {}
                    opened => return Ok((opened?, origin)),
                }
            }
        }
    }

    fn freeze(&self, queue: ShmQueue, wait: Wait) -> Result<Frozen, SnapshotError> {
        Frozen::freeze(queue, wait).map_err(|error| match error {
            NotFrozen::InUse(processes) => SnapshotError::InUse {
                queue: self.address.clone(),
                processes,
            },
            NotFrozen::Gone(error) => error.into(),
        })
    }

    /// Leaves a queue frozen that must stay so, and thaws others.
    fn thaw_unless(&self, frozen: Frozen, stays: bool) {
        if !stays {
            frozen.thaw();
        }
    }

    /// Leaves a queue that nothing was put into as it was found.
    fn undo(&self, frozen: Frozen, stays: bool, origin: Origin) {
        match origin {
            Origin::Created if !stays => {
                // Else an empty queue would be left, with settings that the next try may not want.
                let _ = self.remove(frozen);
            }
            _ => self.thaw_unless(frozen, stays),
        }
    }

    /// Removes a queue of which everything is elsewhere.
    fn remove(&self, frozen: Frozen) -> Result<(), SnapshotError> {
        ShmQueue::remove(&self.namespace, &self.name)?;
        drop(frozen);
        Ok(())
    }

    fn unfinished(&self, what: &'static str) -> SnapshotError {
        SnapshotError::Unfinished {
            queue: self.address.clone(),
            what,
        }
    }
}

fn write(frozen: &Frozen, place: &Place, file: &Path) -> Result<End, SnapshotError> {
    let queue = frozen.queue();
    let head = Head {
        id: frozen.begin_saving(),
        queue: queue.id(),
        address: place.address.clone(),
        payload: queue.payload().unwrap_or_default().to_owned(),
        settings: queue.settings().clone(),
        paused: frozen.was_paused(),
        saved_at: clock::wall(),
    };
    let mut writer = Writer::create(file, &head)?;
    for message in frozen.messages() {
        writer.message(&message?)?;
    }
    for key in frozen.keys() {
        writer.key(&key)?;
    }
    // What was read of a queue that is cut short meanwhile may be zeroes.
    queue.stats()?;
    writer.finish()
}

/// Reads a whole file, and finds nothing wrong with it.
fn check_whole(file: &Path) -> Result<(Head, End), SnapshotError> {
    let mut reader = Reader::open(file)?;
    let mut end = End::default();
    while let Some(frame) = reader.next()? {
        match frame {
            Frame::Message(_) => end.messages += 1,
            Frame::Key(_) => end.keys += 1,
            Frame::End => {}
        }
    }
    Ok((reader.head, end))
}

/// What an earlier save wrote.
fn whole(file: &Path) -> Result<Moved, SnapshotError> {
    let (_, end) = check_whole(file)?;
    Ok(Moved {
        messages: end.messages,
        keys: end.keys,
        was_done: true,
        ..Moved::default()
    })
}

/// Whether there is a snapshot of that queue.
fn is_of(file: &Path, place: &Place) -> bool {
    Reader::open(file).is_ok_and(|reader| reader.head.address == place.address)
}

/// Whether part of the messages may be in.
fn frozen_for_good(error: &SnapshotError) -> bool {
    matches!(error, SnapshotError::NotPut { .. })
}

/// Where messages and keys come from.
enum Source<'a> {
    File(Box<Reader>),
    Queue(
        Box<dyn Iterator<Item = Result<StoredMessage, ControlError>> + 'a>,
        std::slice::Iter<'a, StoredKey>,
    ),
}

impl<'a> Source<'a> {
    fn of_file(file: &Path) -> Result<Self, SnapshotError> {
        Ok(Self::File(Box::new(Reader::open(file)?)))
    }

    fn of_queue(frozen: &'a Frozen, keys: &'a [StoredKey]) -> Self {
        Self::Queue(Box::new(frozen.messages()), keys.iter())
    }

    fn next(&mut self) -> Result<Option<Frame>, SnapshotError> {
        match self {
            Self::File(reader) => reader.next(),
            Self::Queue(messages, keys) => {
                if let Some(message) = messages.next() {
                    return Ok(Some(Frame::Message(Box::new(message?))));
                }
                Ok(keys.next().map(|key| Frame::Key(*key)))
            }
        }
    }
}

/// Where they go.
struct Sink<'a> {
    frozen: &'a Frozen,
    place: &'a Place,
    id: u64,
    passed: Duration,
    /// What is in the queue already.
    known: HashSet<MessageId>,
}

impl<'a> Sink<'a> {
    fn new(frozen: &'a Frozen, place: &'a Place, id: u64, passed: Duration) -> Self {
        Self {
            frozen,
            place,
            id,
            passed,
            known: frozen.ids(),
        }
    }

    /// Checks that there is room for all, then puts all in.
    fn fill<'s>(
        mut self,
        paused: bool,
        source: impl Fn() -> Result<Source<'s>, SnapshotError>,
    ) -> Result<Moved, SnapshotError> {
        self.check(source()?)?;
        self.frozen.begin_restoring(self.id);
        let mut moved = Moved::default();
        let mut source = source().map_err(|error| self.not_put(error.to_string()))?;
        while let Some(frame) = (source.next()).map_err(|error| self.not_put(error.to_string()))? {
            match frame {
                Frame::Message(message) if !self.known.insert(message.id) => moved.known += 1,
                Frame::Message(message) => {
                    self.put(&message)?;
                    moved.messages += 1;
                }
                Frame::Key(key) => {
                    if !self.frozen.put_key(key, self.passed) {
                        return Err(self.not_put("there was no place for a key".to_owned()));
                    }
                    moved.keys += 1;
                }
                Frame::End => {}
            }
        }
        // What was put into a queue that was cut short meanwhile may be lost.
        (self.frozen.queue().stats()).map_err(|error| self.not_put(error.to_string()))?;
        if paused {
            self.frozen.stay_paused();
        }
        self.frozen.note_done(self.id);
        Ok(moved)
    }

    fn put(&self, message: &StoredMessage) -> Result<(), SnapshotError> {
        self.frozen
            .put(message, self.passed)
            .map_err(|error| SnapshotError::NotPut {
                queue: self.place.address.clone(),
                source: match error {
                    NotPut::NoPlace => self.no_room(NoRoom::Places {
                        capacity: self.frozen.queue().settings().capacity,
                    }),
                    NotPut::NoMemory => self.no_room(NoRoom::Memory {
                        bytes: message.payload.len() as u64,
                    }),
                    NotPut::Failed(failure) => failure.into(),
                },
            })
    }

    fn no_room(&self, missing: NoRoom) -> SendPortError {
        SendPortError::NoRoom {
            missing,
            waited: None,
            dead: 0,
        }
    }

    fn not_put(&self, reason: String) -> SnapshotError {
        SnapshotError::NotPut {
            queue: self.place.address.clone(),
            source: Unavailable::transport(reason).into(),
        }
    }

    /// Whether everything has room, and all that it needs.
    fn check(&self, mut source: Source<'_>) -> Result<(), SnapshotError> {
        let mut room = self.frozen.room();
        let settings = room.settings.clone();
        let mut lacking = Lacking::default();
        let mut keys = 0;
        while let Some(frame) = source.next()? {
            match frame {
                Frame::Message(message) if self.known.contains(&message.id) => {}
                Frame::Message(message) => {
                    if !settings.priorities && message.priority != Priority::default() {
                        lacking.priorities += 1;
                    } else {
                        lacking.take(&mut room, &message);
                    }
                }
                Frame::Key(_) => keys += 1,
                Frame::End => {}
            }
        }
        let lacks = |feature, count| SnapshotError::Lacks {
            queue: self.place.address.clone(),
            feature,
            count,
        };
        if lacking.priorities > 0 {
            return Err(lacks(Feature::Priorities, lacking.priorities));
        }
        if keys > 0 && settings.dedup_window.is_none() {
            return Err(lacks(Feature::Deduplication, keys));
        }
        let too_small = |setting, has: u64, needed| SnapshotError::TooSmall {
            queue: self.place.address.clone(),
            setting,
            has,
            needed,
        };
        let has = u64::from(settings.max_message_bytes.max(settings.inline_bytes));
        if lacking.largest > has {
            return Err(too_small("max_message_bytes", has, lacking.largest));
        }
        if lacking.places > 0 {
            let has = u64::from(settings.capacity);
            return Err(too_small("capacity", has, has + lacking.places));
        }
        if lacking.bytes > 0 {
            let has = settings.pool_bytes;
            return Err(too_small("pool_bytes", has, has + 4 * lacking.bytes));
        }
        let all_keys = keys + self.frozen.queue().stats()?.keys;
        if keys > 0 && self.frozen.restoring().is_none() && all_keys > settings.dedup_keys.into() {
            let has = u64::from(settings.dedup_keys);
            return Err(too_small("dedup_keys", has, all_keys.next_power_of_two()));
        }
        Ok(())
    }
}

/// What there is no room for.
#[derive(Debug, Default)]
struct Lacking {
    priorities: u64,
    places: u64,
    bytes: u64,
    largest: u64,
}

impl Lacking {
    fn take(&mut self, room: &mut Room, message: &StoredMessage) {
        match room.take(message) {
            Ok(()) => {}
            Err(TooLittle::MaxMessageBytes(bytes)) => self.largest = self.largest.max(bytes),
            Err(TooLittle::Capacity) => self.places += 1,
            Err(TooLittle::PoolBytes) => self.bytes += message.payload.len() as u64,
        }
    }
}

impl SnapshotError {
    fn io(file: &Path, source: io::Error) -> Self {
        Self::Io {
            file: file.to_owned(),
            source,
        }
    }
}

fn numbers(processes: &[u32]) -> String {
    let numbers: Vec<_> = processes.iter().map(u32::to_string).collect();
    numbers.join(", ")
}
