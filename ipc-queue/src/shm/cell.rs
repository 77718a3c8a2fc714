//! The header of a cell, apart from its state.
//!
//! The claimer of the cell writes it before it publishes, except where noted. The holder of the
//! lease reads it. The compare-and-swap that publishes (release) and the one that takes the message
//! (acquire) order the two.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use ipc_proto::{Kind, MessageId, SenderId, Timestamp};

use super::memory::{CELL_WORDS, Word};
use super::word::{CellKind, Lap, State, attempts_since};

/// The header words of a cell.
#[derive(Debug)]
pub struct Cell<'a, W> {
    words: &'a [W; CELL_WORDS],
}

impl<W> Clone for Cell<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Cell<'_, W> {}

/// The metadata of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// The message's kind.
    pub kind: Kind,
    /// The message's id.
    pub id: MessageId,
    /// The time when it was sent.
    pub sent_at: Timestamp,
}

/// The place of a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// The length in bytes.
    pub len: u32,
    /// The chunk with the payload; `None`: it is in the cell itself.
    pub chunk: Option<u32>,
}

impl Body {
    /// A mark above all possible chunk numbers. With the mark, a chunk number names no existing
    /// chunk. So headers need only be looked for when the chunk number is invalid.
    const HEADERS: u32 = 1 << 31;
    /// The limit on the number of units of a queue.
    #[cfg(test)]
    pub const MOST_UNITS: u32 = Self::HEADERS - 1;

    /// Returns the same place, marked: headers follow the payload.
    #[must_use]
    pub fn with_headers(self) -> Self {
        Self::of_upper(self.len, self.upper() | Self::HEADERS)
    }

    /// Returns the same place without the mark; `None` if there are no headers.
    pub fn before_headers(self) -> Option<Self> {
        let upper = self.upper();
        let marked = upper & Self::HEADERS != 0;
        marked.then(|| Self::of_upper(self.len, upper & !Self::HEADERS))
    }

    /// Returns the same place without the mark, with or without headers.
    pub fn without_mark(self) -> Self {
        self.before_headers().unwrap_or(self)
    }

    fn upper(self) -> u32 {
        self.chunk.map_or(0, |chunk| chunk.wrapping_add(1))
    }

    fn of_upper(len: u32, upper: u32) -> Self {
        let chunk = upper.checked_sub(1);
        Self { len, chunk }
    }
}

const STATE: usize = 0;
/// `headers:1 | chunk+1:31 | length:32`. See [`Body`].
const BODY: usize = 1;
/// `kind of message:3 | expiry, upper part:26 | lap of the claim:35`. See [`ClaimWord`].
const CLAIM: usize = 2;
const SENDER: usize = 3;
/// `expiry, lower part:14 | sequence:50`.
const SEQUENCE: usize = 4;
const SENT_AT: usize = 5;
/// The deadline word: the end of the lease, or of the delay. See `due`.
const DUE: usize = 6;
/// The record of how the deliveries so far ended. See `Tally`.
const TALLY: usize = 7;
const KIND_SHIFT: u32 = 61;
/// The expiry is stored in the free bits of two words. It is a time of 39 bits; zero means none.
const EXPIRY_UPPER_SHIFT: u32 = 35;
const EXPIRY_UPPER_MASK: u64 = (1 << 25) - 1;
const EXPIRY_LOWER_SHIFT: u32 = 50;
const EXPIRY_LOWER_BITS: u32 = 14;
const LATEST_EXPIRY: u64 = (1 << 39) - 1;
/// Set if the bits of the upper part have another meaning: see [`ClaimWord::bases`].
const REQUEUED: u64 = 1 << 60;
const BASE_SHIFT: u32 = 43;
const NEXT_BASE_SHIFT: u32 = 35;
const SEQUENCE_MASK: u64 = (1 << EXPIRY_LOWER_SHIFT) - 1;

impl<'a, W: Word> Cell<'a, W> {
    /// Creates the view of the header in `words`.
    #[inline(always)]
    pub fn new(words: &'a [W; CELL_WORDS]) -> Self {
        Self { words }
    }

    /// Returns the state word. The meaning of all other words depends on it.
    #[inline(always)]
    pub fn state(self) -> &'a W {
        &self.words[STATE]
    }

    /// Returns the deadline word.
    pub fn due(self) -> &'a W {
        &self.words[DUE]
    }

    /// Starts a new generation, which the lap of its claim distinguishes from all others of this
    /// cell. Only for the claimer. After this a chunk of the earlier generation is free.
    ///
    /// The tally starts with the same word, which no other generation has. So a process that was
    /// stopped before it recorded the end of an earlier message's delivery does not find the value
    /// it expects.
    #[inline(always)]
    pub fn begin(self, claimed_at: Lap, kind: Kind) {
        let claim = u64::from(u8::from(kind)) << KIND_SHIFT | claimed_at.number();
        self.words[CLAIM].store(claim, Release);
        self.words[TALLY].store(claim, Relaxed);
    }

    /// Returns the cell's present generation.
    #[inline]
    pub fn occupancy(self) -> Lap {
        Lap::new(self.words[CLAIM].load(Acquire))
    }

    /// Returns the claim word.
    #[inline(always)]
    pub fn claim(self) -> ClaimWord {
        ClaimWord(self.words[CLAIM].load(Acquire))
    }

    /// Returns the number of attempts at the message in this state since it was sent or requeued.
    /// These are its deliveries, including the present one, except those that were snoozed.
    pub fn attempts(self, state: State) -> u8 {
        self.tally(state).attempts(state)
    }

    /// Records that, if the dead letter in this state is requeued, deliveries count from there on,
    /// and that it does not expire. `false`: the claim has changed, because the letter is gone or
    /// requeued, or another process has recorded this.
    pub fn count_from(self, claim: ClaimWord, letter: State) -> bool {
        let next = claim.counting_from(letter);
        // The expected claim names the generation and, by its bases, the letter of that generation.
        // Failed: another process changed it.
        next == claim || self.words[CLAIM].swap_if(claim.0, next.0, AcqRel).is_ok()
    }

    /// Records the place of the payload. Only for the claimer.
    #[inline(always)]
    pub fn set_body(self, body: Body) {
        let chunk = body.chunk.map_or(0, |chunk| u64::from(chunk) + 1);
        self.words[BODY].store(chunk << 32 | u64::from(body.len), Relaxed);
    }

    /// Returns the place of the payload. It comes from shared memory, so check it before use.
    #[inline(always)]
    pub fn body(self) -> Body {
        let word = self.words[BODY].load(Relaxed);
        Body {
            len: word as u32,
            chunk: ((word >> 32) as u32).checked_sub(1),
        }
    }

    /// Records that headers follow the payload. Only for the claimer, after the body.
    #[cold]
    pub fn mark_headers(self) {
        self.set_body(self.body().with_headers());
    }

    /// Fills in the rest of the header. Only for the claimer.
    ///
    /// Keeps fifty bits of the sequence number: at twenty million messages a second they last for
    /// almost two years.
    #[inline(always)]
    pub fn set_envelope(self, id: MessageId, sent_at: Timestamp) {
        self.words[SENDER].store(id.sender.get(), Relaxed);
        self.words[SEQUENCE].store(id.sequence & SEQUENCE_MASK, Relaxed);
        self.words[SENT_AT].store(sent_at.as_nanos(), Relaxed);
    }

    /// Records the expiry time, in milliseconds since boot. It is at most 17 years after boot. Only
    /// for the claimer, after the envelope.
    #[cold]
    pub fn set_expiry(self, at_ms: u64) {
        let at_ms = at_ms.min(LATEST_EXPIRY);
        let (claim, sequence) = (&self.words[CLAIM], &self.words[SEQUENCE]);
        let upper = (at_ms >> EXPIRY_LOWER_BITS & EXPIRY_UPPER_MASK) << EXPIRY_UPPER_SHIFT;
        claim.store(claim.load(Relaxed) | upper, Release);
        let lower = at_ms << EXPIRY_LOWER_SHIFT;
        sequence.store(sequence.load(Relaxed) | lower, Relaxed);
    }

    /// Returns the expiry time, in milliseconds since boot. `None`: never.
    pub fn expiry(self) -> Option<u64> {
        let claim = self.words[CLAIM].load(Relaxed);
        if claim & REQUEUED != 0 {
            return None;
        }
        let upper = claim >> EXPIRY_UPPER_SHIFT & EXPIRY_UPPER_MASK;
        let lower = self.words[SEQUENCE].load(Relaxed) >> EXPIRY_LOWER_SHIFT;
        Some(upper << EXPIRY_LOWER_BITS | lower).filter(|at_ms| *at_ms != 0)
    }

    /// Returns the id of the message's sender.
    #[inline(always)]
    pub fn sender(self) -> SenderId {
        SenderId::new(self.words[SENDER].load(Relaxed))
    }

    /// Returns the kind of the message. An invalid number reads as data.
    #[inline]
    pub fn message_kind(self) -> Kind {
        let kind = (self.words[CLAIM].load(Relaxed) >> KIND_SHIFT) as u8;
        Kind::try_from(kind).unwrap_or_default()
    }

    /// Returns the metadata of the message.
    #[inline]
    pub fn envelope(self) -> Envelope {
        Envelope {
            kind: self.message_kind(),
            id: MessageId::new(
                self.sender(),
                self.words[SEQUENCE].load(Relaxed) & SEQUENCE_MASK,
            ),
            sent_at: Timestamp::from_nanos(self.words[SENT_AT].load(Relaxed)),
        }
    }

    /// Returns the record of how the deliveries of the message in this state ended.
    pub fn tally(self, state: State) -> Tally {
        Tally::of(self.words[TALLY].load(Acquire), self.claim(), state)
    }

    /// Records how the deliveries of a message from another queue ended. Only for the claimer,
    /// after the envelope.
    #[cold]
    pub fn restore_tally(self, tally: Tally, deliveries: u8) {
        let tally = Tally {
            attempt: deliveries & ATTEMPT_MASK,
            ..tally
        };
        if deliveries > 0 {
            self.words[TALLY].store(tally.to_word(self.claim()), Relaxed);
        }
    }

    /// Records how the delivery in this state of the cell ended, before the state shows it.
    /// `false`: the cell is already in another state, and nothing was recorded.
    ///
    /// Counted once per delivery: a second record of the same delivery only corrects the cause. It
    /// may follow a lost race, or come from a process that repeats a dead one's work. A process
    /// that is stopped before its swap records nothing about a later delivery. The state was read
    /// after the tally, so the tally was about this delivery or an earlier one. If this delivery
    /// has ended since, its end changed the tally or, after an ack, the next claimer did.
    pub fn note(self, word: u64, cause: Cause, holder: u32) -> bool {
        let (state, tally) = (State::from_word(word), &self.words[TALLY]);
        loop {
            let claim = self.claim();
            let seen = tally.load(Acquire);
            if self.state().load(SeqCst) != word {
                return false;
            }
            let noted = Tally::of(seen, claim, state).with(state.attempt, cause, holder);
            // Failed: another process recorded an end meanwhile. The next round reads it.
            if tally.swap_if(seen, noted.to_word(claim), AcqRel).is_ok() {
                return true;
            }
        }
    }

    /// Records the signal that ended the last delivery's receiver. Only the process that started
    /// the receiver knows the signal, and only after the death. `false`: the delivery did not end
    /// with a death, the signal is out of range, or the letter is gone.
    pub fn note_signal(self, letter: u64, signal: u8) -> bool {
        let (state, word) = (State::from_word(letter), &self.words[TALLY]);
        loop {
            let claim = self.claim();
            let seen = word.load(Acquire);
            let tally = Tally::of(seen, claim, state);
            let fits = (1..=MOST_SIGNAL).contains(&signal) && tally.last == Cause::Crash;
            if !fits || self.state().load(SeqCst) != letter {
                return false;
            }
            // Failed: another process changed the record meanwhile. The next round reads it.
            let noted = Tally { signal, ..tally }.to_word(claim);
            if word.swap_if(seen, noted, AcqRel).is_ok() {
                return true;
            }
        }
    }
}

/// The claim word of a generation. It has the message's kind, the lap of the claim, and either the
/// expiry time or the bases from which deliveries count.
///
/// | from | to | by | when |
/// |---|---|---|---|
/// | any | `kind, lap` | the claimer | it claimed the cell, so no other process writes here |
/// | that | the same, with an expiry | the claimer | before it publishes |
/// | any of this lap | with bases and no expiry | any process | before it requeues the letter |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimWord(u64);

impl ClaimWord {
    /// Returns the generation.
    pub const fn occupancy(self) -> Lap {
        Lap::new(self.0)
    }

    #[cfg(test)]
    pub const fn of_word(word: u64) -> Self {
        Self(word)
    }

    /// Returns those bits of the generation that are in `mask`, for a tag.
    #[inline(always)]
    pub const fn masked(self, mask: u64) -> u64 {
        self.0 & mask
    }

    /// Returns the low bits of the generation, for a tag.
    #[inline(always)]
    pub const fn low_bits(self, bits: u32) -> u64 {
        self.0 & ((1 << bits) - 1)
    }

    /// `1 | base:8 … next base:8`, in place of an expiry. Deliveries normally count from the next
    /// base. The exception is a letter that was delivered exactly as often as the next base says.
    /// There the next base takes effect only when the letter is requeued, and its own deliveries
    /// count from the base.
    const fn bases(self) -> Option<(u8, u8)> {
        if self.0 & REQUEUED == 0 {
            return None;
        }
        let (base, next) = (self.0 >> BASE_SHIFT, self.0 >> NEXT_BASE_SHIFT);
        Some((base as u8, next as u8))
    }

    fn base(self, state: State) -> u8 {
        match self.bases() {
            None => 0,
            Some((base, next)) if state.kind == CellKind::Dead && state.attempt == next => base,
            Some((_, next)) => next,
        }
    }

    /// Returns the number of deliveries of the message in this state since it was sent or requeued.
    /// Exact up to 253: see `word`.
    pub fn deliveries(self, state: State) -> u8 {
        attempts_since(state.attempt, self.base(state))
    }

    /// Returns whether delivery number `delivery` is one of the message in this state since it was
    /// last requeued.
    pub fn counts_delivery(self, state: State, delivery: u8) -> bool {
        let number = attempts_since(delivery, self.base(state));
        self.bases().is_none() || (1..=self.deliveries(state)).contains(&number)
    }

    /// Returns a number that distinguishes a dead letter in this state from all others of the cell,
    /// including earlier letters of the same message.
    pub fn letter(self, state: State) -> u64 {
        u64::from(self.base(state)) << NEXT_BASE_SHIFT | self.occupancy().number()
    }

    fn counting_from(self, letter: State) -> Self {
        let (base, next) = (self.base(letter), letter.attempt);
        let bases = u64::from(base) << BASE_SHIFT | u64::from(next) << NEXT_BASE_SHIFT;
        Self(self.0 >> KIND_SHIFT << KIND_SHIFT | REQUEUED | bases | self.occupancy().number())
    }
}

/// The reason why a delivery did not end in an ack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Cause {
    /// Unknown: the record was lost in a crash.
    #[default]
    Unknown = 0,
    /// The receiver returned the message.
    Nack = 1,
    /// The lease expired.
    Expiry = 2,
    /// The receiver died.
    Crash = 3,
    /// The receiver buried it.
    Bury = 4,
    /// The receiver delayed the message, and the delivery does not count as an attempt.
    Snooze = 5,
}

/// The record of how a message's deliveries ended, by cause.
///
/// The word is `holder:22 | cause:3 | signal:5 | attempt:2 | crashes:8 | expiries:8 | nacks:8 |
/// generation:8`, or, while no cause is recorded, the value that the claimer wrote. Two bits of the
/// attempt show whether the present delivery is recorded, or the one before: every end except an
/// ack is recorded. So a message's attempts are the sum of its counters. A snoozed delivery is
/// recorded, but no counter counts it.
///
/// | from | to | by | when |
/// |---|---|---|---|
/// | any | the claim word | the claimer | it claimed the cell |
/// | delivery n-1, or none | delivery n | its holder, any process | it ends, but not in an ack |
/// | delivery n | the same, another cause | any process | the earlier recorder did not end it |
/// | delivery n, a crash | the same, with its signal | any process | the signal is known |
///
/// Records of deliveries before a requeue are no longer counted. The first record after it replaces
/// them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Deliveries that were nacked.
    pub nacks: u8,
    /// Deliveries whose lease expired.
    pub expiries: u8,
    /// Deliveries whose receiver died.
    pub crashes: u8,
    /// The end of the last delivery.
    pub last: Cause,
    /// The delivery that `last` is about: the low bits of its number.
    attempt: u8,
    /// The pid of the process that had it; 0: unknown. Pids have 22 bits.
    pub holder: u32,
    /// The signal that ended that process; 0: unknown.
    pub signal: u8,
}

/// The largest signal that is recorded. Signals that end processes are below 32.
const MOST_SIGNAL: u8 = 31;
const OCCUPANCY_BITS: u32 = 8;
const ATTEMPT_BITS: u32 = 2;
const ATTEMPT_MASK: u8 = (1 << ATTEMPT_BITS) - 1;
const NACKS_SHIFT: u32 = 8;
const EXPIRIES_SHIFT: u32 = 16;
const CRASHES_SHIFT: u32 = 24;
const ATTEMPT_SHIFT: u32 = 32;
const SIGNAL_SHIFT: u32 = 34;
/// In bits that are zero in a fresh claim word.
const CAUSE_SHIFT: u32 = 39;
const HOLDER_SHIFT: u32 = 42;

impl Cause {
    /// Returns the number that is stored outside shared memory.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Returns the cause with that number; `Unknown` if there is none.
    pub const fn of_number(number: u8) -> Self {
        match number {
            1 => Self::Nack,
            2 => Self::Expiry,
            3 => Self::Crash,
            4 => Self::Bury,
            5 => Self::Snooze,
            _ => Self::Unknown,
        }
    }
}

impl Tally {
    /// Creates the record of a message from another queue. `counts` is `[nacks, expiries,
    /// crashes]`.
    pub fn restored(counts: [u8; 3], last: Cause, holder: u32, signal: u8) -> Self {
        let [nacks, expiries, crashes] = counts;
        Self {
            nacks,
            expiries,
            crashes,
            last,
            attempt: 0,
            holder,
            signal: signal.min(MOST_SIGNAL),
        }
    }

    /// Returns the record in `word`, as it applies to the message in this state.
    fn of(word: u64, claim: ClaimWord, state: State) -> Self {
        let tally = Self::from_word(word);
        let is_noted = tally.attempt == state.attempt & ATTEMPT_MASK;
        let counts = match claim.deliveries(state) {
            0 => false,
            // If it is not about this delivery, it is from before the message was requeued.
            1 => is_noted,
            _ => true,
        };
        if counts { tally } else { Self::default() }
    }

    fn from_word(word: u64) -> Self {
        let last = Cause::of_number((word >> CAUSE_SHIFT & 7) as u8);
        if last == Cause::Unknown {
            return Self::default();
        }
        Self {
            nacks: (word >> NACKS_SHIFT) as u8,
            expiries: (word >> EXPIRIES_SHIFT) as u8,
            crashes: (word >> CRASHES_SHIFT) as u8,
            last,
            attempt: (word >> ATTEMPT_SHIFT) as u8 & ATTEMPT_MASK,
            holder: (word >> HOLDER_SHIFT) as u32,
            signal: (word >> SIGNAL_SHIFT) as u8 & MOST_SIGNAL,
        }
    }

    fn to_word(self, claim: ClaimWord) -> u64 {
        u64::from(self.holder) << HOLDER_SHIFT
            | (self.last as u64) << CAUSE_SHIFT
            | u64::from(self.signal) << SIGNAL_SHIFT
            | u64::from(self.attempt) << ATTEMPT_SHIFT
            | u64::from(self.crashes) << CRASHES_SHIFT
            | u64::from(self.expiries) << EXPIRIES_SHIFT
            | u64::from(self.nacks) << NACKS_SHIFT
            | claim.low_bits(OCCUPANCY_BITS)
    }

    pub fn with(mut self, attempt: u8, cause: Cause, holder: u32) -> Self {
        let attempt = attempt & ATTEMPT_MASK;
        // A second record of the same end keeps the signal.
        if (self.attempt, self.last) != (attempt, cause) {
            self.signal = 0;
        }
        if self.attempt == attempt {
            self.count(|n| n.saturating_sub(1));
        }
        self.attempt = attempt;
        self.last = cause;
        self.holder = holder;
        self.count(|n| n.saturating_add(1));
        self
    }

    /// Changes the counter of the last cause.
    fn count(&mut self, change: impl Fn(u8) -> u8) {
        match self.last {
            Cause::Nack => self.nacks = change(self.nacks),
            Cause::Expiry => self.expiries = change(self.expiries),
            Cause::Crash => self.crashes = change(self.crashes),
            Cause::Unknown | Cause::Bury | Cause::Snooze => {}
        }
    }

    /// Returns the number of deliveries that ended and count as attempts, except burials.
    pub fn failures(self) -> u8 {
        self.nacks
            .saturating_add(self.expiries)
            .saturating_add(self.crashes)
    }

    /// Returns the same, plus the present delivery or the burial of the message in this state.
    pub fn attempts(self, state: State) -> u8 {
        let is_counted = matches!(self.last, Cause::Nack | Cause::Expiry | Cause::Crash)
            && self.attempt == state.attempt & ATTEMPT_MASK;
        let one_more = match state.kind {
            CellKind::Leased => !is_counted,
            CellKind::Dead => self.last == Cause::Bury,
            _ => false,
        };
        self.failures().saturating_add(one_more.into())
    }

    /// Returns whether the present delivery of the message in this state is recorded as snoozed.
    pub fn is_snoozed(self, state: State) -> bool {
        self.last == Cause::Snooze && self.attempt == state.attempt & ATTEMPT_MASK
    }
}

#[cfg(test)]
mod tests;
