//! Each test follows the advice of an error or of the doctor, and checks that it helps.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use ipc_queue::{QueueError, QueueOptions};

use crate::doctor::{Folder, with_own_mounts};
use crate::place::{Ended, Place, Running, ipc, program, run, wait_until};

/// Asserts that an error advises something.
#[track_caller]
fn advises(ended: &Ended, advice: &str) {
    assert!(
        ended.error().contains(advice),
        "{advice:?} is not in {:?}",
        ended.error()
    );
}

#[test]
fn every_setting_can_be_set_and_is_shown() {
    let folder = Folder::new();
    let options = [
        ("capacity", "7"),
        ("inline-bytes", "256"),
        ("max-message-bytes", "2MiB"),
        ("pool-bytes", "16MiB"),
        ("attempt-limit", "9"),
        ("crash-limit", "4"),
        ("expiry-limit", "1"),
        ("backoff", "1s,10s"),
        ("lease", "17s"),
        ("max-participants", "33"),
        ("aging", "3s"),
        ("dedup-window", "90s"),
        ("dedup-keys", "128"),
        ("type", "Resize"),
    ];
    let mut args = vec![
        "create".to_owned(),
        "jobs".to_owned(),
        "--priorities".to_owned(),
    ];
    for (name, value) in options {
        args.extend([format!("--{name}"), value.to_owned()]);
    }
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    folder.run(&args).expect(0);
    let stat = folder.run(&["stat", "jobs", "--json"]).expect(0).json();
    let settings = stat["settings"].as_object().unwrap();
    let wanted = serde_json::json!({
        "capacity": 7, "inline_bytes": 256, "max_message_bytes": 2 << 20, "pool_bytes": 16 << 20,
        "attempt_limit": 9, "crash_limit": 4, "expiry_limit": 1,
        "backoff": {"List": [{"secs": 1, "nanos": 0}, {"secs": 10, "nanos": 0}]},
        "lease": {"secs": 17, "nanos": 0}, "max_participants": 33,
        "priorities": true, "aging": {"secs": 3, "nanos": 0},
        "dedup_window": {"secs": 90, "nanos": 0}, "dedup_keys": 128,
    });
    assert_eq!(settings, wanted.as_object().unwrap());
    assert_eq!(stat["type"], "Resize");
    let shown = folder.run(&["stat", "jobs"]).expect(0).out;
    for (name, _) in options {
        assert!(shown.contains(&format!("{name} ")), "no {name} in\n{shown}");
    }
    folder.run(&["create", "jobs"]).expect(5);
}

#[test]
fn an_oversized_message_fits_after_setting_what_the_error_names() {
    let folder = Folder::new();
    folder
        .run(&["create", "jobs", "--max-message-bytes", "2000"])
        .expect(0);
    let large = "x".repeat(3000);
    let refused = folder.run(&["send", "jobs", &large]).expect(5);
    advises(&refused, "ipc create QUEUE --max-message-bytes");
    folder
        .run(&["create", "large", "--max-message-bytes", "3000"])
        .expect(0);
    folder.run(&["send", "large", &large]).expect(0);
    // The error names two settings that must agree.
    let refused = folder
        .run(&["create", "huge", "--max-message-bytes", "64MiB"])
        .expect(2);
    advises(&refused, "--pool-bytes");
    let args = [
        "create",
        "huge",
        "--max-message-bytes",
        "64MiB",
        "--pool-bytes",
        "64MiB",
    ];
    folder.run(&args).expect(0);
}

#[test]
fn used_up_payload_memory_is_distinguished_from_places() {
    let folder = Folder::new();
    let large = "x".repeat(3000);
    let send = |queue| folder.run(&["send", queue, &large, "--timeout", "0s"]);
    let sizes = ["--max-message-bytes", "4096", "--pool-bytes"];
    folder
        .run(&[&["create", "jobs"], &sizes[..], &["4096"]].concat())
        .expect(0);
    let mut fit = 0;
    let refused = loop {
        match send("jobs") {
            Ended { code: 0, .. } => fit += 1,
            refused => break refused,
        }
    };
    advises(&refused.expect(4), "ipc create QUEUE --pool-bytes");
    folder
        .run(&[&["create", "more"], &sizes[..], &["16384"]].concat())
        .expect(0);
    for _ in 0..=fit {
        send("more").expect(0);
    }
}

#[test]
fn a_missing_feature_is_named_with_its_option() {
    let folder = Folder::new();
    folder.run(&["create", "jobs"]).expect(0);
    let refused = folder
        .run(&["send", "jobs", "now", "--priority", "urgent"])
        .expect(5);
    advises(&refused, "ipc create QUEUE --priorities");
    let refused = folder
        .run(&["send", "jobs", "now", "--key", "17"])
        .expect(5);
    advises(&refused, "ipc create QUEUE --dedup-window");
    folder
        .run(&["create", "both", "--priorities", "--dedup-window", "60s"])
        .expect(0);
    folder
        .run(&["send", "both", "now", "--priority", "urgent", "--key", "17"])
        .expect(0);
}

#[test]
fn a_full_queue_is_moved_to_a_larger_one_with_its_messages() {
    let folder = Folder::new();
    folder.run(&["create", "jobs", "--capacity", "1"]).expect(0);
    folder.run(&["send", "jobs", "one"]).expect(0);
    folder
        .run(&["send", "jobs", "two", "--timeout", "0s"])
        .expect(4);
    folder
        .run(&[
            "bridge",
            "jobs",
            "larger",
            "--create",
            "--capacity",
            "2",
            "--close",
        ])
        .expect(0);
    folder
        .run(&["send", "larger", "two", "--timeout", "0s"])
        .expect(0);
    folder.run(&["rm", "jobs"]).expect(0);
    assert_eq!(
        folder
            .run(&["recv", "larger", "--count", "2"])
            .expect(0)
            .out,
        "one\ntwo\n"
    );
}

#[test]
fn other_settings_are_applied_by_moving_the_messages() {
    let place = Place::new("other-settings");
    let address = format!("shm:{}", place.name("jobs"));
    let old = place.make("jobs", &QueueOptions::new().capacity(4));
    old.sender().send(b"one").unwrap();
    let next_release = QueueOptions::new().capacity(8);
    let refused = next_release.open_bytes(&address).unwrap_err();
    assert!(matches!(refused, QueueError::SettingsDiffer { .. }));
    let advice = "ipc bridge OLD NEW --create --close";
    assert!(refused.to_string().contains(advice), "{refused}");
    let (jobs, new) = (place.name("jobs"), place.name("new"));
    run(&[
        "bridge",
        &jobs,
        &new,
        "--create",
        "--close",
        "--capacity",
        "8",
    ])
    .expect(0);
    let moved = next_release.open_bytes(format!("shm:{new}")).unwrap();
    let receiver = moved.receiver();
    let delivery = receiver.try_recv().unwrap();
    assert_eq!(delivery.payload(), b"one");
    delivery.ack().unwrap();
}

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
    // It takes the message, and can't print it: nothing empties the pipe.
    let large = "x".repeat(1 << 18);
    run_in(&folder, &["send", "jobs"], &large);
    folder.run(&["recv", "jobs"]).expect(0);
    let mut receiver = ipc(&["recv", "jobs"]);
    let receiver = Running::start(receiver.env("IPC_SHM_DIR", folder.0.path()));
    let held = || folder.run(&["stat", "jobs", "--json"]).json()["stats"]["leased"] == 1;
    wait_until("it holds the message", held);
    drop(receiver);
    let (grade, what) = folder.finding("jobs");
    assert_eq!(grade, "mends");
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

#[test]
fn commands_have_reserved_slots_when_all_others_are_taken() {
    let folder = Folder::new();
    folder
        .run(&["create", "jobs", "--max-participants", "1"])
        .expect(0);
    let mut follow = ipc(&["recv", "jobs", "--follow"]);
    let _receiver = Running::start(follow.env("IPC_SHM_DIR", folder.0.path()));
    let attached = || folder.run(&["stat", "jobs", "--json"]).json()["stats"]["participants"] == 1;
    wait_until("it is attached", attached);
    let refused = folder.run(&["recv", "jobs", "--follow"]).expect(1);
    advises(&refused, "ipc create QUEUE --max-participants");
    for args in [
        &["pause", "jobs"][..],
        &["send", "jobs", "one"],
        &["purge", "jobs"],
        &["dlq", "requeue", "jobs", "--all"],
        &["resume", "jobs"],
        &["drain", "jobs"],
    ] {
        folder.run(args).expect(0);
    }
    folder
        .run(&["create", "more", "--max-participants", "2"])
        .expect(0);
}

#[test]
fn a_queue_full_of_keys_accepts_more_by_following_the_advice() {
    let folder = Folder::new();
    folder
        .run(&[
            "create",
            "jobs",
            "--dedup-window",
            "1h",
            "--dedup-keys",
            "64",
        ])
        .expect(0);
    let send = |queue: &str, key: &str| folder.run(&["send", queue, "x", "--key", key]);
    let mut sent = 0;
    let refused = loop {
        match send("jobs", &format!("order {sent}")) {
            Ended { code: 0, .. } => sent += 1,
            refused => break refused.expect(4),
        }
    };
    assert!(sent >= 64);
    advises(&refused, &format!("{sent} keys, each for 3600s"));
    for advice in ["ipc forget", "ipc move", "--dedup-window --dedup-keys"] {
        advises(&refused, advice);
    }
    let new = format!("order {sent}");
    // First advice: forget the keys that may be in the way.
    folder.run(&["forget", "jobs", "order 0"]).expect(0);
    folder.run(&["forget", "jobs", "order 0"]).expect(3);
    send("jobs", "order 0").expect(0);
    let shown = folder.run(&["stat", "jobs"]).expect(0).out;
    let keys = format!("{sent} remembered now; at least 64 at once, each for 1h: 1.1 a minute");
    assert!(shown.contains(&keys), "no {keys:?} in\n{shown}");
    // Second advice: move the queue.
    folder
        .run(&["move", "jobs", "more", "--dedup-keys", "1024"])
        .expect(0);
    send("more", &new).expect(0);
    send("more", "order 1").expect(7);
    let stat = folder.run(&["stat", "more", "--json"]).expect(0).json();
    assert_eq!(stat["settings"]["dedup_keys"], 1024);
}

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
