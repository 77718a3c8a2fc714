//! `ipc doctor` finds problems by trying, and its exit code suits cron.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::place::{Ended, Running, ipc, program, say_skipped, wait_until};

/// A folder for this test's segments, so that queues of other tests are not seen.
pub struct Folder(pub TempDir);

impl Folder {
    pub fn new() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Self(folder)
    }

    pub fn run(&self, args: &[&str]) -> Ended {
        Ended::of(ipc(args).env("IPC_SHM_DIR", self.0.path()))
    }

    /// Returns the path of a queue's file.
    pub fn file(&self, queue: &str) -> std::path::PathBuf {
        self.0.path().join("default").join(format!("{queue}.queue"))
    }

    /// Returns the doctor's grade and text about something.
    #[track_caller]
    pub fn finding(&self, about: &str) -> (String, String) {
        finding(&self.run(&["doctor", "--json"]), about)
    }
}

#[track_caller]
pub fn finding(ended: &Ended, about: &str) -> (String, String) {
    let rows = ended.json();
    let is_it = |row: &&Value| row["about"] == about;
    let row = rows.as_array().unwrap().iter().find(is_it);
    let row = row.unwrap_or_else(|| panic!("nothing about {about}: {ended:?}"));
    let text = |field: &str| row[field].as_str().unwrap().to_owned();
    (text("grade"), text("what"))
}

/// Runs a shell script in its own mount namespace; `None` where that is forbidden.
pub fn with_own_mounts(test: &str, script: &str) -> Option<Ended> {
    let mut unshare = program("unshare");
    unshare.args(["--mount", "--propagation", "private", "sh", "-ec", script]);
    unshare
        .arg(env!("CARGO_BIN_EXE_ipc"))
        .env_remove("IPC_SHM_DIR");
    let is_allowed = Command::new("unshare").args(["--mount", "true"]).status();
    if !is_allowed.is_ok_and(|status| status.success()) {
        say_skipped(test, "mount namespaces are forbidden here");
        return None;
    }
    Some(Ended::of(&mut unshare))
}

const TRIAL: &str = "a queue of our own";

#[test]
fn a_sound_machine_is_silent_for_cron() {
    let folder = Folder::new();
    folder.run(&["create", "jobs"]).expect(0);
    folder.run(&["doctor"]).expect(0);
    let quiet = folder.run(&["doctor", "--quiet"]).expect(0);
    assert!(quiet.out.is_empty(), "{quiet:?}");
    assert_eq!(folder.finding(TRIAL).0, "ok");
    // The trial leaves nothing.
    assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 1);
    fs::write(folder.file("jobs"), "").unwrap();
    let bad = folder.run(&["doctor", "--quiet"]).expect(1);
    assert_eq!(bad.out.trim_end().lines().count(), 2, "{bad:?}");
    assert!(bad.error().contains("jobs"), "{bad:?}");
}

#[test]
fn unwritable_memory_is_found_by_trying() {
    let script = "mount -o remount,bind,ro /dev/shm 2>/dev/null || \
                  mount -t tmpfs -o ro x /dev/shm; \
                  \"$0\" doctor --json";
    let Some(ended) = with_own_mounts("read-only memory", script) else {
        return;
    };
    let ended = ended.expect(1);
    let (grade, what) = finding(&ended, TRIAL);
    assert_eq!(grade, "bad");
    assert!(
        what.contains("Read-only")
            && what.ends_with("set IPC_SHM_DIR to a new folder on a tmpfs that you may write to"),
        "{what}"
    );
    // Follow its advice.
    let script = "mount -t tmpfs -o ro x /dev/shm; mount -t tmpfs x /mnt; \
                  IPC_SHM_DIR=/mnt/new \"$0\" doctor --json";
    let ended = with_own_mounts("read-only memory", script)
        .unwrap()
        .expect(0);
    assert_eq!(finding(&ended, TRIAL).0, "ok");
}

#[test]
fn missing_memory_is_found_by_trying() {
    // An empty folder over /dev has no /dev/shm.
    let script = "mount -t tmpfs x /dev; \"$0\" doctor --json";
    let Some(ended) = with_own_mounts("missing memory", script) else {
        return;
    };
    let (grade, what) = finding(&ended.expect(1), TRIAL);
    assert_eq!(grade, "bad");
    assert!(what.contains("/dev/shm"), "{what}");
    // Follow its advice.
    let script = "mount -t tmpfs x /dev; mkdir /dev/shm; mount -t tmpfs tmpfs /dev/shm; \
                  \"$0\" doctor --json";
    let ended = with_own_mounts("missing memory", script).unwrap().expect(0);
    assert_eq!(finding(&ended, TRIAL).0, "ok");
}

#[test]
fn a_missing_proc_is_found() {
    let script = "mount -t tmpfs y /dev/shm; mount -t tmpfs x /proc; \
                  \"$0\" doctor --json || code=$?; \
                  test -z \"$(ls /dev/shm)\" || exit 9; exit $code";
    let Some(ended) = with_own_mounts("a missing /proc", script) else {
        return;
    };
    let ended = ended.expect(1);
    assert_eq!(finding(&ended, TRIAL).0, "bad");
    let (grade, what) = finding(&ended, "/proc");
    assert_eq!(grade, "bad");
    // Follow its advice.
    assert!(what.ends_with("mount -t proc proc /proc"), "{what}");
    let script = "mount -t tmpfs x /proc; mount -t proc proc /proc; \"$0\" doctor --json";
    let ended = with_own_mounts("a missing /proc", script).unwrap();
    assert_eq!(finding(&ended, TRIAL).0, "ok");
}

#[test]
fn too_few_open_files_are_found() {
    let folder = Folder::new();
    let limited = |files: u32| {
        let line = format!("ulimit -n {files}; exec \"$0\" doctor --json");
        let mut shell = program("sh");
        shell.args(["-c", &line, env!("CARGO_BIN_EXE_ipc")]);
        Ended::of(shell.env("IPC_SHM_DIR", folder.0.path()))
    };
    let (grade, what) = finding(&limited(100).expect(1), "open files");
    assert!(grade == "bad" && what.contains("ulimit -n 1024"), "{what}");
    assert_eq!(finding(&limited(1024).expect(0), "open files").0, "ok");
}

#[test]
fn a_full_memory_is_found_and_removing_queues_helps() {
    let script = "mount -t tmpfs -o size=4m x /dev/shm; queue=0; \
                  while \"$0\" create q$queue --capacity 64 --max-message-bytes 4k \
                  --pool-bytes 8k 2> /dev/null; \
                  do queue=$((queue + 1)); done; \
                  while \"$0\" create r$queue --capacity 1 --inline-bytes 64 \
                  --max-message-bytes 64 2> /dev/null; \
                  do queue=$((queue + 1)); done; \
                  \"$0\" doctor --json > /dev/null && exit 9; \
                  \"$0\" doctor --quiet || true; \
                  \"$0\" rm q0 q1 q2 q3 q4 q5 > /dev/null; \"$0\" doctor --quiet";
    let Some(ended) = with_own_mounts("a full memory", script) else {
        return;
    };
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.contains("ipc rm"), "{ended:?}");
}

#[test]
fn one_foreign_entry_hides_nothing_else() {
    let folder = Folder::new();
    folder.run(&["create", "jobs"]).expect(0);
    fs::write(folder.0.path().join("file"), "").unwrap();
    fs::create_dir(folder.0.path().join("open")).unwrap();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder.0.path().join("open"), mode).unwrap();
    let open = folder.0.path().join("open").display().to_string();
    let (grade, what) = folder.finding(&open);
    assert!(grade == "bad" && what.contains("chmod 700"), "{what}");
    let file = folder.0.path().join("file").display().to_string();
    assert_eq!(folder.finding(&file).0, "ok");
    for look in [
        &["ls"][..],
        &["top", "--once", "--every", "1ms"],
        &["doctor"],
    ] {
        let ended = folder.run(look);
        assert!(ended.out.contains("jobs"), "{look:?}: {ended:?}");
    }
    assert!(Path::new(&folder.file("jobs")).exists());
}

#[test]
fn leftovers_of_a_killed_doctor_are_removed() {
    let folder = Folder::new();
    // The state after a doctor was killed during its trial: its queue exists, and only dead
    // processes are attached.
    folder.run(&["create", "doctor-1/trial"]).expect(0);
    folder
        .run(&["send", "doctor-1/trial", &"x".repeat(100_000)])
        .expect(0);
    let mut receiver = ipc(&["recv", "doctor-1/trial"]);
    let mut receiver = Running::start(receiver.env("IPC_SHM_DIR", folder.0.path()));
    let stat = || folder.run(&["stat", "doctor-1/trial", "--json"]);
    wait_until("it is held", || stat().json()["stats"]["leased"] == 1);
    receiver.0.kill().unwrap();
    receiver.0.wait().unwrap();
    folder.run(&["doctor"]).expect(0);
    stat().expect(3);
}
