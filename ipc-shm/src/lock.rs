//! A lock that all processes share, and that survives the death of its holder.
//!
//! One word of the segment names the holder:
//!
//! | from | to | by |
//! |---|---|---|
//! | free | held by A | A |
//! | held by A | free | A, when its guard is dropped; A then wakes one waiter |
//! | held by A, which is certainly gone | held by B | B, which learns that it inherits from A |
//!
//! Every change is a compare-and-swap of the exact word, and a membership is never reused. So only
//! one of several waiters inherits the lock, and a holder that is gone cannot come back. A holder
//! is a process. Its threads exclude each other by the same word. A thread that finds its own
//! process there waits as for any other, but does not check whether that process is alive.
//!
//! The holder may die at any moment. It may also be stopped; then the others wait. They take the
//! lock only if the kernel says that the holder is gone (see `liveness`).
//!
//! The lock is neither fair nor re-entrant. It does not know what it protects: the next holder has
//! to find out what state a dead holder left.

#[cfg(test)]
mod tests;

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

/// A lock in a segment to which this process is attached.
pub struct RobustLock {
    attachment: Arc<Attachment>,
    /// The packed [`Owner`]. Changed by a process that locks, unlocks or inherits, see above; read
    /// by waiters. Locking acquires what the previous holder released by unlocking.
    owner: Words<1>,
    offset: usize,
    event: usize,
    /// The segment's count of joins and departures when this lock last woke the watcher. May lag;
    /// the watcher is then woken once more than necessary.
    watched: AtomicU64,
}

/// Holds the lock until it is dropped, or until its process dies.
#[derive(Debug)]
#[must_use = "dropping the guard unlocks the lock"]
pub struct LockGuard<'a> {
    lock: &'a RobustLock,
    inherited: Inherited,
}

/// The way in which a lock was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inherited {
    /// It was free.
    No,
    /// Its holder died or left without unlocking it. The protected data may be half-changed.
    FromDead(Member),
}

/// The reason why a lock was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LockError {
    /// A live process held the lock the whole time.
    #[error("{name:?} was locked for {waited:?} by {holder}")]
    TimedOut {
        /// The name of the segment.
        name: String,
        /// The time spent waiting.
        waited: Duration,
        /// The last holder.
        holder: Holder,
    },
    /// The segment was removed.
    #[error("{name:?} was removed: stop using it, or open it again once it is created again")]
    Removed {
        /// The name of the segment.
        name: String,
    },
    /// Code other than this library deleted or moved the segment's file.
    #[error(
        "code other than this library deleted or moved the file of {name:?}: keep cleaners away \
         from its folder (systemd: RemoveIPC=no), and open it again"
    )]
    Deleted {
        /// The name of the segment.
        name: String,
    },
    /// Other code in this process closed the descriptor of the segment's file.
    #[error(
        "other code in this process closed descriptor {descriptor}, the file of {name:?}: open it \
         again, and find the code that closes descriptors that are not its own"
    )]
    DescriptorLost {
        /// The name of the segment.
        name: String,
        /// The number that the descriptor had.
        descriptor: i32,
    },
    /// The segment's file was truncated, and the protected data is lost.
    #[error(
        "other code truncated {name:?} while it was in use, and its content is lost: remove it"
    )]
    Truncated {
        /// The name of the segment.
        name: String,
    },
    /// This process is a forked copy of the one that attached.
    #[error("{name:?} was opened before this process was forked: open it again in the child")]
    ForkedChild {
        /// The name of the segment.
        name: String,
    },
    /// The word names a holder that cannot exist.
    #[error(
        "{name:?} is damaged: the word at offset {offset} is {found:#018x}, expected 0 or a holder \
         in one of {slots} slots; remove it"
    )]
    Damaged {
        /// The name of the segment.
        name: String,
        /// The offset of the word.
        offset: usize,
        /// The value of the word.
        found: u64,
        /// The number of slots.
        slots: u16,
    },
}

/// The holder of a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Its membership.
    pub member: Member,
    /// Its process number, in that process's PID namespace.
    pub pid: u32,
    /// The name it gave itself.
    pub name: String,
    /// `true` if the holder is this process: another of its threads, or this one.
    pub is_us: bool,
}

impl RobustLock {
    /// Creates a handle for the lock whose word is at `offset` of the segment. The word is 0 at
    /// first.
    ///
    /// Waiters use the segment's event number `event`. Nothing else should use that event, because
    /// a notification wakes only one waiter. The attachment must not leave while it uses the lock,
    /// or it would count as dead.
    ///
    /// # Errors
    /// [`OutOfBounds`], also if `offset` is not a multiple of 8.
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

    /// Takes the lock, including from a dead holder. Waits for a live holder until `deadline`, or
    /// without a limit. With a deadline in the past it tries once.
    ///
    /// Threads of this process exclude each other as processes do. A thread that locks twice waits
    /// for itself. If a [watcher](watch) watches the segment, a holder's death ends the wait within
    /// milliseconds, otherwise within [`SLICE`](crate::wait::SLICE).
    ///
    /// # Errors
    /// - [`LockError::TimedOut`] names the holder.
    /// - [`LockError::Removed`], [`LockError::Deleted`], [`LockError::DescriptorLost`] and
    ///   [`LockError::Truncated`], also if that happens during the wait.
    /// - [`LockError::ForkedChild`].
    /// - [`LockError::Damaged`].
    pub fn lock(&self, deadline: Option<Instant>) -> Result<LockGuard<'_>, LockError> {
        self.attachment.check_ours()?;
        for _ in 0..SPINS {
            self.check_usable()?;
            let free = self.word().load(Ordering::Relaxed) == Owner::pack(None);
            // Success: locked. Failure: another thread or process was faster, so spin on.
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
            // The reason for the wake-up does not matter: the lock is tried again in any case.
            let _ = self.event().wait(ticket, left);
            if !watch::is_running() {
                self.attachment.check_file();
            }
            self.attachment.check_ours()?;
        }
    }

    /// Takes the lock unless a live process holds it.
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
            // Success: locked. Failure: the word changed since the load, so look at the new holder.
            if self.change(holder, Some(us)) {
                return Ok(Attempt::Locked(inherited));
            }
        }
    }

    /// Must not be called for this process: its own kernel locks look free to it.
    fn is_gone(&self, owner: Owner) -> bool {
        let table = self.attachment.participants();
        table.is_departed(self.segment(), owner.0)
    }

    /// Swaps the owner if it is still exactly `from`. Success acquires what the previous holder
    /// did, or releases what this one did. The caller handles a failure.
    fn change(&self, from: Option<Owner>, to: Option<Owner>) -> bool {
        let (from, to) = (Owner::pack(from), Owner::pack(to));
        self.word()
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// The holder may have just joined, and our watcher must know it before this thread sleeps.
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
        // If the holder leaves now, its slot still describes it, until another process takes the
        // slot.
        let slot = self.attachment.participants().get(owner.0.index);
        Holder {
            member: owner.0,
            pid: slot.process.pid,
            name: slot.name,
            is_us: owner == self.us(),
        }
    }

    /// Creates the guard after the lock was taken.
    fn guard(&self, inherited: Inherited) -> Result<LockGuard<'_>, LockError> {
        let guard = LockGuard {
            lock: self,
            inherited,
        };
        // A lock taken in replacement zeroes would exclude none of its former holders.
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
    /// Returns an error if this process must not use the lock.
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
    /// Packs the value into a word; 0 stands for `No`.
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
    /// Returns [`Inherited::FromDead`] if a dead holder left the lock. Only the next holder learns
    /// this.
    #[must_use]
    pub fn inherited(&self) -> Inherited {
        self.inherited
    }

    /// Fails if the segment's file is known to be truncated. Success after a read or a write means
    /// that it used shared memory.
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

    /// Fails in a forked copy of the process that took the lock, because the copy does not hold it.
    /// Also fails after the file was lost.
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
        // A forked copy of the guard must not unlock, because the parent still holds the lock.
        // After a lost descriptor it must. Success: the lock is free. Failure: another member
        // inherited the lock.
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
                "this process ({pid}, {name:?}): drop the guard in this thread or another one"
            );
        }
        write!(
            f,
            "process {pid} ({name:?}), which is alive: wait longer, continue it if it is stopped \
             (SIGCONT), or end it, which passes the lock on"
        )
    }
}

/// The outcome of one attempt.
enum Attempt {
    Locked(Inherited),
    HeldBy(Owner),
}

/// The holder in the lock's word, if that is not 0. The lowest 16 bits are the slot's index plus
/// one; the epoch is above them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner(Member);

impl Owner {
    const EPOCH_SHIFT: u32 = 16;

    /// Epochs have 48 bits, which no slot ever uses up.
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
            // No slot has this index, so the word is damaged. The caller compares the index with
            // the number of slots.
            None => Some(Self(Member {
                index: u16::MAX,
                epoch,
            })),
        }
    }
}

/// The number of attempts before a thread sleeps. Sleeping costs far more than most holders take.
const SPINS: u32 = 100;
