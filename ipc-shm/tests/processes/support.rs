//! Real processes for tests about death: the test binary itself, run again in a role.
//!
//! A role prints lines on its standard output and reads lines from its standard input. Tests wait
//! only for those lines and for shared memory. However a test ends, its processes end with it.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;

use ipc_shm::Namespace;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, gettid};

const ROLE: &str = "IPC_SHM_TEST_ROLE";
const FOLDER: &str = "IPC_SHM_TEST_FOLDER";
/// Marks a role's lines among those of the test harness.
const MARK: char = '@';

/// A folder in shared memory with a namespace in it, deleted when dropped.
pub struct Scratch {
    folder: tempfile::TempDir,
    pub namespace: Namespace,
}

impl Scratch {
    pub fn new() -> Self {
        let mut folder = tempfile::Builder::new();
        let folder = folder.prefix("ipc-test-").tempdir_in("/dev/shm").unwrap();
        let namespace = namespace_in(folder.path());
        Self { folder, namespace }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn is_empty(&self) -> bool {
        fs::read_dir(self.path()).unwrap().count() == 0
    }

    /// Starts this test binary in a role.
    pub fn start(&self, role: &str) -> Peer {
        self.start_by(Command::new("/proc/self/exe"), role)
    }

    /// Starts this test binary in a role, by a command that runs its arguments.
    pub fn start_by(&self, mut command: Command, role: &str) -> Peer {
        command
            .args(["--exact", "role", "--nocapture", "--quiet"])
            .env(ROLE, role)
            .env(FOLDER, self.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        Peer {
            said: BufReader::new(process.stdout.take().unwrap()),
            stdin: process.stdin.take(),
            process,
        }
    }
}

/// Another process.
pub struct Peer {
    process: Child,
    stdin: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
}

impl Peer {
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().try_into().unwrap())
    }

    /// Returns the next line that the process prints.
    pub fn receive(&mut self) -> String {
        loop {
            let mut line = String::new();
            let bytes = self.said.read_line(&mut line).unwrap();
            assert_ne!(bytes, 0, "the process ended instead of printing a line");
            if let Some(said) = line.strip_prefix(MARK) {
                return said.trim_end().to_owned();
            }
        }
    }

    #[track_caller]
    pub fn expect(&mut self, line: &str) {
        assert_eq!(self.receive(), line);
    }

    pub fn send(&mut self, line: &str) {
        self.try_send(line).unwrap();
    }

    pub fn try_send(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.stdin.as_ref().unwrap(), "{line}")
    }

    /// Kills the process at any point of its work. Returns when it is gone.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Like `kill`, but keeps its standard input open, because its children may wait for it.
    pub fn kill_but_keep_input(mut self) -> ChildStdin {
        let stdin = self.stdin.take().unwrap();
        self.kill();
        stdin
    }

    /// Stops the process. Returns when it is stopped.
    pub fn stop(&self) {
        kill(self.pid(), Signal::SIGSTOP).unwrap();
        let stopped = waitpid(self.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert_eq!(stopped, WaitStatus::Stopped(self.pid(), Signal::SIGSTOP));
    }

    pub fn resume(&self) {
        kill(self.pid(), Signal::SIGCONT).unwrap();
    }

    /// Waits until the process ends by itself.
    pub fn end(mut self) -> ExitStatus {
        drop(self.stdin.take());
        self.process.wait().unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns the role in which this process was started, if any, and its namespace.
pub fn our_role() -> Option<(String, Namespace)> {
    let role = std::env::var(ROLE).ok()?;
    die_with_parent();
    let folder = PathBuf::from(std::env::var_os(FOLDER)?);
    Some((role, namespace_in(&folder)))
}

pub fn namespace_in(folder: &Path) -> Namespace {
    Namespace::in_folder(folder.join("root"), "test").unwrap()
}

/// Makes the kernel kill this process when the thread that started it ends. That thread waits for
/// this process, so its end means the end of the test.
pub fn die_with_parent() {
    set_pdeathsig(Signal::SIGKILL).unwrap();
}

pub fn say(line: &str) {
    // The harness may have started a line.
    println!("\n{MARK}{line}");
}

/// Waits for the next line from the test.
pub fn listen() -> String {
    let mut line = String::new();
    io::stdin().read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Waits until another process kills this one.
pub fn wait_for_death() -> ! {
    loop {
        thread::park();
    }
}

/// Runs `child` in a forked copy of this process. The copy's exit code is 0 if `child` returns and
/// 1 if it panics. Both processes have a copy of `value`.
pub fn in_forked_child<T>(value: T, child: impl FnOnce(T)) -> (Pid, T) {
    // SAFETY: other threads of this process hold no lock that `child` needs. They belong to the
    // test harness, which waits, and to the watcher, whose lock a copy does not take. The child
    // ends without clean-up.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => (child, value),
        ForkResult::Child => {
            let ended = catch_unwind(AssertUnwindSafe(|| child(value)));
            // SAFETY: ends the copy at once and runs none of its parent's clean-up.
            unsafe { libc::_exit(i32::from(ended.is_err())) }
        }
    }
}

#[track_caller]
pub fn assert_ended_well(child: Pid) {
    assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
}

/// Returns this thread's number, for [`until_asleep`].
pub fn our_thread() -> Pid {
    gettid()
}

/// Waits until that thread of this process sleeps in a futex call.
pub fn until_asleep(thread: Pid) {
    let asleep = format!("{} ", libc::SYS_futex);
    let call = format!("/proc/self/task/{thread}/syscall");
    while !fs::read_to_string(&call).unwrap().starts_with(&asleep) {
        thread::yield_now();
    }
}
