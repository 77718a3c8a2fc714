//! The typed queue: what most people use.

use std::borrow::Borrow;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc_proto::{CodecError, Encoding, Headers, Kind, Message, MessageId, QueueSettings};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bytes::{ByteQueue, ByteReceiver, ByteSender};
use crate::control::ControlError;
use crate::delivery::{About, ByteDelivery, Nack, Token};
use crate::error::{BatchFailure, QueueError, RecvError, SendError, SendFailure, SettleError};
use crate::options::QueueOptions;
use crate::send_options::SendOptions;
use crate::transport::{Transport, Wait};

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
/// assert_eq!(delivery.data().map(String::as_str), Some("hello"));
/// delivery.ack()?;
///
/// // Nothing there: an error at once, or after a while, never a hang.
/// assert!(matches!(receiver.try_recv(), Err(ipc_queue::RecvError::Empty)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Queue<T> {
    bytes: ByteQueue,
    encoding: Encoding,
    payload: PhantomData<fn(T) -> T>,
}

/// Sends `T`s. For one thread at a time: make one per thread.
pub struct Sender<T> {
    bytes: ByteSender,
    encoding: Encoding,
    /// Reads a value back, to see whether that can be done; `None` once it was seen.
    proof: Cell<Option<Proof>>,
    payload: PhantomData<fn(T)>,
}

type Proof = fn(Encoding, &[u8]) -> Result<(), CodecError>;

/// Receives `T`s. For one thread at a time: make one per thread.
pub struct Receiver<T> {
    bytes: ByteReceiver,
    encoding: Encoding,
    payload: PhantomData<fn() -> T>,
}

/// A received message, until it is settled. Dropped unsettled, it is given back: a nack.
#[must_use = "dropped without `ack` the message is delivered again"]
pub struct Delivery<'a, T> {
    bytes: ByteDelivery<'a>,
    message: Message<T>,
}

impl<T: Serialize + DeserializeOwned> Queue<T> {
    /// Opens the queue at `address`, or creates it with default settings.
    ///
    /// Addresses are `local:NAME` (threads of this process), `shm:NAME` or `shm:NAMESPACE/NAME` (processes of this
    /// machine), `unix:/PATH` (with whoever serves it there). For other settings see [`QueueOptions`].
    ///
    /// # Errors
    /// [`QueueError`]; opening a queue that carries another type than `T` is one. Types are told apart by
    /// name, without module paths, so two programs may each define the same type; in a queue that
    /// is encoded with postcard, also by their [shape](ipc_proto::Shape).
    pub fn open(address: &str) -> Result<Self, QueueError> {
        QueueOptions::new().open(address)
    }

    /// A handle for sending.
    #[must_use]
    pub fn sender(&self) -> Sender<T> {
        Sender {
            bytes: self.bytes.sender(),
            encoding: self.encoding,
            proof: Cell::new(Some(|encoding, bytes| {
                encoding.decode::<T>(bytes).map(drop)
            })),
            payload: PhantomData,
        }
    }

    /// A handle for receiving.
    #[must_use]
    pub fn receiver(&self) -> Receiver<T> {
        Receiver {
            bytes: self.bytes.receiver(),
            encoding: self.encoding,
            payload: PhantomData,
        }
    }

    pub(crate) fn over(bytes: ByteQueue, encoding: Encoding) -> Self {
        Self {
            bytes,
            encoding,
            payload: PhantomData,
        }
    }
}

impl<T> Queue<T> {
    /// The same queue as bytes, for what has no type: settings, statistics, dead letters, closing.
    #[must_use]
    pub fn transport(&self) -> &Arc<dyn Transport> {
        self.bytes.transport()
    }

    /// The encoding of its payloads.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// What the queue was created with.
    #[must_use]
    pub fn settings(&self) -> &QueueSettings {
        self.transport().settings()
    }

    /// Takes no more messages from now on; what is in the queue is delivered. Wakes everybody blocked.
    ///
    /// # Errors
    /// [`ControlError`]: the queue was not closed, or whether it was is unknown.
    pub fn close(&self) -> Result<(), ControlError> {
        self.transport().close()
    }
}

impl<T: Serialize> Sender<T> {
    /// Sends, waiting for as long as the queue is full. Takes a `T` or a `&T`.
    ///
    /// # Errors
    /// [`SendError`], which hands `value` back, when the queue is closed or removed, or the value can't be sent.
    pub fn send<V: Borrow<T>>(&self, value: V) -> Result<MessageId, SendError<V>> {
        self.send_as(Kind::Data, value, Wait::Forever)
    }

    /// Sends if there is room now.
    ///
    /// # Errors
    /// [`SendFailure::Full`] or `NoMemory` if there is none; else as [`send`](Self::send).
    pub fn try_send<V: Borrow<T>>(&self, value: V) -> Result<MessageId, SendError<V>> {
        self.send_as(Kind::Data, value, Wait::No)
    }

    /// Sends, waiting at most `timeout` for room.
    ///
    /// # Errors
    /// [`SendFailure::TimedOut`] if there was none; else as [`send`](Self::send).
    pub fn send_timeout<V: Borrow<T>>(
        &self,
        value: V,
        timeout: Duration,
    ) -> Result<MessageId, SendError<V>> {
        self.send_as(Kind::Data, value, Wait::at_most(timeout))
    }

    /// Sends a `Data` or `Control` message.
    ///
    /// # Errors
    /// As [`send`](Self::send), [`try_send`](Self::try_send) or [`send_timeout`](Self::send_timeout),
    /// depending on `wait`.
    pub fn send_as<V: Borrow<T>>(
        &self,
        kind: Kind,
        value: V,
        wait: Wait,
    ) -> Result<MessageId, SendError<V>> {
        let sent = self.encoded(value.borrow(), |bytes| {
            self.bytes.send_as(kind, bytes, wait)
        });
        sent.map_err(|failure| SendError {
            message: value,
            failure,
        })
    }

    /// Sends with a priority, a delay, a key and so on, waiting as long as the queue is full.
    ///
    /// A message that was sent before, by its key, counts as sent: its id is returned.
    ///
    /// # Errors
    /// As [`send`](Self::send), and [`SendFailure::Unsupported`] when the queue does not have what is asked for.
    pub fn send_with<V: Borrow<T>>(
        &self,
        value: V,
        options: &SendOptions,
    ) -> Result<MessageId, SendError<V>> {
        self.send_with_within(value, options, Wait::Forever)
    }

    /// Sends with options, waiting as told.
    ///
    /// # Errors
    /// As [`send_with`](Self::send_with), depending on `wait`.
    pub fn send_with_within<V: Borrow<T>>(
        &self,
        value: V,
        options: &SendOptions,
        wait: Wait,
    ) -> Result<MessageId, SendError<V>> {
        let sent = self.encoded(value.borrow(), |bytes| {
            self.bytes.send_with(bytes, options, wait)
        });
        sent.map_err(|failure| SendError {
            message: value,
            failure,
        })
    }

    /// Sends all values in their order, waiting for room whenever there is none. Cheaper than one by one; not atomic.
    ///
    /// # Errors
    /// [`BatchFailure`] says how many were sent before the first that could not be. A value without an encoding is found
    /// before any is sent.
    pub fn send_batch<V: Borrow<T>>(
        &self,
        values: impl IntoIterator<Item = V>,
    ) -> Result<(), BatchFailure> {
        let mut encoded = self.bytes.scratch();
        encoded.clear();
        let mut ends = vec![0];
        for value in values {
            let appended = self.append(value.borrow(), &mut encoded);
            appended.map_err(|error| BatchFailure {
                sent: 0,
                failure: error.into(),
            })?;
            ends.push(encoded.len());
        }
        let parts = ends.windows(2);
        let payloads: Vec<&[u8]> = parts.map(|ends| &encoded[ends[0]..ends[1]]).collect();
        self.bytes.send_batch(&payloads)
    }

    /// Sends a message without data: a `Heartbeat` or a `Shutdown`.
    ///
    /// # Errors
    /// [`SendFailure`], as [`send_as`](Self::send_as).
    pub fn send_signal(&self, kind: Kind, wait: Wait) -> Result<MessageId, SendFailure> {
        self.bytes.send_as(kind, &[], wait)
    }

    fn encoded<R>(
        &self,
        value: &T,
        send: impl FnOnce(&[u8]) -> Result<R, SendFailure>,
    ) -> Result<R, SendFailure> {
        let mut bytes = self.bytes.scratch();
        bytes.clear();
        self.append(value, &mut bytes)?;
        send(&bytes)
    }

    /// Encodes behind what `bytes` holds. The first value is read back: a type that can't be is
    /// refused when something of it is sent, and not by all who receive it.
    pub(crate) fn append(&self, value: &T, bytes: &mut Vec<u8>) -> Result<(), CodecError> {
        let before = bytes.len();
        self.encoding.append(value, bytes)?;
        if let Some(proof) = self.proof.get() {
            proof(self.encoding, &bytes[before..]).map_err(|error| CodecError::NotReadBack {
                given: std::any::type_name::<T>(),
                reason: error.to_string(),
            })?;
            self.proof.set(None);
        }
        Ok(())
    }
}

impl<T: DeserializeOwned> Receiver<T> {
    /// The next message, however long it takes to come.
    ///
    /// # Errors
    /// [`RecvError`] when the queue is closed and drained, or removed. A message that is not a `T`
    /// is [`RecvError::Decode`]: it is given back for other receivers, and the next call goes on
    /// behind it.
    pub fn recv(&self) -> Result<Delivery<'_, T>, RecvError> {
        self.recv_within(Wait::Forever)
    }

    /// The next message, if there is one.
    ///
    /// # Errors
    /// [`RecvError::Empty`] if there is none; else as [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<Delivery<'_, T>, RecvError> {
        self.recv_within(Wait::No)
    }

    /// The next message, if it comes within `timeout`.
    ///
    /// # Errors
    /// [`RecvError::TimedOut`] if it does not; else as [`recv`](Self::recv).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Delivery<'_, T>, RecvError> {
        self.recv_within(Wait::at_most(timeout))
    }

    /// The next message, if it comes before `deadline`.
    ///
    /// # Errors
    /// [`RecvError::TimedOut`] if it does not; else as [`recv`](Self::recv).
    pub fn recv_deadline(&self, deadline: Instant) -> Result<Delivery<'_, T>, RecvError> {
        self.recv_within(Wait::Until(deadline))
    }

    /// The next messages, at most `most`: waits as told for the first, then takes what else is there.
    ///
    /// Each is a delivery of its own, to be settled by itself. What one receiver takes others can't: ask for no more
    /// than it can work on soon. Messages that are not `T`s are given back, as [`recv`](Self::recv)
    /// does, and are left out.
    ///
    /// # Errors
    /// As the other receives, if there was not even a first message.
    pub fn recv_batch(&self, most: usize, wait: Wait) -> Result<Vec<Delivery<'_, T>>, RecvError> {
        let mut trouble = None;
        let mut batch = Vec::new();
        for bytes in self.bytes.recv_batch(most, wait)? {
            match self.decoded(bytes) {
                Ok(delivery) => batch.push(delivery),
                Err(error) => trouble = trouble.or(Some(error)),
            }
        }
        match trouble {
            Some(error) if batch.is_empty() => Err(error),
            _ => Ok(batch),
        }
    }

    fn recv_within(&self, wait: Wait) -> Result<Delivery<'_, T>, RecvError> {
        self.decoded(self.bytes.recv_within(wait)?)
    }

    fn decoded<'a>(&self, bytes: ByteDelivery<'a>) -> Result<Delivery<'a, T>, RecvError> {
        decoded(bytes, self.encoding)
    }
}

pub(crate) fn decoded<T: DeserializeOwned>(
    bytes: ByteDelivery<'_>,
    encoding: Encoding,
) -> Result<Delivery<'_, T>, RecvError> {
    let about = bytes.about();
    let data = match bytes.payload() {
        [] => Ok(None),
        payload => encoding.decode(payload).map(Some),
    };
    bytes.check_whole()?;
    match data {
        Ok(data) => Ok(Delivery {
            message: about.with(data),
            bytes,
        }),
        Err(source) => {
            // A receiver of another version may be able to read it. If the lease is lost already,
            // it comes again.
            let _ = bytes.nack_with(Nack::new().reason(&source.to_string()));
            Err(RecvError::Decode {
                id: about.id,
                attempt: about.attempt,
                source,
            })
        }
    }
}

impl About {
    fn with<T>(self, data: Option<T>) -> Message<T> {
        Message {
            kind: self.kind,
            id: self.id,
            timestamp: self.sent_at,
            attempt: self.attempt,
            data,
        }
    }
}

impl<T> Sender<T> {
    #[cfg(target_os = "linux")]
    pub(crate) fn bytes(&self) -> &ByteSender {
        &self.bytes
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut ByteSender {
        &mut self.bytes
    }
}

impl<T> Receiver<T> {
    pub(crate) fn encoding(&self) -> Encoding {
        self.encoding
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn bytes(&self) -> &ByteReceiver {
        &self.bytes
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut ByteReceiver {
        &mut self.bytes
    }
}

impl<'a, T> Delivery<'a, T> {
    pub(crate) fn into_parts(self) -> (ByteDelivery<'a>, Message<T>) {
        (self.bytes, self.message)
    }
}

impl<T> Delivery<'_, T> {
    /// The message: its kind, id, sender, time, attempt and data.
    #[must_use]
    pub fn message(&self) -> &Message<T> {
        &self.message
    }

    /// Its data; `None` for a signal, such as `Shutdown`.
    #[must_use]
    pub fn data(&self) -> Option<&T> {
        self.message.data.as_ref()
    }

    /// The headers of its message.
    #[must_use]
    pub fn headers(&self) -> Headers {
        self.bytes.headers()
    }

    /// What it is for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.message.kind
    }

    /// Which message it is; the same at every redelivery.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.message.id
    }

    /// How often it was delivered, this time included.
    #[must_use]
    pub fn attempt(&self) -> u8 {
        self.message.attempt
    }

    /// What fences off those who had the message before.
    #[must_use]
    pub fn token(&self) -> Token {
        self.bytes.token()
    }

    /// Done: never to be delivered again.
    ///
    /// # Errors
    /// [`SettleError::LeaseLost`] if the lease expired: the message was or will be somebody else's.
    pub fn ack(self) -> Result<(), SettleError> {
        self.bytes.ack()
    }

    /// The attempt failed: the message is delivered again after a delay that the queue's [`Backoff`](ipc_proto::Backoff)
    /// says, to any receiver. It is a dead letter if this was its last attempt.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn nack(self) -> Result<(), SettleError> {
        self.nack_with(Nack::new())
    }

    /// As [`nack`](Self::nack), with a delay of the receiver's choice, in whole milliseconds, rounded up; zero: at once.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn nack_after(self, delay: Duration) -> Result<(), SettleError> {
        self.nack_with(Nack::new().after(delay))
    }

    /// As [`nack`](Self::nack), with what went wrong, or a delay, or both.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn nack_with(self, nack: Nack<'_>) -> Result<(), SettleError> {
        self.bytes.nack_with(nack)
    }

    /// Puts the message off: it is delivered again after `delay`, in whole milliseconds, rounded up, and this delivery does
    /// not count as an attempt.
    ///
    /// # Errors
    /// As [`ack`](Self::ack), and [`SettleError::Unsupported`] if the transport can't.
    pub fn snooze(self, delay: Duration) -> Result<(), SettleError> {
        self.bytes.snooze(delay)
    }

    /// Never to be delivered again, but kept as a dead letter.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn bury(self) -> Result<(), SettleError> {
        self.bury_with("")
    }

    /// As [`bury`](Self::bury), with what is wrong with the message, which the dead letter keeps.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn bury_with(self, reason: &str) -> Result<(), SettleError> {
        self.bytes.bury_with(reason)
    }

    /// Renews the lease: it ends no earlier than `by` from now. Without effect on queues without a lease time-out.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn extend(&self, by: Duration) -> Result<(), SettleError> {
        self.bytes.extend(by)
    }
}

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

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(&self.bytes).finish()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receiver").field(&self.bytes).finish()
    }
}

impl<T: fmt::Debug> fmt::Debug for Delivery<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Delivery").field(&self.message).finish()
    }
}
