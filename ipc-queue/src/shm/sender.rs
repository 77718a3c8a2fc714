//! Sending through shared memory: the ring, with payloads, waiting and counting.

mod batch;
mod loans;
mod restoring;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ipc_proto::{Kind, MessageId, QueueSettings, SenderId, Timestamp};
use ipc_shm::clock;

use super::Hold;
use super::cell::Body;
use super::chunk::Candidate;
use super::due::Due;
use super::keys::{CellName, HeldKey, Keys, Known, Refused, nanos};
use super::level::{Level, SegmentKeys};
use super::memory::RingWord;
use super::payload::{self, Writable};
use super::ring::{Claim, Cursor, Publication, Settled, Settlement};
use super::spin::Spin;
use super::tally::{Lane, Sent, Side};
use crate::capability::{Feature, Unsupported};
use crate::error::{NoRoom, SendFailure, SendPortError, Unavailable};
use crate::send_options::{Key, OverflowPolicy, SendOptions};
use crate::wait::Wait;

pub(crate) use loans::ShmLoan;
pub(in crate::shm) use loans::ShmPlace;

/// Sends into one level of a queue in shared memory.
#[derive(Debug)]
pub(crate) struct LevelSender {
    shared: Hold,
    level: Arc<Level>,
    /// The level's.
    number: u32,
    cursor: RefCell<Cursor>,
    spin: Spin,
    lane: Lane,
    id: SenderId,
    /// The next message's.
    sequence: Cell<u64>,
    /// From one message's to the next's: other levels' senders have the numbers between.
    step: u64,
    /// The chunk used last.
    last_chunk: Cell<u32>,
    /// The chunk that is tried first, and how many in a row were found elsewhere.
    ///
    /// With few messages under way it is free again each time, and in the cache. With more of them
    /// the chunks behind it follow, until it is free: so no more memory is used than is needed.
    home_chunk: Cell<u32>,
    away: Cell<u32>,
    /// Payloads up to this size need no chunk.
    most_inline: usize,
}

/// When a message is to be delivered, and what it is known by.
#[derive(Debug, Default, PartialEq, Eq)]
struct Terms {
    delay: Duration,
    expires_in: Option<Duration>,
    key: Option<HeldKey>,
    has_headers: bool,
}

/// What a header says beside where the payload is.
#[derive(Clone, Copy, Debug)]
struct Stamp {
    id: MessageId,
    sent_at: Timestamp,
    expires_at: Option<Due>,
    /// Whose key's note must be kept right.
    key_slot: Option<u32>,
}

/// Where a message was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whence {
    /// Where it was written.
    InTurn,
    /// Behind whatever had been claimed by then.
    AtEnd,
}

/// Why there is no place for a message now.
enum Lack {
    /// No cell.
    Place,
    /// No chunk.
    Memory,
    /// Somebody else is sending with its key.
    Key,
    /// Waiting would not help.
    Over(SendFailure),
}

impl LevelSender {
    /// A sender into level `number`, whose messages bear this sender's id.
    pub(super) fn new(shared: Hold, number: usize, id: SenderId) -> Self {
        let level = Arc::clone(&shared.contents.levels[number]);
        Self {
            cursor: RefCell::new(level.ring.cursor(RingWord::Tail)),
            spin: Spin::default(),
            lane: shared
                .contents
                .counters
                .take(shared.attachment.member(), Side::Send),
            id,
            sequence: Cell::new(number as u64),
            step: shared.contents.levels.len() as u64,
            last_chunk: Cell::new(0),
            home_chunk: Cell::new(0),
            away: Cell::new(0),
            number: number as u32,
            most_inline: (level.payloads.geometry().inline_bytes)
                .min(most_bytes(&shared.contents.settings)),
            level,
            shared,
        }
    }

    /// The queue's address, for errors.
    #[cold]
    pub(crate) fn address(&self) -> String {
        self.shared.address()
    }

    /// The number that this handle's messages bear.
    pub(super) fn id(&self) -> SenderId {
        self.id
    }

    /// Sends a copy of `payload`.
    ///
    /// # Errors
    /// As [`loan`](Self::loan).
    #[inline]
    pub(super) fn send(
        &self,
        payload: &[u8],
        kind: Kind,
        wait: Wait,
    ) -> Result<MessageId, SendPortError> {
        match self.try_lend(payload.len(), kind) {
            Ok(place) => {
                self.spin.hit();
                self.send_in(place, payload, kind)
            }
            Err(lack) => self.send_later(payload, kind, wait, lack),
        }
    }

    #[cold]
    fn send_later(
        &self,
        payload: &[u8],
        kind: Kind,
        wait: Wait,
        lack: Lack,
    ) -> Result<MessageId, SendPortError> {
        let place = self.wait_for_room(payload.len(), kind, wait, lack)?;
        self.send_in(place, payload, kind)
    }

    #[inline(always)]
    fn send_in(
        &self,
        mut place: Writable<'_>,
        payload: &[u8],
        kind: Kind,
    ) -> Result<MessageId, SendPortError> {
        place.bytes_mut().copy_from_slice(payload);
        let stamp = self.stamp(clock::wall());
        self.publish(place, kind, stamp)?;
        self.sent(1, payload.len());
        Ok(stamp.id)
    }

    /// Counts what was sent, and wakes a receiver: whoever is woken and finds more wakes the next.
    #[inline(always)]
    fn sent(&self, messages: u64, bytes: usize) {
        self.shared.items().notify_one();
        self.lane.add(Sent::Messages, messages);
        self.lane.add(Sent::Bytes, bytes as u64);
    }

    fn lend(&self, len: usize, kind: Kind, wait: Wait) -> Result<Writable<'_>, SendPortError> {
        match self.try_lend(len, kind) {
            Ok(place) => {
                self.spin.hit();
                Ok(place)
            }
            Err(lack) => self.wait_for_room(len, kind, wait, lack),
        }
    }

    /// A place for a message with these headers, which are written there.
    #[cold]
    fn lend_with_headers(
        &self,
        len: usize,
        options: &SendOptions,
        wait: Wait,
    ) -> Result<Writable<'_>, SendPortError> {
        let try_lend = || self.try_lend_for(len, options);
        try_lend().or_else(|lack| self.wait_until_lent(len, wait, lack, try_lend))
    }

    fn try_lend_for(&self, len: usize, options: &SendOptions) -> Result<Writable<'_>, Lack> {
        if options.headers.is_empty() {
            return self.try_lend(len, options.kind);
        }
        let most = most_bytes(&self.shared.contents.settings);
        if len > most {
            return Err(Lack::Over(SendFailure::TooLarge { bytes: len, most }));
        }
        let trailer = payload::trailer(&options.headers);
        let all = len + trailer.len();
        let mut place = if all <= self.level.payloads.geometry().inline_bytes {
            let claim = self.claim(options.kind)?;
            self.writable(claim, None, all)?
        } else {
            self.try_lend_room(all, options.kind, || self.free_chunk_for_headers(all))?
        };
        place.bytes_mut()[len..].copy_from_slice(&trailer);
        Ok(place.cut(len))
    }

    /// A place; if there is none, that of the message that waited longest.
    #[cold]
    fn lend_dropping(
        &self,
        len: usize,
        options: &SendOptions,
        wait: Wait,
    ) -> Result<Writable<'_>, SendPortError> {
        self.try_lend_dropping(len, options).or_else(|lack| {
            self.wait_until_lent(len, wait, lack, || self.try_lend_for(len, options))
        })
    }

    fn try_lend_dropping(&self, len: usize, options: &SendOptions) -> Result<Writable<'_>, Lack> {
        loop {
            match self.try_lend_for(len, options) {
                Err(Lack::Place | Lack::Memory) if self.drop_oldest() => {}
                lent => return lent,
            }
        }
    }

    /// A place, and the key for what is written there.
    #[cold]
    fn lend_keyed(
        &self,
        len: usize,
        options: &SendOptions,
        key: Key,
        wait: Wait,
    ) -> Result<(Writable<'_>, HeldKey), SendPortError> {
        let Some(keys) = &self.shared.contents.keys else {
            return Err(SendFailure::from(Unsupported::by_settings(Feature::Deduplication)).into());
        };
        let try_lend = || self.try_lend_keyed(keys, len, options, key);
        try_lend().or_else(|lack| self.wait_until_lent(len, wait, lack, try_lend))
    }

    /// Looks at the key before it takes anything: those who wait must not wake each other.
    fn try_lend_keyed(
        &self,
        keys: &Keys<SegmentKeys>,
        len: usize,
        options: &SendOptions,
        key: Key,
    ) -> Result<(Writable<'_>, HeldKey), Lack> {
        match keys.look_up(key.number(), nanos(clock::monotonic())) {
            Known::Nothing => {}
            Known::Sent(of) => return Err(self.duplicate(of)),
            Known::InUse => return Err(Lack::Key),
        }
        let place = match options.overflow {
            OverflowPolicy::Wait => self.try_lend_for(len, options)?,
            OverflowPolicy::DropOldest => self.try_lend_dropping(len, options)?,
        };
        let now = nanos(clock::monotonic());
        let refused = match keys.take(self.shared.seat, key.number(), now) {
            Ok(held) => return Ok((place, held)),
            Err(refused) => refused,
        };
        // This wakes those who saw us try, too.
        self.give_back(place.into_claim());
        Err(match refused {
            Refused::Sent(of) => self.duplicate(of),
            Refused::InUse => Lack::Key,
            Refused::NoSlot => Lack::Over(SendFailure::KeysFull {
                keys: keys.count(now),
                window: self
                    .shared
                    .contents
                    .settings
                    .dedup_window
                    .unwrap_or_default(),
            }),
        })
    }

    fn duplicate(&self, of: MessageId) -> Lack {
        self.lane.add(Sent::Duplicates, 1);
        Lack::Over(SendFailure::Duplicate { of })
    }

    fn give_back_key(&self, held: HeldKey) {
        if let Some(keys) = &self.shared.contents.keys {
            keys.give_back(held);
            self.shared.tell_room();
        }
    }

    fn name(&self, claim: &Claim) -> CellName {
        CellName {
            level: self.number,
            index: claim.index(),
            occupancy: self.level.ring.cell(claim.index()).occupancy(),
        }
    }

    /// Receives the message that waited longest, for nobody; whether there was one.
    #[cold]
    fn drop_oldest(&self) -> bool {
        let ring = &self.level.ring;
        let Some(lease) = ring.take(self.shared.seat, &mut ring.cursor(RingWord::Head)) else {
            return false;
        };
        if ring.settle(&lease, Settlement::Ack) != Settled::LeaseLost {
            self.lane.add(Sent::Overflowed, 1);
        }
        true
    }

    #[cold]
    fn wait_for_room(
        &self,
        len: usize,
        kind: Kind,
        wait: Wait,
        lack: Lack,
    ) -> Result<Writable<'_>, SendPortError> {
        self.wait_until_lent(len, wait, lack, || self.try_lend(len, kind))
    }

    fn wait_until_lent<T>(
        &self,
        len: usize,
        wait: Wait,
        lack: Lack,
        try_lend: impl Fn() -> Result<T, Lack>,
    ) -> Result<T, SendPortError> {
        if let Lack::Over(failure) = lack {
            return Err(failure.into());
        }
        let missing = |lack: &Lack| match lack {
            Lack::Memory => NoRoom::Memory { bytes: len as u64 },
            Lack::Key => NoRoom::Key,
            Lack::Place | Lack::Over(_) => NoRoom::Places {
                capacity: self.level.ring.cells(),
            },
        };
        let last = Cell::new(missing(&lack));
        let attempt = || match try_lend() {
            Ok(lent) => Some(Ok(lent)),
            Err(Lack::Over(failure)) => Some(Err(failure.into())),
            Err(lack) => {
                last.set(missing(&lack));
                None
            }
        };
        let more = || self.has_more();
        let waited = self.shared.wait_for(
            self.shared.room(),
            Some(Side::Send),
            wait,
            &self.spin,
            attempt,
            more,
        );
        waited.unwrap_or_else(|waited| {
            self.lane.add(Sent::Refused, 1);
            Err(SendPortError::NoRoom {
                missing: last.get(),
                waited,
                dead: self.shared.dead(),
            })
        })
    }

    /// Whether there is room behind the place claimed last.
    pub(super) fn has_more(&self) -> bool {
        self.level
            .ring
            .has_more(RingWord::Tail, &self.cursor.borrow())
    }

    /// A place and memory for a payload.
    #[inline(always)]
    fn try_lend(&self, len: usize, kind: Kind) -> Result<Writable<'_>, Lack> {
        if len > self.most_inline {
            return self.try_lend_chunk(len, kind);
        }
        match self.claim_now(kind) {
            Some(claim) => self.writable(claim, None, len),
            None => Err(self.lack()),
        }
    }

    #[inline(never)]
    fn try_lend_chunk(&self, len: usize, kind: Kind) -> Result<Writable<'_>, Lack> {
        let most = most_bytes(&self.shared.contents.settings);
        if len > most {
            return Err(Lack::Over(SendFailure::TooLarge { bytes: len, most }));
        }
        self.try_lend_room(len, kind, || self.free_chunk(len))
    }

    #[inline(always)]
    fn try_lend_room(
        &self,
        len: usize,
        kind: Kind,
        free_chunk: impl Fn() -> Option<Candidate>,
    ) -> Result<Writable<'_>, Lack> {
        let no_memory = || match self.shared.check_open() {
            Ok(()) => Lack::Memory,
            Err(failure) => Lack::Over(failure),
        };
        let mut chunk = free_chunk().ok_or_else(no_memory)?;
        let claim = self.claim(kind)?;
        while !self.level.ring.allocate(chunk, &claim) {
            match free_chunk() {
                Some(other) => chunk = other,
                None => {
                    self.give_back(claim);
                    return Err(Lack::Memory);
                }
            }
        }
        self.last_chunk.set(chunk.chunk);
        self.writable(claim, Some(chunk.chunk), len)
    }

    fn claim(&self, kind: Kind) -> Result<Claim, Lack> {
        self.claim_now(kind).ok_or_else(|| self.lack())
    }

    /// `None`: `lack` says why.
    #[inline(always)]
    fn claim_now(&self, kind: Kind) -> Option<Claim> {
        let shared = &*self.shared;
        let claim = self
            .level
            .ring
            .claim(shared.seat, kind, &mut self.cursor.borrow_mut())?;
        // Only now: whoever closes the queue and then finds no message being written knows that
        // none comes.
        if shared.is_open() {
            return Some(claim);
        }
        self.give_back(claim);
        None
    }

    /// Why a claim failed.
    #[cold]
    fn lack(&self) -> Lack {
        match self.shared.check_open() {
            Ok(()) => Lack::Place,
            Err(failure) => Lack::Over(failure),
        }
    }

    #[inline(always)]
    fn writable(&self, claim: Claim, chunk: Option<u32>, len: usize) -> Result<Writable<'_>, Lack> {
        match self.level.payloads.writable(claim, chunk, len) {
            Ok(place) => Ok(place),
            Err((claim, bad)) => {
                self.give_back(claim);
                Err(Lack::Over(SendFailure::damaged(bad.reason)))
            }
        }
    }

    /// A free chunk that is large enough; of the smallest such class that has one.
    fn free_chunk(&self, len: usize) -> Option<Candidate> {
        let classes = &self.level.payloads.geometry().classes;
        for class in classes.iter().filter(|class| class.chunk_bytes >= len) {
            for chunks in class.warm_and_cold() {
                if let Some(found) = self.find_chunk(chunks) {
                    return Some(found);
                }
            }
        }
        None
    }

    /// A free one of these chunks: the one tried first, or one behind the one used last.
    fn find_chunk(&self, chunks: Range<u32>) -> Option<Candidate> {
        let (ring, home) = (&self.level.ring, self.home_chunk.get());
        if chunks.contains(&home)
            && let Some(found) = ring.free_chunk(home)
        {
            self.away.set(0);
            return Some(found);
        }
        let found = ring.find_chunk(chunks, self.last_chunk.get() + 1)?;
        let away = self.away.get() + 1;
        self.away.set(away % MOST_AWAY);
        if away == MOST_AWAY {
            self.home_chunk.set(found.chunk);
        }
        Some(found)
    }

    /// As [`free_chunk`](Self::free_chunk), or one of those that only payloads with headers use.
    fn free_chunk_for_headers(&self, len: usize) -> Option<Candidate> {
        let chunks = &self.level.payloads.geometry().for_headers.chunks;
        let last = || {
            self.level
                .ring
                .find_chunk(chunks.clone(), self.last_chunk.get())
        };
        self.free_chunk(len).or_else(last)
    }

    #[cold]
    fn give_back(&self, claim: Claim) {
        self.level.ring.abandon(claim);
        self.shared.tell_room();
        self.shared.wake_if_closed();
    }

    /// The next message's.
    #[inline(always)]
    fn stamp(&self, sent_at: Timestamp) -> Stamp {
        let sequence = self.sequence.get();
        self.sequence.set(sequence + self.step);
        Stamp {
            id: MessageId::new(self.id, sequence),
            sent_at,
            expires_at: None,
            key_slot: None,
        }
    }

    /// Publishes what was lent. Receivers are yet to be notified.
    #[inline(always)]
    fn publish(
        &self,
        payload: Writable<'_>,
        kind: Kind,
        stamp: Stamp,
    ) -> Result<Whence, SendFailure> {
        self.describe(&payload, stamp);
        self.publish_described(payload, kind, stamp)
    }

    #[inline(always)]
    fn publish_described(
        &self,
        payload: Writable<'_>,
        kind: Kind,
        stamp: Stamp,
    ) -> Result<Whence, SendFailure> {
        let (chunk, len) = (payload.chunk(), payload.len());
        match self.level.ring.publish(payload.into_claim()) {
            Publication::Done => Ok(Whence::InTurn),
            Publication::SteppedOver(claim) => self.publish_at_end(claim, chunk, len, kind, stamp),
            Publication::Lost => Err(self.lost()),
        }
    }

    /// Publishes a message about which more was said. Receivers are yet to be notified.
    #[cold]
    fn publish_on(
        &self,
        payload: Writable<'_>,
        kind: Kind,
        mut terms: Terms,
    ) -> Result<MessageId, SendFailure> {
        let mut stamp = self.stamp(clock::wall());
        let (Some(mut held), Some(keys)) = (terms.key.take(), &self.shared.contents.keys) else {
            self.publish_timed(payload, kind, &terms, stamp)?;
            return Ok(stamp.id);
        };
        stamp.key_slot = Some(held.slot());
        let window = self
            .shared
            .contents
            .settings
            .dedup_window
            .unwrap_or_default();
        let until = nanos(clock::monotonic().saturating_add(window));
        keys.place(&mut held, self.name(payload.claim()), stamp.id, until);
        let published = self.publish_timed(payload, kind, &terms, stamp);
        match published {
            Ok(()) => keys.sent(held),
            Err(_) => keys.give_back(held),
        }
        self.shared.tell_room();
        published.map(|()| stamp.id)
    }

    fn publish_timed(
        &self,
        payload: Writable<'_>,
        kind: Kind,
        terms: &Terms,
        mut stamp: Stamp,
    ) -> Result<(), SendFailure> {
        if terms.delay.is_zero() && terms.expires_in.is_none() {
            self.describe_all(&payload, stamp, terms.has_headers);
            return self.publish_described(payload, kind, stamp).map(drop);
        }
        let shared = &*self.shared;
        let now = clock::monotonic();
        let after = |time: Duration| Due::not_before(now.saturating_add(time));
        stamp.expires_at = terms.expires_in.map(after);
        // Before the message can be seen: whoever finds it must know that the clock matters.
        shared.set_timed();
        let next = if terms.delay.is_zero() {
            self.describe_all(&payload, stamp, terms.has_headers);
            self.publish_described(payload, kind, stamp)?;
            stamp.expires_at
        } else {
            let due = after(terms.delay);
            self.describe_all(&payload, stamp, terms.has_headers);
            let claim = payload.into_claim();
            self.level.ring.note_delay(&claim, due);
            self.done(self.level.ring.publish_delayed(claim))?;
            Some(due)
        };
        next.into_iter().for_each(|due| shared.look_by(due));
        Ok(())
    }

    #[inline(always)]
    fn describe(&self, payload: &Writable<'_>, stamp: Stamp) {
        let cell = self.level.ring.cell(payload.claim().index());
        cell.set_body(Body {
            // At most max_message_bytes, which is a u32.
            len: payload.len() as u32,
            chunk: payload.chunk(),
        });
        cell.set_envelope(stamp.id, stamp.sent_at);
        if let Some(at) = stamp.expires_at {
            cell.set_expiry(at.millis());
        }
    }

    fn describe_all(&self, payload: &Writable<'_>, stamp: Stamp, has_headers: bool) {
        self.describe(payload, stamp);
        if has_headers {
            let cell = self.level.ring.cell(payload.claim().index());
            cell.mark_headers();
        }
    }

    /// Receivers went past while we wrote. What we send next must not overtake this message, so it
    /// moves to a place at the end. If there is none, it stays.
    #[cold]
    fn publish_at_end(
        &self,
        old: Claim,
        chunk: Option<u32>,
        len: usize,
        kind: Kind,
        stamp: Stamp,
    ) -> Result<Whence, SendFailure> {
        let shared = &*self.shared;
        let claimed = self
            .level
            .ring
            .claim(shared.seat, kind, &mut self.cursor.borrow_mut());
        let Some(new) = claimed else {
            self.done(self.publish_late(old))?;
            return Ok(Whence::AtEnd);
        };
        // Closed meanwhile: whoever looks whether anything is left might look at the new place
        // before and at the old one after the move.
        if shared.check_open().is_err() {
            self.give_back(new);
            self.done(self.publish_late(old))?;
            return Ok(Whence::AtEnd);
        }
        // What was just said of it.
        let body = self.level.ring.cell(old.index()).body().before_headers();
        // In a chunk its headers are handed over with it.
        let all = match body {
            Some(body) if chunk.is_none() => {
                let trailer = self.level.payloads.trailer_bytes(old.index(), body);
                len + trailer.map_err(|bad| SendFailure::damaged(bad.reason))?
            }
            _ => len,
        };
        let mut target = self
            .writable(new, chunk, all)
            .map_err(|lack| self.failure(lack))?;
        let old = match chunk {
            None => {
                let source = self
                    .writable(old, None, all)
                    .map_err(|lack| self.failure(lack))?;
                source.copy_to(&mut target);
                source.into_claim()
            }
            Some(chunk) if self.level.ring.hand_over(chunk, &old, target.claim()) => old,
            Some(_) => {
                self.give_back(target.into_claim());
                return Err(self.lost());
            }
        };
        let target = target.cut(len);
        self.describe_all(&target, stamp, body.is_some());
        if let (Some(slot), Some(keys)) = (stamp.key_slot, &shared.contents.keys) {
            keys.move_to(slot, self.name(target.claim()));
        }
        // Stepped over once more: then it stays where it is, or we might never end.
        let published = match self.level.ring.publish(target.into_claim()) {
            Publication::SteppedOver(claim) => self.publish_late(claim),
            other => other,
        };
        // Only now, or a crash in between would lose it.
        self.give_back(old);
        self.done(published)?;
        Ok(Whence::AtEnd)
    }

    fn publish_late(&self, claim: Claim) -> Publication {
        let cursor = &mut self.cursor.borrow_mut();
        self.level.ring.publish_late(claim, cursor)
    }

    fn done(&self, publication: Publication) -> Result<(), SendFailure> {
        match publication {
            Publication::Done => Ok(()),
            Publication::SteppedOver(_) | Publication::Lost => Err(self.lost()),
        }
    }

    /// For a place that was had before.
    #[cold]
    fn failure(&self, lack: Lack) -> SendFailure {
        match lack {
            Lack::Over(failure) => failure,
            Lack::Place | Lack::Memory | Lack::Key => self.lost(),
        }
    }

    #[cold]
    fn lost(&self) -> SendFailure {
        let reason = "a cell that was being written is somebody else's";
        let damaged = |_| SendFailure::damaged(reason);
        let gone = |gone| SendFailure::from(Unavailable::from(gone));
        self.shared.usable().map_or_else(gone, damaged)
    }
}

/// After how many messages another chunk is tried first: that one may be held for long.
const MOST_AWAY: u32 = 256;

/// The largest payload that the queue takes.
fn most_bytes(settings: &QueueSettings) -> usize {
    settings.max_message_bytes.max(settings.inline_bytes) as usize
}

impl Drop for LevelSender {
    fn drop(&mut self) {
        self.shared
            .contents
            .counters
            .give_back(&self.lane, Side::Send);
    }
}
