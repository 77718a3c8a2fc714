//! Errors that travel over the socket. Each arrives as the same error, if the other side has it.

use std::time::Duration;

use ipc_proto::MessageId;
use serde::{Deserialize, Serialize};

use crate::capability::{Feature, Unsupported};
use crate::control::{ControlError, ControlFailure, Outcome};
use crate::error::{
    DrainError, NoRoom, RecvFailure, RecvPortError, SendFailure, SendPortError, SettleFailure,
    Unavailable,
};

/// An [`Unsupported`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lacking {
    feature: Feature,
    /// The settings lack the feature, not the transport.
    by_settings: bool,
}

/// An [`Unavailable`] that concerns the queue, not the process that serves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum QueueGone {
    Removed,
    Deleted,
    Truncated,
    Other(String),
}

/// A [`SendPortError`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SendFailed {
    NoRoom {
        missing: NoRoom,
        waited: Option<Duration>,
        dead: u64,
    },
    Duplicate {
        of: MessageId,
    },
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
    Damaged(String),
    Gone(QueueGone),
}

/// A [`RecvPortError`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum RecvFailed {
    Empty,
    TimedOut { waited: Duration },
    Paused,
    Closed,
    Damaged(String),
    Gone(QueueGone),
}

/// A [`SettleFailure`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SettleFailed {
    Unsupported(Lacking),
    LeaseLost,
    Gone(QueueGone),
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
    Gone(QueueGone),
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
        let by_settings = unsupported == Unsupported::by_settings(unsupported.feature);
        Self {
            feature: unsupported.feature,
            by_settings,
        }
    }
}

impl From<Lacking> for Unsupported {
    fn from(lacking: Lacking) -> Self {
        if lacking.by_settings {
            Self::by_settings(lacking.feature)
        } else {
            Self::by_transport(lacking.feature)
        }
    }
}

impl From<Unavailable> for QueueGone {
    fn from(cause: Unavailable) -> Self {
        match cause {
            Unavailable::Removed => Self::Removed,
            Unavailable::Deleted => Self::Deleted,
            Unavailable::Truncated => Self::Truncated,
            // Failures of the server itself: its client was not forked and has lost no descriptor.
            Unavailable::Forked
            | Unavailable::DescriptorLost { .. }
            | Unavailable::Transport { .. } => Self::Other(format!("the server reports: {cause}")),
        }
    }
}

impl From<QueueGone> for Unavailable {
    fn from(gone: QueueGone) -> Self {
        match gone {
            QueueGone::Removed => Self::Removed,
            QueueGone::Deleted => Self::Deleted,
            QueueGone::Truncated => Self::Truncated,
            QueueGone::Other(reason) => Self::Transport { reason },
        }
    }
}

impl From<SendPortError> for SendFailed {
    fn from(error: SendPortError) -> Self {
        match error {
            SendPortError::NoRoom {
                missing,
                waited,
                dead,
            } => Self::NoRoom {
                missing,
                waited,
                dead,
            },
            SendPortError::Failed(failure) => failure.into(),
        }
    }
}

impl From<SendFailure> for SendFailed {
    fn from(failure: SendFailure) -> Self {
        match failure {
            SendFailure::Duplicate { of } => Self::Duplicate { of },
            SendFailure::KeysFull { keys, window } => Self::KeysFull { keys, window },
            SendFailure::Unsupported(what) => Self::Unsupported(what.into()),
            SendFailure::TooLarge { bytes, most } => Self::TooLarge {
                bytes: bytes as u64,
                most: most as u64,
            },
            SendFailure::Closed => Self::Closed,
            SendFailure::Damaged { reason } => Self::Damaged(reason),
            SendFailure::Unavailable(cause) => Self::Gone(cause.into()),
            other @ (SendFailure::EmptyKey
            | SendFailure::NeverDelivered { .. }
            | SendFailure::Encode(_)) => Self::Gone(QueueGone::Other(other.to_string())),
        }
    }
}

impl From<SendFailed> for SendPortError {
    fn from(failed: SendFailed) -> Self {
        match failed {
            SendFailed::NoRoom {
                missing,
                waited,
                dead,
            } => Self::NoRoom {
                missing,
                waited,
                dead,
            },
            other => Self::Failed(other.into()),
        }
    }
}

impl From<SendFailed> for SendFailure {
    fn from(failed: SendFailed) -> Self {
        let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        match failed {
            // For ports that do not wait for room, for example when one publishes a loan.
            SendFailed::NoRoom { missing, .. } => {
                Unavailable::transport(missing.to_string()).into()
            }
            SendFailed::Duplicate { of } => Self::Duplicate { of },
            SendFailed::KeysFull { keys, window } => Self::KeysFull { keys, window },
            SendFailed::Unsupported(what) => Self::Unsupported(what.into()),
            SendFailed::TooLarge { bytes, most } => Self::TooLarge {
                bytes: size(bytes),
                most: size(most),
            },
            SendFailed::Closed => Self::Closed,
            SendFailed::Damaged(reason) => Self::Damaged { reason },
            SendFailed::Gone(gone) => Self::Unavailable(gone.into()),
        }
    }
}

impl From<RecvPortError> for RecvFailed {
    fn from(error: RecvPortError) -> Self {
        let failure = match error {
            RecvPortError::Empty => return Self::Empty,
            RecvPortError::TimedOut { waited } => return Self::TimedOut { waited },
            RecvPortError::Paused => return Self::Paused,
            RecvPortError::Failed(failure) => failure,
        };
        match failure {
            RecvFailure::Closed => Self::Closed,
            RecvFailure::Damaged { reason } => Self::Damaged(reason),
            RecvFailure::Unavailable(cause) => Self::Gone(cause.into()),
            other @ (RecvFailure::Decode { .. } | RecvFailure::Shutdown) => {
                Self::Gone(QueueGone::Other(other.to_string()))
            }
        }
    }
}

impl From<RecvFailed> for RecvPortError {
    fn from(failed: RecvFailed) -> Self {
        match failed {
            RecvFailed::Empty => Self::Empty,
            RecvFailed::TimedOut { waited } => Self::TimedOut { waited },
            RecvFailed::Paused => Self::Paused,
            RecvFailed::Closed => RecvFailure::Closed.into(),
            RecvFailed::Damaged(reason) => RecvFailure::Damaged { reason }.into(),
            RecvFailed::Gone(gone) => Unavailable::from(gone).into(),
        }
    }
}

impl From<SettleFailure> for SettleFailed {
    fn from(failure: SettleFailure) -> Self {
        match failure {
            SettleFailure::Unsupported(what) => Self::Unsupported(what.into()),
            SettleFailure::LeaseLost => Self::LeaseLost,
            SettleFailure::Unavailable(cause) => Self::Gone(cause.into()),
        }
    }
}

impl From<SettleFailed> for SettleFailure {
    fn from(failed: SettleFailed) -> Self {
        match failed {
            SettleFailed::Unsupported(what) => Self::Unsupported(what.into()),
            SettleFailed::LeaseLost => Self::LeaseLost,
            SettleFailed::Gone(gone) => Self::Unavailable(gone.into()),
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
            ControlFailure::Unavailable(
                cause @ (Unavailable::Removed | Unavailable::Deleted | Unavailable::Truncated),
            ) => Self::Gone(cause.into()),
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
            // Failures of the server itself: its client was not forked, and opened nothing.
            other @ (ControlFailure::Unavailable(_)
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
            ControlFailed::Gone(gone) => Self::Unavailable(gone.into()),
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
