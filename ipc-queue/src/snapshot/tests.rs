mod stage;

use std::fs;
use std::time::Instant;

use ipc_proto::{MessageId, Priority};

use self::record::StoredMessage;
use self::stage::{Stage, contents, fill, full};
use super::*;
use crate::bytes::ByteQueue;
use crate::capability::Feature;
use crate::error::SendFailure;
use crate::send_options::SendOptions;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn everything_survives_a_save_and_a_restore_into_other_settings() {
    let stage = Stage::new();
    let queue = stage.open("q", full());
    fill(&queue);
    drop(queue);
    let before = stage.frozen("q");
    let was = contents(&before);
    before.thaw();
    assert_eq!((was.0.len(), was.1.len()), (7, 2));
    assert_eq!(stage.save("q").unwrap().messages, 7);
    let other = QueueOptions::new().capacity(100).inline_bytes(10_000);
    let other = other.max_message_bytes(10_000);
    let moved = stage.restore("q", &other).unwrap();
    assert_eq!((moved.messages, moved.keys, moved.known), (7, 2, 0));
    assert!(!stage.file().exists());
    let after = stage.frozen("q");
    assert_eq!(contents(&after), was);
    after.thaw();
    let queue = stage.open("q", other.priorities(true).attempt_limit(3));
    let letters = queue.transport().dead_letters().unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].nacks, letters[0].attempts), (2, 3));
    assert_eq!(letters[0].error, "the database is away");
    assert_eq!(letters[0].headers.get("a"), Some(&b"b"[..]));
    let again = SendOptions::new().key("tried");
    let again = queue
        .sender()
        .loan_with(1, &again.clone().wait(Wait::No))
        .map(drop);
    assert!(
        matches!(
            again.as_ref().unwrap_err().failure(),
            Some(SendFailure::Duplicate { .. })
        ),
        "{again:?}"
    );
    let receiver = queue.receiver();
    let urgent: Vec<_> = (0..2).map(|_| receiver.recv().unwrap()).collect();
    assert_eq!(urgent[0].payload(), [7; 5000]);
    assert_eq!(urgent[1].payload(), [8; 9000]);
    let tried = receiver.recv().unwrap();
    assert_eq!((tried.payload(), tried.attempt()), (&b"tried"[..], 2));
}

#[test]
fn everything_survives_a_move() {
    let stage = Stage::new();
    let queue = stage.open("q", full());
    fill(&queue);
    queue.transport().pause().unwrap();
    drop(queue);
    let before = stage.frozen("q");
    let was = contents(&before);
    before.thaw();
    let (from, to) = (stage.address("q"), stage.address("other"));
    let moved = move_queue(&from, &to, &QueueOptions::new(), Wait::No).unwrap();
    assert_eq!(moved.messages, 7);
    let after = stage.frozen("other");
    assert_eq!(contents(&after), was);
    after.thaw();
    let moved = stage.open("other", QueueOptions::new());
    assert!(moved.transport().is_paused().unwrap());
    let gone = move_queue(&from, &to, &QueueOptions::new(), Wait::No);
    assert!(matches!(
        gone,
        Err(SnapshotError::Queue(QueueError::NotFound { .. }))
    ));
}

#[test]
fn a_saved_delay_follows_the_wall_clock_and_never_ends_early() {
    let stage = Stage::new();
    let queue = stage.open("q", QueueOptions::new());
    let delayed = SendOptions::new().delay(HOUR);
    queue
        .sender()
        .send_with(b"late", &delayed.clone().wait(Wait::No))
        .unwrap();
    drop(queue);
    let first = stage.frozen("q");
    let message = first.messages().next().unwrap().unwrap();
    first.thaw();
    stage.open("other", QueueOptions::new());
    let other = stage.frozen("other");
    let left = |passed: u64| {
        let id = MessageId::new(message.id.sender, passed);
        let message = StoredMessage {
            id,
            ..message.clone()
        };
        other.put(&message, Duration::from_secs(passed)).unwrap();
        let all = other.messages().map(Result::unwrap);
        let put = all.into_iter().find(|found| found.id == id).unwrap();
        match put.state {
            record::StoredState::Delayed { left_ms } => left_ms.div_ceil(1000),
            _ => 0,
        }
    };
    assert!(
        (3599..=3601).contains(&left(0)),
        "the wall clock was set back"
    );
    assert!((1799..=1801).contains(&left(1800)));
    assert!(left(3600) <= 1);
}

#[test]
fn a_file_with_any_changed_byte_is_refused() {
    let stage = Stage::new();
    let queue = stage.open("q", full());
    queue.sender().send(b"precious").unwrap();
    drop(queue);
    stage.save("q").unwrap();
    let whole = fs::read(stage.file()).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(stage.file(), &damaged).unwrap();
        let refused = stage.restore("q", &QueueOptions::new());
        let is_damage = matches!(
            refused,
            Err(SnapshotError::Damaged { .. } | SnapshotError::LaterVersion { .. })
        );
        assert!(is_damage, "byte {at}: {refused:?}");
        fs::write(stage.file(), &whole[..at]).unwrap();
        let refused = stage.restore("q", &QueueOptions::new());
        assert!(
            matches!(refused, Err(SnapshotError::Damaged { .. })),
            "{at} bytes: {refused:?}"
        );
    }
    fs::write(stage.file(), [&whole[..], &[0]].concat()).unwrap();
    let refused = stage.restore("q", &QueueOptions::new());
    assert!(
        matches!(refused, Err(SnapshotError::Damaged { .. })),
        "{refused:?}"
    );
    let mut later = whole.clone();
    later[8] = 2;
    fs::write(stage.file(), &later).unwrap();
    let refused = stage.restore("q", &QueueOptions::new()).unwrap_err();
    assert!(matches!(
        refused,
        SnapshotError::LaterVersion {
            found: 2,
            known: 1,
            ..
        }
    ));
    fs::write(stage.file(), &whole).unwrap();
    assert_eq!(
        stage.restore("q", &QueueOptions::new()).unwrap().messages,
        1
    );
}

/// Saves five messages: two of them are large, one has a key and a priority.
fn saved_with_a_key() -> Stage {
    let stage = Stage::new();
    let queue = stage.open("q", full().capacity(4));
    for size in [10, 10, 5000, 5000] {
        queue.sender().send(&vec![1; size]).unwrap();
    }
    let keyed = SendOptions::new().key("one").priority(Priority::High);
    queue
        .sender()
        .send_with(b"keyed", &keyed.clone().wait(Wait::No))
        .unwrap();
    drop(queue);
    stage.save("q").unwrap();
    stage
}

#[test]
fn a_snapshot_that_does_not_fit_is_refused_before_anything_moves() {
    let stage = saved_with_a_key();
    let refused = |options: QueueOptions| {
        let refused = stage.restore("other", &options).unwrap_err();
        assert!(stage.file().exists());
        let is_there = crate::remove(stage.address("other")).unwrap();
        assert!(!is_there, "an empty queue is left");
        refused
    };
    let setting = |options: QueueOptions| match refused(options) {
        SnapshotError::TooSmall {
            setting,
            needed,
            has,
            ..
        } if needed > has => setting,
        other => panic!("{other}"),
    };
    assert_eq!(setting(QueueOptions::new().capacity(3)), "capacity");
    let small = QueueOptions::new().max_message_bytes(4000);
    assert_eq!(setting(small), "max_message_bytes");
    let one = QueueOptions::new().max_message_bytes(5000).pool_bytes(5000);
    assert_eq!(setting(one), "pool_bytes");
    let lacks = |options: QueueOptions| match refused(options) {
        SnapshotError::Lacks {
            feature, count: 1, ..
        } => feature,
        other => panic!("{other}"),
    };
    assert_eq!(
        lacks(QueueOptions::new().priorities(false)),
        Feature::Priorities
    );
}

#[test]
fn a_snapshot_is_not_restored_into_a_queue_without_keys_or_with_other_payloads() {
    let stage = saved_with_a_key();
    let plain = stage.open("other", QueueOptions::new().priorities(true));
    drop(plain);
    let error = stage.restore("other", &QueueOptions::new()).unwrap_err();
    assert!(matches!(
        error,
        SnapshotError::Lacks {
            feature: Feature::Deduplication,
            ..
        }
    ));
    crate::remove(stage.address("other")).unwrap();
    let typed: crate::Queue<u32> = QueueOptions::new().open(stage.address("other")).unwrap();
    drop(typed);
    let error = stage.restore("other", &QueueOptions::new()).unwrap_err();
    let differs = matches!(
        error,
        SnapshotError::Queue(QueueError::PayloadDiffers { .. })
    );
    assert!(differs, "{error}");
    assert_eq!(
        stage.restore("q", &QueueOptions::new()).unwrap().messages,
        5
    );
}

#[test]
fn a_pipe_is_neither_waited_for_nor_a_snapshot() {
    let stage = Stage::new();
    stage.open("q", QueueOptions::new());
    nix::unistd::mkfifo(&stage.file(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let refused = stage.save("q").unwrap_err();
    assert!(
        matches!(refused, SnapshotError::FileExists { .. }),
        "{refused}"
    );
    let refused = stage.restore("q", &QueueOptions::new()).unwrap_err();
    assert!(
        matches!(refused, SnapshotError::Damaged { .. }),
        "{refused}"
    );
    ByteQueue::open(stage.address("q")).unwrap();
}

#[test]
fn a_queue_in_use_is_neither_saved_nor_changed() {
    let stage = Stage::new();
    let queue = stage.open("q", QueueOptions::new());
    queue.sender().send(b"held").unwrap();
    let receiver = queue.receiver();
    let held = receiver.recv().unwrap();
    let refused = stage.save("q").unwrap_err();
    let us = std::process::id();
    assert!(matches!(&refused, SnapshotError::InUse { processes, .. } if *processes == [us]));
    assert!(!stage.file().exists());
    queue.sender().send(b"it is open").unwrap();
    held.ack().unwrap();
    assert_eq!(receiver.recv().unwrap().payload(), b"it is open");
}

#[test]
fn a_save_waits_for_the_last_user_to_leave() {
    let stage = Stage::new();
    let queue = stage.open("q", QueueOptions::new());
    queue.sender().send(b"kept").unwrap();
    let wait = Wait::at_most(Duration::from_secs(100));
    let moved = std::thread::scope(|scope| {
        let save = scope.spawn(|| save(&stage.address("q"), &stage.file(), wait));
        // The other process is attached, and the queue is still open.
        while queue.transport().stats().unwrap().participants < 2 {
            std::thread::yield_now();
        }
        queue.sender().send(b"late").unwrap();
        drop(queue);
        save.join().unwrap().unwrap()
    });
    assert_eq!(moved.messages, 2);
}

#[test]
fn a_snapshot_is_restored_once() {
    let stage = Stage::new();
    let queue = stage.open("q", QueueOptions::new());
    queue.sender().send(b"once").unwrap();
    drop(queue);
    stage.save("q").unwrap();
    let copy = fs::read(stage.file()).unwrap();
    stage.restore("q", &QueueOptions::new()).unwrap();
    let queue = ByteQueue::open(stage.address("q")).unwrap();
    queue.receiver().recv().unwrap().ack().unwrap();
    drop(queue);
    fs::write(stage.file(), &copy).unwrap();
    let again = stage.restore("q", &QueueOptions::new()).unwrap();
    assert_eq!((again.messages, again.was_done), (0, true));
    assert!(!stage.file().exists());
    let queue = ByteQueue::open(stage.address("q")).unwrap();
    assert_eq!(queue.transport().stats().unwrap().in_use(), 0);
}

#[test]
fn a_save_interrupted_before_the_removal_is_completed_by_save_or_restore() {
    for complete in ["save", "restore"] {
        let stage = Stage::new();
        let queue = stage.open("q", QueueOptions::new());
        queue.sender().send(b"once").unwrap();
        drop(queue);
        // The state after a kill between the file's renaming and the queue's removal.
        let frozen = stage.frozen("q");
        let place = Place::parse(&stage.address("q")).unwrap();
        write(&frozen, &place, &stage.file()).unwrap();
        drop(frozen);
        let queue = ByteQueue::open(stage.address("q")).unwrap();
        let transport = queue.transport();
        assert_eq!(
            queue.sender().try_send(b"no").unwrap_err().failure(),
            Some(&SendFailure::Closed)
        );
        for refused in [transport.resume(), transport.reopen()] {
            let failure = refused.unwrap_err().failure;
            let is_frozen = matches!(failure, crate::ControlFailure::Frozen { .. });
            assert!(is_frozen, "{failure}");
        }
        drop(queue);
        let moved = match complete {
            "save" => stage
                .save("q")
                .and_then(|_| stage.restore("q", &QueueOptions::new())),
            _ => stage.restore("q", &QueueOptions::new()),
        };
        let moved = moved.unwrap();
        assert_eq!(moved.was_done, complete == "restore");
        let queue = ByteQueue::open(stage.address("q")).unwrap();
        assert_eq!(queue.receiver().recv().unwrap().payload(), b"once");
        assert_eq!(queue.transport().stats().unwrap().in_use(), 1);
        assert!(!stage.file().exists());
    }
}

/// Makes a file with three messages, of which the first is already in the queue `other`, as after a
/// kill.
fn cut_short(stage: &Stage) {
    let queue = stage.open("q", QueueOptions::new());
    queue.sender().send_batch(&[b"1", b"2", b"3"]).unwrap();
    drop(queue);
    stage.save("q").unwrap();
    stage.open("other", QueueOptions::new());
    let frozen = stage.frozen("other");
    let mut reader = Reader::open(&stage.file()).unwrap();
    frozen.begin_restoring(reader.head.id);
    let Some(Frame::Message(first)) = reader.next().unwrap() else {
        panic!("the first frame is not a message");
    };
    frozen.put(&first, Duration::ZERO).unwrap();
}

#[test]
fn an_interrupted_restore_is_completed_in_order_and_without_duplicates() {
    let stage = Stage::new();
    cut_short(&stage);
    let moved = stage.restore("other", &QueueOptions::new()).unwrap();
    assert_eq!((moved.messages, moved.known, moved.was_done), (2, 1, false));
    let queue = ByteQueue::open(stage.address("other")).unwrap();
    let receiver = queue.receiver();
    for expected in [b"1", b"2", b"3"] {
        let delivery = receiver.try_recv().unwrap();
        assert_eq!(delivery.payload(), expected);
        delivery.ack().unwrap();
    }
    assert!(receiver.try_recv().is_err());
}

#[test]
fn a_restore_interrupted_before_thawing_is_completed_by_thawing() {
    let stage = Stage::new();
    cut_short(&stage);
    // The state after a kill right after the record that everything was added.
    let frozen = stage.frozen("other");
    let id = frozen.restoring().unwrap();
    frozen.note_done(id);
    drop(frozen);
    assert!(
        stage
            .restore("other", &QueueOptions::new())
            .unwrap()
            .was_done
    );
    let queue = ByteQueue::open(stage.address("other")).unwrap();
    assert_eq!(queue.transport().stats().unwrap().in_use(), 1);
    queue.sender().send(b"it is open").unwrap();
}

#[test]
fn a_file_that_another_save_wrote_is_not_overwritten() {
    let stage = Stage::new();
    for payload in [b"first", b"other"] {
        let queue = stage.open("q", QueueOptions::new());
        queue.sender().send(payload).unwrap();
        drop(queue);
        match stage.save("q") {
            Ok(_) => assert_eq!(payload, b"first"),
            Err(error) => assert!(matches!(error, SnapshotError::FileExists { .. }), "{error}"),
        }
    }
    let queue = ByteQueue::open(stage.address("q")).unwrap();
    assert_eq!(queue.receiver().recv().unwrap().payload(), b"other");
}

#[test]
fn an_interrupted_restore_keeps_others_out_until_it_is_abandoned() {
    let stage = Stage::new();
    let queue = stage.open("q", QueueOptions::new());
    queue.sender().send(b"in the file").unwrap();
    drop(queue);
    stage.save("q").unwrap();
    stage.open("other", QueueOptions::new());
    let frozen = stage.frozen("other");
    frozen.begin_restoring(17);
    drop(frozen);
    let refused = [
        stage.restore("other", &QueueOptions::new()),
        save(
            &stage.address("other"),
            &stage.folder.path().join("2"),
            Wait::No,
        ),
        move_queue(
            &stage.address("other"),
            &stage.address("q"),
            &QueueOptions::new(),
            Wait::No,
        ),
    ];
    for refused in refused {
        assert!(
            matches!(refused, Err(SnapshotError::Unfinished { .. })),
            "{refused:?}"
        );
    }
    give_up(&stage.address("other"), Wait::No).unwrap();
    assert_eq!(
        stage
            .restore("other", &QueueOptions::new())
            .unwrap()
            .messages,
        1
    );
}

#[test]
fn a_queue_with_more_keys_than_it_promised_is_restored_with_room_for_them() {
    let stage = Stage::new();
    let options = QueueOptions::new().dedup_window(HOUR).dedup_keys(64);
    let queue = stage.open("q", options);
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let started = Instant::now();
    let mut keys = 0;
    while keys < 70 && started.elapsed() < HOUR {
        let keyed = SendOptions::new().key(format!("order {keys}"));
        sender
            .send_with(b"keyed", &keyed.clone().wait(Wait::No))
            .unwrap();
        receiver.recv().unwrap().ack().unwrap();
        keys += 1;
    }
    drop((sender, receiver, queue));
    assert_eq!(stage.save("q").unwrap().keys, 70);
    assert_eq!(stage.restore("q", &QueueOptions::new()).unwrap().keys, 70);
    let queue = ByteQueue::open(stage.address("q")).unwrap();
    assert_eq!(queue.transport().settings().dedup_keys, 128);
    assert_eq!(queue.transport().stats().unwrap().keys, 70);
}

#[test]
fn a_queue_that_a_restore_left_frozen_is_opened_by_the_same_restore() {
    let stage = Stage::new();
    let queue = stage.open("q", QueueOptions::new());
    queue.sender().send(b"in the file").unwrap();
    drop(queue);
    stage.save("q").unwrap();
    stage.open("other", QueueOptions::new());
    let frozen = stage.frozen("other");
    frozen.begin_restoring(Reader::open(&stage.file()).unwrap().head.id);
    drop(frozen);
    let queue = ByteQueue::open(stage.address("other")).unwrap();
    let refused = queue.transport().reopen().unwrap_err().to_string();
    assert!(
        refused.contains("run the same ipc restore or ipc move again"),
        "{refused}"
    );
    drop(queue);
    stage.restore("other", &QueueOptions::new()).unwrap();
    let queue = ByteQueue::open(stage.address("other")).unwrap();
    assert_eq!(queue.receiver().recv().unwrap().payload(), b"in the file");
}
