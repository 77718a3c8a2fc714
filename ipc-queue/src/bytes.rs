//! The queue of plain bytes: no encoding, and no copy if the transport shares memory.

mod acks;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc_proto::{Kind, MessageId, QueueSettings, Signal};

use crate::ack_window::AckWindow;
use crate::batch::Batch;
use crate::contract::{LeaseInfo, ReceivePort, SendPort, Transport};
use crate::control::ControlError;
use crate::controls::controls;
use crate::dead_letter::{DeadLetter, DeadLetterId};
use crate::delivery::ByteDelivery;
use crate::error::{
    BatchPortError, BatchSendError, BatchSendTimeoutError, DrainError, RecvError, RecvPortError,
    RecvTimeoutError, SendError, SendFailure, SendPortError, SendTimeoutError, TryRecvError,
    TrySendError,
};
use crate::loan::Loan;
use crate::notifier::Notifier;
use crate::send_options::SendOptions;
#[cfg(target_os = "linux")]
use crate::shm::{ShmQueue, ShmReceiver, ShmSender};
use crate::stats::QueueStats;
use crate::wait::Wait;

/// The capacity of a new batch, if more messages are asked for. A batch that receives more grows.
const LARGE_BATCH: usize = 256;

/// A queue of byte strings that any process can open by its address.
///
/// ```
/// use ipc_queue::ByteQueue;
///
/// let queue = ByteQueue::open("local:frames")?;
/// let sender = queue.sender();
/// let mut loan = sender.loan(3)?; // memory that the receiver will read
/// loan.copy_from_slice(b"abc");
/// loan.publish()?;
///
/// let receiver = queue.receiver();
/// let delivery = receiver.recv()?;
/// assert_eq!(delivery.payload(), b"abc"); // read in place
/// delivery.ack()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ByteQueue {
    transport: Arc<dyn Transport>,
}

/// Sends byte strings. Belongs to one thread at a time: clone it for others.
#[derive(Debug)]
pub struct ByteSender {
    port: Out,
    /// For clones.
    transport: Arc<dyn Transport>,
    /// Memory in which values are encoded, so that no user code runs while a place in the queue is
    /// held.
    scratch: RefCell<Vec<u8>>,
}

/// Receives byte strings. Belongs to one thread at a time: clone it for others.
#[derive(Debug)]
pub struct ByteReceiver {
    /// Before the port, so that it is confirmed and dropped first.
    acks: RefCell<AckWindow>,
    port: In,
    /// For clones.
    transport: Arc<dyn Transport>,
}

/// The port of a sender. Shared memory is called directly, because nanoseconds count there.
#[derive(Debug)]
enum Out {
    #[cfg(target_os = "linux")]
    Shm(ShmSender),
    Other(Box<dyn SendPort>),
}

/// The port of a receiver, with shared memory called directly, as in `Out`.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one for each handle; a box would be an indirection on the fast path"
)]
enum In {
    #[cfg(target_os = "linux")]
    Shm(ShmReceiver),
    Other(Box<dyn ReceivePort>),
}

impl ByteQueue {
    /// Creates a queue over a transport that is already open.
    #[must_use]
    pub fn over(transport: Arc<dyn Transport>) -> Self {
        Self { transport }
    }

    /// Returns a handle for sending.
    #[must_use]
    pub fn sender(&self) -> ByteSender {
        ByteSender::of(&self.transport)
    }

    /// Returns a handle for receiving.
    #[must_use]
    pub fn receiver(&self) -> ByteReceiver {
        ByteReceiver::of(&self.transport)
    }

    /// Returns the dead letters, ordered by place, the oldest first.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter>, ControlError> {
        self.transport.dead_letters()
    }

    /// Returns the transport: settings, statistics, dead letters, closing.
    #[must_use]
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }
}

controls!([] ByteQueue);

impl ByteSender {
    fn of(transport: &Arc<dyn Transport>) -> Self {
        Self {
            port: Out::of(&**transport),
            transport: Arc::clone(transport),
            scratch: RefCell::default(),
        }
    }

    fn port(&self) -> &dyn SendPort {
        match &self.port {
            #[cfg(target_os = "linux")]
            Out::Shm(sender) => sender,
            Out::Other(port) => &**port,
        }
    }

    /// Sends a copy of `payload`, waiting while the queue is full, and returns the message's id.
    ///
    /// # Errors
    /// [`SendError`] when the queue is closed or removed, or the payload too large.
    #[inline(always)]
    pub fn send(&self, payload: &[u8]) -> Result<MessageId, SendError> {
        let sent = self.port_send(payload, || Wait::Forever);
        sent.map_err(|error| error.into_send(self.queue(), ()))
    }

    /// Sends a copy of `payload` if there is room now.
    ///
    /// # Errors
    /// [`TrySendError::Full`] or [`TrySendError::NoMemory`] if there is none; otherwise as
    /// [`send`](Self::send).
    #[inline(always)]
    pub fn try_send(&self, payload: &[u8]) -> Result<MessageId, TrySendError> {
        let sent = self.port_send(payload, || Wait::No);
        sent.map_err(|error| error.into_try_send(self.queue(), ()))
    }

    /// Sends a copy of `payload`, waiting for room for at most `timeout`.
    ///
    /// # Errors
    /// [`SendTimeoutError::TimedOut`] if there was none; otherwise those of [`send`](Self::send).
    pub fn send_timeout(
        &self,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<MessageId, SendTimeoutError> {
        let sent = self.port_send(payload, || Wait::at_most(timeout));
        sent.map_err(|error| error.into_send_timeout(self.queue(), ()))
    }

    /// Sends a copy of `payload`, waiting for room until `deadline`.
    ///
    /// # Errors
    /// Those of [`send_timeout`](Self::send_timeout).
    pub fn send_deadline(
        &self,
        payload: &[u8],
        deadline: Instant,
    ) -> Result<MessageId, SendTimeoutError> {
        let sent = self.port_send(payload, || Wait::Until(deadline));
        sent.map_err(|error| error.into_send_timeout(self.queue(), ()))
    }

    /// Sends a copy of `payload` with a priority, a delay, a key, headers and so on. Waits for room
    /// as the options say; by default without limit.
    ///
    /// If the queue remembers the options' key, nothing is sent, and the id of the message that was
    /// sent with that key is returned.
    ///
    /// # Errors
    /// Those of [`send_timeout`](Self::send_timeout), and [`SendFailure::Unsupported`] when the
    /// queue does not support an option.
    pub fn send_with(
        &self,
        payload: &[u8],
        options: &SendOptions,
    ) -> Result<MessageId, SendTimeoutError> {
        let sent = self.port_send_with(payload, options);
        sent.map_err(|error| error.into_send_timeout(self.queue(), ()))
    }

    /// Sends copies of all `payloads` in their order, waiting for room whenever there is none.
    ///
    /// Cheaper than single sends. Not atomic: receivers may see the first before the last is sent.
    ///
    /// # Errors
    /// [`BatchSendError`] has the number of payloads that were sent before the first that could not
    /// be.
    pub fn send_batch(&self, payloads: &[&[u8]]) -> Result<(), BatchSendError> {
        let sent = self.port_send_batch(payloads, Kind::Data, Wait::Forever);
        sent.map_err(|failed| BatchSendError {
            queue: self.queue(),
            sent: failed.sent,
            failure: failed.error.into_failure(),
        })
    }

    /// Like [`send_batch`](Self::send_batch), but waits for room as `wait` says.
    ///
    /// # Errors
    /// [`BatchSendTimeoutError`] has the number of payloads that were sent before the first that
    /// could not be.
    pub fn send_batch_within(
        &self,
        payloads: &[&[u8]],
        wait: Wait,
    ) -> Result<(), BatchSendTimeoutError> {
        let sent = self.port_send_batch(payloads, Kind::Data, wait);
        sent.map_err(|failed| BatchSendTimeoutError {
            sent: failed.sent,
            error: failed.error.into_send_timeout(self.queue(), ()),
        })
    }

    /// Sends a message without a payload, waiting while the queue is full.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub fn send_signal(&self, signal: Signal) -> Result<MessageId, SendError> {
        let sent = self.port_send_as(signal.into(), &[], || Wait::Forever);
        sent.map_err(|error| error.into_send(self.queue(), ()))
    }

    /// Returns memory for `len` bytes and a place in the queue, waiting while there is none.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    #[inline(always)]
    pub fn loan(&self, len: usize) -> Result<Loan<'_>, SendError> {
        let lent = self.port_loan(len, Wait::Forever);
        lent.map_err(|error| error.into_send(self.queue(), ()))
    }

    /// Returns memory for `len` bytes and a place in the queue, if there is one now.
    ///
    /// # Errors
    /// Those of [`try_send`](Self::try_send).
    #[inline(always)]
    pub fn try_loan(&self, len: usize) -> Result<Loan<'_>, TrySendError> {
        let lent = self.port_loan(len, Wait::No);
        lent.map_err(|error| error.into_try_send(self.queue(), ()))
    }

    /// Returns memory for a message with a priority, a delay, a key, headers and so on. Waits for
    /// room as the options say; by default without limit.
    ///
    /// # Errors
    /// Those of [`send_with`](Self::send_with), and [`SendFailure::Duplicate`] for a key that the
    /// queue remembers.
    pub fn loan_with(
        &self,
        len: usize,
        options: &SendOptions,
    ) -> Result<Loan<'_>, SendTimeoutError> {
        let lent = self.port_loan_with(len, options);
        lent.map_err(|error| error.into_send_timeout(self.queue(), ()))
    }

    /// Returns the queue's address, without credentials, for errors.
    #[cold]
    pub(crate) fn queue(&self) -> String {
        self.transport.address()
    }

    #[inline(always)]
    pub(crate) fn port_send(
        &self,
        payload: &[u8],
        wait: impl FnOnce() -> Wait,
    ) -> Result<MessageId, SendPortError> {
        self.port_send_as(Kind::Data, payload, wait)
    }

    #[inline(always)]
    pub(crate) fn port_send_as(
        &self,
        kind: Kind,
        payload: &[u8],
        wait: impl FnOnce() -> Wait,
    ) -> Result<MessageId, SendPortError> {
        match &self.port {
            #[cfg(target_os = "linux")]
            Out::Shm(sender) => sender.send(payload, kind, wait),
            Out::Other(port) => port.send(payload, kind, wait()),
        }
    }

    pub(crate) fn port_send_with(
        &self,
        payload: &[u8],
        options: &SendOptions,
    ) -> Result<MessageId, SendPortError> {
        if options.first_feature().is_none() {
            return self.port_send_as(options.kind, payload, || options.wait);
        }
        match self.port_loan_with(payload.len(), options) {
            Ok(mut loan) => {
                loan.copy_from_slice(payload);
                Ok(loan.publish_port()?)
            }
            Err(SendPortError::Failed(SendFailure::Duplicate { of })) => Ok(of),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn port_send_batch(
        &self,
        payloads: &[&[u8]],
        kind: Kind,
        wait: Wait,
    ) -> Result<(), BatchPortError> {
        self.port().send_batch(payloads, kind, wait)
    }

    #[inline(always)]
    fn port_loan(&self, len: usize, wait: Wait) -> Result<Loan<'_>, SendPortError> {
        match &self.port {
            #[cfg(target_os = "linux")]
            Out::Shm(sender) => Ok(sender.lend(len, Kind::Data, wait)?.into()),
            Out::Other(port) => Ok(port.loan(len, Kind::Data, wait)?.into()),
        }
    }

    pub(crate) fn port_loan_with(
        &self,
        len: usize,
        options: &SendOptions,
    ) -> Result<Loan<'_>, SendPortError> {
        options.check_values()?;
        match &self.port {
            #[cfg(target_os = "linux")]
            Out::Shm(sender) => Ok(sender.lend_with(len, options, options.wait)?.into()),
            Out::Other(port) => Ok(port.loan_with(len, options, options.wait)?.into()),
        }
    }

    pub(crate) fn notifier(&self) -> Notifier {
        self.port().notifier()
    }

    pub(crate) fn has_more(&self) -> bool {
        self.port().has_more()
    }

    /// Returns the memory in which values are encoded. It is reused.
    pub(crate) fn scratch(&self) -> std::cell::RefMut<'_, Vec<u8>> {
        self.scratch.borrow_mut()
    }
}

impl Out {
    fn of(transport: &dyn Transport) -> Self {
        #[cfg(target_os = "linux")]
        if let Some(queue) = transport.downcast_ref::<ShmQueue>() {
            return Self::Shm(queue.shm_sender());
        }
        Self::Other(transport.sender())
    }
}

impl In {
    fn of(transport: &dyn Transport) -> Self {
        #[cfg(target_os = "linux")]
        if let Some(queue) = transport.downcast_ref::<ShmQueue>() {
            return Self::Shm(queue.shm_receiver());
        }
        Self::Other(transport.receiver())
    }
}

impl Clone for ByteSender {
    fn clone(&self) -> Self {
        Self::of(&self.transport)
    }
}

impl Clone for ByteReceiver {
    fn clone(&self) -> Self {
        Self::of(&self.transport)
    }
}

impl ByteReceiver {
    fn of(transport: &Arc<dyn Transport>) -> Self {
        Self {
            acks: RefCell::default(),
            port: In::of(&**transport),
            transport: Arc::clone(transport),
        }
    }

    /// Blocks until there is a message, and returns it.
    ///
    /// # Errors
    /// [`RecvError`] when the queue is closed and drained, or cannot be used.
    #[inline(always)]
    pub fn recv(&self) -> Result<ByteDelivery<'_>, RecvError> {
        self.receive(|| Wait::Forever, |error| error.into_recv(self.queue()))
    }

    /// Returns a message if there is one.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`] if there is none; otherwise those of [`recv`](Self::recv).
    #[inline(always)]
    pub fn try_recv(&self) -> Result<ByteDelivery<'_>, TryRecvError> {
        self.receive(|| Wait::No, |error| error.into_try_recv(|| self.queue()))
    }

    /// Blocks until there is a message, for at most `timeout`.
    ///
    /// # Errors
    /// [`RecvTimeoutError::TimedOut`] if there was none; otherwise those of [`recv`](Self::recv).
    #[inline(always)]
    pub fn recv_timeout(&self, timeout: Duration) -> Result<ByteDelivery<'_>, RecvTimeoutError> {
        let wait = || Wait::at_most(timeout);
        self.receive(wait, |error| error.into_recv_timeout(self.queue()))
    }

    /// Blocks until there is a message, but no longer than until `deadline`.
    ///
    /// # Errors
    /// Those of [`recv_timeout`](Self::recv_timeout).
    #[inline(always)]
    pub fn recv_deadline(&self, deadline: Instant) -> Result<ByteDelivery<'_>, RecvTimeoutError> {
        self.recv_within(Wait::Until(deadline))
    }

    /// Returns the next message, and waits as `wait` says.
    ///
    /// # Errors
    /// Those of [`recv_timeout`](Self::recv_timeout). With [`Wait::No`], an empty queue is a
    /// time-out after zero time.
    #[inline(always)]
    pub fn recv_within(&self, wait: Wait) -> Result<ByteDelivery<'_>, RecvTimeoutError> {
        self.receive(|| wait, |error| error.into_recv_timeout(self.queue()))
    }

    /// Returns the queue's address, without credentials, for errors.
    #[cold]
    pub(crate) fn queue(&self) -> String {
        self.transport.address()
    }

    #[inline(always)]
    pub(crate) fn port_recv(
        &self,
        wait: impl FnOnce() -> Wait,
    ) -> Result<ByteDelivery<'_>, RecvPortError> {
        match &self.port {
            #[cfg(target_os = "linux")]
            In::Shm(receiver) => Ok(receiver.receive(wait)?.into()),
            In::Other(port) => Ok(port.recv(wait())?.into()),
        }
    }

    /// Asks how long to wait only if there is no message: the clock costs more than a message.
    #[inline(always)]
    fn receive<E>(
        &self,
        wait: impl FnOnce() -> Wait,
        failed: impl FnOnce(RecvPortError) -> E,
    ) -> Result<ByteDelivery<'_>, E> {
        match self.port_recv(wait) {
            Ok(delivery) => Ok(delivery),
            Err(error) => Err(failed(error)),
        }
    }

    pub(crate) fn notifier(&self) -> Notifier {
        self.port().notifier()
    }

    pub(crate) fn has_more(&self) -> bool {
        self.port().has_more()
    }

    fn port(&self) -> &dyn ReceivePort {
        match &self.port {
            #[cfg(target_os = "linux")]
            In::Shm(receiver) => receiver,
            In::Other(port) => &**port,
        }
    }

    /// Returns the next messages, at most `most`. Waits for the first as `wait` says, then takes
    /// those that are ready.
    ///
    /// Each is a separate delivery; [`Batch::ack`] settles all at once. Other receivers cannot take
    /// the messages that this one holds, so ask for no more than it can work on soon. A batch may
    /// be shorter although more messages are ready. In shared memory it ends once its payloads
    /// reach 64 KiB, so that they stay in the processor's cache.
    ///
    /// # Errors
    /// Those of the other receives, if not even a first message was received.
    pub fn recv_batch(
        &self,
        most: usize,
        wait: Wait,
    ) -> Result<Batch<'_, ByteDelivery<'_>>, RecvTimeoutError> {
        let mut batch = Batch::with_capacity(most.min(LARGE_BATCH));
        self.recv_batch_into(&mut batch, most, wait)?;
        Ok(batch)
    }

    /// Like [`recv_batch`](Self::recv_batch), but appends to a batch, whose memory is reused.
    ///
    /// # Errors
    /// Those of [`recv_batch`](Self::recv_batch).
    pub fn recv_batch_into<'a>(
        &'a self,
        batch: &mut Batch<'a, ByteDelivery<'a>>,
        most: usize,
        wait: Wait,
    ) -> Result<(), RecvTimeoutError> {
        let received = self.port_recv_batch(most, wait, batch);
        received.map_err(|error| error.into_recv_timeout(self.queue()))
    }

    /// Appends the next messages, at most `most`.
    pub(crate) fn port_recv_batch<'a>(
        &'a self,
        most: usize,
        wait: Wait,
        into: &mut Vec<ByteDelivery<'a>>,
    ) -> Result<(), RecvPortError> {
        match &self.port {
            #[cfg(target_os = "linux")]
            In::Shm(receiver) => receiver.receive_batch(most, wait, into),
            In::Other(port) => {
                let mut received = Vec::new();
                let end = port.recv_batch(most, wait, &mut received);
                into.extend(received.into_iter().map(ByteDelivery::from));
                end
            }
        }
    }
}
