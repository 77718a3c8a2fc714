//! The kinds of workers: processes or threads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};

use super::cancellations::Cancellations;
use super::child::Child;
use super::thread::Thread;
use super::wire::WorkerConfig;
use super::worker::Handlers;

/// The way to start workers.
#[derive(Debug, Default)]
pub(super) enum Program {
    /// This program again, with these arguments.
    ///
    /// Started through `/proc/self/exe`, because its original path may now belong to another
    /// program, or to none.
    #[default]
    This,
    /// Another program.
    Other(Box<Mutex<Command>>),
    /// No program: threads of this process.
    Threads(Arc<Handlers>),
}

/// A worker that was started and not reaped yet.
#[derive(Debug)]
pub(super) enum Body {
    Process(Child),
    Thread(Thread),
}

impl Program {
    pub(super) fn start(
        &self,
        config: &WorkerConfig,
        cancellations: &Arc<Cancellations>,
    ) -> io::Result<Body> {
        let started = match self {
            Self::This => {
                let mut again = Command::new("/proc/self/exe");
                again.args(std::env::args_os().skip(1));
                Child::start(&mut again, config, cancellations).map(Body::Process)
            }
            Self::Other(command) => {
                let mut command = command.lock().unwrap_or_else(PoisonError::into_inner);
                Child::start(&mut command, config, cancellations).map(Body::Process)
            }
            Self::Threads(handlers) => {
                Thread::start(handlers, config.clone(), Arc::clone(cancellations)).map(Body::Thread)
            }
        };
        started.inspect_err(|_| cancellations.dismiss(config.start))
    }
}

impl Body {
    pub(super) fn pid(&self) -> u32 {
        match self {
            Self::Process(child) => child.pid(),
            Self::Thread(_) => std::process::id(),
        }
    }

    /// Ends it: a process at once with everything it started, a thread at its next call to the
    /// pool.
    pub(super) fn kill(&self) {
        match self {
            Self::Process(child) => child.kill(),
            Self::Thread(thread) => thread.kill(),
        }
    }

    /// Returns how it ended, after its descriptor became readable.
    pub(super) fn reap(&mut self) -> io::Result<ExitStatus> {
        match self {
            Self::Process(child) => child.reap(),
            Self::Thread(thread) => Ok(thread.reap()),
        }
    }

    /// Returns its last output about its end.
    pub(super) fn last_words(&self) -> String {
        match self {
            Self::Process(child) => child.last_words(),
            Self::Thread(thread) => thread.last_words(),
        }
    }

    /// Returns the memory that it uses by itself, in bytes. `None` if that is unknown.
    pub(super) fn resident_bytes(&self) -> Option<u64> {
        match self {
            Self::Process(child) => child.resident_bytes(),
            Self::Thread(_) => None,
        }
    }
}

/// Readable when it ended.
impl AsFd for Body {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Process(child) => child.as_fd(),
            Self::Thread(thread) => thread.as_fd(),
        }
    }
}

/// Explains why a process ended that we did not kill.
pub(super) fn explain(status: ExitStatus) -> String {
    match status.signal() {
        Some(9) => {
            "SIGKILL that the pool did not send: probably the kernel, out of memory".to_owned()
        }
        Some(_) => format!("it ended with {status}"),
        None => format!("it exited by itself, with {status}"),
    }
}
