//! Receiving typed values.

use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use ipc_proto::{Encoding, Signal};
use serde::de::DeserializeOwned;

use crate::batch::Batch;
use crate::bytes::ByteReceiver;
use crate::delivery::ByteDelivery;
use crate::error::{
    BatchAckError, RecvError, RecvFailure, RecvPortError, RecvTimeoutError, TryRecvError,
};
use crate::received::{Delivery, Incoming};
use crate::wait::Wait;

/// Receives `T`s. Belongs to one thread at a time: clone it for others.
///
/// Each receive returns a message with a value. A `Heartbeat` is acknowledged and skipped. A
/// `Shutdown` is acknowledged and returned as [`RecvFailure::Shutdown`], once, to the receiver that
/// takes it. [`recv_any`](Self::recv_any) returns both like other messages.
///
/// ```
/// use ipc_queue::Queue;
///
/// let queue = Queue::<u32>::open("local:numbered")?;
/// queue.sender().send_batch([1, 2, 3])?;
/// queue.close()?;
///
/// let receiver = queue.receiver();
/// let mut sum = 0;
/// for number in &receiver {
///     sum += number.data();
///     number.ack()?;
/// }
/// assert_eq!(sum, 6); // the loop ends when the queue is closed and drained
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Receiver<T> {
    bytes: ByteReceiver,
    encoding: Encoding,
    payload: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Receiver<T> {
    /// Blocks until there is a message, and returns it.
    ///
    /// # Errors [`RecvFailure::Closed`] when the queue is closed and drained.
    /// [`RecvFailure::Decode`] for a message that is not a `T`. It returns to the queue for other
    /// receivers, and the next call continues with the message after it. All other errors mean that
    /// the queue cannot be used.
    pub fn recv(&self) -> Result<Delivery<'_, T>, RecvError> {
        let received = self.port_recv(|| Wait::Forever);
        received.map_err(|error| error.into_recv(self.bytes.queue()))
    }

    /// Returns a message if there is one.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`] if there is none; otherwise those of [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<Delivery<'_, T>, TryRecvError> {
        let received = self.port_recv(|| Wait::No);
        received.map_err(|error| error.into_try_recv(|| self.bytes.queue()))
    }

    /// Blocks until there is a message, for at most `timeout`.
    ///
    /// # Errors
    /// [`RecvTimeoutError::TimedOut`] if there was none; otherwise those of [`recv`](Self::recv).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Delivery<'_, T>, RecvTimeoutError> {
        self.recv_within(|| Wait::at_most(timeout))
    }

    /// Blocks until there is a message, but no longer than until `deadline`.
    ///
    /// # Errors
    /// [`RecvTimeoutError::TimedOut`] if there was none; otherwise those of [`recv`](Self::recv).
    pub fn recv_deadline(&self, deadline: Instant) -> Result<Delivery<'_, T>, RecvTimeoutError> {
        self.recv_within(|| Wait::Until(deadline))
    }

    /// Returns the next messages, at most `most`. Waits for the first as `wait` says, then takes
    /// those that are ready.
    ///
    /// Each is a separate delivery; [`Batch::ack`] settles all at once. Other receivers cannot take
    /// the messages that this one holds, so ask for no more than it can work on soon. A batch may
    /// be shorter although more messages are ready. In shared memory it ends once its payloads
    /// reach 64 KiB, so that they stay in the processor's cache. Messages that are not `T`s return
    /// to the queue, as with [`recv`](Self::recv), and are left out.
    ///
    /// # Errors
    /// Those of the other receives, if not even a first message was received.
    pub fn recv_batch(
        &self,
        most: usize,
        wait: Wait,
    ) -> Result<Batch<'_, Delivery<'_, T>>, RecvTimeoutError> {
        let mut batch = Batch::new();
        self.recv_batch_into(&mut batch, most, wait)?;
        Ok(batch)
    }

    /// Like [`recv_batch`](Self::recv_batch), but appends to a batch, whose memory is reused.
    ///
    /// # Errors
    /// Those of [`recv_batch`](Self::recv_batch). The batch is then unchanged.
    pub fn recv_batch_into<'a>(
        &'a self,
        batch: &mut Batch<'a, Delivery<'a, T>>,
        most: usize,
        wait: Wait,
    ) -> Result<(), RecvTimeoutError> {
        let received = self.port_recv_batch(batch, most, wait);
        received.map_err(|error| error.into_recv_timeout(self.bytes.queue()))
    }

    fn port_recv_batch<'a>(
        &'a self,
        batch: &mut Batch<'a, Delivery<'a, T>>,
        most: usize,
        wait: Wait,
    ) -> Result<(), RecvPortError> {
        let (deliveries, encoded) = batch.parts();
        let before = deliveries.len();
        let mut failure = None;
        loop {
            self.bytes.port_recv_batch(most, wait, encoded)?;
            for bytes in encoded.drain(..) {
                match Incoming::of(bytes, self.encoding).and_then(without_signals) {
                    Ok(delivery) => deliveries.extend(delivery),
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
            let is_empty = deliveries.len() == before;
            match failure {
                Some(failure) if is_empty => return Err(failure.into()),
                None if is_empty && most > 0 => {}
                _ => return Ok(()),
            }
        }
    }

    /// Returns the next message or signal, and waits as `wait` says.
    ///
    /// ```
    /// use ipc_queue::{Incoming, Queue, Signal, transport::Wait};
    ///
    /// let queue = Queue::<String>::open("local:signals")?;
    /// queue.sender().send_signal(Signal::Shutdown)?;
    /// let receiver = queue.receiver();
    /// match receiver.recv_any(Wait::Forever)? {
    ///     Incoming::Message(job) => job.ack()?,
    ///     Incoming::Signal(signal) => {
    ///         assert_eq!(*signal.data(), Signal::Shutdown);
    ///         signal.ack()?;
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`recv_timeout`](Self::recv_timeout), except [`RecvFailure::Shutdown`].
    pub fn recv_any(&self, wait: Wait) -> Result<Incoming<'_, T>, RecvTimeoutError> {
        let received = self.bytes.port_recv(|| wait);
        let decoded = received.and_then(|bytes| Ok(Incoming::of(bytes, self.encoding)?));
        decoded.map_err(|error| error.into_recv_timeout(self.bytes.queue()))
    }

    fn recv_within(&self, wait: impl Fn() -> Wait) -> Result<Delivery<'_, T>, RecvTimeoutError> {
        let received = self.port_recv(wait);
        received.map_err(|error| error.into_recv_timeout(self.bytes.queue()))
    }

    /// Asks how long to wait only if there is no message at once: the clock costs more than a
    /// message.
    #[inline(always)]
    fn port_recv(&self, wait: impl Fn() -> Wait) -> Result<Delivery<'_, T>, RecvPortError> {
        let bytes = self.bytes.port_recv(&wait)?;
        if bytes.kind().signal().is_some() {
            return self.recv_after_signal(bytes, wait());
        }
        Ok(Delivery::decode(bytes, self.encoding)?)
    }

    #[cold]
    #[inline(never)]
    fn recv_after_signal<'a>(
        &'a self,
        mut bytes: ByteDelivery<'a>,
        wait: Wait,
    ) -> Result<Delivery<'a, T>, RecvPortError> {
        loop {
            if let Some(delivery) = without_signals(Incoming::of(bytes, self.encoding)?)? {
                return Ok(delivery);
            }
            bytes = self.bytes.port_recv(|| wait)?;
        }
    }
}

/// Acknowledges a signal. `None` for a heartbeat.
pub(crate) fn without_signals<T>(
    incoming: Incoming<'_, T>,
) -> Result<Option<Delivery<'_, T>>, RecvFailure> {
    let signal = match incoming {
        Incoming::Message(delivery) => return Ok(Some(delivery)),
        Incoming::Signal(signal) => signal,
    };
    let (signal, delivery) = signal.into_parts();
    // If the lease is lost, another receiver gets the signal.
    let settled = delivery.ack();
    match signal {
        Signal::Shutdown if settled.is_ok() => Err(RecvFailure::Shutdown),
        _ => Ok(None),
    }
}

impl<T> Receiver<T> {
    pub(crate) fn over(bytes: ByteReceiver, encoding: Encoding) -> Self {
        Self {
            bytes,
            encoding,
            payload: PhantomData,
        }
    }

    /// Acknowledges a delivery without waiting until the server confirms it. See
    /// [`ByteReceiver::ack_later`].
    ///
    /// ```
    /// let queue = ipc_queue::Queue::<u32>::open("local:pipelined-numbers")?;
    /// queue.sender().send_batch(0..100)?;
    /// let receiver = queue.receiver();
    /// while let Ok(number) = receiver.try_recv() {
    ///     receiver.ack_later(number)?; // over a socket, without a wait for each
    /// }
    /// if let Err(error) = receiver.flush() {
    ///     for failure in error.failures() {
    ///         eprintln!("{failure}"); // this message may be delivered again
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`ByteReceiver::ack_later`].
    #[inline]
    pub fn ack_later<D>(&self, delivery: Delivery<'_, D>) -> Result<(), BatchAckError> {
        self.bytes.ack_later(delivery.into_bytes())
    }

    /// Like [`ack_later`](Self::ack_later), for all deliveries of a batch.
    ///
    /// # Errors
    /// Those of [`ack_later`](Self::ack_later).
    pub fn ack_batch_later<'a, D>(
        &self,
        batch: &mut Batch<'a, Delivery<'a, D>>,
    ) -> Result<(), BatchAckError> {
        let deliveries = batch.drain(..).map(Delivery::into_bytes);
        self.bytes.ack_all_later(deliveries)
    }

    /// Waits until all acks of [`ack_later`](Self::ack_later) are confirmed. See
    /// [`ByteReceiver::flush`].
    ///
    /// # Errors
    /// Those of [`ByteReceiver::flush`].
    pub fn flush(&self) -> Result<(), BatchAckError> {
        self.bytes.flush()
    }

    /// Waits until all acks of [`ack_later`](Self::ack_later) are confirmed, without blocking the
    /// thread. See [`ByteReceiver::flush_async`].
    ///
    /// # Errors
    /// Those of [`ByteReceiver::flush`].
    pub async fn flush_async(&mut self) -> Result<(), BatchAckError> {
        self.bytes.flush_async().await
    }

    /// Returns the number of acks that are sent and not confirmed.
    #[must_use]
    pub fn acks_in_flight(&self) -> usize {
        self.bytes.acks_in_flight()
    }

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

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self::over(self.bytes.clone(), self.encoding)
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receiver").field(&self.bytes).finish()
    }
}
