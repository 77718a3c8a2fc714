//! A message that is being read.

use std::mem;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ipc_proto::{Headers, Kind};

use super::LevelReceiver;
use super::owned::OwnedShmDelivery;
use crate::error::{SettleFailure, Unavailable};
use crate::metadata::Metadata;
use crate::port::PortDelivery;
use crate::settle::{Nack, Settle};
use crate::shm::cell::Cell;
use crate::shm::ring::Lease;

/// A message being read in shared memory. Dropping it returns it.
#[derive(Debug)]
pub(crate) struct ShmDelivery<'a> {
    receiver: &'a LevelReceiver,
    lease: Lease,
}

/// A delivery, borrowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading<'a, 'd> {
    pub(crate) receiver: &'a LevelReceiver,
    pub(crate) lease: &'d Lease,
}

impl<'a> ShmDelivery<'a> {
    #[inline(always)]
    pub(crate) fn new(receiver: &'a LevelReceiver, lease: Lease) -> Self {
        Self { receiver, lease }
    }

    /// Returns its parts. The caller settles the message.
    #[inline(always)]
    pub(crate) fn into_parts(self) -> (&'a LevelReceiver, Lease) {
        let parts = (self.receiver, self.lease.hand_over());
        mem::forget(self);
        parts
    }

    #[inline(always)]
    pub(crate) fn reading(&self) -> Reading<'a, '_> {
        Reading {
            receiver: self.receiver,
            lease: &self.lease,
        }
    }

    /// Returns the same delivery without a borrow of its receiver.
    pub(crate) fn into_port(self) -> PortDelivery {
        let reading = self.reading();
        let (queue, metadata) = (reading.queue_id(), reading.metadata());
        let headers = reading.headers();
        PortDelivery::new(queue, metadata, Vec::new(), self.into_owned()).with_headers(headers)
    }

    /// Returns the right to read and to settle as a value that any thread may have.
    fn into_owned(self) -> OwnedShmDelivery {
        let (receiver, lease) = self.into_parts();
        // Only this thread has all messages that were taken together.
        receiver.level.ring.make_single(&lease);
        let body = receiver.level.ring.cell(lease.index()).body();
        let payload = receiver.level.payloads.own(lease, body.without_mark());
        OwnedShmDelivery::new(receiver.another(), payload)
    }
}

impl<'a: 'd, 'd> Reading<'a, 'd> {
    #[inline]
    pub(crate) fn payload(self) -> &'d [u8] {
        let payloads = &self.receiver.level.payloads;
        match payloads.read_in_cell(self.lease, self.cell().body()) {
            Some(payload) => payload,
            None => self.payload_elsewhere(),
        }
    }

    #[inline(never)]
    fn payload_elsewhere(self) -> &'d [u8] {
        let (payloads, body) = (&self.receiver.level.payloads, self.cell().body());
        if let Some(payload) = payloads.read_in_chunk(self.lease, body) {
            return payload;
        }
        // It was there when the message was delivered. If the memory was damaged since,
        // `check_whole` tells.
        let payload = payloads.read(self.lease, body.without_mark());
        payload.unwrap_or_default()
    }

    #[inline(always)]
    fn cell(self) -> Cell<'a, AtomicU64> {
        self.receiver.level.ring.cell(self.lease.index())
    }

    /// Returns the metadata. It is read in place: no process changes the header while this one may
    /// read the payload.
    #[inline]
    pub(crate) fn metadata(self) -> Metadata {
        let envelope = self.cell().envelope();
        Metadata {
            kind: envelope.kind,
            id: envelope.id,
            sent_at: envelope.sent_at,
            attempt: self.attempt(),
            delivery: self.delivery(),
        }
    }

    #[inline]
    pub(crate) fn kind(self) -> Kind {
        self.cell().message_kind()
    }

    /// Returns the headers of the message, which were checked when it was delivered.
    pub(crate) fn headers(self) -> Headers {
        let payloads = &self.receiver.level.payloads;
        let body = self.cell().body().before_headers();
        let headers = body.map(|body| payloads.headers(self.lease.index(), body));
        headers.and_then(Result::ok).unwrap_or_default()
    }

    /// Returns the lap at which it was taken. Each delivery advances its cell by a lap.
    pub(crate) fn delivery(self) -> u64 {
        self.lease.lap_number()
    }

    /// Checks that what was read so far was the message, not zeroes that replaced it.
    #[inline]
    pub(crate) fn check_whole(self) -> Result<(), Unavailable> {
        self.receiver.check_whole()
    }

    /// Returns the queue's address, for errors.
    pub(crate) fn queue(self) -> String {
        self.receiver.queue()
    }

    pub(crate) fn queue_id(self) -> u64 {
        self.receiver.shared.queue_id()
    }

    #[inline]
    pub(crate) fn attempt(self) -> u8 {
        self.receiver.level.ring.attempts(self.lease)
    }

    pub(crate) fn extend(self, by: Duration) -> Result<(), SettleFailure> {
        self.receiver.extend(self.lease, by)
    }

    /// Settles the message. The caller calls this at most once, and does not drop it afterwards.
    #[inline]
    pub(crate) fn settle(self, how: Settle<'_>) -> Result<(), SettleFailure> {
        match how {
            Settle::Ack => self.receiver.ack(self.lease),
            other => self.receiver.settle(self.lease, other),
        }
    }
}

impl Drop for ShmDelivery<'_> {
    #[inline]
    fn drop(&mut self) {
        let nack = Nack::new().into();
        // A lost lease has already been returned.
        let _ = self.receiver.settle(&self.lease, nack);
    }
}
