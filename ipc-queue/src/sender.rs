//! Sending typed values.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use ipc_proto::{CodecError, Encoding, MessageId, Signal};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bytes::ByteSender;
use crate::error::{
    BatchSendError, SendError, SendFailure, SendPortError, SendTimeoutError, TrySendError,
};
use crate::send_options::SendOptions;
use crate::wait::Wait;

/// Sends `T`s. Belongs to one thread at a time: clone it for others.
pub struct Sender<T> {
    bytes: ByteSender,
    encoding: Encoding,
    read_back: ReadBack,
    /// Set until a value was read back, to prove that it can be decoded.
    is_unproved: Cell<bool>,
    payload: PhantomData<fn(T)>,
}

type ReadBack = fn(Encoding, &[u8]) -> Result<(), CodecError>;

/// A value that a [`Sender<T>`] takes: a `T`, which a failed send returns, or a `&T`.
pub trait SendValue<T> {
    /// The value that a failed send returns: the `T` itself, or nothing for a reference. So the
    /// error of `send(&value)` borrows nothing, and `?` works everywhere.
    type Returned;

    /// Returns the value to encode.
    fn value(&self) -> &T;

    /// Returns the value that a failed send returns.
    fn into_returned(self) -> Self::Returned;
}

impl<T> SendValue<T> for T {
    type Returned = T;

    fn value(&self) -> &T {
        self
    }

    fn into_returned(self) -> T {
        self
    }
}

impl<T> SendValue<T> for &T {
    type Returned = ();

    fn value(&self) -> &T {
        self
    }

    fn into_returned(self) {}
}

impl<T: DeserializeOwned> Sender<T> {
    pub(crate) fn over(bytes: ByteSender, encoding: Encoding) -> Self {
        Self {
            bytes,
            encoding,
            read_back: |encoding, bytes| encoding.decode::<T>(bytes).map(drop),
            is_unproved: Cell::new(true),
            payload: PhantomData,
        }
    }
}

impl<T: Serialize> Sender<T> {
    /// Sends a value, waiting while the queue is full. Takes a `T` or a `&T`, and returns the
    /// message's id. From then on the message is delivered until a receiver acknowledges it.
    ///
    /// # Errors
    /// [`SendError`], which returns the `T`, if the queue is closed or removed, or the value cannot
    /// be sent.
    pub fn send<V: SendValue<T>>(&self, value: V) -> Result<MessageId, SendError<V::Returned>> {
        let sent = self.send_plain(value.value(), || Wait::Forever);
        sent.map_err(|error| error.into_send(self.bytes.queue(), value.into_returned()))
    }

    /// Sends a value if there is room now.
    ///
    /// # Errors
    /// [`TrySendError::Full`] or [`TrySendError::NoMemory`] if there is none; otherwise as
    /// [`send`](Self::send).
    pub fn try_send<V: SendValue<T>>(
        &self,
        value: V,
    ) -> Result<MessageId, TrySendError<V::Returned>> {
        let sent = self.send_plain(value.value(), || Wait::No);
        sent.map_err(|error| error.into_try_send(self.bytes.queue(), value.into_returned()))
    }

    /// Sends a value, waiting for room for at most `timeout`.
    ///
    /// # Errors
    /// [`SendTimeoutError::TimedOut`] if there was none; otherwise those of [`send`](Self::send).
    pub fn send_timeout<V: SendValue<T>>(
        &self,
        value: V,
        timeout: Duration,
    ) -> Result<MessageId, SendTimeoutError<V::Returned>> {
        self.send_until(value, || Wait::at_most(timeout))
    }

    /// Sends a value, waiting for room until `deadline`.
    ///
    /// # Errors
    /// Those of [`send_timeout`](Self::send_timeout).
    pub fn send_deadline<V: SendValue<T>>(
        &self,
        value: V,
        deadline: Instant,
    ) -> Result<MessageId, SendTimeoutError<V::Returned>> {
        self.send_until(value, || Wait::Until(deadline))
    }

    /// Sends a value with a priority, a delay, a key, headers and so on. Waits for room as the
    /// options say; by default without limit.
    ///
    /// If the queue remembers the options' key, nothing is sent, and the id of the message that was
    /// sent with that key is returned.
    ///
    /// # Errors
    /// Those of [`send_timeout`](Self::send_timeout), and [`SendFailure::Unsupported`] when the
    /// queue does not support an option.
    pub fn send_with<V: SendValue<T>>(
        &self,
        value: V,
        options: &SendOptions,
    ) -> Result<MessageId, SendTimeoutError<V::Returned>> {
        let sent = self.encoded(value.value(), |bytes| {
            self.bytes.port_send_with(bytes, options)
        });
        sent.map_err(|error| error.into_send_timeout(self.bytes.queue(), value.into_returned()))
    }

    /// Sends all values in their order, waiting for room whenever there is none. Cheaper than
    /// single sends. Not atomic: receivers may see the first before the last is sent.
    ///
    /// # Errors
    /// [`BatchSendError`] has the number of values that were sent before the first failure. A value
    /// that cannot be encoded is found before any value is sent.
    pub fn send_batch<V: SendValue<T>>(
        &self,
        values: impl IntoIterator<Item = V>,
    ) -> Result<(), BatchSendError> {
        let mut encoded = self.bytes.scratch();
        encoded.clear();
        let mut ends = vec![0];
        for value in values {
            let appended = self.append(value.value(), &mut encoded);
            appended.map_err(|error| BatchSendError {
                queue: self.bytes.queue(),
                sent: 0,
                failure: error.into(),
            })?;
            ends.push(encoded.len());
        }
        let parts = ends.windows(2);
        let payloads: Vec<&[u8]> = parts.map(|ends| &encoded[ends[0]..ends[1]]).collect();
        self.bytes.send_batch(&payloads)
    }

    /// Sends a message without a value, waiting while the queue is full.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub fn send_signal(&self, signal: Signal) -> Result<MessageId, SendError> {
        self.bytes.send_signal(signal)
    }

    fn send_until<V: SendValue<T>>(
        &self,
        value: V,
        wait: impl FnOnce() -> Wait,
    ) -> Result<MessageId, SendTimeoutError<V::Returned>> {
        let sent = self.send_plain(value.value(), wait);
        sent.map_err(|error| error.into_send_timeout(self.bytes.queue(), value.into_returned()))
    }

    #[inline]
    fn send_plain(
        &self,
        value: &T,
        wait: impl FnOnce() -> Wait,
    ) -> Result<MessageId, SendPortError> {
        self.encoded(value, |bytes| self.bytes.port_send(bytes, wait))
    }

    #[inline]
    fn encoded<R>(
        &self,
        value: &T,
        send: impl FnOnce(&[u8]) -> Result<R, SendPortError>,
    ) -> Result<R, SendPortError> {
        let mut bytes = self.bytes.scratch();
        bytes.clear();
        self.append(value, &mut bytes).map_err(SendFailure::from)?;
        send(&bytes)
    }

    /// Appends the encoded value to `bytes`. The first value is decoded again: a type that cannot
    /// be decoded is refused when it is sent, not by all its receivers.
    pub(crate) fn append(&self, value: &T, bytes: &mut Vec<u8>) -> Result<(), CodecError> {
        let before = bytes.len();
        self.encoding.append(value, bytes)?;
        if self.is_unproved.get() {
            (self.read_back)(self.encoding, &bytes[before..]).map_err(|error| {
                CodecError::NotReadBack {
                    given: std::any::type_name::<T>(),
                    reason: error.to_string(),
                }
            })?;
            self.is_unproved.set(false);
        }
        Ok(())
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

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            bytes: self.bytes.clone(),
            encoding: self.encoding,
            read_back: self.read_back,
            is_unproved: self.is_unproved.clone(),
            payload: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(&self.bytes).finish()
    }
}
