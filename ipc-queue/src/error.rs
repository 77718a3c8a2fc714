//! The errors of queues: one type per operation.
//!
//! An *error* names the queue and, for sends, returns the message. A *failure* inside it is the
//! cause. Operations that give up when there is no room, or no message, have a separate error. So
//! [`send`](crate::Sender::send) cannot return `Full`, and [`recv`](crate::Receiver::recv) cannot
//! return `Empty`.

mod open;
mod port;
mod recv;
mod send;
mod settle;
mod unavailable;

pub use open::QueueError;
pub use port::{BatchPortError, RecvPortError, SendPortError};
pub use recv::{RecvError, RecvFailure, RecvTimeoutError, TryRecvError};
pub use send::{
    BatchSendError, BatchSendTimeoutError, NoRoom, SendError, SendFailure, SendTimeoutError,
    TrySendError,
};
pub use settle::{BatchAckError, DrainError, SettleError, SettleFailure};
pub use unavailable::Unavailable;
