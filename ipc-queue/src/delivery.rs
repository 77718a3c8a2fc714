//! A message in the hands of its receiver.

use std::mem;
use std::time::Duration;

use ipc_proto::{Headers, Kind, MessageId, Timestamp};

use crate::error::{BatchAckError, RecvError, RecvFailure, SettleError, SettleFailure};
use crate::held::{Held, Holder};
use crate::metadata::{FencingToken, Metadata};
use crate::owned::OwnedByteDelivery;
use crate::port::PortDelivery;
use crate::settle::{Nack, Settle};
use crate::settling::settling;
#[cfg(target_os = "linux")]
use crate::shm::{Acks, ShmDelivery};
use crate::together::Together;

/// A received message, until it is settled. Dropping it unsettled is a nack.
///
/// If the transport shares memory, the payload is read where the sender wrote it. The payload stays
/// valid while the delivery exists, even after its lease was lost.
#[derive(Debug)]
#[must_use = "dropped without `ack` the message is delivered again"]
pub struct ByteDelivery<'a>(Held<'a>);

impl From<PortDelivery> for ByteDelivery<'_> {
    fn from(delivery: PortDelivery) -> Self {
        Self(Held::of_port(Box::new(delivery)))
    }
}

/// For [`ack_later`](crate::ByteReceiver::ack_later).
impl From<OwnedByteDelivery> for ByteDelivery<'_> {
    fn from(delivery: OwnedByteDelivery) -> Self {
        delivery.into_held().into()
    }
}

#[cfg(target_os = "linux")]
impl<'a> From<ShmDelivery<'a>> for ByteDelivery<'a> {
    #[inline(always)]
    fn from(delivery: ShmDelivery<'a>) -> Self {
        Self(Held::of_shm(delivery))
    }
}

impl<'a> ByteDelivery<'a> {
    /// Returns the payload.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match self.0.holder() {
            #[cfg(target_os = "linux")]
            Holder::Shm(delivery) => delivery.payload(),
            Holder::Port(delivery) => delivery.payload(),
        }
    }

    /// Returns the headers of the message.
    #[must_use]
    pub fn headers(&self) -> Headers {
        match self.0.holder() {
            #[cfg(target_os = "linux")]
            Holder::Shm(delivery) => delivery.headers(),
            Holder::Port(delivery) => delivery.headers().clone(),
        }
    }

    /// Checks that the payload bytes read so far are those that were sent. In shared memory they
    /// are not if the queue's file was truncated meanwhile. Settling reports that too.
    ///
    /// # Errors
    /// [`Unavailable::Truncated`](crate::Unavailable::Truncated).
    #[inline]
    pub fn check_whole(&self) -> Result<(), RecvError> {
        match self.0.holder() {
            #[cfg(target_os = "linux")]
            Holder::Shm(delivery) => {
                let checked = delivery.check_whole();
                checked.map_err(|cause| RecvFailure::from(cause).of(self.queue()))
            }
            Holder::Port(delivery) => {
                let checked = delivery.check_whole();
                checked.map_err(|cause| RecvFailure::from(cause).of(self.queue()))
            }
        }
    }

    /// Returns the queue's address, without credentials, for errors.
    #[cold]
    pub(crate) fn queue(&self) -> String {
        match self.0.holder() {
            #[cfg(target_os = "linux")]
            Holder::Shm(delivery) => delivery.queue(),
            Holder::Port(delivery) => delivery.queue(),
        }
    }

    #[cold]
    fn not_settled(&self, failure: SettleFailure) -> SettleError {
        failure.of(self.queue(), self.id())
    }

    /// Returns everything known about the message except its payload and its headers.
    #[must_use]
    pub fn metadata(&self) -> Metadata {
        match self.0.holder() {
            #[cfg(target_os = "linux")]
            Holder::Shm(delivery) => delivery.metadata(),
            Holder::Port(delivery) => delivery.metadata(),
        }
    }

    /// Returns the time of sending, by the sender's clock.
    #[must_use]
    pub fn sent_at(&self) -> Timestamp {
        self.metadata().sent_at
    }

    /// Returns the kind of the message.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.0.holder() {
            #[cfg(target_os = "linux")]
            Holder::Shm(delivery) => delivery.kind(),
            Holder::Port(delivery) => delivery.metadata().kind,
        }
    }

    /// Returns the message's id, the same at every delivery.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.metadata().id
    }

    /// Returns the number of this attempt, counted from 1.
    #[must_use]
    pub fn attempt(&self) -> u8 {
        match self.0.holder() {
            #[cfg(target_os = "linux")]
            Holder::Shm(delivery) => delivery.attempt(),
            Holder::Port(delivery) => delivery.metadata().attempt,
        }
    }

    /// Returns the fencing token of this delivery.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        match self.0.holder() {
            #[cfg(target_os = "linux")]
            Holder::Shm(delivery) => FencingToken {
                queue: delivery.queue_id(),
                message: self.id(),
                delivery: delivery.delivery(),
            },
            Holder::Port(delivery) => delivery.token(),
        }
    }

    /// Renews the lease: it ends no earlier than `by` from now. Has no effect on queues without a
    /// lease time-out.
    ///
    /// # Errors
    /// Those of [`ack`](Self::ack).
    pub fn extend(&self, by: Duration) -> Result<(), SettleError> {
        match self.0.holder() {
            #[cfg(target_os = "linux")]
            Holder::Shm(delivery) => {
                let extended = delivery.extend(by);
                extended.map_err(|failure| self.not_settled(failure))
            }
            Holder::Port(delivery) => delivery.extend(by),
        }
    }

    /// Returns the same delivery without a borrow of its receiver. It can be kept in another
    /// thread, or outlive its receiver. In shared memory the payload is not copied.
    #[must_use = "dropped without `ack` the message is delivered again"]
    pub fn into_owned(self) -> OwnedByteDelivery {
        OwnedByteDelivery::new(match self.0.into_holder() {
            #[cfg(target_os = "linux")]
            Holder::Shm(delivery) => delivery.into_port(),
            Holder::Port(delivery) => *delivery,
        })
    }

    /// Returns whether an ack is done by this process alone, without a server.
    #[inline]
    pub(crate) fn is_shared_memory(&self) -> bool {
        match self.0.holder() {
            #[cfg(target_os = "linux")]
            Holder::Shm(_) => true,
            Holder::Port(_) => false,
        }
    }

    /// Settles by reference as long as possible: a copy of a fresh delivery would stall until its
    /// parts are written.
    #[inline]
    pub(crate) fn settle(self, how: Settle<'_>) -> Result<(), SettleError> {
        match self.0.holder() {
            #[cfg(target_os = "linux")]
            Holder::Shm(delivery) => {
                let settled = delivery.settle(how);
                let settled = settled.map_err(|failure| self.not_settled(failure));
                mem::forget(self);
                settled
            }
            Holder::Port(_) => self.into_owned().settle(how),
        }
    }
}

settling!(['a] ByteDelivery<'a>);

/// Acknowledges all of them. In shared memory, several are freed, counted and notified together.
pub(crate) fn ack_all<'a>(
    deliveries: impl Iterator<Item = ByteDelivery<'a>>,
) -> Result<(), BatchAckError> {
    let (count, failures) = ack_each(deliveries);
    let failures: Vec<_> = failures.into_iter().map(|(_, failure)| failure).collect();
    BatchAckError::check(count - failures.len(), failures)
}

/// Acknowledges all of them. Returns their number, and each failure with the index of its delivery,
/// in order.
pub(crate) fn ack_each<'a>(
    deliveries: impl Iterator<Item = ByteDelivery<'a>>,
) -> (usize, Vec<(usize, SettleError)>) {
    let mut together = Together::default();
    let (count, mut failures) = ack_some(deliveries, &mut together);
    together.ack(|index, error| failures.push((index, error)));
    failures.sort_unstable_by_key(|(index, _)| *index);
    (count, failures)
}

/// Like [`ack_each`], but leaves those that can be acknowledged together to `together`.
pub(crate) fn ack_some<'a>(
    deliveries: impl Iterator<Item = ByteDelivery<'a>>,
    together: &mut Together,
) -> (usize, Vec<(usize, SettleError)>) {
    let mut count = 0;
    let mut failures = Vec::new();
    #[cfg(target_os = "linux")]
    let mut acks = Acks::default();
    for delivery in deliveries {
        let index = count;
        count += 1;
        match delivery.0.into_holder() {
            #[cfg(target_os = "linux")]
            Holder::Shm(shared) => acks.add(index, shared),
            Holder::Port(port) => {
                if let Err(error) = port.ack_in(index, together) {
                    failures.push((index, error));
                }
            }
        }
    }
    #[cfg(target_os = "linux")]
    failures.append(&mut acks.end());
    failures.sort_unstable_by_key(|(index, _)| *index);
    (count, failures)
}
