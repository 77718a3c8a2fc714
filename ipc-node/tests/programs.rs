//! Programs of `examples/`, run as they say. Each promises to survive the death of a process, so
//! one is killed.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

/// Long enough for anything that ends at all.
const PATIENCE: Duration = Duration::from_secs(60);
const NONBLOCKING: i32 = OFlag::O_NONBLOCK.bits();

/// A running program.
struct Program {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Program {
    /// Starts an example, whose queues are in `folder`. Cargo builds examples before it runs tests,
    /// next to this test's folder.
    fn start(folder: &Path, example: &str, args: &[&str]) -> Self {
        let deps = std::env::current_exe().unwrap();
        let examples = deps.parent().unwrap().with_file_name("examples");
        let mut child = Command::new(examples.join(example))
            .args(args)
            .env("IPC_SHM_DIR", folder.join("root"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example, built by `cargo test`");
        let lines = lines_of(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }

    /// Returns its remaining lines, up to its end, which must be a success.
    fn rest(&mut self) -> Vec<String> {
        let rest = self.lines.iter().collect();
        assert!(self.child.wait().unwrap().success());
        rest
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn children(&self) -> Vec<i32> {
        let pid = self.child.id();
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let of_threads = threads
            .flatten()
            .map(|thread| thread.path().join("children"));
        let pids = of_threads.filter_map(|file| fs::read_to_string(file).ok());
        pids.flat_map(|text| numbers_in(&text)).collect()
    }
}

/// Opens a named pipe for writing once a process reads from it.
fn write_to(pipe: &str) -> File {
    let deadline = Instant::now() + PATIENCE;
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(NONBLOCKING);
    loop {
        match options.open(pipe) {
            Ok(file) => return file,
            Err(error) => assert!(Instant::now() < deadline, "nothing reads {pipe}: {error}"),
        }
        thread::yield_now();
    }
}

/// Reads lines in a thread, so that a test can stop waiting for the next one.
fn lines_of(output: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn numbers_in(text: &str) -> Vec<i32> {
    let words = text.split_whitespace();
    words.map(|word| word.parse().unwrap()).collect()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

#[test]
fn a_pool_does_ten_thousand_jobs_but_the_one_that_kills_and_the_one_that_fails() {
    let folder = folder();
    let mut pool = Program::start(folder.path(), "pool", &[]);
    let begun = pool.line();
    assert_eq!(begun, "1000 of 10000 jobs are done");
    let workers = pool.children();
    assert!(!workers.is_empty());
    kill(Pid::from_raw(workers[0]), Signal::SIGKILL).unwrap();
    let lines = pool.rest();
    let has = |text: &str| lines.iter().any(|line| line.contains(text));
    assert!(has("4242: the job failed: 4242 is refused"), "{lines:?}");
    assert!(
        has("7777: each of the 3 workers that had the job died"),
        "{lines:?}"
    );
    let sum: u64 = (0..10_000)
        .filter(|n| ![4_242, 7_777].contains(n))
        .map(digits)
        .sum();
    assert!(has(&format!("the sum of all digits is {sum}")), "{lines:?}");
    assert!(has("4 workers were replaced"), "{lines:?}");
    assert!(!folder.path().join("root").exists());
}

fn digits(number: u64) -> u64 {
    number
        .to_string()
        .bytes()
        .map(|digit| u64::from(digit - b'0'))
        .sum()
}

#[test]
fn a_request_whose_server_is_killed_gets_the_reply_of_another() {
    let folder = folder();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let (pipe, missing) = (pipe.to_str().unwrap(), folder.path().join("missing"));
    let missing = missing.to_str().unwrap();
    let mut client = Program::start(folder.path(), "request", &["ask", pipe, missing]);
    let mut first = Program::start(folder.path(), "request", &["serve"]);
    let writer = write_to(pipe);
    first.kill();
    drop(writer);

    let second = Program::start(folder.path(), "request", &["serve"]);
    write_to(pipe).write_all(b"one\ntwo\n").unwrap();
    let by = second.child.id();
    let replies = client.rest();
    assert_eq!(replies[0], format!("{pipe}: 2 lines, counted by {by}"));
    assert!(replies[1].starts_with(&format!("{missing}: the server failed: No such file")));
    assert_eq!(replies.len(), 2);
}
