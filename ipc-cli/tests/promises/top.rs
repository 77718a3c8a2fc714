//! `top` in a terminal of 80 columns and 24 lines: what it shows, and what the keys do.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use ipc_queue::QueueOptions;

use crate::doctor::Folder;
use crate::place::{PATIENCE, Place, run, say_skipped, wait_until};

/// A terminal in which `ipc top` runs.
struct Screen {
    socket: String,
}

impl Screen {
    /// Returns `None`, with a note, if tmux is missing.
    fn start(place: &Place, test: &str) -> Option<Self> {
        let screen = Self {
            socket: format!("ipc-{}-{test}", std::process::id()),
        };
        if Command::new("tmux").arg("-V").output().is_err() {
            say_skipped("top in a terminal", "tmux is not installed");
            return None;
        }
        let command = format!(
            "exec {} top {} --every 50ms",
            env!("CARGO_BIN_EXE_ipc"),
            place.0
        );
        screen.tmux(&["new-session", "-d", "-x", "80", "-y", "24", &command]);
        Some(screen)
    }

    fn tmux(&self, args: &[&str]) -> Output {
        let mut tmux = Command::new("tmux");
        tmux.args(["-L", &self.socket, "-f", "/dev/null"])
            .args(args);
        tmux.env("TERM", "xterm-256color").output().unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.tmux(&["capture-pane", "-p"]).stdout).into_owned()
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    #[track_caller]
    fn wait_for(&self, words: &[&str]) {
        let (started, mut text) = (Instant::now(), self.text());
        while let Some(missing) = words.iter().find(|word| !text.contains(*word)) {
            assert!(started.elapsed() < PATIENCE, "no {missing:?} in\n{text}");
            text = self.text();
        }
    }

    fn has_ended(&self) -> bool {
        !self.tmux(&["has-session"]).status.success()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn a_terminal_of_80_columns_shows_depth_held_dead_age_rates_and_state() {
    let place = Place::new("top-80");
    let queue = place.make(
        "a-queue-with-a-rather-long-name-v2",
        &QueueOptions::new().capacity(4),
    );
    for payload in [b"one", b"two"] {
        queue.sender().send(payload).unwrap();
    }
    let receiver = queue.receiver();
    receiver.recv().unwrap().bury().unwrap();
    let held = receiver.recv().unwrap();
    queue.sender().send(b"three").unwrap();
    queue.sender().send(b"four").unwrap();
    let Some(screen) = Screen::start(&place, "80") else {
        return;
    };
    screen.wait_for(&[
        "QUEUE",
        "DEPTH",
        "█████",
        "READY",
        "HELD",
        "DEAD",
        "SENT",
        "ACKED",
        "OLDEST",
        "EMPTY",
        "STATE",
        "open",
        "…",
        "me-v2",
        "alive",
    ]);
    let text = screen.text();
    let row = text.lines().find(|line| line.contains("me-v2")).unwrap();
    let numbers: Vec<_> = row
        .split_whitespace()
        .filter_map(|word| word.parse::<u64>().ok())
        .collect();
    assert_eq!(numbers, [2, 1, 1], "{text}");
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    held.ack().unwrap();
    screen.press("q");
    wait_until("it has ended", || screen.has_ended());
}

#[test]
fn keys_sort_filter_show_one_queue_and_act_once_confirmed() {
    let place = Place::new("top-keys");
    let few = place.make("a-few", &QueueOptions::new());
    let many = place.make("b-many", &QueueOptions::new());
    few.sender().send(b"one").unwrap();
    for _ in 0..3 {
        many.sender().send(b"one").unwrap();
    }
    many.receiver().recv().unwrap().bury().unwrap();
    let Some(screen) = Screen::start(&place, "keys") else {
        return;
    };
    let order = |first: &str, second: &str| {
        let text = screen.text();
        let at = |name: &str| text.find(name);
        matches!((at(first), at(second)), (Some(one), Some(two)) if one < two)
    };
    wait_until("by name", || order("a-few", "b-many"));
    screen.press("s");
    wait_until("by what is ready", || order("b-many", "a-few"));
    screen.press("/");
    for key in ["m", "a", "n", "y", "Enter"] {
        screen.press(key);
    }
    wait_until("filtered", || {
        let text = screen.text();
        text.contains("b-many") && !text.contains("a-few")
    });
    screen.press("Enter");
    screen.wait_for(&["attempt-limit", "payload pool", "r requeue dead letters"]);
    // Nothing happens before it is confirmed.
    screen.press("p");
    screen.wait_for(&["pause", "b-many? y/n"]);
    screen.press("n");
    screen.wait_for(&["p pause/resume"]);
    assert!(!many.transport().stats().unwrap().paused);
    for (key, said, state) in [
        ("p", "is paused", "paused"),
        ("p", "delivers", "open"),
        ("r", "1 requeued", "open"),
        ("d", "is closed; ipc reopen", "closed"),
    ] {
        screen.press(key);
        screen.wait_for(&["y/n"]);
        screen.press("y");
        screen.wait_for(&[said]);
        wait_until("the next look", || {
            let text = screen.text();
            let title = text.lines().next().unwrap_or_default();
            title.contains("b-many") && title.trim_end().ends_with(state)
        });
    }
    let stats = many.transport().stats().unwrap();
    assert_eq!(
        (stats.ready, stats.dead, stats.paused, stats.closed),
        (3, 0, false, true)
    );
    assert!(!few.transport().stats().unwrap().closed);
    run(&["reopen", &place.name("b-many")]).expect(0);
    assert!(!many.transport().stats().unwrap().closed);
    screen.press("Escape");
    screen.wait_for(&["QUEUE"]);
    run(&["rm", "--force", &place.name("b-many")]).expect(0);
}

#[test]
fn a_queue_alone_shows_its_pool_holders_and_dead_letters_with_the_error_of_the_command() {
    let place = Place::new("top-alone");
    let options = QueueOptions::new()
        .capacity(8)
        .max_message_bytes(4096)
        .pool_bytes(16384);
    let queue = place.make("jobs", &options);
    queue.sender().send(b"clip-7.mov").unwrap();
    let fail = "echo decode: bad header at byte 3 >&2; exit 65";
    let work = [
        "work",
        &place.name("jobs"),
        "--count",
        "1",
        "--",
        "sh",
        "-c",
        fail,
    ];
    run(&work).expect(0);
    queue.sender().send(&[b'x'; 4096]).unwrap();
    let receiver = queue.receiver();
    let held = receiver.recv().unwrap();
    let Some(screen) = Screen::start(&place, "alone") else {
        return;
    };
    screen.wait_for(&["jobs"]);
    screen.press("Enter");
    let pid = std::process::id().to_string();
    screen.wait_for(&[
        " 2 of 8 places",
        "0/s sent, 0/s acked",
        "0 ready, 1 held, 1 dead letters",
        "of 16.0 KiB used; a payload of up to 4.0 KiB",
        "processes",
        "DEAD LETTER",
        "exit code 65: decode: bad header at byte 3",
        "HELD IN",
        &held.id().to_string(),
        &pid,
        "alive",
        "r requeue dead letters",
    ]);
    screen.press("r");
    screen.wait_for(&["requeue all dead letters"]);
    screen.press("y");
    screen.wait_for(&["1 requeued", "1 ready, 1 held"]);
    wait_until("the letter is not shown any more", || {
        !screen.text().contains("DEAD LETTER")
    });
    held.ack().unwrap();
}

#[test]
fn queues_that_cannot_be_read_are_counted_and_doctor_names_them() {
    let folder = Folder::new();
    folder.run(&["create", "jobs"]).expect(0);
    fs::write(folder.file("bad"), "").unwrap();
    let shown = folder
        .run(&["top", "--once", "--every", "1ms"])
        .expect(0)
        .out;
    assert!(
        shown.contains("1 queue,") && shown.contains("1 can't be read (ipc doctor)"),
        "{shown}"
    );
    let doctor = folder.run(&["doctor"]);
    let told = "ipc rm --force bad";
    assert!(doctor.out.contains(told), "{doctor:?}");
    folder.run(&["rm", "--force", "bad"]).expect(0);
    let shown = folder.run(&["top", "--once", "--every", "1ms"]).expect(0);
    assert!(!shown.out.contains("can't be read"), "{shown:?}");
}

#[test]
fn a_closed_terminal_ends_top() {
    let place = Place::new("top-closed");
    let queue = place.make("jobs", &QueueOptions::new());
    let Some(screen) = Screen::start(&place, "closed") else {
        return;
    };
    screen.wait_for(&["QUEUE"]);
    let pid = screen
        .tmux(&["display-message", "-p", "#{pane_pid}"])
        .stdout;
    let stat = format!("/proc/{}/stat", String::from_utf8(pid).unwrap().trim());
    assert!(Path::new(&stat).exists());
    drop(screen);
    wait_until("it has ended", || !Path::new(&stat).exists());
    drop(queue);
}
