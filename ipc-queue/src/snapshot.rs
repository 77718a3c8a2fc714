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

mod error;
mod file;
mod place;
pub(crate) mod record;
#[cfg(test)]
mod tests;
mod transfer;

use std::path::Path;
use std::time::Duration;

use ipc_shm::clock;

pub use self::error::SnapshotError;
use self::file::{End, Frame, Head, Reader, Writer};
pub use self::place::Place;
use self::transfer::{Sink, Source};
use crate::contract::Transport;
use crate::error::QueueError;
use crate::options::QueueOptions;
use crate::shm::Frozen;
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
            let passed = head.age();
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
    remove_restored(file, place)?;
    Ok(moved)
}

/// Removes a file whose contents are all in the queue.
fn remove_restored(file: &Path, place: &Place) -> Result<(), SnapshotError> {
    match file::remove(file) {
        Err(SnapshotError::Io { file, source }) => Err(SnapshotError::FileStays {
            queue: place.address.clone(),
            file,
            source,
        }),
        removed => removed,
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
