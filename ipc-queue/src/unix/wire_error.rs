//! Failures of the stream between a client and its server.

use std::io;

use ipc_proto::CodecError;
use thiserror::Error;

/// A failure of a stream. The stream cannot be used after it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum WireError {
    #[error("the other side closed the connection")]
    Ended,
    #[error("the other side closed the connection in the middle of a frame")]
    Cut,
    #[error("a frame of {bytes} bytes is larger than the limit of {most}")]
    TooLarge { bytes: usize, most: usize },
    #[error("a frame cannot be decoded: {0}")]
    Nonsense(#[from] CodecError),
    #[error("{bytes} bytes follow a frame without a payload")]
    Trailing { bytes: usize },
    #[error("a frame announces a payload in a memory file, but no descriptor came with it")]
    NoDescriptor,
    #[error("more descriptors were received than announced")]
    Descriptors,
    #[error("the memory file of a payload is not sealed against writing and shrinking")]
    NotSealed,
    #[error("a memory file has {found} bytes, but {bytes} bytes were announced")]
    WrongSize { bytes: u64, found: u64 },
    #[error("a request that is not valid here: {0}")]
    Unasked(&'static str),
    #[error("{0}")]
    Io(String),
}

impl WireError {
    pub(super) fn io(error: impl Into<io::Error>) -> Self {
        let error = error.into();
        match error.kind() {
            // A peer that is killed with unread data resets the connection.
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Ended,
            _ => Self::Io(error.to_string()),
        }
    }
}
