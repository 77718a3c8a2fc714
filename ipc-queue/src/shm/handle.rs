//! Sending and receiving through shared memory: the ring, with payloads, waiting and counting.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use ipc_proto::{Kind, MessageId, SenderId};
use ipc_shm::wait::{Event, Woken, time_left};
use ipc_shm::{clock, watch};

use super::cell::Body;
use super::memory::RingWord;
use super::payload::{Readable, Writable};
use super::recovery::Due;
use super::ring::{Claim, Cursor, Lease, Publication, Settled, Settlement};
use super::spin::Spin;
use super::tally::{Lane, Received, Sent, Side};
use super::{CLOSED, Gone, Hold, Shared};
use crate::delivery::{About, ByteDelivery};
use crate::error::{RecvError, SendFailure, SettleError};
use crate::loan::Loan;
use crate::transport::{ReceivePort, SendPort, Settle, Wait};

/// Sends into one queue in shared memory. For one thread; clone it for more.
#[derive(Debug)]
pub struct ShmSender {
    shared: Hold,
    cursor: RefCell<Cursor>,
    spin: Spin,
    lane: Lane,
    id: SenderId,
    sequence: Cell<u64>,
    /// The chunk used last: its memory is likely still in the cache.
    warm_chunk: Cell<u32>,
}

/// Receives from one queue in shared memory. For one thread; clone it for more.
#[derive(Debug)]
pub struct ShmReceiver {
    shared: Hold,
    cursor: RefCell<Cursor>,
    spin: Spin,
    lane: Lane,
}

/// A message being written in shared memory.
#[derive(Debug)]
pub(crate) struct ShmLoan<'a> {
    sender: &'a ShmSender,
    kind: Kind,
    /// Taken when published or dropped.
    payload: Option<Writable<'a>>,
}

/// A message being read in shared memory.
#[derive(Debug)]
pub(crate) struct ShmDelivery<'a> {
    receiver: &'a ShmReceiver,
    about: About,
    /// Taken when settled or dropped.
    payload: Option<Readable<'a>>,
}

impl ShmSender {
    pub(super) fn new(shared: Hold) -> Self {
        Self {
            cursor: RefCell::new(shared.ring.cursor(RingWord::Tail)),
            spin: Spin::default(),
            lane: shared.counters.take(shared.attachment.member(), Side::Send),
            id: SenderId::new(fastrand::u64(1..)),
            sequence: Cell::new(0),
            warm_chunk: Cell::new(0),
            shared,
        }
    }

    /// The number that this handle's messages bear.
    #[must_use]
    pub fn id(&self) -> SenderId {
        self.id
    }

    /// Sends a copy of `payload`.
    ///
    /// # Errors
    /// As [`SendPort::loan`].
    #[inline]
    pub fn send(&self, payload: &[u8], kind: Kind, wait: Wait) -> Result<MessageId, SendFailure> {
        let mut loan = self.lend(payload.len(), kind, wait)?;
        loan.bytes_mut().copy_from_slice(payload);
        loan.publish()
    }

    pub(crate) fn lend(
        &self,
        len: usize,
        kind: Kind,
        wait: Wait,
    ) -> Result<ShmLoan<'_>, SendFailure> {
        let most = self
            .shared
            .settings
            .max_message_bytes
            .max(self.shared.settings.inline_bytes) as usize;
        if len > most {
            return Err(SendFailure::TooLarge { bytes: len, most });
        }
        let payload = match self.try_lend(len, kind)? {
            Ok(payload) => {
                self.spin.hit();
                payload
            }
            Err(no_room) => self.wait_for_room(len, kind, wait, no_room)?,
        };
        Ok(ShmLoan {
            sender: self,
            kind,
            payload: Some(payload),
        })
    }

    #[cold]
    fn wait_for_room(
        &self,
        len: usize,
        kind: Kind,
        wait: Wait,
        no_room: SendFailure,
    ) -> Result<Writable<'_>, SendFailure> {
        let attempt = |doubt: Doubt| {
            if doubt == Doubt::Yes {
                self.cursor.borrow_mut().doubt();
            }
            match self.try_lend(len, kind) {
                Ok(Ok(payload)) => Some(Ok(payload)),
                Ok(Err(_)) => None,
                Err(failure) => Some(Err(failure)),
            }
        };
        let more = || {
            self.shared
                .ring
                .has_more(RingWord::Tail, &self.cursor.borrow())
        };
        let waited = self
            .shared
            .wait_for(self.shared.room(), wait, &self.spin, attempt, more);
        waited.unwrap_or_else(|waited| {
            self.shared.counters.add(self.lane, Sent::Refused.into(), 1);
            Err(waited.map_or(no_room, |waited| SendFailure::TimedOut { waited }))
        })
    }

    /// A place and memory for a payload; the inner error says what there is none of.
    #[inline]
    fn try_lend(
        &self,
        len: usize,
        kind: Kind,
    ) -> Result<Result<Writable<'_>, SendFailure>, SendFailure> {
        let shared = &*self.shared;
        let mut candidate = None;
        if len > shared.payloads.geometry().inline_bytes {
            candidate = self.free_chunk(len);
            if candidate.is_none() {
                shared.check_open()?;
                return Ok(Err(SendFailure::NoMemory { bytes: len }));
            }
        }
        let Some(claim) = shared
            .ring
            .claim(shared.seat, kind, &mut self.cursor.borrow_mut())
        else {
            shared.check_open()?;
            let capacity = shared.ring.cells();
            return Ok(Err(SendFailure::Full { capacity }));
        };
        // Only now: whoever closes the queue and then finds no message being written knows that none comes.
        if let Err(failure) = shared.check_open() {
            self.give_back(claim);
            return Err(failure);
        }
        while let Some(chunk) = candidate {
            if shared.ring.allocate(chunk, &claim) {
                self.warm_chunk.set(chunk.chunk);
                break;
            }
            candidate = self.free_chunk(len);
            if candidate.is_none() {
                self.give_back(claim);
                return Ok(Err(SendFailure::NoMemory { bytes: len }));
            }
        }
        self.writable(claim, candidate.map(|chunk| chunk.chunk), len)
            .map(Ok)
    }

    fn writable(
        &self,
        claim: Claim,
        chunk: Option<u32>,
        len: usize,
    ) -> Result<Writable<'_>, SendFailure> {
        self.shared
            .payloads
            .writable(claim, chunk, len)
            .map_err(|(claim, bad)| {
                self.give_back(claim);
                SendFailure::Damaged(bad.reason)
            })
    }

    /// A free chunk that is large enough; of the smallest such class that has one.
    fn free_chunk(&self, len: usize) -> Option<super::chunk::Candidate> {
        let classes = &self.shared.payloads.geometry().classes;
        let fitting = classes.iter().filter(|class| class.chunk_bytes >= len);
        let mut found = fitting.filter_map(|class| {
            self.shared
                .ring
                .find_chunk(class.chunks.clone(), self.warm_chunk.get())
        });
        found.next()
    }

    fn give_back(&self, claim: Claim) {
        self.shared.ring.abandon(claim);
        self.shared.room().notify_one();
        self.shared.wake_if_closed();
    }

    #[inline]
    fn publish(&self, payload: Writable<'_>, kind: Kind) -> Result<MessageId, SendFailure> {
        let shared = &*self.shared;
        // A closed queue takes what was lent before its end.
        match shared.usable() {
            Ok(_) => {}
            Err(Gone::Forked) => return Err(SendFailure::Forked), // The claim is the parent's.
            Err(gone @ (Gone::Removed | Gone::Truncated)) => {
                self.give_back(payload.into_claim());
                return Err(gone.into());
            }
        }
        let sequence = self.sequence.get();
        self.sequence.set(sequence + 1);
        let id = MessageId::new(self.id, sequence);
        let len = payload.len();
        self.describe(&payload, id);
        let (chunk, claim) = (payload.chunk(), payload.into_claim());
        match shared.ring.publish(claim) {
            Publication::Done => {}
            Publication::SteppedOver(claim) => self.publish_at_end(claim, chunk, len, kind, id)?,
            Publication::Lost => return Err(self.lost()),
        }
        shared.items().notify_one();
        shared.counters.add(self.lane, Sent::Messages.into(), 1);
        shared
            .counters
            .add(self.lane, Sent::Bytes.into(), len as u64);
        Ok(id)
    }

    fn describe(&self, payload: &Writable<'_>, id: MessageId) {
        let cell = self.shared.ring.cell(payload.claim().index);
        cell.set_body(Body {
            len: u32::try_from(payload.len()).expect("at most max_message_bytes, a u32"),
            chunk: payload.chunk(),
        });
        cell.set_envelope(id, clock::wall());
    }

    /// Receivers went past while we wrote. What we send next must not overtake this message, so it moves to
    /// a place at the end. If there is none, it stays.
    #[cold]
    fn publish_at_end(
        &self,
        old: Claim,
        chunk: Option<u32>,
        len: usize,
        kind: Kind,
        id: MessageId,
    ) -> Result<(), SendFailure> {
        let shared = &*self.shared;
        let claimed = shared
            .ring
            .claim(shared.seat, kind, &mut self.cursor.borrow_mut());
        let Some(new) = claimed else {
            return self.done(shared.ring.publish_late(old));
        };
        // Closed meanwhile: whoever looks whether anything is left might look at the new place before and at the
        // old one after the move.
        if shared.check_open().is_err() {
            self.give_back(new);
            return self.done(shared.ring.publish_late(old));
        }
        let mut target = self.writable(new, chunk, len)?;
        let old = match chunk {
            None => {
                let source = self.writable(old, None, len)?;
                source.copy_to(&mut target);
                source.into_claim()
            }
            Some(chunk) if shared.ring.hand_over(chunk, &old, target.claim()) => old,
            Some(_) => {
                self.give_back(target.into_claim());
                return Err(self.lost());
            }
        };
        self.describe(&target, id);
        // Stepped over once more: then it stays where it is, or we might never end.
        let published = match shared.ring.publish(target.into_claim()) {
            Publication::SteppedOver(claim) => shared.ring.publish_late(claim),
            other => other,
        };
        // Only now, or a crash in between would lose it.
        self.give_back(old);
        self.done(published)
    }

    fn done(&self, publication: Publication) -> Result<(), SendFailure> {
        match publication {
            Publication::Done => Ok(()),
            Publication::SteppedOver(_) | Publication::Lost => Err(self.lost()),
        }
    }

    #[cold]
    fn lost(&self) -> SendFailure {
        let reason = "a cell that was being written is somebody else's";
        let damaged = |_| SendFailure::Damaged(reason.to_owned());
        self.shared.usable().map_or_else(SendFailure::from, damaged)
    }
}

impl Clone for ShmSender {
    fn clone(&self) -> Self {
        Self::new(self.shared.clone())
    }
}

impl Drop for ShmSender {
    fn drop(&mut self) {
        self.shared.counters.give_back(self.lane, Side::Send);
    }
}

impl SendPort for ShmSender {
    fn loan(&self, len: usize, kind: Kind, wait: Wait) -> Result<Loan<'_>, SendFailure> {
        self.lend(len, kind, wait).map(Loan::shm)
    }

    fn publish(
        &self,
        _ticket: u64,
        kind: Kind,
        payload: Vec<u8>,
    ) -> Result<MessageId, SendFailure> {
        // Loans of this transport are never buffered; but a buffer can be sent all the same.
        self.send(&payload, kind, Wait::No)
    }

    fn abandon(&self, _ticket: u64) {}
}

impl ShmLoan<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.payload.as_ref().map_or(&[], Writable::bytes)
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.payload.as_mut().map_or(&mut [], Writable::bytes_mut)
    }

    #[inline]
    pub(crate) fn publish(mut self) -> Result<MessageId, SendFailure> {
        let payload = self
            .payload
            .take()
            .expect("a loan is published once, by value");
        self.sender.publish(payload, self.kind)
    }
}

impl Drop for ShmLoan<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(payload) = self.payload.take()
            && self.sender.shared.attachment.is_ours()
        {
            self.sender.give_back(payload.into_claim());
        }
    }
}

impl ShmReceiver {
    pub(super) fn new(shared: Hold) -> Self {
        Self {
            cursor: RefCell::new(shared.ring.cursor(RingWord::Head)),
            spin: Spin::default(),
            lane: shared
                .counters
                .take(shared.attachment.member(), Side::Receive),
            shared,
        }
    }

    #[inline]
    pub(crate) fn receive(&self, wait: Wait) -> Result<ShmDelivery<'_>, RecvError> {
        let lease = match self.try_take()? {
            Some(lease) => {
                self.spin.hit();
                lease
            }
            None => self.wait_for_item(wait)?,
        };
        self.deliver(lease)
    }

    #[cold]
    fn wait_for_item(&self, wait: Wait) -> Result<Lease, RecvError> {
        let attempt = |doubt: Doubt| {
            if doubt == Doubt::Yes {
                self.cursor.borrow_mut().doubt();
            }
            match self.try_take() {
                Ok(Some(lease)) => Some(Ok(lease)),
                Ok(None) => None,
                Err(error) => Some(Err(error)),
            }
        };
        let more = || {
            self.shared
                .ring
                .has_more(RingWord::Head, &self.cursor.borrow())
        };
        let waited = self
            .shared
            .wait_for(self.shared.items(), wait, &self.spin, attempt, more);
        waited.unwrap_or_else(|waited| {
            Err(waited.map_or(RecvError::Empty, |waited| RecvError::TimedOut { waited }))
        })
    }

    #[inline]
    fn try_take(&self) -> Result<Option<Lease>, RecvError> {
        let shared = &*self.shared;
        let flags = shared.usable()?;
        let taken = shared.ring.take(shared.seat, &mut self.cursor.borrow_mut());
        if taken.is_none() && flags & CLOSED != 0 && shared.ring.is_drained(shared.seat) {
            shared.usable()?;
            return Err(RecvError::Closed);
        }
        Ok(taken)
    }

    #[inline]
    fn deliver(&self, lease: Lease) -> Result<ShmDelivery<'_>, RecvError> {
        let shared = &*self.shared;
        if let Some(time) = shared.settings.lease {
            let ends_at = Due::not_before(clock::monotonic().saturating_add(time));
            shared.ring.start_lease(&lease, ends_at);
            shared.look_by(ends_at);
        }
        let cell = shared.ring.cell(lease.index);
        let (envelope, body) = (cell.envelope(), cell.body());
        let (index, attempt) = (lease.index, lease.attempt);
        // Nobody's message: zeroes in its place, if not damage.
        if envelope.id.sender.get() == 0 {
            shared.usable()?;
        }
        if let Some(chunk) = body.chunk
            && chunk < shared.payloads.geometry().chunks()
            && !shared.ring.belongs(chunk, index)
        {
            let reason = format!("cell {index} names chunk {chunk}, which is another message's");
            return Err(self.bury_damaged(&lease, reason));
        }
        let payload = match shared
            .payloads
            .readable(lease, body.chunk, body.len as usize)
        {
            Ok(payload) => payload,
            Err((lease, bad)) => return Err(self.bury_damaged(&lease, bad.reason)),
        };
        let counters = &shared.counters;
        counters.add(self.lane, Received::Messages.into(), 1);
        counters.add(self.lane, Received::Bytes.into(), body.len.into());
        if attempt > 1 {
            counters.add(self.lane, Received::Again.into(), 1);
        }
        Ok(ShmDelivery {
            receiver: self,
            about: About {
                kind: envelope.kind,
                id: envelope.id,
                sent_at: envelope.sent_at,
                attempt,
            },
            payload: Some(payload),
        })
    }

    #[cold]
    fn bury_damaged(&self, lease: &Lease, reason: String) -> RecvError {
        let _ = self.shared.ring.settle(lease, Settlement::Bury);
        let damaged = |_| RecvError::Damaged(reason);
        self.shared.usable().map_or_else(RecvError::from, damaged)
    }

    #[inline]
    fn settle(&self, lease: &Lease, how: Settle) -> Result<(), SettleError> {
        let shared = &*self.shared;
        if !shared.attachment.is_ours() {
            return Err(SettleError::Forked); // The lease is the parent's.
        }
        let (settled, what) = match how {
            Settle::Ack => (shared.ring.ack(lease), Received::Acked),
            Settle::Nack { delay } if delay.is_zero() => (
                shared.ring.settle(lease, Settlement::Nack),
                Received::Nacked,
            ),
            Settle::Nack { delay } => (self.delay(lease, delay), Received::Nacked),
            Settle::Bury => (
                shared.ring.settle(lease, Settlement::Bury),
                Received::Buried,
            ),
        };
        let what = if settled == Settled::LeaseLost {
            Received::Lost
        } else {
            what
        };
        shared.counters.add(self.lane, what.into(), 1);
        match settled {
            Settled::Freed => shared.room().notify_one(),
            Settled::Ready => shared.items().notify_one(),
            // A zombie of ours may have been the last thing that kept the place.
            Settled::LeaseLost => {
                shared.room().notify_one();
                shared.wake_if_closed();
                return Err(self.lost());
            }
            Settled::Delayed | Settled::Quarantined => {}
            // Whoever waits for a closed queue to drain must look again.
            Settled::Dead => shared.items().notify_all(),
        }
        shared.wake_if_closed();
        Ok(())
    }

    #[cold]
    fn lost(&self) -> SettleError {
        match self.shared.usable() {
            Err(Gone::Truncated) => SettleError::Truncated,
            _ => SettleError::LeaseLost,
        }
    }

    fn delay(&self, lease: &Lease, delay: Duration) -> Settled {
        let due = Due::not_before(clock::monotonic().saturating_add(delay));
        self.shared.set_timed();
        self.shared.ring.set_due(lease, self.shared.seat, due);
        let settled = self.shared.ring.settle(lease, Settlement::Delay);
        self.shared.look_by(due);
        settled
    }
}

impl Clone for ShmReceiver {
    fn clone(&self) -> Self {
        Self::new(self.shared.clone())
    }
}

impl Drop for ShmReceiver {
    fn drop(&mut self) {
        self.shared.counters.give_back(self.lane, Side::Receive);
    }
}

impl ReceivePort for ShmReceiver {
    fn recv(&self, wait: Wait) -> Result<ByteDelivery<'_>, RecvError> {
        self.receive(wait).map(ByteDelivery::shm)
    }

    fn settle(&self, _ticket: u64, _how: Settle) -> Result<(), SettleError> {
        Err(SettleError::LeaseLost) // Deliveries of this transport are never buffered.
    }

    fn extend(&self, _ticket: u64, _by: Duration) -> Result<(), SettleError> {
        Err(SettleError::LeaseLost)
    }
}

impl ShmDelivery<'_> {
    #[inline]
    pub(crate) fn payload(&self) -> &[u8] {
        self.payload.as_ref().map_or(&[], Readable::bytes)
    }

    pub(crate) fn about(&self) -> About {
        self.about
    }

    /// Whether what was read so far was the message, and not zeroes in its place.
    #[inline]
    pub(crate) fn check_whole(&self) -> Result<(), RecvError> {
        match self.receiver.shared.usable() {
            Err(Gone::Truncated) => Err(RecvError::Truncated),
            _ => Ok(()),
        }
    }

    pub(crate) fn extend(&self, by: Duration) -> Result<(), SettleError> {
        let shared = &*self.receiver.shared;
        let Some(payload) = self
            .payload
            .as_ref()
            .filter(|_| shared.attachment.is_ours())
        else {
            return Err(SettleError::Forked);
        };
        if shared.settings.lease.is_none() {
            return Ok(());
        }
        let ends_at = Due::not_before(clock::monotonic().saturating_add(by));
        let kept = shared.ring.extend(payload.lease(), shared.seat, ends_at);
        if !kept {
            return Err(self.receiver.lost());
        }
        shared.look_by(ends_at);
        Ok(())
    }

    #[inline]
    pub(crate) fn settle(mut self, how: Settle) -> Result<(), SettleError> {
        let payload = self
            .payload
            .take()
            .expect("a delivery is settled once, by value");
        self.receiver.settle(&payload.into_lease(), how)
    }
}

impl Drop for ShmDelivery<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(payload) = self.payload.take() {
            let nack = Settle::Nack {
                delay: Duration::ZERO,
            };
            // A lease that was lost has been given back already.
            let _ = self.receiver.settle(&payload.into_lease(), nack);
        }
    }
}

/// Whether an attempt must doubt the hints and scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    No,
    Yes,
}

impl Shared {
    #[inline]
    pub(super) fn check_open(&self) -> Result<(), SendFailure> {
        match self.usable() {
            Ok(flags) if flags & CLOSED == 0 => Ok(()),
            Ok(_) => Err(SendFailure::Closed),
            Err(gone) => Err(gone.into()),
        }
    }

    /// Attempts until something comes of it: first eagerly, then asleep between notifications. The error
    /// says how long it waited; `None`: it was not to wait.
    fn wait_for<T>(
        &self,
        event: Event<'_>,
        wait: Wait,
        spin: &Spin,
        mut attempt: impl FnMut(Doubt) -> Option<T>,
        more: impl Fn() -> bool,
    ) -> Result<T, Option<Duration>> {
        let deadline = match wait {
            Wait::No => return Err(None),
            Wait::Until(deadline) => Some(deadline),
            Wait::Forever => None,
        };
        let started = Instant::now();
        if let Some(found) = spin.look(|| attempt(Doubt::No)) {
            return Ok(found);
        }
        let mut changes = None;
        let mut doubt = Doubt::No;
        loop {
            let ticket = event.prepare();
            if let Some(found) = attempt(doubt) {
                // One notification may stand for several changes, and only we were woken by it.
                if more() {
                    event.notify_one();
                }
                return Ok(found);
            }
            let Some(left) = time_left(deadline) else {
                return Err(Some(started.elapsed()));
            };
            // Peers came or went: the watcher must watch others now.
            let now = self
                .attachment
                .segment()
                .changes()
                .load(std::sync::atomic::Ordering::Relaxed);
            if changes.replace(now) != Some(now) {
                watch::nudge();
            }
            doubt = match event.wait(ticket, left) {
                Woken::Perhaps => Doubt::No,
                Woken::TimedOut => {
                    // In case the watcher could not be started, or is stopped.
                    self.look_around();
                    Doubt::Yes
                }
            };
        }
    }
}
