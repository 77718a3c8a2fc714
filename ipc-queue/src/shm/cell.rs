//! What a cell's header says beside its state.
//!
//! Written by the cell's claimer before it publishes, except where noted; read by whoever holds the lease. The
//! publishing compare-and-swap (release) and the taking one (acquire) order the two.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use ipc_proto::{Kind, MessageId, SenderId, Timestamp};

use super::memory::{CELL_WORDS, Word};
use super::word::{CellKind, Lap, State, attempts_since};

/// A cell's header words.
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

/// What is known of a message besides its payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// What it is for.
    pub kind: Kind,
    /// Which one it is.
    pub id: MessageId,
    /// When it was sent.
    pub sent_at: Timestamp,
}

/// Where a payload lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// Its length in bytes.
    pub len: u32,
    /// The chunk that holds it; `None`: it lies in the cell itself.
    pub chunk: Option<u32>,
}

impl Body {
    /// Above the numbers of chunks that there are. As a chunk's number, what this makes is none
    /// that exists: so only who finds that must ask whether there are headers.
    const HEADERS: u32 = 1 << 31;
    /// The most chunks of a queue.
    pub const MOST_CHUNKS: u32 = Self::HEADERS - 1;

    /// The same, and headers lie behind the payload.
    #[must_use]
    pub fn with_headers(self) -> Self {
        Self::of_upper(self.len, self.upper() | Self::HEADERS)
    }

    /// The same without that mark; `None` if there are no headers.
    pub fn before_headers(self) -> Option<Self> {
        let upper = self.upper();
        let marked = upper & Self::HEADERS != 0;
        marked.then(|| Self::of_upper(self.len, upper & !Self::HEADERS))
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
/// When the lease ends, or when a delayed message is due. See `due`.
const DUE: usize = 6;
/// How the deliveries so far ended. See `Tally`.
const TALLY: usize = 7;
const KIND_SHIFT: u32 = 61;
/// The expiry lies in two words, where there is room for it: it is a time of 39 bits, zero for
/// none.
const EXPIRY_UPPER_SHIFT: u32 = 35;
const EXPIRY_UPPER_MASK: u64 = (1 << 25) - 1;
const EXPIRY_LOWER_SHIFT: u32 = 50;
const EXPIRY_LOWER_BITS: u32 = 14;
const LATEST_EXPIRY: u64 = (1 << 39) - 1;
/// Whether the upper part of the expiry is something else: see [`ClaimWord::bases`].
const REQUEUED: u64 = 1 << 60;
const BASE_SHIFT: u32 = 43;
const NEXT_BASE_SHIFT: u32 = 35;
const SEQUENCE_MASK: u64 = (1 << EXPIRY_LOWER_SHIFT) - 1;

impl<'a, W: Word> Cell<'a, W> {
    /// The header in `words`.
    #[inline(always)]
    pub fn new(words: &'a [W; CELL_WORDS]) -> Self {
        Self { words }
    }

    /// The state word. Everything else hangs on it.
    #[inline(always)]
    pub fn state(self) -> &'a W {
        &self.words[STATE]
    }

    /// When the lease ends or the delay is over.
    pub fn due(self) -> &'a W {
        &self.words[DUE]
    }

    /// Starts a new occupancy, told from all others of this cell by the lap of its claim. Only for the
    /// claimer. After this a chunk of the former occupancy is nobody's.
    ///
    /// The tally starts as the same word, which no other occupancy has, so that whoever was stopped
    /// before it noted the end of an earlier message's delivery does not find what it expects.
    #[inline(always)]
    pub fn begin(self, claimed_at: Lap, kind: Kind) {
        let claim = u64::from(u8::from(kind)) << KIND_SHIFT | claimed_at.number();
        self.words[CLAIM].store(claim, Release);
        self.words[TALLY].store(claim, Relaxed);
    }

    /// Which occupancy of the cell this is.
    #[inline]
    pub fn occupancy(self) -> Lap {
        Lap::new(self.words[CLAIM].load(Acquire))
    }

    /// What is known of the occupancy.
    #[inline(always)]
    pub fn claim(self) -> ClaimWord {
        ClaimWord(self.words[CLAIM].load(Acquire))
    }

    /// The number of attempts at the message in this state since it was sent, or requeued: its
    /// deliveries, the present one included, without those that were snoozed.
    pub fn attempts(self, state: State) -> u8 {
        self.tally(state).attempts(state)
    }

    /// Says that if the dead letter in this state is requeued, deliveries count from there on, and
    /// it does not expire. `false`: the claim is not what it was; the letter is gone, or requeued,
    /// or somebody else said so.
    pub fn count_from(self, claim: ClaimWord, letter: State) -> bool {
        let next = claim.counting_from(letter);
        // The claim that is expected names the occupancy and, by its bases, which of its letters
        // this is.
        next == claim || self.words[CLAIM].swap_if(claim.0, next.0, AcqRel).is_ok()
    }

    /// Says where the payload lies. Only for the claimer.
    #[inline(always)]
    pub fn set_body(self, body: Body) {
        let chunk = body.chunk.map_or(0, |chunk| u64::from(chunk) + 1);
        self.words[BODY].store(chunk << 32 | u64::from(body.len), Relaxed);
    }

    /// Where the payload lies. From shared memory: to be checked before use.
    #[inline(always)]
    pub fn body(self) -> Body {
        let word = self.words[BODY].load(Relaxed);
        Body {
            len: word as u32,
            chunk: ((word >> 32) as u32).checked_sub(1),
        }
    }

    /// Says that headers lie behind the payload. Only for the claimer, after the body.
    #[cold]
    pub fn mark_headers(self) {
        self.set_body(self.body().with_headers());
    }

    /// Fills in the rest of the header. Only for the claimer.
    ///
    /// Fifty bits of the sequence are kept: at twenty million messages a second they last for almost two years.
    #[inline(always)]
    pub fn set_envelope(self, id: MessageId, sent_at: Timestamp) {
        self.words[SENDER].store(id.sender.get(), Relaxed);
        self.words[SEQUENCE].store(id.sequence & SEQUENCE_MASK, Relaxed);
        self.words[SENT_AT].store(sent_at.as_nanos(), Relaxed);
    }

    /// Says when nobody wants it any more, in milliseconds since boot; after 17 years at the
    /// latest. Only for the claimer, after the envelope.
    #[cold]
    pub fn set_expiry(self, at_ms: u64) {
        let at_ms = at_ms.min(LATEST_EXPIRY);
        let (claim, sequence) = (&self.words[CLAIM], &self.words[SEQUENCE]);
        let upper = (at_ms >> EXPIRY_LOWER_BITS & EXPIRY_UPPER_MASK) << EXPIRY_UPPER_SHIFT;
        claim.store(claim.load(Relaxed) | upper, Release);
        let lower = at_ms << EXPIRY_LOWER_SHIFT;
        sequence.store(sequence.load(Relaxed) | lower, Relaxed);
    }

    /// When nobody wants it any more, in milliseconds since boot. `None`: never.
    pub fn expiry(self) -> Option<u64> {
        let claim = self.words[CLAIM].load(Relaxed);
        if claim & REQUEUED != 0 {
            return None;
        }
        let upper = claim >> EXPIRY_UPPER_SHIFT & EXPIRY_UPPER_MASK;
        let lower = self.words[SEQUENCE].load(Relaxed) >> EXPIRY_LOWER_SHIFT;
        Some(upper << EXPIRY_LOWER_BITS | lower).filter(|at_ms| *at_ms != 0)
    }

    /// Whose message it is.
    #[inline(always)]
    pub fn sender(self) -> SenderId {
        SenderId::new(self.words[SENDER].load(Relaxed))
    }

    /// The kind of the message. A number that is not a kind reads as data.
    #[inline]
    pub fn message_kind(self) -> Kind {
        let kind = (self.words[CLAIM].load(Relaxed) >> KIND_SHIFT) as u8;
        Kind::try_from(kind).unwrap_or_default()
    }

    /// What the header says besides where the payload is.
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

    /// How the deliveries of the message in this state ended.
    pub fn tally(self, state: State) -> Tally {
        Tally::of(self.words[TALLY].load(Acquire), self.claim(), state)
    }

    /// Says how the deliveries of a message in another queue ended. Only for the claimer, after the envelope.
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

    /// Notes how the delivery in this state of the cell ended, before the state says so. `false`:
    /// the cell is in another state by now, and nothing was noted.
    ///
    /// Once per delivery: whoever comes second, because it lost a race or repeats what a dead
    /// process began, only corrects the cause. Whoever is stopped before its swap notes nothing
    /// about a later delivery. The state was looked at after the tally was read, so the tally was
    /// about this delivery or an earlier one; if it ended since, whoever ended it changed the
    /// tally, or, if it was acked, the next claimer did.
    pub fn note(self, word: u64, cause: Cause, holder: u32) -> bool {
        let (state, tally) = (State::from_word(word), &self.words[TALLY]);
        loop {
            let claim = self.claim();
            let seen = tally.load(Acquire);
            if self.state().load(SeqCst) != word {
                return false;
            }
            let noted = Tally::of(seen, claim, state).with(state.attempt, cause, holder);
            if tally.swap_if(seen, noted.to_word(claim), AcqRel).is_ok() {
                return true;
            }
        }
    }

    /// Notes which signal ended the last delivery's receiver. Only who started it can know, and comes after the fact.
    /// `false`: that delivery did not end so, or the signal has no room, or the letter is gone.
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
            let noted = Tally { signal, ..tally }.to_word(claim);
            if word.swap_if(seen, noted, AcqRel).is_ok() {
                return true;
            }
        }
    }
}

/// What is known of an occupancy: the message's kind, when it was claimed, and when it expires or
/// how its deliveries count.
///
/// | from | to | by | when |
/// |---|---|---|---|
/// | any | `kind, lap` | the claimer | it claimed the cell: nobody else may be in it |
/// | that | the same, with an expiry | the claimer | before it publishes |
/// | any of the same lap | the same, with bases and no expiry | anybody | before it requeues the dead letter there |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimWord(u64);

impl ClaimWord {
    /// Which occupancy of the cell this is.
    pub const fn occupancy(self) -> Lap {
        Lap::new(self.0)
    }

    /// The low bits of the occupancy, for a tag.
    #[inline(always)]
    pub const fn low_bits(self, bits: u32) -> u64 {
        self.0 & ((1 << bits) - 1)
    }

    /// `1 | base:8 … next base:8`, where an expiry would be. Deliveries count from the next base
    /// on; but while the cell holds a letter that was delivered as often as the next base says,
    /// that is what requeueing it will make of it, and its own deliveries count from the base on.
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

    /// How often the message in this state was delivered since it was sent, or requeued. Right up
    /// to 253: see `word`.
    pub fn deliveries(self, state: State) -> u8 {
        attempts_since(state.attempt, self.base(state))
    }

    /// Whether delivery number `delivery` is one of those of the message in this state, and not
    /// from before it was requeued.
    pub fn counts_delivery(self, state: State, delivery: u8) -> bool {
        let number = attempts_since(delivery, self.base(state));
        self.bases().is_none() || (1..=self.deliveries(state)).contains(&number)
    }

    /// Tells a dead letter in this state from all others of the cell, also from the same message's
    /// earlier ones.
    pub fn letter(self, state: State) -> u64 {
        u64::from(self.base(state)) << NEXT_BASE_SHIFT | self.occupancy().number()
    }

    fn counting_from(self, letter: State) -> Self {
        let (base, next) = (self.base(letter), letter.attempt);
        let bases = u64::from(base) << BASE_SHIFT | u64::from(next) << NEXT_BASE_SHIFT;
        Self(self.0 >> KIND_SHIFT << KIND_SHIFT | REQUEUED | bases | self.occupancy().number())
    }
}

/// Why a delivery did not end in an ack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Cause {
    /// Not known: the record was lost in a crash.
    #[default]
    Unknown = 0,
    /// The receiver gave it back.
    Nack = 1,
    /// The lease expired.
    Expiry = 2,
    /// The receiver died.
    Crash = 3,
    /// The receiver buried it.
    Bury = 4,
    /// The receiver put it off, and that was not an attempt.
    Snooze = 5,
}

/// How a message's deliveries ended, by cause.
///
/// Its word is `holder:22 | cause:3 | signal:5 | attempt:2 | crashes:8 | expiries:8 | nacks:8 |
/// occupancy:8`, or, while no cause is noted, whatever the claimer wrote. Two bits of the attempt
/// tell whether the present delivery is noted or the one before: whatever else ends than by an ack
/// is noted. So a message's attempts are the sum of its counters: a delivery that was snoozed is
/// noted, and counted by none of them.
///
/// | from | to | by | when |
/// |---|---|---|---|
/// | any | the claim word | the claimer | it claimed the cell |
/// | delivery n-1, or nothing | delivery n | its holder, or anybody | it is about to end, and not by an ack |
/// | delivery n | delivery n, another cause | anybody | who noted it before did not end it |
/// | delivery n, a crash | the same, with its signal | anybody | the signal is known |
///
/// What is noted of deliveries before a letter was requeued is not counted any more; the first note
/// after that replaces it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Deliveries given back.
    pub nacks: u8,
    /// Deliveries whose lease expired.
    pub expiries: u8,
    /// Deliveries whose receiver died.
    pub crashes: u8,
    /// How the last one ended.
    pub last: Cause,
    /// The delivery that `last` speaks of: the low bits of its number.
    attempt: u8,
    /// The process that had it; 0: not known. Process numbers have 22 bits.
    pub holder: u32,
    /// The signal that ended that process; 0: not known.
    pub signal: u8,
}

/// Those that end processes are below 32.
const MOST_SIGNAL: u8 = 31;
const OCCUPANCY_BITS: u32 = 8;
const ATTEMPT_BITS: u32 = 2;
const ATTEMPT_MASK: u8 = (1 << ATTEMPT_BITS) - 1;
const NACKS_SHIFT: u32 = 8;
const EXPIRIES_SHIFT: u32 = 16;
const CRASHES_SHIFT: u32 = 24;
const ATTEMPT_SHIFT: u32 = 32;
const SIGNAL_SHIFT: u32 = 34;
/// Where a claim word that was just written has zeroes.
const CAUSE_SHIFT: u32 = 39;
const HOLDER_SHIFT: u32 = 42;

impl Cause {
    /// As a number that is kept outside shared memory.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The cause of that number; `Unknown` if there is none.
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
    /// What another queue noted: `[nacks, expiries, crashes]`.
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

    /// What a word says of the message in this state.
    fn of(word: u64, claim: ClaimWord, state: State) -> Self {
        let tally = Self::from_word(word);
        let is_noted = tally.attempt == state.attempt & ATTEMPT_MASK;
        let counts = match claim.deliveries(state) {
            0 => false,
            // If it is not this one's, it is from before the message was requeued.
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
        // Noted twice, it is the same end.
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

    /// The number of deliveries that ended and were attempts, burials aside.
    pub fn failures(self) -> u8 {
        self.nacks
            .saturating_add(self.expiries)
            .saturating_add(self.crashes)
    }

    /// The same, with the present delivery, or the burial, of the message in this state.
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

    /// Whether the present delivery of the message in this state was noted as snoozed.
    pub fn is_snoozed(self, state: State) -> bool {
        self.last == Cause::Snooze && self.attempt == state.attempt & ATTEMPT_MASK
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::shm::word::attempt_after;

    #[test]
    fn a_header_survives_its_words() {
        let words: [AtomicU64; CELL_WORDS] = Default::default();
        let cell = Cell::new(&words);
        let id = MessageId::new(SenderId::new(u64::MAX), 9);
        cell.begin(Lap::new(77), Kind::Shutdown);
        cell.set_envelope(id, Timestamp::from_nanos(5));
        assert_eq!(cell.occupancy(), Lap::new(77));
        let envelope = cell.envelope();
        assert_eq!((envelope.kind, envelope.id), (Kind::Shutdown, id));
        assert_eq!(cell.expiry(), None);
        for at_ms in [1, (1 << 14) - 1, 1 << 14, (1 << 39) - 1] {
            cell.begin(Lap::new(u64::MAX), Kind::Shutdown);
            cell.set_envelope(id, Timestamp::from_nanos(5));
            cell.set_expiry(at_ms);
            assert_eq!(cell.expiry(), Some(at_ms));
            assert_eq!(cell.occupancy(), Lap::new(u64::MAX));
            assert_eq!(cell.envelope(), envelope);
        }
        for body in [
            Body {
                len: 3,
                chunk: None,
            },
            Body {
                len: u32::MAX,
                chunk: Some(1 << 20),
            },
        ] {
            cell.set_body(body);
            assert_eq!(cell.body(), body);
            assert_eq!(cell.body().before_headers(), None);
            cell.mark_headers();
            assert_eq!(cell.body().before_headers(), Some(body));
            assert!(cell.body().chunk >= Some(Body::MOST_CHUNKS));
        }
    }

    /// A message in a cell of the third lap, and its state while it is delivered.
    fn held(cell: Cell<'_, AtomicU64>, attempt: u8) -> u64 {
        let state = State {
            kind: CellKind::Leased,
            attempt,
            ..State::free(Lap::new(3))
        };
        cell.state().store(state.to_word(), Relaxed);
        state.to_word()
    }

    fn note(cell: Cell<'_, AtomicU64>, attempt: u8, cause: Cause, holder: u32) {
        assert!(cell.note(held(cell, attempt), cause, holder));
    }

    fn tally(cell: Cell<'_, AtomicU64>) -> Tally {
        cell.tally(State::from_word(cell.state().load(Relaxed)))
    }

    #[test]
    fn a_delivery_is_counted_once_by_whoever_ended_it() {
        let words: [AtomicU64; CELL_WORDS] = Default::default();
        let cell = Cell::new(&words);
        for lap in [3, u64::MAX] {
            cell.begin(Lap::new(lap), Kind::Shutdown);
            held(cell, 1);
            assert_eq!(tally(cell), Tally::default());
            note(cell, 1, Cause::Nack, 7);
            note(cell, 2, Cause::Nack, 7);
            note(cell, 2, Cause::Expiry, 7);
            note(cell, 3, Cause::Crash, (1 << 22) - 1);
            note(cell, 3, Cause::Crash, (1 << 22) - 1);
            let tally = tally(cell);
            assert_eq!((tally.nacks, tally.expiries, tally.crashes), (1, 1, 1));
            assert_eq!((tally.last, tally.holder), (Cause::Crash, (1 << 22) - 1));
        }
    }

    #[test]
    fn the_end_of_a_delivery_that_is_over_is_not_noted() {
        let words: [AtomicU64; CELL_WORDS] = Default::default();
        let cell = Cell::new(&words);
        cell.begin(Lap::new(3), Kind::Data);
        let first = held(cell, 1);
        held(cell, 2);
        assert!(!cell.note(first, Cause::Expiry, 7));
        assert_eq!(tally(cell), Tally::default());
    }

    #[test]
    fn an_empty_tally_is_that_of_its_occupancy_only() {
        let words: [AtomicU64; CELL_WORDS] = Default::default();
        let cell = Cell::new(&words);
        let empty = [3, 4].map(|lap| {
            cell.begin(Lap::new(lap), Kind::Data);
            words[TALLY].load(Relaxed)
        });
        assert_ne!(empty[0], empty[1]);
    }

    #[test]
    fn the_signal_is_that_of_the_last_delivery_and_outlives_a_late_note() {
        let words: [AtomicU64; CELL_WORDS] = Default::default();
        let cell = Cell::new(&words);
        cell.begin(Lap::new(3), Kind::Data);
        let word = || words[STATE].load(Relaxed);
        note(cell, 1, Cause::Nack, 7);
        assert!(!cell.note_signal(word(), 9), "it was given back");
        note(cell, 2, Cause::Crash, 8);
        assert!(cell.note_signal(word(), 9) && !cell.note_signal(word(), 34));
        assert!(!cell.note_signal(word() + 1, 9), "it is another letter");
        note(cell, 2, Cause::Crash, 8);
        let noted = tally(cell);
        assert_eq!((noted.signal, noted.last), (9, Cause::Crash));
        assert_eq!((noted.nacks, noted.crashes, noted.holder), (1, 1, 8));
        note(cell, 3, Cause::Crash, 9);
        assert_eq!(tally(cell).signal, 0);
    }

    #[test]
    fn a_letter_keeps_its_attempts_until_it_is_requeued_and_starts_anew_then() {
        let words: [AtomicU64; CELL_WORDS] = Default::default();
        let cell = Cell::new(&words);
        cell.begin(Lap::new(3), Kind::Control);
        cell.set_expiry(1 << 20);
        let mut attempt = 0;
        // Attempts start over at 256.
        for _ in 0..100 {
            for delivery in 1..=3 {
                attempt = attempt_after(attempt);
                let state = State::from_word(held(cell, attempt));
                assert_eq!(cell.attempts(state), delivery);
                note(cell, attempt, Cause::Nack, 7);
            }
            let letter = State::from_word(held(cell, attempt)).released_as(CellKind::Dead);
            let claim = cell.claim();
            let (before, name) = (cell.tally(letter), claim.letter(letter));
            assert_eq!((cell.attempts(letter), before.nacks), (3, 3));
            assert!(cell.count_from(claim, letter));
            // Whoever is killed here leaves what it found.
            assert_eq!((cell.attempts(letter), cell.tally(letter)), (3, before));
            assert_eq!(cell.claim().letter(letter), name);
            assert!(
                cell.count_from(cell.claim(), letter),
                "it is as it should be"
            );
            assert_eq!((cell.expiry(), cell.envelope().kind), (None, Kind::Control));
            let again = letter.requeued().unwrap();
            assert_eq!(
                (cell.attempts(again), cell.tally(again)),
                (0, Tally::default())
            );
            let next = State {
                attempt: attempt_after(attempt),
                ..letter
            };
            assert_ne!(cell.claim().letter(next), name, "another letter");
            assert!(!cell.count_from(claim, letter), "that one is gone");
        }
    }
}
