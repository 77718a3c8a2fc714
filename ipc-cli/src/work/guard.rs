//! The guard of a process group: kills it when `ipc work` dies.
//!
//! The guard is a separate process, started from the same program, and the leader of its process
//! group. Commands are started as members of that group. The guard reads a pipe whose only write
//! end is held by `ipc work`. So it sees the end of the pipe when `ipc work` is gone for any
//! reason, and then kills its own group.
//!
//! No command can slip through. A child that is just being started has a copy of the pipe's write
//! end until it runs its program. By then it is in the group, so the guard can't see the end of the
//! pipe too early.
//!
//! Processes that a command left running in the group end at the same time. A process that left the
//! group (`setsid`) does not.

use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgrp, getpid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::exit::Exit;

/// A process group with its guard. Dropping it kills the group.
#[derive(Debug)]
pub struct Guard {
    process: Child,
}

impl Guard {
    /// Starts a guard, which also removes `folder` when it ends.
    pub fn start(folder: Option<&Path>) -> io::Result<Self> {
        // The program that runs now, even if its file was replaced.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("ipc-work-guard")
            .arg("work-guard")
            .args(folder);
        let process = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { process })
    }

    /// The number of the group.
    pub fn group(&self) -> i32 {
        self.process.id() as i32
    }

    /// Returns `true` if the guard still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Sends a signal to every process of the group. The guard itself ends only on SIGKILL.
    pub fn signal(&self, signal: Signal) {
        let _ = killpg(Pid::from_raw(self.group()), signal);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Runs the guard. Returns only if it can't guard.
pub fn run(folder: Option<PathBuf>) -> Result<()> {
    if getpgrp() != getpid() {
        return Err(Exit::Usage.error("work-guard is for ipc work only, which starts it"));
    }
    // A signal that ends a service reaches all of its processes, and commands may still be
    // finishing.
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        let caught = signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)));
        caught.context("listening to signals")?;
    }
    // Nothing is ever written: this returns when the writer is gone.
    let _ = io::stdin().read_to_end(&mut Vec::new());
    if let Some(folder) = folder {
        let _ = fs::remove_dir_all(folder);
    }
    Ok(killpg(getpgrp(), Signal::SIGKILL)?)
}
