//! What the errors of segments, buffers and folders advise is done here, and helps.
//!
//! `tests/processes` has the advice that other processes and other users are needed for, and
//! `ipc-cli/tests/promises/advice` the advice about limits of the machine.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use ipc_shm::{
    Attachment, BufferError, Expected, Header, Kind, LockError, Namespace, Participants,
    PayloadType, Segment, SharedBuffer,
};
use nix::unistd::geteuid;
use tempfile::TempDir;

const KIND: Kind = Kind::new("test");
/// How long anything may take before the test counts as stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// A namespace of a test's own, deleted at its end.
fn scratch() -> (TempDir, Namespace) {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let namespace = Namespace::in_folder(folder.path().join("root"), "test").unwrap();
    (folder, namespace)
}

fn file(namespace: &Namespace, name: &str) -> PathBuf {
    namespace.path().join(name)
}

#[track_caller]
fn advises(error: &impl std::error::Error, advice: &str) {
    let text = error.to_string();
    assert!(text.contains(advice), "{advice:?} is not in {text:?}");
}

/// Asks for the lock until it is refused for another reason than that it is held.
fn loss(buffer: &SharedBuffer) -> LockError {
    let started = Instant::now();
    loop {
        match buffer.lock() {
            Ok(_) | Err(LockError::TimedOut { .. }) => thread::yield_now(),
            Err(error) => return error,
        }
        assert!(started.elapsed() < PATIENCE, "the loss was not noticed");
    }
}

fn segment(namespace: &Namespace, name: &str, participants: u16) -> Segment {
    let payload = PayloadType::bytes();
    let header = Header::new(KIND, 1, payload, participants, [0; 14], 64).unwrap();
    Segment::create(namespace, &name.parse().unwrap(), &header).unwrap()
}

fn expected() -> Expected {
    Expected {
        kind: KIND,
        layout_hash: 1,
        payload: None,
    }
}

// --- Buffers ---

#[test]
fn a_buffer_of_another_length_is_connected_to_or_made_anew() {
    let (_folder, namespace) = scratch();
    drop(SharedBuffer::create(&namespace, "b", 3).unwrap());
    let refused = SharedBuffer::open_or_create(&namespace, "b", 4).unwrap_err();
    advises(&refused, "use `connect`, or remove it first");
    assert_eq!(SharedBuffer::connect(&namespace, "b").unwrap().len(), 3);
    assert!(SharedBuffer::remove(&namespace, "b").unwrap());
    let (buffer, _) = SharedBuffer::open_or_create(&namespace, "b", 4).unwrap();
    assert_eq!(buffer.len(), 4);
}

#[test]
fn a_buffer_that_exists_is_opened_or_removed_first() {
    let (_folder, namespace) = scratch();
    drop(SharedBuffer::create(&namespace, "b", 3).unwrap());
    let refused = SharedBuffer::create(&namespace, "b", 3).unwrap_err();
    advises(&refused, "open it, or remove it first");
    SharedBuffer::connect(&namespace, "b").unwrap();
    assert!(SharedBuffer::remove(&namespace, "b").unwrap());
    SharedBuffer::create(&namespace, "b", 3).unwrap();
}

#[test]
fn a_length_that_no_machine_has_is_made_smaller() {
    let (_folder, namespace) = scratch();
    let refused = SharedBuffer::create(&namespace, "b", usize::MAX).unwrap_err();
    advises(&refused, "use a smaller length");
    SharedBuffer::create(&namespace, "b", 4096).unwrap();
}

#[test]
fn a_buffer_with_all_its_processes_has_room_when_one_ends_or_when_it_is_made_for_more() {
    let (_folder, namespace) = scratch();
    let connect = || SharedBuffer::connect(&namespace, "b");
    let first = SharedBuffer::create_for(&namespace, "b", 8, 1).unwrap();
    let refused = connect().unwrap_err();
    assert!(matches!(refused, BufferError::TooManyProcesses { .. }));
    advises(&refused, "end one, or create it for more with `create_for`");
    drop(first);
    drop(connect().unwrap());
    SharedBuffer::remove(&namespace, "b").unwrap();
    let _first = SharedBuffer::create_for(&namespace, "b", 8, 2).unwrap();
    connect().unwrap();
}

#[test]
fn a_range_inside_the_buffer_is_read_and_written() {
    let (_folder, namespace) = scratch();
    let buffer = SharedBuffer::create(&namespace, "b", 8).unwrap();
    let refused = buffer.write_at(5, b"four").unwrap_err();
    advises(&refused, "use a range inside the buffer");
    buffer.write_at(4, b"four").unwrap();
    assert_eq!(buffer.read_to_vec(4, 4).unwrap(), b"four");
}

// --- Locks ---

#[test]
fn a_lock_that_this_process_holds_is_free_when_its_guard_is_dropped() {
    let (_folder, namespace) = scratch();
    let buffer = SharedBuffer::create(&namespace, "b", 8).unwrap();
    let guard = buffer.lock().unwrap();
    let refused = buffer.lock_deadline(Instant::now()).unwrap_err();
    advises(&refused, "drop the guard in this thread or another one");
    thread::scope(|scope| scope.spawn(move || drop(guard)).join()).unwrap();
    assert!(buffer.lock_deadline(Instant::now()).is_ok());
}

#[test]
fn a_removed_buffer_is_used_again_once_it_was_created_anew() {
    let (_folder, namespace) = scratch();
    let old = SharedBuffer::create(&namespace, "b", 8).unwrap();
    SharedBuffer::remove(&namespace, "b").unwrap();
    advises(&loss(&old), "open it again once it is created again");
    drop(SharedBuffer::create(&namespace, "b", 8).unwrap());
    let new = SharedBuffer::connect(&namespace, "b").unwrap();
    new.write_at(0, b"well").unwrap();
}

#[test]
fn a_buffer_whose_file_was_deleted_is_opened_again() {
    let (_folder, namespace) = scratch();
    let (old, _) = SharedBuffer::open_or_create(&namespace, "b", 8).unwrap();
    fs::remove_file(file(&namespace, "b.buffer")).unwrap();
    advises(&loss(&old), "and open it again");
    let (new, _) = SharedBuffer::open_or_create(&namespace, "b", 8).unwrap();
    new.write_at(0, b"well").unwrap();
}

#[test]
fn a_truncated_buffer_is_removed_and_made_anew() {
    let (_folder, namespace) = scratch();
    let old = SharedBuffer::create(&namespace, "b", 1 << 16).unwrap();
    let path = file(&namespace, "b.buffer");
    let there = File::options().write(true).open(&path).unwrap();
    let len = there.metadata().unwrap().len();
    there.set_len(0).unwrap();
    // A fault tells this process, which marks the file for all others.
    let refused = old.read_to_vec(0, 1 << 16).unwrap_err();
    advises(&refused, "its content is lost: remove it");
    there.set_len(len).unwrap();
    let refused = SharedBuffer::connect(&namespace, "b").unwrap_err();
    advises(&refused, "remove it");
    assert!(SharedBuffer::remove(&namespace, "b").unwrap());
    SharedBuffer::create(&namespace, "b", 8).unwrap();
}

// --- Segments ---

#[test]
fn a_segment_of_another_kind_leaves_other_names_free() {
    let (_folder, namespace) = scratch();
    drop(segment(&namespace, "b", 4));
    fs::rename(file(&namespace, "b.test"), file(&namespace, "b.buffer")).unwrap();
    let refused = SharedBuffer::connect(&namespace, "b").unwrap_err();
    advises(&refused, "choose another name");
    SharedBuffer::create(&namespace, "c", 8).unwrap();
}

#[test]
fn a_file_that_is_not_a_segment_is_removed_or_left_for_another_name() {
    let (_folder, namespace) = scratch();
    drop(segment(&namespace, "b", 4));
    let path = file(&namespace, "b.test");
    let len = fs::metadata(&path).unwrap().len();
    let open = || Segment::open(&namespace, &"b".parse().unwrap(), &expected());
    // Overwritten in place, because a new file would have another mode.
    for (content, advice) in [
        (vec![0x5a; 7], "remove it"),
        (
            vec![0x5a; len as usize],
            "remove it, or choose another name",
        ),
    ] {
        fs::write(&path, content).unwrap();
        advises(&open().unwrap_err(), advice);
        segment(&namespace, &format!("other-{}", advice.len()), 4);
        assert!(Segment::remove(&namespace, &"b".parse().unwrap(), KIND).unwrap());
        drop(segment(&namespace, "b", 4));
    }
    open().unwrap();
}

#[test]
fn what_is_not_a_file_is_removed_by_force_or_left_for_another_name() {
    let (_folder, namespace) = scratch();
    drop(segment(&namespace, "other", 4));
    fs::create_dir(file(&namespace, "b.test")).unwrap();
    let name = "b".parse().unwrap();
    let refused = Segment::open(&namespace, &name, &expected()).unwrap_err();
    advises(&refused, "remove it by force, or choose another name");
    segment(&namespace, "c", 4);
    assert!(Segment::remove(&namespace, &name, KIND).is_err());
    assert!(Segment::remove_by_force(&namespace, &name, KIND).unwrap());
    segment(&namespace, "b", 4);
}

#[test]
fn a_segment_with_all_its_participants_has_room_when_one_ends_or_when_it_is_made_for_more() {
    let (_folder, namespace) = scratch();
    let join = |name: &str| {
        let segment = Segment::open(&namespace, &name.parse().unwrap(), &expected()).unwrap();
        Attachment::join(segment, "x")
    };
    let first = Attachment::join(segment(&namespace, "few", 1), "x").unwrap();
    let refused = join("few").unwrap_err();
    advises(
        &refused,
        "end one, or create it with a larger max_participants",
    );
    // What ends here frees its slot itself; that of a killed process is freed by the others.
    let member = first.member();
    drop(first);
    let few = Segment::open(&namespace, &"few".parse().unwrap(), &expected()).unwrap();
    Participants::of(&few).release(&few, member);
    join("few").unwrap();
    let _first = Attachment::join(segment(&namespace, "more", 2), "x").unwrap();
    join("more").unwrap();
}

#[test]
fn a_segment_that_was_opened_read_only_is_joined_once_it_is_opened_for_writing() {
    let (_folder, namespace) = scratch();
    drop(segment(&namespace, "b", 4));
    let name = "b".parse().unwrap();
    let looked = Segment::open_read_only(&namespace, &name, &expected()).unwrap();
    let refused = Attachment::join(looked, "x").unwrap_err();
    advises(&refused, "open it for writing to join it");
    let opened = Segment::open(&namespace, &name, &expected()).unwrap();
    Attachment::join(opened, "x").unwrap();
}

#[test]
fn a_file_of_another_user_is_removed_by_root() {
    if !geteuid().is_root() {
        println!("skipped: a_file_of_another_user_is_removed_by_root: this user is not root");
        return;
    }
    let (_folder, namespace) = scratch();
    drop(SharedBuffer::create(&namespace, "b", 8).unwrap());
    let path = file(&namespace, "b.buffer");
    chown(&path, Some(12345), None).unwrap();
    let refused = SharedBuffer::connect(&namespace, "b").unwrap_err();
    advises(&refused, "have user 12345 or root remove it");
    fs::remove_file(&path).unwrap();
    SharedBuffer::create(&namespace, "b", 8).unwrap();
}

// --- Folders ---

#[test]
fn what_is_in_the_place_of_the_folder_is_removed_or_avoided() {
    let (folder, namespace) = scratch();
    let place = folder.path().join("root");
    let elsewhere = Namespace::in_folder(folder.path().join("elsewhere"), "test").unwrap();
    for is_link in [true, false] {
        match is_link {
            true => symlink(folder.path(), &place).unwrap(),
            false => fs::write(&place, "").unwrap(),
        }
        let refused = SharedBuffer::create(&namespace, "b", 8).unwrap_err();
        advises(&refused, "remove it, or choose another path");
        drop(SharedBuffer::create(&elsewhere, "b", 8).unwrap());
        SharedBuffer::remove(&elsewhere, "b").unwrap();
        fs::remove_file(&place).unwrap();
        drop(SharedBuffer::create(&namespace, "b", 8).unwrap());
        SharedBuffer::remove(&namespace, "b").unwrap();
    }
}

#[test]
fn a_folder_or_a_file_that_others_can_access_is_closed_to_them() {
    let (_folder, namespace) = scratch();
    drop(SharedBuffer::create(&namespace, "b", 8).unwrap());
    for (path, open, closed, advice) in [
        (namespace.path(), 0o755, 0o700, "run chmod 700 on it"),
        (
            file(&namespace, "b.buffer"),
            0o644,
            0o600,
            "run chmod 600 on it",
        ),
    ] {
        fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
        advises(&SharedBuffer::connect(&namespace, "b").unwrap_err(), advice);
        fs::set_permissions(&path, fs::Permissions::from_mode(closed)).unwrap();
        SharedBuffer::connect(&namespace, "b").unwrap();
    }
}

/// Processes with other working directories would use other queues of the same name.
#[test]
fn a_folder_that_depends_on_the_working_directory_is_named_by_its_absolute_path() {
    let (folder, _) = scratch();
    let relative = Namespace::in_folder("target", "test").unwrap();
    for refused in [
        SharedBuffer::create(&relative, "buffer", 8)
            .err()
            .map(|e| e.to_string()),
        relative.siblings().err().map(|e| e.to_string()),
    ] {
        let text = refused.expect("it is refused");
        assert!(
            text.contains("set IPC_SHM_DIR to an absolute path"),
            "{text}"
        );
    }
    let absolute = Namespace::in_folder(folder.path().join("root"), "test").unwrap();
    SharedBuffer::create(&absolute, "buffer", 8).unwrap();
}
