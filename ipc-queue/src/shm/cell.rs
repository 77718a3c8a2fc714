//! What a cell's header says beside its state.
//!
//! Written by the cell's claimer before it publishes, except where noted; read by whoever holds the lease. The
//! publishing compare-and-swap (release) and the taking one (acquire) order the two.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use ipc_proto::{Kind, MessageId, SenderId, Timestamp};

use super::memory::{CELL_WORDS, Word};
use super::word::Lap;

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

const STATE: usize = 0;
const BODY: usize = 1;
/// `kind of message:3 | expiry, upper part:26 | lap of the claim:35`.
const CLAIM: usize = 2;
const SENDER: usize = 3;
/// `expiry, lower part:14 | sequence:50`.
const SEQUENCE: usize = 4;
const SENT_AT: usize = 5;
/// When the lease ends, or when a delayed message is due. See `lease`.
const DUE: usize = 6;
/// How the deliveries so far ended. See `Tally`.
const TALLY: usize = 7;
const KIND_SHIFT: u32 = 61;
/// The expiry lies in two words, where there is room for it: it is a time of 40 bits, zero for none.
const EXPIRY_UPPER_SHIFT: u32 = 35;
const EXPIRY_UPPER_MASK: u64 = (1 << 26) - 1;
const EXPIRY_LOWER_SHIFT: u32 = 50;
const EXPIRY_LOWER_BITS: u32 = 14;
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
    #[inline(always)]
    pub fn begin(self, claimed_at: Lap, kind: Kind) {
        let claim = u64::from(u8::from(kind)) << KIND_SHIFT | claimed_at.number();
        self.words[CLAIM].store(claim, Release);
        self.words[TALLY].store(0, Relaxed);
    }

    /// Which occupancy of the cell this is.
    #[inline]
    pub fn occupancy(self) -> Lap {
        Lap::new(self.words[CLAIM].load(Acquire))
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

    /// Fills in the rest of the header. Only for the claimer.
    ///
    /// Fifty bits of the sequence are kept: at twenty million messages a second they last for almost two years.
    #[inline(always)]
    pub fn set_envelope(self, id: MessageId, sent_at: Timestamp) {
        self.words[SENDER].store(id.sender.get(), Relaxed);
        self.words[SEQUENCE].store(id.sequence & SEQUENCE_MASK, Relaxed);
        self.words[SENT_AT].store(sent_at.as_nanos(), Relaxed);
    }

    /// Says when nobody wants it any more, in milliseconds since boot, below 2^40. Only for the claimer, after the
    /// envelope.
    #[cold]
    pub fn set_expiry(self, at_ms: u64) {
        let (claim, sequence) = (&self.words[CLAIM], &self.words[SEQUENCE]);
        let upper = (at_ms >> EXPIRY_LOWER_BITS & EXPIRY_UPPER_MASK) << EXPIRY_UPPER_SHIFT;
        claim.store(claim.load(Relaxed) | upper, Release);
        let lower = at_ms << EXPIRY_LOWER_SHIFT;
        sequence.store(sequence.load(Relaxed) | lower, Relaxed);
    }

    /// When nobody wants it any more, in milliseconds since boot. `None`: never.
    pub fn expiry(self) -> Option<u64> {
        let upper = self.words[CLAIM].load(Relaxed) >> EXPIRY_UPPER_SHIFT & EXPIRY_UPPER_MASK;
        let lower = self.words[SEQUENCE].load(Relaxed) >> EXPIRY_LOWER_SHIFT;
        Some(upper << EXPIRY_LOWER_BITS | lower).filter(|at_ms| *at_ms != 0)
    }

    /// Whose message it is.
    #[inline(always)]
    pub fn sender(self) -> SenderId {
        SenderId::new(self.words[SENDER].load(Relaxed))
    }

    /// What the header says. A kind that there is none of reads as data.
    #[inline]
    pub fn envelope(self) -> Envelope {
        let kind = (self.words[CLAIM].load(Relaxed) >> KIND_SHIFT) as u8;
        Envelope {
            kind: Kind::try_from(kind).unwrap_or_default(),
            id: MessageId::new(
                self.sender(),
                self.words[SEQUENCE].load(Relaxed) & SEQUENCE_MASK,
            ),
            sent_at: Timestamp::from_nanos(self.words[SENT_AT].load(Relaxed)),
        }
    }

    /// How the deliveries so far ended.
    pub fn tally(self) -> Tally {
        Tally::from_word(self.words[TALLY].load(Acquire))
    }

    /// Notes how delivery number `attempt` ended, before the state says so. Once per delivery: whoever
    /// comes second, because it lost a race or repeats what a dead process began, only corrects the cause.
    pub fn note(self, attempt: u8, cause: Cause, holder: u32) {
        let word = &self.words[TALLY];
        let mut seen = word.load(Acquire);
        while let Err(changed) = word.swap_if(
            seen,
            Tally::from_word(seen)
                .with(attempt, cause, holder)
                .to_word(),
            Release,
        ) {
            seen = changed;
        }
    }

    /// Notes which signal ended the last delivery's receiver. Only who started it can know, and comes after the fact.
    /// `false`: that delivery did not end so, or the signal has no room.
    pub fn note_signal(self, signal: u8) -> bool {
        let word = &self.words[TALLY];
        let mut seen = word.load(Acquire);
        loop {
            let tally = Tally::from_word(seen);
            if tally.last != Cause::Crash || !(1..=MOST_SIGNAL).contains(&signal) {
                return false;
            }
            match word.swap_if(seen, Tally { signal, ..tally }.to_word(), Release) {
                Ok(_) => return true,
                Err(changed) => seen = changed,
            }
        }
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
}

/// How a message's deliveries ended, by cause.
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
    /// The delivery that `last` speaks of.
    pub attempt: u8,
    /// The process that had it; 0: not known. Process numbers have 22 bits.
    pub holder: u32,
    /// The signal that ended that process; 0: not known.
    pub signal: u8,
}

/// The cause has three bits of its byte, the signal the other five: those that end processes are below 32.
const CAUSE_BITS: u32 = 3;
const MOST_SIGNAL: u8 = 31;

impl Tally {
    fn from_word(word: u64) -> Self {
        let [nacks, expiries, crashes, ended, attempt, holder @ ..] = word.to_le_bytes();
        let last = match ended & ((1 << CAUSE_BITS) - 1) {
            1 => Cause::Nack,
            2 => Cause::Expiry,
            3 => Cause::Crash,
            4 => Cause::Bury,
            _ => Cause::Unknown,
        };
        Self {
            nacks,
            expiries,
            crashes,
            last,
            attempt,
            holder: u32::from_le_bytes([holder[0], holder[1], holder[2], 0]),
            signal: ended >> CAUSE_BITS,
        }
    }

    fn to_word(self) -> u64 {
        let last = self.last as u8 | self.signal << CAUSE_BITS;
        let [one, two, three, _] = self.holder.to_le_bytes();
        u64::from_le_bytes([
            self.nacks,
            self.expiries,
            self.crashes,
            last,
            self.attempt,
            one,
            two,
            three,
        ])
    }

    fn with(mut self, attempt: u8, cause: Cause, holder: u32) -> Self {
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
            Cause::Unknown | Cause::Bury => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

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
        for at_ms in [1, (1 << 14) - 1, 1 << 14, (1 << 40) - 1] {
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
        }
    }

    #[test]
    fn a_delivery_is_counted_once_by_whoever_ended_it() {
        let words: [AtomicU64; CELL_WORDS] = Default::default();
        let cell = Cell::new(&words);
        cell.note(1, Cause::Nack, 7);
        cell.note(2, Cause::Nack, 7);
        cell.note(2, Cause::Expiry, 7);
        cell.note(3, Cause::Crash, 1 << 22);
        cell.note(3, Cause::Crash, 1 << 22);
        let tally = cell.tally();
        assert_eq!((tally.nacks, tally.expiries, tally.crashes), (1, 1, 1));
        assert_eq!((tally.last, tally.holder), (Cause::Crash, 1 << 22));
    }

    #[test]
    fn the_signal_is_that_of_the_last_delivery_and_outlives_a_late_note() {
        let words: [AtomicU64; CELL_WORDS] = Default::default();
        let cell = Cell::new(&words);
        cell.note(1, Cause::Nack, 7);
        assert!(!cell.note_signal(9), "it was given back");
        cell.note(2, Cause::Crash, 8);
        assert!(cell.note_signal(9) && !cell.note_signal(34));
        cell.note(2, Cause::Crash, 8);
        let tally = cell.tally();
        assert_eq!((tally.signal, tally.last), (9, Cause::Crash));
        assert_eq!((tally.nacks, tally.crashes, tally.holder), (1, 1, 8));
        cell.note(3, Cause::Crash, 9);
        assert_eq!(cell.tally().signal, 0);
    }
}
