//! A private place in shared memory, and the program running in it.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipc_queue::ShmQueue;
use ipc_queue::transport::{OpenMode, OpenRequest};
use ipc_shm::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;
use tempfile::TempDir;

/// Private shared memory, used as `IPC_SHM_DIR`. When dropped, it checks that nothing is left of
/// any run.
pub struct Place {
    folder: TempDir,
    program: PathBuf,
    /// The folder with a copy of the program, if a copy was necessary.
    _copy: Option<TempDir>,
    user: Option<u32>,
}

/// A run in progress.
pub struct Running<'a> {
    place: &'a Place,
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Arc<Mutex<String>>,
    stderr_reader: Option<JoinHandle<()>>,
}

/// A run that has ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

const NOBODY: u32 = 65534;

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("ipc-e2e-")
            .tempdir_in("/dev/shm");
        Self {
            folder: folder.unwrap(),
            program: env!("CARGO_BIN_EXE_ipc-demo").into(),
            _copy: None,
            user: None,
        }
    }

    /// Returns a place whose runs can't read files without permission. Root can read everything, so
    /// for root the runs have another user.
    pub fn unprivileged() -> Self {
        let mut place = Self::new();
        if !geteuid().is_root() {
            return place;
        }
        place.user = Some(NOBODY);
        chown(place.folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        // The program may be below a folder that only root may enter.
        if place.demo(["--version"]).output().is_err() {
            let copy = tempfile::tempdir().unwrap();
            fs::set_permissions(copy.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let program = copy.path().join("ipc-demo");
            fs::copy(&place.program, &program).unwrap();
            place.program = program;
            place._copy = Some(copy);
        }
        place
    }

    /// Gives a file or folder to the user of the runs.
    pub fn give(&self, path: &Path) {
        chown(path, self.user, self.user).unwrap();
    }

    /// Returns the program with these arguments.
    pub fn demo(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut demo = Command::new(&self.program);
        demo.args(args)
            .env("IPC_SHM_DIR", self.root())
            .stdin(Stdio::null());
        if let Some(user) = self.user {
            demo.uid(user).gid(user);
        }
        demo
    }

    pub fn run(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ended {
        self.start(args).end()
    }

    pub fn start(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Running<'_> {
        self.start_command(self.demo(args))
    }

    pub fn start_command(&self, mut demo: Command) -> Running<'_> {
        let demo = demo.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = demo.spawn().unwrap();
        let (mut out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let stderr = Arc::new(Mutex::new(String::new()));
        let text = Arc::clone(&stderr);
        Running {
            place: self,
            child,
            stdout: Some(thread::spawn(move || {
                let mut text = String::new();
                out.read_to_string(&mut text).unwrap();
                text
            })),
            stderr,
            stderr_reader: Some(thread::spawn(move || {
                for line in BufReader::new(err).lines().map_while(Result::ok) {
                    *text.lock().unwrap() += &(line + "\n");
                }
            })),
        }
    }

    /// Returns the namespace of this coordinator's run.
    pub fn namespace_of(&self, coordinator: Pid) -> Namespace {
        Namespace::in_folder(self.root(), &format!("demo-{coordinator}")).unwrap()
    }

    /// Returns every process of any run here, found by the place in its environment. Processes that
    /// only wait to be reaped are left out.
    pub fn processes(&self) -> Vec<Pid> {
        let mark = format!("IPC_SHM_DIR={}", self.root().display());
        let is_ours = |process: &PathBuf| {
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == mark.as_bytes())
        };
        let number = |process: PathBuf| process.file_name()?.to_str()?.parse().ok();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .map(|entry| entry.path())
            .filter(is_ours)
            .filter_map(number)
            .map(Pid::from_raw)
            .collect()
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let processes = self.processes();
        for process in &processes {
            let _ = kill(*process, Signal::SIGKILL);
        }
        if !thread::panicking() {
            assert!(processes.is_empty(), "still running: {processes:?}");
            let left: Vec<_> = fs::read_dir(self.folder.path()).unwrap().collect();
            assert!(left.is_empty(), "left in shared memory: {left:?}");
        }
    }
}

impl Running<'_> {
    /// The coordinator.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// All other processes.
    pub fn workers(&self) -> Vec<Pid> {
        let mut processes = self.place.processes();
        processes.retain(|process| *process != self.pid());
        processes
    }

    /// Returns the address at which others can join it.
    pub fn address(&self) -> String {
        format!("shm:demo-{}/run", self.pid())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits until this text appears on its stderr.
    pub fn await_note(&self, text: &str) {
        wait_until(text, || self.stderr.lock().unwrap().contains(text));
    }

    /// Returns its stderr so far.
    pub fn said(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Opens its queue of tasks, of which this process becomes a participant. Returns `None` if the
    /// run has already ended.
    pub fn tasks(&self) -> Option<ShmQueue> {
        let request = OpenRequest {
            mode: OpenMode::Open,
            ..OpenRequest::default()
        };
        let (namespace, name) = (
            self.place.namespace_of(self.pid()),
            "run.jobs".parse().unwrap(),
        );
        let mut queue = None;
        wait_until("a queue of tasks", || {
            queue = ShmQueue::open(&namespace, &name, &request).ok();
            queue.is_some() || state_of(self.pid()) == Some('Z')
        });
        queue
    }

    /// Waits until it has ended.
    pub fn end(mut self) -> Ended {
        let mut status = None;
        wait_until("the end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let stdout = self.stdout.take().map(|reader| reader.join().unwrap());
        let _ = self.stderr_reader.take().map(JoinHandle::join);
        Ended {
            status: status.unwrap(),
            stdout: stdout.unwrap_or_default(),
            stderr: self.stderr.lock().unwrap().clone(),
        }
    }
}

/// A failing test prints the output of the run.
impl Drop for Running<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("process {}: {}", self.pid(), self.stderr.lock().unwrap());
        }
    }
}

impl Ended {
    /// Returns its exit code and its JSON report, after checking that stdout has nothing else.
    pub fn report(&self) -> (Option<i32>, Value) {
        let report = serde_json::from_str(&self.stdout);
        let report = report.unwrap_or_else(|error| panic!("{error}: {self:?}"));
        (self.status.code(), report)
    }

    /// Returns the report of a run, after checking that it did every task once and cleaned up.
    pub fn exact_report(&self, tasks: usize) -> Value {
        self.exact_report_with(0, tasks)
    }

    /// Like `exact_report`, for a run that ended with this exit code.
    pub fn exact_report_with(&self, exit_code: i32, tasks: usize) -> Value {
        let (code, report) = self.report();
        assert_eq!(code, Some(exit_code), "{self:?}");
        assert_eq!(report["tasks"], tasks, "{self:?}");
        assert_eq!(report["completed"], tasks, "{self:?}");
        assert_eq!(report["dead_lettered"], 0, "{self:?}");
        assert_eq!(report["leaked"], Value::Array(vec![]), "{self:?}");
        report
    }

    /// Returns the signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

/// Waits until something happens. The time that it takes is not a promise.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    const HUNG: Duration = Duration::from_secs(60);
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < HUNG, "hung: waiting for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Returns the state of a process as in `ps`: `T` is stopped, `Z` is ended but not reaped.
pub fn state_of(process: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// Returns the sum of a field over all entries of a list in a report.
pub fn sum(list: &Value, field: &str) -> u64 {
    let entries = list.as_array().unwrap();
    entries
        .iter()
        .map(|entry| entry[field].as_u64().unwrap())
        .sum()
}
