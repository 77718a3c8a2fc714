//! The table of processes attached to a segment.
//!
//! The first word of a slot holds its state and its epoch:
//!
//! | from | to | by |
//! |---|---|---|
//! | `FREE, e` | `LIVE`, a later epoch | a process that holds the joining and the life lock |
//! | `LIVE, e` | `LEAVING, e` | that process, when it detaches |
//! | `LIVE, e` of a dead process | `FREE, e` | any process, once nothing names the slot any more |
//! | `LEAVING, e` | `FREE, e` | any process, once nothing names the slot any more |
//!
//! A process holds its life lock while it is `LIVE`, so a slot cannot outlive its process
//! unnoticed. A forked child keeps the locks of its dead parent. So each epoch has its own life
//! lock, and joining skips an epoch whose lock is still held while the slot is free. The joining
//! lock is held only while joining.
//!
//! The process that owns a slot writes the slot's other words before it becomes `LIVE`. Later it
//! changes only its counters and heartbeat. These words stay readable after its death, until
//! another process takes the slot.
//!
//! A process may die between any two lines: `liveness` detects that, and the other users of the
//! segment free what it held. This module never decides that a process is *slow*, only that it is
//! gone.

mod slot;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipc_proto::SenderId;
use thiserror::Error;

use crate::events;
use crate::fork::Tenure;
use crate::layout::{SLOT_BYTES, SLOTS};
use crate::liveness::{self, ProcessIdentity};
use crate::mapping::Words;
use crate::segment::{FileLoss, Segment};
use crate::watch::Running;
use slot::{LIFE_BYTES, SLOT_WORDS, Slot, SlotState, joining_byte, life_byte};

/// The membership of a process in a segment. Dropping it leaves the segment.
///
/// A forked child inherits the value but not the membership, see [`is_ours`](Self::is_ours). A
/// process that lost its descriptor of the file must also stop, see
/// [`check_file`](Self::check_file).
#[derive(Debug)]
pub struct Attachment {
    segment: Segment,
    table: Participants,
    index: u16,
    epoch: u64,
    tenure: Tenure,
    loss: OnceLock<FileLoss>,
}

/// The kind of slot that a process takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttachAs {
    /// A slot that counts towards `max_participants`.
    #[default]
    Participant,
    /// A slot reserved for tools, which attach for a moment, or an ordinary slot if all of those
    /// are taken. So a tool can attach even when the maximum number of processes is attached.
    Tool,
}

/// All slots of a segment.
#[derive(Debug)]
pub struct Participants {
    slots: Words<SLOT_WORDS>,
}

/// A permanent identity of one membership: the slot and the epoch in which it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The index of the slot.
    pub index: u16,
    /// The epoch of the slot, which grows each time the slot is taken.
    pub epoch: u64,
}

/// The contents of a slot: its present owner, or its last one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Participant {
    /// The membership.
    pub member: Member,
    /// The state of the slot.
    pub presence: Presence,
    /// The process.
    pub process: ProcessIdentity,
    /// The sender number of its messages.
    pub sender: SenderId,
    /// The name it gave itself.
    pub name: String,
    /// The time at which it joined, on the monotonic clock.
    pub joined_at: Duration,
    /// The time of its last heartbeat, on the monotonic clock.
    pub beat_at: Duration,
    /// The number of its heartbeats.
    pub beats: u64,
}

/// The state in a slot's first word. Only the kernel knows whether a `Live` process still runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The slot has no owner.
    Free,
    /// A process joined and has not left.
    Live,
    /// Its process left, and what it held is about to be freed.
    Leaving,
}

/// The reason why a process could not join.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Live processes hold all slots.
    #[error(
        "{attached} processes are attached to {name:?}, but its max_participants is {slots}: \
         end one, or create it with a larger max_participants"
    )]
    Full {
        /// The number of slots, except those for tools.
        slots: u16,
        /// The number of attached processes, including tools.
        attached: u16,
        /// The name of the segment.
        name: String,
    },
    /// The segment was opened before this process was forked. All copies share the segment's locks,
    /// so any of them would see the others' locks as free, and those processes as dead.
    #[error("{name:?} was opened before this process was forked: open it again in the child")]
    ForkedChild {
        /// The name of the segment.
        name: String,
    },
    /// The segment was opened read-only.
    #[error("{name:?} was opened read-only: open it for writing to join it")]
    ReadOnly {
        /// The name of the segment.
        name: String,
    },
    /// The kernel refused a lock.
    #[error("cannot lock a participant slot of {name:?}: {source}")]
    Lock {
        /// The name of the segment.
        name: String,
        /// The kernel's error.
        source: io::Error,
    },
}

impl Attachment {
    /// Takes a free slot.
    ///
    /// Slots of dead processes are not taken: free them first, see [`Participants::departed`]. Each
    /// attachment needs a [`Segment`] of its own, because that holds its lock.
    ///
    /// # Errors
    /// [`JoinError::Full`] if no slot is free; [`JoinError::ForkedChild`] if the segment was opened
    /// before a fork; [`JoinError::ReadOnly`] if it was opened read-only.
    pub fn join(segment: Segment, name: &str) -> Result<Self, JoinError> {
        Self::join_as(segment, name, AttachAs::Participant)
    }

    /// Like [`join`](Self::join), with the kind of slot to take.
    ///
    /// # Errors
    /// Those of [`join`](Self::join).
    pub fn join_as(segment: Segment, name: &str, r#as: AttachAs) -> Result<Self, JoinError> {
        if !segment.is_ours() {
            let name = segment.name().to_string();
            return Err(JoinError::ForkedChild { name });
        }
        if segment.is_read_only() {
            let name = segment.name().to_string();
            return Err(JoinError::ReadOnly { name });
        }
        let table = Participants::of(&segment);
        let tenure = Tenure::current();
        let slots = segment.header().max_participants;
        let for_tools = match r#as {
            AttachAs::Participant => 0..0,
            AttachAs::Tool => slots..table.count(),
        };
        for index in for_tools.chain(0..slots) {
            let taken = table
                .take(&segment, index, name)
                .map_err(|errno| JoinError::Lock {
                    name: segment.name().to_string(),
                    source: errno.into(),
                })?;
            if let Some(epoch) = taken {
                segment.changes().fetch_add(1, Ordering::SeqCst);
                // Wakes the watchers of this segment, so that they also watch this process.
                segment.notify_all();
                events::joined(&segment.path(), index);
                return Ok(Self {
                    segment,
                    table,
                    index,
                    epoch,
                    tenure,
                    loss: OnceLock::new(),
                });
            }
        }
        Err(JoinError::Full {
            slots,
            attached: table.attached(),
            name: segment.name().to_string(),
        })
    }

    /// Returns the segment.
    #[must_use]
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Returns the slots of all participants.
    #[must_use]
    pub fn participants(&self) -> &Participants {
        &self.table
    }

    /// Returns this process's membership.
    #[must_use]
    pub fn member(&self) -> Member {
        Member {
            index: self.index,
            epoch: self.epoch,
        }
    }

    /// Returns `true` in the process that joined, as long as it has not lost the file. `false` in a
    /// forked copy. Costs two loads.
    #[inline]
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.tenure.is_held()
    }

    /// Returns `true` in the process that joined, even if it lost the file.
    #[must_use]
    pub fn is_this_process(&self) -> bool {
        self.tenure.is_this_process()
    }

    /// Returns what this process lost, if anything. It must then stop using the segment, see
    /// [`check_file`](Self::check_file).
    #[must_use]
    pub fn loss(&self) -> Option<FileLoss> {
        self.loss.get().copied()
    }

    /// Checks the segment's file, see [`Segment::check_file`]. A loss that affects only this
    /// process ends its use of the segment for good. [`is_ours`](Self::is_ours) then returns
    /// `false`, and waiting threads are woken. Other processes continue.
    ///
    /// Called by watchers, or by waiting threads if there is no watcher.
    pub fn check_file(&self) {
        if !self.is_ours() {
            return;
        }
        let Err(loss) = self.segment.check_file() else {
            return;
        };
        // Stored before the right is given up, because threads that find it given up read the
        // reason.
        let loss = *self.loss.get_or_init(|| loss);
        // Only the first thread that gives the right up wakes the others and reports the loss.
        if self.tenure.give_up() {
            self.segment.notify_all();
            let (descriptor, reason) = loss.facts();
            events::file_lost(&self.segment.path(), descriptor, reason);
        }
    }

    /// Records a heartbeat of this process.
    pub fn beat(&self) {
        self.slot().beat();
    }

    /// Returns eight words for the counters of the segment's kind. Only this process writes them.
    #[must_use]
    pub fn counters(&self) -> &[AtomicU64] {
        self.slot().counters()
    }

    /// Returns the other members that are certainly gone and still have a slot.
    #[must_use]
    pub fn departed(&self) -> Vec<Member> {
        self.departed_beside(&Running::default())
    }

    /// Like [`departed`](Self::departed), for the watcher: does not ask the kernel about processes
    /// in `running`.
    #[must_use]
    pub fn departed_beside(&self, running: &Running) -> Vec<Member> {
        self.table
            .departed_but(&self.segment, Some(self.index), running)
    }

    /// Leaves the segment: from now on the slot counts as departed. The caller then frees what it
    /// holds and calls [`Participants::release`]. If it dies before that, other processes do so.
    ///
    /// This also works after the descriptor was lost. The life lock lasts as long as the file is
    /// mapped, so the slot still belongs to this process. If it did not, its epoch would differ.
    pub fn leave(&self) {
        if self.is_this_process() {
            let live = SlotState::new(Presence::Live, self.epoch);
            let leaving = SlotState::new(Presence::Leaving, self.epoch);
            // Success: this call leaves, so it reports that. Failure: this attachment left before,
            // or another process freed the slot.
            let has_left = self.slot().change(live, leaving);
            self.segment.changes().fetch_add(1, Ordering::SeqCst);
            if has_left {
                events::left(&self.segment.path(), self.member().index);
            }
        }
    }

    fn slot(&self) -> Slot<'_> {
        self.table.slot(self.index)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Participants {
    /// Returns the table of `segment`.
    ///
    /// # Panics
    /// Never: the table lies inside the header, whose size was checked when the segment was opened.
    #[must_use]
    pub fn of(segment: &Segment) -> Self {
        let count = segment.header().slots().into();
        let slots = segment.mapping().words(SLOTS, SLOT_BYTES, count);
        Self {
            slots: slots.expect("the table lies inside the header"),
        }
    }

    /// Returns the number of slots.
    #[must_use]
    pub fn count(&self) -> u16 {
        u16::try_from(self.slots.count()).expect("a header holds a u16")
    }

    /// Returns `true` while `member` has its slot. Once `false`, it stays `false`.
    #[must_use]
    pub fn is_member(&self, member: Member) -> bool {
        let state = self.state(member.index);
        state.epoch == member.epoch && state.presence != Presence::Free
    }

    /// Returns the contents of slot `index`.
    ///
    /// Reads without a lock. If another process takes the slot meanwhile, the result is a mixture.
    /// Its `presence` and `member` are those at the end of the call.
    ///
    /// # Panics
    /// If there is no such slot.
    #[must_use]
    pub fn get(&self, index: u16) -> Participant {
        self.slot(index).read(index)
    }

    /// Returns the eight counters of slot `index`, which belong to its present or last owner.
    #[must_use]
    pub fn counters(&self, index: u16) -> &[AtomicU64] {
        self.slot(index).counters()
    }

    /// Iterates over all slots that were ever taken.
    pub fn iter(&self) -> impl Iterator<Item = Participant> + '_ {
        // Most slots were never taken. They cost one load each.
        (0..self.count())
            .filter(|index| self.state(*index).epoch > 0)
            .map(|index| self.get(index))
    }

    /// Returns the number of taken slots, including those of tools and of departed processes.
    #[must_use]
    pub fn attached(&self) -> u16 {
        let taken = (0..self.count()).filter(|index| self.state(*index).presence != Presence::Free);
        u16::try_from(taken.count()).expect("at most as many as there are slots")
    }

    /// Returns the members that are certainly gone and still have a slot.
    ///
    /// `segment` must not be one through which a process joined: that process's lock would look
    /// free to it.
    #[must_use]
    pub fn departed(&self, segment: &Segment) -> Vec<Member> {
        self.departed_but(segment, None, &Running::default())
    }

    /// Returns `true` if `member` is certainly gone. `segment` must not be the member's own.
    #[must_use]
    pub fn is_departed(&self, segment: &Segment, member: Member) -> bool {
        self.is_departed_beside(segment, member, &Running::default())
    }

    fn is_departed_beside(&self, segment: &Segment, member: Member, running: &Running) -> bool {
        let state = self.state(member.index);
        match state.presence {
            _ if state.epoch != member.epoch => true,
            Presence::Free | Presence::Leaving => true,
            Presence::Live => {
                let process = self.slot(member.index).process();
                // The identity was written before the epoch, which is therefore compared again
                // afterwards.
                liveness::is_gone(segment.file(), life_byte(member), &process, running)
                    || self.state(member.index) != state
            }
        }
    }

    /// Frees the slot of a departed member. Nothing may name the member any more. Calling it twice
    /// is harmless.
    pub fn release(&self, segment: &Segment, member: Member) {
        // Read while the slot still belongs to the departed member.
        let departed = self.get(member.index);
        let free = SlotState::new(Presence::Free, member.epoch);
        for presence in [Presence::Live, Presence::Leaving] {
            let taken = SlotState::new(presence, member.epoch);
            // Success: this process freed the slot, so it alone counts that and reports a death.
            // Failure: the slot has the other state, another process freed it, or it has a new
            // owner.
            if self.slot(member.index).change(taken, free) {
                segment.changes().fetch_add(1, Ordering::SeqCst);
                if presence == Presence::Live {
                    let pid = departed.process.pid;
                    events::died(&segment.path(), member.index, &departed.name, pid);
                }
            }
        }
    }

    fn departed_but(&self, segment: &Segment, ours: Option<u16>, running: &Running) -> Vec<Member> {
        (0..self.count())
            .filter(|index| Some(*index) != ours)
            .filter_map(|index| {
                let SlotState { presence, epoch } = self.state(index);
                let member = Member { index, epoch };
                let gone = presence != Presence::Free
                    && self.is_departed_beside(segment, member, running)
                    && self.is_member(member);
                gone.then_some(member)
            })
            .collect()
    }

    /// Takes slot `index` if it is free. Returns its new epoch.
    fn take(&self, segment: &Segment, index: u16, name: &str) -> Result<Option<u64>, nix::Error> {
        let file = segment.file();
        let is_free = self.state(index).presence == Presence::Free;
        if !is_free || !liveness::try_lock(file, joining_byte(index))? {
            return Ok(None);
        }
        let taken = self.take_locked(segment, index, name);
        liveness::unlock(file, joining_byte(index));
        taken
    }

    /// Like `take`, for a caller that holds the slot's joining lock: no other process can take the
    /// slot.
    fn take_locked(
        &self,
        segment: &Segment,
        index: u16,
        name: &str,
    ) -> Result<Option<u64>, nix::Error> {
        let free = self.state(index);
        if free.presence != Presence::Free {
            return Ok(None);
        }
        for epoch in free.epoch + 1..=free.epoch + LIFE_BYTES {
            let life = life_byte(Member { index, epoch });
            // The lock is held by a forked copy of a process that had this slot.
            if !liveness::try_lock(segment.file(), life)? {
                continue;
            }
            let slot = self.slot(index);
            slot.introduce(name);
            // Success: the slot is ours. Failure: the word is damaged, because only the holder of
            // the joining lock takes a free slot. Leave the slot alone.
            if slot.change(free, SlotState::new(Presence::Live, epoch)) {
                return Ok(Some(epoch));
            }
            liveness::unlock(segment.file(), life);
            break;
        }
        Ok(None)
    }

    fn state(&self, index: u16) -> SlotState {
        self.slot(index).state()
    }

    fn slot(&self, index: u16) -> Slot<'_> {
        Slot(self.slots.get(index.into()))
    }
}
