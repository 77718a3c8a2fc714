//! Tests of creating, opening and removing a segment, within one process.

use std::fs;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::sync::Barrier;
use std::thread;

use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};

use super::remove::{is_flagged, remove_if};
use super::*;
use crate::layout::HeaderError;
use crate::testing::{Scratch, TEST_KIND};

fn name() -> Name {
    Name::new("seg").unwrap()
}

fn expected() -> Expected {
    Expected {
        kind: TEST_KIND,
        layout_hash: 1,
        payload: None,
    }
}

fn open(scratch: &Scratch) -> Result<Segment, OpenError> {
    Segment::open(&scratch.namespace, &name(), &expected())
}

fn open_or_create(scratch: &Scratch) -> Result<(Segment, Created), OpenOrCreateError> {
    Segment::open_or_create(&scratch.namespace, &name(), &Scratch::header(3))
}

fn remove(scratch: &Scratch) -> Result<bool, OpenError> {
    Segment::remove(&scratch.namespace, &name(), TEST_KIND)
}

fn path(scratch: &Scratch) -> PathBuf {
    path_of(&scratch.namespace, &name(), TEST_KIND)
}

/// Returns the first word of the body, which identifies a segment.
fn mark(segment: &Segment) -> &AtomicU64 {
    segment.word(segment.header().body_offset)
}

#[track_caller]
fn assert_nothing_left(scratch: &Scratch) {
    assert_eq!(fs::read_dir(scratch.folder()).unwrap().count(), 0);
}

#[test]
fn a_created_segment_can_be_opened_until_it_is_removed() {
    let scratch = Scratch::new();
    let created = scratch.create("seg", 3);
    mark(&created).store(7, Ordering::SeqCst);
    let opened = open(&scratch).unwrap();
    assert_eq!(opened.header(), created.header());
    assert_eq!(mark(&opened).load(Ordering::SeqCst), 7);
    let again = Segment::create(&scratch.namespace, &name(), &Scratch::header(3));
    assert!(matches!(again, Err(CreateError::Exists { .. })));
    assert_eq!(
        fs::metadata(path(&scratch)).unwrap().permissions().mode() & 0o777,
        0o600
    );

    assert!(remove(&scratch).unwrap());
    assert!(created.is_removed() && opened.is_removed());
    assert!(matches!(open(&scratch), Err(OpenError::NotFound { .. })));
    assert!(!remove(&scratch).unwrap());
    // Handles that were open keep their memory.
    assert_eq!(mark(&opened).load(Ordering::SeqCst), 7);
    assert_nothing_left(&scratch);
}

#[test]
fn listing_returns_all_segments_of_one_kind() {
    let scratch = Scratch::new();
    assert_eq!(Segment::list(&scratch.namespace, TEST_KIND).unwrap(), []);
    for segment in ["b", "a.x", "c"] {
        scratch.create(segment, 1);
    }
    let folder = scratch.namespace.path();
    for foreign in ["d.other", "E.test", ".test", "test"] {
        fs::write(folder.join(foreign), "").unwrap();
    }
    // A damaged segment is also listed, so that it can be removed.
    fs::write(folder.join("c.test"), "").unwrap();
    let names = Segment::list(&scratch.namespace, TEST_KIND).unwrap();
    let names: Vec<_> = names.iter().map(Name::as_str).collect();
    assert_eq!(names, ["a.x", "b", "c"]);
}

#[test]
fn two_processes_that_race_to_open_or_create_share_one_segment() {
    let scratch = Scratch::new();
    for _ in 0..8 {
        let barrier = Barrier::new(2);
        let race = || {
            barrier.wait();
            open_or_create(&scratch).unwrap()
        };
        let racers = thread::scope(|scope| {
            [(); 2]
                .map(|()| scope.spawn(race))
                .map(|racer| racer.join().unwrap())
        });
        let creators = racers
            .iter()
            .filter(|(_, created)| *created == Created::Yes);
        assert_eq!(creators.count(), 1);
        mark(&racers[0].0).store(1, Ordering::SeqCst);
        assert_eq!(mark(&racers[1].0).load(Ordering::SeqCst), 1);
        assert!(remove(&scratch).unwrap());
    }
    assert_nothing_left(&scratch);
}

#[test]
fn an_interrupted_removal_is_finished_by_the_next_open() {
    let scratch = Scratch::new();
    for finish in [
        |scratch: &Scratch| assert!(matches!(open(scratch), Err(OpenError::NotFound { .. }))),
        |scratch: &Scratch| assert!(remove(scratch).unwrap()),
    ] {
        let old = scratch.create("seg", 3);
        old.flags().fetch_or(REMOVED, Ordering::SeqCst);
        finish(&scratch);
        assert_nothing_left(&scratch);
    }
    scratch
        .create("seg", 3)
        .flags()
        .fetch_or(REMOVED, Ordering::SeqCst);
    let (fresh, created) = open_or_create(&scratch).unwrap();
    assert_eq!((created, fresh.is_removed()), (Created::Yes, false));
    assert!(remove(&scratch).unwrap());
    assert_nothing_left(&scratch);
}

#[test]
fn an_interrupted_removal_is_finished_by_the_next_create() {
    let scratch = Scratch::new();
    scratch
        .create("seg", 3)
        .flags()
        .fetch_or(REMOVED, Ordering::SeqCst);
    let fresh = scratch.create("seg", 3);
    assert!(!fresh.is_removed());
    assert!(open(&scratch).is_ok());
    // A foreign file that only resembles a half-removed segment is kept.
    assert!(remove(&scratch).unwrap());
    drop(scratch.namespace.open_or_create().unwrap());
    let foreign = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(fresh.path())
        .unwrap();
    foreign.write_all_at(&[0xff; 4096], 0).unwrap();
    let error = Segment::create(&scratch.namespace, &name(), &Scratch::header(3)).unwrap_err();
    assert!(matches!(error, CreateError::Exists { .. }), "{error}");
    assert_eq!(fs::read(fresh.path()).unwrap(), [0xff; 4096]);
    fs::remove_file(fresh.path()).unwrap();
    scratch.namespace.remove_if_empty();
    assert_nothing_left(&scratch);
}

#[test]
fn a_stopped_remover_causes_an_error_and_not_a_hang() {
    let scratch = Scratch::new();
    let old = scratch.create("seg", 3);
    let folder = scratch.namespace.open().unwrap().unwrap();
    let _stopped = scratch.namespace.lock(folder).unwrap();
    old.flags().fetch_or(REMOVED, Ordering::SeqCst);
    let error = open_or_create(&scratch).unwrap_err();
    assert!(
        matches!(
            error,
            OpenOrCreateError::Open(OpenError::Namespace(NamespaceError::Busy { .. }))
        ),
        "{error}"
    );
}

#[test]
fn an_opener_that_saw_the_old_segment_flagged_never_unlinks_the_new_one() {
    let scratch = Scratch::new();
    let old = scratch.create("seg", 3);
    assert!(remove(&scratch).unwrap() && old.is_removed());
    let fresh = scratch.create("seg", 3);
    // The step that `open` takes after it found the old segment flagged.
    assert!(!remove_if(&scratch.namespace, &name(), TEST_KIND, is_flagged).unwrap());
    assert!(!fresh.is_removed());
    assert!(open(&scratch).is_ok());
}

#[test]
fn opening_while_others_create_and_remove_never_removes_a_new_segment() {
    const ROUNDS: usize = 2_000;
    let scratch = Scratch::new();
    let stop = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while stop.load(Ordering::SeqCst) == 0 {
                if let Err(error) = open(&scratch) {
                    assert!(matches!(error, OpenError::NotFound { .. }), "{error}");
                }
            }
        });
        let kept = (0..ROUNDS).all(|_| {
            let created = scratch.create("seg", 3);
            !created.is_removed() && remove(&scratch).unwrap()
        });
        stop.store(1, Ordering::SeqCst);
        assert!(kept, "the opener removed a new segment");
    });
    assert_nothing_left(&scratch);
}

#[test]
fn finding_an_existing_segment_needs_no_memory_for_a_second_one() {
    let scratch = Scratch::new();
    scratch.create("seg", 3);
    let mut huge = Scratch::header(3);
    huge.total_bytes = 1 << 50;
    let error = Segment::create(&scratch.namespace, &name(), &huge).unwrap_err();
    assert!(matches!(error, CreateError::Exists { .. }), "{error}");
}

#[test]
fn a_segment_that_does_not_fit_is_an_error_and_leaves_nothing() {
    let scratch = Scratch::new();
    let mut huge = Scratch::header(3);
    huge.total_bytes = 1 << 50;
    let error = Segment::create(&scratch.namespace, &name(), &huge).unwrap_err();
    let CreateError::NoSpace { free, needed, .. } = &error else {
        panic!("{error}")
    };
    assert!(free < needed && *needed == 1 << 50, "{error}");
    assert!(
        error.to_string().contains("needs 1073741824.0 MiB"),
        "{error}"
    );
    assert_nothing_left(&scratch);
}

#[test]
fn folders_left_by_a_killed_creator_are_removed_by_the_next_removal() {
    let scratch = Scratch::new();
    drop(scratch.namespace.open_or_create().unwrap());
    assert!(!remove(&scratch).unwrap());
    assert_nothing_left(&scratch);
    fs::create_dir(scratch.folder().join("root")).unwrap();
    fs::set_permissions(
        scratch.folder().join("root"),
        fs::Permissions::from_mode(0o700),
    )
    .unwrap();
    assert!(!remove(&scratch).unwrap());
    assert_nothing_left(&scratch);
}

/// Asserts that opening fails with the `wanted` error and leaves the file unchanged.
#[track_caller]
fn assert_refused(scratch: &Scratch, wanted: fn(&OpenError) -> bool) {
    let state = || {
        let found = fs::symlink_metadata(path(scratch)).unwrap();
        let content = found.is_file().then(|| fs::read(path(scratch)).unwrap());
        (
            found.file_type(),
            found.permissions(),
            found.modified().unwrap(),
            content,
        )
    };
    let before = state();
    let error = open(scratch).unwrap_err();
    assert!(wanted(&error), "{error}");
    let error = open_or_create(scratch).unwrap_err();
    assert!(
        matches!(&error, OpenOrCreateError::Open(error) if wanted(error)),
        "{error}"
    );
    assert_eq!(state(), before);
}

#[test]
fn a_planted_link_fifo_or_folder_is_refused_and_left_in_place() {
    let scratch = Scratch::new();
    drop(scratch.namespace.open_or_create().unwrap());
    let not_a_file = |error: &OpenError| matches!(error, OpenError::NotAFile { .. });
    let target = scratch.folder().join("target");
    fs::write(&target, "precious").unwrap();
    symlink(&target, path(&scratch)).unwrap();
    assert_refused(&scratch, not_a_file);
    assert!(remove(&scratch).is_err_and(|error| not_a_file(&error)));
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    fs::remove_file(path(&scratch)).unwrap();

    mkfifo(&path(&scratch), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    assert_refused(&scratch, not_a_file);
    assert!(remove(&scratch).is_err_and(|error| not_a_file(&error)));
    assert!(fs::metadata(path(&scratch)).unwrap().file_type().is_fifo());
    fs::remove_file(path(&scratch)).unwrap();

    fs::create_dir(path(&scratch)).unwrap();
    assert_refused(&scratch, not_a_file);
    assert!(remove(&scratch).is_err_and(|error| not_a_file(&error)));
}

#[test]
fn a_file_of_another_user_is_refused() {
    if !geteuid().is_root() {
        println!("skipped: only root can change the owner of a file");
        return;
    }
    let scratch = Scratch::new();
    scratch.create("seg", 3);
    chown(path(&scratch), Some(12345), None).unwrap();
    let foreign = |error: &_| matches!(error, OpenError::ForeignOwner { owner: 12345, .. });
    assert_refused(&scratch, foreign);
    assert!(remove(&scratch).is_err_and(|error| foreign(&error)));
}

#[test]
fn a_file_that_others_may_use_is_refused() {
    let scratch = Scratch::new();
    scratch.create("seg", 3);
    fs::set_permissions(path(&scratch), fs::Permissions::from_mode(0o644)).unwrap();
    let open_to_others = |error: &_| matches!(error, OpenError::OpenToOthers { mode: 0o644, .. });
    assert_refused(&scratch, open_to_others);
    assert!(remove(&scratch).is_err_and(|error| open_to_others(&error)));
}

#[test]
fn a_damaged_file_is_refused_with_its_own_error_and_can_be_removed() {
    let scratch = Scratch::new();
    let whole = {
        scratch.create("seg", 3);
        fs::read(path(&scratch)).unwrap()
    };
    let mut flipped = whole.clone();
    flipped[130] ^= 1;
    let garbage = vec![0x5a; whole.len()];
    type Case<'a> = (&'a [u8], fn(&HeaderError) -> bool);
    let cases: [Case<'_>; 6] = [
        (&[], |e| matches!(e, HeaderError::TooShort { found: 0, .. })),
        (&whole[..575], |e| {
            matches!(e, HeaderError::TooShort { found: 575, .. })
        }),
        (&whole[..4096], |e| {
            matches!(e, HeaderError::Size { found: 4096, .. })
        }),
        (&garbage[..7], |e| matches!(e, HeaderError::TooShort { .. })),
        (&garbage, |e| matches!(e, HeaderError::Magic { .. })),
        (&flipped, |e| matches!(e, HeaderError::Damaged { .. })),
    ];
    for (content, wanted) in cases {
        // Overwritten in place, because a new file would have another mode.
        let (_, _) = open_or_create(&scratch).unwrap();
        fs::write(path(&scratch), content).unwrap();
        let error = open(&scratch).unwrap_err();
        assert!(
            matches!(&error, OpenError::Header { source, .. } if wanted(source)),
            "{error}"
        );
        assert_refused(&scratch, |error| matches!(error, OpenError::Header { .. }));
        assert_eq!(fs::read(path(&scratch)).unwrap(), content);
        assert!(remove(&scratch).unwrap());
        assert_nothing_left(&scratch);
    }
}

fn force(scratch: &Scratch) -> Result<bool, OpenError> {
    Segment::remove_by_force(&scratch.namespace, &name(), TEST_KIND)
}

#[test]
fn force_removes_anything_with_a_segments_name_and_never_follows_a_link() {
    let scratch = Scratch::new();
    let target = scratch.folder().join("target");
    fs::write(&target, "precious").unwrap();
    let plant: [&dyn Fn(); 6] = [
        &|| {
            scratch.create("seg", 3);
            fs::set_permissions(path(&scratch), fs::Permissions::from_mode(0o644)).unwrap();
        },
        &|| fs::create_dir(path(&scratch)).unwrap(),
        &|| symlink(&target, path(&scratch)).unwrap(),
        &|| fs::write(path(&scratch), "").unwrap(),
        &|| mkfifo(&path(&scratch), Mode::S_IRUSR | Mode::S_IWUSR).unwrap(),
        &|| {
            fs::write(path(&scratch), "unreadable").unwrap();
            fs::set_permissions(path(&scratch), fs::Permissions::from_mode(0o0)).unwrap();
        },
    ];
    for plant in plant {
        drop(scratch.namespace.open_or_create().unwrap());
        plant();
        let error = open(&scratch).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("remove it"), "{text}");
        assert!(force(&scratch).unwrap());
        assert!(!force(&scratch).unwrap());
        assert_eq!(fs::read_dir(scratch.folder()).unwrap().count(), 1);
    }
    assert_eq!(fs::read(&target).unwrap(), b"precious");
}

#[test]
fn a_folder_that_is_not_empty_is_not_removed_even_by_force() {
    let scratch = Scratch::new();
    drop(scratch.namespace.open_or_create().unwrap());
    fs::create_dir(path(&scratch)).unwrap();
    fs::write(path(&scratch).join("precious"), "").unwrap();
    let error = force(&scratch).unwrap_err();
    assert!(matches!(error, OpenError::FolderNotEmpty { .. }), "{error}");
    assert!(error.to_string().contains("rm -r"), "{error}");
    fs::remove_dir_all(path(&scratch)).unwrap();
    assert!(!force(&scratch).unwrap());
}

#[test]
fn a_file_of_another_user_is_not_removed_even_by_force() {
    if !geteuid().is_root() {
        println!("skipped: a_file_of_another_user_is_not_removed_even_by_force: needs root");
        return;
    }
    let scratch = Scratch::new();
    scratch.create("seg", 3);
    chown(path(&scratch), Some(12345), None).unwrap();
    let error = force(&scratch).unwrap_err();
    let foreign = matches!(error, OpenError::ForeignOwner { owner: 12345, .. });
    assert!(foreign && error.to_string().contains("12345"), "{error}");
}

#[test]
fn a_file_with_an_open_mode_can_be_opened_after_following_the_errors_advice() {
    let scratch = Scratch::new();
    scratch.create("seg", 3);
    fs::set_permissions(path(&scratch), fs::Permissions::from_mode(0o644)).unwrap();
    let error = open(&scratch).unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
    fs::set_permissions(path(&scratch), fs::Permissions::from_mode(0o600)).unwrap();
    open(&scratch).unwrap();
}

#[test]
fn removal_by_force_notifies_attached_processes() {
    let scratch = Scratch::new();
    let used = scratch.create("seg", 3);
    assert!(force(&scratch).unwrap());
    assert!(used.is_removed() && !used.is_deleted());
}

/// Creates a segment with a header as written in another boot.
fn from_another_boot(scratch: &Scratch) -> Segment {
    let mut header = Scratch::header(3);
    header.boot ^= 1;
    Segment::create(&scratch.namespace, &name(), &header).unwrap()
}

#[test]
fn a_segment_on_a_disk_from_an_earlier_boot_can_only_be_opened_read_only_or_removed() {
    let test = "a_segment_on_a_disk_from_an_earlier_boot_can_only_be_opened_read_only_or_removed";
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    if crate::boot::is_in_memory(&fs::File::open(folder.path()).unwrap()) {
        println!("skipped: {test}: this folder is not on a disk");
        return;
    }
    let scratch = Scratch::in_folder(folder);
    drop(from_another_boot(&scratch));
    let error = open(&scratch).unwrap_err();
    assert!(matches!(error, OpenError::OtherBoot { .. }), "{error}");
    let looked = Segment::open_read_only(&scratch.namespace, &name(), &expected());
    assert_eq!(looked.unwrap().header().max_participants, 3);
    assert!(remove(&scratch).unwrap());
    let (_, created) = open_or_create(&scratch).unwrap();
    assert_eq!(created, Created::Yes);
}

#[test]
fn a_different_boot_id_is_accepted_for_files_in_memory() {
    let scratch = Scratch::new();
    drop(from_another_boot(&scratch));
    open(&scratch).unwrap();
}
