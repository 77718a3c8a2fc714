//! Acks of a whole batch.

use std::{mem, ptr};

use super::{LevelReceiver, ShmDelivery};
use crate::error::{SettleError, SettleFailure};
use crate::shm::ring::{Lease, Settled, TOGETHER};
use crate::shm::tally::Received;

/// The acks of a batch. A run that was taken together is freed together. Freed cells are counted
/// and announced together.
#[derive(Debug, Default)]
pub(crate) struct Acks<'a> {
    by: Option<&'a LevelReceiver>,
    /// The number of freed cells that are not announced yet.
    cells: u64,
    run: Option<OpenRun>,
    /// Each failure with the index of its delivery.
    failures: Vec<(usize, SettleError)>,
}

/// A run of which the last message was not added yet.
#[derive(Debug)]
struct OpenRun {
    /// The lease of its first message.
    first: Lease,
    /// The index of its first message in the batch.
    index: usize,
    /// The number of its messages that were added.
    count: u32,
}

impl OpenRun {
    /// Returns whether a lease is that of the next message of the run.
    #[inline(always)]
    fn goes_on_with(&self, lease: &Lease, index: usize) -> bool {
        let (offset, len) = lease.in_run();
        self.count == offset
            && self.first.index() + offset == lease.index()
            && self.first.in_run().1 == len
            && self.index + offset as usize == index
    }
}

impl<'a> Acks<'a> {
    /// Adds delivery number `index` of the batch.
    #[inline(always)]
    pub(crate) fn add(&mut self, index: usize, delivery: ShmDelivery<'a>) {
        let (by, lease) = delivery.into_parts();
        if !self.by.is_some_and(|before| ptr::eq(before, by)) {
            self.end_of_run();
            self.tell();
            self.by = Some(by);
        }
        let (offset, len) = lease.in_run();
        match &mut self.run {
            Some(run) if run.goes_on_with(&lease, index) => run.count += 1,
            _ => {
                self.end_of_run();
                if len == 1 || offset > 0 {
                    return self.ack(by, &lease, index);
                }
                self.run = Some(OpenRun {
                    first: lease,
                    index,
                    count: 1,
                });
            }
        }
        if offset + 1 == len
            && let Some(run) = self.run.take()
        {
            self.ack_run(by, &run, len);
        }
    }

    #[inline(always)]
    fn ack_run(&mut self, by: &'a LevelReceiver, run: &OpenRun, len: u32) {
        let is_ours = by.shared.attachment.is_ours();
        if is_ours && by.level.ring.ack_run(&run.first) == Settled::Freed {
            self.freed(len);
            return;
        }
        // Each one has its own error.
        self.ack_singly(by, run);
    }

    /// Acks the messages of an incomplete run one by one.
    #[inline(always)]
    fn end_of_run(&mut self) {
        if let (Some(run), Some(by)) = (self.run.take(), self.by) {
            self.ack_singly(by, &run);
        }
    }

    #[cold]
    fn ack_singly(&mut self, by: &'a LevelReceiver, run: &OpenRun) {
        for offset in 0..run.count {
            let lease = run.first.other_of_run(offset);
            self.ack(by, &lease, run.index + offset as usize);
        }
    }

    #[inline(always)]
    fn ack(&mut self, by: &'a LevelReceiver, lease: &Lease, index: usize) {
        if !by.shared.attachment.is_ours() {
            return self.failed(by, lease, index, by.not_ours());
        }
        match by.level.ring.ack(lease) {
            Settled::Freed => self.freed(1),
            other => {
                if let Err(failure) = by.settled(other, Received::Acked) {
                    self.failed(by, lease, index, failure);
                }
            }
        }
    }

    #[cold]
    fn failed(&mut self, by: &LevelReceiver, lease: &Lease, index: usize, failure: SettleFailure) {
        let message = by.level.ring.cell(lease.index()).envelope().id;
        self.failures.push((index, failure.of(by.queue(), message)));
    }

    #[inline(always)]
    fn freed(&mut self, cells: u32) {
        self.cells += u64::from(cells);
        // A sender that waits for room does not have to wait for a whole long batch.
        if self.cells >= TOGETHER as u64 {
            self.tell();
        }
    }

    /// Announces the freed cells. A woken sender that finds more room wakes the next.
    #[inline(always)]
    fn tell(&mut self) {
        if let Some(by) = self.by.filter(|_| self.cells > 0) {
            by.lane.add(Received::Acked, self.cells);
            by.shared.tell_room();
            by.shared.wake_if_closed();
            self.cells = 0;
        }
    }

    /// Acks the rest. Returns each failure with the index of its delivery.
    #[inline(always)]
    pub(crate) fn end(mut self) -> Vec<(usize, SettleError)> {
        self.end_of_run();
        self.tell();
        mem::take(&mut self.failures)
    }
}

impl Drop for Acks<'_> {
    fn drop(&mut self) {
        self.end_of_run();
        self.tell();
    }
}
