//! Received messages with typed values.

use std::fmt;
use std::time::Duration;

use ipc_proto::{CodecError, Encoding, Headers, Kind, MessageId, Signal, Timestamp};
use serde::de::DeserializeOwned;

use crate::delivery::ByteDelivery;
use crate::error::{RecvFailure, SettleError};
use crate::metadata::{FencingToken, Metadata};
use crate::owned::OwnedDelivery;
use crate::settle::Nack;
use crate::settle::Settle;
use crate::settling::settling;

/// A received message, until it is settled. Dropping it unsettled is a nack: the message returns to
/// the queue.
///
/// ```
/// use ipc_queue::Queue;
///
/// let queue = Queue::<String>::open("local:received")?;
/// queue.sender().send("resize a.jpg".to_owned())?;
///
/// let receiver = queue.receiver();
/// let job = receiver.recv()?;
/// assert_eq!((job.data().as_str(), job.attempt()), ("resize a.jpg", 1));
///
/// // The value can be moved out; the rest is settled afterwards.
/// let (path, job) = job.into_parts();
/// assert_eq!(path.into_bytes().len(), 12);
/// job.ack()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropped without `ack` the message is delivered again"]
pub struct Delivery<'a, T> {
    data: T,
    bytes: ByteDelivery<'a>,
}

/// The result of [`Receiver::recv_any`](crate::Receiver::recv_any): a message or a signal.
#[derive(Debug)]
#[must_use = "dropped without `ack` the message is delivered again"]
pub enum Incoming<'a, T> {
    /// A message with a value: `Data` or `Control`.
    Message(Delivery<'a, T>),
    /// A signal, which has no value: `Heartbeat` or `Shutdown`.
    Signal(Delivery<'a, Signal>),
}

impl<'a, T: DeserializeOwned> Incoming<'a, T> {
    /// Decodes a message. If it is not a `T`, it returns to the queue.
    pub(crate) fn of(bytes: ByteDelivery<'a>, encoding: Encoding) -> Result<Self, RecvFailure> {
        if let Some(data) = bytes.kind().signal() {
            return Ok(Self::Signal(Delivery { data, bytes }));
        }
        Delivery::decode(bytes, encoding).map(Self::Message)
    }
}

impl<'a, T: DeserializeOwned> Delivery<'a, T> {
    /// Decodes a message with a value. If it is not a `T`, it returns to the queue.
    #[inline]
    pub(crate) fn decode(bytes: ByteDelivery<'a>, encoding: Encoding) -> Result<Self, RecvFailure> {
        let data = encoding.decode(bytes.payload());
        bytes.check_whole().map_err(|error| error.failure)?;
        match data {
            Ok(data) => Ok(Self { data, bytes }),
            Err(source) => Err(undecodable(bytes, source)),
        }
    }
}

/// Returns a message that can't be decoded to the queue: a receiver of another version may be able
/// to read it.
#[cold]
fn undecodable(bytes: ByteDelivery<'_>, source: CodecError) -> RecvFailure {
    let metadata = bytes.metadata();
    // If the lease is lost, the message is delivered again anyway.
    let _ = bytes.nack_with(Nack::new().reason(&source.to_string()));
    RecvFailure::Decode {
        id: metadata.id,
        attempt: metadata.attempt,
        source,
    }
}

/// For [`ack_later`](crate::Receiver::ack_later).
impl<T> From<OwnedDelivery<T>> for Delivery<'_, T> {
    fn from(delivery: OwnedDelivery<T>) -> Self {
        let (data, held) = delivery.into_held();
        let bytes = held.into();
        Self { data, bytes }
    }
}

impl<'a, T> Delivery<'a, T> {
    /// Returns the value that was sent.
    #[must_use]
    pub fn data(&self) -> &T {
        &self.data
    }

    /// Returns the value that was sent, mutably. Changes stay in this process: a redelivered
    /// message has its original value.
    #[must_use]
    pub fn data_mut(&mut self) -> &mut T {
        &mut self.data
    }

    /// Moves the value out. The rest is settled like any delivery.
    #[must_use = "dropped without `ack` the message is delivered again"]
    pub fn into_parts(self) -> (T, Delivery<'a, ()>) {
        let rest = Delivery {
            data: (),
            bytes: self.bytes,
        };
        (self.data, rest)
    }

    /// Returns the same delivery without a borrow of its receiver. It can be kept, and settled in
    /// another thread.
    #[must_use = "dropped without `ack` the message is delivered again"]
    pub fn into_owned(self) -> OwnedDelivery<T> {
        self.bytes.into_owned().with_data(self.data)
    }

    /// Returns everything known about the message, except its payload and its headers.
    #[must_use]
    pub fn metadata(&self) -> Metadata {
        self.bytes.metadata()
    }

    /// Returns the kind of the message.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.bytes.kind()
    }

    /// Returns the message's id, the same at every delivery.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.bytes.id()
    }

    /// Returns the time of sending, by the sender's clock.
    #[must_use]
    pub fn sent_at(&self) -> Timestamp {
        self.metadata().sent_at
    }

    /// Returns the number of this attempt, counted from 1.
    #[must_use]
    pub fn attempt(&self) -> u8 {
        self.bytes.attempt()
    }

    /// Returns the fencing token of this delivery.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.bytes.token()
    }

    /// Returns the headers of the message.
    #[must_use]
    pub fn headers(&self) -> Headers {
        self.bytes.headers()
    }

    /// Renews the lease: it ends no earlier than `by` from now. Has no effect on queues without a
    /// lease time-out.
    ///
    /// # Errors
    /// Those of [`ack`](Self::ack).
    pub fn extend(&self, by: Duration) -> Result<(), SettleError> {
        self.bytes.extend(by)
    }

    /// Drops the value, and keeps the right to settle.
    #[inline]
    pub(crate) fn into_bytes(self) -> ByteDelivery<'a> {
        self.bytes
    }

    #[inline]
    fn settle(self, how: Settle<'_>) -> Result<(), SettleError> {
        self.bytes.settle(how)
    }
}

settling!(['a, T] Delivery<'a, T>);

impl<T: fmt::Debug> fmt::Debug for Delivery<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("data", &self.data)
            .field("metadata", &self.metadata())
            .finish()
    }
}
