//! A pool in a separate process, which is killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;

use ipc_node::pool::{Pool, PoolError, Ticket};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::{is_gone, numbers_in, pool, program, said_in, say_in, until};

const FOLDER: &str = "POOL_TEST_FOLDER";
const ADDRESS: &str = "POOL_TEST_ADDRESS";
const WORKERS: &str = "POOL_TEST_WORKERS";
const SCRIPT: &str = "POOL_TEST_SCRIPT";

/// What the process does with its pool. It never ends by itself, unless it can't create the pool.
#[derive(Clone, Copy, Debug)]
pub enum Script {
    /// Lets every worker start a program and continue.
    Children,
    /// Keeps every worker busy with a job, while as many jobs wait.
    Busy,
    /// Nothing.
    Idle,
    /// Lets its worker start a program, keep a job, and end after it.
    Leaving,
}

/// The process, and the folder for its reports.
pub struct OtherPool {
    pub folder: TempDir,
    process: Child,
}

/// Only when started by `OtherPool`.
#[test]
fn pool_of_another_process() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let folder = Path::new(&folder);
    let number = |name| std::env::var(name).unwrap().parse::<usize>().unwrap();
    let workers = number(WORKERS);
    let mut builder = pool(workers).capacity(64);
    if number(SCRIPT) == Script::Leaving as usize {
        builder = builder.max_jobs(1);
    }
    if let Ok(address) = std::env::var(ADDRESS) {
        builder = builder.at(&address);
    }
    say_in(&folder.join("starts"), std::process::id());
    let pool = match builder.start() {
        Ok(pool) => pool,
        Err(PoolError::Taken { owner, .. }) => {
            let text = format!("{} {}", owner.pid, owner.is_elsewhere);
            fs::write(folder.join("taken"), text).unwrap();
            return;
        }
        Err(error) => panic!("{error}"),
    };
    play(&pool, number(SCRIPT), workers, folder);
    until("workers are ready", || {
        let ready = pool.workers();
        ready.iter().filter(|worker| worker.ready).count() == workers
    });
    for worker in pool.workers() {
        say_in(&folder.join(format!("{}.worker", worker.pid)), worker.pid);
    }
    say_in(&folder.join("pool"), std::process::id());
    loop {
        thread::park();
    }
}

fn play(pool: &Pool, script: usize, workers: usize, folder: &Path) {
    let shown = folder.display().to_string();
    let mut tickets: Vec<Ticket<()>> = Vec::new();
    match script {
        0 => tickets.extend((0..workers).map(|_| {
            let job = (&shown, workers);
            pool.submit("have a child", &job).unwrap()
        })),
        1 => tickets.extend((0..2 * workers).map(|job| {
            let file = format!("{shown}/{job}.busy");
            pool.submit("stay", &file).unwrap()
        })),
        3 => {
            let files = (format!("{shown}/0.child"), format!("{shown}/0.busy"));
            tickets.push(pool.submit("stay with a child", &files).unwrap());
        }
        _ => {}
    }
    if script == 0 {
        tickets.drain(..).for_each(|ticket| ticket.wait().unwrap());
    }
    if script == 1 {
        until("all are at work", || {
            numbers_in(folder, "busy").len() == workers
        });
    }
}

impl OtherPool {
    pub fn command(
        folder: &Path,
        address: Option<&str>,
        workers: usize,
        script: Script,
    ) -> Command {
        let mut command = program("other::pool_of_another_process");
        command
            .env(FOLDER, folder)
            .env(WORKERS, workers.to_string())
            .env(SCRIPT, (script as usize).to_string());
        if let Some(address) = address {
            command.env(ADDRESS, address);
        }
        command
    }

    /// Starts one and waits until it is ready.
    pub fn start(address: Option<&str>, workers: usize, script: Script) -> Self {
        let other = Self::begin(address, workers, script);
        said_in(&other.file("pool"));
        other
    }

    /// Starts one.
    pub fn begin(address: Option<&str>, workers: usize, script: Script) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = Self::command(folder.path(), address, workers, script).spawn();
        Self {
            process: process.unwrap(),
            folder,
        }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn workers(&self) -> Vec<i32> {
        numbers_in(self.folder.path(), "worker")
    }

    /// Kills the process alone.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Kills the process and its workers at once, so that none of them sees another's end.
    pub fn kill_with_workers(&mut self) {
        let workers = self.workers();
        let everybody = || {
            workers
                .iter()
                .copied()
                .chain([self.process.id().cast_signed()])
        };
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            everybody().for_each(|pid| kill(Pid::from_raw(pid), signal).unwrap());
        }
        self.process.wait().unwrap();
        until("the workers end", || {
            workers.iter().all(|pid| is_gone(*pid))
        });
    }
}

/// Even a failing test leaves no process behind.
impl Drop for OtherPool {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
