//! Advice about files that are damaged, foreign or left by dead processes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::advises;
use crate::doctor::Folder;
use crate::place::{Ended, Running, ipc, program, wait_until};

#[test]
fn a_truncated_queue_is_removed_by_following_the_advice() {
    for bytes in [0, 100, 4096] {
        let folder = Folder::new();
        folder.run(&["send", "jobs", "one", "--create"]).expect(0);
        let file = fs::File::options().write(true).open(folder.file("jobs"));
        file.unwrap().set_len(bytes).unwrap();
        let refused = folder.run(&["send", "jobs", "two"]).expect(1);
        advises(&refused, "remove it");
        let refused = folder.run(&["rm", "jobs"]).expect(1);
        advises(&refused, "ipc rm --force jobs removes it");
        folder.run(&["rm", "--force", "jobs"]).expect(0);
        folder.run(&["send", "jobs", "two", "--create"]).expect(0);
    }
}

#[test]
fn messages_of_a_dead_process_are_freed_by_repair() {
    let folder = Folder::new();
    folder.run(&["send", "jobs", "one", "--create"]).expect(0);
    // It takes the message but can't print it, because nothing empties the pipe.
    let large = "x".repeat(1 << 18);
    run_in(&folder, &["send", "jobs"], &large);
    folder.run(&["recv", "jobs"]).expect(0);
    let mut receiver = ipc(&["recv", "jobs"]);
    let receiver = Running::start(receiver.env("IPC_SHM_DIR", folder.0.path()));
    let held = || folder.run(&["stat", "jobs", "--json"]).json()["stats"]["leased"] == 1;
    wait_until("it holds the message", held);
    drop(receiver);
    let (grade, what) = folder.finding("jobs");
    assert_eq!(grade, "warn");
    assert!(what.contains("ipc doctor --repair"), "{what}");
    assert!(held());
    folder.run(&["doctor", "--repair"]).expect(0);
    assert_eq!(folder.finding("jobs").0, "ok");
    let stat = folder.run(&["stat", "jobs", "--json"]).json();
    assert_eq!(stat["stats"]["ready"], 1);
}

fn run_in(folder: &Folder, args: &[&str], input: &str) {
    let path = folder.0.path().with_extension("input");
    fs::write(&path, input).unwrap();
    let file = fs::File::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let mut command = ipc(args);
    Ended::of(command.env("IPC_SHM_DIR", folder.0.path()).stdin(file)).expect(0);
}

#[test]
fn an_unreadable_table_of_nodes_is_deleted_by_following_the_advice() {
    let folder = Folder::new();
    folder.run(&["create", "jobs"]).expect(0);
    let file = folder.file("jobs").with_file_name("registry.nodes");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let (grade, what) = folder.finding("default: nodes");
    assert_eq!(grade, "bad");
    let path = file.display().to_string();
    assert!(
        what.contains(&path) && what.contains("delete that file"),
        "{what}"
    );
    folder.run(&["nodes"]).expect(1);
    fs::remove_file(&file).unwrap();
    folder.run(&["doctor", "--quiet"]).expect(0);
    folder.run(&["nodes"]).expect(0);
}

/// Puts an entry that is not a queue in the place of one.
fn foreign(folder: &Folder, kind: &str) {
    folder.run(&["create", "other"]).expect(0);
    let place = folder.file("jobs");
    match kind {
        "file of mode 644" => {
            fs::write(&place, "x".repeat(5000)).unwrap();
            fs::set_permissions(&place, fs::Permissions::from_mode(0o644)).unwrap();
        }
        "folder" => fs::create_dir(&place).unwrap(),
        "link" => symlink(folder.file("other"), &place).unwrap(),
        "link to nothing" => symlink("/nowhere", &place).unwrap(),
        _ => {
            fs::write(&place, "").unwrap();
            fs::set_permissions(&place, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

#[test]
fn entries_that_are_not_queues_are_removed_by_force() {
    for kind in [
        "file of mode 644",
        "folder",
        "link",
        "link to nothing",
        "empty file",
    ] {
        let folder = Folder::new();
        foreign(&folder, kind);
        let (grade, what) = folder.finding("jobs");
        assert!(
            grade == "bad" && what.ends_with("ipc rm --force jobs removes it"),
            "{what}"
        );
        let refused = folder.run(&["rm", "jobs"]);
        assert_ne!(refused.code, 0, "{kind}: {refused:?}");
        refused.error();
        folder.run(&["rm", "--force", "jobs"]).expect(0);
        folder.run(&["create", "jobs"]).expect(0);
        folder.run(&["doctor", "--quiet"]).expect(0);
        // The target of a link is still there.
        folder.run(&["stat", "other"]).expect(0);
    }
}

#[test]
fn a_nonempty_folder_is_inspected_before_removal() {
    let folder = Folder::new();
    foreign(&folder, "folder");
    fs::write(folder.file("jobs").join("letter"), "dear").unwrap();
    let (_, what) = folder.finding("jobs");
    let advice = format!("rm -r {}", folder.file("jobs").display());
    assert!(what.ends_with(&advice), "{what}");
    let refused = folder.run(&["rm", "--force", "jobs"]).expect(5);
    advises(&refused, "rm -r");
    assert_eq!(Ended::of(program("sh").args(["-c", &advice])).code, 0);
    folder.run(&["create", "jobs"]).expect(0);
}

/// A umask that takes rights of the user must not make a folder that the user cannot open.
#[test]
fn a_folder_is_usable_whatever_the_umask_is() {
    let folder = Folder::new();
    let mut shell = program("sh");
    shell.args([
        "-c",
        "umask 777 && exec \"$0\" create jobs",
        env!("CARGO_BIN_EXE_ipc"),
    ]);
    Ended::of(shell.env("IPC_SHM_DIR", folder.0.path())).expect(0);
    let made = folder.0.path().join("default");
    assert_eq!(
        fs::metadata(made).unwrap().permissions().mode() & 0o777,
        0o700
    );
    folder.run(&["send", "jobs", "one"]).expect(0);
}
