//! A worker that is a thread of the pool's process, as its pool sees it.
//!
//! A thread cannot be killed. It is told to end, and does so at its next call to the pool, as if it
//! had died there. A thread that makes no call continues, and the pool waits only a short time for
//! it.

use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollFlags, poll};

use super::cancellations::Cancellations;
use super::wire::WorkerConfig;
use super::worker::{Handlers, PoolLink};

/// The wait for a thread that should end, because its job may take long.
const PATIENCE_MS: u16 = 1000;
const FAILED: i32 = 1 << 8;
const KILLED: i32 = 9;

/// A worker's thread.
#[derive(Debug)]
pub(super) struct Thread {
    handle: Option<JoinHandle<Result<(), String>>>,
    killed: Arc<AtomicBool>,
    /// Its pipe ends when the thread ends.
    ended: PipeReader,
    last_words: String,
}

impl Thread {
    pub(super) fn start(
        handlers: &Arc<Handlers>,
        config: WorkerConfig,
        cancellations: Arc<Cancellations>,
    ) -> io::Result<Self> {
        let (ended, lives) = io::pipe()?;
        let killed = Arc::new(AtomicBool::new(false));
        let link = PoolLink::Thread {
            cancellations,
            killed: Arc::clone(&killed),
        };
        let handlers = Arc::clone(handlers);
        let named = thread::Builder::new().name(config.name.clone());
        let handle = named.spawn(move || {
            let _lives = lives;
            let worked = handlers.work(config, link);
            worked.map_err(|error| error.to_string())
        })?;
        Ok(Self {
            handle: Some(handle),
            killed,
            ended,
            last_words: String::new(),
        })
    }

    pub(super) fn kill(&self) {
        self.killed.store(true, Ordering::Relaxed);
    }

    /// Returns how it ended, after its end.
    pub(super) fn reap(&mut self) -> ExitStatus {
        let status = match self.handle.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => 0,
            Some(Ok(Err(words))) => {
                self.last_words = words;
                FAILED
            }
            Some(Err(_)) => KILLED,
        };
        ExitStatus::from_raw(status)
    }

    pub(super) fn last_words(&self) -> String {
        self.last_words.clone()
    }
}

impl AsFd for Thread {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.kill();
        let mut fds = [PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
        if self.handle.is_some() && matches!(poll(&mut fds, PATIENCE_MS), Ok(1..)) {
            self.reap();
        }
    }
}
