//! `ipc save`, `restore` and `move`, really killed at random moments; and the commands of
//! docs/reboot.md.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ipc_queue::shm::Inspector;
use ipc_queue::transport::Wait;
use ipc_queue::{ByteQueue, Key, Nack, Name, Priority, QueueOptions, SendFailure, SendOptions};
use ipc_shm::Namespace;
use tempfile::TempDir;

const MESSAGES: u64 = 120;
const KILLS: u32 = 200;
const HOUR: Duration = Duration::from_secs(3600);

/// Two queues and a file that belong to the test.
struct Places {
    folder: TempDir,
    namespace: String,
}

impl Places {
    fn new(test: &str) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            namespace: format!("cli-{}-{test}", std::process::id()),
        }
    }

    fn queue(&self, name: &str) -> String {
        format!("shm:{}/{name}", self.namespace)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("saved")
    }

    /// Returns the content of a queue: the number, state, attempts and priority of each message.
    fn contents(&self, name: &str) -> BTreeMap<u64, (String, u8, Priority)> {
        let namespace = Namespace::new(&self.namespace).unwrap();
        let inspector = Inspector::open(&namespace, &Name::new(name).unwrap()).unwrap();
        let mut contents = BTreeMap::new();
        let waiting = inspector.waiting(usize::MAX).into_iter();
        let waiting = waiting.map(|found| {
            let state = if found.delayed { "delayed" } else { "ready" };
            let (attempts, priority) = (found.attempts, found.priority);
            (found.payload, (state.to_owned(), attempts, priority))
        });
        let dead = inspector.dead_letters().into_iter().map(|letter| {
            let state = (
                format!("dead: {}", letter.error),
                letter.attempts,
                Priority::Normal,
            );
            (letter.payload, state)
        });
        for (payload, state) in waiting.chain(dead) {
            let number = u64::from_le_bytes(*payload.first_chunk().unwrap());
            assert!(
                contents.insert(number, state).is_none(),
                "{number} is there twice"
            );
        }
        contents
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        for name in ["a", "b"] {
            let _ = ipc_queue::remove(self.queue(name));
        }
    }
}

/// Fills a queue with messages in each state that a message can have while no receiver holds it.
fn fill(queue: &ByteQueue) {
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let send = |number: u64| {
        let mut payload = vec![7; if number.is_multiple_of(5) { 3000 } else { 20 }];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        let mut options = SendOptions::new().key(number.to_string());
        match number % 6 {
            1 => options = options.priority(Priority::High),
            2 => options = options.delay(HOUR),
            3 => options = options.header("trace", b"x").unwrap().expires_in(HOUR),
            _ => {}
        }
        sender
            .send_with(&payload, &options.clone().wait(Wait::No))
            .unwrap();
    };
    let of_kind = |kind| (0..MESSAGES).filter(move |number| number % 6 == kind);
    for number in of_kind(5) {
        send(number);
        receiver.recv().unwrap().bury_with("no use").unwrap();
    }
    of_kind(4).for_each(send);
    let tried = receiver.recv_batch(MESSAGES as usize, Wait::No).unwrap();
    for delivery in tried {
        let nack = Nack::new().after(Duration::ZERO);
        delivery.nack_with(nack.reason("busy")).unwrap();
    }
    (0..4).flat_map(of_kind).for_each(send);
}

/// A repeated step: it moves everything to another place.
struct Step {
    args: Vec<String>,
    /// The queue that has everything afterwards; `None`: the file has it.
    lands_in: Option<&'static str>,
}

fn ipc(args: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipc"));
    command.args(args);
    command
}

#[test]
fn save_restore_and_move_killed_at_any_time_keep_every_message_once() {
    let places = Places::new("kills");
    let options = QueueOptions::new()
        .capacity(MESSAGES as u32)
        .priorities(true);
    let options = options.dedup_window(HOUR).dedup_keys(256);
    let queue = options.open_bytes(places.queue("a")).unwrap();
    fill(&queue);
    drop(queue);
    let before = places.contents("a");
    assert_eq!(before.len() as u64, MESSAGES);
    let step = |args: &[&str], lands_in| Step {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        lands_in,
    };
    let (a, b, file) = (places.queue("a"), places.queue("b"), places.file());
    let file = file.to_str().unwrap();
    let cycle = [
        step(&["save", &a, file], None),
        step(&["restore", file, &a], Some("a")),
        step(&["move", &a, &b], Some("b")),
        step(&["move", &b, &a], Some("a")),
    ];
    let mut random = fastrand::Rng::with_seed(17);
    // Measured again after each step, so that kills hit on any machine, however busy.
    let mut lasts = [Duration::from_millis(20); 4];
    let (mut kills, mut completed) = (0, 0);
    while kills < KILLS {
        for (step, lasts) in cycle.iter().zip(&mut lasts) {
            let mut child = ipc(&step.args).stdout(Stdio::null()).spawn().unwrap();
            let moment = Instant::now() + lasts.mul_f64(random.f64() * 1.1);
            while Instant::now() < moment {
                thread::yield_now();
            }
            child.kill().unwrap();
            let was_killed = child.wait().unwrap().signal() == Some(9);
            kills += u32::from(was_killed);
            completed += u32::from(!was_killed);
            let started = Instant::now();
            let again = ipc(&step.args).output().unwrap();
            let code = again.status.code();
            // The first run may have finished; then its source is gone.
            assert!(matches!(code, Some(0 | 3)), "{:?}: {again:?}", step.args);
            if code == Some(0) && was_killed {
                *lasts = (*lasts * 3 + started.elapsed()) / 4;
            }
            match step.lands_in {
                None => assert!(places.file().exists()),
                Some(name) => {
                    assert_eq!(places.contents(name), before, "after {:?}", step.args);
                    assert!(!places.file().exists());
                }
            }
        }
    }
    println!("{kills} were killed, {completed} came to their end before");
    keys_are_remembered(&places);
}

/// Asserts that the queue can be used, and refuses messages with the keys of those in it.
fn keys_are_remembered(places: &Places) {
    let queue = ByteQueue::open(places.queue("a")).unwrap();
    let stats = queue.transport().stats().unwrap();
    assert_eq!(
        (stats.keys, stats.in_use(), stats.paused),
        (MESSAGES, MESSAGES, false)
    );
    for number in [0, MESSAGES - 1] {
        let keyed = SendOptions::new().key(number.to_string());
        let again = queue
            .sender()
            .loan_with(1, &keyed.clone().wait(Wait::No))
            .map(drop);
        let failure = again.as_ref().err().and_then(|error| error.failure());
        let is_known = matches!(failure, Some(SendFailure::Duplicate { .. }));
        assert!(is_known, "{number}: {again:?}");
    }
    assert!(queue.transport().forget(Key::of("0")).unwrap());
}

/// Returns the code blocks of the guide, with their languages.
fn blocks(guide: &str) -> Vec<(&str, &str)> {
    let parts = guide.split("\n```");
    let blocks = parts.skip(1).step_by(2);
    blocks
        .map(|block| block.split_once('\n').expect("a block has lines"))
        .collect()
}

fn run_as_said(line: &str, folder: &Path, shm: &Path) -> Output {
    let command = Path::new(env!("CARGO_BIN_EXE_ipc"));
    let path = format!(
        "{}:{}",
        command.parent().unwrap().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let line = line.replace("/var/lib/jobs", folder.to_str().unwrap());
    let line = line.replace("/usr/bin/ipc", "ipc");
    Command::new("sh")
        .args(["-euc", &line])
        .env("PATH", path)
        .env("IPC_SHM_DIR", shm)
        .current_dir(folder)
        .output()
        .unwrap()
}

#[test]
fn the_commands_of_the_reboot_guide_work() {
    let folder = tempfile::tempdir().unwrap();
    let shm = tempfile::tempdir_in("/dev/shm").unwrap();
    let shm = shm.path().join("ipc");
    let guide = include_str!("../../docs/reboot.md");
    let (mut units, mut scripts) = (Vec::new(), 0);
    for (language, text) in blocks(guide) {
        match language {
            "ini" => units.extend(text.lines().filter_map(|line| {
                let (key, command) = line.split_once('=')?;
                matches!(key, "ExecStartPre" | "ExecStart" | "ExecStop").then_some((key, command))
            })),
            "sh" => {
                let done = run_as_said(text, folder.path(), &shm);
                assert!(done.status.success(), "{text}\n{done:?}");
                scripts += 1;
            }
            "console" | "text" => {}
            other => panic!("what is a block of {other:?}?"),
        }
    }
    assert!(scripts >= 3, "{scripts}");
    // The unit's commands across a reboot: on a machine with the queue, and on one without it.
    let unit = |wanted: &str| {
        for (key, command) in units.iter().filter(|(key, _)| *key == wanted) {
            if command.contains("/usr/bin/ipc") {
                let done = run_as_said(command, folder.path(), &shm);
                assert!(done.status.success(), "{key}={command}\n{done:?}");
            }
        }
    };
    let ready = || {
        let stat = run_as_said("ipc stat jobs --json", folder.path(), &shm);
        let stat: serde_json::Value = serde_json::from_slice(&stat.stdout).unwrap();
        stat["stats"]["ready"]
            .as_u64()
            .or(stat["ready"].as_u64())
            .unwrap()
    };
    let before = ready();
    assert!(before > 0);
    for _ in 0..2 {
        unit("ExecStop");
        // The folder may have been removed with its last queue.
        let _ = std::fs::remove_dir_all(&shm);
        unit("ExecStartPre");
        unit("ExecStart");
        assert_eq!(ready(), before);
    }
    assert!(units.iter().any(|(key, _)| *key == "ExecStop"));
}
