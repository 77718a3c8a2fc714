//! A worker process, as its pool sees it: it is started, watched, and killed with everything it
//! started.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use flume::{Receiver, Sender};
use ipc_shm::ProcessIdentity;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::cancellations::Cancellations;
use super::wire::{PLACE, WorkerConfig};

/// The size of the part of a worker's standard error that is kept: its end.
const TAIL_BYTES: usize = 4096;
/// The wait for the rest of the output of a worker that ended. A program that it started may keep
/// the pipe open longer.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A worker's process.
#[derive(Debug)]
pub(super) struct Child {
    child: std::process::Child,
    /// Readable when the process ended.
    pidfd: OwnedFd,
    stderr: Arc<Mutex<Vec<u8>>>,
    /// Closed when nothing writes to the worker's standard error any more.
    silent: Receiver<()>,
    reaped: bool,
}

impl Child {
    /// Starts a worker in a process group of its own. It gets one end of a pipe. The other end is
    /// kept in `cancellations` while the worker is to live.
    pub(super) fn start(
        command: &mut Command,
        config: &WorkerConfig,
        cancellations: &Cancellations,
    ) -> io::Result<Self> {
        let (end, lifeline) = io::pipe()?;
        cancellations.enlist(config.start, lifeline)?;
        let mut child = command
            .env(PLACE, config.to_text())
            .stdin(Stdio::from(end))
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        // Otherwise the command would keep the reading end of the pipe open.
        command.stdin(Stdio::null());
        let identity = ProcessIdentity {
            pid: child.id(),
            start_ticks: 0,
            ..ProcessIdentity::current()
        };
        let stderr = Arc::default();
        let watched = identity.pidfd().map_err(|reason| {
            let _ = child.kill();
            let _ = child.wait();
            io::Error::other(format!("a worker can't be watched: {reason:?}"))
        });
        let pidfd = watched?;
        let (speaks, silent) = flume::bounded(0);
        if let Some(source) = child.stderr.take() {
            pass_on(source, Arc::clone(&stderr), speaks)?;
        }
        Ok(Self {
            child,
            pidfd,
            stderr,
            silent,
            reaped: false,
        })
    }
}

/// Forwards a worker's output to our own standard error, and keeps the end of it.
fn pass_on(
    mut source: ChildStderr,
    tail: Arc<Mutex<Vec<u8>>>,
    speaks: Sender<()>,
) -> io::Result<()> {
    let copy = move || {
        let _speaks = speaks;
        let mut chunk = [0; 1024];
        while let Ok(len @ 1..) = source.read(&mut chunk) {
            let _ = io::stderr().write_all(&chunk[..len]);
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            tail.extend_from_slice(&chunk[..len]);
            let surplus = tail.len().saturating_sub(TAIL_BYTES);
            tail.drain(..surplus);
        }
    };
    let named = thread::Builder::new().name("ipc-pool-stderr".to_owned());
    named.spawn(copy).map(drop)
}

impl Child {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process and everything in its group. It is not reaped yet, so its group's number
    /// cannot be reused. A worker that is about to end may have left its group.
    pub(super) fn kill(&self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Returns how it ended, after its pidfd became readable. Everything it started is killed
    /// first.
    pub(super) fn reap(&mut self) -> io::Result<ExitStatus> {
        self.kill();
        let status = self.child.wait()?;
        self.reaped = true;
        Ok(status)
    }

    /// Returns the end of its standard error. Waits a short time for the rest of it.
    pub(super) fn last_words(&self) -> String {
        let _ = self.silent.recv_timeout(LAST_WORDS);
        let tail = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&tail).trim().to_owned()
    }

    /// Returns the memory that it uses, in bytes. `None` if that is unknown, for example after its
    /// end.
    pub(super) fn resident_bytes(&self) -> Option<u64> {
        resident_bytes(self.child.id())
    }
}

/// Returns the memory that a process uses, in bytes. `None` if that is unknown, for example without
/// `/proc`.
pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // After it was reaped, its number may belong to another process.
        if !self.reaped {
            let _ = self.reap();
        }
    }
}
