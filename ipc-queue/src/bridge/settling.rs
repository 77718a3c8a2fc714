//! How a bridge settles the messages that it holds of the first queue.

use std::collections::VecDeque;
use std::time::Duration;

use super::{LEASE, Note, Trip};
use crate::capability::Feature;
use crate::delivery::ByteDelivery;
use crate::error::{BatchAckError, SendFailure, SettleError, SettleFailure, Unavailable};

impl<N: FnMut(Note)> Trip<'_, N> {
    /// Acks what was published. With keys, the acks are confirmed while the next messages are
    /// carried: a message that is delivered again is recognized. Without keys, at once.
    pub(super) fn ack_all(
        &mut self,
        published: &mut Vec<ByteDelivery<'_>>,
    ) -> Result<(), SettleError> {
        let acked = self.receiver.ack_all_later(published.drain(..));
        self.end_all(acked)?;
        if !self.bridge.keys {
            self.confirm_acks()?;
        }
        Ok(())
    }

    /// Waits for the acks in flight. Returns whether all succeeded.
    pub(super) fn confirm_acks(&mut self) -> Result<bool, SettleError> {
        let flushed = self.receiver.flush();
        let all = flushed.is_ok();
        self.end_all(flushed)?;
        Ok(all)
    }

    fn end_all(&mut self, acked: Result<(), BatchAckError>) -> Result<(), SettleError> {
        let Err(error) = acked else { return Ok(()) };
        for failure in error.failures() {
            self.end(Err(failure.clone()))?;
        }
        Ok(())
    }

    /// Returns unsent messages to the first queue, for other receivers at once. Counts no attempt
    /// if the transport can snooze.
    pub(super) fn give_back(&self, held: VecDeque<ByteDelivery<'_>>) {
        let capabilities = self.bridge.from.transport().capabilities();
        for delivery in held {
            // A message whose lease is lost is delivered again anyway.
            let _ = match capabilities.has(Feature::Snooze) {
                true => delivery.snooze(Duration::ZERO),
                false => delivery.nack_after(Duration::ZERO),
            };
        }
    }

    /// Errors are ignored: settling reports a lost lease.
    pub(super) fn extend(&self, held: &VecDeque<ByteDelivery<'_>>) {
        let lease = self.bridge.from.transport().settings().lease;
        for delivery in held {
            let _ = delivery.extend(lease.unwrap_or(LEASE));
        }
    }

    pub(super) fn end(&mut self, settled: Result<(), SettleError>) -> Result<(), SettleError> {
        use SettleFailure::{LeaseLost, Unavailable as Lost};
        let Err(error) = settled else { return Ok(()) };
        match error.failure {
            // The message is delivered again, and is then recognized by its key.
            LeaseLost | Lost(Unavailable::Transport { .. }) => {
                self.carried.lost += 1;
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Makes a message that the second queue does not take a dead letter.
    pub(super) fn bury(
        &mut self,
        delivery: ByteDelivery<'_>,
        why: SendFailure,
    ) -> Result<(), SettleError> {
        let id = delivery.id();
        // With the reason, so that the list of dead letters shows it.
        self.end(delivery.bury_with(&why.to_string()))?;
        self.carried.buried += 1;
        (self.note)(Note::Buried { id, why });
        Ok(())
    }
}
