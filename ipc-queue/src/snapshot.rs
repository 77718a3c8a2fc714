//! Saves a queue to a file, restores it, and moves it: for a planned reboot, an upgrade, or other
//! settings.
//!
//! A snapshot contains everything: messages with their ids, headers, attempts, priorities and
//! kinds; their delays and expiry times; the remembered keys; and dead letters with their history
//! and reasons. The format does not depend on the layout of segments. So another version of this
//! crate, and a queue with other settings, can restore it.
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
//! drop(jobs); // no process may be attached
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
//! # Guarantees
//!
//! - **Each operation removes the messages from their origin.** A save ends with the removal of the
//!   queue, a restore with that of the file, a move with that of the first queue. If a copy stayed,
//!   its messages would be delivered twice.
//! - **After a kill at any moment, run the operation again.** Until then every message is in at
//!   least one of the two places, and the queues are frozen. They are closed and paused, and refuse
//!   [`reopen`](crate::transport::Transport::reopen) and `resume`. A second run completes the
//!   operation, and every message is there exactly once. [`give_up`] opens a frozen queue with its
//!   present contents.
//! - **No other process may be attached**, not even an idle one, because messages that it holds
//!   cannot be saved. Each operation waits for that as `wait` says; [`SnapshotError::InUse`] names
//!   the processes. Messages that dead processes held are returned first, and that attempt counts.
//!   A process that attaches during the operation finds the queue closed and paused.
//! - **The operation is checked before it begins.** If the file is damaged, or the queue is too
//!   small, lacks needed priorities or keys, or has other payloads, the operation fails and changes
//!   neither side.
//! - **A snapshot is restored once.** A queue remembers the last six that were restored or moved
//!   into it. Restoring one again only removes the file. A message whose id is already in the queue
//!   is not added twice.
//!
//! Delays, expiry times and keys continue to run while the machine is off, by the wall clock. If
//! that clock was set back meanwhile, no time is subtracted, so a delay is never shortened. If it
//! was set forward, they end early. A queue that was paused is paused after a restore; one that was
//! closed is open. A fencing token contains the number of its queue, so those of the restored queue
//! are not comparable with earlier ones.
//!
//! Only queues in shared memory can be saved. `nats:` queues and the like are kept by their
//! servers, and a `local:` queue ends with its process. A queue behind `unix:` is saved by its own
//! address. For the others the error is [`SnapshotError::Unsupported`]. A [`Bridge`](crate::Bridge)
//! moves messages between any transports.

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
use crate::contract::Transport;
use crate::control::ControlError;
use crate::error::{NoRoom, QueueError, SendPortError, Unavailable};
use crate::open_request::{AttachAs, OpenMode, OpenRequest};
use crate::options::QueueOptions;
use crate::shm::{Frozen, NotFrozen, NotPut, Room, ShmQueue, TooLittle};
use crate::wait::Wait;

/// The result of an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Moved {
    /// Messages that this call wrote to the file or added to the queue, including dead letters.
    pub messages: u64,
    /// Messages that were already there, from an earlier call that was interrupted.
    pub known: u64,
    /// Keys that were moved.
    pub keys: u64,
    /// Set if an earlier call had done everything except the removal of the origin.
    pub was_done: bool,
}

/// The reason why a queue was not saved, restored or moved. One type for the three operations,
/// because they fail for the same reasons.
///
/// Nothing was changed, unless the variant says otherwise.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The address is not that of a queue in shared memory.
    #[error(
        "{address}: {source} (to save a served queue, use its shm: address; ipc bridge moves \
         messages between transports)"
    )]
    Unsupported {
        /// The address, without credentials.
        address: String,
        /// The missing feature.
        source: Unsupported,
    },
    /// The queue cannot be opened or created.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The queue was removed, or is damaged.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Other processes are attached.
    #[error(
        "queue {queue:?} is in use by process {}: stop it first, or wait longer for its end \
         (nothing was changed)",
        numbers(processes)
    )]
    InUse {
        /// The queue's address.
        queue: String,
        /// Their pids, each in its own PID namespace.
        processes: Vec<u32>,
    },
    /// Another operation on the queue was interrupted. The queue stays frozen.
    #[error(
        "queue {queue:?} is frozen: {what} was interrupted; run it again to complete it, or open \
         the queue as it is now (ipc resume {queue} --give-up)"
    )]
    Unfinished {
        /// The queue's address.
        queue: String,
        /// The operation.
        what: &'static str,
    },
    /// The saved queue still exists, and was opened again since: the messages in the snapshot may
    /// have been delivered.
    #[error(
        "queue {queue:?} was saved in {}, and was used again since: the messages in the file may \
         have been delivered; remove the file, or restore it under another name to inspect it",
        file.display()
    )]
    StillThere {
        /// The queue's address.
        queue: String,
        /// The snapshot.
        file: PathBuf,
    },
    /// The file does not exist.
    #[error("there is no snapshot {}", file.display())]
    NoFile {
        /// The path.
        file: PathBuf,
    },
    /// A file of that name exists, and may be the only place of other messages.
    #[error(
        "{} exists already, and was not written by this save: restore it first, or choose another \
         name",
        file.display()
    )]
    FileExists {
        /// The path.
        file: PathBuf,
    },
    /// The file is not a complete snapshot.
    #[error(
        "{} is damaged at byte {at}: {reason} (nothing was restored; take another copy of the \
         file)",
        file.display()
    )]
    Damaged {
        /// The path.
        file: PathBuf,
        /// The position of the frame that cannot be read.
        at: u64,
        /// The damage.
        reason: String,
    },
    /// A later version of this crate wrote the file.
    #[error(
        "{} has version {found} of the format, this program knows versions up to {known}: restore \
         it with the version of ipc-queue that saved it, or a later one",
        file.display()
    )]
    LaterVersion {
        /// The path.
        file: PathBuf,
        /// The file's version.
        found: u32,
        /// The latest version that this program knows.
        known: u32,
    },
    /// The queue has too little room.
    #[error(
        "queue {queue:?} is too small: its setting {setting} is {has}, and {needed} are needed \
         (nothing was moved; use a queue with a larger value)"
    )]
    TooSmall {
        /// The queue's address.
        queue: String,
        /// The setting to enlarge.
        setting: &'static str,
        /// Its value.
        has: u64,
        /// The minimum, including the present contents of the queue.
        needed: u64,
    },
    /// The queue was created without a feature that is needed.
    #[error(
        "queue {queue:?} was created without {feature}, but {count} messages or keys need it \
         (nothing was moved; use a queue with {feature})"
    )]
    Lacks {
        /// The queue's address.
        queue: String,
        /// The missing feature.
        feature: Feature,
        /// The number of messages or keys that need it.
        count: u64,
    },
    /// Everything was copied, and then the operation failed: the copy was not synced to the disk,
    /// or the queue was not removed. The queue stays frozen: run the operation again.
    #[error(
        "everything in queue {queue:?} is in {to}, but then: {source}; the queue stays frozen: run \
         the operation again to complete it"
    )]
    NotEnded {
        /// The queue's address.
        queue: String,
        /// The file, or the other queue.
        to: String,
        /// The cause.
        source: Box<SnapshotError>,
    },
    /// Everything was restored, and then the file was not removed. A second restore adds nothing.
    #[error(
        "everything in {} is in queue {queue:?}, but the file was not removed: {source}; remove it",
        file.display()
    )]
    FileStays {
        /// The queue's address.
        queue: String,
        /// The snapshot.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Both addresses name the same queue.
    #[error("queue {queue:?} cannot be moved to itself: choose another name")]
    Same {
        /// The queue's address.
        queue: String,
    },
    /// The file or its folder cannot be read or written.
    #[error("{}: {source}", file.display())]
    Io {
        /// The path.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A message cannot be encoded.
    #[error(transparent)]
    Encode(#[from] CodecError),
    /// A message could not be added although there was room. The queue stays frozen: run the
    /// operation again.
    #[error(
        "queue {queue:?}: {source}; it contains only a part of the messages: run the operation \
         again"
    )]
    NotPut {
        /// The queue's address.
        queue: String,
        /// The cause.
        source: SendPortError,
    },
}

/// Writes the contents of a queue to a file, then removes the queue.
///
/// # Errors
/// [`SnapshotError`]. If it is neither `Unfinished` nor `NotEnded`, the queue is unchanged and in
/// use again. After `NotEnded` the file is whole and the queue stays frozen, so that no message is
/// delivered that is also in the file. Run the same save again: it checks the file and removes the
/// queue. A restore of the file under the queue's name also works, and so does [`give_up`], after
/// which the file has to be removed.
pub fn save(queue: &str, file: &Path, wait: Wait) -> Result<Moved, SnapshotError> {
    save_from(&Place::parse(queue)?, file, wait)
}

/// Like [`save`], for a queue in any folder.
///
/// # Errors
/// Those of [`save`].
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
            place.remove_copied(frozen, &file.display().to_string())?;
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
            place.remove_copied(frozen, &file.display().to_string())?;
            Ok(Moved {
                messages: end.messages,
                keys: end.keys,
                ..Moved::default()
            })
        }
        Err(error) => {
            file::remove_part(file);
            // If only the sync of the folder failed, the file already has its name. Then the next
            // save continues.
            let is_whole = file.exists();
            place.thaw_unless(frozen, was_begun.is_some() || is_whole);
            match is_whole {
                true => Err(place.not_ended(&file.display().to_string(), error)),
                false => Err(error),
            }
        }
    }
}

/// Adds the contents of a file to a queue, then removes the file. If the queue does not exist, it
/// is created with the settings of the saved queue, except those that `options` gives. If it
/// exists, it must agree with the settings that `options` gives.
///
/// A new queue remembers at least as many keys as are in the file.
///
/// # Errors
/// [`SnapshotError`]. If it is not `Unfinished`, `NotPut` or `FileStays`, the queue and the file
/// are unchanged. After `FileStays` everything is in the queue, which is in use: only the file is
/// left.
pub fn restore(
    file: &Path,
    queue: &str,
    options: &QueueOptions,
    wait: Wait,
) -> Result<Moved, SnapshotError> {
    restore_to(&Place::parse(queue)?, file, options, wait)
}

/// Like [`restore`], into a queue in any folder.
///
/// # Errors
/// Those of [`restore`].
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
            // The save was interrupted before it removed the queue, which still contains
            // everything.
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
    match file::remove(file) {
        Err(SnapshotError::Io { file, source }) => Err(SnapshotError::FileStays {
            queue: place.address.clone(),
            file,
            source,
        }),
        removed => removed.map(|()| moved),
    }
}

/// Moves the contents of a queue to another one, then removes the first. If the second queue does
/// not exist, it is created, as by [`restore`].
///
/// # Errors
/// [`SnapshotError`]. If it is not `Unfinished`, `NotPut` or `NotEnded`, both queues are unchanged.
/// After `NotEnded` everything is in the second queue, which is in use, and the first stays frozen:
/// run the same move again, and it removes the first.
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
    from.remove_copied(first, &to.address)?;
    Ok(moved)
}

/// Opens a queue that an operation left frozen, with its present contents. If the operation is run
/// again after all, messages that are also in the other place may be delivered twice.
///
/// # Errors
/// [`SnapshotError`]; `InUse` while another process is attached.
pub fn give_up(queue: &str, wait: Wait) -> Result<(), SnapshotError> {
    let place = Place::parse(queue)?;
    let opened = place.open_existing()?;
    place.freeze(opened, wait)?.thaw();
    Ok(())
}

/// The origin of a queue: it was found, or it was created.
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
    /// The queue `name` in a namespace.
    #[must_use]
    pub fn new(namespace: &Namespace, name: &Name) -> Self {
        Self {
            address: format!("shm:{}/{name}", namespace.name()),
            namespace: namespace.clone(),
            name: name.clone(),
        }
    }

    /// The place of an opened queue.
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
                    // Another process has just created it.
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

    /// Thaws the queue, unless it must stay frozen.
    fn thaw_unless(&self, frozen: Frozen, stays: bool) {
        if !stays {
            frozen.thaw();
        }
    }

    /// Leaves a queue as it was found, if nothing was added to it.
    fn undo(&self, frozen: Frozen, stays: bool, origin: Origin) {
        match origin {
            Origin::Created if !stays => {
                // Otherwise an empty queue would be left, with settings that the next try may not
                // want.
                let _ = self.remove(frozen);
            }
            _ => self.thaw_unless(frozen, stays),
        }
    }

    /// Removes a queue whose contents are now elsewhere.
    fn remove(&self, frozen: Frozen) -> Result<(), SnapshotError> {
        ShmQueue::remove(&self.namespace, &self.name)?;
        drop(frozen);
        Ok(())
    }

    /// As [`remove`](Self::remove), of a queue that stays frozen if it can't be removed.
    fn remove_copied(&self, frozen: Frozen, to: &str) -> Result<(), SnapshotError> {
        let removed = self.remove(frozen);
        removed.map_err(|error| self.not_ended(to, error))
    }

    fn not_ended(&self, to: &str, source: SnapshotError) -> SnapshotError {
        SnapshotError::NotEnded {
            queue: self.address.clone(),
            to: to.to_owned(),
            source: Box::new(source),
        }
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
    // If the queue is truncated meanwhile, the contents read may be zeroes.
    queue.stats()?;
    writer.finish()
}

/// Reads a whole file, and checks that it is intact.
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

/// Returns the result of an earlier save.
fn whole(file: &Path) -> Result<Moved, SnapshotError> {
    let (_, end) = check_whole(file)?;
    Ok(Moved {
        messages: end.messages,
        keys: end.keys,
        was_done: true,
        ..Moved::default()
    })
}

/// Returns whether the file is a snapshot of that queue.
fn is_of(file: &Path, place: &Place) -> bool {
    Reader::open(file).is_ok_and(|reader| reader.head.address == place.address)
}

/// Returns whether part of the messages may have been added.
fn frozen_for_good(error: &SnapshotError) -> bool {
    matches!(error, SnapshotError::NotPut { .. })
}

/// The source of messages and keys.
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

/// The target of messages and keys.
struct Sink<'a> {
    frozen: &'a Frozen,
    place: &'a Place,
    id: u64,
    passed: Duration,
    /// The ids of messages that are already in the queue.
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

    /// Checks that there is room for everything, then adds it.
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
        // If the queue is truncated meanwhile, the messages that were added may be lost.
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

    /// Checks that the queue has the room and the features for everything.
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

/// The resources that are missing.
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
