//! Errors that travel: each as what it is, where the other side can know it.

use std::time::Duration;

use ipc_proto::MessageId;
use serde::{Deserialize, Serialize};

use crate::capability::{Semantic, Unsupported};
use crate::control::{ControlError, ControlFailure, Outcome};
use crate::error::{DrainError, NoRoom, RecvError, SendFailure, SettleError};

/// An [`Unsupported`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lacking {
    semantic: Semantic,
    /// It is the settings that lack it, and not the transport.
    by_settings: bool,
}

/// A [`SendFailure`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SendFailed {
    Full {
        capacity: u32,
        dead: u64,
    },
    NoMemory {
        bytes: u64,
    },
    TimedOut {
        waited: Duration,
        missing: NoRoom,
        dead: u64,
    },
    Duplicate {
        of: MessageId,
    },
    KeyInUse,
    KeysFull {
        keys: u64,
        window: Duration,
    },
    Unsupported(Lacking),
    TooLarge {
        bytes: u64,
        most: u64,
    },
    Closed,
    Removed,
    Deleted,
    Truncated,
    Damaged(String),
    Other(String),
}

/// A [`RecvError`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum RecvFailed {
    Empty,
    TimedOut { waited: Duration },
    Paused,
    Closed,
    Removed,
    Deleted,
    Truncated,
    Damaged(String),
    Other(String),
}

/// A [`SettleError`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SettleFailed {
    Unsupported(Lacking),
    LeaseLost,
    Deleted,
    Truncated,
    Other(String),
}

/// A [`DrainError`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum DrainFailed {
    TimedOut { waited: Duration, left: u64 },
    Control(ControlFailed),
}

/// A [`ControlFailure`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ControlFailed {
    Unsupported(Lacking),
    Closed,
    Removed,
    Deleted,
    Truncated,
    Unreachable {
        request: String,
        waited: Duration,
        reason: String,
        outcome: Outcome,
    },
    Refused {
        reason: String,
    },
    Damaged {
        reason: String,
    },
    NotSent(SendFailed),
}

impl From<Unsupported> for Lacking {
    fn from(unsupported: Unsupported) -> Self {
        let by_settings = unsupported == Unsupported::by_settings(unsupported.semantic);
        Self {
            semantic: unsupported.semantic,
            by_settings,
        }
    }
}

impl From<Lacking> for Unsupported {
    fn from(lacking: Lacking) -> Self {
        if lacking.by_settings {
            Self::by_settings(lacking.semantic)
        } else {
            Self::by_transport(lacking.semantic)
        }
    }
}

impl From<SendFailure> for SendFailed {
    fn from(failure: SendFailure) -> Self {
        match failure {
            SendFailure::Full { capacity, dead } => Self::Full { capacity, dead },
            SendFailure::NoMemory { bytes } => Self::NoMemory {
                bytes: bytes as u64,
            },
            SendFailure::TimedOut {
                waited,
                missing,
                dead,
            } => Self::TimedOut {
                waited,
                missing,
                dead,
            },
            SendFailure::Duplicate { of } => Self::Duplicate { of },
            SendFailure::KeyInUse => Self::KeyInUse,
            SendFailure::KeysFull { keys, window } => Self::KeysFull { keys, window },
            SendFailure::Unsupported(what) => Self::Unsupported(what.into()),
            SendFailure::TooLarge { bytes, most } => Self::TooLarge {
                bytes: bytes as u64,
                most: most as u64,
            },
            SendFailure::Closed => Self::Closed,
            SendFailure::Removed => Self::Removed,
            SendFailure::Deleted => Self::Deleted,
            SendFailure::Truncated => Self::Truncated,
            SendFailure::Damaged(what) => Self::Damaged(what),
            // The server's own: its client has neither forked nor lost anything.
            other @ (SendFailure::Forked
            | SendFailure::DescriptorLost { .. }
            | SendFailure::EmptyKey
            | SendFailure::Encode(_)
            | SendFailure::Transport(_)) => Self::Other(other.to_string()),
        }
    }
}

impl From<SendFailed> for SendFailure {
    fn from(failed: SendFailed) -> Self {
        let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        match failed {
            SendFailed::Full { capacity, dead } => Self::Full { capacity, dead },
            SendFailed::NoMemory { bytes } => Self::NoMemory { bytes: size(bytes) },
            SendFailed::TimedOut {
                waited,
                missing,
                dead,
            } => Self::TimedOut {
                waited,
                missing,
                dead,
            },
            SendFailed::Duplicate { of } => Self::Duplicate { of },
            SendFailed::KeyInUse => Self::KeyInUse,
            SendFailed::KeysFull { keys, window } => Self::KeysFull { keys, window },
            SendFailed::Unsupported(what) => Self::Unsupported(what.into()),
            SendFailed::TooLarge { bytes, most } => Self::TooLarge {
                bytes: size(bytes),
                most: size(most),
            },
            SendFailed::Closed => Self::Closed,
            SendFailed::Removed => Self::Removed,
            SendFailed::Deleted => Self::Deleted,
            SendFailed::Truncated => Self::Truncated,
            SendFailed::Damaged(what) => Self::Damaged(what),
            SendFailed::Other(what) => Self::Transport(what),
        }
    }
}

impl From<RecvError> for RecvFailed {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Empty => Self::Empty,
            RecvError::TimedOut { waited } => Self::TimedOut { waited },
            RecvError::Paused => Self::Paused,
            RecvError::Closed => Self::Closed,
            RecvError::Removed => Self::Removed,
            RecvError::Deleted => Self::Deleted,
            RecvError::Truncated => Self::Truncated,
            RecvError::Damaged(what) => Self::Damaged(what),
            other @ (RecvError::Forked
            | RecvError::DescriptorLost { .. }
            | RecvError::Decode { .. }
            | RecvError::Shutdown
            | RecvError::Transport(_)) => Self::Other(other.to_string()),
        }
    }
}

impl From<RecvFailed> for RecvError {
    fn from(failed: RecvFailed) -> Self {
        match failed {
            RecvFailed::Empty => Self::Empty,
            RecvFailed::TimedOut { waited } => Self::TimedOut { waited },
            RecvFailed::Paused => Self::Paused,
            RecvFailed::Closed => Self::Closed,
            RecvFailed::Removed => Self::Removed,
            RecvFailed::Deleted => Self::Deleted,
            RecvFailed::Truncated => Self::Truncated,
            RecvFailed::Damaged(what) => Self::Damaged(what),
            RecvFailed::Other(what) => Self::Transport(what),
        }
    }
}

impl From<SettleError> for SettleFailed {
    fn from(error: SettleError) -> Self {
        match error {
            SettleError::Unsupported(what) => Self::Unsupported(what.into()),
            SettleError::LeaseLost => Self::LeaseLost,
            SettleError::Deleted => Self::Deleted,
            SettleError::Truncated => Self::Truncated,
            other @ (SettleError::Forked
            | SettleError::DescriptorLost { .. }
            | SettleError::Transport(_)) => Self::Other(other.to_string()),
        }
    }
}

impl From<SettleFailed> for SettleError {
    fn from(failed: SettleFailed) -> Self {
        match failed {
            SettleFailed::Unsupported(what) => Self::Unsupported(what.into()),
            SettleFailed::LeaseLost => Self::LeaseLost,
            SettleFailed::Deleted => Self::Deleted,
            SettleFailed::Truncated => Self::Truncated,
            SettleFailed::Other(what) => Self::Transport(what),
        }
    }
}

impl From<DrainError> for DrainFailed {
    fn from(error: DrainError) -> Self {
        match error {
            DrainError::TimedOut { waited, left, .. } => Self::TimedOut { waited, left },
            DrainError::Control(error) => Self::Control(error.into()),
        }
    }
}

impl From<ControlError> for ControlFailed {
    fn from(error: ControlError) -> Self {
        match error.failure {
            ControlFailure::Unsupported(what) => Self::Unsupported(what.into()),
            ControlFailure::Closed => Self::Closed,
            ControlFailure::Removed => Self::Removed,
            ControlFailure::Deleted => Self::Deleted,
            ControlFailure::Truncated => Self::Truncated,
            ControlFailure::Unreachable {
                request,
                waited,
                reason,
                outcome,
            } => Self::Unreachable {
                request,
                waited,
                reason,
                outcome,
            },
            ControlFailure::Refused { reason } => Self::Refused { reason },
            ControlFailure::Damaged { reason } => Self::Damaged { reason },
            ControlFailure::NotSent(failure) => Self::NotSent(failure.into()),
            // The server's own: its client was not forked, and opened nothing.
            other @ (ControlFailure::Forked
            | ControlFailure::DescriptorLost { .. }
            | ControlFailure::Frozen { .. }
            | ControlFailure::Open(_)) => Self::Refused {
                reason: other.to_string(),
            },
        }
    }
}

impl From<ControlFailed> for ControlFailure {
    fn from(failed: ControlFailed) -> Self {
        match failed {
            ControlFailed::Unsupported(what) => Self::Unsupported(what.into()),
            ControlFailed::Closed => Self::Closed,
            ControlFailed::Removed => Self::Removed,
            ControlFailed::Deleted => Self::Deleted,
            ControlFailed::Truncated => Self::Truncated,
            ControlFailed::Unreachable {
                request,
                waited,
                reason,
                outcome,
            } => Self::Unreachable {
                request,
                waited,
                reason,
                outcome,
            },
            ControlFailed::Refused { reason } => Self::Refused { reason },
            ControlFailed::Damaged { reason } => Self::Damaged { reason },
            ControlFailed::NotSent(failed) => Self::NotSent(failed.into()),
        }
    }
}
