//! Tests of a buffer within one process and its threads.

use proptest::prelude::*;

use super::*;
use crate::testing::Scratch;

fn buffer(len: usize) -> (Scratch, SharedBuffer) {
    let scratch = Scratch::new();
    let buffer = SharedBuffer::create(&scratch.namespace, "b", len).unwrap();
    (scratch, buffer)
}

fn connect(scratch: &Scratch) -> SharedBuffer {
    SharedBuffer::connect(&scratch.namespace, "b").unwrap()
}

/// Leaves the state that a writer of `range` leaves when it is killed during the write.
fn tear(scratch: &Scratch, range: &Range<usize>) {
    let doomed = connect(scratch);
    std::mem::forget(doomed.lock().unwrap());
    doomed.tears().begin(range);
}

#[test]
fn bytes_written_by_one_handle_are_read_by_another() {
    let (scratch, one) = buffer(100);
    let other = connect(&scratch);
    assert_eq!((other.len(), other.name().as_str()), (100, "b"));
    one.write_at(90, b"0123456789").unwrap();
    assert_eq!(other.read_to_vec(88, 5).unwrap(), [0, 0, b'0', b'1', b'2']);
    let mut two = [0; 2];
    other.read_at(98, &mut two).unwrap();
    assert_eq!(&two, b"89");
}

#[test]
fn an_empty_buffer_can_be_read_written_and_locked() {
    let (scratch, buffer) = buffer(0);
    assert!(buffer.is_empty());
    buffer.write_at(0, b"").unwrap();
    assert_eq!(buffer.read_to_vec(0, 0).unwrap(), b"");
    assert!(buffer.write_at(0, b"x").is_err());
    assert_eq!(buffer.lock().unwrap().torn(), None);
    assert_eq!(connect(&scratch).len(), 0);
}

#[test]
fn a_guard_allows_several_accesses_while_others_wait() {
    let (scratch, one) = buffer(8);
    let other = connect(&scratch);
    let mut guard = one.lock().unwrap();
    guard.write_at(0, &[1]).unwrap();
    let error = other.lock_deadline(Instant::now()).unwrap_err();
    assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
    guard
        .write_at(1, &guard.read_to_vec(0, 1).unwrap())
        .unwrap();
    drop(guard);
    assert_eq!(other.read_to_vec(0, 2).unwrap(), [1, 1]);
}

#[test]
fn waiting_ends_after_the_time_out_that_was_set() {
    let (scratch, one) = buffer(8);
    let mut other = connect(&scratch);
    let guard = one.lock().unwrap();
    other.set_timeout(Duration::ZERO);
    let error = other.write_at(0, &[1]).unwrap_err();
    let AccessError::Lock(LockError::TimedOut { waited, .. }) = &error else {
        panic!("{error}")
    };
    assert!(*waited < LOCK_TIMEOUT, "{error}");
    drop(guard);
    other.set_timeout(Duration::MAX);
    other.write_at(0, &[1]).unwrap();
}

#[test]
fn a_buffer_survives_its_users_until_it_is_removed() {
    let (scratch, buffer) = buffer(1);
    let namespace = &scratch.namespace;
    buffer.write_at(0, b"x").unwrap();
    drop(buffer);
    let again = SharedBuffer::create(namespace, "b", 1).unwrap_err();
    assert!(
        matches!(again, BufferError::Create(CreateError::Exists { .. })),
        "{again}"
    );
    assert_eq!(
        SharedBuffer::list(namespace).unwrap(),
        [Name::new("b").unwrap()]
    );
    let buffer = connect(&scratch);
    assert_eq!(buffer.read_to_vec(0, 1).unwrap(), b"x");
    let guard = buffer.lock().unwrap();
    assert!(SharedBuffer::remove(namespace, "b").unwrap());
    // The holder of the lock may finish.
    assert_eq!(guard.read_to_vec(0, 1).unwrap(), b"x");
    drop(guard);
    let error = buffer.read_to_vec(0, 1).unwrap_err();
    assert!(
        matches!(error, AccessError::Lock(LockError::Removed { .. })),
        "{error}"
    );
    assert!(!SharedBuffer::remove(namespace, "b").unwrap());
    let gone = SharedBuffer::connect(namespace, "b").unwrap_err();
    assert!(
        matches!(gone, BufferError::Open(OpenError::NotFound { .. })),
        "{gone}"
    );
    assert_eq!(std::fs::read_dir(scratch.folder()).unwrap().count(), 0);
}

#[test]
fn opening_with_another_length_is_refused() {
    let scratch = Scratch::new();
    let open = |len| SharedBuffer::open_or_create(&scratch.namespace, "b", len);
    let (_first, created) = open(3).unwrap();
    assert_eq!(created, Created::Yes);
    let (_second, created) = open(3).unwrap();
    assert_eq!(created, Created::No);
    let error = open(4).unwrap_err();
    let (found, wanted) = match error {
        BufferError::OtherLength { found, wanted, .. } => (found, wanted),
        other => panic!("{other}"),
    };
    assert_eq!((found, wanted), (3, 4));
}

#[test]
fn bad_names_and_impossible_lengths_are_refused() {
    let namespace = &Scratch::new().namespace;
    for bad in ["", "../b", "B", "a/b", &"a".repeat(65)] {
        let refused = |result: Result<(), BufferError>| {
            let error = result.unwrap_err();
            assert!(matches!(error, BufferError::Name(_)), "{bad:?}: {error}");
        };
        refused(SharedBuffer::create(namespace, bad, 1).map(drop));
        refused(SharedBuffer::connect(namespace, bad).map(drop));
        refused(SharedBuffer::open_or_create(namespace, bad, 1).map(drop));
        refused(SharedBuffer::remove(namespace, bad).map(drop));
    }
    for len in [usize::MAX, usize::MAX - 4096, isize::MAX.unsigned_abs()] {
        let error = SharedBuffer::create(namespace, "b", len).unwrap_err();
        assert!(matches!(error, BufferError::TooLong { .. }), "{error}");
    }
}

#[test]
fn a_dropped_handle_frees_its_slot_at_once() {
    let scratch = Scratch::new();
    drop(SharedBuffer::create_for(&scratch.namespace, "b", 1, 1).unwrap());
    for _ in 0..100 {
        let only = connect(&scratch);
        let error = SharedBuffer::connect(&scratch.namespace, "b").unwrap_err();
        assert!(
            matches!(error, BufferError::TooManyProcesses { processes: 1, .. }),
            "{error}"
        );
        // The watcher may be using the handle now, and keep its file and locks a little longer.
        drop(only);
        let segment = Segment::open(&scratch.namespace, &Name::new("b").unwrap(), &expected());
        let slot = Participants::of(&segment.unwrap()).get(0);
        assert_eq!(slot.presence, Presence::Free);
    }
}

#[test]
fn reading_a_torn_range_is_an_error_until_it_is_written_again() {
    let (scratch, buffer) = buffer(100);
    tear(&scratch, &(40..60));
    let guard = buffer.lock().unwrap();
    assert!(matches!(guard.inherited(), Inherited::FromDead(_)));
    assert_eq!(guard.torn(), Some(40..60));
    drop(guard);
    let torn = AccessError::Torn {
        name: "b".to_owned(),
        from: 40,
        to: 60,
    };
    for (offset, len) in [(0, 100), (59, 1), (40, 1), (45, 2), (30, 11)] {
        assert_eq!(buffer.read_to_vec(offset, len).as_ref(), Err(&torn));
    }
    assert!(torn.to_string().contains("bytes 40..60 of \"b\""), "{torn}");
    for (offset, len) in [(0, 40), (60, 40), (50, 0)] {
        assert!(buffer.read_to_vec(offset, len).is_ok());
    }
    // Writing a middle piece does not shrink the range, or there would have to be two ranges.
    buffer.write_at(45, &[7; 5]).unwrap();
    assert_eq!(buffer.read_to_vec(45, 5).as_ref(), Err(&torn));
    buffer.write_at(39, &[7; 22]).unwrap();
    assert_eq!(buffer.read_to_vec(38, 3).unwrap(), [0, 7, 7]);
    let guard = buffer.lock().unwrap();
    assert_eq!((guard.inherited(), guard.torn()), (Inherited::No, None));
}

#[test]
fn a_death_is_reported_to_the_first_guard_even_after_other_calls() {
    let (scratch, buffer) = buffer(8);
    let doomed = connect(&scratch);
    let dead = doomed.attachment.member();
    std::mem::forget(doomed.lock().unwrap());
    drop(doomed);
    buffer.read_to_vec(0, 1).unwrap();
    connect(&scratch).write_at(0, &[1]).unwrap();
    buffer.accept_torn().unwrap();
    for told in [Inherited::FromDead(dead), Inherited::No] {
        assert_eq!(buffer.lock().unwrap().inherited(), told);
    }
    // A holder that dies before it could handle the notice passes it on.
    let doomed = connect(&scratch);
    std::mem::forget(doomed.lock().unwrap());
    drop(doomed);
    let heir = connect(&scratch);
    let dead = heir.attachment.member();
    std::mem::forget(heir.lock().unwrap());
    drop(heir);
    assert_eq!(
        buffer.lock().unwrap().inherited(),
        Inherited::FromDead(dead)
    );
}

#[test]
fn a_torn_range_is_found_and_can_be_accepted_by_later_processes() {
    let (scratch, buffer) = buffer(100);
    drop(buffer);
    tear(&scratch, &(1..2));
    tear(&scratch, &(8..9));
    let late = connect(&scratch);
    assert!(late.read_to_vec(5, 1).is_err());
    drop(late);
    let later = connect(&scratch);
    assert_eq!(later.accept_torn().unwrap(), Some(1..9));
    assert_eq!(later.read_to_vec(0, 100).unwrap(), [0; 100]);
    assert_eq!(later.accept_torn().unwrap(), None);
}

#[test]
fn a_length_that_does_not_fit_the_file_is_an_error() {
    let scratch = Scratch::new();
    let name = Name::new("b").unwrap();
    for (len, body) in [(5000, 4096), (u64::MAX, 4096), (0, 0)] {
        let mut params = [0; PARAMS];
        params[LEN_PARAM] = len;
        let bytes = PayloadType::bytes();
        let header = Header::new(KIND, LAYOUT, bytes, 1, params, body).unwrap();
        drop(Segment::create(&scratch.namespace, &name, &header).unwrap());
        let error = SharedBuffer::connect(&scratch.namespace, "b").unwrap_err();
        let BufferError::Open(OpenError::Header { source, .. }) = &error else {
            panic!("{error}")
        };
        assert!(matches!(source, HeaderError::Field { .. }), "{error}");
        SharedBuffer::remove(&scratch.namespace, "b").unwrap();
    }
}

#[test]
fn a_handle_can_be_used_by_any_thread() {
    fn check<T: Send + Sync>() {}
    check::<SharedBuffer>();
    check::<BufferGuard<'_>>();
}

proptest! {
    #[test]
    fn a_buffer_reads_and_writes_like_a_vector(
        len in 0_usize..300,
        writes in prop::collection::vec(
            (0_usize..300, prop::collection::vec(1_u8.., 0..100)),
            1..10,
        ),
    ) {
        let (_scratch, buffer) = buffer(len);
        let mut model = vec![0; len];
        for (offset, bytes) in writes {
            let fits = model.get_mut(offset..offset + bytes.len());
            let expected = AccessError::OutOfRange { offset, len: bytes.len(), size: len };
            match fits {
                Some(place) => place.copy_from_slice(&bytes),
                None => {
                    let refused = buffer.read_to_vec(offset, bytes.len());
                    prop_assert_eq!(refused, Err(expected.clone()));
                }
            }
            let fits = offset + bytes.len() <= len;
            let wanted = if fits { Ok(()) } else { Err(expected) };
            prop_assert_eq!(buffer.write_at(offset, &bytes), wanted);
            prop_assert_eq!(&buffer.read_to_vec(0, len).unwrap(), &model);
        }
    }

    #[test]
    fn offsets_and_lengths_never_wrap_around(offset: usize, len: usize) {
        let (_scratch, buffer) = buffer(16);
        let inside = offset <= 16 && len <= 16 && offset + len <= 16;
        prop_assert_eq!(buffer.read_to_vec(offset, len).is_ok(), inside);
        let size = buffer.len();
        for (offset, len) in [(usize::MAX, 1), (1, usize::MAX), (usize::MAX, usize::MAX), (17, 0)] {
            let error = AccessError::OutOfRange { offset, len, size };
            prop_assert_eq!(buffer.read_to_vec(offset, len), Err(error.clone()));
            prop_assert_eq!(buffer.lock().unwrap().read_to_vec(offset, len), Err(error));
        }
    }
}
