//! Exclusive access of one process to a queue in shared memory, to take its contents out or to put
//! contents in.
//!
//! Freezing closes and pauses the queue and records its earlier state, all in one swap of the
//! flags. Then it checks whether another process is attached. A process that attaches takes its
//! slot before it reads the flags. So each of the two sees the other (Dekker's argument). A
//! freezing process that sees another one thaws the queue and tries again. So no other process
//! sends, receives or settles while a living process has frozen the queue.
//!
//! If that process dies, the queue stays frozen, until the same operation is run again. Three kinds
//! of marks in the segment show what was in progress:
//!
//! | mark | from | to | by | when |
//! |---|---|---|---|---|
//! | saving | 0 | id | the process with exclusive access | before the first message is taken out |
//! | restoring | 0 | id | the same | before the first message is added |
//! | done, six of them | older ids | id | the same | all was added; `restoring` not yet 0 |
//! | saving, restoring | id | 0 | the same | it thaws |
//!
//! The id identifies one snapshot and is drawn at random. Every step can be repeated, and one word
//! decides each. Until an id is among those done, messages are added, and those already there are
//! recognized by their ids. After that, nothing more is added for that id.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use ipc_proto::{MessageId, Priority, QueueSettings};
use ipc_shm::watch::Running;
use ipc_shm::{Presence, clock};

use super::cell::Cause;
use super::keys::Refused;
use super::keys::nanos;
use super::payload;
use super::word::CellKind;
use super::{CLOSED, FROZEN, PAUSED, ShmQueue, ShmSender, WAS_CLOSED, WAS_PAUSED, by_priority};
use crate::contract::Transport;
use crate::control::{ControlCall, ControlError, ControlFailure};
use crate::error::SendFailure;
use crate::snapshot::record::{StoredKey, StoredMessage, StoredState};
use crate::wait::Wait;

const SAVING: usize = 0;
const RESTORING: usize = 1;
/// The first of the marks of finished snapshots; the latest comes first.
const DONE: usize = 2;
const MARKS: usize = 8;
/// The time between two checks whether other processes are still attached.
const LOOK: Duration = Duration::from_millis(10);

/// The right to a queue's whole contents. If it is dropped without [`thaw`](Self::thaw), the queue
/// stays frozen.
#[derive(Debug)]
pub(crate) struct Frozen {
    queue: ShmQueue,
    sender: ShmSender,
    /// The time when the queue was frozen here, on the monotonic clock. Remaining times are counted
    /// from this.
    since: Duration,
}

/// The reason why a queue was not frozen.
#[derive(Debug)]
pub(crate) enum NotFrozen {
    /// These processes are attached.
    InUse(Vec<u32>),
    /// The queue was removed or is unusable.
    Gone(ControlError),
}

/// The reason why a message was not added.
#[derive(Debug)]
pub(crate) enum NotPut {
    NoPlace,
    NoMemory,
    Failed(SendFailure),
}

impl Frozen {
    /// Freezes a queue that this process has just opened, once no other process is attached.
    pub(crate) fn freeze(queue: ShmQueue, wait: Wait) -> Result<Self, NotFrozen> {
        let shared = &queue.shared;
        loop {
            let mut others = queue.others();
            if others.is_empty() {
                (shared.check_usable(ControlCall::Freeze)).map_err(NotFrozen::Gone)?;
                let was_frozen = queue.set_frozen();
                others = queue.others();
                if others.is_empty() {
                    let since = clock::monotonic();
                    let sender = queue.shm_sender();
                    return Ok(Self {
                        queue,
                        sender,
                        since,
                    });
                }
                if !was_frozen {
                    queue.unfreeze();
                }
            }
            let over = match wait {
                Wait::No => true,
                Wait::Until(deadline) => Instant::now() >= deadline,
                Wait::Forever => false,
            };
            if over {
                return Err(NotFrozen::InUse(others));
            }
            thread::sleep(LOOK);
        }
    }

    pub(crate) fn queue(&self) -> &ShmQueue {
        &self.queue
    }

    /// Returns the id of the snapshot that is being saved. Draws a new one if there is none.
    pub(crate) fn begin_saving(&self) -> u64 {
        match self.mark(SAVING) {
            0 => {
                let id = fastrand::u64(1..);
                self.set_mark(SAVING, id);
                id
            }
            id => id,
        }
    }

    /// Returns the id of the snapshot that is being saved, if there is one.
    pub(crate) fn saving(&self) -> Option<u64> {
        Some(self.mark(SAVING)).filter(|id| *id != 0)
    }

    /// Returns the id of the snapshot that is being restored, if there is one.
    pub(crate) fn restoring(&self) -> Option<u64> {
        Some(self.mark(RESTORING)).filter(|id| *id != 0)
    }

    pub(crate) fn begin_restoring(&self, id: u64) {
        self.set_mark(RESTORING, id);
    }

    /// Returns whether that snapshot is completely in the queue.
    pub(crate) fn is_done(&self, id: u64) -> bool {
        (DONE..MARKS).any(|mark| self.mark(mark) == id)
    }

    /// Records that a snapshot is completely in the queue. A kill during this leaves an older one
    /// recorded twice, or forgotten.
    pub(crate) fn note_done(&self, id: u64) {
        for mark in (DONE + 1..MARKS).rev() {
            self.set_mark(mark, self.mark(mark - 1));
        }
        self.set_mark(DONE, id);
    }

    /// Returns whether the queue was paused before.
    pub(crate) fn was_paused(&self) -> bool {
        self.queue.shared.flag().load(SeqCst) & WAS_PAUSED != 0
    }

    /// Makes the queue paused after it is thawed.
    pub(crate) fn stay_paused(&self) {
        self.queue.shared.flag().fetch_or(WAS_PAUSED, SeqCst);
    }

    /// Lets other processes use the queue again, in its earlier state.
    pub(crate) fn thaw(self) {
        self.queue.unfreeze();
    }

    fn mark(&self, mark: usize) -> u64 {
        self.queue.shared.contents.marks[mark].load(SeqCst)
    }

    fn set_mark(&self, mark: usize, id: u64) {
        self.queue.shared.contents.marks[mark].store(id, SeqCst);
    }

    /// Returns the messages in the order of their delivery, then the dead letters.
    pub(crate) fn messages(&self) -> impl Iterator<Item = Result<StoredMessage, ControlError>> {
        let levels = 0..self.queue.shared.contents.levels.len();
        levels.flat_map(move |level| {
            let places = self.places(level).into_iter();
            places.filter_map(move |(.., index)| self.message(level, index).transpose())
        })
    }

    /// Returns the ids of the messages.
    pub(crate) fn ids(&self) -> HashSet<MessageId> {
        let rings = self.queue.shared.rings();
        let cells = rings.flat_map(|ring| (0..ring.cells()).map(move |index| (ring, index)));
        let full = cells.filter(|(ring, index)| is_kept(ring.seen(*index).kind));
        full.map(|(ring, index)| ring.cell(index).envelope().id)
            .collect()
    }

    /// Returns the places of the messages, in order; those of dead letters come last.
    fn places(&self, level: usize) -> Vec<(bool, u64, u32)> {
        let ring = &self.queue.shared.contents.levels[level].ring;
        let mut places: Vec<_> = (0..ring.cells())
            .filter_map(|index| {
                let state = ring.seen(index);
                let place = (state.kind == CellKind::Dead, state.lap.number(), index);
                is_kept(state.kind).then_some(place)
            })
            .collect();
        places.sort_unstable();
        places
    }

    /// Returns the message in a cell. `None` if it expired meanwhile.
    fn message(&self, number: usize, index: u32) -> Result<Option<StoredMessage>, ControlError> {
        let level = &self.queue.shared.contents.levels[number];
        let ring = &level.ring;
        let cell = ring.cell(index);
        loop {
            let state = ring.seen(index);
            let word = state.to_word();
            if !is_kept(state.kind) {
                return Ok(None);
            }
            let (envelope, claim, tally) = (cell.envelope(), cell.claim(), cell.tally(state));
            let left = |at: Duration| {
                u64::try_from(at.saturating_sub(self.since).as_millis()).unwrap_or(u64::MAX)
            };
            let kept = match state.kind {
                CellKind::Delayed => StoredState::Delayed {
                    left_ms: (ring.delayed_until(index, word))
                        .map_or(0, |due| left(due.since_boot())),
                },
                CellKind::Dead => StoredState::Dead,
                _ => StoredState::Ready,
            };
            let expires_in_ms = cell
                .expiry()
                .map(|at_ms| left(Duration::from_millis(at_ms)));
            let body = cell.body();
            let (body, headers) = match body.before_headers() {
                None => (body, Ok(Default::default())),
                Some(body) => (body, level.payloads.headers(index, body)),
            };
            let payload = level
                .payloads
                .snapshot(index, body.chunk, body.len as usize);
            let reason = ring.reason(index, claim, state);
            // Even here, time makes a delayed message ready, and drops an expired one.
            if ring.seen(index) != state {
                continue;
            }
            let (Ok(headers), Some(payload)) = (headers, payload) else {
                let reason = format!("cell {index} names a payload or headers that do not exist");
                return Err(self.failed(ControlFailure::Damaged { reason }));
            };
            return Ok(Some(StoredMessage {
                id: envelope.id,
                kind: envelope.kind,
                priority: by_priority::priority_of(number),
                sent_at: envelope.sent_at,
                state: kept,
                expires_in_ms,
                deliveries: claim.deliveries(state),
                nacks: tally.nacks,
                expiries: tally.expiries,
                crashes: tally.crashes,
                last_end: Cause::number(tally.last),
                last_worker: tally.holder,
                signal: tally.signal,
                reason,
                headers,
                payload,
            }));
        }
    }

    /// Returns the remembered keys.
    pub(crate) fn keys(&self) -> Vec<StoredKey> {
        let Some(keys) = &self.queue.shared.contents.keys else {
            return Vec::new();
        };
        let since = nanos(self.since);
        let stored = |(key, id, until): (u64, MessageId, u64)| StoredKey {
            key,
            id,
            left_ms: (until - since).div_ceil(1_000_000),
        };
        keys.remembered(since).map(stored).collect()
    }

    /// Puts a message in. `passed` is subtracted from its remaining times.
    pub(crate) fn put(&self, message: &StoredMessage, passed: Duration) -> Result<(), NotPut> {
        let level = self.level_of(message.priority);
        self.sender.level(level).put(message, passed)
    }

    /// Remembers a key, unless its time is over or it is already remembered. `false`: there is no
    /// place for it.
    pub(crate) fn put_key(&self, stored: StoredKey, passed: Duration) -> bool {
        let left = Duration::from_millis(stored.left_ms).saturating_sub(passed);
        let Some(keys) = &self.queue.shared.contents.keys else {
            return false;
        };
        if left.is_zero() {
            return true;
        }
        let now = clock::monotonic();
        let until = nanos(now.saturating_add(left));
        let seat = self.queue.shared.seat;
        let put = keys.restore(seat, stored.key, stored.id, until, nanos(now));
        !matches!(put, Err(Refused::NoSlot))
    }

    /// Returns the room that the queue has now.
    pub(crate) fn room(&self) -> Room {
        let contents = &self.queue.shared.contents;
        let levels = contents.levels.iter().enumerate().map(|(number, level)| {
            let geometry = level.payloads.geometry();
            let sender = self.sender.level(number);
            LevelRoom {
                places: level.ring.count(CellKind::Free),
                inline: [false, true].map(|headers| sender.inline_limit(headers)),
                unit_bytes: geometry.unit_bytes,
                plain_units: geometry.plain_units,
                free: level.ring.free_units(geometry.units),
            }
        });
        Room {
            levels: levels.collect(),
            settings: contents.settings.clone(),
        }
    }

    fn level_of(&self, priority: Priority) -> usize {
        let level = by_priority::level_of(priority);
        if level < self.queue.shared.contents.levels.len() {
            level
        } else {
            0
        }
    }

    fn failed(&self, failure: ControlFailure) -> ControlError {
        failure.of(self.queue.address(), ControlCall::Freeze)
    }
}

fn is_kept(kind: CellKind) -> bool {
    matches!(kind, CellKind::Ready | CellKind::Delayed | CellKind::Dead)
}

impl ShmQueue {
    /// Recovers the processes that died, then returns the pids of the other attached processes.
    fn others(&self) -> Vec<u32> {
        let shared = &self.shared;
        shared.look_around(&Running::default());
        let ours = shared.attachment.member();
        let slots = shared.attachment.participants().iter();
        let others = slots.filter(|slot| slot.presence != Presence::Free && slot.member != ours);
        others.map(|slot| slot.process.pid).collect()
    }

    /// Freezes the queue. Returns whether it was already frozen.
    fn set_frozen(&self) -> bool {
        let flag = self.shared.flag();
        let mut seen = flag.load(SeqCst);
        while seen & FROZEN == 0 {
            let mut next = seen | FROZEN | CLOSED | PAUSED;
            next |= [(CLOSED, WAS_CLOSED), (PAUSED, WAS_PAUSED)]
                .into_iter()
                .filter(|(now, _)| seen & now != 0)
                .fold(0, |bits, (_, was)| bits | was);
            // One swap: a kill leaves the queue either not frozen, or frozen with its earlier state
            // recorded. Failed: another process changed a flag; the next round keeps its change.
            match flag.compare_exchange(seen, next, SeqCst, SeqCst) {
                Ok(_) => return false,
                Err(changed) => seen = changed,
            }
        }
        true
    }

    /// Restores the earlier state of a frozen queue. Only for the process with exclusive access.
    fn unfreeze(&self) {
        let shared = &self.shared;
        for mark in [SAVING, RESTORING] {
            shared.contents.marks[mark].store(0, SeqCst);
        }
        let flag = shared.flag();
        let mut seen = flag.load(SeqCst);
        while seen & FROZEN != 0 {
            let mut next = seen & !(FROZEN | WAS_CLOSED | WAS_PAUSED);
            for (was, bit) in [(WAS_CLOSED, CLOSED), (WAS_PAUSED, PAUSED)] {
                if seen & was == 0 {
                    next &= !bit;
                }
            }
            // Failed: another process changed a flag; the next round keeps its change.
            match flag.compare_exchange(seen, next, SeqCst, SeqCst) {
                Ok(_) => break,
                Err(changed) => seen = changed,
            }
        }
        shared.attachment.segment().notify_all();
    }

    /// Refuses to reopen or to resume a frozen queue: messages that were already moved would be
    /// delivered twice.
    pub(super) fn check_not_frozen(&self, call: ControlCall) -> Result<(), ControlError> {
        let shared = &self.shared;
        if shared.flag().load(SeqCst) & FROZEN == 0 {
            return Ok(());
        }
        let is_restored = shared.contents.marks[RESTORING].load(SeqCst) != 0;
        let reason = match (self.others().first(), is_restored) {
            (Some(pid), _) => {
                format!("process {pid} may be saving, restoring or moving it: wait for its end")
            }
            (None, true) => "a restore or a move into it was interrupted: run the same ipc \
                 restore or ipc move again"
                .to_owned(),
            (None, false) => "a save or a move of it was interrupted: run the same ipc save \
                 or ipc move again"
                .to_owned(),
        };
        Err(ControlFailure::Frozen { reason }.of(self.address(), call))
    }
}

/// The room for messages, used up in a dry run before anything is moved.
#[derive(Debug)]
pub(crate) struct Room {
    levels: Vec<LevelRoom>,
    pub(crate) settings: QueueSettings,
}

#[derive(Debug)]
struct LevelRoom {
    places: u64,
    /// The maximum bytes in a cell: without headers, and with them.
    inline: [usize; 2],
    unit_bytes: usize,
    /// The number of units that messages without headers may use.
    plain_units: u32,
    /// The free units.
    free: Vec<Range<u32>>,
}

/// The setting that is too small for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooLittle {
    MaxMessageBytes(u64),
    Capacity,
    PoolBytes,
}

impl Room {
    /// Uses up the room of one message, in the same way as [`Frozen::put`].
    pub(crate) fn take(&mut self, message: &StoredMessage) -> Result<(), TooLittle> {
        let len = message.payload.len();
        let settings = &self.settings;
        let most = settings.max_message_bytes.max(settings.inline_bytes);
        if len as u64 > u64::from(most) {
            return Err(TooLittle::MaxMessageBytes(len as u64));
        }
        let trailer = match message.headers.is_empty() {
            true => 0,
            false => payload::trailer(&message.headers).len(),
        };
        let level = by_priority::level_of(message.priority);
        let level = if level < self.levels.len() { level } else { 0 };
        let level = &mut self.levels[level];
        level.places = level.places.checked_sub(1).ok_or(TooLittle::Capacity)?;
        let all = len + trailer;
        if all <= level.inline[usize::from(trailer > 0)] {
            return Ok(());
        }
        let units = u32::try_from(all.div_ceil(level.unit_bytes)).unwrap_or(u32::MAX);
        let limit = match trailer {
            0 => level.plain_units,
            _ => u32::MAX,
        };
        let fits = |free: &&mut Range<u32>| units <= free.end.min(limit).saturating_sub(free.start);
        let free = level.free.iter_mut().find(fits);
        free.ok_or(TooLittle::PoolBytes)?.start += units;
        Ok(())
    }
}
