//! Inspects a queue without attaching to it.
//!
//! The segment is mapped read-only, so an inspector cannot disturb other processes: it takes no
//! slot, frees nothing of dead processes, and wakes no process. The queue changes during the
//! inspection. Each fact in a report was true at some moment. A word is read before and after the
//! data that belongs to it, and data that changed meanwhile is left out.

use std::path::PathBuf;

use ipc_proto::{Headers, Kind, MessageId, Name, Priority, QueueSettings, Timestamp};
use ipc_shm::{Expected, Member, Namespace, Participant, Participants, Presence, Segment};

use super::KIND;
use super::blocked::{self, BlockedView};
use super::contents::Contents;
use super::geometry::{self, LAYOUT_HASH};
use super::leases::{LeaseView, PoolView};
use super::opening::open_error;
use super::word::CellKind;
use crate::contract::LeaseInfo;
use crate::dead_letter::DeadLetter;
use crate::error::QueueError;
use crate::stats::QueueStats;

/// An inspector of a queue in shared memory.
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

/// A waiting message, which no receiver holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiting {
    /// The message's id.
    pub message: MessageId,
    /// The message's kind.
    pub kind: Kind,
    /// The message's priority.
    pub priority: Priority,
    /// The time when it was sent.
    pub sent_at: Timestamp,
    /// The number of its earlier attempts.
    pub attempts: u8,
    /// Set if it waits for the end of a delay, not for a receiver.
    pub delayed: bool,
    /// The headers of the message.
    pub headers: Headers,
    /// The message's payload.
    pub payload: Vec<u8>,
}

impl Inspector {
    /// Opens the queue `name` read-only, whatever the type of its payloads.
    ///
    /// # Errors
    /// As [`ShmQueue::open`](super::ShmQueue::open) with
    /// [`OpenMode::Open`](crate::transport::OpenMode::Open).
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

    /// Returns the settings that the queue was created with.
    #[must_use]
    pub fn settings(&self) -> &QueueSettings {
        &self.contents.settings
    }

    /// Returns the queue's number, as [`Transport::id`](crate::transport::Transport::id).
    #[must_use]
    pub fn id(&self) -> u64 {
        geometry::queue_id(&self.segment.header().params)
    }

    /// Returns the path of the queue's file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.segment.path()
    }

    /// Returns the size of the queue's file in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.segment.header().total_bytes
    }

    /// Returns the name of the payload type; empty for plain bytes.
    #[must_use]
    pub fn payload_type(&self) -> &str {
        self.segment.header().payload.name()
    }

    /// Returns whether the queue was removed after it was opened here.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.segment.is_removed()
    }

    /// Returns the counters and the present contents.
    #[must_use]
    pub fn stats(&self) -> QueueStats {
        self.contents.stats(&self.table)
    }

    /// Returns the current leases.
    #[must_use]
    pub fn leases(&self) -> Vec<LeaseInfo> {
        self.contents.leases(&self.table)
    }

    /// Returns the dead letters, oldest place first.
    #[must_use]
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.contents.dead_letters()
    }

    /// Returns the attached processes, each with a flag that is set if the process is gone without
    /// having detached. The next process that opens the queue, or one that uses it now, frees what
    /// such a process held.
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

    /// The leases, each with the process that holds it, when it ends, and how long it has lasted at
    /// least.
    ///
    /// When a lease began is not in the segment: that would cost each message a clock reading.
    #[must_use]
    pub fn lease_views(&self) -> Vec<LeaseView> {
        self.contents.lease_views(&self.segment, &self.table)
    }

    /// How much of the memory for payloads is used, and the largest payload that fits now.
    #[must_use]
    pub fn pool(&self) -> PoolView {
        self.contents.pool()
    }

    /// How many messages fit at once, by their size: pairs of the largest payload in bytes and that
    /// number, smallest payloads first. With priorities, for each of the four. A queue may hold
    /// fewer messages of mixed sizes.
    #[must_use]
    pub fn room(&self) -> Vec<(usize, u32)> {
        self.contents.room()
    }

    /// Returns the number of senders that wait for room, and of receivers that wait for a message,
    /// in all processes that live.
    #[must_use]
    pub fn blocked(&self) -> BlockedView {
        let live = self.participants().into_iter().filter(|(_, gone)| !gone);
        let blocked = live.map(|(slot, _)| self.blocked_in(slot.member));
        blocked.fold(BlockedView::default(), |all, one| BlockedView {
            senders: all.senders + one.senders,
            receivers: all.receivers + one.receivers,
        })
    }

    /// The same for one attached process. Means nothing for a process that is gone.
    #[must_use]
    pub fn blocked_in(&self, member: Member) -> BlockedView {
        blocked::of_member(&self.table, member)
    }

    /// Returns whether any attached process still runs, in whatever PID namespace. Checked by the
    /// kernel's locks, never by pid.
    ///
    /// The result may be out of date on return. A process that has opened the file and is about to
    /// attach is not seen yet.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.participants().iter().any(|(_, gone)| !gone)
    }

    /// Returns the time of sending of the oldest message that waits for a receiver.
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

    /// Returns the waiting messages, at most `most`, in the order in which they were sent.
    #[must_use]
    pub fn waiting(&self, most: usize) -> Vec<Waiting> {
        self.waiting_if(most, |_| true)
    }

    /// As [`waiting`](Self::waiting), of those messages that `wanted` accepts. Payloads of others
    /// are not copied.
    #[must_use]
    pub fn waiting_if(
        &self,
        most: usize,
        mut wanted: impl FnMut(MessageId) -> bool,
    ) -> Vec<Waiting> {
        let mut places: Vec<_> = (0..self.contents.levels.len())
            .flat_map(|level| (0..self.contents.settings.capacity).map(move |cell| (level, cell)))
            .filter_map(|(level, cell)| {
                let (sent_at, id) = self.waiting_since(level, cell)?;
                wanted(id).then_some((sent_at, level, cell))
            })
            .collect();
        places.sort_unstable();
        let messages = places
            .into_iter()
            .filter_map(|(_, level, cell)| self.waiting_in(level, cell));
        messages.take(most).collect()
    }

    fn waiting_since(&self, level: usize, index: u32) -> Option<(Timestamp, MessageId)> {
        let ring = &self.contents.levels[level].ring;
        let waits = matches!(ring.seen(index).kind, CellKind::Ready | CellKind::Delayed);
        let envelope = ring.cell(index).envelope();
        waits.then_some((envelope.sent_at, envelope.id))
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
        // Left out if a receiver has taken it, and possibly a sender has written the next message
        // there.
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
