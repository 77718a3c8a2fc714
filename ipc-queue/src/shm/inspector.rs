//! Looking at a queue without attaching to it.
//!
//! The segment is mapped for reading only, so whoever looks can't disturb those who work: they take no slot, free nothing
//! for the dead, and wake nobody. What they see changes while they look. Each thing they report was so at some moment:
//! a word is read before and after what hangs on it, and what changed meanwhile is left out.

use std::path::PathBuf;

use ipc_proto::{Headers, Kind, MessageId, Name, Priority, QueueSettings, Timestamp};
use ipc_shm::{Expected, Namespace, Participant, Participants, Presence, Segment};

use super::contents::Contents;
use super::geometry::{self, LAYOUT_HASH};
use super::word::CellKind;
use super::{KIND, open_error};
use crate::dead_letter::DeadLetter;
use crate::error::QueueError;
use crate::stats::QueueStats;
use crate::transport::Holding;

/// Somebody who looks at a queue in shared memory.
///
/// ```
/// use ipc_proto::Name;
/// use ipc_queue::shm::Inspector;
/// use ipc_queue::{ByteQueue, remove};
/// use ipc_shm::Namespace;
///
/// let queue = ByteQueue::open("shm:docs/inspected")?;
/// queue.sender().send(b"resize a.png")?;
/// let inspector = Inspector::open(&Namespace::new("docs")?, &Name::new("inspected")?)?;
/// assert_eq!(inspector.stats().ready, 1);
/// assert_eq!(inspector.waiting(10)[0].payload, b"resize a.png");
/// remove("shm:docs/inspected")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Inspector {
    segment: Segment,
    contents: Contents,
    table: Participants,
}

/// A message that nobody holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiting {
    /// Which.
    pub message: MessageId,
    /// What for.
    pub kind: Kind,
    /// How urgent.
    pub priority: Priority,
    /// When it was sent.
    pub sent_at: Timestamp,
    /// How often it was delivered before.
    pub attempts: u8,
    /// Whether it waits for its time to come, rather than for a receiver.
    pub delayed: bool,
    /// The headers of the message.
    pub headers: Headers,
    /// What it says.
    pub payload: Vec<u8>,
}

impl Inspector {
    /// Opens the queue `name` for looking only, whatever the type of its payloads.
    ///
    /// # Errors
    /// As [`ShmQueue::open`](super::ShmQueue::open) with [`OpenMode::Open`](crate::transport::OpenMode::Open).
    pub fn open(namespace: &Namespace, name: &Name) -> Result<Self, QueueError> {
        let expected = Expected {
            kind: KIND,
            layout_hash: LAYOUT_HASH,
            payload: None,
        };
        let segment = Segment::open_read_only(namespace, name, &expected)
            .map_err(|error| open_error(name, error))?;
        Ok(Self {
            contents: Contents::of(&segment)?,
            table: Participants::of(&segment),
            segment,
        })
    }

    /// What the queue was created with.
    #[must_use]
    pub fn settings(&self) -> &QueueSettings {
        &self.contents.settings
    }

    /// Its number, as [`Transport::id`](crate::transport::Transport::id).
    #[must_use]
    pub fn id(&self) -> u64 {
        geometry::queue_id(&self.segment.header().params)
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.segment.path()
    }

    /// Its file's size in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.segment.header().total_bytes
    }

    /// What the type of its payloads is called; empty for plain bytes.
    #[must_use]
    pub fn payload_type(&self) -> &str {
        self.segment.header().payload.name()
    }

    /// Whether it was removed since it was opened here.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.segment.is_removed()
    }

    /// Counters, and what it holds.
    #[must_use]
    pub fn stats(&self) -> QueueStats {
        self.contents.stats(&self.table)
    }

    /// Who holds what.
    #[must_use]
    pub fn holdings(&self) -> Vec<Holding> {
        self.contents.holdings(&self.table)
    }

    /// The dead letters, oldest place first.
    #[must_use]
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.contents.dead_letters()
    }

    /// The processes that are attached, and whether each is gone without having left: whoever opens the queue next, or uses
    /// it now, frees what such a one held.
    #[must_use]
    pub fn participants(&self) -> Vec<(Participant, bool)> {
        let attached = self.table.iter();
        let attached = attached.filter(|slot| slot.presence != Presence::Free);
        attached
            .map(|slot| {
                let gone = self.table.is_departed(&self.segment, slot.member);
                (slot, gone)
            })
            .collect()
    }

    /// Whether any process is attached that still runs, in whatever PID namespace; by the kernel's
    /// locks, never by a process's number.
    ///
    /// May be over when this returns. A process that has opened the file and is about to attach is
    /// not seen yet.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.participants().iter().any(|(_, gone)| !gone)
    }

    /// When the message was sent that waits for a receiver for longest.
    #[must_use]
    pub fn oldest(&self) -> Option<Timestamp> {
        let cells = self.contents.rings().flat_map(|ring| {
            (0..ring.cells()).filter_map(|index| {
                let state = ring.seen(index);
                let sent_at = ring.cell(index).envelope().sent_at;
                let ready = state.kind == CellKind::Ready;
                (ready && ring.seen(index) == state).then_some(sent_at)
            })
        });
        cells.min()
    }

    /// At most so many of the messages that nobody holds, those sent first first.
    #[must_use]
    pub fn waiting(&self, most: usize) -> Vec<Waiting> {
        let mut places: Vec<_> = (0..self.contents.levels.len())
            .flat_map(|level| (0..self.contents.settings.capacity).map(move |cell| (level, cell)))
            .filter_map(|(level, cell)| Some((self.waiting_since(level, cell)?, level, cell)))
            .collect();
        places.sort_unstable();
        let messages = places
            .into_iter()
            .filter_map(|(_, level, cell)| self.waiting_in(level, cell));
        messages.take(most).collect()
    }

    fn waiting_since(&self, level: usize, index: u32) -> Option<Timestamp> {
        let ring = &self.contents.levels[level].ring;
        let waits = matches!(ring.seen(index).kind, CellKind::Ready | CellKind::Delayed);
        waits.then(|| ring.cell(index).envelope().sent_at)
    }

    fn waiting_in(&self, number: usize, index: u32) -> Option<Waiting> {
        let level = &self.contents.levels[number];
        let cell = level.ring.cell(index);
        let state = level.ring.seen(index);
        let (envelope, body, attempts) = (cell.envelope(), cell.body(), cell.attempts(state));
        if !matches!(state.kind, CellKind::Ready | CellKind::Delayed) {
            return None;
        }
        let (body, headers) = level.headers_of(index, body);
        let payload = level
            .payloads
            .snapshot(index, body.chunk, body.len as usize)?;
        // Somebody may have taken it, and somebody else written the next one there.
        (level.ring.seen(index) == state).then(|| Waiting {
            message: envelope.id,
            kind: envelope.kind,
            priority: super::by_priority::priority_of(number),
            sent_at: envelope.sent_at,
            attempts,
            delayed: state.kind == CellKind::Delayed,
            headers,
            payload,
        })
    }
}
