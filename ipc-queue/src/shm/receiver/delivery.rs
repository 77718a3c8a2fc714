//! A message that is being read.

use std::mem;
use std::time::Duration;

use ipc_proto::{Headers, Kind};

use super::LevelReceiver;
use super::owned::OwnedShmDelivery;
use crate::error::{SettleFailure, Unavailable};
use crate::metadata::Metadata;
use crate::port::PortDelivery;
use crate::settle::{Nack, Settle};
use crate::shm::payload::Readable;

/// A message being read in shared memory. Dropping it returns it.
#[derive(Debug)]
pub(crate) struct ShmDelivery<'a> {
    pub(super) receiver: &'a LevelReceiver,
    pub(super) payload: Readable<'a>,
}

impl ShmDelivery<'_> {
    #[inline]
    pub(crate) fn payload(&self) -> &[u8] {
        self.payload.bytes()
    }

    /// Returns the metadata. It is read in place: no process changes the header while this one may
    /// read the payload.
    #[inline]
    pub(crate) fn metadata(&self) -> Metadata {
        let lease = self.payload.lease();
        let envelope = self.receiver.level.ring.cell(lease.index()).envelope();
        Metadata {
            kind: envelope.kind,
            id: envelope.id,
            sent_at: envelope.sent_at,
            attempt: self.attempt(),
            delivery: lease.lap_number(),
        }
    }

    #[inline]
    pub(crate) fn kind(&self) -> Kind {
        let cell = (self.receiver.level.ring).cell(self.payload.lease().index());
        cell.message_kind()
    }

    /// Returns the headers of the message, which were checked when it was delivered.
    pub(crate) fn headers(&self) -> Headers {
        let (level, index) = (&self.receiver.level, self.payload.lease().index());
        let body = level.ring.cell(index).body().before_headers();
        let headers = body.map(|body| level.payloads.headers(index, body));
        headers.and_then(Result::ok).unwrap_or_default()
    }

    /// Returns the lap at which it was taken. Each delivery advances its cell by a lap.
    pub(crate) fn delivery(&self) -> u64 {
        self.payload.lease().lap_number()
    }

    /// Checks that what was read so far was the message, not zeroes that replaced it.
    #[inline]
    pub(crate) fn check_whole(&self) -> Result<(), Unavailable> {
        self.receiver.check_whole()
    }

    /// Returns the queue's address, for errors.
    pub(crate) fn queue(&self) -> String {
        self.receiver.queue()
    }

    pub(crate) fn queue_id(&self) -> u64 {
        self.receiver.shared.queue_id()
    }

    #[inline]
    pub(crate) fn attempt(&self) -> u8 {
        self.receiver.level.ring.attempts(self.payload.lease())
    }

    pub(crate) fn extend(&self, by: Duration) -> Result<(), SettleFailure> {
        self.receiver.extend(self.payload.lease(), by)
    }

    /// Returns the same delivery without a borrow of its receiver.
    pub(crate) fn into_port(self) -> PortDelivery {
        let (queue, metadata, headers) = (self.queue_id(), self.metadata(), self.headers());
        PortDelivery::new(queue, metadata, Vec::new(), self.into_owned()).with_headers(headers)
    }

    /// Returns the right to read and to settle as a value that any thread may have.
    fn into_owned(self) -> OwnedShmDelivery {
        // Only this thread has all messages that were taken together.
        self.receiver.level.ring.make_single(self.payload.lease());
        let payload = self.payload.hand_over(&self.receiver.level.payloads);
        let receiver = self.receiver.another();
        // Its drop would settle the message.
        mem::forget(self);
        OwnedShmDelivery::new(receiver, payload)
    }

    /// Settles the message. The caller calls this at most once, and does not drop it afterwards.
    #[inline]
    pub(crate) fn settle(&self, how: Settle<'_>) -> Result<(), SettleFailure> {
        match how {
            Settle::Ack => self.receiver.ack(self.payload.lease()),
            other => self.receiver.settle(self.payload.lease(), other),
        }
    }
}

impl Drop for ShmDelivery<'_> {
    #[inline]
    fn drop(&mut self) {
        let nack = Nack::new().into();
        // A lost lease has already been returned.
        let _ = self.receiver.settle(self.payload.lease(), nack);
    }
}
