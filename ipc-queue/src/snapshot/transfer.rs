//! Adds the contents of a file, or of another queue, to a queue.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use ipc_proto::{MessageId, Priority};

use super::Moved;
use super::error::SnapshotError;
use super::file::{Frame, Reader};
use super::place::Place;
use super::record::{StoredKey, StoredMessage};
use crate::capability::Feature;
use crate::contract::Transport;
use crate::control::ControlError;
use crate::error::{NoRoom, SendPortError, Unavailable};
use crate::shm::{Frozen, NotPut, Room, TooLittle};

/// The source of messages and keys.
pub(super) enum Source<'a> {
    File(Box<Reader>),
    Queue(
        Box<dyn Iterator<Item = Result<StoredMessage, ControlError>> + 'a>,
        std::slice::Iter<'a, StoredKey>,
    ),
}

impl<'a> Source<'a> {
    pub(super) fn of_file(file: &Path) -> Result<Self, SnapshotError> {
        Ok(Self::File(Box::new(Reader::open(file)?)))
    }

    pub(super) fn of_queue(frozen: &'a Frozen, keys: &'a [StoredKey]) -> Self {
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
pub(super) struct Sink<'a> {
    frozen: &'a Frozen,
    place: &'a Place,
    id: u64,
    passed: Duration,
    /// The ids of messages that are already in the queue.
    known: HashSet<MessageId>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(frozen: &'a Frozen, place: &'a Place, id: u64, passed: Duration) -> Self {
        Self {
            frozen,
            place,
            id,
            passed,
            known: frozen.ids(),
        }
    }

    /// Checks that there is room for everything, then adds it.
    pub(super) fn fill<'s>(
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
