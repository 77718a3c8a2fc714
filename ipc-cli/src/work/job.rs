//! One command for one message.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipc_queue::{ByteDelivery, MessageId, Nack, SettleError};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::json;
use tempfile::TempDir;

use super::guard::Guard;
use super::outcome::{Killed, LastLine, Outcome, signal_of};
use super::{Report, cannot_start};
use crate::cli;
use crate::headers;
use crate::payload::Payloads;
use crate::show;

/// The time between SIGTERM and SIGKILL for a command.
const GRACE: Duration = Duration::from_secs(5);

/// What one thread keeps from one job to the next.
pub struct Slot {
    guard: Option<Guard>,
    /// The folder for payloads, if commands get them as files.
    folder: Option<TempDir>,
}

impl Slot {
    pub fn new(what: &cli::Work) -> Result<Self> {
        let placeholder = what.placeholder.as_bytes();
        let wants_file = |arg: &OsString| find(arg.as_bytes(), placeholder).is_some();
        let folder = match what.command.iter().any(wants_file) {
            true => Some(tempfile::Builder::new().prefix("ipc-work-").tempdir()),
            false => None,
        };
        Ok(Self {
            guard: None,
            folder: folder.transpose().context("making a folder for payloads")?,
        })
    }

    /// Returns a guard that is alive, and starts one if necessary.
    fn guard(&mut self) -> io::Result<&mut Guard> {
        if !self.guard.as_mut().is_some_and(Guard::is_alive) {
            self.guard = None;
        }
        match &mut self.guard {
            Some(guard) => Ok(guard),
            none => {
                let folder = self.folder.as_ref().map(TempDir::path);
                Ok(none.insert(Guard::start(folder)?))
            }
        }
    }
}

/// How to run commands.
pub struct Job<'j> {
    pub what: &'j cli::Work,
    pub payloads: Option<&'j Payloads>,
    /// The lease of the queue.
    pub lease: Option<Duration>,
    pub can_snooze: bool,
    pub is_json: bool,
}

/// How a command ended.
struct Ended {
    status: ExitStatus,
    killed: Option<Killed>,
    last_line: String,
}

impl Job<'_> {
    /// Runs the command to its end and settles the message.
    ///
    /// # Errors
    /// The command can't be started at all, or the message could not be settled. The message is
    /// then delivered again.
    pub fn run(&self, slot: &mut Slot, delivery: ByteDelivery<'_>) -> Result<Report> {
        let started = Instant::now();
        let mut child = match self.start_guarded(slot, &delivery) {
            Ok(child) => child,
            Err(error) if is_of_the_program(&error) => {
                let _ = self.put_off(delivery, Duration::ZERO, "");
                return Err(cannot_start(self.what, &error));
            }
            Err(error) if is(&error, Errno::E2BIG) => return self.too_large(delivery, &error),
            // The machine lacks a resource, such as processes, memory or room for the file.
            Err(error) => return self.not_started(delivery, &error),
        };
        let guard = slot.guard().context("looking for the guard")?;
        let ended = self.watch(&mut child, guard, &delivery)?;
        let outcome = Outcome::of(ended.status, ended.killed, &ended.last_line);
        let (id, attempt) = (delivery.id(), delivery.attempt());
        self.settle(delivery, &outcome)?;
        let value = json!({
            "message": id.to_string(),
            "attempt": attempt,
            "outcome": outcome.name(),
            "exit_code": ended.status.code(),
            "signal": signal_of(ended.status),
            "reason": outcome.reason(),
            "run_seconds": started.elapsed().as_secs_f64(),
        });
        let note = match &outcome {
            Outcome::Acked => None,
            Outcome::LeaseLost => Some("its lease was lost, so its command was killed".to_owned()),
            other => Some(format!("{}: {}", other.name(), other.reason())),
        };
        Ok(Report::Job {
            value,
            note: note.map(|note| format!("message {id}, attempt {attempt}: {note}")),
        })
    }

    /// Its headers do not fit the environment of a command.
    fn too_large(&self, delivery: ByteDelivery<'_>, error: &io::Error) -> Result<Report> {
        let ids = (delivery.id(), delivery.attempt());
        let reason = format!("the command was not started: {error}");
        delivery.nack_with(Nack::new().reason(&reason))?;
        Ok(without_run(ids, &Outcome::Nacked { reason }))
    }

    /// A shortage of the machine may last, and is not the message's fault: it costs no attempt.
    fn not_started(&self, delivery: ByteDelivery<'_>, error: &io::Error) -> Result<Report> {
        const PAUSE: Duration = Duration::from_secs(1);
        let ids = (delivery.id(), delivery.attempt());
        let reason = format!("the command was not started: {error}");
        self.put_off(delivery, PAUSE, &reason)?;
        Ok(without_run(ids, &Outcome::Snoozed { reason }))
    }

    /// Starts the command. Tries again if its guard was just killed, so that there was no group to
    /// join.
    fn start_guarded(&self, slot: &mut Slot, delivery: &ByteDelivery<'_>) -> io::Result<Child> {
        const ATTEMPTS: usize = 10;
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.start(slot, delivery) {
                Err(error) if is(&error, Errno::EPERM) && attempt < ATTEMPTS => {}
                started => return started,
            }
        }
    }

    fn start(&self, slot: &mut Slot, delivery: &ByteDelivery<'_>) -> io::Result<Child> {
        let payload = match self.payloads {
            Some(payloads) => payloads.readable(delivery.payload()),
            None => delivery.payload().into(),
        };
        let group = slot.guard()?.group();
        let file = slot
            .folder
            .as_ref()
            .map(|folder| folder.path().join("payload"));
        let input = match &file {
            Some(path) => {
                write_payload(path, &payload)?;
                Stdio::null()
            }
            None => in_memory(&payload)?.into(),
        };
        let mut command = self.command(file.as_ref());
        describe(&mut command, self.what, delivery);
        command.stdin(input).stderr(Stdio::piped());
        if self.is_json {
            command.stdout(io::stderr().as_fd().try_clone_to_owned()?);
        }
        command.process_group(group).spawn()
    }

    /// Returns the command, with the payload file in place of `{}`.
    fn command(&self, file: Option<&PathBuf>) -> Command {
        let Some(file) = file else {
            let mut command = Command::new(&self.what.command[0]);
            command.args(&self.what.command[1..]);
            return command;
        };
        let put = |arg: &OsString| replace(arg, &self.what.placeholder, file.as_os_str());
        let mut command = Command::new(put(&self.what.command[0]));
        command.args(self.what.command[1..].iter().map(put));
        command.env("IPC_PAYLOAD_FILE", file);
        command
    }

    /// Waits for the end of the command; renews the lease, passes on its standard error, and kills
    /// it if it must not continue.
    fn watch(
        &self,
        child: &mut Child,
        guard: &Guard,
        delivery: &ByteDelivery<'_>,
    ) -> Result<Ended> {
        let pid = Pid::from_child(child);
        let end = pidfd_open(pid, PidfdFlags::empty()).context("watching the command")?;
        let mut errors = Errors::new(child.stderr.take())?;
        let mut next_renewal = Some(Instant::now() + self.between_renewals());
        let mut limit = self
            .what
            .time_limit
            .and_then(|time| Instant::now().checked_add(time));
        let (mut killed, mut insist) = (None, None);
        loop {
            let dates = [next_renewal, limit, insist];
            if errors.wait(&end, dates.into_iter().flatten().min())? {
                break;
            }
            let now = Instant::now();
            let is_due = |date: Option<Instant>| date.is_some_and(|date| date <= now);
            if is_due(next_renewal) {
                next_renewal = self.renew(delivery)?;
                if next_renewal.is_none() {
                    killed = Some(Killed::LeaseLost);
                }
            } else if is_due(limit) {
                killed = killed.or(Some(Killed::TimeLimit));
                limit = None;
            }
            if is_due(insist) {
                guard.signal(Signal::SIGKILL);
                insist = None;
            } else if killed.is_some() && insist.is_none() {
                guard.signal(Signal::SIGTERM);
                (limit, insist) = (None, Some(now + GRACE));
            }
        }
        Ok(Ended {
            status: child.wait().context("waiting for the command")?,
            killed,
            last_line: errors.last_line(),
        })
    }

    /// A lease without an end may still be revoked (`ipc revoke`).
    fn between_renewals(&self) -> Duration {
        const WITHOUT_END: Duration = Duration::from_secs(1);
        self.lease.map_or(WITHOUT_END, |lease| lease / 3)
    }

    /// Renews the lease and returns when to do so again; `None` if it is lost.
    fn renew(&self, delivery: &ByteDelivery<'_>) -> Result<Option<Instant>> {
        let again = Instant::now() + self.between_renewals();
        match delivery.extend(3 * self.between_renewals()) {
            Ok(()) => Ok(Some(again)),
            Err(error) if error.is_lease_lost() => Ok(None),
            // The command may still end in time; if not, settling reports it.
            Err(error) => {
                show::note(&format!("renewing the lease of {}: {error}", delivery.id()));
                Ok(Some(again))
            }
        }
    }

    fn settle(&self, delivery: ByteDelivery<'_>, outcome: &Outcome) -> Result<()> {
        let id = delivery.id();
        let settled = match outcome {
            Outcome::Acked => delivery.ack(),
            Outcome::Nacked { reason } => delivery.nack_with(Nack::new().reason(reason)),
            Outcome::Snoozed { reason } => self.put_off(delivery, self.what.snooze, reason),
            Outcome::Buried { reason } => delivery.bury_with(reason),
            Outcome::LeaseLost => Ok(()),
        };
        match settled {
            Err(error) if error.is_lease_lost() => {
                show::note(&format!(
                    "message {id}: its command ended after its lease, and may run again"
                ));
                Ok(())
            }
            settled => settled.with_context(|| {
                format!(
                    "message {id} was {}, but that was not recorded: it may be delivered again",
                    outcome.name()
                )
            }),
        }
    }

    /// Snoozes the message, without losing an attempt where the transport supports that.
    fn put_off(
        &self,
        delivery: ByteDelivery<'_>,
        delay: Duration,
        reason: &str,
    ) -> Result<(), SettleError> {
        match self.can_snooze {
            true => delivery.snooze(delay),
            false => delivery.nack_with(Nack::new().after(delay).reason(reason)),
        }
    }
}

/// The report of a message whose command was not started.
fn without_run((id, attempt): (MessageId, u8), outcome: &Outcome) -> Report {
    let (name, reason) = (outcome.name(), outcome.reason());
    Report::Job {
        value: json!({
            "message": id.to_string(),
            "attempt": attempt,
            "outcome": name,
            "exit_code": null,
            "signal": null,
            "reason": reason,
            "run_seconds": 0.0,
        }),
        note: Some(format!("message {id}, attempt {attempt}: {name}: {reason}")),
    }
}

/// Returns `true` if the error concerns the program, so that no message could be processed.
fn is_of_the_program(error: &io::Error) -> bool {
    let codes = [
        Errno::ENOENT,
        Errno::EACCES,
        Errno::ENOEXEC,
        Errno::ENOTDIR,
        Errno::EISDIR,
        Errno::ELOOP,
        Errno::ELIBBAD,
    ];
    codes.into_iter().any(|code| is(error, code))
}

fn is(error: &io::Error, code: Errno) -> bool {
    error.raw_os_error() == Some(code as i32)
}

/// Sets the environment variables that describe the message to the command.
fn describe(command: &mut Command, what: &cli::Work, delivery: &ByteDelivery<'_>) {
    let metadata = delivery.metadata();
    command
        .env("IPC_QUEUE", &what.queue)
        .env("IPC_MESSAGE", metadata.id.to_string())
        .env("IPC_KIND", format!("{:?}", metadata.kind).to_lowercase())
        .env("IPC_ATTEMPT", metadata.attempt.to_string())
        .env("IPC_DELIVERY", metadata.delivery.to_string())
        .env(
            "IPC_SENT_AT_NANOSECONDS",
            metadata.sent_at.as_nanos().to_string(),
        );
    let found = delivery.headers();
    command.env("IPC_HEADERS", headers::json(&found).to_string());
    for (name, value) in found.iter() {
        // No variable can contain a NUL byte; the header is in IPC_HEADERS.
        if value.contains(&0) {
            continue;
        }
        let name = name.to_ascii_uppercase().replace(['.', '-'], "_");
        command.env(format!("IPC_HEADER_{name}"), OsStr::from_bytes(value));
    }
}

/// Returns a file in memory, to be read from its beginning. So no thread has to feed a pipe, and a
/// command that does not read blocks nothing.
fn in_memory(payload: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"ipc-payload", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(payload)?;
    file.rewind()?;
    Ok(file)
}

/// Writes the payload file. Cleaners of `/tmp` delete folders that are not used for days, so the
/// folder is made again if it is missing.
fn write_payload(path: &Path, payload: &[u8]) -> io::Result<()> {
    match (fs::write(path, payload), path.parent()) {
        (Err(error), Some(folder)) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().mode(0o700).create(folder)?;
            fs::write(path, payload)
        }
        (written, _) => written,
    }
}

fn replace(arg: &OsStr, placeholder: &OsStr, with: &OsStr) -> OsString {
    let (mut rest, placeholder) = (arg.as_bytes(), placeholder.as_bytes());
    let mut out = Vec::new();
    while let Some(at) = find(rest, placeholder) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(with.as_bytes());
        rest = &rest[at + placeholder.len()..];
    }
    out.extend_from_slice(rest);
    OsString::from_vec(out)
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return None;
    }
    text.windows(part.len()).position(|window| window == part)
}

/// A command's standard error. It is passed on, and its last line is kept.
struct Errors {
    /// `None` after its end.
    pipe: Option<ChildStderr>,
    last: LastLine,
}

impl Errors {
    fn new(pipe: Option<ChildStderr>) -> Result<Self> {
        if let Some(pipe) = &pipe {
            let flags = OFlag::from_bits_truncate(fcntl(pipe.as_fd(), FcntlArg::F_GETFL)?);
            fcntl(pipe.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        Ok(Self {
            pipe,
            last: LastLine::default(),
        })
    }

    /// Waits until the command ends, writes something, or `date` arrives. Returns `true` if it
    /// ended.
    fn wait(&mut self, end: &OwnedFd, date: Option<Instant>) -> Result<bool> {
        let timeout = date.map_or(PollTimeout::NONE, |date| {
            let left = date.saturating_duration_since(Instant::now());
            // Rounded up: otherwise the last millisecond would be spent polling.
            let millis = left.as_millis().saturating_add(1).min(60_000);
            PollTimeout::try_from(millis as i32).unwrap_or(PollTimeout::MAX)
        });
        let polled = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds: Vec<_> = [Some(end.as_fd()), self.pipe.as_ref().map(AsFd::as_fd)]
            .into_iter()
            .flatten()
            .map(|fd: BorrowedFd<'_>| polled(fd))
            .collect();
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let (ended, wrote) = (is_ready(&fds[0]), fds.get(1).is_some_and(is_ready));
        if wrote {
            self.read();
        }
        Ok(ended)
    }

    /// Reads what is available. The pipe may outlive the command, because processes that it left in
    /// the background may hold it open.
    fn read(&mut self) {
        const MOST: usize = 64;
        let mut buffer = [0; 4096];
        for _ in 0..MOST {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    self.last.add(&buffer[..count]);
                    // A failed write to standard error can't be reported.
                    let _ = io::stderr().lock().write_all(&buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }

    fn last_line(mut self) -> String {
        self.read();
        self.last.into_text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_too_large_a_command_line_is_the_messages_fault() {
        let of_the_program =
            |code: Errno| is_of_the_program(&io::Error::from_raw_os_error(code as i32));
        for code in [Errno::ENOENT, Errno::EACCES, Errno::ENOEXEC, Errno::ELOOP] {
            assert!(of_the_program(code), "{code}");
        }
        for code in [Errno::E2BIG, Errno::EAGAIN, Errno::ENOMEM, Errno::ENOSPC] {
            assert!(!of_the_program(code), "{code}");
        }
    }

    #[test]
    fn every_placeholder_is_replaced_and_nothing_else() {
        let put = |arg: &str| replace(OsStr::new(arg), OsStr::new("{}"), OsStr::new("/tmp/p"));
        assert_eq!(put("in={} out={}.png"), "in=/tmp/p out=/tmp/p.png");
        assert_eq!(put("{ }"), "{ }");
    }
}
