//! Every subcommand in every unfriendly situation: its exit code, its error line, and its effect on
//! the queue.
//!
//! This file has the rows of subcommands that end by themselves, and `endless.rs` has the others.
//! The situations are in `columns.rs`, `silent.rs` (a server that does not answer) and `ends.rs`
//! (the signals). `complete.rs` fails if a subcommand is in neither list of rows.

mod columns;
mod complete;
mod endless;
mod ends;
mod silent;

use std::path::Path;
use std::process::{Command, Stdio};

use ipc_queue::{ByteDelivery, OwnedByteDelivery, QueueOptions, SendOptions};
use tempfile::TempDir;

use crate::doctor::Folder;
use crate::place::{Ended, Place, ipc, program, run};

/// The purpose of a subcommand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Prints, and changes nothing.
    Look,
    /// Changes something.
    Act,
    /// Hands out a message.
    Take,
}

/// The state of the queue, seen from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    exists: bool,
    ready: u64,
    dead: u64,
    paused: bool,
    closed: bool,
    /// The number of remembered keys.
    keys: u64,
    /// The number of messages in the other queue, if it exists.
    other: Option<u64>,
    /// `true` if the file of a saved queue exists.
    file: bool,
}

/// Two messages, the first with a key, and a dead letter.
const BEFORE: State = State {
    exists: true,
    ready: 2,
    dead: 1,
    paused: false,
    closed: false,
    keys: 1,
    other: None,
    file: false,
};

/// A subcommand with its arguments. `QUEUE`, `OTHER`, `SPACE`, `LETTER` and `FILE` are replaced by
/// the test's own.
struct Case {
    args: &'static [&'static str],
    input: Option<&'static str>,
    kind: Kind,
    before: State,
    /// The state after it has done its work.
    after: State,
}

const fn look(args: &'static [&'static str]) -> Case {
    Case {
        args,
        input: None,
        kind: Kind::Look,
        before: BEFORE,
        after: BEFORE,
    }
}

const fn act(args: &'static [&'static str], after: State) -> Case {
    Case {
        args,
        input: None,
        kind: Kind::Act,
        before: BEFORE,
        after,
    }
}

const PAUSED: State = State {
    paused: true,
    ..BEFORE
};
const NO_MORE: State = State {
    exists: false,
    ready: 0,
    dead: 0,
    keys: 0,
    ..BEFORE
};
const SAVED: State = State {
    file: true,
    ..BEFORE
};
const EMPTY: State = State { ready: 0, ..BEFORE };
const THREE: State = State { ready: 3, ..BEFORE };

/// Every subcommand that ends by itself. `endless::CASES` has the others.
const CASES: &[Case] = &[
    look(&["ls", "SPACE"]),
    look(&["stat", "QUEUE"]),
    look(&["stat", "QUEUE", "--json"]),
    look(&["stat", "QUEUE", "--prometheus"]),
    look(&["top", "SPACE", "--once", "--every", "1ms"]),
    look(&["peek", "QUEUE"]),
    look(&["dlq", "ls", "QUEUE"]),
    look(&["dlq", "show", "QUEUE", "LETTER"]),
    look(&["nodes", "SPACE"]),
    look(&["doctor", "--json"]),
    look(&["completions", "zsh"]),
    look(&["--help"]),
    look(&["--version"]),
    act(
        &["create", "OTHER"],
        State {
            other: Some(0),
            ..BEFORE
        },
    ),
    act(&["send", "QUEUE", "three"], THREE),
    act(
        &["send", "QUEUE", "three", "--key", "third"],
        State { keys: 2, ..THREE },
    ),
    act(
        &["send", "OTHER", "three", "--create"],
        State {
            other: Some(1),
            ..BEFORE
        },
    ),
    Case {
        input: Some("three"),
        ..act(&["send", "QUEUE"], THREE)
    },
    Case {
        input: Some("three\nfour\n"),
        ..act(&["send", "QUEUE", "--lines"], State { ready: 4, ..BEFORE })
    },
    Case {
        kind: Kind::Take,
        ..act(&["recv", "QUEUE"], State { ready: 1, ..BEFORE })
    },
    Case {
        kind: Kind::Take,
        ..act(&["recv", "QUEUE", "--json", "--count", "2"], EMPTY)
    },
    act(
        &["work", "QUEUE", "--json", "--count", "1", "--", "true"],
        State { ready: 1, ..BEFORE },
    ),
    act(
        &["bridge", "QUEUE", "OTHER", "--create", "--close"],
        State {
            closed: true,
            other: Some(2),
            ..EMPTY
        },
    ),
    act(&["pause", "QUEUE"], PAUSED),
    Case {
        before: PAUSED,
        ..act(&["resume", "QUEUE"], BEFORE)
    },
    Case {
        before: EMPTY,
        ..act(
            &["drain", "QUEUE"],
            State {
                closed: true,
                ..EMPTY
            },
        )
    },
    Case {
        before: State {
            closed: true,
            ..BEFORE
        },
        ..act(&["reopen", "QUEUE"], BEFORE)
    },
    act(&["purge", "QUEUE"], EMPTY),
    act(
        &["move", "QUEUE", "OTHER"],
        State {
            other: Some(2),
            ..NO_MORE
        },
    ),
    act(
        &["save", "QUEUE", "FILE"],
        State {
            file: true,
            ..NO_MORE
        },
    ),
    Case {
        before: SAVED,
        ..act(
            &["restore", "FILE", "OTHER"],
            State {
                other: Some(2),
                ..BEFORE
            },
        )
    },
    look(&["metrics", "QUEUE"]),
    look(&["check", "QUEUE", "--max-depth", "2"]),
    look(&["export", "QUEUE"]),
    look(&["export", "QUEUE", "--state", "ready,dead"]),
    Case {
        input: Some("{\"payload\":\"three\"}\n"),
        ..act(&["import", "QUEUE"], THREE)
    },
    Case {
        input: Some("{\"payload\":\"three\"}\n"),
        ..act(&["send", "QUEUE", "--json"], THREE)
    },
    act(
        &["delete", "QUEUE", "--limit", "1"],
        State { ready: 1, ..BEFORE },
    ),
    act(
        &["move", "QUEUE", "OTHER", "--limit", "1"],
        State {
            ready: 1,
            other: Some(1),
            ..BEFORE
        },
    ),
    act(&["revoke", "QUEUE", "HELD"], THREE),
    act(&["forget", "QUEUE", "first"], State { keys: 0, ..BEFORE }),
    act(
        &["dlq", "requeue", "QUEUE", "LETTER"],
        State { dead: 0, ..THREE },
    ),
    act(
        &["dlq", "requeue", "QUEUE", "--all"],
        State { dead: 0, ..THREE },
    ),
    act(
        &["dlq", "drop", "QUEUE", "LETTER"],
        State { dead: 0, ..BEFORE },
    ),
    act(&["rm", "QUEUE", "--force"], NO_MORE),
];

/// One cell of the matrix: a case with its own queues.
struct Cell<'c> {
    case: &'c Case,
    place: Place,
    args: Vec<String>,
    folder: TempDir,
    /// A held message, if the case needs one.
    _held: Option<OwnedByteDelivery>,
    /// A separate folder for `doctor`, which looks at everything: other tests may leave things
    /// behind.
    alone: Folder,
}

impl<'c> Cell<'c> {
    fn new(case: &'c Case, test: &str) -> Self {
        let place = Place::new(test);
        let options = QueueOptions::new().capacity(8).attempt_limit(2);
        let options = options.dedup_window(std::time::Duration::from_secs(60));
        let queue = place.make("jobs", &options);
        queue.sender().send(b"dead").unwrap();
        queue.receiver().recv().unwrap().bury().unwrap();
        let key = SendOptions::new().key("first");
        let sender = queue.sender();
        sender.send_with(b"one", &key).unwrap();
        sender.send(b"two").unwrap();
        if case.before.ready == 0 {
            queue.transport().purge().unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        if case.before.file {
            let saved = place.make("saved", &options);
            for payload in [b"one", b"two"] {
                saved.sender().send(payload).unwrap();
            }
            drop(saved);
            run(&["save", &place.name("saved"), &file(&folder)]).expect(0);
        }
        if case.before.closed {
            queue.transport().close().unwrap();
        }
        if case.before.paused {
            run(&["pause", &place.name("jobs")]).expect(0);
        }
        let is_held = case.args.contains(&"HELD");
        let held = is_held.then(|| hold(&place));
        let id = held.as_ref().map(|held| held.id().to_string());
        let letters = run(&["dlq", "ls", &place.name("jobs"), "--json"])
            .expect(0)
            .json();
        let letter = letters[0]["letter"].as_str().unwrap().to_owned();
        let args = case.args.iter().map(|arg| match *arg {
            "QUEUE" => place.name("jobs"),
            "OTHER" => place.name("other"),
            "SPACE" => place.0.clone(),
            "LETTER" => letter.clone(),
            "FILE" => file(&folder),
            "HELD" => id.clone().unwrap(),
            arg => arg.to_owned(),
        });
        Self {
            args: args.collect(),
            case,
            place,
            folder,
            _held: held,
            alone: Folder::new(),
        }
    }

    fn state(&self) -> State {
        let other = self.place.look("other").map(|queue| queue.stats().ready);
        let file = Path::new(&file(&self.folder)).exists();
        let Some(queue) = self.place.look("jobs") else {
            return State {
                other,
                file,
                ..State::default()
            };
        };
        let stats = queue.stats();
        State {
            exists: true,
            ready: stats.ready,
            dead: stats.dead,
            paused: stats.paused,
            closed: stats.closed,
            keys: stats.keys,
            other,
            file,
        }
    }

    /// Asserts the exit code and the effect.
    #[track_caller]
    fn expect(&self, ended: Ended, code: i32, state: State) -> Ended {
        let args = self.case.args;
        // `check` reports "unknown" for every reason that keeps it from finding out.
        let code = if args[0] == "check" && code != 0 {
            3
        } else {
            code
        };
        assert_eq!(ended.code, code, "{args:?}: {ended:?}");
        assert_eq!(self.state(), state, "{args:?}: {ended:?}");
        if code != 0 {
            ended.error();
        }
        ended
    }

    fn command(&self) -> Command {
        self.prepared(ipc(&self.args))
    }

    /// Returns the command, started by a shell that first opens or closes descriptors.
    fn by_shell(&self, redirection: &str) -> Command {
        let mut shell = program("sh");
        shell.args(["-c", &format!("exec \"$@\" {redirection}"), "sh"]);
        shell.arg(env!("CARGO_BIN_EXE_ipc")).args(&self.args);
        self.prepared(shell)
    }

    fn prepared(&self, mut command: Command) -> Command {
        if self.case.args[0] == "doctor" {
            command.env("IPC_SHM_DIR", self.alone.0.path());
        }
        command
    }

    /// Runs it with suitable input.
    fn run(&self, output: impl Into<Stdio>) -> Ended {
        let mut command = self.command();
        Ended::fed(command.stdout(output), self.case.input.unwrap_or_default())
    }
}

/// Holds one message. The others return without losing an attempt.
fn hold(place: &Place) -> OwnedByteDelivery {
    let queue = place.make("jobs", &QueueOptions::new());
    let id = queue.sender().send(b"held").unwrap();
    let receiver = queue.receiver();
    let mut others = Vec::new();
    loop {
        let delivery = receiver.recv().unwrap();
        if delivery.id() == id {
            others.into_iter().for_each(|other: ByteDelivery<'_>| {
                other.snooze(std::time::Duration::ZERO).unwrap();
            });
            return delivery.into_owned();
        }
        others.push(delivery);
    }
}

fn file(folder: &TempDir) -> String {
    folder.path().join("saved").display().to_string()
}

fn for_each(test: &str, check: impl Fn(&Cell<'_>)) {
    for case in CASES {
        check(&Cell::new(case, test));
    }
}
