//! Deliveries and loans as ports return them. They are independent of any transport.
//!
//! A transport implements [`SettleOnce`] and [`PublishOnce`] for its part of a delivery and of a
//! loan. Each is called exactly once at the end, by any thread, possibly after the handle is gone.

use std::fmt::{self, Debug};
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use ipc_proto::{Headers, MessageId};

use crate::error::{SendError, SendFailure, SettleError, SettleFailure, Unavailable};
use crate::metadata::{FencingToken, Metadata};
use crate::settle::{Nack, Settle};
use crate::settle_once::SettleOnce;
use crate::together::Together;

/// The right to fill one place that was lent. Exactly one of `publish` and `abandon` is called,
/// once.
pub trait PublishOnce: Debug + Send + Sync {
    /// Publishes `payload` in the place.
    ///
    /// # Errors
    /// [`SendFailure`]. The loan held a place, so there is always room.
    fn publish(&self, payload: Vec<u8>) -> Result<MessageId, SendFailure>;

    /// Frees the place.
    fn abandon(&self);

    /// Returns whether publishing may wait for a server. If so, an async caller must not publish in
    /// its own thread.
    fn may_block(&self) -> bool {
        true
    }

    /// Returns the queue's address, without credentials, for errors.
    fn queue(&self) -> String;
}

/// A delivery as a [`ReceivePort`](crate::transport::ReceivePort) returns it. Dropped unsettled, it
/// returns to the queue: a nack.
#[must_use = "dropped unsettled, the message is delivered again"]
pub struct PortDelivery {
    /// `None` once it is settled.
    right: Option<Box<dyn SettleOnce>>,
    metadata: Metadata,
    token: FencingToken,
    headers: Headers,
    /// Empty if the payload is read in place.
    payload: Vec<u8>,
}

/// A loan as a [`SendPort`](crate::transport::SendPort) returns it: memory for one payload, and a
/// place in the queue. It borrows nothing, so any thread may publish it. Dropping it unpublished
/// sends nothing and frees the place.
#[derive(Debug)]
#[must_use = "dropped unpublished, it sends nothing"]
pub struct PortLoan {
    /// `None` once it is published.
    place: Option<Box<dyn PublishOnce>>,
    bytes: Vec<u8>,
}

impl PortDelivery {
    /// Creates a delivery by the queue with this [number](crate::transport::Transport::id). `right`
    /// settles it. `payload` is empty if `right` has the payload.
    pub fn new(
        queue: u64,
        metadata: Metadata,
        payload: Vec<u8>,
        right: impl SettleOnce + 'static,
    ) -> Self {
        let token = FencingToken {
            queue,
            message: metadata.id,
            delivery: metadata.delivery,
        };
        Self {
            right: Some(Box::new(right)),
            metadata,
            token,
            headers: Headers::new(),
            payload,
        }
    }

    /// Adds the headers of the message.
    pub fn with_headers(mut self, headers: Headers) -> Self {
        self.headers = headers;
        self
    }

    /// Returns the payload. It does not change while the delivery exists, even after its lease was
    /// lost.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        let right = self.right.as_ref();
        right
            .and_then(|right| right.payload())
            .unwrap_or(&self.payload)
    }

    /// Returns everything known about the message, except its payload and its headers.
    #[must_use]
    pub fn metadata(&self) -> Metadata {
        self.metadata
    }

    /// Returns the fencing token of this delivery.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// Returns the headers of the message.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Settles the message.
    ///
    /// # Errors
    /// [`SettleFailure::LeaseLost`] if the lease expired before.
    pub fn settle(mut self, how: Settle<'_>) -> Result<(), SettleError> {
        let right = self.right.take();
        let settled = match &right {
            Some(right) => right.settle(how),
            None => Err(SettleFailure::LeaseLost),
        };
        settled.map_err(|failure| failure.of(queue_of(right.as_deref()), self.metadata.id))
    }

    /// Acknowledges the delivery now, or leaves that to `together`.
    pub(crate) fn ack_in(
        mut self,
        index: usize,
        together: &mut Together,
    ) -> Result<(), SettleError> {
        let Some(right) = self.right.take() else {
            let lost = SettleFailure::LeaseLost;
            return Err(lost.of(String::new(), self.metadata.id));
        };
        let Err(right) = together.add(index, self.metadata.id, right) else {
            return Ok(());
        };
        let settled = right.settle(Settle::Ack);
        settled.map_err(|failure| failure.of(right.queue(), self.metadata.id))
    }

    /// Renews the lease: it ends no earlier than `by` from now.
    ///
    /// # Errors
    /// Those of [`settle`](Self::settle).
    pub fn extend(&self, by: Duration) -> Result<(), SettleError> {
        let extended = match &self.right {
            Some(right) => right.extend(by),
            None => Err(SettleFailure::LeaseLost),
        };
        extended.map_err(|failure| failure.of(self.queue(), self.metadata.id))
    }

    /// Checks that the payload bytes read so far are those that were sent.
    ///
    /// # Errors
    /// [`Unavailable::Truncated`].
    pub fn check_whole(&self) -> Result<(), Unavailable> {
        let right = self.right.as_ref();
        right.map_or(Ok(()), |right| right.check_whole())
    }

    /// Returns the queue's address, without credentials, for errors.
    pub(crate) fn queue(&self) -> String {
        queue_of(self.right.as_deref())
    }

    pub(crate) fn may_block(&self) -> bool {
        self.right.as_ref().is_some_and(|right| right.may_block())
    }

    /// Drops the copied payload, whose content has been decoded.
    pub(crate) fn without_payload(mut self) -> Self {
        self.payload = Vec::new();
        self
    }
}

fn queue_of(right: Option<&dyn SettleOnce>) -> String {
    right.map(SettleOnce::queue).unwrap_or_default()
}

impl Drop for PortDelivery {
    fn drop(&mut self) {
        if let Some(right) = self.right.take() {
            // If the lease is lost, the message has already returned to the queue.
            let _ = right.settle(Nack::new().into());
        }
    }
}

impl Debug for PortDelivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortDelivery")
            .field("metadata", &self.metadata)
            .finish_non_exhaustive()
    }
}

impl PortLoan {
    /// Creates a loan of an ordinary buffer of `len` bytes. `place` gets the buffer back.
    pub fn new(len: usize, place: impl PublishOnce + 'static) -> Self {
        Self {
            place: Some(Box::new(place)),
            bytes: vec![0; len],
        }
    }

    /// Sends the written bytes, and returns the message's id.
    ///
    /// # Errors
    /// [`SendError`] when the queue was removed, in a forked child, or when the transport fails.
    pub fn publish(mut self) -> Result<MessageId, SendError> {
        let bytes = std::mem::take(&mut self.bytes);
        let place = self.place.take();
        let place = place.expect("a loan is published once, by value");
        let published = place.publish(bytes);
        published.map_err(|failure| failure.of(place.queue()))
    }

    pub(crate) fn may_block(&self) -> bool {
        self.place.as_ref().is_some_and(|place| place.may_block())
    }
}

impl Deref for PortLoan {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for PortLoan {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for PortLoan {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            place.abandon();
        }
    }
}
