//! A message in the hands of its receiver.

use std::marker::PhantomData;
use std::mem;
use std::time::Duration;

use ipc_proto::{Kind, MessageId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::{RecvError, SettleError};
use crate::held::{Held, HeldBytes, SettleOnce};
#[cfg(target_os = "linux")]
use crate::shm::ShmDelivery;
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
    Buffered(Box<Buffered>, PhantomData<&'a ()>),
}

/// A delivery of a transport that copies.
#[derive(Debug)]
struct Buffered {
    held: Held,
    payload: Vec<u8>,
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
    /// How often it was delivered, this time included.
    pub attempt: u8,
}

/// Names one delivery of one message, for fencing: whoever writes a result downstream passes it along, and the store
/// refuses what bears a smaller attempt than it has seen for the message. So a worker that lost its lease and goes on
/// can't overwrite what its successor wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Token {
    /// The queue's number: [`Transport::id`](crate::transport::Transport::id).
    pub queue: u64,
    /// Which message.
    pub message: MessageId,
    /// Which delivery of it; grows from one to the next.
    pub attempt: u8,
}

impl<'a> ByteDelivery<'a> {
    /// For transports: a delivery, by the queue of that [number](crate::transport::Transport::id), of a payload that was
    /// copied. `right` is told how it ends, by whichever thread, also when the handle that received it is gone.
    pub fn buffered(
        queue: u64,
        about: About,
        payload: Vec<u8>,
        right: impl SettleOnce + 'static,
    ) -> Self {
        let token = Token {
            queue,
            message: about.id,
            attempt: about.attempt,
        };
        let held = Held::new(Box::new(right), about, token);
        Self(Inner::Buffered(
            Box::new(Buffered { held, payload }),
            PhantomData,
        ))
    }

    #[cfg(target_os = "linux")]
    #[inline]
    pub(crate) fn shm(delivery: ShmDelivery<'a>) -> Self {
        Self(Inner::Shm(delivery))
    }

    /// What it says.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(delivery) => delivery.payload(),
            Inner::Buffered(delivery, _) => &delivery.payload,
        }
    }

    /// Whether what was read of the payload so far was what was sent. Only where memory is shared can it turn out not to
    /// be: when its file was cut short from outside meanwhile. Settling says so, too.
    ///
    /// # Errors
    /// [`RecvError::Truncated`].
    pub fn check_whole(&self) -> Result<(), RecvError> {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(delivery) => delivery.check_whole(),
            Inner::Buffered(..) => Ok(()),
        }
    }

    /// What else is known of it.
    #[must_use]
    pub fn about(&self) -> About {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(delivery) => delivery.about(),
            Inner::Buffered(delivery, _) => delivery.held.about(),
        }
    }

    /// What it is for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.about().kind
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
            Inner::Buffered(delivery, _) => delivery.held.about().attempt,
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
                attempt: delivery.delivery(),
            },
            Inner::Buffered(delivery, _) => delivery.held.token(),
        }
    }

    /// Done: never to be delivered again.
    ///
    /// # Errors
    /// [`SettleError::LeaseLost`] if the lease expired: the message was or will be somebody else's.
    #[inline]
    pub fn ack(self) -> Result<(), SettleError> {
        self.settle(Settle::Ack)
    }

    /// To be delivered again at once, to anybody; a dead letter if that was its last attempt.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn nack(self) -> Result<(), SettleError> {
        self.nack_after(Duration::ZERO)
    }

    /// To be delivered again after `delay`, in whole milliseconds, rounded up.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn nack_after(self, delay: Duration) -> Result<(), SettleError> {
        self.settle(Settle::Nack { delay })
    }

    /// Never to be delivered again, but kept as a dead letter.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn bury(self) -> Result<(), SettleError> {
        self.settle(Settle::Bury)
    }

    /// Renews the lease: it ends no earlier than `by` from now. Without effect on queues without a lease time-out.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn extend(&self, by: Duration) -> Result<(), SettleError> {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(delivery) => delivery.extend(by),
            Inner::Buffered(delivery, _) => delivery.held.extend(by),
        }
    }

    /// The same with a copy of its payload, to be kept in another thread, or longer than its receiver.
    #[must_use = "dropped without `ack` the message is delivered again"]
    pub fn hold(self) -> HeldBytes {
        let payload = self.payload().to_vec();
        HeldBytes::new(self.into_held(), payload)
    }

    /// Takes the right to settle it along, and leaves the payload.
    pub(crate) fn into_held(self) -> Held {
        #[cfg(target_os = "linux")]
        let (about, token) = (self.about(), self.token());
        match self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(delivery) => Held::new(Box::new(delivery.into_held()), about, token),
            Inner::Buffered(delivery, _) => delivery.held,
        }
    }

    /// By reference until the end: a copy of a delivery just made would wait for its parts to be written.
    #[inline]
    pub(crate) fn settle(mut self, how: Settle) -> Result<(), SettleError> {
        match &mut self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(delivery) => {
                let settled = delivery.settle(how);
                mem::forget(self);
                settled
            }
            Inner::Buffered(delivery, _) => delivery.held.settle(how),
        }
    }
}
