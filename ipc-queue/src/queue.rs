//! The typed queue, which most programs use.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use ipc_proto::{CodecError, Encoding, QueueSettings};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bytes::ByteQueue;
use crate::contract::{LeaseInfo, Transport};
use crate::control::ControlError;
use crate::controls::controls;
use crate::dead_letter::{DeadLetter, DeadLetterId};
use crate::error::DrainError;
use crate::receiver::Receiver;
use crate::sender::Sender;
use crate::stats::QueueStats;
use crate::wait::Wait;

/// A queue of `T`s that any process can open by its address.
///
/// ```
/// use ipc_queue::Queue;
///
/// let queue = Queue::<String>::open("local:greetings")?;
/// let (sender, receiver) = (queue.sender(), queue.receiver());
/// sender.send("hello".to_owned())?;
///
/// let delivery = receiver.recv()?;
/// assert_eq!(delivery.data(), "hello");
/// delivery.ack()?;
///
/// // Nothing there: an error at once, or after a while, never a hang.
/// assert!(matches!(receiver.try_recv(), Err(ipc_queue::TryRecvError::Empty)));
/// assert!(queue.is_empty()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Queue<T> {
    bytes: ByteQueue,
    encoding: Encoding,
    payload: PhantomData<fn(T) -> T>,
}

impl<T: Serialize + DeserializeOwned> Queue<T> {
    /// Returns a handle for sending.
    #[must_use]
    pub fn sender(&self) -> Sender<T> {
        Sender::over(self.bytes.sender(), self.encoding)
    }

    /// Returns a handle for receiving.
    #[must_use]
    pub fn receiver(&self) -> Receiver<T> {
        Receiver::over(self.bytes.receiver(), self.encoding)
    }

    /// Returns the dead letters, ordered by place, oldest first, with their values. A value that
    /// this program cannot decode is an error in its letter.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter<Result<T, CodecError>>>, ControlError> {
        let letters = self.transport().dead_letters()?;
        let decoded = |letter: DeadLetter| letter.map(|payload| self.encoding.decode(&payload));
        Ok(letters.into_iter().map(decoded).collect())
    }
}

impl<T> Queue<T> {
    pub(crate) fn over(bytes: ByteQueue, encoding: Encoding) -> Self {
        Self {
            bytes,
            encoding,
            payload: PhantomData,
        }
    }

    /// Returns the queue's transport, which has no payload type.
    #[must_use]
    pub fn transport(&self) -> &Arc<dyn Transport> {
        self.bytes.transport()
    }

    /// Returns the encoding of the payloads.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }
}

controls!([T] Queue<T>);

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self {
            bytes: self.bytes.clone(),
            encoding: self.encoding,
            payload: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Queue").field(&self.bytes).finish()
    }
}
