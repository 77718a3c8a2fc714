//! Sending through shared memory: the ring, with payloads, waiting and counting.

mod batch;
mod keyed;
mod loans;
mod owned;
mod publishing;
mod restoring;

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use ipc_proto::{Kind, MessageId, QueueSettings, SenderId, Timestamp};
use ipc_shm::clock;

use super::Hold;
use super::chunk::{Allocation, Candidate, Chunk};
use super::due::Due;
use super::keys::HeldKey;
use super::level::Level;
use super::memory::RingWord;
use super::payload::{self, Writable};
use super::ring::{Claim, Cursor, Settled, Settlement};
use super::spin::Spin;
use super::tally::{Lane, Sent, Side};
use crate::error::{NoRoom, SendFailure, SendPortError};
use crate::send_options::SendOptions;
use crate::wait::Wait;

pub(crate) use loans::ShmLoan;
pub(crate) use owned::OwnedShmLoan;

/// A sender into one level of a queue in shared memory.
#[derive(Debug)]
pub(crate) struct LevelSender {
    shared: Hold,
    level: Arc<Level>,
    /// The number of the level.
    number: u32,
    cursor: RefCell<Cursor>,
    spin: Spin,
    lane: Lane,
    id: SenderId,
    /// The sequence number of the next message.
    sequence: Cell<u64>,
    /// The difference between consecutive sequence numbers. The senders of other levels have those
    /// between.
    step: u64,
    /// The unit behind the chunk that was used last.
    next_chunk: Cell<u32>,
    /// The chunk that is tried first, and the number of consecutive chunks found elsewhere.
    ///
    /// With few messages in flight this chunk is free again each time, and in the cache. With more,
    /// the chunks behind it are used until it is free. So no more memory is used than is needed. If
    /// the first units are free, it is the chunk there: so messages that come into an empty queue
    /// leave no gaps between them.
    home_chunk: Cell<u32>,
    away: Cell<u32>,
    /// The size of the largest payload that needs no chunk.
    most_inline: usize,
}

/// The delivery times and the key of a message.
#[derive(Debug, Default, PartialEq, Eq)]
struct Terms {
    delay: Duration,
    expires_in: Option<Duration>,
    key: Option<HeldKey>,
    has_headers: bool,
}

/// The contents of a header, except the place of the payload.
#[derive(Clone, Copy, Debug)]
struct Stamp {
    id: MessageId,
    sent_at: Timestamp,
    expires_at: Option<Due>,
    /// The slot of the message's key, whose notes must stay correct.
    key_slot: Option<u32>,
}

/// The place where a message was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whence {
    /// The place where it was written.
    InTurn,
    /// A place behind everything that had been claimed by then.
    AtEnd,
}

/// The reason why there is no place for a message now.
enum Lack {
    /// No cell is free.
    Place,
    /// No chunk is free.
    Memory,
    /// Another sender is using its key.
    Key,
    /// Waiting would not help.
    Over(SendFailure),
}

impl LevelSender {
    /// Creates a sender into level `number`, whose messages have the sender id `id`.
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
            next_chunk: Cell::new(0),
            home_chunk: Cell::new(0),
            away: Cell::new(0),
            number: number as u32,
            most_inline: (level.payloads.geometry().inline_bytes)
                .min(most_bytes(&shared.contents.settings)),
            level,
            shared,
        }
    }

    /// Creates another sender into the same level, with a sender id of its own.
    fn another(&self) -> Self {
        let id = SenderId::new(fastrand::u64(1..));
        Self::new(self.shared.clone(), self.number as usize, id)
    }

    /// Returns the queue's address, for errors.
    #[cold]
    pub(crate) fn address(&self) -> String {
        self.shared.address()
    }

    /// Returns the sender id of this handle's messages.
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
        wait: impl FnOnce() -> Wait,
    ) -> Result<MessageId, SendPortError> {
        match self.try_lend(payload.len(), kind) {
            Ok(place) => {
                self.spin.hit();
                self.send_in(place, payload, kind)
            }
            Err(lack) => self.send_later(payload, kind, wait(), lack),
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

    /// Counts what was sent, and wakes one receiver. A woken receiver that finds more wakes the
    /// next.
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

    /// Returns a place for a message with these headers, which are written there.
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
            self.try_lend_room(all, options.kind, self.level.payloads.geometry().units)?
        };
        place.bytes_mut()[len..].copy_from_slice(&trailer);
        Ok(place.cut(len))
    }

    /// Returns a place. If there is none, drops the oldest waiting message to make room.
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

    /// Takes and drops the oldest waiting message. Returns whether there was one.
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

    /// Returns whether there is room behind the place that was claimed last.
    pub(super) fn has_more(&self) -> bool {
        self.level
            .ring
            .has_more(RingWord::Tail, &self.cursor.borrow())
    }

    /// Returns a place with memory for a payload.
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
        self.try_lend_room(len, kind, self.level.payloads.geometry().plain_units)
    }

    #[inline(always)]
    fn try_lend_room(&self, len: usize, kind: Kind, limit: u32) -> Result<Writable<'_>, Lack> {
        let units = self.level.payloads.geometry().units_of(len);
        let no_memory = || match self.shared.check_open() {
            Ok(()) => Lack::Memory,
            Err(failure) => Lack::Over(failure),
        };
        let found = self.free_chunk(units, limit).ok_or_else(no_memory)?;
        let claim = self.claim(kind)?;
        match self.allocate(found, limit, &claim) {
            Some(chunk) => self.writable(claim, Some(chunk), len),
            None => {
                self.give_back(claim);
                Err(Lack::Memory)
            }
        }
    }

    /// Allocates this chunk, or another one if other senders are faster. `None`: no memory is free.
    #[inline(always)]
    fn allocate(&self, found: Candidate, limit: u32, claim: &Claim) -> Option<u32> {
        let mut found = found;
        loop {
            match self.level.ring.allocate(found, claim) {
                Allocation::Done => break,
                Allocation::Lost => {}
                // Others may have found too little memory meanwhile.
                Allocation::GivenBack => self.shared.tell_room(),
            }
            found = self.free_chunk(found.units, limit)?;
        }
        self.next_chunk.set(found.chunk + found.units);
        Some(found.chunk)
    }

    fn claim(&self, kind: Kind) -> Result<Claim, Lack> {
        self.claim_now(kind).ok_or_else(|| self.lack())
    }

    /// Claims a cell. `None`: `lack` returns the reason.
    #[inline(always)]
    fn claim_now(&self, kind: Kind) -> Option<Claim> {
        let shared = &*self.shared;
        let claim = self
            .level
            .ring
            .claim(shared.seat, kind, &mut self.cursor.borrow_mut())?;
        // Checked after the claim: a process that closes the queue, and then finds no message being
        // written, knows that none will come.
        if shared.is_open() {
            return Some(claim);
        }
        self.give_back(claim);
        None
    }

    /// Returns the reason why a claim failed.
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

    /// Returns free units below `limit`: the first ones, or those of the chunk that is tried first,
    /// or some behind the chunk that was used last.
    #[inline(always)]
    fn free_chunk(&self, units: u32, limit: u32) -> Option<Candidate> {
        let ring = &self.level.ring;
        let (home, next) = (self.home_chunk.get(), self.next_chunk.get());
        for chunk in [0, home] {
            match ring.look_at_chunk(chunk, units) {
                Chunk::Free(found) if found.end() <= limit => {
                    self.home_chunk.set(chunk);
                    self.away.set(0);
                    return Some(found);
                }
                Chunk::Used if home == 0 => break,
                Chunk::Used => {}
                _ => return self.find_chunk(units, limit),
            }
        }
        match ring.look_at_chunk(next, units) {
            Chunk::Free(found) if found.end() <= limit => Some(self.went_away(found)),
            _ => self.find_chunk(units, limit),
        }
    }

    /// Remembers that a chunk was found elsewhere than where it is tried first.
    #[inline(always)]
    fn went_away(&self, found: Candidate) -> Candidate {
        let away = self.away.get() + 1;
        self.away.set(away % MOST_AWAY);
        if away == MOST_AWAY {
            self.home_chunk.set(found.chunk);
        }
        found
    }

    #[inline(never)]
    fn find_chunk(&self, units: u32, limit: u32) -> Option<Candidate> {
        let find = |range| {
            let found = self.level.ring.find_chunk(range, units);
            found.filter(|found| found.end() <= limit)
        };
        // What is there may have another length, which the allocation changes.
        for home in [0, self.home_chunk.get()] {
            if self.level.ring.begins_chunk(home)
                && let Some(found) = find(home..home + 1)
            {
                self.home_chunk.set(home);
                self.away.set(0);
                return Some(found);
            }
        }
        let next = self.next_chunk.get();
        let warm = self.level.payloads.geometry().units_of(WARM_BYTES);
        let end = if next < warm { warm.min(limit) } else { limit };
        let found = find(next..end).or_else(|| find(0..limit));
        found.map(|found| self.went_away(found))
    }

    #[cold]
    fn give_back(&self, claim: Claim) {
        self.level.ring.abandon(claim);
        self.shared.tell_room();
        self.shared.wake_if_closed();
    }
}

/// The number of messages after which another chunk is tried first: the present one may be held for
/// long.
const MOST_AWAY: u32 = 256;
/// The memory that is used first: it stays in a core's cache and its TLB. With less, a sender would
/// often take units that are still in its receiver's own cache, which is slow, too.
const WARM_BYTES: usize = 4 << 20;

/// Returns the size of the largest payload that the queue takes.
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
