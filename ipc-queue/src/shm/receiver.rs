//! Receiving through shared memory, and settling: the ring, with payloads, waiting and counting.

mod acks;
mod delivery;
mod owned;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ipc_proto::Timestamp;
use ipc_shm::clock;

use super::cell::Body;
use super::due::Due;
use super::events;
use super::level::Level;
use super::memory::RingWord;
use super::payload::BadPlace;
use super::ring::{Cursor, Lease, Settled, Settlement, Taken};
use super::spin::Spin;
use super::tally::{Lane, Received, Sent, Side};
use super::waiting::Gone;
use super::{CLOSED, Hold, LETTERS, PAUSED, TIMED};
use crate::error::{RecvFailure, RecvPortError, SettleFailure, Unavailable};
use crate::settle::{Settle, nack_delay, shorten_reason};
use crate::wait::Wait;

pub(crate) use acks::Acks;
pub(crate) use delivery::{Reading, ShmDelivery};

/// A receiver from one level of a queue in shared memory.
#[derive(Debug)]
pub(crate) struct LevelReceiver {
    shared: Hold,
    level: Arc<Level>,
    cursor: RefCell<Cursor>,
    spin: Spin,
    lane: Lane,
    /// The error of the last attempt to take a message, until a call returns it.
    trouble: RefCell<Option<RecvPortError>>,
}

/// The size at which a batch is large: it still fits into the first caches of both sides.
const LARGE_BATCH_BYTES: usize = 64 << 10;

impl LevelReceiver {
    /// Creates a receiver from level `number`.
    pub(super) fn new(shared: Hold, number: usize) -> Self {
        let level = Arc::clone(&shared.contents.levels[number]);
        Self::of(shared, level)
    }

    /// Creates another receiver from the same level.
    fn another(&self) -> Self {
        Self::of(self.shared.clone(), Arc::clone(&self.level))
    }

    fn of(shared: Hold, level: Arc<Level>) -> Self {
        Self {
            cursor: RefCell::new(level.ring.cursor(RingWord::Head)),
            spin: Spin::default(),
            lane: shared
                .contents
                .counters
                .take(shared.attachment.member(), Side::Receive),
            trouble: RefCell::default(),
            level,
            shared,
        }
    }

    /// Returns the next message.
    ///
    /// Inlined into the receiving program, so that the delivery stays in registers. A copy of a
    /// delivery that was just written would wait until its parts are in the cache.
    #[inline(always)]
    pub(crate) fn receive(
        &self,
        wait: impl FnOnce() -> Wait,
    ) -> Result<ShmDelivery<'_>, RecvPortError> {
        match self.lease_at_once() {
            Some(lease) => self.deliver(lease),
            None => self.receive_later(wait()),
        }
    }

    #[cold]
    #[inline(never)]
    fn receive_later(&self, wait: Wait) -> Result<ShmDelivery<'_>, RecvPortError> {
        let lease = self.lease_later(wait)?;
        self.deliver(lease)
    }

    /// Takes a message. `None`: there is none now, or `trouble` has the error.
    #[inline(never)]
    fn lease_at_once(&self) -> Option<Lease> {
        let shared = &*self.shared;
        match shared.usable() {
            // Nothing but the cells needs a check.
            Ok(flags) if flags & (PAUSED | TIMED | CLOSED) == 0 => {
                let mut cursor = self.cursor.borrow_mut();
                let lease = self.level.ring.take(shared.seat, &mut cursor)?;
                self.spin.hit();
                self.start(&lease);
                Some(lease)
            }
            _ => self.lease_with_care(),
        }
    }

    #[cold]
    fn lease_with_care(&self) -> Option<Lease> {
        match self.try_take() {
            Ok(Some(lease)) => {
                self.spin.hit();
                self.start(&lease);
                Some(lease)
            }
            Ok(None) => None,
            Err(error) => {
                *self.trouble.borrow_mut() = Some(error);
                None
            }
        }
    }

    #[cold]
    fn lease_later(&self, wait: Wait) -> Result<Lease, RecvPortError> {
        if let Some(error) = self.trouble.take() {
            return Err(error);
        }
        let lease = self.wait_for_item(wait)?;
        self.start(&lease);
        Ok(lease)
    }

    /// Waits for the first message, then takes those that are also there, until the batch is large.
    pub(super) fn receive_some<'a, D: From<ShmDelivery<'a>>>(
        &'a self,
        most: usize,
        wait: Wait,
        into: &mut Vec<D>,
    ) -> Result<(), RecvPortError> {
        let before = into.len();
        let mut bytes = 0;
        while into.len() - before < most && bytes < LARGE_BATCH_BYTES {
            let count = into.len() - before;
            if let Some(taken) = self.take_together(most - count) {
                bytes += self.deliver_all(taken, into);
                continue;
            }
            // This also finds messages that are out of order or need a check. It waits only for the
            // first message.
            let wait = if count == 0 { wait } else { Wait::No };
            match self.receive(|| wait) {
                Ok(delivery) => {
                    bytes += delivery.reading().payload().len();
                    into.push(delivery.into());
                }
                Err(error) if count == 0 => return Err(error),
                Err(error) => {
                    // The next call finds all other errors, too.
                    if matches!(&error, RecvPortError::Failed(RecvFailure::Damaged { .. })) {
                        *self.trouble.borrow_mut() = Some(error);
                    }
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes the next messages in FIFO order that were sent together. `None` if anything but the
    /// cells needs a check.
    #[inline(always)]
    fn take_together(&self, most: usize) -> Option<Taken> {
        let shared = &*self.shared;
        let flags = shared.usable().ok()?;
        if flags & (PAUSED | TIMED | CLOSED) != 0 {
            return None;
        }
        // A lease that may expire is taken alone.
        let timed = shared.contents.settings.lease.is_some();
        let most = if timed { 1 } else { most };
        let mut cursor = self.cursor.borrow_mut();
        let taken = self.level.ring.take_run(shared.seat, &mut cursor, most)?;
        self.spin.hits(taken.len() as u32);
        Some(taken)
    }

    /// Starts the leases of messages that were never delivered before, and delivers them. Returns
    /// the number of bytes.
    #[inline(always)]
    fn deliver_all<'a, D: From<ShmDelivery<'a>>>(
        &'a self,
        taken: Taken,
        into: &mut Vec<D>,
    ) -> usize {
        let (shared, ring) = (&*self.shared, &self.level.ring);
        if shared.contents.settings.lease.is_some() {
            shared.lease_taken();
        }
        self.lane.add(Received::Messages, taken.len() as u64);
        into.reserve(taken.len());
        let mut bytes = 0;
        for lease in taken.into_leases() {
            bytes += ring.cell(lease.index()).body().len as usize;
            match self.deliver(lease) {
                Ok(delivery) => into.push(delivery.into()),
                // Kept for the next call: the messages that were taken come first.
                Err(error) => *self.trouble.borrow_mut() = Some(error),
            }
        }
        self.lane.add(Received::Bytes, bytes as u64);
        bytes
    }

    #[cold]
    fn wait_for_item(&self, wait: Wait) -> Result<Lease, RecvPortError> {
        let attempt = || self.try_take().transpose();
        let more = || self.has_more();
        let waited = self.shared.wait_for(
            self.shared.items(),
            Some(Side::Receive),
            wait,
            &self.spin,
            attempt,
            more,
        );
        waited.unwrap_or_else(|waited| Err(self.shared.nothing_came(waited)))
    }

    /// Returns whether there is a message behind the last one found.
    pub(super) fn has_more(&self) -> bool {
        self.level
            .ring
            .has_more(RingWord::Head, &self.cursor.borrow())
    }

    /// Returns the time when the next message in FIFO order was sent, if there is one.
    pub(super) fn next_sent_at(&self) -> Option<Timestamp> {
        self.level.ring.next_sent_at(&self.cursor.borrow())
    }

    pub(super) fn try_take(&self) -> Result<Option<Lease>, RecvPortError> {
        let shared = &*self.shared;
        let flags = shared.usable()?;
        if flags & PAUSED != 0 {
            return Ok(None);
        }
        let taken = self
            .level
            .ring
            .take(shared.seat, &mut self.cursor.borrow_mut());
        match taken {
            Some(lease) if flags & TIMED != 0 && self.is_unwanted(&lease) => {
                self.try_take_next(lease)
            }
            None if flags & CLOSED != 0 && shared.is_drained(Some(shared.seat)) => {
                shared.usable()?;
                Err(RecvFailure::Closed.into())
            }
            taken => Ok(taken),
        }
    }

    /// Returns whether the message had expired before it was taken.
    #[cold]
    fn is_unwanted(&self, lease: &Lease) -> bool {
        let expiry = self.level.ring.cell(lease.index()).expiry();
        expiry.is_some_and(|at_ms| at_ms <= Due::at(clock::monotonic()).millis())
    }

    /// Drops a message that was not received in time, and those like it behind it. Takes the next
    /// one.
    #[cold]
    fn try_take_next(&self, unwanted: Lease) -> Result<Option<Lease>, RecvPortError> {
        let shared = &*self.shared;
        let mut unwanted = Some(unwanted);
        while let Some(lease) = unwanted.take() {
            if self.level.ring.settle(&lease, Settlement::Ack) != Settled::LeaseLost {
                self.lane.add(Received::Expired, 1);
            }
            shared.tell_room();
            shared.wake_if_closed();
            match self
                .level
                .ring
                .take(shared.seat, &mut self.cursor.borrow_mut())
            {
                Some(lease) if self.is_unwanted(&lease) => unwanted = Some(lease),
                taken => return Ok(taken),
            }
        }
        Ok(None)
    }

    /// Has the next scan record the end of the lease, and counts the message.
    #[inline(always)]
    pub(super) fn start(&self, lease: &Lease) {
        let shared = &*self.shared;
        if shared.contents.settings.lease.is_some() {
            shared.lease_taken();
        }
        if lease.attempt() > 1 {
            self.count_redelivery(lease);
        }
        let body = self.level.ring.cell(lease.index()).body();
        self.lane.add(Received::Messages, 1);
        self.lane.add(Received::Bytes, body.len.into());
    }

    #[cold]
    fn count_redelivery(&self, lease: &Lease) {
        // The first delivery after a requeue is not a redelivery.
        if self.level.ring.attempts(lease) > 1 {
            self.lane.add(Received::Again, 1);
        }
    }

    #[inline(always)]
    pub(super) fn deliver(&self, lease: Lease) -> Result<ShmDelivery<'_>, RecvPortError> {
        let cell = self.level.ring.cell(lease.index());
        let body = cell.body();
        // A sender of 0 means that zeroes have replaced the message, or that the cell is damaged.
        let is_in_cell = self.level.payloads.read_in_cell(&lease, body).is_some();
        if !is_in_cell || cell.sender().get() == 0 {
            return self.deliver_checked(lease);
        }
        Ok(ShmDelivery::new(self, lease))
    }

    /// Delivers a message whose payload is not simply in its cell.
    #[inline(never)]
    fn deliver_checked(&self, lease: Lease) -> Result<ShmDelivery<'_>, RecvPortError> {
        let body = self.level.ring.cell(lease.index()).body();
        self.check(&lease, body)?;
        let payloads = &self.level.payloads;
        if payloads.read_in_chunk(&lease, body).is_none()
            && let Err(bad) = payloads.read(&lease, body)
        {
            self.check_before_headers(&lease, bad)?;
        }
        Ok(ShmDelivery::new(self, lease))
    }

    /// Checks the place of a payload with headers. It looks like one that does not exist: see
    /// [`Body`].
    #[cold]
    fn check_before_headers(&self, lease: &Lease, bad: BadPlace) -> Result<(), RecvPortError> {
        let body = self.level.ring.cell(lease.index()).body();
        let Some(body) = body.before_headers() else {
            return Err(self.bury_damaged(lease, bad.reason));
        };
        self.check_chunk(lease, body)?;
        let payloads = &self.level.payloads;
        let checked = (payloads.headers(lease.index(), body).map(drop))
            .and_then(|()| payloads.read(lease, body).map(drop));
        checked.map_err(|bad| self.bury_damaged(lease, bad.reason))
    }

    fn check(&self, lease: &Lease, body: Body) -> Result<(), RecvPortError> {
        self.shared.usable()?;
        self.check_chunk(lease, body)
    }

    fn check_chunk(&self, lease: &Lease, body: Body) -> Result<(), RecvPortError> {
        match body.chunk {
            Some(chunk)
                if chunk < self.level.payloads.geometry().units
                    && !self.belongs(chunk, lease, body) =>
            {
                let reason = format!(
                    "cell {} names the chunk at unit {chunk}, which is not its own",
                    lease.index()
                );
                Err(self.bury_damaged(lease, reason))
            }
            _ => Ok(()),
        }
    }

    #[inline]
    fn belongs(&self, chunk: u32, lease: &Lease, body: Body) -> bool {
        let units = self.level.payloads.geometry().units_of(body.len as usize);
        self.level.ring.belongs(chunk, lease.index(), units)
    }

    #[cold]
    fn bury_damaged(&self, lease: &Lease, reason: String) -> RecvPortError {
        events::damaged(&self.shared, lease.index(), &reason);
        self.level.ring.make_single(lease);
        self.level.ring.keep_reason(lease, shorten_reason(&reason));
        let settled = self.level.ring.settle(lease, Settlement::Bury);
        let _ = self.settled(settled, Received::Buried);
        let damaged = |_| RecvFailure::damaged(reason).into();
        self.shared
            .usable()
            .map_or_else(RecvPortError::from, damaged)
    }

    #[inline(always)]
    fn ack(&self, lease: &Lease) -> Result<(), SettleFailure> {
        let shared = &*self.shared;
        if !shared.attachment.is_ours() {
            return Err(self.not_ours());
        }
        match self.level.ring.ack(lease) {
            Settled::Freed => {
                self.lane.add(Received::Acked, 1);
                shared.tell_room();
                shared.wake_if_closed();
                Ok(())
            }
            other => self.settled(other, Received::Acked),
        }
    }

    #[inline(never)]
    pub(super) fn settle(&self, lease: &Lease, how: Settle<'_>) -> Result<(), SettleFailure> {
        let ring = &self.level.ring;
        if !self.shared.attachment.is_ours() {
            return Err(self.not_ours());
        }
        ring.make_single(lease);
        // Read while the message is still ours.
        let message = ring.cell(lease.index()).envelope().id;
        let attempts = ring.attempts(lease);
        if let Settle::Nack { reason, .. } | Settle::Bury { reason } = how {
            ring.keep_reason(lease, shorten_reason(reason));
        }
        let (settled, what) = match how {
            Settle::Ack => return self.ack(lease),
            Settle::Nack { delay, .. } => {
                let settings = &self.shared.contents.settings;
                let failures = ring.tally(lease).nacks.saturating_add(1);
                let delay = nack_delay(settings, delay, failures);
                let settled = match delay.is_zero() {
                    true => ring.settle(lease, Settlement::Nack),
                    false => self.delay(lease, delay),
                };
                (settled, Received::Nacked)
            }
            Settle::Snooze { delay } => {
                let due = Due::not_before(clock::monotonic().saturating_add(delay));
                self.shared.set_timed();
                let settled = ring.snooze(lease, due, delay.is_zero());
                self.shared.look_by(due);
                (settled, Received::Nacked)
            }
            Settle::Bury { .. } => (ring.settle(lease, Settlement::Bury), Received::Buried),
        };
        if settled == Settled::Dead {
            let reason = if matches!(how, Settle::Bury { .. }) {
                "buried"
            } else {
                "nacked"
            };
            events::dead_letter(&self.shared, message, attempts, reason);
        }
        self.settled(settled, what)
    }

    /// Counts a settlement as `what`, unless the lease had been lost. Wakes the processes that the
    /// outcome concerns.
    fn settled(&self, settled: Settled, what: Received) -> Result<(), SettleFailure> {
        let shared = &*self.shared;
        let lost = matches!(settled, Settled::LeaseLost | Settled::Over);
        self.lane.add(if lost { Received::Lost } else { what }, 1);
        match settled {
            // A zombie mark of ours may have been the last thing that kept the place.
            Settled::Freed | Settled::LeaseLost => shared.tell_room(),
            Settled::Ready => shared.items().notify_one(),
            Settled::Delayed | Settled::Quarantined => {}
            Settled::Over => {
                shared.shared_lane(Side::Send).add(Sent::Expiries, 1);
                shared.flag().fetch_or(LETTERS, Ordering::SeqCst);
                shared.items().notify_all();
            }
            // A process that waits for a closed queue to drain must check again.
            Settled::Dead => {
                shared.flag().fetch_or(LETTERS, Ordering::SeqCst);
                shared.items().notify_all();
            }
        }
        shared.wake_if_closed();
        if lost {
            return Err(self.lost());
        }
        Ok(())
    }

    /// Returns the error of a process that does not own its lease. In a forked copy the lease is
    /// the parent's. If the descriptor was lost, the message comes back when this process lets go
    /// of the queue.
    #[cold]
    fn not_ours(&self) -> SettleFailure {
        match self.shared.why_not_ours() {
            gone @ (Gone::DescriptorLost { .. } | Gone::Deleted) => Unavailable::from(gone).into(),
            _ => Unavailable::Forked.into(),
        }
    }

    /// Returns the queue's address, for errors.
    pub(super) fn queue(&self) -> String {
        self.shared.address()
    }

    #[cold]
    fn lost(&self) -> SettleFailure {
        match self.shared.usable() {
            Err(Gone::Truncated) => Unavailable::Truncated.into(),
            _ => SettleFailure::LeaseLost,
        }
    }

    pub(super) fn extend(&self, lease: &Lease, by: Duration) -> Result<(), SettleFailure> {
        let shared = &*self.shared;
        if !shared.attachment.is_ours() {
            return Err(self.not_ours());
        }
        if shared.contents.settings.lease.is_none() {
            // There is no time to extend, but the lease may have been revoked.
            let is_held = self.level.ring.is_held(lease);
            return is_held.then_some(()).ok_or_else(|| self.lost());
        }
        let ends_at = Due::not_before(clock::monotonic().saturating_add(by));
        if !self.level.ring.extend(lease, ends_at) {
            return Err(self.lost());
        }
        shared.look_by(ends_at);
        Ok(())
    }

    #[inline]
    pub(super) fn check_whole(&self) -> Result<(), Unavailable> {
        match self.shared.usable() {
            Err(Gone::Truncated) => Err(Unavailable::Truncated),
            _ => Ok(()),
        }
    }

    fn delay(&self, lease: &Lease, delay: Duration) -> Settled {
        let due = Due::not_before(clock::monotonic().saturating_add(delay));
        self.shared.set_timed();
        let settled = self.level.ring.settle_later(lease, due);
        self.shared.look_by(due);
        settled
    }
}

impl Drop for LevelReceiver {
    fn drop(&mut self) {
        self.shared
            .contents
            .counters
            .give_back(&self.lane, Side::Receive);
    }
}
