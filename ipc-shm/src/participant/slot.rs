//! The words of one participant slot.
//!
//! | word | content | written by |
//! |---|---|---|
//! | 0 | state and epoch, see `participant` | any process, by compare-and-swap |
//! | 1 to 3 | identity of the process | the owner, before its slot is `LIVE` |
//! | 4 | sender number | the owner, before its slot is `LIVE` |
//! | 5 | time of joining | the owner, before its slot is `LIVE` |
//! | 6, 7 | time of the last heartbeat, number of heartbeats | the owner |
//! | 8 to 15 | name, padded with zeroes | the owner, before its slot is `LIVE` |
//! | 16 to 23 | the kind's own counters | the owner |
//!
//! The first word publishes the others. Readers take no lock, so they compare the first word again
//! if the others must belong to the same epoch.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipc_proto::SenderId;

use super::{Member, Participant, Presence};
use crate::clock;
use crate::fingerprint::fingerprint;
use crate::layout::{SLOT_BYTES, SLOTS};
use crate::liveness::ProcessIdentity;

/// One slot of the table.
#[derive(Clone, Copy)]
pub(super) struct Slot<'a>(pub &'a [AtomicU64; SLOT_WORDS]);

/// The contents of a slot's first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotState {
    pub presence: Presence,
    pub epoch: u64,
}

impl SlotState {
    /// The lowest two bits are the presence; the epoch is above them.
    const PRESENCE_BITS: u32 = 2;

    pub(super) const fn new(presence: Presence, epoch: u64) -> Self {
        Self { presence, epoch }
    }

    fn pack(self) -> u64 {
        let bits = match self.presence {
            Presence::Free => 0,
            Presence::Live => 1,
            Presence::Leaving => 2,
        };
        self.epoch << Self::PRESENCE_BITS | bits
    }

    fn unpack(word: u64) -> Self {
        let presence = match word & 3 {
            0 => Presence::Free,
            1 => Presence::Live,
            // 3 means damage, because no process writes it. Treated as `Leaving`, so it is freed
            // like a departed member.
            _ => Presence::Leaving,
        };
        Self::new(presence, word >> Self::PRESENCE_BITS)
    }
}

impl<'a> Slot<'a> {
    pub(super) fn state(self) -> SlotState {
        SlotState::unpack(self.0[STATE].load(Ordering::SeqCst))
    }

    /// Swaps the state if it is still exactly `from`. The caller handles both outcomes.
    pub(super) fn change(self, from: SlotState, to: SlotState) -> bool {
        self.0[STATE]
            .compare_exchange(from.pack(), to.pack(), Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Writes everything except the state. Only for a process that holds the joining lock of a free
    /// slot.
    pub(super) fn introduce(self, name: &str) {
        let process = ProcessIdentity::current();
        let now = nanos(clock::monotonic());
        let set = |at: usize, value: u64| self.0[at].store(value, Ordering::Release);
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

    /// Records a heartbeat. Only for the owner.
    pub(super) fn beat(self) {
        self.0[BEAT_AT].store(nanos(clock::monotonic()), Ordering::Relaxed);
        self.0[BEATS].fetch_add(1, Ordering::Release);
    }

    pub(super) fn counters(self) -> &'a [AtomicU64] {
        &self.0[COUNTERS..]
    }

    /// Returns the contents of this slot, which has the index `index`. The state is read last.
    pub(super) fn read(self, index: u16) -> Participant {
        let name: Vec<u8> = (NAME..COUNTERS)
            .flat_map(|at| self.load(at).to_le_bytes())
            .collect();
        let end = name
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(name.len());
        let (process, sender) = (self.process(), SenderId::new(self.load(SENDER)));
        let (joined_at, beat_at) = (self.load(JOINED_AT), self.load(BEAT_AT));
        let beats = self.load(BEATS);
        let SlotState { presence, epoch } = self.state();
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

    pub(super) fn process(self) -> ProcessIdentity {
        ProcessIdentity {
            pid: u32::try_from(self.load(PID)).unwrap_or(0),
            start_ticks: self.load(START_TICKS),
            pid_namespace: self.load(PID_NAMESPACE),
        }
    }

    fn load(self, at: usize) -> u64 {
        self.0[at].load(Ordering::Acquire)
    }
}

/// Returns the byte of the file whose lock means that a process is joining by this slot. The lock
/// uses only the byte's offset; its content does not matter.
pub(super) fn joining_byte(index: u16) -> usize {
    SLOTS + usize::from(index) * SLOT_BYTES
}

/// Returns the byte of the file whose lock means that a member lives: one of the slot's other
/// bytes, chosen by the epoch.
pub(super) fn life_byte(member: Member) -> usize {
    let nth = usize::try_from(member.epoch % LIFE_BYTES).expect("less than a slot's bytes");
    joining_byte(member.index) + 1 + nth
}

/// Returns a number that other processes are unlikely to have. Random numbers alone do not suffice:
/// two children forked from one parent draw the same numbers.
fn sender_number(process: &ProcessIdentity) -> u64 {
    let identity = [
        process.pid.into(),
        process.start_ticks,
        process.pid_namespace,
    ];
    let salt = fingerprint(identity.map(u64::to_le_bytes).as_flattened());
    (fastrand::u64(..) ^ salt).max(1)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) const SLOT_WORDS: usize = SLOT_BYTES / 8;
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
/// The number of life locks of a slot: one for each of its bytes except the first.
pub(super) const LIFE_BYTES: u64 = SLOT_BYTES as u64 - 1;
