//! A message in the hands of its receiver.

use std::marker::PhantomData;
use std::mem;
use std::time::Duration;

use ipc_proto::{Headers, Kind, MessageId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::{BatchAckError, RecvError, RecvFailure, SettleError, SettleFailure};
use crate::owned::OwnedByteDelivery;
use crate::port::PortDelivery;
use crate::settling::settling;
#[cfg(target_os = "linux")]
use crate::shm::{Acks, ShmDelivery};
use crate::transport::Settle;

/// A received message, until it is settled. Dropped unsettled, it is given back: a nack.
///
/// The payload is read where the sender wrote it, if the transport shares memory. It stays valid while the
/// delivery exists, also after its lease was lost.
#[derive(Debug)]
#[must_use = "dropped without `ack` the message is delivered again"]
pub struct ByteDelivery<'a>(Inner<'a>);

#[derive(Debug)]
enum Inner<'a> {
    #[cfg(target_os = "linux")]
    Shm(ShmDelivery<'a>),
    Port(Box<PortDelivery>, PhantomData<&'a ()>),
}

/// What is known of a delivered message besides its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// What it is for.
    pub kind: Kind,
    /// Which one it is.
    pub id: MessageId,
    /// When it was sent.
    pub sent_at: Timestamp,
    /// Which attempt this is, counted from 1. Snoozed deliveries are not attempts; requeueing counts anew.
    pub attempt: u8,
    /// A number that grows from each delivery of the message to the next, snoozed and requeued ones included. Not
    /// consecutive.
    pub delivery: u64,
}

/// Names one delivery of one message, for fencing: whoever writes a result downstream passes it along, and the store
/// refuses what bears a smaller token than it has seen for the message. So a worker that lost its lease and goes on
/// can't overwrite what its successor wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Token {
    /// The queue's number: [`Transport::id`](crate::transport::Transport::id).
    pub queue: u64,
    /// Which message.
    pub message: MessageId,
    /// Which delivery of it; grows from one to the next: [`About::delivery`].
    pub delivery: u64,
}

/// How a delivery is given back: when it is to come again, and what went wrong.
///
/// ```
/// use std::time::Duration;
/// use ipc_queue::{Nack, Queue};
///
/// let queue = Queue::<u32>::open("local:retried")?;
/// queue.sender().send(7)?;
/// let receiver = queue.receiver();
/// let job = receiver.recv()?;
/// job.nack_with(Nack::new().after(Duration::ZERO).reason("the database is away"))?;
/// assert_eq!(receiver.recv()?.attempt(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Nack<'r> {
    delay: Option<Duration>,
    reason: &'r str,
}

impl<'r> Nack<'r> {
    /// As the queue's [`Backoff`](ipc_proto::Backoff) says, and without a reason.
    pub fn new() -> Self {
        Self::default()
    }

    /// After this delay, in whole milliseconds, rounded up; zero: at once.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// With what went wrong. The dead letter keeps the last reason, up to
    /// [`MAX_REASON_BYTES`](crate::transport::MAX_REASON_BYTES).
    pub fn reason(mut self, reason: &'r str) -> Self {
        self.reason = reason;
        self
    }
}

impl<'r> From<Nack<'r>> for Settle<'r> {
    fn from(nack: Nack<'r>) -> Self {
        Self::Nack {
            delay: nack.delay,
            reason: nack.reason,
        }
    }
}

impl From<PortDelivery> for ByteDelivery<'_> {
    fn from(delivery: PortDelivery) -> Self {
        Self(Inner::Port(Box::new(delivery), PhantomData))
    }
}

#[cfg(target_os = "linux")]
impl<'a> From<ShmDelivery<'a>> for ByteDelivery<'a> {
    #[inline(always)]
    fn from(delivery: ShmDelivery<'a>) -> Self {
        Self(Inner::Shm(delivery))
    }
}

impl<'a> ByteDelivery<'a> {
    /// What it says.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(delivery) => delivery.payload(),
            Inner::Port(delivery, _) => delivery.payload(),
        }
    }

    /// The headers of its message.
    #[must_use]
    pub fn headers(&self) -> Headers {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(delivery) => delivery.headers(),
            Inner::Port(delivery, _) => delivery.headers().clone(),
        }
    }

    /// Checks that what was read of the payload so far was what was sent. In shared memory it is not
    /// if the queue's file was truncated meanwhile. Settling reports that too.
    ///
    /// # Errors
    /// [`Unavailable::Truncated`](crate::Unavailable::Truncated).
    #[inline]
    pub fn check_whole(&self) -> Result<(), RecvError> {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(delivery) => {
                let checked = delivery.check_whole();
                checked.map_err(|cause| RecvFailure::from(cause).of(self.queue()))
            }
            Inner::Port(delivery, _) => {
                let checked = delivery.check_whole();
                checked.map_err(|cause| RecvFailure::from(cause).of(self.queue()))
            }
        }
    }

    /// The queue's address, without credentials, for errors.
    #[cold]
    pub(crate) fn queue(&self) -> String {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(delivery) => delivery.queue(),
            Inner::Port(delivery, _) => delivery.queue(),
        }
    }

    #[cold]
    fn not_settled(&self, failure: SettleFailure) -> SettleError {
        failure.of(self.queue(), self.id())
    }

    /// What else is known of it.
    #[must_use]
    pub fn about(&self) -> About {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(delivery) => delivery.about(),
            Inner::Port(delivery, _) => delivery.about(),
        }
    }

    /// What it is for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(delivery) => delivery.kind(),
            Inner::Port(delivery, _) => delivery.about().kind,
        }
    }

    /// Which message it is; the same at every redelivery.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.about().id
    }

    /// How often it was delivered, this time included.
    #[must_use]
    pub fn attempt(&self) -> u8 {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(delivery) => delivery.attempt(),
            Inner::Port(delivery, _) => delivery.about().attempt,
        }
    }

    /// What fences off those who had the message before.
    #[must_use]
    pub fn token(&self) -> Token {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(delivery) => Token {
                queue: delivery.queue_id(),
                message: self.id(),
                delivery: delivery.delivery(),
            },
            Inner::Port(delivery, _) => delivery.token(),
        }
    }

    /// Renews the lease: it ends no earlier than `by` from now. Without effect on queues without a lease time-out.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn extend(&self, by: Duration) -> Result<(), SettleError> {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(delivery) => {
                let extended = delivery.extend(by);
                extended.map_err(|failure| self.not_settled(failure))
            }
            Inner::Port(delivery, _) => delivery.extend(by),
        }
    }

    /// The same delivery without a borrow of its receiver, to be kept in another thread, or longer
    /// than its receiver. In shared memory the payload stays where it is.
    #[must_use = "dropped without `ack` the message is delivered again"]
    pub fn into_owned(self) -> OwnedByteDelivery {
        OwnedByteDelivery::new(match self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(delivery) => delivery.into_port(),
            Inner::Port(delivery, _) => *delivery,
        })
    }

    /// By reference until the end: a copy of a delivery just made would wait for its parts to be written.
    #[inline]
    pub(crate) fn settle(mut self, how: Settle<'_>) -> Result<(), SettleError> {
        match &mut self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(delivery) => {
                let settled = delivery.settle(how);
                let settled = settled.map_err(|failure| self.not_settled(failure));
                mem::forget(self);
                settled
            }
            Inner::Port(..) => self.into_owned().settle(how),
        }
    }
}

settling!(['a] ByteDelivery<'a>);

/// Acknowledges all of them. Where memory is shared, several are counted and notified together.
pub(crate) fn ack_all<'a>(
    deliveries: impl Iterator<Item = ByteDelivery<'a>>,
) -> Result<(), BatchAckError> {
    #[cfg(target_os = "linux")]
    let mut acks = Acks::default();
    let (mut acked, mut failed, mut first) = (0, 0, None);
    for delivery in deliveries {
        match &delivery.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(shared) => {
                acks.add(shared);
                mem::forget(delivery);
            }
            Inner::Port(..) => match delivery.settle(Settle::Ack) {
                Ok(()) => acked += 1,
                Err(error) => {
                    failed += 1;
                    first = first.or(Some(error));
                }
            },
        }
    }
    #[cfg(target_os = "linux")]
    {
        let outcome = acks.end();
        acked += outcome.acked;
        failed += outcome.failed;
        first = first.or(outcome.first);
    }
    match first {
        None => Ok(()),
        Some(first) => Err(BatchAckError {
            acked,
            failed,
            first,
        }),
    }
}
