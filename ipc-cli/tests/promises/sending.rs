//! `ipc send` and `ipc recv` report what happened to each message.

use std::time::Duration;

use ipc_queue::transport::Wait;
use ipc_queue::{Queue, QueueOptions, SendFailure, SendOptions};

use crate::place::{Ended, Place, program, run, run_with};

fn keyed() -> QueueOptions {
    QueueOptions::new().dedup_window(Duration::from_secs(60))
}

#[test]
fn all_lines_are_sent_even_if_nothing_reads_their_ids() {
    let place = Place::new("lines");
    place.make("jobs", &QueueOptions::new());
    let line =
        "(seq 1 3; sleep 0.3; seq 4 1000) | { \"$0\" send \"$1\" --lines; echo $? >&2; } | head -1";
    let mut shell = program("sh");
    shell.args(["-c", line, env!("CARGO_BIN_EXE_ipc"), &place.name("jobs")]);
    let ended = Ended::of(&mut shell);
    assert_eq!(ended.err.trim(), "0", "{ended:?}");
    assert_eq!(place.look("jobs").unwrap().stats().ready, 1000);
}

#[test]
fn lines_without_room_are_counted() {
    let place = Place::new("no-room");
    place.make("jobs", &QueueOptions::new().capacity(2));
    let args = ["send", &place.name("jobs"), "--lines", "--timeout", "0s"];
    let ended = run_with(&args, "one\ntwo\nthree\n").expect(4);
    assert!(
        ended.error().starts_with("2 lines were sent, then"),
        "{ended:?}"
    );
    assert_eq!(place.look("jobs").unwrap().stats().ready, 2);
}

#[test]
fn a_send_that_waits_in_vain_is_refused_once() {
    let place = Place::new("refused-once");
    let queue = place.make("jobs", &QueueOptions::new().capacity(1));
    queue.sender().send(b"one").unwrap();
    for (timeout, refused) in [("0s", 1), ("2100ms", 2)] {
        run(&["send", &place.name("jobs"), "two", "--timeout", timeout]).expect(4);
        assert_eq!(queue.transport().stats().unwrap().refused, refused);
    }
}

#[test]
fn a_duplicate_is_reported_in_text_in_json_and_by_its_code() {
    let place = Place::new("duplicate");
    place.make("jobs", &keyed());
    let args = ["send", &place.name("jobs"), "invoice", "--key", "order 17"];
    let first = run(&args).expect(0);
    let again = run(&args).expect(7);
    assert_eq!(again.out, first.out);
    assert!(again.error().contains(first.out.trim()), "{again:?}");
    let json = run(&[&args[..], &["--json"]].concat()).expect(7).json();
    assert_eq!(json["duplicate"], true);
    assert_eq!(json["message"], first.out.trim());
    let other = run(&["send", &place.name("jobs"), "b", "--key", "18", "--json"]).expect(0);
    assert_eq!(other.json()["duplicate"], false);
    assert_eq!(place.look("jobs").unwrap().stats().ready, 2);
}

#[test]
fn an_empty_key_is_refused_by_the_command_and_by_the_library() {
    let place = Place::new("empty-key");
    let queue = place.make("jobs", &keyed());
    let ended = run(&[
        "send",
        &place.name("other"),
        "invoice",
        "--key",
        "",
        "--create",
    ])
    .expect(2);
    assert!(ended.error().contains("the key is empty"), "{ended:?}");
    assert!(place.look("other").is_none());
    let options = SendOptions::new().key("");
    let refused = queue
        .sender()
        .send_with(b"invoice", &options.clone().wait(Wait::No));
    assert_eq!(refused.unwrap_err().failure(), Some(&SendFailure::EmptyKey));
    assert_eq!(place.look("jobs").unwrap().stats().sent, 0);
}

#[test]
fn text_for_a_rust_type_is_encoded_or_refused() {
    let place = Place::new("typed");
    let strings: Queue<String> = QueueOptions::new()
        .open(format!("shm:{}", place.name("jobs")))
        .unwrap();
    run(&["send", &place.name("jobs"), "resize a.png"]).expect(0);
    let receiver = strings.receiver();
    let delivery = receiver.try_recv().unwrap();
    assert_eq!(delivery.data(), "resize a.png");
    delivery.ack().unwrap();
    strings.sender().send("resize b.png".to_owned()).unwrap();
    assert_eq!(
        run(&["recv", &place.name("jobs")]).expect(0).out,
        "resize b.png\n"
    );
    place.make("numbers", &QueueOptions::new().type_name("u64"));
    let ended = run(&["send", &place.name("numbers"), "17"]).expect(5);
    assert!(ended.error().contains("carries u64"), "{ended:?}");
    assert_eq!(place.look("numbers").unwrap().stats().sent, 0);
    run(&["send", &place.name("numbers"), "17", "--raw"]).expect(0);
}

#[test]
fn a_bridge_creates_a_queue_that_programs_of_the_same_type_open() {
    let place = Place::new("bridged");
    let options = QueueOptions::new()
        .capacity(7)
        .lease(Duration::from_secs(9));
    let from: Queue<(u32, String)> = options.open(format!("shm:{}", place.name("jobs"))).unwrap();
    from.sender().send((1, "one".to_owned())).unwrap();
    run(&[
        "bridge",
        &place.name("jobs"),
        &place.name("other"),
        "--create",
        "--close",
    ])
    .expect(0);
    let to: Queue<(u32, String)> = options
        .open(format!("shm:{}", place.name("other")))
        .unwrap();
    let receiver = to.receiver();
    let delivery = receiver.try_recv().unwrap();
    assert_eq!(delivery.data(), &(1, "one".to_owned()));
    delivery.ack().unwrap();
}

#[test]
fn a_bridge_between_types_is_refused_unless_it_is_meant() {
    let place = Place::new("types");
    let (jobs, other) = (place.name("jobs"), place.name("other"));
    let from = place.make("jobs", &QueueOptions::new().type_name("Resize"));
    from.sender().send(b"one").unwrap();
    place.make("other", &QueueOptions::new().type_name("Transfer"));
    let ended = run(&["bridge", &jobs, &other, "--close"]).expect(5);
    assert!(
        ended.error().contains("Resize") && ended.error().contains("Transfer"),
        "{ended:?}"
    );
    assert!(!from.transport().stats().unwrap().closed);
    run(&["bridge", &jobs, &other, "--close", "--any-type"]).expect(0);
    assert_eq!(place.look("other").unwrap().stats().ready, 1);
}

#[test]
fn a_login_in_an_address_is_never_printed() {
    // Nothing listens at this port.
    let at = "nats://me:secret@127.0.0.1:1/jobs";
    for args in [
        &["stat", at][..],
        &["rm", at, "--force"],
        &["send", at, "one", "--json"],
    ] {
        let ended = run(&[args, &["--answer-timeout", "100ms"]].concat());
        assert!(
            ended.code != 0 && ended.error().contains("127.0.0.1"),
            "{ended:?}"
        );
        assert!(
            !ended.err.contains("secret") && !ended.out.contains("secret"),
            "{ended:?}"
        );
    }
}

#[test]
fn ids_are_strings_for_programs_that_round_numbers() {
    let place = Place::new("ids");
    place.make("jobs", &QueueOptions::new());
    let stat = run(&["stat", &place.name("jobs"), "--json"])
        .expect(0)
        .json();
    let listed = run(&["ls", &place.0, "--json"]).expect(0).json();
    let id = place.look("jobs").unwrap().id().to_string();
    assert_eq!(
        (&stat["id"], &listed[0]["id"]),
        (&id.clone().into(), &id.into())
    );
}
