//! A test's own queues, and runs of the command on them.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ipc_queue::shm::Inspector;
use ipc_queue::{ByteQueue, Name, QueueOptions, ShmQueue};
use ipc_shm::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Time after which a test counts as stuck. It says nothing about speed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A namespace that belongs to the test and is removed at its end.
pub struct Place(pub String);

impl Place {
    pub fn new(test: &str) -> Self {
        Self(format!("cli-{}-{test}", std::process::id()))
    }

    /// Returns the text that names a queue on the command line.
    pub fn name(&self, queue: &str) -> String {
        format!("{}/{queue}", self.0)
    }

    pub fn make(&self, queue: &str, options: &QueueOptions) -> ByteQueue {
        let address = format!("shm:{}", self.name(queue));
        options.open_bytes(&address).unwrap()
    }

    /// Makes a queue with one message, `one`.
    pub fn make_with_one(&self, queue: &str) -> ByteQueue {
        let made = self.make(queue, &QueueOptions::new());
        made.sender().send(b"one").unwrap();
        made
    }

    /// Inspects a queue; `None` if it does not exist.
    pub fn look(&self, queue: &str) -> Option<Inspector> {
        Inspector::open(&self.namespace(), &Name::new(queue).unwrap()).ok()
    }

    pub fn namespace(&self) -> Namespace {
        Namespace::new(&self.0).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let namespace = self.namespace();
        for name in ShmQueue::list(&namespace).unwrap_or_default() {
            let _ = ShmQueue::remove(&namespace, &name);
        }
        // With the table of nodes, if a test made one.
        let _ = std::fs::remove_dir_all(namespace.path());
    }
}

/// Returns a command without input, whose output is captured.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Returns the `ipc` command with these arguments.
pub fn ipc<S: AsRef<str>>(args: &[S]) -> Command {
    let mut command = program(env!("CARGO_BIN_EXE_ipc"));
    command.args(args.iter().map(S::as_ref));
    command
}

/// Runs it to its end.
pub fn run<S: AsRef<str>>(args: &[S]) -> Ended {
    Ended::of(&mut ipc(args))
}

/// Runs it to its end with this on standard input.
pub fn run_with<S: AsRef<str>>(args: &[S], input: &str) -> Ended {
    Ended::fed(&mut ipc(args), input)
}

/// A file to which nothing can be written.
pub fn full_disk() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// The result of a command.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; 128+n if it was killed by signal n.
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ended {
    pub fn of(command: &mut Command) -> Self {
        Running(command.spawn().unwrap()).end()
    }

    /// Like `of`, with `input` on standard input. Standard output goes where `command` says.
    pub fn fed(command: &mut Command, input: &str) -> Self {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        // Closed at the end of the statement. A child that ended early does not read it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        Running(child).end()
    }

    /// Returns its error: the only line on standard error, apart from notes.
    #[track_caller]
    pub fn error(&self) -> &str {
        let lines = self.err.lines().filter(|line| !line.starts_with("note: "));
        let lines: Vec<_> = lines.collect();
        let [line] = lines[..] else {
            panic!("not one line: {self:?}");
        };
        line.strip_prefix("error: ")
            .unwrap_or_else(|| panic!("no error: {self:?}"))
    }

    /// Asserts that it ended with `code`, and that it printed an error if that is not 0.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        match code {
            0 => assert!(!self.err.contains("error"), "{self:?}"),
            _ => drop(self.error()),
        }
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let status = output.status;
        let code = status
            .code()
            .or_else(|| status.signal().map(|signal| 128 + signal));
        Self {
            code: code.unwrap(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A command that runs until the test ends it.
pub struct Running(pub Child);

impl Running {
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    pub fn end(mut self) -> Ended {
        let child = std::mem::replace(&mut self.0, Command::new("true").spawn().unwrap());
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let (ended, end) = mpsc::channel::<()>();
        thread::spawn(move || {
            if end.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        let output = child.wait_with_output().unwrap();
        drop(ended);
        output.into()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
        thread::yield_now();
    }
}

/// Says once that a suite's tests can't run here, so that they are counted as skipped.
pub fn say_skipped(suite: &str, why: &str) {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let line = format!("SKIPPED: {suite}: {why}\n");
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.contains(&line) {
        return;
    }
    // Do not use a macro: the test harness would swallow its output.
    let _ = std::io::stderr().write_all(format!("\n{line}").as_bytes());
    if let Some(path) = std::env::var_os("IPC_SKIPPED_SUITES") {
        let file = File::options().append(true).create(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
    said.push(line);
}
