//! Receiving through shared memory, and settling: the ring, with payloads, waiting and counting.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::{mem, ptr};

use ipc_proto::{Headers, Kind, Timestamp};
use ipc_shm::clock;

use super::cell::Body;
use super::due::Due;
use super::events;
use super::level::Level;
use super::memory::RingWord;
use super::owned::OwnedShmDelivery;
use super::payload::{BadPlace, Readable};
use super::ring::{Cursor, Lease, Settled, Settlement, TOGETHER, Taken};
use super::spin::Spin;
use super::tally::{Lane, Received, Sent, Side};
use super::waiting::Gone;
use super::{CLOSED, Hold, LETTERS, PAUSED, TIMED};
use crate::error::{RecvFailure, RecvPortError, SettleError, SettleFailure, Unavailable};
use crate::metadata::Metadata;
use crate::port::PortDelivery;
use crate::settle::Nack;
use crate::settle::{Settle, nack_delay, shorten_reason};
use crate::wait::Wait;

/// Receives from one level of a queue in shared memory.
#[derive(Debug)]
pub(crate) struct LevelReceiver {
    shared: Hold,
    level: Arc<Level>,
    cursor: RefCell<Cursor>,
    spin: Spin,
    lane: Lane,
    /// What the last look for a message came to, until a call returns it.
    trouble: RefCell<Option<RecvPortError>>,
}

/// What makes a batch large: it still lies in the first caches of both sides.
const LARGE_BATCH_BYTES: usize = 64 << 10;

/// A message being read in shared memory. Dropped, it is given back.
#[derive(Debug)]
pub(crate) struct ShmDelivery<'a> {
    receiver: &'a LevelReceiver,
    payload: Readable<'a>,
}

impl LevelReceiver {
    /// A receiver from level `number`.
    pub(super) fn new(shared: Hold, number: usize) -> Self {
        let level = Arc::clone(&shared.contents.levels[number]);
        Self::of(shared, level)
    }

    /// A receiver from the same level.
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

    /// The next message.
    ///
    /// Inlined into the receiving program, so that the delivery is made where it stays, of two
    /// registers: a copy of one just written by a callee would wait until its parts are in the
    /// cache.
    #[inline(always)]
    pub(crate) fn receive(&self, wait: Wait) -> Result<ShmDelivery<'_>, RecvPortError> {
        match self.lease_at_once() {
            Some(lease) => self.deliver(lease),
            None => self.receive_later(wait),
        }
    }

    #[cold]
    fn receive_later(&self, wait: Wait) -> Result<ShmDelivery<'_>, RecvPortError> {
        let lease = self.lease_later(wait)?;
        self.deliver(lease)
    }

    /// `None`: there is no message now, or `trouble` says why not.
    #[inline(never)]
    fn lease_at_once(&self) -> Option<Lease> {
        let shared = &*self.shared;
        match shared.usable() {
            // Nothing to consider besides the cells.
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

    /// Waits for the first message, then takes what else is there, until the batch is large.
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
            // What is out of order, what takes care, and the first one if it has to be waited for.
            let wait = if count == 0 { wait } else { Wait::No };
            match self.receive(wait) {
                Ok(delivery) => {
                    bytes += delivery.payload().len();
                    into.push(delivery.into());
                }
                Err(error) if count == 0 => return Err(error),
                Err(error) => {
                    // The next call finds all others, too.
                    if matches!(&error, RecvPortError::Failed(RecvFailure::Damaged { .. })) {
                        *self.trouble.borrow_mut() = Some(error);
                    }
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes the next messages, in FIFO order and as they were sent together. `None` if there is
    /// anything to consider besides the cells.
    #[inline(always)]
    fn take_together(&self, most: usize) -> Option<Taken> {
        let shared = &*self.shared;
        let flags = shared.usable().ok()?;
        if flags & (PAUSED | TIMED | CLOSED) != 0 {
            return None;
        }
        // A lease that may end by time is taken by itself.
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
                // For the next call: what was taken comes first.
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

    /// Whether there is a message behind the one found last.
    pub(super) fn has_more(&self) -> bool {
        self.level
            .ring
            .has_more(RingWord::Head, &self.cursor.borrow())
    }

    /// When the message was sent that comes next in turn, if there is one.
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

    /// Whether the message that was taken expired before.
    #[cold]
    fn is_unwanted(&self, lease: &Lease) -> bool {
        let expiry = self.level.ring.cell(lease.index()).expiry();
        expiry.is_some_and(|at_ms| at_ms <= Due::at(clock::monotonic()).millis())
    }

    /// Drops a message that nobody wanted in time, and those like it behind it.
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

    /// Has the lease's end recorded by the next scan, and counts the message.
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
        // Not the first delivery of what was requeued.
        if self.level.ring.attempts(lease) > 1 {
            self.lane.add(Received::Again, 1);
        }
    }

    #[inline(always)]
    pub(super) fn deliver(&self, lease: Lease) -> Result<ShmDelivery<'_>, RecvPortError> {
        let cell = self.level.ring.cell(lease.index());
        let body = cell.body();
        // No sender: zeroes in the message's place, if not damage.
        if body.chunk.is_some() || cell.sender().get() == 0 {
            self.check(&lease, body)?;
        }
        let payloads = &self.level.payloads;
        let payload = match payloads.readable(lease, body.chunk, body.len as usize) {
            Ok(payload) => payload,
            Err((lease, bad)) => self.before_headers(lease, bad)?,
        };
        Ok(ShmDelivery {
            receiver: self,
            payload,
        })
    }

    /// Of a message with headers the place looks like one that does not exist: see [`Body`].
    #[cold]
    fn before_headers(&self, lease: Lease, bad: BadPlace) -> Result<Readable<'_>, RecvPortError> {
        let body = self.level.ring.cell(lease.index()).body();
        let Some(body) = body.before_headers() else {
            return Err(self.bury_damaged(&lease, bad.reason));
        };
        self.check_chunk(&lease, body)?;
        let payloads = &self.level.payloads;
        if let Err(bad) = payloads.headers(lease.index(), body) {
            return Err(self.bury_damaged(&lease, bad.reason));
        }
        let readable = payloads.readable(lease, body.chunk, body.len as usize);
        readable.map_err(|(lease, bad)| self.bury_damaged(&lease, bad.reason))
    }

    fn check(&self, lease: &Lease, body: Body) -> Result<(), RecvPortError> {
        self.shared.usable()?;
        self.check_chunk(lease, body)
    }

    fn check_chunk(&self, lease: &Lease, body: Body) -> Result<(), RecvPortError> {
        match body.chunk {
            Some(chunk)
                if chunk < self.level.payloads.geometry().chunks()
                    && !self.level.ring.belongs(chunk, lease.index()) =>
            {
                let reason = format!(
                    "cell {} names chunk {chunk}, which is another message's",
                    lease.index()
                );
                Err(self.bury_damaged(lease, reason))
            }
            _ => Ok(()),
        }
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
        // Read while it is ours.
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

    /// Counts a settlement as `what`, unless the lease had been lost, and wakes whom it concerns.
    fn settled(&self, settled: Settled, what: Received) -> Result<(), SettleFailure> {
        let shared = &*self.shared;
        let lost = matches!(settled, Settled::LeaseLost | Settled::Over);
        self.lane.add(if lost { Received::Lost } else { what }, 1);
        match settled {
            // A zombie of ours may have been the last thing that kept the place.
            Settled::Freed | Settled::LeaseLost => shared.tell_room(),
            Settled::Ready => shared.items().notify_one(),
            Settled::Delayed | Settled::Quarantined => {}
            Settled::Over => {
                shared.shared_lane(Side::Send).add(Sent::Expiries, 1);
                shared.flag().fetch_or(LETTERS, Ordering::SeqCst);
                shared.items().notify_all();
            }
            // Whoever waits for a closed queue to drain must look again.
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

    /// In a forked copy the lease is the parent's. Where the descriptor was lost it comes back when
    /// the queue is let go.
    #[cold]
    fn not_ours(&self) -> SettleFailure {
        match self.shared.why_not_ours() {
            gone @ (Gone::DescriptorLost { .. } | Gone::Deleted) => Unavailable::from(gone).into(),
            _ => Unavailable::Forked.into(),
        }
    }

    /// The queue's address, for errors.
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
            // There is no time to extend, but it may have been taken back.
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
    /// Whether a lease is that of the next message of the run.
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
    /// Adds delivery number `index` of the batch. The caller forgets it.
    #[inline(always)]
    pub(crate) fn add(&mut self, index: usize, delivery: &ShmDelivery<'a>) {
        let (by, lease) = (delivery.receiver, delivery.payload.lease());
        if !self.by.is_some_and(|before| ptr::eq(before, by)) {
            self.end_of_run();
            self.tell();
            self.by = Some(by);
        }
        let (offset, len) = lease.in_run();
        match &mut self.run {
            Some(run) if run.goes_on_with(lease, index) => run.count += 1,
            _ => {
                self.end_of_run();
                if len == 1 || offset > 0 {
                    return self.ack(by, lease, index);
                }
                self.run = Some(OpenRun {
                    first: lease.hand_over(),
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
        // A sender that waits for room does not wait for a long batch.
        if self.cells >= TOGETHER as u64 {
            self.tell();
        }
    }

    /// A sender that is woken and finds more room wakes the next.
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
