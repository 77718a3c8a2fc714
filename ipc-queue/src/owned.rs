//! Deliveries that borrow nothing: they may be kept across `await` and settled in another thread.
//!
//! A delivery from [`recv`](crate::Receiver::recv) borrows its receiver, which belongs to one
//! thread. These own the right to settle. In shared memory their payload is still read where the
//! sender wrote it. Dropped unsettled, each returns its message to the queue. So a future that is
//! dropped with a delivery inside loses nothing.

use std::time::Duration;

use ipc_proto::{Headers, Kind, MessageId, Timestamp};

use crate::error::{RecvError, RecvFailure, SettleError};
use crate::metadata::{FencingToken, Metadata};
use crate::port::PortDelivery;
use crate::settle::Nack;
use crate::settle::{OwnedSettle, Settle};
use crate::settling::{settling, settling_async};

/// A received byte string that borrows nothing. Dropped unsettled, it returns to the queue: a nack.
///
/// In shared memory its payload is read where the sender wrote it; elsewhere it is a copy.
#[derive(Debug)]
#[must_use = "dropped without `ack` the message is delivered again"]
pub struct OwnedByteDelivery {
    held: PortDelivery,
}

/// A received message that borrows nothing. Dropped unsettled, it returns to the queue: a nack.
#[derive(Debug)]
#[must_use = "dropped without `ack` the message is delivered again"]
pub struct OwnedDelivery<T> {
    held: PortDelivery,
    data: T,
}

impl OwnedByteDelivery {
    pub(crate) fn new(held: PortDelivery) -> Self {
        Self { held }
    }

    pub(crate) fn into_held(self) -> PortDelivery {
        self.held
    }

    /// Returns the delivery of the value that its payload encodes.
    pub(crate) fn with_data<T>(self, data: T) -> OwnedDelivery<T> {
        OwnedDelivery {
            held: self.held.without_payload(),
            data,
        }
    }

    /// Returns the payload. It does not change while the delivery exists, even after its lease was
    /// lost.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.held.payload()
    }

    /// Checks that the payload bytes read so far are those that were sent. In shared memory they
    /// are not if the queue's file was truncated meanwhile. Settling reports that too.
    ///
    /// # Errors
    /// [`Unavailable::Truncated`](crate::Unavailable::Truncated).
    pub fn check_whole(&self) -> Result<(), RecvError> {
        let checked = self.held.check_whole();
        checked.map_err(|cause| RecvFailure::from(cause).of(self.held.queue()))
    }
}

async fn settle_async(held: PortDelivery, how: OwnedSettle) -> Result<(), SettleError> {
    match held.may_block() {
        true => blocking::unblock(move || held.settle(how.as_settle())).await,
        false => held.settle(how.as_settle()),
    }
}

impl<T> OwnedDelivery<T> {
    pub(crate) fn into_held(self) -> (T, PortDelivery) {
        (self.data, self.held)
    }

    /// The value that was sent.
    #[must_use]
    pub fn data(&self) -> &T {
        &self.data
    }

    /// Returns the value that was sent, for changes in place.
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

/// Gives an owned delivery the accessors of its message.
macro_rules! described {
    ([$($generics:tt)*] $delivery:ty) => {
        impl<$($generics)*> $delivery {
            /// Returns everything known about the message except its payload and its headers.
            #[must_use]
            pub fn metadata(&self) -> Metadata {
                self.held.metadata()
            }

            /// Returns the kind of the message.
            #[must_use]
            pub fn kind(&self) -> Kind {
                self.held.metadata().kind
            }

            /// Returns the message's id, the same at every delivery.
            #[must_use]
            pub fn id(&self) -> MessageId {
                self.held.metadata().id
            }

            /// Returns the time of sending, by the sender's clock.
            #[must_use]
            pub fn sent_at(&self) -> Timestamp {
                self.held.metadata().sent_at
            }

            /// Returns the number of this attempt, counted from 1.
            #[must_use]
            pub fn attempt(&self) -> u8 {
                self.held.metadata().attempt
            }

            /// Returns the fencing token of this delivery.
            #[must_use]
            pub fn token(&self) -> FencingToken {
                self.held.token()
            }

            /// Returns the headers of the message.
            #[must_use]
            pub fn headers(&self) -> &Headers {
                self.held.headers()
            }

            /// Renews the lease: it ends no earlier than `by` from now. Has no effect on queues
            /// without a lease time-out.
            ///
            /// # Errors
            /// Those of [`ack`](Self::ack).
            pub fn extend(&self, by: Duration) -> Result<(), SettleError> {
                self.held.extend(by)
            }

            pub(crate) fn settle(self, how: Settle<'_>) -> Result<(), SettleError> {
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
