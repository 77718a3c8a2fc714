//! Advice of `save`, `restore` and `move`.

use std::fs::{self, File};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

use super::advises;
use crate::doctor::{Folder, with_own_mounts};
use crate::place::{Running, ipc, wait_until};
use crate::signals::signal;

#[test]
fn a_queue_that_is_too_small_is_named_with_the_needed_size() {
    let (folder, files) = (Folder::new(), tempfile::tempdir().unwrap());
    let file = |name: &str| files.path().join(name).display().to_string();
    let (saved, other) = (file("saved"), file("other"));
    for text in ["one", "two", "three"] {
        folder.run(&["send", "jobs", text, "--create"]).expect(0);
    }
    folder.run(&["save", "jobs", &saved]).expect(0);
    folder.run(&["save", "jobs", &saved]).expect(0);
    folder.run(&["save", "nothing", &other]).expect(3);
    let restore = |options: &[&str]| folder.run(&[&["restore", &saved, "jobs"], options].concat());
    let refused = restore(&["--capacity", "2"]).expect(5);
    advises(&refused, "its setting capacity is 2, and 3 are needed");
    advises(&refused, "--capacity");
    restore(&["--type", "Other"]).expect(2);
    restore(&["--capacity", "3"]).expect(0);
    restore(&[]).expect(3);
    restore(&["--if-exists"]).expect(0);
    folder.run(&["recv", "jobs", "--count", "3"]).expect(0);
}

#[test]
fn a_file_in_memory_is_reported_so_that_it_is_copied_to_a_disk() {
    let (folder, files) = (Folder::new(), tempfile::tempdir_in("/dev/shm").unwrap());
    folder.run(&["send", "jobs", "one", "--create"]).expect(0);
    let saved = files.path().join("saved").display().to_string();
    let ended = folder.run(&["save", "jobs", &saved]).expect(0);
    assert!(ended.err.contains("move it to a disk"), "{ended:?}");
    let disk = tempfile::tempdir().unwrap();
    let copy = disk.path().join("saved").display().to_string();
    fs::copy(&saved, &copy).unwrap();
    folder.run(&["restore", &copy, "jobs"]).expect(0);
    let ended = folder.run(&["recv", "jobs"]).expect(0);
    assert_eq!(ended.out, "one\n");
}

#[test]
fn a_queue_in_use_is_saved_once_its_users_are_gone() {
    let (folder, files) = (Folder::new(), tempfile::tempdir().unwrap());
    let saved = files.path().join("saved").display().to_string();
    folder.run(&["send", "jobs", "one", "--create"]).expect(0);
    let mut receiver = ipc(&["recv", "jobs", "--follow"]);
    let receiver = receiver.env("IPC_SHM_DIR", folder.0.path());
    let receiver = Running::start(receiver.stdout(std::process::Stdio::null()));
    wait_until("it is attached", || {
        let stat = folder.run(&["stat", "jobs", "--json"]).expect(0).json();
        stat["participants"] == 1 || stat["stats"]["participants"] == 1
    });
    let save = ["save", "jobs", &saved, "--timeout", "0s"];
    let refused = folder.run(&save).expect(5);
    advises(
        &refused,
        &format!("in use by process {}: stop it first", receiver.0.id()),
    );
    drop(receiver);
    folder.run(&save).expect(0);
    let refused = folder.run(&["save", "local:jobs", &saved]).expect(5);
    advises(&refused, "shm:jobs");
    let served = folder.run(&["save", "unix:/nowhere", &saved]).expect(5);
    advises(&served, "to save a served queue, use its shm: address");
    folder
        .run(&["move", "nats://127.0.0.1/x", "shm:y"])
        .expect(5);
}

/// Files of saved queues, in a folder of the test's own.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}

/// Prevents the removal of queues, like a process that was stopped while it removed one.
fn keep_removers_out(folder: &Folder) -> Flock<File> {
    let namespace = File::open(folder.file("jobs").parent().unwrap()).unwrap();
    Flock::lock(namespace, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, errno)| errno)
        .unwrap()
}

#[test]
fn a_save_that_could_not_remove_its_queue_is_completed_by_the_same_save() {
    let (folder, files) = (Folder::new(), Files::new());
    folder.run(&["send", "jobs", "one", "--create"]).expect(0);
    let save = ["save", "jobs", &files.path("saved")];
    let lock = keep_removers_out(&folder);
    let refused = folder.run(&save).expect(1);
    advises(
        &refused,
        "stays frozen: run the operation again to complete it",
    );
    // The messages in the file are not delivered.
    folder.run(&["recv", "jobs", "--timeout", "0s"]).expect(3);
    for change in ["reopen", "resume"] {
        let refused = folder.run(&[change, "jobs"]).expect(5);
        advises(&refused, "run the same ipc save or ipc move again");
    }
    drop(lock);
    folder.run(&save).expect(0);
    folder.run(&["stat", "jobs"]).expect(3);
    folder
        .run(&["restore", &files.path("saved"), "jobs"])
        .expect(0);
    assert_eq!(folder.run(&["recv", "jobs"]).expect(0).out, "one\n");
}

#[test]
fn a_move_that_could_not_remove_its_queue_is_completed_by_the_same_move() {
    let folder = Folder::new();
    folder.run(&["send", "jobs", "one", "--create"]).expect(0);
    let lock = keep_removers_out(&folder);
    let refused = folder.run(&["move", "jobs", "other"]).expect(1);
    advises(
        &refused,
        "stays frozen: run the operation again to complete it",
    );
    folder.run(&["recv", "jobs", "--timeout", "0s"]).expect(3);
    drop(lock);
    folder.run(&["move", "jobs", "other"]).expect(0);
    folder.run(&["stat", "jobs"]).expect(3);
    assert_eq!(
        folder.run(&["recv", "other", "--count", "1"]).expect(0).out,
        "one\n"
    );
    folder.run(&["recv", "other", "--timeout", "0s"]).expect(3);
}

#[test]
fn a_frozen_queue_is_opened_as_is_and_its_file_removed_or_inspected() {
    let (folder, files) = (Folder::new(), Files::new());
    let (saved, again) = (files.path("saved"), files.path("again"));
    folder.run(&["send", "jobs", "one", "--create"]).expect(0);
    let lock = keep_removers_out(&folder);
    folder.run(&["save", "jobs", &saved]).expect(1);
    drop(lock);
    // Another restore into it is refused.
    folder.run(&["send", "more", "two", "--create"]).expect(0);
    folder.run(&["save", "more", &again]).expect(0);
    let refused = folder.run(&["restore", &again, "jobs"]).expect(5);
    advises(&refused, "ipc resume shm:default/jobs --give-up");
    let resume = "ipc resume shm:default/jobs --give-up".split(' ').skip(1);
    folder.run(&resume.collect::<Vec<_>>()).expect(0);
    folder.run(&["restore", &again, "jobs"]).expect(0);
    assert_eq!(
        folder.run(&["recv", "jobs", "--count", "2"]).expect(0).out,
        "one\ntwo\n"
    );
    // Inspect or remove the file of the save that was given up.
    let refused = folder.run(&["restore", &saved, "jobs"]).expect(5);
    advises(
        &refused,
        "remove the file, or restore it under another name",
    );
    folder.run(&["restore", &saved, "inspected"]).expect(0);
    assert_eq!(folder.run(&["recv", "inspected"]).expect(0).out, "one\n");
}

#[test]
fn a_queue_is_left_alone_while_another_process_saves_it() {
    let (folder, files) = (Folder::new(), Files::new());
    folder.run(&["send", "jobs", "one", "--create"]).expect(0);
    let lock = keep_removers_out(&folder);
    let mut save = ipc(&["save", "jobs", &files.path("saved")]);
    let save = Running::start(save.env("IPC_SHM_DIR", folder.0.path()));
    wait_until("the file is whole", || {
        Path::new(&files.path("saved")).exists()
    });
    signal(&save, Signal::SIGSTOP);
    let refused = folder.run(&["reopen", "jobs"]).expect(5);
    let pid = save.0.id();
    advises(
        &refused,
        &format!("process {pid} may be saving, restoring or moving it: wait for"),
    );
    drop(lock);
    signal(&save, Signal::SIGCONT);
    save.end().expect(0);
    folder.run(&["create", "jobs"]).expect(0);
}

#[test]
fn a_file_of_another_save_is_restored_first_or_left_alone() {
    let (folder, files) = (Folder::new(), Files::new());
    let saved = files.path("saved");
    folder.run(&["send", "jobs", "one", "--create"]).expect(0);
    folder.run(&["save", "jobs", &saved]).expect(0);
    folder.run(&["send", "jobs", "two", "--create"]).expect(0);
    let refused = folder.run(&["save", "jobs", &saved]).expect(5);
    advises(&refused, "restore it first, or choose another name");
    folder
        .run(&["save", "jobs", &files.path("other")])
        .expect(0);
    folder.run(&["restore", &saved, "jobs"]).expect(0);
    folder.run(&["save", "jobs", &saved]).expect(0);
}

#[test]
fn a_damaged_file_is_replaced_by_another_copy() {
    let (folder, files) = (Folder::new(), Files::new());
    let (saved, copy) = (files.path("saved"), files.path("copy"));
    folder.run(&["send", "jobs", "one", "--create"]).expect(0);
    folder.run(&["save", "jobs", &saved]).expect(0);
    fs::copy(&saved, &copy).unwrap();
    let mut bytes = fs::read(&saved).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&saved, bytes).unwrap();
    let refused = folder.run(&["restore", &saved, "jobs"]).expect(1);
    advises(
        &refused,
        "nothing was restored; take another copy of the file",
    );
    folder.run(&["restore", &copy, "jobs"]).expect(0);
    assert_eq!(folder.run(&["recv", "jobs"]).expect(0).out, "one\n");
}

#[test]
fn messages_with_keys_or_priorities_are_restored_into_a_queue_with_them() {
    let (folder, files) = (Folder::new(), Files::new());
    let saved = files.path("saved");
    let keyed = ["create", "jobs", "--dedup-window", "1h", "--priorities"];
    folder.run(&keyed).expect(0);
    folder
        .run(&["send", "jobs", "one", "--key", "1", "--priority", "high"])
        .expect(0);
    folder.run(&["save", "jobs", &saved]).expect(0);
    folder.run(&["create", "plain"]).expect(0);
    let refused = folder.run(&["restore", &saved, "plain"]).expect(5);
    advises(&refused, "use a queue with");
    folder.run(&keyed).expect(0);
    folder.run(&["restore", &saved, "jobs"]).expect(0);
    folder.run(&["send", "jobs", "two", "--key", "1"]).expect(7);
}

#[test]
fn a_queue_moves_to_another_name_only() {
    let folder = Folder::new();
    folder.run(&["send", "jobs", "one", "--create"]).expect(0);
    let refused = folder.run(&["move", "jobs", "shm:jobs"]).expect(2);
    advises(&refused, "choose another name");
    folder.run(&["move", "jobs", "other"]).expect(0);
}

#[test]
fn a_file_that_could_not_be_removed_is_removed_by_hand() {
    let script = "mount -t tmpfs -o mode=700 x /dev/shm; mkdir /dev/shm/disk; \
                  mount -t tmpfs -o mode=700 x /dev/shm/disk; \"$0\" send jobs one --create; \
                  \"$0\" save jobs /dev/shm/disk/saved; mount -o remount,ro /dev/shm/disk; \
                  \"$0\" restore /dev/shm/disk/saved jobs || \
                  mount -o remount,rw /dev/shm/disk; rm /dev/shm/disk/saved; \"$0\" recv jobs";
    let Some(ended) = with_own_mounts("a file on a disk that is read-only", script) else {
        return;
    };
    assert_eq!(ended.code, 0, "{ended:?}");
    advises(&ended, "the file was not removed");
    advises(&ended, "; remove it");
    assert!(ended.out.ends_with("one\n"), "{ended:?}");
}
