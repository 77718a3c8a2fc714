//! Advice about the state of a queue: paused, closed, full of dead letters, not empty.

use super::advises;
use crate::doctor::Folder;
use crate::place::{Ended, Place, Running, ipc, program, run, wait_until};

#[test]
fn places_of_dead_letters_are_freed_by_settling_them() {
    let folder = Folder::new();
    folder
        .run(&["create", "jobs", "--capacity", "2", "--attempt-limit", "1"])
        .expect(0);
    for payload in ["one", "two"] {
        folder.run(&["send", "jobs", payload]).expect(0);
        folder.run(&["recv", "jobs", "--nack"]).expect(0);
    }
    let full = folder
        .run(&["send", "jobs", "three", "--timeout", "0s"])
        .expect(4);
    advises(&full, "2 dead letters");
    let (grade, what) = folder.finding("jobs");
    assert_eq!(grade, "bad");
    let told = "ipc dlq drop jobs --all";
    assert!(
        what.contains("ipc dlq ls jobs") && what.contains(told),
        "{what}"
    );
    let letters = folder
        .run(&["dlq", "ls", "jobs", "--json"])
        .expect(0)
        .json();
    assert_eq!(letters.as_array().unwrap().len(), 2);
    folder
        .run(&told.split(' ').skip(1).collect::<Vec<_>>())
        .expect(0);
    assert_eq!(folder.finding("jobs").0, "ok");
    folder
        .run(&["send", "jobs", "three", "--timeout", "0s"])
        .expect(0);
}

#[test]
fn a_missing_letter_is_reported_with_the_list_command() {
    let folder = Folder::new();
    folder.run(&["create", "jobs"]).expect(0);
    for args in [
        &["dlq", "drop", "jobs", "0.1"],
        &["dlq", "show", "jobs", "0.1"],
    ] {
        let missing = folder.run(args).expect(3);
        advises(&missing, "ipc dlq ls jobs");
    }
    assert_eq!(
        folder.run(&["dlq", "ls", "jobs", "--json"]).expect(0).out,
        "[]\n"
    );
}

#[test]
fn a_queue_with_messages_is_removed_by_force() {
    let folder = Folder::new();
    folder.run(&["send", "jobs", "one", "--create"]).expect(0);
    let refused = folder.run(&["rm", "jobs"]).expect(5);
    advises(&refused, "ipc rm --force jobs");
    folder.run(&["rm", "--force", "jobs"]).expect(0);
    folder.run(&["stat", "jobs"]).expect(3);
}

#[test]
fn a_local_queue_is_shared_or_served_by_following_the_advice() {
    let place = Place::new("shared");
    let mine = format!("local:{}", place.0);
    let refused = run(&["send", &mine, "one", "--create"]).expect(5);
    advises(&refused, &format!("use shm:{}", place.0));
    advises(&refused, &format!("ipc serve {mine} --at unix:/PATH"));
    let shared = place.name("jobs");
    run(&["send", &format!("shm:{shared}"), "one", "--create"]).expect(0);
    let folder = tempfile::tempdir().unwrap();
    let at = format!("unix:{}", folder.path().join("x.sock").display());
    let _server = Running::start(&mut ipc(&["serve", &mine, "--at", &at]));
    wait_until("it is served", || run(&["send", &at, "one"]).code == 0);
}

#[test]
fn a_paused_queue_is_resumed_and_drained_by_following_the_advice() {
    let folder = Folder::new();
    folder.run(&["send", "jobs", "one", "--create"]).expect(0);
    folder.run(&["pause", "jobs"]).expect(0);
    let (_, what) = folder.finding("jobs");
    assert!(what.contains("ipc resume jobs"), "{what}");
    let nothing = folder.run(&["recv", "jobs", "--timeout", "0s"]).expect(3);
    advises(&nothing, "ipc resume jobs");
    folder.run(&["resume", "jobs"]).expect(0);
    folder.run(&["recv", "jobs", "--timeout", "0s"]).expect(0);
    folder.run(&["pause", "jobs"]).expect(0);
    let refused = folder.run(&["drain", "jobs"]).expect(5);
    advises(&refused, "ipc drain jobs --resume");
    folder.run(&["drain", "jobs", "--resume"]).expect(0);
}

#[test]
fn a_closed_queue_is_reopened_by_following_the_advice() {
    let folder = Folder::new();
    folder.run(&["create", "jobs"]).expect(0);
    folder.run(&["drain", "jobs"]).expect(0);
    let (_, what) = folder.finding("jobs");
    assert!(what.contains("ipc reopen jobs"), "{what}");
    advises(
        &folder.run(&["send", "jobs", "one"]).expect(5),
        "ipc reopen jobs",
    );
    folder.run(&["reopen", "jobs"]).expect(0);
    folder.run(&["send", "jobs", "one"]).expect(0);
    let undrained = folder.run(&["drain", "jobs", "--timeout", "0s"]).expect(4);
    advises(&undrained, "ipc reopen jobs");
    folder.run(&["reopen", "jobs"]).expect(0);
    folder.run(&["send", "jobs", "two"]).expect(0);
}

#[test]
fn an_empty_message_is_sent_when_intended() {
    let folder = Folder::new();
    folder.run(&["create", "jobs"]).expect(0);
    let refused = folder.run(&["send", "jobs"]).expect(2);
    advises(&refused, "ipc send jobs ''");
    folder.run(&["send", "jobs", ""]).expect(0);
    assert_eq!(folder.run(&["recv", "jobs"]).expect(0).out, "\n");
}

#[test]
fn output_to_nowhere_must_be_explicit() {
    let folder = Folder::new();
    folder.run(&["send", "jobs", "one", "--create"]).expect(0);
    let recv = |redirection: &str| {
        let mut shell = program("sh");
        let line = format!("exec \"$0\" recv jobs {redirection}");
        shell.args(["-c", &line, env!("CARGO_BIN_EXE_ipc")]);
        Ended::of(shell.env("IPC_SHM_DIR", folder.0.path()))
    };
    advises(&recv(">&-").expect(5), "> /dev/null drops them");
    recv("> /dev/null").expect(0);
    folder.run(&["recv", "jobs", "--timeout", "0s"]).expect(3);
}
