//! Tests of the table, within one process.

use super::*;
use crate::testing::{Scratch, TEST_KIND};

fn scratch() -> (Scratch, Segment) {
    let scratch = Scratch::new();
    let segment = scratch.create("table", 3);
    (scratch, segment)
}

#[test]
fn each_attachment_has_its_own_slot_and_returns_it() {
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
fn joining_a_full_table_is_an_error_with_its_size() {
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
fn a_tool_slot_is_free_when_all_others_are_taken_and_is_used_first() {
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
fn a_lost_descriptor_ends_only_the_membership_of_its_own_process() {
    let (scratch, segment) = scratch();
    let clumsy = Attachment::join(segment, "clumsy").unwrap();
    let other = Attachment::join(scratch.open("table", TEST_KIND), "other").unwrap();
    clumsy.check_file();
    assert!(clumsy.is_ours());
    let number = clumsy.segment().file().number();
    // SAFETY: takes two numbers; the descriptor is the one that this test loses on purpose.
    assert_eq!(unsafe { libc::dup2(0, number) }, number);
    // In the file that took the number, all bytes are unlocked.
    assert_eq!(clumsy.departed(), []);
    clumsy.check_file();
    assert_eq!(clumsy.loss(), Some(FileLoss::Descriptor(number)));
    assert!(!clumsy.is_ours() && clumsy.is_this_process());
    assert_eq!(other.segment().flags().load(Ordering::SeqCst), 0);
    // The life lock belongs to the open file, which the mapping keeps alive.
    assert_eq!(other.departed(), []);
    let member = clumsy.member();
    drop(clumsy);
    assert_eq!(other.departed(), [member]);
}

#[test]
fn a_member_whose_life_lock_is_free_is_departed_although_its_process_runs() {
    let (scratch, segment) = scratch();
    let watcher = Attachment::join(segment, "watcher").unwrap();
    let doomed = Attachment::join(scratch.open("table", TEST_KIND), "doomed").unwrap();
    let member = doomed.member();
    let mut running = Running::default();
    running.update(&[ProcessIdentity::current()]);
    assert_eq!(watcher.departed_beside(&running), []);
    // The effect of `exec`: the lock is released, the slot is unchanged, and the process lives.
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
fn a_free_slot_can_be_taken_although_a_forked_copy_holds_an_old_life_lock() {
    let (scratch, segment) = scratch();
    // Simulates a forked child: another reference to the same open file, and so to its locks.
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
        // Simulates its death. The lock that the copy holds does not make it seem alive.
        liveness::unlock(next.segment().file(), life_byte(next.member()));
        assert_eq!(next.participants().departed(&segment), [next.member()]);
        next.leave();
        next.participants().release(next.segment(), next.member());
    }
    drop(inherited);
}
