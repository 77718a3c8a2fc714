//! Deliveries that borrow nothing: they may be kept across `await` and settled in another thread.
//!
//! A delivery from [`recv`](crate::Receiver::recv) borrows its receiver, which belongs to one thread.
//! These own the right to settle. In shared memory their payload is still read where the sender wrote
//! it. Dropped unsettled, each returns its message to the queue. So a future that is dropped with a
//! delivery inside loses nothing.

use std::fmt::{self, Debug};
use std::time::Duration;

use ipc_proto::{Headers, Kind, MessageId, Timestamp};

use crate::delivery::{About, Nack, Token};
use crate::error::{RecvError, RecvFailure, SettleError, SettleFailure, Unavailable};
use crate::settling::{settling, settling_async};
use crate::transport::{OwnedSettle, Settle};

/// For transports: the right to end one delivery, from any thread, also when the handle that received it is gone.
pub trait SettleOnce: Send + Sync {
    /// Ends it. Called exactly once: a delivery that is dropped is a nack.
    ///
    /// # Errors
    /// [`SettleFailure::LeaseLost`] if the lease expired before.
    fn settle(&self, how: Settle<'_>) -> Result<(), SettleFailure>;

    /// Renews the lease.
    ///
    /// # Errors
    /// [`SettleFailure::LeaseLost`] if it expired before.
    fn extend(&self, by: Duration) -> Result<(), SettleFailure>;

    /// Returns whether settling may wait for a server, so that an async caller must not do it in
    /// its own thread.
    fn may_block(&self) -> bool {
        true
    }

    /// The payload, if the transport lets it be read where it lies.
    fn payload(&self) -> Option<&[u8]> {
        None
    }

    /// Checks that what was read of the payload in place was what was sent.
    ///
    /// # Errors
    /// [`Unavailable::Truncated`].
    fn check_whole(&self) -> Result<(), Unavailable> {
        Ok(())
    }

    /// The queue's address, without credentials, for errors.
    fn queue(&self) -> String;
}

/// The right to settle, with what is known of the message. Dropped, the message is given back.
pub(crate) struct Held {
    /// Taken when it is settled.
    right: Option<Box<dyn SettleOnce>>,
    about: About,
    token: Token,
    headers: Headers,
}

/// A received byte string that borrows nothing. Dropped unsettled, it returns to the queue: a nack.
///
/// In shared memory its payload is read where the sender wrote it; elsewhere it is a copy.
#[derive(Debug)]
#[must_use = "dropped without `ack` the message is delivered again"]
pub struct OwnedByteDelivery {
    held: Held,
    /// Empty where the payload is read in place.
    payload: Vec<u8>,
}

/// A received message that borrows nothing. Dropped unsettled, it returns to the queue: a nack.
#[derive(Debug)]
#[must_use = "dropped without `ack` the message is delivered again"]
pub struct OwnedDelivery<T> {
    held: Held,
    data: T,
}

impl Held {
    pub(crate) fn new(right: Box<dyn SettleOnce>, about: About, token: Token) -> Self {
        Self {
            right: Some(right),
            about,
            token,
            headers: Headers::new(),
        }
    }

    pub(crate) fn set_headers(&mut self, headers: Headers) {
        self.headers = headers;
    }

    pub(crate) fn headers(&self) -> &Headers {
        &self.headers
    }

    pub(crate) fn about(&self) -> About {
        self.about
    }

    pub(crate) fn token(&self) -> Token {
        self.token
    }

    /// Called once, at the end.
    pub(crate) fn settle(&mut self, how: Settle<'_>) -> Result<(), SettleError> {
        let right = self.right.take();
        let settled = match &right {
            Some(right) => right.settle(how),
            None => Err(SettleFailure::LeaseLost),
        };
        settled.map_err(|failure| failure.of(queue_of(right.as_ref()), self.about.id))
    }

    pub(crate) fn extend(&self, by: Duration) -> Result<(), SettleError> {
        let extended = match &self.right {
            Some(right) => right.extend(by),
            None => Err(SettleFailure::LeaseLost),
        };
        extended.map_err(|failure| failure.of(self.queue(), self.about.id))
    }

    /// The queue's address, without credentials, for errors.
    pub(crate) fn queue(&self) -> String {
        queue_of(self.right.as_ref())
    }

    async fn settle_async(mut self, how: OwnedSettle) -> Result<(), SettleError> {
        match &self.right {
            Some(right) if right.may_block() => {
                blocking::unblock(move || self.settle(how.as_settle())).await
            }
            _ => self.settle(how.as_settle()),
        }
    }

    fn payload(&self) -> Option<&[u8]> {
        self.right.as_ref().and_then(|right| right.payload())
    }
}

fn queue_of(right: Option<&Box<dyn SettleOnce>>) -> String {
    right.map(|right| right.queue()).unwrap_or_default()
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(right) = self.right.take() {
            // A lease that was lost has been given back already.
            let _ = right.settle(Nack::new().into());
        }
    }
}

impl Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.token).finish()
    }
}

impl OwnedByteDelivery {
    pub(crate) fn new(held: Held, payload: Vec<u8>) -> Self {
        Self { held, payload }
    }

    /// The delivery of the value that its payload encodes.
    pub(crate) fn with_data<T>(self, data: T) -> OwnedDelivery<T> {
        OwnedDelivery {
            held: self.held,
            data,
        }
    }

    /// The payload. It stays as it is while the delivery exists, also after its lease was lost.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.held.payload().unwrap_or(&self.payload)
    }

    /// Checks that what was read of the payload so far was what was sent. In shared memory it is not
    /// if the queue's file was truncated meanwhile. Settling reports that too.
    ///
    /// # Errors
    /// [`Unavailable::Truncated`].
    pub fn check_whole(&self) -> Result<(), RecvError> {
        let right = self.held.right.as_ref();
        let checked = right.map_or(Ok(()), |right| right.check_whole());
        checked.map_err(|cause| RecvFailure::from(cause).of(self.held.queue()))
    }
}

impl<T> OwnedDelivery<T> {
    /// The value that was sent.
    #[must_use]
    pub fn data(&self) -> &T {
        &self.data
    }

    /// The value that was sent, to be changed in place.
    #[must_use]
    pub fn data_mut(&mut self) -> &mut T {
        &mut self.data
    }

    /// Moves the value out. The rest is settled like any delivery.
    #[must_use = "dropped without `ack` the message is delivered again"]
    pub fn into_parts(self) -> (T, OwnedDelivery<()>) {
        let rest = OwnedDelivery {
            held: self.held,
            data: (),
        };
        (self.data, rest)
    }
}

/// What every owned delivery tells about its message.
macro_rules! described {
    ([$($generics:tt)*] $delivery:ty) => {
        impl<$($generics)*> $delivery {
            /// Everything known about the message, except its payload and its headers.
            #[must_use]
            pub fn about(&self) -> About {
                self.held.about
            }

            /// The kind of the message.
            #[must_use]
            pub fn kind(&self) -> Kind {
                self.held.about.kind
            }

            /// The message's id, the same at every delivery.
            #[must_use]
            pub fn id(&self) -> MessageId {
                self.held.about.id
            }

            /// The time of sending, by the sender's clock.
            #[must_use]
            pub fn sent_at(&self) -> Timestamp {
                self.held.about.sent_at
            }

            /// The number of this attempt, counted from 1.
            #[must_use]
            pub fn attempt(&self) -> u8 {
                self.held.about.attempt
            }

            /// The fencing token of this delivery.
            #[must_use]
            pub fn token(&self) -> Token {
                self.held.token
            }

            /// The headers of the message.
            #[must_use]
            pub fn headers(&self) -> &Headers {
                self.held.headers()
            }

            /// Renews the lease: it ends no earlier than `by` from now. Without effect on queues
            /// without a lease time-out.
            ///
            /// # Errors
            /// As [`ack`](Self::ack).
            pub fn extend(&self, by: Duration) -> Result<(), SettleError> {
                self.held.extend(by)
            }

            fn settle(mut self, how: Settle<'_>) -> Result<(), SettleError> {
                self.held.settle(how)
            }
        }
    };
}

described!([] OwnedByteDelivery);
described!([T] OwnedDelivery<T>);
settling!([] OwnedByteDelivery);
settling!([T] OwnedDelivery<T>);
settling_async!([] OwnedByteDelivery);
settling_async!([T] OwnedDelivery<T>);
