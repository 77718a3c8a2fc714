//! Reasons why a request to the server did not do what it should.

use std::fmt;

/// Why a record was not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestError {
    /// There is no free place.
    Full,
    /// Another process changed the record first.
    Changed,
    /// The queue was removed.
    Gone,
    /// The server did not answer; the message to the user.
    Server(String),
    /// The server refused; the message to the user.
    Refused(String),
    /// A record is invalid; the message to the user.
    Damaged(String),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the queue is full",
            Self::Changed => {
                "another process took the message's place back: this one was cut off from the \
                 server for too long"
            }
            Self::Gone => "the queue was removed",
            Self::Server(text) | Self::Refused(text) | Self::Damaged(text) => text,
        })
    }
}
