//! Tests of the lock, within one process.

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
fn processes_and_threads_of_one_process_exclude_each_other() {
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
                    // Two separate steps: a second thread between them would lose a count.
                    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(count.load(Ordering::Relaxed), 4 * ROUNDS);
}

#[test]
fn a_timed_out_wait_names_the_live_holder() {
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
fn a_lock_of_a_departed_member_is_reported_as_inherited_once() {
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
fn a_lock_of_a_former_slot_owner_is_inherited_although_the_slot_is_taken_again() {
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
        // The waiters were woken: they did not wait for the end of their slice.
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
fn unlocking_wakes_one_sleeping_waiter_after_another() {
    let (_scratch, [(_, one), (_, other)]) = two();
    let guard = one.lock(None).unwrap();
    thread::scope(|scope| {
        for lock in [&one, &other, &other] {
            scope.spawn(|| drop(lock.lock(None).unwrap()));
        }
        until_asleep(3, [&one, &other]);
        let before = event_word(&one).load(Ordering::SeqCst);
        drop(guard);
        // While the flag is set, falling asleep and waking up do not change the word. So this
        // was a notification.
        assert_ne!(event_word(&one).load(Ordering::SeqCst), before);
    });
}

#[test]
fn a_holder_outside_the_slots_is_reported_as_damage() {
    let (scratch, [(_, one), _]) = two();
    for found in [5, 0xffff, 1 << 16, u64::MAX] {
        one.word().store(found, Ordering::SeqCst);
        let error = one.lock(None).unwrap_err();
        let wanted = one.damaged(found, 4);
        assert_eq!(error, wanted);
    }
    // The slot exists, but its epoch never did: no process can hold the lock in it.
    one.word().store(77 << 16 | 2, Ordering::SeqCst);
    let member = Member {
        index: 1,
        epoch: 77,
    };
    let heir = one.lock(None).unwrap();
    assert_eq!(heir.inherited(), Inherited::FromDead(member));
    // The advice.
    one.word().store(5, Ordering::SeqCst);
    let text = one.lock(None).unwrap_err().to_string();
    assert!(text.ends_with("; remove it"), "{text}");
    let name = one.segment().name().clone();
    assert!(Segment::remove(&scratch.namespace, &name, TEST_KIND).unwrap());
    scratch.create("lock", 4);
}

proptest! {
    #[test]
    fn an_owner_round_trips_through_its_word(index in 0..u16::MAX, epoch in 0..1_u64 << 48) {
        let owner = Some(Owner(Member { index, epoch }));
        prop_assert_eq!(Owner::unpack(Owner::pack(owner)), owner);
        let inherited = Inherited::FromDead(Member { index, epoch });
        prop_assert_eq!(Inherited::from_word(inherited.to_word()), inherited);
    }

    #[test]
    fn only_a_zero_word_is_free(word: u64) {
        for word in [word, word << 16, 0] {
            prop_assert_eq!(Owner::unpack(word).is_none(), word == 0);
        }
    }
}
