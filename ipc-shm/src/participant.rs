//! The table of processes attached to a segment.
//!
//! A slot's first word says who has it:
//!
//! | from | to | by |
//! |---|---|---|
//! | `FREE, e` | `LIVE`, a later epoch | a process that joins, holding the slot's joining lock and the epoch's life lock |
//! | `LIVE, e` | `LEAVING, e` | that process, when it detaches |
//! | `LIVE, e` of a dead process, `LEAVING, e` | `FREE, e` | anybody, after nothing names the slot any more |
//!
//! The process holds its life lock for as long as it is `LIVE`, so a slot can't outlive its process unnoticed. A
//! forked child keeps a dead parent's locks; so each epoch has a life lock of its own, and one that is still
//! held when the slot is free is passed over. The joining lock is held only while joining. The
//! other words of a slot are written by the process that has it, before it becomes `LIVE`, and its own
//! counters afterwards; they stay readable after its death, until somebody else joins.
//! Its process may die between any two lines: `liveness` finds out, and whoever uses the segment frees
//! what it held. Does not decide that somebody is *slow*: only that they are gone.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipc_proto::SenderId;
use thiserror::Error;

use crate::clock;
use crate::events;
use crate::fork::Tenure;
use crate::layout::{SLOT_BYTES, SLOTS, fingerprint};
use crate::liveness::{self, ProcessIdentity};
use crate::mapping::Words;
use crate::segment::{FileLoss, Segment};
use crate::watch::Running;

/// A process's membership in a segment, given back when dropped.
///
/// A forked child inherits the value but not the membership: see [`is_ours`](Self::is_ours). Nor
/// may a process go on that lost its descriptor of the file: see [`check_file`](Self::check_file).
#[derive(Debug)]
pub struct Attachment {
    segment: Segment,
    table: Participants,
    index: u16,
    epoch: u64,
    tenure: Tenure,
    loss: OnceLock<FileLoss>,
}

/// Which of a segment's slots a process takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttachAs {
    /// One of the `max_participants`.
    #[default]
    Participant,
    /// One of those kept for tools, which look and act for a moment; one of the others if those are
    /// taken. So a tool can attach when as many processes are attached as may be.
    Tool,
}

/// All slots of a segment.
#[derive(Debug)]
pub struct Participants {
    slots: Words<SLOT_WORDS>,
}

/// A slot and the epoch in which it was looked at: names one membership for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The slot.
    pub index: u16,
    /// Rises each time that the slot is taken.
    pub epoch: u64,
}

/// What a slot says about whoever has it, or had it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Participant {
    /// Which membership.
    pub member: Member,
    /// Whether it is taken.
    pub presence: Presence,
    /// Which process.
    pub process: ProcessIdentity,
    /// The number that its messages bear.
    pub sender: SenderId,
    /// What it called itself.
    pub name: String,
    /// When it joined, on the monotonic clock.
    pub joined_at: Duration,
    /// When it last said that it is well, on the monotonic clock.
    pub beat_at: Duration,
    /// How often it said so.
    pub beats: u64,
}

/// What a slot's state word says. Whether a `Live` process still runs is the kernel's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nobody has it.
    Free,
    /// A process joined and did not leave.
    Live,
    /// Its process left; what it held is about to be freed.
    Leaving,
}

/// Why a process could not join.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Every slot is taken by a live process.
    #[error(
        "{attached} processes are attached to {name:?}, as many as its max_participants of {slots} allows: end one, \
         or create it with a larger max_participants"
    )]
    Full {
        /// How many slots there are, those for tools not counted.
        slots: u16,
        /// How many processes are attached, tools included.
        attached: u16,
        /// The segment.
        name: String,
    },
    /// The segment was opened before this process was forked. Its locks would be those of all copies:
    /// whoever asked through it would find the others free of them, and so dead.
    #[error("{name:?} was opened before this process was forked: open it again in the child")]
    ForkedChild {
        /// The segment.
        name: String,
    },
    /// The segment was opened for looking only.
    #[error("{name:?} was opened for looking only: open it for use to join it")]
    ReadOnly {
        /// The segment.
        name: String,
    },
    /// The kernel gives no lock.
    #[error("can't lock a participant slot of {name:?}: {source}")]
    Lock {
        /// The segment.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Attachment {
    /// Takes a free slot.
    ///
    /// Slots of dead processes are not taken: free them first, see [`Participants::departed`].
    /// Each attachment needs a [`Segment`] opened for it alone, since that holds its lock.
    ///
    /// # Errors
    /// [`JoinError::Full`] if no slot is free; [`JoinError::ForkedChild`] if the segment was opened before
    /// a fork, [`JoinError::ReadOnly`] if for looking only.
    pub fn join(segment: Segment, name: &str) -> Result<Self, JoinError> {
        Self::join_as(segment, name, AttachAs::Participant)
    }

    /// As [`join`](Self::join), perhaps by a slot that is kept for tools.
    ///
    /// # Errors
    /// As [`join`](Self::join).
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
                // Whoever watches over this segment must learn to watch us.
                segment.notify_all();
                events::joined(&segment, Member { index, epoch });
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

    /// The segment.
    #[must_use]
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Everybody's slots.
    #[must_use]
    pub fn participants(&self) -> &Participants {
        &self.table
    }

    /// Our membership.
    #[must_use]
    pub fn member(&self) -> Member {
        Member {
            index: self.index,
            epoch: self.epoch,
        }
    }

    /// Whether this process is the one that joined, not a forked copy of it, and has lost nothing
    /// since. Two loads.
    #[inline]
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.tenure.is_held()
    }

    /// Whether this process is the one that joined, whatever it has lost since.
    #[must_use]
    pub fn is_this_process(&self) -> bool {
        self.tenure.is_this_process()
    }

    /// What this process lost, if it did: it must not use the segment any more. See
    /// [`check_file`](Self::check_file).
    #[must_use]
    pub fn loss(&self) -> Option<FileLoss> {
        self.loss.get().copied()
    }

    /// Looks at the segment's file, see [`Segment::check_file`]. What only this process lost ends
    /// its use of the segment, for good: [`is_ours`](Self::is_ours) is false from then on, and
    /// whoever waits here is woken. Others go on.
    ///
    /// Called by watchers; where there is none, by whoever waits.
    pub fn check_file(&self) {
        if !self.is_ours() {
            return;
        }
        let Err(loss) = self.segment.check_file() else {
            return;
        };
        // Before it is given up: whoever finds it given up asks why.
        let loss = *self.loss.get_or_init(|| loss);
        if self.tenure.give_up() {
            self.segment.notify_all();
            events::file_lost(&self.segment, loss);
        }
    }

    /// Says that this process is well.
    pub fn beat(&self) {
        let slot = self.slot();
        slot[BEAT_AT].store(nanos(clock::monotonic()), Ordering::Relaxed);
        slot[BEATS].fetch_add(1, Ordering::Release);
    }

    /// Eight words for the kind's own counters. Only this process writes them.
    #[must_use]
    pub fn counters(&self) -> &[AtomicU64] {
        &self.slot()[COUNTERS..]
    }

    /// The other members that are certainly gone, whose slots are not free yet.
    #[must_use]
    pub fn departed(&self) -> Vec<Member> {
        self.departed_beside(&Running::default())
    }

    /// As [`departed`](Self::departed), for the watcher: without asking about the processes that run.
    #[must_use]
    pub fn departed_beside(&self, running: &Running) -> Vec<Member> {
        self.table
            .departed_but(&self.segment, Some(self.index), running)
    }

    /// Leaves: from now on the slot counts as departed. The caller frees what it holds and then calls
    /// [`Participants::release`]; if it dies before, others do.
    ///
    /// Also when the descriptor was lost: the life lock holds for as long as the file is mapped, so
    /// the slot is still ours; and if it were not, its epoch would differ.
    pub fn leave(&self) {
        if self.is_this_process() {
            let (live, leaving) = (
                word(Presence::Live, self.epoch),
                word(Presence::Leaving, self.epoch),
            );
            let left = self.slot()[STATE].compare_exchange(
                live,
                leaving,
                Ordering::SeqCst,
                Ordering::SeqCst,
            );
            self.segment.changes().fetch_add(1, Ordering::SeqCst);
            if left.is_ok() {
                events::left(&self.segment, self.member());
            }
        }
    }

    fn slot(&self) -> &[AtomicU64; SLOT_WORDS] {
        self.table.slots.get(self.index.into())
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Participants {
    /// The table of `segment`.
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

    /// How many slots there are.
    #[must_use]
    pub fn count(&self) -> u16 {
        u16::try_from(self.slots.count()).expect("a header holds a u16")
    }

    /// Whether `member` still has its slot. Once false, false for ever.
    #[must_use]
    pub fn is_member(&self, member: Member) -> bool {
        let (presence, epoch) = self.state(member.index);
        epoch == member.epoch && presence != Presence::Free
    }

    /// What slot `index` says.
    ///
    /// Read without a lock: a slot that is taken over meanwhile gives a mixture, whose `presence` and
    /// `member` are right as of the end of the call.
    ///
    /// # Panics
    /// If there is no such slot.
    #[must_use]
    pub fn get(&self, index: u16) -> Participant {
        let slot = self.slots.get(index.into());
        let load = |at: usize| slot[at].load(Ordering::Acquire);
        let name: Vec<u8> = (NAME..COUNTERS)
            .flat_map(|at| load(at).to_le_bytes())
            .collect();
        let end = name
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(name.len());
        let (process, sender) = (self.process(index), SenderId::new(load(SENDER)));
        let (joined_at, beat_at) = (load(JOINED_AT), load(BEAT_AT));
        let beats = load(BEATS);
        let (presence, epoch) = self.state(index);
        Participant {
            member: Member { index, epoch },
            presence,
            process,
            sender,
            name: String::from_utf8_lossy(&name[..end]).into_owned(),
            joined_at: Duration::from_nanos(joined_at),
            beat_at: Duration::from_nanos(beat_at),
            beats,
        }
    }

    /// The eight counters of slot `index`, whoever has it or had it last.
    #[must_use]
    pub fn counters(&self, index: u16) -> &[AtomicU64] {
        &self.slots.get(index.into())[COUNTERS..]
    }

    /// Every slot that is or was ever taken.
    pub fn iter(&self) -> impl Iterator<Item = Participant> + '_ {
        // Most were never: those cost one load.
        (0..self.count())
            .filter(|index| self.state(*index).1 > 0)
            .map(|index| self.get(index))
    }

    /// How many slots are taken, tools included; also by processes that are gone and not freed yet.
    #[must_use]
    pub fn attached(&self) -> u16 {
        let taken = (0..self.count()).filter(|index| self.state(*index).0 != Presence::Free);
        u16::try_from(taken.count()).expect("at most as many as there are slots")
    }

    /// The members that are certainly gone, whose slots are not free yet.
    ///
    /// `segment` must not be one through which a process joined: its own lock would look free to it.
    #[must_use]
    pub fn departed(&self, segment: &Segment) -> Vec<Member> {
        self.departed_but(segment, None, &Running::default())
    }

    /// Whether `member` is certainly gone, seen through a segment that is not its own.
    #[must_use]
    pub fn is_departed(&self, segment: &Segment, member: Member) -> bool {
        self.is_departed_beside(segment, member, &Running::default())
    }

    fn is_departed_beside(&self, segment: &Segment, member: Member, running: &Running) -> bool {
        match self.state(member.index) {
            (_, epoch) if epoch != member.epoch => true,
            (Presence::Free | Presence::Leaving, _) => true,
            (Presence::Live, _) => {
                let process = self.process(member.index);
                // The identity was written before the epoch that we compare again afterwards.
                liveness::is_gone(segment.file(), life_byte(member), &process, running)
                    || self.state(member.index) != (Presence::Live, member.epoch)
            }
        }
    }

    /// Frees the slot of a departed member. Nothing may name it any more. Harmless when done twice.
    pub fn release(&self, segment: &Segment, member: Member) {
        // Read while the slot is the departed one's.
        let departed = self.get(member.index);
        let free = word(Presence::Free, member.epoch);
        for presence in [Presence::Live, Presence::Leaving] {
            let taken = word(presence, member.epoch);
            let state = &self.slots.get(member.index.into())[STATE];
            if state
                .compare_exchange(taken, free, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
            {
                segment.changes().fetch_add(1, Ordering::SeqCst);
                if presence == Presence::Live {
                    events::died(segment, &departed);
                }
            }
        }
    }

    fn departed_but(&self, segment: &Segment, ours: Option<u16>, running: &Running) -> Vec<Member> {
        (0..self.count())
            .filter(|index| Some(*index) != ours)
            .filter_map(|index| {
                let (presence, epoch) = self.state(index);
                let member = Member { index, epoch };
                let gone = presence != Presence::Free
                    && self.is_departed_beside(segment, member, running)
                    && self.is_member(member);
                gone.then_some(member)
            })
            .collect()
    }

    /// Takes slot `index` if it is free; its new epoch if so.
    fn take(&self, segment: &Segment, index: u16, name: &str) -> Result<Option<u64>, nix::Error> {
        let file = segment.file();
        if self.state(index).0 != Presence::Free || !liveness::try_lock(file, joining_byte(index))?
        {
            return Ok(None);
        }
        let taken = self.take_alone(segment, index, name);
        liveness::unlock(file, joining_byte(index));
        taken
    }

    /// As `take`, for whoever holds the slot's joining lock: nobody else can take it meanwhile.
    fn take_alone(
        &self,
        segment: &Segment,
        index: u16,
        name: &str,
    ) -> Result<Option<u64>, nix::Error> {
        let (presence, last) = self.state(index);
        if presence != Presence::Free {
            return Ok(None);
        }
        for epoch in last + 1..=last + LIFE_BYTES {
            let life = life_byte(Member { index, epoch });
            // Held: by a forked copy of a process that had this slot.
            if !liveness::try_lock(segment.file(), life)? {
                continue;
            }
            self.introduce(index, name);
            let (free, live) = (word(Presence::Free, last), word(Presence::Live, epoch));
            let state = &self.slots.get(index.into())[STATE];
            if state
                .compare_exchange(free, live, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
            {
                return Ok(Some(epoch));
            }
            liveness::unlock(segment.file(), life);
            break;
        }
        Ok(None)
    }

    fn introduce(&self, index: u16, name: &str) {
        let slot = self.slots.get(index.into());
        let process = ProcessIdentity::current();
        let now = nanos(clock::monotonic());
        let set = |at: usize, value: u64| slot[at].store(value, Ordering::Release);
        set(PID, process.pid.into());
        set(START_TICKS, process.start_ticks);
        set(PID_NAMESPACE, process.pid_namespace);
        set(SENDER, sender_number(&process));
        set(JOINED_AT, now);
        set(BEAT_AT, now);
        set(BEATS, 0);
        let mut bytes = [0; 8 * (COUNTERS - NAME)];
        let kept = name.len().min(bytes.len());
        bytes[..kept].copy_from_slice(&name.as_bytes()[..kept]);
        for (at, chunk) in bytes.chunks_exact(8).enumerate() {
            set(
                NAME + at,
                u64::from_le_bytes(chunk.try_into().expect("eight bytes")),
            );
        }
        (COUNTERS..SLOT_WORDS).for_each(|at| set(at, 0));
    }

    fn state(&self, index: u16) -> (Presence, u64) {
        let word = self.slots.get(index.into())[STATE].load(Ordering::SeqCst);
        let presence = match word & 3 {
            0 => Presence::Free,
            1 => Presence::Live,
            // 3 is damage: nobody writes it. As `Leaving` it is freed like any other departed member.
            _ => Presence::Leaving,
        };
        (presence, word >> 2)
    }

    fn process(&self, index: u16) -> ProcessIdentity {
        let slot = self.slots.get(index.into());
        let load = |at: usize| slot[at].load(Ordering::Acquire);
        ProcessIdentity {
            pid: u32::try_from(load(PID)).unwrap_or(0),
            start_ticks: load(START_TICKS),
            pid_namespace: load(PID_NAMESPACE),
        }
    }
}

const SLOT_WORDS: usize = SLOT_BYTES / 8;
const STATE: usize = 0;
const PID: usize = 1;
const START_TICKS: usize = 2;
const PID_NAMESPACE: usize = 3;
const SENDER: usize = 4;
const JOINED_AT: usize = 5;
const BEAT_AT: usize = 6;
const BEATS: usize = 7;
const NAME: usize = 8;
const COUNTERS: usize = 16;
/// All bytes of a slot but the first.
const LIFE_BYTES: u64 = SLOT_BYTES as u64 - 1;

/// A number that no other process is likely to have. The generator alone would not do: two children
/// forked from one parent draw the same numbers.
fn sender_number(process: &ProcessIdentity) -> u64 {
    let identity = [
        process.pid.into(),
        process.start_ticks,
        process.pid_namespace,
    ];
    let salt = fingerprint(identity.map(u64::to_le_bytes).as_flattened());
    (fastrand::u64(..) ^ salt).max(1)
}

fn word(presence: Presence, epoch: u64) -> u64 {
    let bits = match presence {
        Presence::Free => 0,
        Presence::Live => 1,
        Presence::Leaving => 2,
    };
    epoch << 2 | bits
}

/// The byte of the file whose lock says that somebody joins by this slot. Only a name for it: nobody
/// reads or writes the byte.
fn joining_byte(index: u16) -> usize {
    SLOTS + usize::from(index) * SLOT_BYTES
}

/// The byte of the file whose lock says that a member lives: one of the slot's others, by its epoch.
fn life_byte(member: Member) -> usize {
    let nth = usize::try_from(member.epoch % LIFE_BYTES).expect("less than a slot's bytes");
    joining_byte(member.index) + 1 + nth
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Scratch, TEST_KIND};

    fn scratch() -> (Scratch, Segment) {
        let scratch = Scratch::new();
        let segment = scratch.create("table", 3);
        (scratch, segment)
    }

    #[test]
    fn each_attachment_has_a_slot_and_gives_it_back() {
        let (scratch, segment) = scratch();
        let first = Attachment::join(segment, "first").unwrap();
        let second = Attachment::join(scratch.open("table", TEST_KIND), "second").unwrap();
        assert_ne!(first.member(), second.member());
        let names: Vec<_> = first.participants().iter().map(|slot| slot.name).collect();
        assert_eq!(names, ["first", "second"]);
        assert_eq!(first.departed(), []);
        let gone = second.member();
        drop(second);
        assert_eq!(first.departed(), [gone]);
        first.participants().release(first.segment(), gone);
        assert_eq!(first.departed(), []);
        assert!(!first.participants().is_member(gone));
        let third = Attachment::join(scratch.open("table", TEST_KIND), "third").unwrap();
        assert_eq!(third.member().epoch, gone.epoch + 1);
    }

    #[test]
    fn a_full_table_says_so_and_how_large_it_is() {
        let (scratch, segment) = scratch();
        let mut all = vec![Attachment::join(segment, "a").unwrap()];
        for _ in 0..2 {
            all.push(Attachment::join(scratch.open("table", TEST_KIND), "b").unwrap());
        }
        let error = Attachment::join(scratch.open("table", TEST_KIND), "c").unwrap_err();
        assert!(
            matches!(
                error,
                JoinError::Full {
                    slots: 3,
                    attached: 3,
                    ..
                }
            ),
            "{error}"
        );
        assert!(error.to_string().contains("max_participants"), "{error}");
    }

    #[test]
    fn a_tool_finds_a_slot_when_all_others_are_taken_and_takes_none_of_them() {
        let scratch = Scratch::new();
        let header = Scratch::header(2).with_tool_slots(1).unwrap();
        let name = ipc_proto::Name::new("table").unwrap();
        drop(Segment::create(&scratch.namespace, &name, &header).unwrap());
        let open = || scratch.open("table", TEST_KIND);
        let tool = Attachment::join_as(open(), "tool", AttachAs::Tool).unwrap();
        assert_eq!(tool.member().index, 2);
        let workers = [(); 2].map(|()| Attachment::join(open(), "worker").unwrap());
        let error = Attachment::join(open(), "worker").unwrap_err();
        assert!(
            matches!(
                error,
                JoinError::Full {
                    slots: 2,
                    attached: 3,
                    ..
                }
            ),
            "{error}"
        );
        assert!(Attachment::join_as(open(), "tool", AttachAs::Tool).is_err());
        drop(workers);
        for member in tool.departed() {
            tool.participants().release(tool.segment(), member);
        }
        let second = Attachment::join_as(open(), "tool", AttachAs::Tool).unwrap();
        assert!(second.member().index < 2);
    }

    #[test]
    fn a_lost_descriptor_ends_the_membership_and_nobody_elses() {
        let (scratch, segment) = scratch();
        let clumsy = Attachment::join(segment, "clumsy").unwrap();
        let other = Attachment::join(scratch.open("table", TEST_KIND), "other").unwrap();
        clumsy.check_file();
        assert!(clumsy.is_ours());
        let number = clumsy.segment().file().number();
        // SAFETY: takes two numbers; the descriptor is the one that this test wants to lose.
        assert_eq!(unsafe { libc::dup2(0, number) }, number);
        // In a file that took the number all bytes are unlocked.
        assert_eq!(clumsy.departed(), []);
        clumsy.check_file();
        assert_eq!(clumsy.loss(), Some(FileLoss::Descriptor(number)));
        assert!(!clumsy.is_ours() && clumsy.is_this_process());
        assert_eq!(other.segment().flags().load(Ordering::SeqCst), 0);
        // Its life lock belongs to the open file, which the mapping keeps.
        assert_eq!(other.departed(), []);
        let member = clumsy.member();
        drop(clumsy);
        assert_eq!(other.departed(), [member]);
    }

    #[test]
    fn a_slot_whose_process_closed_its_lock_is_departed() {
        let (scratch, segment) = scratch();
        let watcher = Attachment::join(segment, "watcher").unwrap();
        let doomed = Attachment::join(scratch.open("table", TEST_KIND), "doomed").unwrap();
        let member = doomed.member();
        let mut running = Running::default();
        running.update(&[ProcessIdentity::current()]);
        assert_eq!(watcher.departed_beside(&running), []);
        // What exec does: the lock goes, the slot says nothing, the process lives.
        liveness::unlock(doomed.segment.file(), life_byte(member));
        assert_eq!(watcher.departed(), [member]);
        assert_eq!(watcher.departed_beside(&running), [member]);
    }

    #[test]
    fn counters_and_beats_stay_readable_after_leaving() {
        let (scratch, segment) = scratch();
        let reader = Attachment::join(segment, "reader").unwrap();
        let writer = Attachment::join(scratch.open("table", TEST_KIND), "writer").unwrap();
        writer.counters()[3].store(42, Ordering::Relaxed);
        writer.beat();
        let index = writer.member().index;
        drop(writer);
        assert_eq!(
            reader.participants().counters(index)[3].load(Ordering::Relaxed),
            42
        );
        let slot = reader.participants().get(index);
        assert_eq!(
            (slot.beats, slot.presence, &slot.name[..]),
            (1, Presence::Leaving, "writer")
        );
    }

    #[test]
    fn a_free_slot_can_be_taken_though_a_forked_copy_of_its_lock_lives_on() {
        let (scratch, segment) = scratch();
        // What a forked child has: another reference to the same open file, and with it to its locks.
        let inherited = segment.file().file().try_clone().unwrap();
        let parent = Attachment::join(segment, "parent").unwrap();
        let member = parent.member();
        drop(parent);
        let segment = scratch.open("table", TEST_KIND);
        Participants::of(&segment).release(&segment, member);
        let rounds = 2 * LIFE_BYTES;
        for _ in 0..rounds {
            let next = Attachment::join(scratch.open("table", TEST_KIND), "next").unwrap();
            assert_eq!(next.member().index, member.index);
            // As if it died: what the copy holds does not make it seem alive.
            liveness::unlock(next.segment().file(), life_byte(next.member()));
            assert_eq!(next.participants().departed(&segment), [next.member()]);
            next.leave();
            next.participants().release(next.segment(), next.member());
        }
        drop(inherited);
    }
}
