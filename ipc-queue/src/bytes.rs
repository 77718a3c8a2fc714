//! The queue of plain bytes: no encoding, no copy where memory is shared.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc_proto::{Kind, MessageId, QueueSettings};

use crate::address::ToAddress;
use crate::batch::Batch;
use crate::bell::Bell;
use crate::control::ControlError;
use crate::controls::controls;
use crate::dead_letter::{DeadLetter, DeadLetterId};
use crate::delivery::ByteDelivery;
use crate::error::{BatchFailure, DrainError, QueueError, RecvError, SendFailure};
use crate::loan::Loan;
use crate::options::QueueOptions;
use crate::send_options::SendOptions;
#[cfg(target_os = "linux")]
use crate::shm::{ShmReceiver, ShmSender};
use crate::stats::QueueStats;
use crate::transport::{Holding, ReceivePort, SendPort, Transport, Wait};

/// Memory for larger batches is had only when there are so many messages.
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
    /// Where values are encoded, so that no user code runs while a place is held.
    scratch: RefCell<Vec<u8>>,
}

/// Receives byte strings. Belongs to one thread at a time: clone it for others.
#[derive(Debug)]
pub struct ByteReceiver {
    port: In,
    /// For clones.
    transport: Arc<dyn Transport>,
}

/// How a sender sends. Shared memory without a detour: it is a matter of nanoseconds.
#[derive(Debug)]
enum Out {
    #[cfg(target_os = "linux")]
    Shm(ShmSender),
    Other(Box<dyn SendPort>),
}

/// How a receiver receives, likewise.
#[derive(Debug)]
enum In {
    #[cfg(target_os = "linux")]
    Shm(ShmReceiver),
    Other(Box<dyn ReceivePort>),
}

impl ByteQueue {
    /// Opens the queue at `address`, or creates it with default settings.
    ///
    /// # Errors
    /// [`QueueError`], as [`Queue::open`](crate::Queue::open).
    pub fn open(address: impl ToAddress) -> Result<Self, QueueError> {
        QueueOptions::new().open_bytes(address)
    }

    /// A queue over a transport that is open already.
    #[must_use]
    pub fn over(transport: Arc<dyn Transport>) -> Self {
        Self { transport }
    }

    /// A handle for sending.
    #[must_use]
    pub fn sender(&self) -> ByteSender {
        ByteSender::of(&self.transport)
    }

    /// A handle for receiving.
    #[must_use]
    pub fn receiver(&self) -> ByteReceiver {
        ByteReceiver::of(&self.transport)
    }

    /// Returns the dead letters, oldest place first.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter>, ControlError> {
        self.transport.dead_letters()
    }

    /// Settings, statistics, dead letters, closing.
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

    /// Sends a copy, waiting for as long as the queue is full.
    ///
    /// # Errors
    /// [`SendFailure`] when the queue is closed or removed, or the payload too large.
    #[inline(always)]
    pub fn send(&self, payload: &[u8]) -> Result<MessageId, SendFailure> {
        self.send_as(Kind::Data, payload, Wait::Forever)
    }

    /// Sends a copy if there is room now.
    ///
    /// # Errors
    /// [`SendFailure::Full`] or `NoMemory` if there is none; else as [`send`](Self::send).
    #[inline(always)]
    pub fn try_send(&self, payload: &[u8]) -> Result<MessageId, SendFailure> {
        self.send_as(Kind::Data, payload, Wait::No)
    }

    /// Sends a copy, waiting at most `timeout` for room.
    ///
    /// # Errors
    /// [`SendFailure::TimedOut`] if there was none; else as [`send`](Self::send).
    pub fn send_timeout(
        &self,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<MessageId, SendFailure> {
        self.send_as(Kind::Data, payload, Wait::at_most(timeout))
    }

    /// Sends a copy as a message of any kind.
    ///
    /// # Errors
    /// As the other sends, depending on `wait`.
    #[inline(always)]
    pub fn send_as(
        &self,
        kind: Kind,
        payload: &[u8],
        wait: Wait,
    ) -> Result<MessageId, SendFailure> {
        match &self.port {
            #[cfg(target_os = "linux")]
            Out::Shm(sender) => sender.send(payload, kind, wait),
            Out::Other(port) => port.send(payload, kind, wait),
        }
    }

    /// Sends a copy with a priority, a delay, a key and so on. A message that was sent before, by its key, counts as sent:
    /// its id is returned.
    ///
    /// # Errors
    /// As [`send_as`](Self::send_as), and [`SendFailure::Unsupported`] when the queue does not have what is asked for.
    pub fn send_with(
        &self,
        payload: &[u8],
        options: &SendOptions,
        wait: Wait,
    ) -> Result<MessageId, SendFailure> {
        match self.loan_with(payload.len(), options, wait) {
            Ok(mut loan) => {
                loan.copy_from_slice(payload);
                loan.publish()
            }
            Err(SendFailure::Duplicate { of }) => Ok(of),
            Err(failure) => Err(failure),
        }
    }

    /// Sends copies of all `payloads` in their order, waiting for room whenever there is none.
    ///
    /// Cheaper than one by one. Not atomic: receivers may see the first before the last is sent.
    ///
    /// # Errors
    /// [`BatchFailure`] says how many were sent before the first that could not be.
    pub fn send_batch(&self, payloads: &[&[u8]]) -> Result<(), BatchFailure> {
        self.send_batch_as(Kind::Data, payloads, Wait::Forever)
    }

    /// Sends a batch of messages of any kind, waiting as told for each that there is no room for.
    ///
    /// # Errors
    /// As [`send_batch`](Self::send_batch).
    pub fn send_batch_as(
        &self,
        kind: Kind,
        payloads: &[&[u8]],
        wait: Wait,
    ) -> Result<(), BatchFailure> {
        self.port().send_batch(payloads, kind, wait)
    }

    /// Memory for `len` bytes and a place in the queue, waiting for as long as there is none.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    #[inline(always)]
    pub fn loan(&self, len: usize) -> Result<Loan<'_>, SendFailure> {
        self.loan_as(Kind::Data, len, Wait::Forever)
    }

    /// Memory for `len` bytes and a place in the queue, if there is one now.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send).
    #[inline(always)]
    pub fn try_loan(&self, len: usize) -> Result<Loan<'_>, SendFailure> {
        self.loan_as(Kind::Data, len, Wait::No)
    }

    /// Memory for a message of any kind.
    ///
    /// # Errors
    /// As the other loans, depending on `wait`.
    #[inline(always)]
    pub fn loan_as(&self, kind: Kind, len: usize, wait: Wait) -> Result<Loan<'_>, SendFailure> {
        match &self.port {
            #[cfg(target_os = "linux")]
            Out::Shm(sender) => sender.lend(len, kind, wait),
            Out::Other(port) => port.loan(len, kind, wait),
        }
    }

    /// Memory for a message with a priority, a delay, a key and so on.
    ///
    /// # Errors
    /// As [`loan_as`](Self::loan_as), [`SendFailure::Unsupported`] when the queue does not have what is asked for,
    /// [`SendFailure::Duplicate`] for a key that it remembers, and [`SendFailure::EmptyKey`] for one without bytes.
    pub fn loan_with(
        &self,
        len: usize,
        options: &SendOptions,
        wait: Wait,
    ) -> Result<Loan<'_>, SendFailure> {
        options.check_key()?;
        self.port().loan_with(len, options, wait)
    }

    pub(crate) fn bell(&self) -> Bell {
        self.port().bell()
    }

    pub(crate) fn has_more(&self) -> bool {
        self.port().has_more()
    }

    /// The memory that values are encoded in, kept from one to the next.
    pub(crate) fn scratch(&self) -> std::cell::RefMut<'_, Vec<u8>> {
        self.scratch.borrow_mut()
    }
}

impl Out {
    fn of(transport: &dyn Transport) -> Self {
        #[cfg(target_os = "linux")]
        if let Some(queue) = transport.as_shm() {
            return Self::Shm(queue.shm_sender());
        }
        Self::Other(transport.sender())
    }
}

impl In {
    fn of(transport: &dyn Transport) -> Self {
        #[cfg(target_os = "linux")]
        if let Some(queue) = transport.as_shm() {
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
            port: In::of(&**transport),
            transport: Arc::clone(transport),
        }
    }

    /// The next message, however long it takes to come.
    ///
    /// # Errors
    /// [`RecvError`] when the queue is closed and drained, or removed.
    #[inline(always)]
    pub fn recv(&self) -> Result<ByteDelivery<'_>, RecvError> {
        self.recv_within(Wait::Forever)
    }

    /// The next message, if there is one.
    ///
    /// # Errors
    /// [`RecvError::Empty`] if there is none; else as [`recv`](Self::recv).
    #[inline(always)]
    pub fn try_recv(&self) -> Result<ByteDelivery<'_>, RecvError> {
        self.recv_within(Wait::No)
    }

    /// The next message, if it comes within `timeout`.
    ///
    /// # Errors
    /// [`RecvError::TimedOut`] if it does not; else as [`recv`](Self::recv).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<ByteDelivery<'_>, RecvError> {
        self.recv_within(Wait::at_most(timeout))
    }

    /// The next message, if it comes before `deadline`.
    ///
    /// # Errors
    /// [`RecvError::TimedOut`] if it does not; else as [`recv`](Self::recv).
    pub fn recv_deadline(&self, deadline: Instant) -> Result<ByteDelivery<'_>, RecvError> {
        self.recv_within(Wait::Until(deadline))
    }

    /// The next message, waiting as told.
    ///
    /// # Errors
    /// As the other receives, depending on `wait`.
    #[inline(always)]
    pub fn recv_within(&self, wait: Wait) -> Result<ByteDelivery<'_>, RecvError> {
        match &self.port {
            #[cfg(target_os = "linux")]
            In::Shm(receiver) => receiver.receive(wait),
            In::Other(port) => port.recv(wait),
        }
    }

    pub(crate) fn bell(&self) -> Bell {
        self.port().bell()
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

    /// The next messages, at most `most`: waits as told for the first, then takes what else is there.
    ///
    /// Each is a delivery of its own; [`Batch::ack`] settles all at once. Other receivers can't take what this one
    /// holds: ask for no more than it can work on soon. A batch may be shorter although more is there: in shared
    /// memory it ends once its payloads have 64 KiB together, so that they stay in the processor's cache.
    ///
    /// # Errors
    /// As the other receives, if there was not even a first message.
    pub fn recv_batch(
        &self,
        most: usize,
        wait: Wait,
    ) -> Result<Batch<'_, ByteDelivery<'_>>, RecvError> {
        let mut batch = Batch::with_capacity(most.min(LARGE_BATCH));
        self.recv_batch_into(&mut batch, most, wait)?;
        Ok(batch)
    }

    /// As [`recv_batch`](Self::recv_batch), appended to a batch whose memory is used again.
    ///
    /// # Errors
    /// As [`recv_batch`](Self::recv_batch).
    pub fn recv_batch_into<'a>(
        &'a self,
        batch: &mut Batch<'a, ByteDelivery<'a>>,
        most: usize,
        wait: Wait,
    ) -> Result<(), RecvError> {
        self.recv_some(most, wait, batch)
    }

    /// Appends the next messages, at most `most`.
    pub(crate) fn recv_some<'a>(
        &'a self,
        most: usize,
        wait: Wait,
        into: &mut Vec<ByteDelivery<'a>>,
    ) -> Result<(), RecvError> {
        match &self.port {
            #[cfg(target_os = "linux")]
            In::Shm(receiver) => receiver.recv_batch(most, wait, into),
            In::Other(port) => port.recv_batch(most, wait, into),
        }
    }
}
