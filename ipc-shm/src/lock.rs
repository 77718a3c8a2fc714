//! A lock that all processes share, and that outlives whoever holds it.
//!
//! One word of the segment names the holder:
//!
//! | from | to | by |
//! |---|---|---|
//! | free | held by me | whoever wants it |
//! | held by me | free | me, when the guard is dropped; it then wakes one waiter |
//! | held by a member that is certainly gone | held by me | whoever wants it, and learns whom it inherits from |
//!
//! Every change is a compare-and-swap of the exact word, and a membership is never given out twice: so one of several
//! heirs inherits, and a holder that is gone can't come back. A member is a process. Its threads exclude
//! each other by the same word: whoever finds its own process there waits as for any other, without asking
//! whether that is alive.
//! The holder may die at any moment. It may be stopped, too, and is then waited for: nothing but the
//! kernel's word that it is gone (see `liveness`) takes the lock from it.
//! Not fair and not re-entrant. Does not know what it protects: what state a dead holder left it in is for the
//! heir to find out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fmt, hint};

use thiserror::Error;

use crate::mapping::{OutOfBounds, Words};
use crate::participant::{Attachment, Member};
use crate::segment::{DELETED, FileLoss, REMOVED, Segment, TRUNCATED};
use crate::wait::{Event, time_left};
use crate::watch;

/// A lock in a segment that this process is attached to.
pub struct RobustLock {
    attachment: Arc<Attachment>,
    /// Written by whoever locks, unlocks or inherits, see above; read by whoever wants it. Taking it
    /// acquires, and freeing it releases, what the holder did meanwhile.
    owner: Words<1>,
    offset: usize,
    event: usize,
    /// What the segment's count of comings and goings was when the watcher last looked on our behalf. May
    /// lag: the watcher is then told once more than needed.
    watched: AtomicU64,
}

/// Holds the lock until it is dropped, or its process dies.
#[derive(Debug)]
#[must_use = "the lock is free again as soon as this is dropped"]
pub struct LockGuard<'a> {
    lock: &'a RobustLock,
    inherited: Inherited,
}

/// From whom a lock was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inherited {
    /// It was free.
    No,
    /// Its holder died, or left, without giving it back: what it protects may be half-changed.
    FromDead(Member),
}

/// Why a lock was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LockError {
    /// Somebody alive held it all the time.
    #[error("{name:?} stayed locked for {waited:?} by {holder}")]
    TimedOut {
        /// The segment.
        name: String,
        /// How long we waited.
        waited: Duration,
        /// Who held it last.
        holder: Holder,
    },
    /// The segment was removed.
    #[error("{name:?} was removed: open it again, if somebody is to make a new one")]
    Removed {
        /// The segment.
        name: String,
    },
    /// The segment's file was deleted, or moved away, by something other than this library.
    #[error(
        "the file of {name:?} was deleted or moved by something other than this library: keep cleaners away from its \
         folder (systemd: RemoveIPC=no), and open it again"
    )]
    Deleted {
        /// The segment.
        name: String,
    },
    /// Something in this process closed the descriptor of the segment's file.
    #[error(
        "something in this process closed descriptor {descriptor}, the file of {name:?}: open it again, and find \
         the code that closes descriptors that are not its own"
    )]
    DescriptorLost {
        /// The segment.
        name: String,
        /// The number that the descriptor had.
        descriptor: i32,
    },
    /// The segment's file was cut short: what it protected is lost.
    #[error(
        "{name:?} was cut short from outside while it was in use: what was in it is lost; remove it"
    )]
    Truncated {
        /// The segment.
        name: String,
    },
    /// This process is a forked copy of the one that attached.
    #[error("{name:?} was opened before this process was forked: open it again in the child")]
    ForkedChild {
        /// The segment.
        name: String,
    },
    /// The word names nobody who can exist.
    #[error(
        "{name:?} is damaged: at offset {offset} stands {found:#018x} instead of 0 or the holder in one of \
         {slots} slots; remove it"
    )]
    Damaged {
        /// The segment.
        name: String,
        /// Where the word is.
        offset: usize,
        /// What it says.
        found: u64,
        /// How many slots there are.
        slots: u16,
    },
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its membership.
    pub member: Member,
    /// Its process's number, in that process's PID namespace.
    pub pid: u32,
    /// What it called itself.
    pub name: String,
    /// Whether it is this very process: another thread of it, or this one.
    pub is_us: bool,
}

impl RobustLock {
    /// The lock whose word is at `offset` of the segment, 0 at first. Waits by the segment's event number
    /// `event`, which should be nobody else's: a notification wakes but one waiter. The attachment must not
    /// leave while it uses the lock: it would count as dead.
    ///
    /// # Errors
    /// [`OutOfBounds`], also when `offset` is no multiple of 8.
    ///
    /// # Panics
    /// If there is no such event.
    pub fn new(
        attachment: Arc<Attachment>,
        offset: usize,
        event: usize,
    ) -> Result<Self, OutOfBounds> {
        let segment = attachment.segment();
        let _ = segment.event(event);
        Ok(Self {
            owner: segment.mapping().words(offset, 8, 1)?,
            attachment,
            offset,
            event,
            watched: AtomicU64::new(u64::MAX),
        })
    }

    /// Takes the lock, from a dead holder too; waits until `deadline` for a live one, without one as long as
    /// it takes. A deadline that has passed already asks once.
    ///
    /// Threads of this process exclude each other as processes do; one that locks twice waits for itself. If
    /// something [watches](watch) over the segment, a holder's death ends the wait within milliseconds,
    /// otherwise within [`SLICE`](crate::wait::SLICE).
    ///
    /// # Errors
    /// [`LockError::TimedOut`], saying who holds it; [`LockError::Removed`], [`LockError::Deleted`],
    /// [`LockError::DescriptorLost`] and [`LockError::Truncated`], also when that happens meanwhile;
    /// [`LockError::ForkedChild`]; [`LockError::Damaged`].
    pub fn lock(&self, deadline: Option<Instant>) -> Result<LockGuard<'_>, LockError> {
        self.attachment.check_ours()?;
        for _ in 0..SPINS {
            self.check_usable()?;
            let free = self.word().load(Ordering::Relaxed) == Owner::pack(None);
            if free && self.change(None, Some(self.us())) {
                return self.guard(Inherited::No);
            }
            hint::spin_loop();
        }
        self.lock_asleep(deadline)
    }

    fn lock_asleep(&self, deadline: Option<Instant>) -> Result<LockGuard<'_>, LockError> {
        let started = Instant::now();
        loop {
            let ticket = self.event().prepare();
            self.check_usable()?;
            let holder = match self.try_lock()? {
                Attempt::Locked(inherited) => return self.guard(inherited),
                Attempt::HeldBy(holder) => holder,
            };
            let Some(left) = time_left(deadline) else {
                return Err(LockError::TimedOut {
                    name: self.name(),
                    waited: started.elapsed(),
                    holder: self.describe(holder),
                });
            };
            self.watch_newcomers();
            // Why it returned does not matter: we look again either way.
            let _ = self.event().wait(ticket, left);
            if !watch::is_running() {
                self.attachment.check_file();
            }
            self.attachment.check_ours()?;
        }
    }

    /// Takes the lock if nobody alive has it.
    fn try_lock(&self) -> Result<Attempt, LockError> {
        let us = self.us();
        loop {
            let word = self.word().load(Ordering::SeqCst);
            let (holder, inherited) = match Owner::unpack(word) {
                None => (None, Inherited::No),
                Some(owner) if owner == us => return Ok(Attempt::HeldBy(us)),
                Some(owner) => {
                    let slots = self.attachment.participants().count();
                    if owner.0.index >= slots {
                        return Err(self.damaged(word, slots));
                    }
                    if !self.is_gone(owner) {
                        return Ok(Attempt::HeldBy(owner));
                    }
                    (Some(owner), Inherited::FromDead(owner.0))
                }
            };
            if self.change(holder, Some(us)) {
                return Ok(Attempt::Locked(inherited));
            }
        }
    }

    /// Not to be asked about ourselves: our own kernel locks look free to us.
    fn is_gone(&self, owner: Owner) -> bool {
        let table = self.attachment.participants();
        table.is_departed(self.segment(), owner.0)
    }

    fn change(&self, from: Option<Owner>, to: Option<Owner>) -> bool {
        let (from, to) = (Owner::pack(from), Owner::pack(to));
        self.word()
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// The holder may have joined just now: our watcher has to know it before we sleep.
    fn watch_newcomers(&self) {
        let changes = self.segment().changes().load(Ordering::SeqCst);
        if self.watched.swap(changes, Ordering::Relaxed) != changes {
            watch::nudge();
        }
    }

    fn check_usable(&self) -> Result<(), LockError> {
        let flags = self.segment().flags().load(Ordering::SeqCst);
        if flags & (REMOVED | TRUNCATED) == 0 {
            return Ok(());
        }
        let name = self.name();
        Err(if flags & DELETED != 0 {
            LockError::Deleted { name }
        } else if flags & REMOVED != 0 {
            LockError::Removed { name }
        } else {
            LockError::Truncated { name }
        })
    }

    fn damaged(&self, found: u64, slots: u16) -> LockError {
        LockError::Damaged {
            name: self.name(),
            offset: self.offset,
            found,
            slots,
        }
    }

    fn describe(&self, owner: Owner) -> Holder {
        // Should it have left this moment, its slot still says who it was, unless somebody else has it.
        let slot = self.attachment.participants().get(owner.0.index);
        Holder {
            member: owner.0,
            pid: slot.process.pid,
            name: slot.name,
            is_us: owner == self.us(),
        }
    }

    /// For whoever has just taken the lock.
    fn guard(&self, inherited: Inherited) -> Result<LockGuard<'_>, LockError> {
        let guard = LockGuard {
            lock: self,
            inherited,
        };
        // Taken in zeroes that were put in the segment's place, it excludes nobody who had it before.
        guard.check_whole()?;
        Ok(guard)
    }

    fn us(&self) -> Owner {
        Owner(self.attachment.member())
    }

    fn word(&self) -> &AtomicU64 {
        &self.owner.get(0)[0]
    }

    fn event(&self) -> Event<'_> {
        self.segment().event(self.event)
    }

    fn segment(&self) -> &Segment {
        self.attachment.segment()
    }

    fn name(&self) -> String {
        self.segment().name().to_string()
    }
}

impl Attachment {
    /// Why this process may not use the lock, if so.
    fn check_ours(&self) -> Result<(), LockError> {
        if self.is_ours() {
            return Ok(());
        }
        let name = self.segment().name().to_string();
        Err(match self.loss().filter(|_| self.is_this_process()) {
            None => LockError::ForkedChild { name },
            Some(FileLoss::Descriptor(descriptor)) => {
                LockError::DescriptorLost { name, descriptor }
            }
            Some(FileLoss::Moved) => LockError::Deleted { name },
        })
    }
}

impl Inherited {
    /// For keeping it in a word; 0 for `No`.
    pub(crate) fn to_word(self) -> u64 {
        match self {
            Self::No => Owner::pack(None),
            Self::FromDead(member) => Owner::pack(Some(Owner(member))),
        }
    }

    pub(crate) fn from_word(word: u64) -> Self {
        Owner::unpack(word).map_or(Self::No, |owner| Self::FromDead(owner.0))
    }
}

impl fmt::Debug for RobustLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RobustLock")
            .field("path", &self.segment().path())
            .field("offset", &self.offset)
            .field("event", &self.event)
            .finish_non_exhaustive()
    }
}

impl LockGuard<'_> {
    /// Whether a dead holder left the lock. Said once, to the first to lock it after that.
    #[must_use]
    pub fn inherited(&self) -> Inherited {
        self.inherited
    }

    /// Fails if the segment's file was cut short, as far as anybody noticed. Asked after something was read or written it
    /// tells whether that was in memory that others share.
    ///
    /// # Errors
    /// [`LockError::Truncated`].
    pub fn check_whole(&self) -> Result<(), LockError> {
        if !self.lock.segment().is_truncated() {
            return Ok(());
        }
        let name = self.lock.name();
        Err(LockError::Truncated { name })
    }

    /// Fails in a forked copy of the process that took the lock, which does not hold it, and where
    /// the file was lost meanwhile.
    ///
    /// # Errors
    /// [`LockError::ForkedChild`], [`LockError::DescriptorLost`], [`LockError::Deleted`].
    pub fn check_ours(&self) -> Result<(), LockError> {
        self.lock.attachment.check_ours()
    }
}

impl Drop for LockGuard<'_> {
    fn drop(&mut self) {
        let lock = self.lock;
        // A forked copy of the guard is not a reason to unlock: the parent still holds it. A lost
        // descriptor is one.
        if lock.attachment.is_this_process() && lock.change(Some(lock.us()), None) {
            lock.event().notify_one();
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, name, .. } = self;
        if self.is_us {
            return write!(
                f,
                "this process ({pid}, {name:?}): drop the guard that another of its threads has, or this one"
            );
        }
        write!(
            f,
            "process {pid} ({name:?}), which lives: wait longer; continue it if it is stopped (SIGCONT); or \
             end it, and its lock passes on"
        )
    }
}

/// What came of looking once.
enum Attempt {
    Locked(Inherited),
    HeldBy(Owner),
}

/// What the word says, unless it is 0: the slot's number and one in the lowest 16 bits, above them the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner(Member);

impl Owner {
    const EPOCH_SHIFT: u32 = 16;

    /// Epochs keep 48 bits: nobody joins that often.
    fn pack(owner: Option<Self>) -> u64 {
        owner.map_or(0, |Self(member)| {
            member.epoch << Self::EPOCH_SHIFT | (u64::from(member.index) + 1)
        })
    }

    fn unpack(word: u64) -> Option<Self> {
        #[expect(clippy::cast_possible_truncation, reason = "the lowest 16 bits")]
        let number = word as u16;
        let epoch = word >> Self::EPOCH_SHIFT;
        match number.checked_sub(1) {
            Some(index) => Some(Self(Member { index, epoch })),
            None if word == 0 => None,
            // No slot has that number: damage, found by whoever compares it with the number of slots.
            None => Some(Self(Member {
                index: u16::MAX,
                epoch,
            })),
        }
    }
}

/// How often the lock is looked at before going to sleep, which costs far more than most holders take.
const SPINS: u32 = 100;

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::thread;

    use proptest::prelude::*;

    use super::*;
    use crate::layout::EVENTS;
    use crate::testing::{Scratch, TEST_KIND, threads_asleep_on};

    const EVENT: usize = 2;

    fn attach(segment: Segment, name: &str) -> (Arc<Attachment>, RobustLock) {
        let attachment = Arc::new(Attachment::join(segment, name).unwrap());
        let body = attachment.segment().header().body_offset;
        let lock = RobustLock::new(Arc::clone(&attachment), body, EVENT).unwrap();
        (attachment, lock)
    }

    fn two() -> (Scratch, [(Arc<Attachment>, RobustLock); 2]) {
        let scratch = Scratch::new();
        let one = attach(scratch.create("lock", 4), "one");
        let other = attach(scratch.open("lock", TEST_KIND), "other");
        (scratch, [one, other])
    }

    fn at_once() -> Option<Instant> {
        Some(Instant::now())
    }

    fn event_word(lock: &RobustLock) -> &AtomicU32 {
        let mapping = lock.segment().mapping();
        mapping.word32(EVENTS + 64 * EVENT).unwrap()
    }

    fn until_asleep(count: usize, locks: [&RobustLock; 2]) {
        while threads_asleep_on(&locks.map(event_word)) < count {
            thread::yield_now();
        }
    }

    #[test]
    fn members_and_threads_of_one_member_exclude_each_other() {
        const ROUNDS: u64 = 5_000;
        let (_scratch, [(attachment, one), (_, other)]) = two();
        let segment = attachment.segment();
        let count = segment.mapping().word(segment.header().body_offset + 64);
        let count = count.unwrap();
        thread::scope(|scope| {
            for lock in [&one, &one, &other, &other] {
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        let guard = lock.lock(None).unwrap();
                        assert_eq!(guard.inherited(), Inherited::No);
                        // Not one step: whoever comes between them loses a count.
                        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 4 * ROUNDS);
    }

    #[test]
    fn a_timed_out_wait_names_the_holder() {
        let (_scratch, [(_, one), (_, other)]) = two();
        let guard = one.lock(None).unwrap();
        for (lock, is_us) in [(&one, true), (&other, false)] {
            let error = lock.lock(at_once()).unwrap_err();
            let LockError::TimedOut { name, holder, .. } = &error else {
                panic!("{error}")
            };
            assert_eq!((&name[..], &holder.name[..]), ("lock", "one"));
            assert_eq!((holder.pid, holder.is_us), (std::process::id(), is_us));
            let text = format!("{} (\"one\")", std::process::id());
            assert!(is_us || error.to_string().contains(&text), "{error}");
        }
        drop(guard);
        assert!(other.lock(at_once()).is_ok());
    }

    #[test]
    fn a_member_that_left_with_the_lock_is_inherited_from_once() {
        let (_scratch, [(attachment, one), (_, other)]) = two();
        std::mem::forget(one.lock(None).unwrap());
        assert!(other.lock(at_once()).is_err());
        attachment.leave();
        let heir = other.lock(at_once()).unwrap();
        assert_eq!(heir.inherited(), Inherited::FromDead(attachment.member()));
        drop(heir);
        let next = other.lock(at_once()).unwrap();
        assert_eq!(next.inherited(), Inherited::No);
    }

    #[test]
    fn a_slot_taken_again_does_not_keep_its_former_members_lock() {
        let (scratch, [(attachment, one), (_, other)]) = two();
        let gone = attachment.member();
        std::mem::forget(one.lock(None).unwrap());
        attachment.leave();
        attachment
            .participants()
            .release(attachment.segment(), gone);
        let (next, _) = attach(scratch.open("lock", TEST_KIND), "next");
        assert_eq!(next.member().index, gone.index);
        let heir = other.lock(at_once()).unwrap();
        assert_eq!(heir.inherited(), Inherited::FromDead(gone));
    }

    #[test]
    fn removing_the_segment_ends_every_wait() {
        let (scratch, [(attachment, one), (_, other)]) = two();
        let guard = one.lock(None).unwrap();
        thread::scope(|scope| {
            let waiters = [&one, &other].map(|lock| scope.spawn(|| lock.lock(None).map(drop)));
            until_asleep(2, [&one, &other]);
            let before = event_word(&one).load(Ordering::SeqCst);
            let name = attachment.segment().name();
            assert!(Segment::remove(&scratch.namespace, name, TEST_KIND).unwrap());
            // Woken, not only found out when their slice ended.
            assert_ne!(event_word(&one).load(Ordering::SeqCst), before);
            for waiter in waiters {
                let error = waiter.join().unwrap().unwrap_err();
                assert!(matches!(error, LockError::Removed { .. }), "{error}");
            }
        });
        drop(guard);
        assert!(matches!(one.lock(None), Err(LockError::Removed { .. })));
    }

    #[test]
    fn unlocking_wakes_one_who_sleeps_and_then_the_next() {
        let (_scratch, [(_, one), (_, other)]) = two();
        let guard = one.lock(None).unwrap();
        thread::scope(|scope| {
            for lock in [&one, &other, &other] {
                scope.spawn(|| drop(lock.lock(None).unwrap()));
            }
            until_asleep(3, [&one, &other]);
            let before = event_word(&one).load(Ordering::SeqCst);
            drop(guard);
            // Going to sleep and waking up change nothing in it while its flag is up: it was a notification.
            assert_ne!(event_word(&one).load(Ordering::SeqCst), before);
        });
    }

    #[test]
    fn a_holder_in_no_slot_is_damage() {
        let (_scratch, [(_, one), _]) = two();
        for found in [5, 0xffff, 1 << 16, u64::MAX] {
            one.word().store(found, Ordering::SeqCst);
            let error = one.lock(None).unwrap_err();
            let wanted = one.damaged(found, 4);
            assert_eq!(error, wanted);
        }
        // A slot that exists, in an epoch that never was: nobody can hold that.
        one.word().store(77 << 16 | 2, Ordering::SeqCst);
        let member = Member {
            index: 1,
            epoch: 77,
        };
        let heir = one.lock(None).unwrap();
        assert_eq!(heir.inherited(), Inherited::FromDead(member));
    }

    proptest! {
        #[test]
        fn an_owner_survives_its_word(index in 0..u16::MAX, epoch in 0..1_u64 << 48) {
            let owner = Some(Owner(Member { index, epoch }));
            prop_assert_eq!(Owner::unpack(Owner::pack(owner)), owner);
            let inherited = Inherited::FromDead(Member { index, epoch });
            prop_assert_eq!(Inherited::from_word(inherited.to_word()), inherited);
        }

        #[test]
        fn only_zero_is_free(word: u64) {
            for word in [word, word << 16, 0] {
                prop_assert_eq!(Owner::unpack(word).is_none(), word == 0);
            }
        }
    }
}
