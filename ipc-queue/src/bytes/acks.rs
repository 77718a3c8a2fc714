//! Acks of a receiver that are confirmed later.

use super::ByteReceiver;
use crate::batch::Batch;
use crate::delivery::ByteDelivery;
use crate::error::BatchAckError;

impl ByteReceiver {
    /// Acknowledges a delivery without waiting until the server confirms it.
    ///
    /// The ack is sent before this returns, and confirmed later: by [`flush`](Self::flush), by
    /// [`flush_async`](Self::flush_async), or by a later call of this function. At most
    /// [`MAX_ACKS_IN_FLIGHT`](crate::MAX_ACKS_IN_FLIGHT) acks of a receiver are unconfirmed. If
    /// there are as many, or if the oldest was sent [`MAX_ACK_AGE`](crate::MAX_ACK_AGE) ago, this
    /// call first waits for the oldest. Transports without a server ack at once, and leave nothing
    /// to confirm.
    ///
    /// If this process or the server dies before an ack is confirmed, the message is acked or
    /// delivered again. No message is lost. A dropped receiver waits for its unconfirmed acks, and
    /// ignores failures.
    ///
    /// An owned delivery is acknowledged as `ack_later(delivery.into())`.
    ///
    /// ```
    /// let queue = ipc_queue::ByteQueue::open("local:pipelined")?;
    /// queue.sender().send_batch(&[b"one", b"two"])?;
    /// let receiver = queue.receiver();
    /// while let Ok(delivery) = receiver.try_recv() {
    ///     receiver.ack_later(delivery)?;
    /// }
    /// receiver.flush()?; // now both are gone
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`BatchAckError`] about each ack that this call found to have failed: this one, or earlier
    /// ones of this receiver. Each failure is reported once.
    #[inline]
    pub fn ack_later(&self, delivery: ByteDelivery<'_>) -> Result<(), BatchAckError> {
        if delivery.is_shared_memory() {
            let acked = delivery.ack();
            return acked.or_else(|failure| BatchAckError::check(0, vec![failure]));
        }
        self.acks.borrow_mut().ack(std::iter::once(delivery))
    }

    /// Like [`ack_later`](Self::ack_later), for all deliveries of a batch, with one request if the
    /// transport can. The batch is empty afterwards and keeps its memory.
    ///
    /// # Errors
    /// Those of [`ack_later`](Self::ack_later).
    pub fn ack_batch_later<'a>(
        &self,
        batch: &mut Batch<'a, ByteDelivery<'a>>,
    ) -> Result<(), BatchAckError> {
        self.ack_all_later(batch.drain(..))
    }

    pub(crate) fn ack_all_later<'d>(
        &self,
        deliveries: impl Iterator<Item = ByteDelivery<'d>>,
    ) -> Result<(), BatchAckError> {
        self.acks.borrow_mut().ack(deliveries)
    }

    /// Waits until all acks of [`ack_later`](Self::ack_later) are confirmed. Nothing is in flight
    /// afterwards.
    ///
    /// # Errors
    /// [`BatchAckError`] has the number of acks that were not confirmed, and the message and the
    /// cause of each. After [`LeaseLost`](crate::SettleFailure::LeaseLost), the message was, or
    /// will be, delivered again. If the server did not answer, it is unknown whether the message is
    /// acked: it is gone, or it is delivered again.
    pub fn flush(&self) -> Result<(), BatchAckError> {
        self.acks.borrow_mut().flush()
    }

    /// Waits until all acks of [`ack_later`](Self::ack_later) are confirmed, without blocking the
    /// thread. Works with any executor.
    ///
    /// Cancel-safe: if the future is dropped before it is ready, the acks stay in flight. The next
    /// call of `flush_async`, [`flush`](Self::flush) or `ack_later` reports those that failed.
    ///
    /// ```
    /// # pollster::block_on(async {
    /// let queue = ipc_queue::ByteQueue::open("local:pipelined-async")?;
    /// queue.sender().send_batch(&[b"one", b"two"])?;
    /// let mut receiver = queue.receiver();
    /// for _ in 0..2 {
    ///     let delivery = receiver.recv_async().await?;
    ///     receiver.ack_later(delivery.into())?;
    /// }
    /// receiver.flush_async().await?; // now both are gone
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Those of [`flush`](Self::flush).
    pub async fn flush_async(&mut self) -> Result<(), BatchAckError> {
        self.acks.get_mut().flush_async().await
    }

    /// Returns the number of acks that are sent and not confirmed.
    #[must_use]
    pub fn acks_in_flight(&self) -> usize {
        self.acks.borrow().len()
    }
}
