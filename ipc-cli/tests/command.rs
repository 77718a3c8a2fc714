//! The `ipc` command, run as users run it.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use ipc_queue::{ByteQueue, Encoding, Queue, QueueOptions};
use serde_json::Value;

/// A namespace that belongs to the test and is removed at its end.
struct Place(String);

impl Place {
    fn new(test: &str) -> Self {
        Self(format!("cli-{}-{test}", std::process::id()))
    }

    fn queue(&self) -> String {
        format!("{}/jobs", self.0)
    }

    fn make(&self) -> ByteQueue {
        let options = QueueOptions::new().capacity(8).attempt_limit(1);
        options.open_bytes(format!("shm:{}", self.queue())).unwrap()
    }

    fn run(&self, args: &[&str]) -> Output {
        self.run_with(args, "")
    }

    fn run_with(&self, args: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ipc"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn text(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = ipc_queue::remove(format!("shm:{}", self.queue()));
    }
}

#[test]
fn a_sent_message_is_received_and_then_gone() {
    let place = Place::new("sent");
    let queue = place.queue();
    let sent = place.run(&["send", &queue, "one", "--create"]);
    assert_eq!(sent.status.code(), Some(0), "{sent:?}");
    let lines = place.run_with(&["send", &queue, "--lines"], "two\nthree\n");
    assert_eq!(lines.status.code(), Some(0), "{lines:?}");
    assert_eq!(place.text(&["recv", &queue, "--count", "2"]), "one\ntwo\n");
    let third = place.json(&["recv", &queue]);
    assert_eq!(third["payload"]["text"], "three");
    let none = place.run(&["recv", &queue, "--timeout", "0s"]);
    assert_eq!(none.status.code(), Some(3), "{none:?}");
    let stat = place.json(&["stat", &queue]);
    assert_eq!(
        (&stat["stats"]["acked"], &stat["stats"]["ready"]),
        (&3.into(), &0.into())
    );
}

#[test]
fn a_key_is_sent_once() {
    let place = Place::new("key");
    let queue = place.queue();
    let first = place.text(&["send", &queue, "a", "--key", "17", "--create"]);
    let again = place.run(&["send", &queue, "a", "--key", "17"]);
    assert_eq!(again.status.code(), Some(7), "{again:?}");
    assert_eq!(String::from_utf8(again.stdout).unwrap(), first);
    assert_eq!(place.json(&["stat", &queue])["stats"]["sent"], 1);
}

#[test]
fn inspecting_commands_change_no_byte() {
    let place = Place::new("look");
    let queue = place.make();
    let sender = queue.sender();
    for payload in [&b"held"[..], b"waits"] {
        sender.send(payload).unwrap();
    }
    let receiver = queue.receiver();
    let held = receiver.recv().unwrap();
    let name = place.queue();
    let file = PathBuf::from(place.json(&["stat", &name])["file"].as_str().unwrap());
    let before = fs::read(&file).unwrap();
    let looks: [&[&str]; 8] = [
        &["ls", &place.0],
        &["stat", &name],
        &["stat", &name, "--prometheus"],
        &["peek", &name],
        &["top", &place.0, "--once", "--every", "1ms"],
        &["nodes", &place.0],
        &["dlq", "ls", &name],
        &["doctor"],
    ];
    for look in looks {
        let output = place.run(look);
        // Findings of the doctor in other namespaces do not concern this test.
        assert!(
            output.stderr.is_empty() || look == ["doctor"],
            "{look:?}: {output:?}"
        );
    }
    assert!(fs::read(&file).unwrap() == before, "something changed");
    let peeked = place.json(&["peek", &name]);
    assert_eq!(peeked[0]["payload"]["text"], "waits");
    let stat = place.json(&["stat", &name]);
    assert_eq!(stat["leases"][0]["pid"], std::process::id());
    held.ack().unwrap();
}

#[test]
fn figures_are_also_for_scrapers() {
    let place = Place::new("prometheus");
    place.make().sender().send(b"one").unwrap();
    let text = place.text(&["stat", &place.queue(), "--prometheus"]);
    let line = format!("ipc_queue_sent_total{{queue=\"{}\"}} 1", place.queue());
    assert!(text.lines().any(|found| found == line), "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let value = line.rsplit(' ').next().unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}

#[test]
fn a_paused_queue_delivers_nothing_until_resumed() {
    let place = Place::new("pause");
    place.make().sender().send(b"one").unwrap();
    let name = place.queue();
    place.text(&["pause", &name]);
    assert_eq!(place.json(&["ls", &place.0])[0]["stats"]["paused"], true);
    let none = place.run(&["recv", &name, "--timeout", "0s"]);
    assert_eq!(none.status.code(), Some(3), "{none:?}");
    place.text(&["resume", &name]);
    assert_eq!(place.text(&["recv", &name]), "one\n");
}

#[test]
fn dead_letters_are_listed_shown_sent_again_and_dropped() {
    let place = Place::new("dlq");
    let queue = place.make();
    for payload in [&b"one"[..], b"two"] {
        queue.sender().send(payload).unwrap();
    }
    let name = place.queue();
    // They have only one attempt.
    place.text(&["recv", &name, "--nack", "--count", "2"]);
    let letters = place.json(&["dlq", "ls", &name]);
    let letter = |index: usize| letters[index]["letter"].as_str().unwrap().to_owned();
    assert_eq!(letters[0]["reason"], "nacked");
    let shown = place.text(&["dlq", "show", &name, &letter(0)]);
    assert!(
        shown.contains("nacked too often") && shown.contains("one"),
        "{shown}"
    );
    place.text(&["dlq", "requeue", &name, &letter(0)]);
    assert_eq!(place.text(&["recv", &name]), "one\n");
    place.text(&["dlq", "drop", &name, "--all"]);
    assert_eq!(place.json(&["dlq", "ls", &name]), Value::Array(Vec::new()));
    let gone = place.run(&["dlq", "show", &name, &letter(1)]);
    assert_eq!(gone.status.code(), Some(3));
}

#[test]
fn headers_are_sent_and_shown_wherever_messages_are() {
    let place = Place::new("headers");
    place.make();
    let name = place.queue();
    let send = |header: &str| place.run(&["send", &name, "one", "--header", header]);
    let refused = [
        ("tenant", "NAME=VALUE"),
        ("Tenant=acme", "invalid header name"),
    ];
    for (header, advice) in refused {
        let output = send(header);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(advice), "{said}");
    }
    assert_eq!(place.json(&["stat", &name])["stats"]["sent"], 0);
    let output = place.run(&[
        "send",
        &name,
        "one",
        "--header",
        "tenant=acme",
        "--header",
        "trace=a=b",
    ]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let expected = serde_json::json!({ "tenant": "acme", "trace": "a=b" });
    assert_eq!(place.json(&["peek", &name])[0]["headers"], expected);
    let peeked = place.text(&["peek", &name]);
    assert!(peeked.contains("tenant=acme trace=a=b"), "{peeked}");
    // Its only attempt.
    assert_eq!(place.json(&["recv", &name, "--nack"])["headers"], expected);
    let letters = place.json(&["dlq", "ls", &name]);
    assert_eq!(letters[0]["headers"], expected);
    let letter = letters[0]["letter"].as_str().unwrap();
    let shown = place.text(&["dlq", "show", &name, letter]);
    for line in ["header        tenant=acme", "header        trace=a=b"] {
        assert!(shown.lines().any(|shown| shown == line), "{shown}");
    }
    place.text(&["dlq", "requeue", &name, letter]);
    assert_eq!(place.json(&["recv", &name])["headers"], expected);
    // A message without headers shows none, and needs no column for them.
    place.text(&["send", &name, "two"]);
    assert!(!place.text(&["peek", &name]).contains("headers"));
    assert_eq!(
        place.json(&["recv", &name])["headers"],
        serde_json::json!({})
    );
}

#[test]
fn a_nonempty_queue_is_removed_only_by_force() {
    let place = Place::new("rm");
    let queue = place.make();
    queue.sender().send(b"one").unwrap();
    let name = place.queue();
    let refused = place.run(&["rm", &name]);
    assert_eq!(refused.status.code(), Some(5));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        said.contains("holds 1 messages") && said.contains("--force"),
        "{said}"
    );
    place.text(&["rm", "--force", &name]);
    assert_eq!(place.json(&["ls", &place.0]), Value::Array(Vec::new()));
}

#[test]
fn purge_and_drain_empty_a_queue() {
    let place = Place::new("drain");
    place.make().sender().send(b"one").unwrap();
    let name = place.queue();
    assert_eq!(place.json(&["purge", &name])["purged"], 1);
    assert_eq!(
        place.json(&["drain", &name, "--timeout", "10s"])["drained"],
        true
    );
    let refused = place.run(&["send", &name, "late"]);
    assert_eq!(refused.status.code(), Some(5));
}

#[test]
fn mistakes_are_explained() {
    let place = Place::new("mistakes");
    for (args, code, words) in [
        (&["stat", "no/such"][..], 3, "there is no queue"),
        (&["stat", "local:jobs"], 5, "in one process only"),
        (&["stat", "No"], 2, "byte 0"),
        (&["dlq", "show", "jobs", "third"], 2, "ipc dlq ls"),
    ] {
        let output = place.run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(words), "{args:?}: {said}");
    }
    assert_eq!(place.run(&["flush"]).status.code(), Some(2));
}

#[test]
fn completions_and_help_exist() {
    let place = Place::new("help");
    assert!(place.text(&["completions", "bash"]).contains("_ipc"));
    let help = place.text(&["--help"]);
    for word in ["Examples:", "doctor", "top", "dlq", "--json"] {
        assert!(help.contains(word), "no {word} in\n{help}");
    }
}

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Job {
    file: String,
    width: u32,
}

#[test]
fn a_typed_queue_is_sent_to_as_json_and_shown_as_json() {
    for encoding in [Encoding::MessagePack, Encoding::Json] {
        let place = Place::new(encoding.as_str());
        let queue = place.queue();
        let options = QueueOptions::new().encoding(encoding).attempt_limit(1);
        let jobs: Queue<Job> = options.open(format!("shm:{queue}")).unwrap();
        let sent = place.run(&["send", &queue, r#"{"file": "a.png", "width": 640}"#]);
        assert_eq!(sent.status.code(), Some(0), "{sent:?}");
        let text = place.run(&["send", &queue, "resize a.png"]);
        assert_ne!(text.status.code(), Some(0), "{text:?}");
        let why = String::from_utf8(text.stderr).unwrap();
        assert!(why.contains(":Job, and this is not JSON"), "{why}");

        let peeked = place.json(&["peek", &queue]);
        assert_eq!(peeked[0]["payload"]["value"]["width"], 640);
        assert!(place.text(&["peek", &queue]).contains("a.png"));
        let receiver = jobs.receiver();
        let delivery = receiver.try_recv().unwrap();
        let (file, width) = ("a.png".to_owned(), 640);
        assert_eq!(delivery.data(), &Job { file, width });
        delivery.bury().unwrap();
        let letters = place.json(&["dlq", "ls", &queue]);
        assert_eq!(letters[0]["payload"]["value"]["file"], "a.png");
        let letter = letters[0]["letter"].as_str().unwrap();
        let shown = place.text(&["dlq", "show", &queue, letter]);
        assert!(shown.contains(r#""file":"a.png""#), "{shown}");
    }
}

#[test]
fn a_postcard_queue_is_shown_with_its_shape_and_not_sent_to() {
    let place = Place::new("postcard");
    let queue = place.queue();
    let options = QueueOptions::new().encoding(Encoding::Postcard);
    let jobs: Queue<Job> = options.open(format!("shm:{queue}")).unwrap();
    let (file, width) = ("a.png".to_owned(), 640);
    jobs.sender().send(Job { file, width }).unwrap();
    let sent = place.run(&["send", &queue, r#"{"file": "a.png", "width": 640}"#]);
    assert_ne!(sent.status.code(), Some(0), "{sent:?}");
    let why = String::from_utf8(sent.stderr).unwrap();
    assert!(why.contains("Encoding::MessagePack"), "{why}");
    let listed = place.text(&["ls", &place.0]);
    assert!(
        listed.contains("postcard:Job#") && !listed.contains("width"),
        "{listed}"
    );
    let receiver = jobs.receiver();
    receiver.try_recv().unwrap().bury().unwrap();
    let letters = place.json(&["dlq", "ls", &queue]);
    let letter = letters[0]["letter"].as_str().unwrap();
    let shown = place.text(&["dlq", "show", &queue, letter]);
    assert!(shown.contains("0105612e706e678005"), "{shown}");
    assert!(shown.contains("{file: str, width: u32}"), "{shown}");
}

#[test]
fn a_queue_of_texts_takes_and_shows_them_unchanged() {
    for encoding in [Encoding::MessagePack, Encoding::Json, Encoding::Postcard] {
        let place = Place::new(&format!("text-{encoding}"));
        let queue = place.queue();
        let options = QueueOptions::new().encoding(encoding);
        let texts: Queue<String> = options.open(format!("shm:{queue}")).unwrap();
        assert!(
            place
                .run(&["send", &queue, "resize a.png"])
                .status
                .success()
        );
        assert_eq!(
            place.json(&["peek", &queue])[0]["payload"]["text"],
            "resize a.png"
        );
        let receiver = texts.receiver();
        let delivery = receiver.try_recv().unwrap();
        assert_eq!(delivery.data(), "resize a.png");
        delivery.nack_after(std::time::Duration::ZERO).unwrap();
        assert_eq!(place.text(&["recv", &queue]), "resize a.png\n");
    }
}
