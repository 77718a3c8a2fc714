//! `work`: runs a command for each message.
//!
//! Each of the `--jobs` threads receives through its own handle, runs one command at a time, and
//! settles the message according to how the command ended (`outcome.rs`). Reports go to the main
//! thread, the only one that prints. The commands of a thread are in one process group, whose
//! leader is a guard (`guard.rs`): it kills the group when this process ends for any reason.

mod guard;
mod job;
mod outcome;

use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};
use ipc_queue::transport::Wait;
use ipc_queue::{
    ByteDelivery, ByteQueue, ByteReceiver, Feature, Kind, RecvTimeoutError, TryRecvError,
};
use serde_json::Value;

use crate::address;
use crate::cli;
use crate::exit::Exit;
use crate::payload::Payloads;
use crate::recv::is_over;
use crate::show::{self, Show};
use crate::signals::EndSignals;
use job::{Job, Slot};

pub use guard::run as run_guard;

/// Time between two checks whether to stop.
const SLICE: Duration = Duration::from_millis(100);

/// A report of a thread to the main thread.
enum Report {
    /// The outcome of one message, as JSON, with a note for people if there is something to say.
    Job {
        value: Value,
        note: Option<String>,
    },
    Note(String),
}

/// Runs commands until the queue is closed or removed, or a signal asks the command to end.
pub fn work(what: &cli::Work, show: &Show) -> Result<()> {
    if what.placeholder.is_empty() {
        return Err(Exit::Usage.error("--placeholder is empty (is a variable unset?)"));
    }
    check_command(what)?;
    let queue = address::open_to_stay(&what.queue)?;
    let end = EndSignals::listen()?;
    let workers = Workers {
        what,
        queue: &queue,
        payloads: (!what.raw).then(|| Payloads::of(queue.transport().payload())),
        can_snooze: queue.transport().capabilities().has(Feature::Snooze),
        end: &end,
        claimed: AtomicUsize::new(0),
        busy: AtomicUsize::new(0),
        last_job: Mutex::new(Instant::now()),
        failed: AtomicUsize::new(0),
        is_json: show.is_json(),
    };
    let (reports, from_workers) = mpsc::channel();
    let ends: Vec<Result<()>> = thread::scope(|scope| {
        let start = |number| {
            let (workers, reports) = (&workers, reports.clone());
            let name = format!("ipc-work-{number}");
            thread::Builder::new()
                .name(name)
                .spawn_scoped(scope, move || workers.run_one(&reports))
        };
        let started: Vec<_> = (0..what.jobs).map(start).collect();
        drop(reports);
        for report in from_workers {
            print(report, show);
        }
        let ended = started.into_iter().map(|thread| {
            let thread = thread.context("starting a thread")?;
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        ended.collect()
    });
    ends.into_iter().collect()
}

fn print(report: Report, show: &Show) {
    match report {
        Report::Job { value, .. } if show.is_json() => show.done(&value, String::new),
        Report::Job { note, .. } => note.iter().for_each(|note| show::note(note)),
        Report::Note(note) => show::note(&note),
    }
}

/// Refuses a command that can't be run, before a message is taken for it.
fn check_command(what: &cli::Work) -> Result<()> {
    let program = Path::new(&what.command[0]);
    let is_there = |path: &Path| nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok();
    let found = match program.components().count() {
        // Search the way a shell does.
        1 if !what.command[0].to_string_lossy().contains('/') => {
            let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
            std::env::split_paths(&path).any(|folder| is_there(&folder.join(program)))
        }
        _ => is_there(program),
    };
    match found {
        true => Ok(()),
        false => Err(cannot_start(
            what,
            &io::Error::from_raw_os_error(nix::errno::Errno::ENOENT as i32),
        )),
    }
}

fn cannot_start(what: &cli::Work, error: &io::Error) -> Error {
    let program = what.command[0].to_string_lossy();
    Exit::Failed.error(format!(
        "can't run {program:?}: {error}; no message was lost, and none lost an attempt"
    ))
}

/// State shared by the threads.
struct Workers<'w> {
    what: &'w cli::Work,
    queue: &'w ByteQueue,
    /// `None`: commands get the raw bytes.
    payloads: Option<Payloads>,
    can_snooze: bool,
    end: &'w EndSignals,
    /// The number of jobs that have begun or are about to begin: at most `--count`.
    claimed: AtomicUsize,
    /// The number of running commands.
    busy: AtomicUsize,
    /// When a job last began or ended.
    last_job: Mutex<Instant>,
    /// The number of threads that failed; the others then finish what they hold.
    failed: AtomicUsize,
    is_json: bool,
}

enum Next<'a> {
    Message(ByteDelivery<'a>),
    Over,
}

impl Workers<'_> {
    fn run_one(&self, reports: &Sender<Report>) -> Result<()> {
        let ended = self.work_until_over(reports);
        if ended.is_err() {
            self.failed.fetch_add(1, Ordering::SeqCst);
        }
        ended
    }

    fn work_until_over(&self, reports: &Sender<Report>) -> Result<()> {
        let mut slot = Slot::new(self.what)?;
        let receiver = self.queue.receiver();
        while self.claim() {
            let delivery = match self.next(&receiver, reports)? {
                Next::Message(delivery) => delivery,
                Next::Over => return Ok(()),
            };
            if delivery.kind() == Kind::Shutdown {
                return Ok(delivery.ack()?);
            }
            self.busy.fetch_add(1, Ordering::SeqCst);
            let job = Job {
                what: self.what,
                payloads: self.payloads.as_ref(),
                lease: self.queue.transport().settings().lease,
                can_snooze: self.can_snooze,
                is_json: self.is_json,
            };
            let done = job.run(&mut slot, delivery);
            self.note_time();
            self.busy.fetch_sub(1, Ordering::SeqCst);
            // The main thread prints until all threads have ended.
            let _ = reports.send(done?);
        }
        Ok(())
    }

    /// Returns `true` if another job may begin, and counts it.
    fn claim(&self) -> bool {
        let most = self.what.count.unwrap_or(usize::MAX);
        let claim = |claimed| (claimed < most).then_some(claimed + 1);
        let claimed = self
            .claimed
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, claim);
        claimed.is_ok()
    }

    fn next<'r>(&self, receiver: &'r ByteReceiver, reports: &Sender<Report>) -> Result<Next<'r>> {
        loop {
            if self.end.is_asked() || self.failed.load(Ordering::SeqCst) > 0 {
                return Ok(Next::Over);
            }
            let received = match self.what.idle_timeout {
                Some(Duration::ZERO) => match receiver.try_recv() {
                    Err(TryRecvError::Failed(error)) => Err(error),
                    Ok(delivery) => Ok(Some(delivery)),
                    Err(_) => Ok(None),
                },
                timeout => {
                    let slice = timeout.map_or(SLICE, |time| time.min(SLICE));
                    match receiver.recv_within(Wait::at_most(slice)) {
                        Err(RecvTimeoutError::Failed(error)) => Err(error),
                        Ok(delivery) => Ok(Some(delivery)),
                        Err(_) => Ok(None),
                    }
                }
            };
            match received {
                Ok(Some(delivery)) => {
                    self.note_time();
                    return Ok(Next::Message(delivery));
                }
                Ok(None) if self.is_idle() => return self.over_idle(),
                Ok(None) if self.what.idle_timeout == Some(Duration::ZERO) => thread::sleep(SLICE),
                Ok(None) => {}
                Err(error) if is_over(&error.failure) => return Ok(Next::Over),
                Err(error) if error.is_of_one_message() => {
                    let _ = reports.send(Report::Note(error.to_string()));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends, unless only a pause kept the messages back: they would be taken for done.
    fn over_idle<'r>(&self) -> Result<Next<'r>> {
        let (queue, transport) = (&self.what.queue, self.queue.transport());
        let stats = transport.stats()?;
        match stats.paused && stats.ready > 0 {
            true => Err(Exit::Refused.error(format!(
                "{} messages of {queue} wait, but it is paused and delivers nothing until ipc \
                 resume {queue}",
                stats.ready
            ))),
            false => Ok(Next::Over),
        }
    }

    /// Returns `true` if there has been nothing to do for `--idle-timeout`.
    fn is_idle(&self) -> bool {
        let Some(timeout) = self.what.idle_timeout else {
            return false;
        };
        let last = *self.last_job.lock().unwrap_or_else(PoisonError::into_inner);
        self.busy.load(Ordering::SeqCst) == 0 && last.elapsed() >= timeout
    }

    fn note_time(&self) {
        *self.last_job.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}
