//! Records the bytes that a killed writer may have left half-written.
//!
//! There are four words, written only by the process that holds the lock over the bytes. A range is
//! empty while its end is 0:
//!
//! | words | from | to | when |
//! |---|---|---|---|
//! | writing | empty | the range | before its first byte changes |
//! | writing | the range | empty | after its last byte changed, and after `torn` was trimmed |
//! | torn | any | union with `writing` | by the next holder, which then empties `writing` |
//! | torn | any | the rest of it | after a write that covers all of it, or one end |
//! | torn | any | empty | when a caller accepts the bytes as they are |
//!
//! The holder may be killed between any two stores. Each store leaves a state that names at least
//! all torn bytes, and no bytes outside this write and the earlier torn range. So a range's start
//! is stored before its end, because only the end makes it a range. If intact bytes are named as
//! well, writing them corrects that.
//!
//! This module does not copy bytes, and does not lock.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// The two ranges of a buffer of `size` bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tears<'a> {
    words: &'a [AtomicU64; WORDS],
    size: usize,
}

/// The number of words.
pub(crate) const WORDS: usize = 4;

const WRITING: Span = Span { from: 0, to: 1 };
const TORN: Span = Span { from: 2, to: 3 };

/// The indices of a range's two words.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: usize,
    to: usize,
}

/// One store to one word: the unit after which a process may be killed.
#[derive(Clone, Copy, Debug)]
struct Store {
    word: usize,
    value: u64,
}

impl<'a> Tears<'a> {
    pub(crate) fn new(words: &'a [AtomicU64; WORDS], size: usize) -> Self {
        Self { words, size }
    }

    /// Returns the bytes that may be half-written. Complete only after [`inherit`](Self::inherit).
    pub(crate) fn torn(self) -> Option<Range<usize>> {
        self.get(TORN)
    }

    /// Records `write`, which is not empty. Called before its first byte changes.
    pub(crate) fn begin(self, write: &Range<usize>) {
        self.apply(set(WRITING, write));
        // Neither the compiler nor the processor may change a byte before the range is stored.
        fence(Ordering::SeqCst);
    }

    /// Ends the record of `write`. Called after its last byte changed.
    pub(crate) fn finish(self, write: &Range<usize>) {
        self.apply(self.finishing(write));
    }

    /// Takes over the range that the lock's previous holder was writing when it was killed, if any.
    pub(crate) fn inherit(self) {
        if let Some(writing) = self.get(WRITING) {
            self.apply(self.inheriting(&writing));
        }
    }

    /// Accepts the bytes as they are. Returns the range that was torn.
    pub(crate) fn accept(self) -> Option<Range<usize>> {
        let torn = self.torn();
        self.apply([clear(TORN)]);
        torn
    }

    fn finishing(self, write: &Range<usize>) -> impl Iterator<Item = Store> + use<> {
        let cut = self.torn().and_then(|torn| {
            let begin = write.start <= torn.start && torn.start < write.end;
            let end = write.start < torn.end && torn.end <= write.end;
            match (begin, end) {
                (true, true) => Some(clear(TORN)),
                (true, false) => Some(store(TORN.from, write.end)),
                (false, true) => Some(store(TORN.to, write.start)),
                (false, false) => None,
            }
        });
        cut.into_iter().chain([clear(WRITING)])
    }

    fn inheriting(self, writing: &Range<usize>) -> impl Iterator<Item = Store> + use<> {
        let both = hull(self.torn().as_ref(), writing);
        set(TORN, &both).into_iter().chain([clear(WRITING)])
    }

    /// Reads a range. Values that no holder stores mean damage; then all bytes may be torn.
    fn get(self, span: Span) -> Option<Range<usize>> {
        let load = |word: usize| self.words[word].load(Ordering::SeqCst);
        let (from, to) = (load(span.from), load(span.to));
        let sound = from < to && to <= self.size as u64;
        match (usize::try_from(from), usize::try_from(to)) {
            (_, Ok(0)) => None,
            (Ok(from), Ok(to)) if sound => Some(from..to),
            _ => Some(0..self.size).filter(|all| !all.is_empty()),
        }
    }

    fn apply(self, stores: impl IntoIterator<Item = Store>) {
        for Store { word, value } in stores {
            self.words[word].store(value, Ordering::SeqCst);
        }
    }
}

/// Stores the start first. Until the end is stored, an empty range stays empty, and a non-empty one
/// only grows.
fn set(span: Span, range: &Range<usize>) -> [Store; 2] {
    [store(span.from, range.start), store(span.to, range.end)]
}

fn hull(one: Option<&Range<usize>>, other: &Range<usize>) -> Range<usize> {
    one.map_or(other.clone(), |one| {
        one.start.min(other.start)..one.end.max(other.end)
    })
}

fn clear(span: Span) -> Store {
    store(span.to, 0)
}

fn store(word: usize, value: usize) -> Store {
    let value = value as u64;
    Store { word, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 5;

    /// A buffer and its words, as used by one process after another.
    struct Buffer {
        words: [AtomicU64; WORDS],
        /// The bytes that hold one half of an incomplete write.
        half: [bool; SIZE],
    }

    impl Buffer {
        fn torn(torn: Option<&Range<usize>>) -> Self {
            let buffer = Self {
                words: Default::default(),
                half: std::array::from_fn(|at| torn.is_some_and(|torn| torn.contains(&at))),
            };
            if let Some(torn) = torn {
                buffer.tears().apply(set(TORN, torn));
            }
            buffer
        }

        fn tears(&self) -> Tears<'_> {
            Tears::new(&self.words, SIZE)
        }

        /// Writes, but is killed after `steps` stores of a word or a byte. Returns `true` if it was
        /// killed.
        fn write(&mut self, write: &Range<usize>, steps: usize) -> bool {
            let mut left = steps;
            let mut goes_on = move || {
                let goes_on = left > 0;
                left = left.saturating_sub(1);
                goes_on
            };
            for step in set(WRITING, write) {
                if !goes_on() {
                    return true;
                }
                self.tears().apply([step]);
            }
            for _byte in write.clone() {
                if !goes_on() {
                    return true;
                }
                self.half[write.clone()].fill(true);
            }
            self.half[write.clone()].fill(false);
            let finishing = self.tears().finishing(write);
            for step in finishing {
                if !goes_on() {
                    return true;
                }
                self.tears().apply([step]);
            }
            false
        }

        /// Inherits, but is killed after `steps` stores.
        fn inherit(&self, steps: usize) {
            if let Some(writing) = self.tears().get(WRITING) {
                let tears = self.tears();
                tears.apply(tears.inheriting(&writing).take(steps));
            }
        }

        /// Asserts that every torn byte is named, and no byte outside `most`.
        fn assert_well_named(&self, most: &Range<usize>, case: &str) {
            let torn = self.tears().torn().unwrap_or(0..0);
            for at in (0..SIZE).filter(|at| self.half[*at]) {
                assert!(torn.contains(&at), "{case}: byte {at} is not in {torn:?}");
            }
            let stray = torn.clone().find(|at| !most.contains(at));
            assert_eq!(stray, None, "{case}: {torn:?}");
        }
    }

    fn ranges() -> impl Iterator<Item = Range<usize>> {
        (0..SIZE).flat_map(|from| (from + 1..=SIZE).map(move |to| from..to))
    }

    #[test]
    fn torn_bytes_are_recorded_exactly_wherever_the_writer_or_the_next_holder_is_killed() {
        for torn in ranges().map(Some).chain([None]) {
            for write in ranges() {
                for steps in 0.. {
                    let mut killed = true;
                    for heir_steps in 0..4 {
                        let mut buffer = Buffer::torn(torn.as_ref());
                        killed = buffer.write(&write, steps);
                        buffer.inherit(heir_steps);
                        buffer.tears().inherit();
                        let case = format!("{torn:?} {write:?} {steps} {heir_steps}");
                        buffer.assert_well_named(&hull(torn.as_ref(), &write), &case);
                        assert_eq!(buffer.tears().get(WRITING), None, "{case}");
                    }
                    if !killed {
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn a_write_over_an_end_of_a_torn_range_shortens_it_and_records_nothing_new() {
        for torn in ranges() {
            for write in ranges() {
                let mut buffer = Buffer::torn(Some(&torn));
                assert!(!buffer.write(&write, usize::MAX));
                let inside = torn.start < write.start && write.end < torn.end;
                let wanted: Vec<_> = torn
                    .clone()
                    .filter(|at| inside || !write.contains(at))
                    .collect();
                let left: Vec<_> = buffer.tears().torn().unwrap_or(0..0).collect();
                assert_eq!(left, wanted, "{torn:?} {write:?}");
            }
        }
    }

    #[test]
    fn two_torn_ranges_are_reported_and_accepted_as_one() {
        let mut buffer = Buffer::torn(Some(&(3..4)));
        assert!(buffer.write(&(0..2), 3));
        buffer.tears().inherit();
        assert_eq!(buffer.tears().accept(), Some(0..4));
        assert_eq!(buffer.tears().torn(), None);
    }

    #[test]
    fn damaged_words_make_all_bytes_torn() {
        for (from, to) in [(0, 6), (3, 3), (4, 2), (u64::MAX, u64::MAX)] {
            let buffer = Buffer::torn(None);
            buffer.words[TORN.from].store(from, Ordering::SeqCst);
            buffer.words[TORN.to].store(to, Ordering::SeqCst);
            assert_eq!(buffer.tears().torn(), Some(0..SIZE));
            assert_eq!(Tears::new(&buffer.words, 0).torn(), None);
        }
    }
}
