//! What a transport implements to settle its deliveries, one by one or together.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{SettleFailure, Unavailable};
use crate::settle::Settle;

/// The right to settle one delivery, from any thread, even after the receiving handle is gone.
pub trait SettleOnce: Send + Sync {
    /// Settles it. Called exactly once: a delivery that is dropped is a nack.
    ///
    /// # Errors
    /// [`SettleFailure::LeaseLost`] if the lease expired before.
    fn settle(&self, how: Settle<'_>) -> Result<(), SettleFailure>;

    /// Renews the lease.
    ///
    /// # Errors
    /// [`SettleFailure::LeaseLost`] if it expired before.
    fn extend(&self, by: Duration) -> Result<(), SettleFailure>;

    /// Returns what acknowledges this delivery together with others, and the delivery's number
    /// there. A batch whose deliveries return the same object is acknowledged by one call of it,
    /// instead of one call of `settle` each. `None`: one by one.
    fn together(&self) -> Option<(Arc<dyn AckTogether>, u64)> {
        None
    }

    /// Returns whether settling may wait for a server. If so, an async caller must not settle in
    /// its own thread.
    fn may_block(&self) -> bool {
        true
    }

    /// Returns the payload, if the transport lets it be read in place.
    fn payload(&self) -> Option<&[u8]> {
        None
    }

    /// Checks that the payload bytes read in place so far are those that were sent.
    ///
    /// # Errors
    /// [`Unavailable::Truncated`].
    fn check_whole(&self) -> Result<(), Unavailable> {
        Ok(())
    }

    /// Returns the queue's address, without credentials, for errors.
    fn queue(&self) -> String;
}

/// Acknowledges several deliveries together, with fewer requests than one by one, or with the
/// requests in flight at the same time. See [`SettleOnce::together`].
pub trait AckTogether: Send + Sync {
    /// Acknowledges the deliveries with these numbers. Called at most once for each delivery, and
    /// then `settle` is not called for it. Returns one result for each, in the same order: a lost
    /// lease does not keep the others from being acknowledged.
    fn ack_all(&self, numbers: &[u64]) -> Vec<Result<(), SettleFailure>>;

    /// Sends the acks of the deliveries with these numbers, and returns without waiting for the
    /// server's answer. Called instead of `ack_all`. `None`: nothing was sent, and `ack_all` is
    /// called. See [`flush`](crate::ByteReceiver::flush).
    fn start_acks(self: Arc<Self>, numbers: &[u64]) -> Option<Box<dyn AcksInFlight>> {
        let _ = numbers;
        None
    }
}

/// Acks that were sent and are not confirmed yet. See [`AckTogether::start_acks`].
pub trait AcksInFlight: Send {
    /// Waits for the server's answer, for as long as a single ack would. Returns one result for
    /// each delivery, in the order in which they were given.
    ///
    /// Called exactly once, possibly in a forked child of the process that sent the acks.
    fn confirm(self: Box<Self>) -> Vec<Result<(), SettleFailure>>;
}
