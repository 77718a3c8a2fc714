//! A release while everything runs: processes of the old and of the new version share a queue.

use std::collections::BTreeMap;
use std::process::{Child, Command, Output, Stdio};

use ipc_queue::{Encoding, Queue, QueueError, QueueOptions};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Place;

/// The environment variable with the role of a process of this binary: `VERSION send|work ADDRESS`.
pub const ROLE: &str = "IPC_ENCODINGS_ROLE";
const JOBS: u32 = 300;

/// A job of one release.
trait Job: Serialize + DeserializeOwned {
    fn number(n: u32) -> Self;
    /// Returns the number, after checking that all fields agree.
    fn check(&self) -> u32;
}

/// The first release.
#[derive(Serialize, Deserialize)]
struct First {
    n: u32,
    file: String,
}

/// Adds a field, and no longer needs another.
#[derive(Serialize, Deserialize)]
struct Second {
    width: Option<u32>,
    n: u32,
    #[serde(default)]
    file: String,
}

/// Has removed that other field.
#[derive(Serialize, Deserialize)]
struct Third {
    width: Option<u32>,
    n: u32,
}

fn file(n: u32) -> String {
    format!("file-{n}")
}

impl Job for First {
    fn number(n: u32) -> Self {
        Self { n, file: file(n) }
    }

    fn check(&self) -> u32 {
        assert_eq!(self.file, file(self.n));
        self.n
    }
}

impl Job for Second {
    fn number(n: u32) -> Self {
        let (width, file) = (Some(n), file(n));
        Self { width, n, file }
    }

    fn check(&self) -> u32 {
        assert!(self.width.is_none_or(|width| width == self.n));
        assert!(self.file.is_empty() || self.file == file(self.n));
        assert!(self.width.is_some() || !self.file.is_empty());
        self.n
    }
}

impl Job for Third {
    fn number(n: u32) -> Self {
        Self { width: Some(n), n }
    }

    fn check(&self) -> u32 {
        assert!(self.width.is_none_or(|width| width == self.n));
        self.n
    }
}

/// Plays the role of a process of this binary.
pub fn play(role: &str) {
    let words: Vec<&str> = role.split(' ').collect();
    match words[..] {
        ["first", what, address] => play_as::<First>(what, address),
        ["second", what, address] => play_as::<Second>(what, address),
        ["third", what, address] => play_as::<Third>(what, address),
        _ => panic!("no role is called {role:?}"),
    }
}

fn play_as<J: Job>(what: &str, address: &str) {
    let queue: Queue<J> = QueueOptions::new().type_name("Job").open(address).unwrap();
    if what == "send" {
        let sender = queue.sender();
        for n in 0..JOBS {
            sender.send(J::number(n)).unwrap();
        }
        return;
    }
    let receiver = queue.receiver();
    loop {
        match receiver.recv() {
            Ok(job) => {
                println!("\njob {}", job.data().check());
                job.ack().unwrap();
            }
            Err(error) if error.is_closed() => return,
            Err(error) => panic!("{error}"),
        }
    }
}

fn start(version: &str, what: &str, address: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["role", "--exact", "--nocapture"])
        .env(ROLE, format!("{version} {what} {address}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn end(child: Child) -> Output {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

/// Senders and workers of both versions share a queue. Every job is done once, whichever version
/// sent it.
fn side_by_side(old: &str, new: &str, encoding: Encoding) {
    let place = Place::new("shm");
    let options = QueueOptions::new().encoding(encoding).type_name("Job");
    let queue: Queue<First> = options.open(&place.address).unwrap();
    let each = |what| [old, new].map(|version| start(version, what, &place.address));
    let (workers, senders) = (each("work"), each("send"));
    for sender in senders {
        end(sender);
    }
    queue.close().unwrap();
    let mut done = BTreeMap::<u32, u32>::new();
    for output in workers.map(end) {
        let text = String::from_utf8(output.stdout).unwrap();
        for number in text.lines().filter_map(|line| line.strip_prefix("job ")) {
            *done.entry(number.parse().unwrap()).or_default() += 1;
        }
    }
    assert_eq!(done, (0..JOBS).map(|n| (n, 2)).collect());
    let stats = queue.transport().stats().unwrap();
    assert_eq!((stats.acked, stats.dead), (u64::from(2 * JOBS), 0));
}

#[test]
fn a_field_is_added_and_removed_while_old_and_new_programs_share_the_queue() {
    for encoding in [Encoding::MessagePack, Encoding::Json] {
        side_by_side("first", "second", encoding);
        side_by_side("second", "third", encoding);
    }
}

#[test]
fn a_new_program_with_a_moved_field_is_refused_by_the_old_ones_postcard_queue() {
    let place = Place::new("shm");
    let options = QueueOptions::new()
        .encoding(Encoding::Postcard)
        .type_name("Job");
    drop(options.open::<Second>(&place.address).unwrap());
    // Sent by an old process, which has ended.
    end(start("second", "send", &place.address));

    let named = QueueOptions::new().type_name("Job");
    let error = named.open::<Third>(&place.address).unwrap_err();
    assert!(matches!(error, QueueError::ShapeDiffers { .. }), "{error}");
    assert!(error.to_string().contains("-   file: str"), "{error}");
    let error = named.open::<First>(&place.address).unwrap_err();
    assert!(
        error.to_string().contains("-   width: option<u32>"),
        "{error}"
    );
    // The contents of the queue are unchanged.
    let queue = named.open::<Second>(&place.address).unwrap();
    assert_eq!(queue.transport().stats().unwrap().ready, u64::from(JOBS));
}
