//! Deliveries that borrow nothing: they may be kept across `await` and settled in another thread.
//!
//! What [`recv`](crate::Receiver::recv) gives is read in place and belongs to its handle, which is one thread's. What
//! `recv_async` gives has only the right to settle, and its data by value. Dropped unsettled, each is given back: so a future
//! that is dropped, with whatever it was about to hand out, loses nothing.

use std::fmt::{self, Debug};
use std::time::Duration;

use ipc_proto::{Headers, Message};

use crate::delivery::{About, Nack, Token};
use crate::error::SettleError;
use crate::transport::Settle;

/// For transports: the right to end one delivery, from any thread, also when the handle that received it is gone.
pub trait SettleOnce: Send + Sync {
    /// Ends it. Called exactly once: a delivery that is dropped is a nack.
    ///
    /// # Errors
    /// [`SettleError::LeaseLost`] if the lease expired before.
    fn settle(&self, how: Settle<'_>) -> Result<(), SettleError>;

    /// Renews the lease.
    ///
    /// # Errors
    /// [`SettleError::LeaseLost`] if it expired before.
    fn extend(&self, by: Duration) -> Result<(), SettleError>;
}

/// The right to settle, with what is known of the message. Dropped, the message is given back.
pub(crate) struct Held {
    /// Taken when it is settled.
    right: Option<Box<dyn SettleOnce>>,
    about: About,
    token: Token,
    headers: Headers,
}

/// A received byte string that borrows nothing. Dropped unsettled, it is given back: a nack.
///
/// Its payload is a copy; what [`ByteReceiver::recv`](crate::ByteReceiver::recv) gives is read in place.
#[derive(Debug)]
#[must_use = "dropped without `ack` the message is delivered again"]
pub struct HeldBytes {
    held: Held,
    payload: Vec<u8>,
}

/// A received message that borrows nothing. Dropped unsettled, it is given back: a nack.
#[derive(Debug)]
#[must_use = "dropped without `ack` the message is delivered again"]
pub struct HeldDelivery<T> {
    held: Held,
    message: Message<T>,
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
        right.map_or(Err(SettleError::LeaseLost), |right| right.settle(how))
    }

    pub(crate) fn extend(&self, by: Duration) -> Result<(), SettleError> {
        let right = self.right.as_ref();
        right.map_or(Err(SettleError::LeaseLost), |right| right.extend(by))
    }
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

impl HeldBytes {
    pub(crate) fn new(held: Held, payload: Vec<u8>) -> Self {
        Self { held, payload }
    }

    /// What it says.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// What else is known of it.
    #[must_use]
    pub fn about(&self) -> About {
        self.held.about
    }
}

impl<T> HeldDelivery<T> {
    pub(crate) fn new(held: Held, message: Message<T>) -> Self {
        Self { held, message }
    }

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
}

/// How a delivery ends, whatever it carries.
macro_rules! settling {
    ($delivery:ident $(<$payload:ident>)?) => {
        impl $(<$payload>)? $delivery $(<$payload>)? {
            /// What fences off those who had the message before.
            #[must_use]
            pub fn token(&self) -> Token {
                self.held.token
            }

            /// The headers of its message.
            #[must_use]
            pub fn headers(&self) -> &Headers {
                self.held.headers()
            }

            /// How often it was delivered, this time included.
            #[must_use]
            pub fn attempt(&self) -> u8 {
                self.held.about.attempt
            }

            /// Done: never to be delivered again.
            ///
            /// # Errors
            /// [`SettleError::LeaseLost`] if the lease expired: the message was or will be somebody else's.
            pub fn ack(mut self) -> Result<(), SettleError> {
                self.held.settle(Settle::Ack)
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
            pub fn nack_with(mut self, nack: Nack<'_>) -> Result<(), SettleError> {
                self.held.settle(nack.into())
            }

            /// Puts the message off: it is delivered again after `delay`, in whole milliseconds, rounded up, and this delivery does
            /// not count as an attempt.
            ///
            /// # Errors
            /// As [`ack`](Self::ack), and [`SettleError::Unsupported`] if the transport can't.
            pub fn snooze(mut self, delay: Duration) -> Result<(), SettleError> {
                self.held.settle(Settle::Snooze { delay })
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
            pub fn bury_with(mut self, reason: &str) -> Result<(), SettleError> {
                self.held.settle(Settle::Bury { reason })
            }

            /// Renews the lease: it ends no earlier than `by` from now. Without effect on queues without a lease
            /// time-out.
            ///
            /// # Errors
            /// As [`ack`](Self::ack).
            pub fn extend(&self, by: Duration) -> Result<(), SettleError> {
                self.held.extend(by)
            }
        }
    };
}

settling!(HeldBytes);
settling!(HeldDelivery<T>);
