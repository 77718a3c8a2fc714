//! A queue and the processes around it: the test binary itself, run again in a role.
//!
//! A process writes lines to its standard output and reads lines from its standard input. Tests
//! wait only for these lines and for the queue. However a test ends, its processes end with it.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ipc_queue::conformance::{content, number_in};
use ipc_queue::transport::{OpenMode, OpenRequest};
use ipc_queue::{
    ByteDelivery, ByteQueue, ByteReceiver, DeadLetter, Loan, Name, QueueSettings, QueueStats,
    RecvTimeoutError, SettleError, ShmQueue, TryRecvError, TrySendError,
};
use ipc_shm::Namespace;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, gettid};
use tempfile::TempDir;

const ROLE: &str = "IPC_QUEUE_TEST_ROLE";
const FOLDER: &str = "IPC_QUEUE_TEST_FOLDER";
/// Distinguishes a role's lines from those of the test harness around it.
const MARK: char = '@';
/// The time after which a test counts as stuck. It says nothing about speed.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The size of the largest payload, which needs a chunk.
pub const LARGEST: usize = 5000;
pub const SMALL: usize = 16;
pub const HOUR: Duration = Duration::from_secs(3600);

/// The settings for `capacity` messages, all of which may have the largest size.
pub fn settings(capacity: u32) -> QueueSettings {
    QueueSettings {
        capacity,
        inline_bytes: 64,
        max_message_bytes: 5000,
        pool_bytes: (u64::from(capacity) + 1) * 2 * 5056,
        attempt_limit: 5,
        backoff: ipc_queue::Backoff::None,
        lease: None,
        max_participants: 12,
        ..QueueSettings::default()
    }
}

/// A queue in a separate folder. At the end it is removed, and the folder must be empty.
pub struct Stage {
    folder: TempDir,
    settings: QueueSettings,
}

impl Stage {
    pub fn new(settings: &QueueSettings) -> Self {
        let mut folder = tempfile::Builder::new();
        let folder = folder.prefix("ipc-queue-test-").tempdir_in("/dev/shm");
        let stage = Self {
            folder: folder.unwrap(),
            settings: settings.clone(),
        };
        drop(open(stage.folder.path(), OpenMode::Create, settings));
        stage
    }

    /// Opens the queue in this process.
    pub fn open(&self) -> ByteQueue {
        open(self.folder.path(), OpenMode::Open, &self.settings)
    }

    /// Returns the path of the queue's file.
    pub fn file(&self) -> PathBuf {
        namespace(self.folder.path()).path().join("jobs.queue")
    }

    /// Starts a process that executes commands.
    pub fn puppet(&self) -> Puppet {
        let mut puppet = self.start("puppet");
        puppet.expect("ready");
        puppet
    }

    /// Starts a process in a role.
    pub fn start(&self, role: &str) -> Puppet {
        self.start_by(Command::new("/proc/self/exe"), role)
    }

    /// Starts a process in a role, through a command that ends by running its arguments.
    pub fn start_by(&self, mut command: Command, role: &str) -> Puppet {
        let mut process = command
            .args(["--exact", "role", "--nocapture", "--quiet"])
            .env(ROLE, role)
            .env(FOLDER, self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Puppet {
            said: Some(BufReader::new(process.stdout.take().unwrap())),
            stdin: process.stdin.take(),
            process,
        }
    }

    /// Asserts that every place and all memory is free: the queue takes exactly its capacity of the
    /// largest messages.
    pub fn assert_all_free(&self, queue: &ByteQueue) {
        let (sender, receiver) = (queue.sender(), queue.receiver());
        let capacity = self.settings.capacity;
        for number in 0..capacity.into() {
            // Places of dead processes may be about to be freed.
            let sent = sender.send_timeout(&content(number, LARGEST), PATIENCE);
            sent.unwrap_or_else(|error| panic!("{number} of {capacity} places: {error}"));
        }
        let refused = sender.try_send(b"one more");
        assert!(
            matches!(refused, Err(TrySendError::Full { capacity: c, dead: 0, .. }) if c == capacity),
            "{refused:?}"
        );
        let mut acked = 0;
        while acked < capacity {
            let delivery = receiver.recv_timeout(PATIENCE).unwrap();
            assert!(number_in(delivery.payload()) < capacity.into());
            match delivery.ack() {
                Ok(()) => acked += 1,
                // On a busy machine a short lease may be over by now. Then the message is delivered
                // again.
                Err(error) if error.is_lease_lost() && self.settings.lease.is_some() => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(receiver.try_recv().err(), Some(TryRecvError::Empty));
        let stats = stats(queue);
        assert_eq!((stats.in_use(), stats.chunks_in_use), (0, 0));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let removed = ShmQueue::remove(&namespace(self.folder.path()), &name());
        if !thread::panicking() {
            assert!(removed.unwrap());
            let left: Vec<_> = fs::read_dir(self.folder.path()).unwrap().collect();
            assert!(left.is_empty(), "left behind: {left:?}");
        }
    }
}

pub fn stats(queue: &ByteQueue) -> QueueStats {
    queue.transport().stats().unwrap()
}

/// Receives the next message, and checks its number and attempt.
#[track_caller]
pub fn expect_message(receiver: &ByteReceiver, number: u64, attempt: u8) -> ByteDelivery<'_> {
    let delivery = receiver.recv_timeout(PATIENCE).unwrap();
    let got = (number_in(delivery.payload()), delivery.attempt());
    assert_eq!(got, (number, attempt));
    delivery
}

/// Waits until the queue has a dead letter. Receives nothing meanwhile.
pub fn next_dead_letter(queue: &ByteQueue) -> DeadLetter {
    let receiver = queue.receiver();
    loop {
        if let Some(letter) = queue.transport().dead_letters().unwrap().pop() {
            return letter;
        }
        let nothing = receiver.recv_timeout(Duration::from_millis(1));
        assert!(
            matches!(nothing, Err(RecvTimeoutError::TimedOut { .. })),
            "{nothing:?}"
        );
    }
}

/// A child process.
pub struct Puppet {
    process: Child,
    stdin: Option<ChildStdin>,
    said: Option<BufReader<ChildStdout>>,
}

impl Puppet {
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().try_into().unwrap())
    }

    /// Returns the next line that the process writes.
    pub fn hear(&mut self) -> String {
        let line = next_line(self.said.as_mut().unwrap());
        line.expect("the process writes a line before it ends")
    }

    #[track_caller]
    pub fn expect(&mut self, line: &str) {
        assert_eq!(self.hear(), line);
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.stdin.as_ref().unwrap(), "{line}").unwrap();
    }

    /// Sends a command, and expects an answer.
    #[track_caller]
    pub fn act(&mut self, line: &str, answer: &str) {
        self.tell(line);
        self.expect(answer);
    }

    /// Sends a command that blocks. Returns when the process is asleep.
    pub fn act_and_sleep(&mut self, line: &str) {
        self.tell(line);
        self.asleep();
    }

    /// Returns when the process is asleep, which it has announced.
    pub fn asleep(&mut self) {
        let said = self.hear();
        let thread = said
            .strip_prefix("blocking ")
            .expect("the thread that blocks");
        let call = format!("/proc/{}/task/{thread}/syscall", self.pid());
        let asleep = format!("{} ", libc::SYS_futex);
        while !fs::read_to_string(&call).unwrap().starts_with(&asleep) {
            thread::yield_now();
        }
    }

    /// Collects all further lines until the process ends, in a separate thread.
    pub fn hear_all(&mut self) -> thread::JoinHandle<Vec<String>> {
        let mut said = self.said.take().unwrap();
        thread::spawn(move || std::iter::from_fn(|| next_line(&mut said)).collect())
    }

    /// Returns whether the process has ended. Only a failed assertion ends it by itself.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// Kills the process in the middle of its work. Returns when it is gone.
    pub fn kill(mut self) {
        self.kill_but_keep_input();
    }

    /// Like `kill`, but keeps its standard input open for its own children.
    pub fn kill_but_keep_input(&mut self) -> Option<ChildStdin> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.stdin.take()
    }

    /// Stops the process. Returns when it is stopped.
    pub fn stop(&self) {
        kill(self.pid(), Signal::SIGSTOP).unwrap();
        let stopped = waitpid(self.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert_eq!(stopped, WaitStatus::Stopped(self.pid(), Signal::SIGSTOP));
    }

    pub fn go_on(&self) {
        kill(self.pid(), Signal::SIGCONT).unwrap();
    }

    /// Lets the process end by itself.
    pub fn end(mut self) -> ExitStatus {
        drop(self.stdin.take());
        self.process.wait().unwrap()
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns the next marked line. Half a line, from a process killed while writing it, is ignored.
fn next_line(said: &mut impl BufRead) -> Option<String> {
    loop {
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let whole = line.strip_suffix('\n')?;
        if let Some(said) = whole.strip_prefix(MARK) {
            return Some(said.to_owned());
        }
    }
}

// --- In the other process ------------------------------------------------------------------------

/// Returns the role in which this process was started, if any, and a function that opens its queue.
pub fn our_role() -> Option<(String, impl Fn() -> ByteQueue)> {
    let role = std::env::var(ROLE).ok()?;
    // The kernel kills this process when the thread that started it ends: its test is over.
    set_pdeathsig(Signal::SIGKILL).unwrap();
    let folder = std::env::var_os(FOLDER)?;
    let queue = move || open(Path::new(&folder), OpenMode::Open, &settings(1));
    Some((role, queue))
}

pub fn say(line: &str) {
    // One write, because a kill between two could leave half a line. The harness may have begun a
    // line.
    let line = format!("\n{MARK}{line}\n");
    let written = nix::unistd::write(std::io::stdout(), line.as_bytes());
    assert_eq!(written, Ok(line.len()));
}

/// Waits for the next command; empty at the end.
pub fn listen() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Executes commands, and writes the results.
pub fn puppet(queue: &ByteQueue) {
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let mut loans = VecDeque::new();
    let mut owned_loans = Vec::new();
    let mut held: VecDeque<ByteDelivery<'_>> = VecDeque::new();
    let blocking = || say(&format!("blocking {}", gettid()));
    say("ready");
    loop {
        let line = listen();
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        let size = |at: usize| words[at].parse::<usize>().unwrap();
        let settled = match words[0] {
            "send" => {
                blocking();
                sender.send(&content(number(1), size(2))).unwrap();
                say("sent");
                continue;
            }
            "loan" => {
                loans.push_back(sender.loan(size(1)).unwrap());
                say("lent");
                continue;
            }
            "owned-loan" => {
                owned_loans.push(queue.sender().loan(size(1)).unwrap().into_owned());
                say("lent");
                continue;
            }
            "publish" => {
                publish(loans.pop_front().unwrap(), number(1));
                continue;
            }
            "receive" => {
                blocking();
                held.push_back(receiver.recv().unwrap());
                say_what_came(held.back().unwrap());
                continue;
            }
            "drain" => {
                blocking();
                drain(&receiver);
                continue;
            }
            "extend" => held[0].extend(Duration::from_millis(number(1))),
            "read" => {
                say(&format!("read {}", number_in(held[0].payload())));
                continue;
            }
            "ack" => held.pop_front().unwrap().ack(),
            "nack" => held.pop_front().unwrap().nack(),
            "bury" => held.pop_front().unwrap().bury(),
            "" => return,
            other => panic!("there is no command {other:?}"),
        };
        let failure = |error: SettleError| format!("{:?}", error.failure);
        say(&settled.map_or_else(failure, |()| "done".to_owned()));
    }
}

fn publish(mut loan: Loan<'_>, number: u64) {
    let message = content(number, loan.len());
    loan.copy_from_slice(&message);
    loan.publish().unwrap();
    say("sent");
}

fn say_what_came(delivery: &ByteDelivery<'_>) {
    let number = number_in(delivery.payload());
    say(&format!("got {number}, attempt {}", delivery.attempt()));
}

/// Acks every message until the queue ends.
fn drain(receiver: &ByteReceiver) {
    loop {
        match receiver.recv() {
            Ok(delivery) => {
                say_what_came(&delivery);
                delivery.ack().unwrap();
            }
            Err(error) => break say(&error.failure.to_string()),
        }
    }
}

fn open(folder: &Path, mode: OpenMode, settings: &QueueSettings) -> ByteQueue {
    let request = OpenRequest {
        mode,
        settings: settings.clone(),
        ..OpenRequest::default()
    };
    let queue = ShmQueue::open(&namespace(folder), &name(), &request).unwrap();
    ByteQueue::over(Arc::new(queue))
}

fn namespace(folder: &Path) -> Namespace {
    Namespace::in_folder(folder.join("ipc"), "test").unwrap()
}

fn name() -> Name {
    Name::new("jobs").unwrap()
}
