//! Advice about limits of the machine and of the user: memory, file sizes, folders.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::advises;
use crate::doctor::{Folder, with_own_mounts};
use crate::place::{Ended, program};

#[test]
fn a_folder_open_to_others_is_closed_by_following_the_advice() {
    let folder = Folder::new();
    folder.run(&["create", "others"]).expect(0);
    fs::set_permissions(folder.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let refused = folder.run(&["create", "jobs"]).expect(5);
    advises(&refused, "run chmod 700 on it");
    let found = folder.run(&["doctor", "--quiet"]).expect(1);
    assert!(found.out.contains("chmod 700"), "{found:?}");
    fs::set_permissions(folder.0.path(), fs::Permissions::from_mode(0o700)).unwrap();
    folder.run(&["create", "jobs"]).expect(0);
    folder.run(&["doctor", "--quiet"]).expect(0);
}

#[test]
fn a_queue_that_does_not_fit_into_memory_fits_when_smaller() {
    let script = "mount -t tmpfs -o size=4m x /dev/shm; \"$0\" create jobs || \
                  \"$0\" create jobs --capacity 64 --max-message-bytes 64k --pool-bytes 256k";
    let Some(ended) = with_own_mounts("too little memory", script) else {
        return;
    };
    assert_eq!(ended.code, 0, "{ended:?}");
    advises(&ended, "lower the capacity or the payload size");
}

#[test]
fn a_file_size_limit_is_raised_by_following_the_advice() {
    let folder = Folder::new();
    let create = |limit: &str| {
        let mut shell = program("sh");
        let line = format!("ulimit -S -f 100; {limit} exec \"$0\" create jobs");
        shell.args(["-c", &line, env!("CARGO_BIN_EXE_ipc")]);
        Ended::of(shell.env("IPC_SHM_DIR", folder.0.path()))
    };
    advises(&create("").expect(1), "ulimit -f unlimited");
    create("ulimit -f unlimited;").expect(0);
}

#[test]
fn a_folder_of_another_user_is_avoided_by_following_the_advice() {
    let script = "mount -t tmpfs x /dev/shm; other=/dev/shm/ipc.$(id -u); mkdir -m 700 $other; \
                  chown 12345 $other; \"$0\" create jobs || mkdir -m 700 /dev/shm/ours; \
                  IPC_SHM_DIR=/dev/shm/ours \"$0\" create jobs";
    let Some(ended) = with_own_mounts("another user's folder", script) else {
        return;
    };
    assert_eq!(ended.code, 0, "{ended:?}");
    advises(&ended, "belongs to user 12345");
    advises(&ended, "set IPC_SHM_DIR to a folder of user");
}
