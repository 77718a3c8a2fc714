//! Requests and replies between programs that do not start each other.
//!
//! A request is a message of an ordinary queue, so it has the guarantees of one: when the server
//! that took it dies, another server gets it. Each [`Client`] has a queue of its own for replies,
//! whose name travels with each request in a header. A server sends the reply there, and
//! acknowledges the request afterwards. So a request may be served twice; the client takes the
//! first reply and drops the rest.
//!
//! The queue for replies is removed when its client is dropped. When the client's process is
//! killed, the next client or server that is opened removes it: the name contains the client's
//! membership of the request queue, which is over then.
//!
//! ```
//! use ipc_node::request::{Client, Server};
//!
//! let server = Server::<u64, u64>::open("local:doc-squares")?;
//! std::thread::spawn(move || {
//!     while let Ok(request) = server.recv() {
//!         let square = request.data() * request.data();
//!         request.reply(&square)?;
//!     }
//!     Ok::<(), ipc_node::request::ReplyError>(())
//! });
//!
//! let client = Client::<u64, u64>::open("local:doc-squares")?;
//! assert_eq!(client.call(&7)?, 49);
//! let replies = [client.send(&2)?, client.send(&3)?];
//! for (reply, expected) in replies.into_iter().zip([4, 9]) {
//!     assert_eq!(reply.wait()?, expected);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod client;
mod place;
mod server;

use std::time::Duration;

use ipc_queue::{
    CodecError, ControlError, HeaderError, QueueError, SendTimeoutError, SettleError,
    without_secrets,
};
use thiserror::Error;

pub use client::{Client, PendingReply};
pub use server::{Request, Server};

/// The header that names the queue for the reply.
const REPLY_TO: &str = "ipc-reply-to";
/// The header with the number of a request among those of its client: eight bytes.
const REQUEST: &str = "ipc-request";
/// The header of a failed reply: the reason, as text.
const FAILED: &str = "ipc-failed";

/// A client or a server that was not opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The queue of requests, or the queue for replies, was not opened.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Queues for replies exist only beside queues in shared memory and in this process.
    #[error(
        "{address:?} can't have queues for replies: use an address that begins with shm: or local:"
    )]
    Unsupported {
        /// The address, without credentials.
        address: String,
    },
    /// The thread that takes replies could not be started.
    #[error("can't start the thread that takes replies: {0}")]
    Thread(#[source] std::io::Error),
}

/// A request without a reply.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request was not sent.
    #[error("the request was not sent: {0}")]
    NotSent(#[from] SendTimeoutError),
    /// The server says why it has no reply.
    #[error("the server failed: {reason}")]
    Failed {
        /// The reason, as given by the server.
        reason: String,
    },
    /// No reply came in time. The request may be served later; its reply is dropped then.
    #[error("queue {queue:?}: no reply within {waited:.1?}")]
    TimedOut {
        /// The address of the queue of requests, without credentials.
        queue: String,
        /// How long the call waited.
        waited: Duration,
    },
    /// The reply is not a value of the client's type.
    #[error("the reply can't be read: {0}")]
    Decode(#[source] CodecError),
    /// The queue for replies was removed, or can no longer be used.
    #[error("queue {queue:?}: no reply can come any more: {reason}")]
    Over {
        /// The address of the queue of requests, without credentials.
        queue: String,
        /// What happened to the queue for replies.
        reason: String,
    },
    /// The queue does not carry headers, so a request cannot say where its reply goes.
    #[error(transparent)]
    Header(#[from] HeaderError),
}

/// A reply that was not sent, or a request that was not acknowledged. The request is served again.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// The client's queue had no room for so long that the server gave up: the client is stopped.
    #[error("the client takes no replies: {0}")]
    NotSent(#[from] SendTimeoutError),
    /// The client's queue can't be used.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The reply has no encoding.
    #[error("the reply has no encoding: {0}")]
    Encode(#[source] CodecError),
    /// The reply was sent, but the request was not acknowledged.
    #[error(transparent)]
    NotAcknowledged(#[from] SettleError),
    /// The reason of a failure does not fit into a header.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A queue did not answer.
    #[error(transparent)]
    Control(#[from] ControlError),
}

fn unsupported(address: &str) -> OpenError {
    OpenError::Unsupported {
        address: without_secrets(address),
    }
}
