//! Exit codes, and the one line on standard error that explains each code except 0.
//!
//! Commands return errors; the code follows from the error's type, wherever it is in the chain of
//! causes. An error that originates in a command is made by [`Exit::error`] and carries its code
//! along.

use std::fmt;
use std::io;

use anyhow::Error;
use ipc_queue::snapshot::SnapshotError;
use ipc_queue::{
    BridgeError, ControlError, ControlFailure, DrainError, Feature, QueueError, RecvFailure,
    RecvTimeoutError, SendFailure, SendTimeoutError, SettleFailure, Unavailable, Unsupported,
};
use ipc_shm::{CreateError, NamespaceError, OpenError};

use crate::advice;

/// How the command ended. Part of the command's interface: scripts depend on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Something else failed, or `doctor` found something bad.
    Failed,
    /// The command line is invalid; nothing was done.
    Usage,
    /// No such queue, no such dead letter, no message.
    NotThere,
    /// The time limit was reached.
    TimedOut,
    /// The queue or the command refused, because of permissions, the type, the state of the queue,
    /// or messages that would be lost.
    Refused,
    /// The server did not answer; whether it did what was asked is unknown, unless the message says
    /// so.
    Unreachable,
    /// A message with this key was sent before; this one was not sent.
    Duplicate,
    /// A signal ended the command before its work was done.
    Signal(u8),
    /// A code by the convention of monitoring programs; only `check` uses it.
    Check(u8),
}

impl Exit {
    /// The table for `ipc --help`; `ipc-cli/README.md` has the same.
    pub const HELP: &str = "\
Exit codes:
  0      done
  1      failed; doctor: something is bad
  2      the command line is invalid; nothing was done
  3      not found: no such queue, no such dead letter, key or snapshot, no message
  4      timed out: no room, or not drained in time
  5      refused: messages would be lost, no permission, wrong type, closed, paused or frozen
         queue, queue in use, local: address
  6      unreachable: the server did not answer, the outcome is unknown
  7      duplicate: a message with this key was sent before
  128+n  signal n ended the command before its work was done
ipc check has the codes of monitoring programs: 0 ok, 1 warning, 2 critical, 3 unknown.
Each code except 0 comes with one line on standard error that begins with \"error: \". A command
that has nothing to finish dies of the signal: the shell says 128+n, and there is no line.";

    /// Returns the number that the shell sees.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotThere => 3,
            Self::TimedOut => 4,
            Self::Refused => 5,
            Self::Unreachable => 6,
            Self::Duplicate => 7,
            Self::Check(code) => code,
            Self::Signal(number) => 128_u8.saturating_add(number),
        }
    }

    /// Creates an error that ends the command with this code.
    pub fn error(self, message: impl Into<String>) -> Error {
        let message = message.into();
        Error::new(Failure {
            exit: self,
            message,
        })
    }

    /// Returns the code for `error`: that of the first cause that has one.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        let known = error.chain().find_map(|cause| {
            let failure = cause.downcast_ref().map(|failure: &Failure| failure.exit);
            failure.or_else(|| of_library(cause))
        });
        known.unwrap_or(Self::Failed)
    }

    /// Returns the code for several failures: that of the gravest.
    #[must_use]
    pub fn gravest(exits: impl IntoIterator<Item = Self>) -> Option<Self> {
        exits.into_iter().max_by_key(|exit| match exit {
            Self::Signal(_) | Self::Check(_) => 7,
            Self::Unreachable => 6,
            Self::Refused => 5,
            Self::Failed => 4,
            Self::TimedOut => 3,
            Self::NotThere => 2,
            Self::Duplicate => 1,
            Self::Usage => 0,
        })
    }
}

/// An error with an exit code.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Returns the line for standard error, without its prefix: each cause once, then what to do.
#[must_use]
pub fn in_one_line(error: &Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        // Many errors include the text of their cause.
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    advice::with_options(&line, lacking(error))
}

/// Returns the feature that the queue was created without.
fn lacking(error: &Error) -> Option<Feature> {
    error.chain().find_map(|cause| {
        let in_send = cause.downcast_ref().and_then(|failure| match failure {
            SendFailure::Unsupported(lacking) => Some(lacking),
            _ => None,
        });
        let in_call = cause.downcast_ref().and_then(|failure| match failure {
            ControlFailure::Unsupported(lacking) => Some(lacking),
            _ => None,
        });
        let found = in_send.or(in_call).or_else(|| cause.downcast_ref());
        let lacking: &Unsupported = found?;
        let feature = lacking.feature;
        (*lacking == Unsupported::by_settings(feature)).then_some(feature)
    })
}

type Cause = dyn std::error::Error + 'static;

fn of_library(cause: &Cause) -> Option<Exit> {
    None.or_else(|| cause.downcast_ref().map(of_queue))
        .or_else(|| cause.downcast_ref().map(of_send))
        .or_else(|| cause.downcast_ref().map(of_send_timeout))
        .or_else(|| cause.downcast_ref().map(of_recv))
        .or_else(|| cause.downcast_ref().map(of_recv_timeout))
        .or_else(|| cause.downcast_ref().map(of_settle))
        .or_else(|| cause.downcast_ref().map(of_drain))
        .or_else(|| cause.downcast_ref().map(of_control))
        .or_else(|| cause.downcast_ref().map(of_bridge))
        .or_else(|| cause.downcast_ref().map(of_snapshot))
        .or_else(|| cause.downcast_ref().map(of_open))
        .or_else(|| cause.downcast_ref().map(of_create))
        .or_else(|| cause.downcast_ref().map(of_namespace))
        .or_else(|| cause.downcast_ref().map(|_: &Unsupported| Exit::Refused))
        .or_else(|| {
            cause
                .downcast_ref()
                .map(|_: &ipc_proto::NameError| Exit::Usage)
        })
        .or_else(|| cause.downcast_ref().map(of_io))
}

fn of_queue(error: &QueueError) -> Exit {
    match error {
        QueueError::Address { .. } | QueueError::Name(_) | QueueError::Settings(_) => Exit::Usage,
        QueueError::NotFound { .. } => Exit::NotThere,
        QueueError::Unsupported(_)
        | QueueError::SettingsDiffer { .. }
        | QueueError::Exists { .. }
        | QueueError::PayloadDiffers { .. } => Exit::Refused,
        QueueError::Create(error) => of_create(error),
        QueueError::Open(error) => of_open(error),
        QueueError::Namespace(error) => of_namespace(error),
        QueueError::Transport(_) => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

fn of_create(error: &CreateError) -> Exit {
    match error {
        CreateError::Exists { .. } => Exit::Refused,
        CreateError::Namespace(error) => of_namespace(error),
        CreateError::Io(error) => of_io(&error.source),
        _ => Exit::Failed,
    }
}

fn of_open(error: &OpenError) -> Exit {
    match error {
        OpenError::NotFound { .. } => Exit::NotThere,
        OpenError::NotAFile { .. }
        | OpenError::FolderNotEmpty { .. }
        | OpenError::ForeignOwner { .. }
        | OpenError::OpenToOthers { .. } => Exit::Refused,
        OpenError::Namespace(error) => of_namespace(error),
        OpenError::Io(error) => of_io(&error.source),
        _ => Exit::Failed,
    }
}

fn of_namespace(error: &NamespaceError) -> Exit {
    match error {
        NamespaceError::NotAFolder { .. }
        | NamespaceError::Relative { .. }
        | NamespaceError::ForeignOwner { .. }
        | NamespaceError::OpenToOthers { .. } => Exit::Refused,
        NamespaceError::Io { source, .. } => of_io(source),
        _ => Exit::Failed,
    }
}

fn of_io(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::Refused,
        _ => Exit::Failed,
    }
}

fn of_send(failure: &SendFailure) -> Exit {
    match failure {
        SendFailure::KeysFull { .. } => Exit::TimedOut,
        SendFailure::Duplicate { .. } => Exit::Duplicate,
        SendFailure::EmptyKey | SendFailure::NeverDelivered { .. } => Exit::Usage,
        SendFailure::Unsupported(_) | SendFailure::TooLarge { .. } | SendFailure::Closed => {
            Exit::Refused
        }
        SendFailure::Unavailable(cause) => of_unavailable(cause),
        _ => Exit::Failed,
    }
}

fn of_send_timeout(error: &SendTimeoutError) -> Exit {
    match error {
        SendTimeoutError::TimedOut { .. } => Exit::TimedOut,
        SendTimeoutError::Failed(error) => of_send(&error.failure),
        _ => Exit::Failed,
    }
}

fn of_recv(failure: &RecvFailure) -> Exit {
    match failure {
        RecvFailure::Closed => Exit::NotThere,
        RecvFailure::Unavailable(cause) => of_unavailable(cause),
        _ => Exit::Failed,
    }
}

fn of_recv_timeout(error: &RecvTimeoutError) -> Exit {
    error.failure().map_or(Exit::NotThere, of_recv)
}

fn of_settle(failure: &SettleFailure) -> Exit {
    match failure {
        SettleFailure::Unavailable(Unavailable::Transport { .. }) => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

fn of_unavailable(cause: &Unavailable) -> Exit {
    match cause {
        Unavailable::Removed => Exit::NotThere,
        Unavailable::Transport { .. } => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

fn of_drain(error: &DrainError) -> Exit {
    match error {
        DrainError::TimedOut { .. } => Exit::TimedOut,
        DrainError::Control(error) => of_control(error),
        _ => Exit::Failed,
    }
}

fn of_control(error: &ControlError) -> Exit {
    match &error.failure {
        ControlFailure::Unsupported(_)
        | ControlFailure::Closed
        | ControlFailure::Frozen { .. }
        | ControlFailure::Refused { .. } => Exit::Refused,
        ControlFailure::Unavailable(cause) => of_unavailable(cause),
        ControlFailure::Unreachable { .. } => Exit::Unreachable,
        ControlFailure::NotSent(failure) => of_send(failure),
        ControlFailure::Open(error) => of_queue(error),
        _ => Exit::Failed,
    }
}

fn of_bridge(error: &BridgeError) -> Exit {
    match error {
        BridgeError::Recv(error) => of_recv(&error.failure),
        BridgeError::Send(error) => of_send(&error.failure),
        BridgeError::Settle(error) => of_settle(&error.failure),
        _ => Exit::Failed,
    }
}

fn of_snapshot(error: &SnapshotError) -> Exit {
    match error {
        SnapshotError::Queue(error) => of_queue(error),
        SnapshotError::Control(error) => of_control(error),
        SnapshotError::Io { source, .. } => of_io(source),
        SnapshotError::NoFile { .. } => Exit::NotThere,
        SnapshotError::Same { .. } => Exit::Usage,
        SnapshotError::Damaged { .. }
        | SnapshotError::Encode(_)
        | SnapshotError::NotPut { .. }
        | SnapshotError::NotEnded { .. }
        | SnapshotError::FileStays { .. } => Exit::Failed,
        _ => Exit::Refused,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn each_code_is_in_the_help_and_in_the_readme() {
        let readme = include_str!("../README.md");
        let exits = [
            Exit::Failed,
            Exit::Usage,
            Exit::NotThere,
            Exit::TimedOut,
            Exit::Refused,
            Exit::Unreachable,
            Exit::Duplicate,
        ];
        for (index, exit) in exits.into_iter().enumerate() {
            assert_eq!(usize::from(exit.code()), index + 1);
            let line = format!("\n  {} ", exit.code());
            assert!(Exit::HELP.contains(&line), "no {line:?} in the help");
            let row = format!("\n| {} |", exit.code());
            assert!(readme.contains(&row), "no {row:?} in the README");
        }
        assert_eq!(Exit::Signal(15).code(), 143);
    }

    #[test]
    fn a_cause_contained_in_its_errors_text_is_printed_once() {
        let full = io::Error::from_raw_os_error(28);
        let text = full.to_string();
        let error = Error::new(full).context(format!("can't write: {text}"));
        let error = Err::<(), _>(error).context("saving").unwrap_err();
        assert_eq!(in_one_line(&error), format!("saving: can't write: {text}"));
    }

    #[test]
    fn the_code_is_found_below_any_context() {
        let error = Error::new(SendFailure::Closed)
            .context("sending")
            .context("again");
        assert_eq!(Exit::of(&error), Exit::Refused);
        let error = Exit::Duplicate.error("known").context("sending");
        assert_eq!(Exit::of(&error), Exit::Duplicate);
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(Exit::of(&Error::new(denied)), Exit::Refused);
    }
}
