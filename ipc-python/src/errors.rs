//! The errors of the Rust crates as Python exceptions.
//!
//! The classes are in `ipc_queue/errors.py`, since most have a base among Python's own exceptions.
//! Their texts are the Rust errors' texts; figures are attributes.

use std::fmt::Display;

use ipc_node::RegistryError;
use ipc_node::pool::PoolError;
use ipc_queue::{
    ControlError, ControlFailure, DrainError, NoRoom, QueueError, RecvError, RecvFailure,
    RecvTimeoutError, SendError, SendFailure, SendTimeoutError, SettleError, SettleFailure,
    TryRecvError, TrySendError, Unavailable,
};
use ipc_shm::{BufferError, CreateError, JoinError, OpenError};
use pyo3::prelude::*;

/// Creates an instance of the class `name` of `ipc_queue.errors`, with attributes.
pub fn new(py: Python<'_>, name: &str, text: &dyn Display, facts: &[(&str, u64)]) -> PyErr {
    let made = || -> PyResult<PyErr> {
        let class = py.import("ipc_queue.errors")?.getattr(name)?;
        let error = class.call1((text.to_string(),))?;
        for (fact, value) in facts {
            error.setattr(*fact, value)?;
        }
        Ok(PyErr::from_value(error))
    };
    made().unwrap_or_else(|error| error)
}

/// The class for a cause that all operations have in common.
fn unavailable(cause: &Unavailable) -> &'static str {
    match cause {
        Unavailable::Removed | Unavailable::Deleted => "Removed",
        Unavailable::Forked => "Forked",
        Unavailable::Truncated => "Damaged",
        Unavailable::DescriptorLost { .. } => "DescriptorLost",
        Unavailable::Transport { .. } => "Unreachable",
        _ => "Error",
    }
}

pub fn of_send(py: Python<'_>, error: &SendError) -> PyErr {
    let size = |bytes: usize| bytes as u64;
    let (name, facts): (&str, Vec<(&str, u64)>) = match &error.failure {
        SendFailure::TooLarge { bytes, most } => (
            "TooLarge",
            vec![("bytes", size(*bytes)), ("most", size(*most))],
        ),
        SendFailure::KeysFull { keys, .. } => ("KeysFull", vec![("keys", *keys)]),
        SendFailure::EmptyKey => ("EmptyKey", vec![]),
        SendFailure::Unsupported(_) => ("Unsupported", vec![]),
        SendFailure::Closed => ("Closed", vec![]),
        SendFailure::Damaged { .. } => ("Damaged", vec![]),
        SendFailure::Unavailable(cause) => (unavailable(cause), vec![]),
        _ => ("Error", vec![]),
    };
    new(py, name, error, &facts)
}

pub fn of_try_send(py: Python<'_>, error: &TrySendError) -> PyErr {
    match error {
        TrySendError::Full { capacity, dead, .. } => {
            let facts = [("capacity", (*capacity).into()), ("dead", *dead)];
            new(py, "Full", error, &facts)
        }
        TrySendError::NoMemory { bytes, .. } => new(py, "Full", error, &[("bytes", *bytes)]),
        TrySendError::KeyInUse { .. } => new(py, "KeyInUse", error, &[]),
        TrySendError::Failed(error) => of_send(py, error),
        other => new(py, "Error", other, &[]),
    }
}

pub fn of_send_timeout(py: Python<'_>, error: &SendTimeoutError) -> PyErr {
    let (missing, dead) = match error {
        SendTimeoutError::TimedOut { missing, dead, .. } => (missing, ("dead", *dead)),
        SendTimeoutError::Failed(error) => return of_send(py, error),
        other => return new(py, "Error", other, &[]),
    };
    match missing {
        NoRoom::Places { capacity } => {
            let facts = [("capacity", (*capacity).into()), dead];
            new(py, "Full", error, &facts)
        }
        NoRoom::Memory { bytes } => new(py, "Full", error, &[("bytes", *bytes), dead]),
        NoRoom::Key => new(py, "KeyInUse", error, &[]),
        _ => new(py, "Full", error, &[dead]),
    }
}

/// The error of a batch of which `sent` messages were sent.
pub fn of_batch(py: Python<'_>, sent: usize, error: &SendTimeoutError) -> PyErr {
    let error = of_send_timeout(py, error);
    let said = error.value(py).setattr("sent", sent);
    said.err().unwrap_or(error)
}

pub fn of_recv(py: Python<'_>, error: &RecvError) -> PyErr {
    let name = match &error.failure {
        RecvFailure::Closed => "Closed",
        RecvFailure::Damaged { .. } => "Damaged",
        RecvFailure::Decode { .. } => "DecodeError",
        RecvFailure::Unavailable(cause) => unavailable(cause),
        _ => "Error",
    };
    new(py, name, error, &[])
}

pub fn of_try_recv(py: Python<'_>, error: &TryRecvError) -> PyErr {
    match error {
        TryRecvError::Failed(error) => of_recv(py, error),
        other => new(py, "Empty", other, &[]),
    }
}

pub fn of_recv_timeout(py: Python<'_>, error: &RecvTimeoutError) -> PyErr {
    match error {
        RecvTimeoutError::Failed(error) => of_recv(py, error),
        other => new(py, "Empty", other, &[]),
    }
}

pub fn of_settle(py: Python<'_>, error: &SettleError) -> PyErr {
    let name = match &error.failure {
        SettleFailure::LeaseLost => "LeaseLost",
        SettleFailure::Unsupported(_) => "Unsupported",
        SettleFailure::Unavailable(cause) => unavailable(cause),
        _ => "Error",
    };
    new(py, name, error, &[])
}

pub fn of_control(py: Python<'_>, error: &ControlError) -> PyErr {
    if let Some(open) = error.open_error() {
        return of_open(py, open);
    }
    let name = match &error.failure {
        ControlFailure::Unsupported(_) => "Unsupported",
        ControlFailure::Closed => "Closed",
        ControlFailure::Unavailable(cause) => unavailable(cause),
        ControlFailure::Damaged { .. } => "Damaged",
        ControlFailure::Unreachable { .. } => "Unreachable",
        _ => "Error",
    };
    new(py, name, error, &[])
}

pub fn of_drain(py: Python<'_>, error: &DrainError) -> PyErr {
    match error {
        DrainError::TimedOut { left, .. } => new(py, "NotDrained", error, &[("left", *left)]),
        DrainError::Control(error) => of_control(py, error),
        _ => new(py, "Error", error, &[]),
    }
}

pub fn of_open(py: Python<'_>, error: &QueueError) -> PyErr {
    let name = match error {
        QueueError::Create(error) => return of_create(py, error),
        QueueError::Open(error) => return of_segment(py, error),
        QueueError::Join(error) => return of_join(py, error),
        QueueError::NotFound { .. } => "NotFound",
        QueueError::Exists { .. } => "Exists",
        QueueError::SettingsDiffer { .. } => "SettingsDiffer",
        QueueError::PayloadDiffers { .. }
        | QueueError::ShapeDiffers { .. }
        | QueueError::Encoding { .. } => "CodecDiffers",
        QueueError::Address { .. } | QueueError::Name(_) => "BadAddress",
        QueueError::Settings(_) => "BadSettings",
        QueueError::Unsupported(_) => "Unsupported",
        QueueError::Geometry { .. } => "Damaged",
        QueueError::Transport(_) => "Unreachable",
        _ => "Error",
    };
    new(py, name, error, &[])
}

fn of_create(py: Python<'_>, error: &CreateError) -> PyErr {
    match error {
        CreateError::NoSpace { free, needed, .. } => new(
            py,
            "NoSpace",
            error,
            &[("free", *free), ("needed", *needed)],
        ),
        CreateError::MemoryLimit {
            available, needed, ..
        } => {
            let facts = [("free", *available), ("needed", *needed)];
            new(py, "NoSpace", error, &facts)
        }
        CreateError::FileSizeLimit { limit, needed, .. } => new(
            py,
            "NoSpace",
            error,
            &[("free", *limit), ("needed", *needed)],
        ),
        CreateError::Exists { .. } => new(py, "Exists", error, &[]),
        other => of_system(py, other),
    }
}

fn of_segment(py: Python<'_>, error: &OpenError) -> PyErr {
    match error {
        OpenError::NotFound { .. } => new(py, "NotFound", error, &[]),
        OpenError::Truncated { .. } | OpenError::Header { .. } => new(py, "Damaged", error, &[]),
        other => of_system(py, other),
    }
}

fn of_join(py: Python<'_>, error: &JoinError) -> PyErr {
    match error {
        JoinError::Full {
            slots, attached, ..
        } => {
            let facts = [("slots", (*slots).into()), ("attached", (*attached).into())];
            new(py, "TooManyProcesses", error, &facts)
        }
        JoinError::ForkedChild { .. } => new(py, "Forked", error, &[]),
        other => of_system(py, other),
    }
}

/// The error of a refusal by the system. Running out of descriptors has its own class.
pub fn of_system(py: Python<'_>, error: &(dyn std::error::Error + 'static)) -> PyErr {
    let code = os_code(error);
    // EMFILE, ENFILE.
    if matches!(code, Some(23 | 24)) {
        let text = format!("{error}: close files, or raise the limit (ulimit -n)");
        return new(py, "NoDescriptors", &text, &[]);
    }
    // ENOSPC.
    if code == Some(28) {
        return new(py, "NoSpace", &error, &[]);
    }
    new(py, "SystemRefused", &error, &[])
}

/// Returns the system's error number, wherever it is in the chain of causes.
fn os_code(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.raw_os_error();
        }
        next = error.source();
    }
    // Some errors keep only the text of their cause.
    let text = error.to_string();
    let known = [(24, "Too many open files"), (24, "EMFILE"), (28, "ENOSPC")];
    let found = known.iter().find(|(_, words)| text.contains(words));
    found.map(|(code, _)| *code)
}

pub fn of_registry(py: Python<'_>, error: &RegistryError) -> PyErr {
    match error {
        RegistryError::Create(error) => of_create(py, error),
        RegistryError::Open(error) => of_segment(py, error),
        other => of_system(py, other),
    }
}

pub fn of_buffer(py: Python<'_>, error: &BufferError) -> PyErr {
    match error {
        BufferError::Create(error) => of_create(py, error),
        BufferError::Open(error) => of_segment(py, error),
        BufferError::Join(error) => of_join(py, error),
        BufferError::Name(_) => new(py, "BadAddress", error, &[]),
        BufferError::OtherLength { .. } => new(py, "SettingsDiffer", error, &[]),
        BufferError::TooLong { .. } => new(py, "NoSpace", error, &[]),
        BufferError::TooManyProcesses { .. } => new(py, "TooManyProcesses", error, &[]),
        other => of_system(py, other),
    }
}

pub fn of_pool(py: Python<'_>, error: &PoolError) -> PyErr {
    match error {
        PoolError::Queue(error) => of_open(py, error),
        PoolError::Control(error) => of_control(py, error),
        PoolError::Send(error) => of_send(py, error),
        PoolError::NoRoom { .. } => new(py, "Full", error, &[]),
        PoolError::Ended { .. } => new(py, "PoolEnded", error, &[]),
        PoolError::System(error) => of_system(py, error),
        other => new(py, "Error", other, &[]),
    }
}

/// A settled delivery that is used again.
pub fn settled(py: Python<'_>) -> PyErr {
    let text = "this delivery is settled: its message is not ours any more";
    new(py, "Settled", &text, &[])
}

/// Returns the reason for a dead letter that could not be decoded.
pub fn reason(py: Python<'_>, error: &PyErr) -> String {
    let name = error.get_type(py).name();
    let name = name.map_or_else(|_| "an exception".to_owned(), |name| name.to_string());
    format!("{name}: {}", error.value(py))
}
