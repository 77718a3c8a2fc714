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

/// A message being read in shared memory. Dropped, it is given back.
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

    /// Read where it lies: the header is nobody's to change while the payload is ours to read.
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

    /// The headers of its message, which were checked when it was delivered.
    pub(crate) fn headers(&self) -> Headers {
        let (level, index) = (&self.receiver.level, self.payload.lease().index());
        let body = level.ring.cell(index).body().before_headers();
        let headers = body.map(|body| level.payloads.headers(index, body));
        headers.and_then(Result::ok).unwrap_or_default()
    }

    /// The lap at which it was taken: each delivery takes its cell one lap further.
    pub(crate) fn delivery(&self) -> u64 {
        self.payload.lease().lap_number()
    }

    /// Whether what was read so far was the message, and not zeroes in its place.
    #[inline]
    pub(crate) fn check_whole(&self) -> Result<(), Unavailable> {
        self.receiver.check_whole()
    }

    /// The queue's address, for errors.
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

    /// The same delivery without a borrow of its receiver.
    pub(crate) fn into_port(self) -> PortDelivery {
        let (queue, metadata, headers) = (self.queue_id(), self.metadata(), self.headers());
        PortDelivery::new(queue, metadata, Vec::new(), self.into_owned()).with_headers(headers)
    }

    /// Takes the right to read and to settle along, to any thread.
    fn into_owned(self) -> OwnedShmDelivery {
        // Only this thread has all of those that were taken together.
        self.receiver.level.ring.make_single(self.payload.lease());
        let payload = self.payload.hand_over(&self.receiver.level.payloads);
        let receiver = self.receiver.another();
        // Its drop would settle.
        mem::forget(self);
        OwnedShmDelivery::new(receiver, payload)
    }

    /// For once, and never dropped after.
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
        // A lease that was lost has been given back already.
        let _ = self.receiver.settle(self.payload.lease(), nack);
    }
}
