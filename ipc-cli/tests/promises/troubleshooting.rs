//! Each entry of `docs/operations/troubleshooting.md`: its problem is caused, the command that
//! shows it is run on a terminal of 80 columns and 24 lines, and the command that fixes it helps.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::doctor::Folder;
use crate::place::{Ended, Running, ipc, program, say_skipped, wait_until};

/// One entry of the guide.
#[derive(Clone, Debug, Default)]
struct Entry {
    title: String,
    /// The command that shows the problem.
    see: String,
    /// Lines that it prints.
    shown: Vec<String>,
    fix: String,
}

fn guide() -> Vec<Entry> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations/troubleshooting.md");
    let text = fs::read_to_string(path).unwrap();
    let (mut entries, mut block): (Vec<Entry>, _) = (Vec::new(), None);
    for line in text.lines() {
        if let Some(language) = line.strip_prefix("```") {
            block = (!language.is_empty()).then(|| language.to_owned());
        } else if let Some(title) = line.strip_prefix("## ") {
            let title = title.split_once(". ").unwrap().1.to_owned();
            entries.push(Entry {
                title,
                ..Entry::default()
            });
        } else if let Some(language) = &block {
            let entry = entries.last_mut().unwrap();
            match (&language[..], line.strip_prefix("$ ")) {
                ("console", Some(command)) => command.clone_into(&mut entry.see),
                ("console", None) => entry.shown.push(line.to_owned()),
                ("sh", _) => entry.fix = format!("{}{line}\n", entry.fix),
                _ => panic!("{}: a block of {language}", entry.title),
            }
        }
    }
    entries
}

/// An entry that is tried out in a folder of its own.
struct Trial {
    entry: Entry,
    folder: Folder,
    /// Words of the guide, and what they stand for here.
    words: Vec<(&'static str, String)>,
    processes: Vec<Running>,
}

impl Trial {
    fn of(title: &str) -> Self {
        let entry = guide().into_iter().find(|entry| entry.title == title);
        let folder = Folder::new();
        let words = vec![("FOLDER", folder.0.path().display().to_string())];
        Self {
            entry: entry.unwrap_or_else(|| panic!("the guide has no entry {title:?}")),
            folder,
            words,
            processes: Vec::new(),
        }
    }

    fn ipc(&self, args: &[&str]) -> Command {
        let mut command = ipc(args);
        command.env("IPC_SHM_DIR", self.folder.0.path());
        command
    }

    #[track_caller]
    fn run(&self, args: &[&str], code: i32) -> Ended {
        Ended::of(&mut self.ipc(args)).expect(code)
    }

    /// Starts a process that ends with the test.
    fn start(&mut self, args: &[&str]) -> u32 {
        let running = Running::start(&mut self.ipc(args));
        let pid = running.0.id();
        self.processes.push(running);
        pid
    }

    fn stat(&self) -> Value {
        self.run(&["stat", "jobs", "--json"], 0).json()
    }

    /// A worker that holds a message, its process number and the message's id.
    fn start_worker(&mut self) -> u32 {
        self.run(&["send", "jobs", "resize a.png", "--create"], 0);
        let pid = self.start(&["work", "jobs", "--", "sleep", "1000"]);
        wait_until("it is held", || self.stat()["stats"]["leased"] == 1);
        let message = self.stat()["leases"][0]["message"].clone();
        self.words
            .push(("MESSAGE", message.as_str().unwrap().to_owned()));
        pid
    }

    fn with_words(&self, text: &str) -> String {
        let words = self.words.iter();
        words.fold(text.to_owned(), |text, (word, stands_for)| {
            text.replace(word, stands_for)
        })
    }

    /// Runs the command that shows the problem, and checks that its screen has the guide's lines.
    #[track_caller]
    fn see(&self) {
        let command = self.with_words(&self.entry.see);
        let Some(screen) = on_a_terminal(&command, Some(self.folder.0.path())) else {
            return;
        };
        let mut entry = self.entry.clone();
        for shown in &mut entry.shown {
            *shown = self.with_words(shown);
        }
        check_screen(&entry, &screen);
    }

    /// Runs the command that fixes the problem.
    #[track_caller]
    fn fix(&self) -> Ended {
        let mut shell = shell(&self.with_words(&self.entry.fix));
        shell.env("IPC_SHM_DIR", self.folder.0.path());
        Ended::of(&mut shell).expect(0)
    }
}

/// A shell that finds the command on its path, and runs a script.
fn shell(script: &str) -> Command {
    let folder = Path::new(env!("CARGO_BIN_EXE_ipc")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut shell = program("sh");
    shell.args(["-ec", script]);
    shell.env("PATH", format!("{}:{path}", folder.display()));
    shell
}

/// What a terminal of 80 columns and 24 lines shows after a command: its last lines, without that
/// of the next prompt. `None` where there is no program that makes terminals.
fn on_a_terminal(command: &str, folder: Option<&Path>) -> Option<Vec<String>> {
    if Command::new("script").arg("--version").output().is_err() {
        say_skipped("troubleshooting at 80x24", "there is no program `script`");
        return None;
    }
    let line = format!("stty cols 80 rows 24; {command}");
    let mut terminal = shell("exec script --quiet --return --command \"$LINE\" /dev/null");
    terminal
        .env("LINE", line)
        .env("NO_COLOR", "1")
        .env("TERM", "xterm-256color");
    if let Some(folder) = folder {
        terminal.env("IPC_SHM_DIR", folder);
    }
    let out = Ended::of(&mut terminal).out.replace('\r', "");
    let lines: Vec<_> = out.lines().map(|line| line.trim_end().to_owned()).collect();
    Some(lines[lines.len().saturating_sub(23)..].to_vec())
}

#[track_caller]
fn check_screen(entry: &Entry, screen: &[String]) {
    let whole = screen.join("\n");
    let title = &entry.title;
    assert!(
        screen
            .iter()
            .all(|line| line.chars().count() <= 80 || line.starts_with("error: ")),
        "{title}: wider than the terminal:\n{whole}"
    );
    assert!(
        !entry.shown.is_empty(),
        "{title}: the guide shows nothing of\n{whole}"
    );
    let mut rest = &words(&whole)[..];
    for shown in &entry.shown {
        rest = rest_after(rest, shown).unwrap_or_else(|| {
            panic!("{title}: no line {shown:?} in (or in this order)\n{whole}");
        });
    }
}

/// The words of a text, whatever is between them: where lines are wrapped depends on the length of
/// pids.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What follows in a text after a line that the guide shows, where `…` stands for anything.
fn rest_after<'a>(text: &'a str, shown: &str) -> Option<&'a str> {
    let shown = words(shown);
    shown.split('…').try_fold(text, |rest, piece| {
        let at = rest.find(piece)?;
        Some(&rest[at + piece.len()..])
    })
}

#[test]
fn shown_lines_are_compared_word_by_word() {
    let screen = words(" warn  jobs  it is closed\n             and worker (pid 12)\ndied ");
    let after = |shown| rest_after(&screen, shown);
    assert_eq!(
        after("warn jobs  it is"),
        Some(" closed and worker (pid 12) died")
    );
    assert_eq!(after("…(pid …) died"), Some(""));
    assert_eq!(after("(pid …) lives"), None);
    assert_eq!(after("it is closed died"), None);
}

#[test]
fn the_guide_has_at_least_ten_entries_and_each_is_tried() {
    let this = include_str!("troubleshooting.rs");
    let entries = guide();
    assert!(entries.len() >= 10);
    for entry in entries {
        assert!(
            this.contains(&format!("{:?}", entry.title)),
            "{entry:?} is not tried"
        );
        assert!(
            entry.see.starts_with("ipc ") && !entry.fix.is_empty(),
            "{entry:?}"
        );
    }
}

#[test]
fn a_full_queue_is_seen_and_enlarged() {
    let trial = Trial::of("The queue is full");
    trial.run(&["create", "jobs", "--capacity", "4"], 0);
    for number in ["1", "2", "3", "4"] {
        trial.run(&["send", "jobs", number], 0);
    }
    let refused = trial.run(&["send", "jobs", "5", "--timeout", "0s"], 4);
    assert!(
        refused
            .error()
            .contains("all 4 places of the queue are taken"),
        "{refused:?}"
    );
    trial.see();
    trial.fix();
    trial.run(&["send", "jobs", "5", "--timeout", "0s"], 0);
    assert_eq!(
        trial.run(&["recv", "jobs", "--count", "5"], 0).out,
        "1\n2\n3\n4\n5\n"
    );
}

#[test]
fn used_up_payload_memory_is_seen_and_enlarged() {
    let trial = Trial::of("The payload memory is used up");
    let settings = ["--max-message-bytes", "512KiB", "--pool-bytes", "1MiB"];
    trial.run(&[&["create", "jobs"], &settings[..]].concat(), 0);
    let large = "x".repeat(500_000);
    let send = || Ended::fed(&mut trial.ipc(&["send", "jobs", "--timeout", "0s"]), &large);
    let refused = loop {
        let ended = send();
        if ended.code != 0 {
            break ended.expect(4);
        }
    };
    assert!(refused.error().contains("places are free"), "{refused:?}");
    trial.see();
    trial.fix();
    send().expect(0);
}

#[test]
fn a_worker_that_hangs_is_seen_and_loses_its_message() {
    let mut trial = Trial::of("A worker hangs and holds a message");
    trial.start_worker();
    trial.see();
    trial.fix();
    let received = trial.run(&["recv", "jobs", "--timeout", "30s"], 0);
    assert_eq!(received.out, "resize a.png\n");
}

#[test]
fn a_stopped_worker_is_seen_and_loses_its_message() {
    let mut trial = Trial::of("A worker is stopped");
    let pid = trial.start_worker();
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGSTOP).unwrap();
    wait_until("it is stopped", || {
        trial.stat()["leases"][0]["health"] == "stopped"
    });
    trial.see();
    trial.fix();
    let received = trial.run(&["recv", "jobs", "--timeout", "30s"], 0);
    assert_eq!(received.out, "resize a.png\n");
}

#[test]
fn killed_processes_are_seen_and_what_they_held_is_freed() {
    let mut trial = Trial::of("Processes were killed");
    trial.start_worker();
    trial.processes.clear();
    wait_until("it is dead", || {
        trial.stat()["leases"][0]["health"] == "dead"
    });
    trial.see();
    trial.fix();
    let stats = &trial.stat()["stats"];
    assert_eq!(
        (&stats["leased"], &stats["crashes"]),
        (&0.into(), &1.into())
    );
    trial.run(&["recv", "jobs", "--timeout", "30s"], 0);
}

#[test]
fn dead_letters_are_seen_with_their_reason_and_delivered_again() {
    let trial = Trial::of("Messages end as dead letters");
    trial.run(&["send", "jobs", "resize a.png", "--create"], 0);
    let command = ["sh", "-c", "echo a.png: no such file >&2; exit 65"];
    trial.run(
        &[&["work", "jobs", "--count", "1", "--"], &command[..]].concat(),
        0,
    );
    trial.see();
    trial.fix();
    let received = trial.run(&["recv", "jobs", "--timeout", "30s"], 0);
    assert_eq!(received.out, "resize a.png\n");
}

#[test]
fn a_paused_queue_is_seen_and_resumed() {
    let trial = Trial::of("The queue is paused");
    trial.run(&["send", "jobs", "one", "--create"], 0);
    trial.run(&["pause", "jobs"], 0);
    trial.run(&["recv", "jobs", "--timeout", "0s"], 3);
    trial.see();
    trial.fix();
    trial.run(&["recv", "jobs", "--timeout", "0s"], 0);
}

#[test]
fn a_closed_queue_is_seen_and_opened_again() {
    let trial = Trial::of("The queue is closed");
    trial.run(&["create", "jobs"], 0);
    trial.run(&["drain", "jobs"], 0);
    trial.run(&["send", "jobs", "one"], 5);
    trial.see();
    trial.fix();
    trial.run(&["send", "jobs", "one"], 0);
}

#[test]
fn a_foreign_file_is_seen_and_removed() {
    let trial = Trial::of("Something else lies in the place of the queue");
    trial.run(&["create", "other"], 0);
    fs::write(trial.folder.file("jobs"), "dear diary").unwrap();
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(trial.folder.file("jobs"), mode).unwrap();
    trial.run(&["send", "jobs", "one"], 1);
    trial.see();
    trial.fix();
    trial.run(&["send", "jobs", "one"], 0);
}

#[test]
fn slots_that_are_all_taken_are_seen_and_more_are_made() {
    let mut trial = Trial::of("All participant slots are taken");
    trial.run(&["create", "jobs", "--max-participants", "2"], 0);
    let pids = [0; 2].map(|_| trial.start(&["work", "jobs", "--", "cat"]).to_string());
    trial.words.push(("PIDS", pids.join(" ")));
    wait_until("they are attached", || {
        trial.stat()["stats"]["participants"] == 2
    });
    let third = ["work", "jobs", "--idle-timeout", "0s", "--", "cat"];
    let refused = trial.run(&third, 1);
    assert!(refused.error().contains("max_participants"), "{refused:?}");
    trial.see();
    trial.fix();
    trial.run(&third, 0);
    assert_eq!(trial.stat()["settings"]["max_participants"], 64);
}

#[test]
fn a_server_that_is_not_there_is_seen_and_started() {
    let trial = Trial::of("A served queue does not answer");
    trial.run(&["create", "jobs"], 0);
    let at = trial.with_words("unix:FOLDER/jobs.sock");
    let missing = Ended::of(&mut trial.ipc(&["stat", &at]));
    assert!([3, 6].contains(&missing.code), "{missing:?}");
    trial.see();
    // As the guide says, with its output elsewhere, and its process number.
    let fix = trial.entry.fix.trim_end().trim_end_matches('&');
    let script = trial.with_words(&format!("{fix} > FOLDER/server.out 2>&1 & echo $!"));
    let mut server = shell(&script);
    let started = Ended::of(server.env("IPC_SHM_DIR", trial.folder.0.path())).expect(0);
    let pid = Pid::from_raw(started.out.trim().parse().unwrap());
    wait_until("it answers", || {
        Ended::of(&mut trial.ipc(&["stat", &at])).code == 0
    });
    trial.run(&["send", &at, "one"], 0);
    kill(pid, Signal::SIGTERM).unwrap();
    wait_until("it has ended", || {
        !Path::new(&format!("/proc/{pid}/fd")).exists()
    });
}

#[test]
fn a_queue_of_another_type_is_seen_and_moved_away() {
    let trial = Trial::of("A new release has another type");
    trial.run(&["create", "jobs", "--type", "Resize"], 0);
    trial.run(&["send", "jobs", "one", "--raw"], 0);
    let at = trial.with_words("unix:FOLDER/jobs.sock");
    // As a program does that opens or creates the queue of its type.
    let new_release = ["serve", "jobs", "--create", "--type", "Scale", "--at", &at];
    let refused = trial.run(&new_release, 5);
    assert!(refused.error().contains("Resize"), "{refused:?}");
    trial.see();
    trial.fix();
    let mut started = Running::start(&mut trial.ipc(&new_release));
    wait_until("it has started", || {
        Path::new(&at["unix:".len()..]).exists()
    });
    assert!(started.0.try_wait().unwrap().is_none());
    let kept = trial.run(&["peek", "jobs-of-resize", "--json"], 0).json();
    assert_eq!(kept[0]["payload"]["text"], "one");
}

#[test]
fn small_shared_memory_is_seen_and_enlarged() {
    let entry = Trial::of("Shared memory is too small").entry;
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen").display().to_string();
    // Everything in one mount namespace, which ends with the script.
    let script = format!(
        "mount -t tmpfs -o size=4m x /dev/shm; \
         for queue in q0 q1; \
         do ipc create $queue --capacity 64 --max-message-bytes 4k --pool-bytes 8k; done; \
         ipc create jobs 2>&1 && exit 9; \
         NO_COLOR=1 TERM=xterm script --quiet --return \
         --command 'stty cols 80 rows 24; {see}' /dev/null > {seen} || true; \
         {fix} ipc create jobs",
        see = entry.see,
        fix = entry.fix.trim_end().to_owned() + ";",
    );
    let is_allowed = Command::new("unshare").args(["--mount", "true"]).status();
    if !is_allowed.is_ok_and(|status| status.success()) {
        say_skipped("small shared memory", "mount namespaces are forbidden here");
        return;
    }
    let mut unshare = shell("exec unshare --mount --propagation private sh -ec \"$SCRIPT\"");
    unshare.env("SCRIPT", script).env_remove("IPC_SHM_DIR");
    let ended = Ended::of(&mut unshare).expect(0);
    assert!(ended.out.contains("/dev/shm"), "{ended:?}");
    let screen = fs::read_to_string(seen).unwrap().replace('\r', "");
    let screen: Vec<_> = screen.lines().map(str::to_owned).collect();
    check_screen(&entry, &screen[screen.len().saturating_sub(23)..]);
}
