//! The rows of subcommands that do not end by themselves, in each situation.
//!
//! Only `top` without `--once` is missing here: it draws on a terminal, where `top.rs` tests it.
//! Without a terminal it prints once, like its row in `CASES`.

use std::io::pipe;
use std::net::TcpStream;

use ipc_queue::QueueOptions;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::place::{Ended, Place, Running, full_disk, ipc, program, run, wait_until};
use crate::signals::{ENDS, signal, wait_for_handler};

/// The effect of a situation on a subcommand.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// It ends with this code, because it can't do its work.
    Ends(i32),
    /// It continues, and ends with this code when a signal asks it to.
    GoesOn(i32),
}

use Then::{Ends, GoesOn};

/// A subcommand that does not end by itself. `QUEUE`, `OTHER`, `SOCKET` and `PORT` are replaced by
/// the test's own queues, socket and port; `ADDRESS` is `QUEUE` with its scheme.
pub struct Endless {
    args: &'static [&'static str],
    /// Waits until it has done some of its work.
    works: fn(&Home),
    reader_gone: Then,
    disk_full: Then,
    output_closed: Then,
    /// The effect of a queue that belongs to one process.
    local: Then,
    /// The effect of a missing queue.
    missing: Then,
}

/// `signals.rs` tests `serve` with its own queue.
pub const CASES: &[Endless] = &[
    Endless {
        args: &["tail", "QUEUE", "--every", "1ms"],
        works: |_| {},
        reader_gone: Ends(0),
        disk_full: Ends(1),
        output_closed: GoesOn(0),
        local: Ends(5),
        missing: Ends(3),
    },
    Endless {
        args: &["recv", "QUEUE", "--follow"],
        works: |home| wait_until("it is received", || waiting(&home.place, "jobs") == Some(0)),
        reader_gone: Ends(1),
        disk_full: Ends(1),
        output_closed: Ends(5),
        local: Ends(5),
        missing: Ends(3),
    },
    Endless {
        args: &["work", "QUEUE", "--json", "--", "true"],
        works: |home| {
            wait_until("the command ran", || {
                waiting(&home.place, "jobs") == Some(0)
            })
        },
        reader_gone: GoesOn(0),
        disk_full: GoesOn(1),
        output_closed: GoesOn(0),
        local: Ends(5),
        missing: Ends(3),
    },
    Endless {
        args: &["bridge", "QUEUE", "OTHER", "--create"],
        works: |home| wait_until("it is carried", || waiting(&home.place, "other") == Some(1)),
        reader_gone: GoesOn(0),
        disk_full: GoesOn(1),
        output_closed: GoesOn(0),
        local: Ends(5),
        missing: Ends(3),
    },
    Endless {
        args: &["serve", "QUEUE", "--at", "SOCKET"],
        works: |home| wait_until("it serves", || run(&["stat", &home.socket()]).code == 0),
        reader_gone: GoesOn(0),
        // It can't report that it is ready, so it does not begin.
        disk_full: Ends(1),
        output_closed: GoesOn(0),
        // Its purpose includes sharing its own queue.
        local: GoesOn(0),
        missing: Ends(3),
    },
    Endless {
        args: &["metrics", "QUEUE", "--listen", "PORT"],
        works: |home| wait_until("it serves", || TcpStream::connect(home.port()).is_ok()),
        reader_gone: GoesOn(0),
        disk_full: Ends(1),
        output_closed: GoesOn(0),
        // A queue that can't be asked shows up as a figure, not as an error.
        local: GoesOn(0),
        missing: GoesOn(0),
    },
    Endless {
        args: &["web", "ADDRESS", "--listen", "PORT"],
        works: |home| wait_until("it serves", || TcpStream::connect(home.port()).is_ok()),
        reader_gone: GoesOn(0),
        // It can't say where the page is, so it does not begin.
        disk_full: Ends(1),
        output_closed: GoesOn(0),
        // No other process can see that queue: a page would never show it.
        local: Ends(5),
        // The page shows that it is missing, and shows it once it is there.
        missing: GoesOn(0),
    },
];

fn waiting(place: &Place, queue: &str) -> Option<u64> {
    let stats = place.look(queue)?.stats();
    Some(stats.ready + stats.leased)
}

/// The queues and addresses of a row.
pub struct Home {
    pub place: Place,
    folder: TempDir,
}

impl Home {
    /// Creates a queue in which one message waits.
    pub fn new(test: &str) -> Self {
        let place = Place::new(&format!("endless-{test}"));
        let queue = place.make("jobs", &QueueOptions::new().capacity(8));
        queue.sender().send(b"one").unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self { place, folder }
    }

    fn socket(&self) -> String {
        format!("unix:{}", self.folder.path().join("x.sock").display())
    }

    /// Returns an address that no other process uses: each process has its own loopback addresses.
    fn port(&self) -> String {
        let (pid, name) = (std::process::id(), self.place.0.bytes());
        let name = name.fold(0_u8, |sum, byte| sum.wrapping_mul(31) ^ byte);
        format!(
            "127.{}.{}.{}:9464",
            1 + (pid >> 8 & 0x7f),
            pid & 0xff,
            1 + name % 254
        )
    }
}

impl Endless {
    pub fn name(&self) -> &'static str {
        self.args[0]
    }

    pub fn args(&self, home: &Home) -> Vec<String> {
        self.args_on(home, &home.place.name("jobs"))
    }

    fn args_on(&self, home: &Home, queue: &str) -> Vec<String> {
        let args = self.args.iter().map(|arg| match *arg {
            "QUEUE" => queue.to_owned(),
            "ADDRESS" if queue.contains(':') => queue.to_owned(),
            "ADDRESS" => format!("shm:{queue}"),
            "OTHER" => home.place.name("other"),
            "SOCKET" => home.socket(),
            "PORT" => home.port(),
            arg => arg.to_owned(),
        });
        args.collect()
    }

    /// Puts the address of a server into the arguments. Returns `true` if the subcommand asks it
    /// before it begins.
    pub fn put_address(&self, args: &mut [String], address: &str) -> bool {
        args[1] = address.to_owned();
        !["metrics", "web"].contains(&self.name())
    }

    /// Asserts how a running subcommand ends.
    #[track_caller]
    fn expect(&self, home: &Home, running: Running, then: Then) {
        let args = self.args;
        let code = match then {
            Ends(code) => code,
            GoesOn(code) => {
                wait_for_handler(&running, Signal::SIGTERM);
                (self.works)(home);
                signal(&running, Signal::SIGTERM);
                code
            }
        };
        let ended = running.end();
        assert_eq!(ended.code, code, "{args:?}: {ended:?}");
        if code != 0 {
            ended.error();
        }
        let left = home.place.look("jobs").map(|queue| queue.stats());
        assert!(
            left.is_none_or(|stats| stats.leased == 0),
            "{args:?}: {left:?}"
        );
    }
}

fn for_each(test: &str, check: impl Fn(&Endless, &Home)) {
    for case in CASES {
        check(case, &Home::new(&format!("{test}-{}", case.name())));
    }
}

#[test]
fn endless_commands_end_cleanly_with_each_signal() {
    for end in ENDS {
        for_each("end", |case, home| {
            let running = Running::start(&mut ipc(&case.args(home)));
            wait_for_handler(&running, end);
            (case.works)(home);
            signal(&running, end);
            let ended = running.end();
            assert_eq!(ended.code, 0, "{:?} {end}: {ended:?}", case.args);
            let stats = home.place.look("jobs").unwrap().stats();
            assert_eq!(stats.leased, 0, "{:?} {end}: {stats:?}", case.args);
        });
    }
}

#[test]
fn commands_that_only_print_end_with_their_reader_and_the_rest_continue() {
    for_each("reader", |case, home| {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let running = Running::start(ipc(&case.args(home)).stdout(writer));
        case.expect(home, running, case.reader_gone);
    });
}

#[test]
fn commands_that_only_print_end_on_a_full_disk_and_the_rest_continue() {
    for_each("disk", |case, home| {
        let running = Running::start(ipc(&case.args(home)).stdout(full_disk()));
        case.expect(home, running, case.disk_full);
    });
}

fn by_shell(args: &[String], redirection: &str) -> Running {
    let mut shell = program("sh");
    shell.args(["-c", &format!("exec \"$@\" {redirection}"), "sh"]);
    Running::start(shell.arg(env!("CARGO_BIN_EXE_ipc")).args(args))
}

#[test]
fn a_closed_output_receives_no_endless_messages() {
    for_each("closed", |case, home| {
        let running = by_shell(&case.args(home), ">&-");
        case.expect(home, running, case.output_closed);
    });
}

#[test]
fn endless_commands_need_no_standard_input() {
    for redirection in ["<&-", "< /dev/null"] {
        for_each("stdin", |case, home| {
            let running = by_shell(&case.args(home), redirection);
            case.expect(home, running, GoesOn(0));
        });
    }
}

#[test]
fn a_local_queue_can_only_be_served() {
    for_each("local", |case, home| {
        let args = case.args_on(home, "local:jobs");
        case.expect(home, Running::start(&mut ipc(&args)), case.local);
    });
}

#[test]
fn a_missing_queue_is_an_error_or_a_figure() {
    for_each("missing", |case, home| {
        let args = case.args_on(home, &home.place.name("nosuch"));
        case.expect(home, Running::start(&mut ipc(&args)), case.missing);
    });
}

#[test]
fn a_queue_is_neither_bridged_to_itself_nor_served_at_its_own_address() {
    for_each("same", |case, home| {
        let at = match case.name() {
            "bridge" => home.place.name("jobs"),
            "serve" => home.socket(),
            // The others have only one address.
            _ => return,
        };
        let mut args = case.args_on(home, &at);
        if let Some(other) = args
            .iter_mut()
            .find(|arg| **arg == home.place.name("other"))
        {
            *other = at;
        }
        let ended = Ended::of(&mut ipc(&args)).expect(5);
        assert!(ended.error().contains("same queue") || ended.error().contains("its own address"));
        assert_eq!(waiting(&home.place, "jobs"), Some(1));
    });
}
