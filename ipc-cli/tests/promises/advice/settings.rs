//! Errors that name a setting, and the settings themselves.

use ipc_queue::{QueueError, QueueOptions};

use super::advises;
use crate::doctor::Folder;
use crate::place::{Ended, Place, Running, ipc, run, wait_until};

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
        "backoff": {"kind": "list", "delays_seconds": [1.0, 10.0]},
        "lease_seconds": 17.0, "max_participants": 33, "priorities": true, "aging_seconds": 3.0,
        "dedup_window_seconds": 90.0, "dedup_keys": 128,
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
fn a_setting_that_would_have_no_effect_is_refused() {
    let folder = Folder::new();
    for (given, missing) in [
        (["--dedup-keys", "128"], "--dedup-window"),
        (["--aging", "3s"], "--priorities"),
        (["--backoff", "1m..1s"], "first delay"),
    ] {
        let [option, value] = given;
        let refused = folder.run(&["create", "jobs", option, value]).expect(2);
        assert!(refused.err.contains(missing), "{refused:?}");
    }
    folder.run(&["stat", "jobs"]).expect(3);
}

#[test]
fn every_setting_but_the_type_is_changed_by_a_move() {
    let changed = [
        ("capacity", "7", "capacity"),
        ("inline-bytes", "256", "inline_bytes"),
        ("max-message-bytes", "2MiB", "max_message_bytes"),
        ("pool-bytes", "16MiB", "pool_bytes"),
        ("attempt-limit", "9", "attempt_limit"),
        ("crash-limit", "4", "crash_limit"),
        ("expiry-limit", "1", "expiry_limit"),
        ("backoff", "1s,10s", "backoff"),
        ("lease", "17s", "lease_seconds"),
        ("max-participants", "33", "max_participants"),
        ("aging", "3s", "aging_seconds"),
        ("dedup-window", "90s", "dedup_window_seconds"),
        ("dedup-keys", "128", "dedup_keys"),
        ("priorities", "", "priorities"),
    ];
    let folder = Folder::new();
    let settings = |queue| {
        let stat = folder.run(&["stat", queue, "--json"]).expect(0).json();
        stat["settings"].clone()
    };
    folder.run(&["create", "jobs"]).expect(0);
    let defaults = settings("jobs");
    let names: Vec<_> = changed.iter().map(|(_, _, name)| *name).collect();
    for name in defaults.as_object().unwrap().keys() {
        assert!(names.contains(&&name[..]), "no move changes {name}");
    }
    folder.run(&["rm", "jobs"]).expect(0);
    for (option, value, name) in changed {
        folder.run(&["send", "jobs", "one", "--create"]).expect(0);
        let option = format!("--{option}");
        let mut args = vec!["move", "jobs", "other", &option];
        args.extend((!value.is_empty()).then_some(value));
        folder.run(&args).expect(0);
        assert_ne!(settings("other")[name], defaults[name], "{name}");
        assert_eq!(folder.run(&["recv", "other"]).expect(0).out, "one\n");
        folder.run(&["rm", "--force", "other"]).expect(0);
    }
    folder.run(&["send", "jobs", "one", "--create"]).expect(0);
    let refused = folder.run(&["move", "jobs", "other", "--type", "Resize"]);
    advises(&refused.expect(2), "--type can't be changed");
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
    let refused = folder.run(&["forget", "jobs", "17"]).expect(5);
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
