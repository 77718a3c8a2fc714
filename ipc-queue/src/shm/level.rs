//! The part of a queue for one priority: a ring, and memory for its payloads.
//!
//! A queue without priorities has one level, for the default priority. A queue with priorities has
//! four, alike and independent, in one segment. A blocked handle waits for all of them, and the
//! recovery of a dead process covers all of them.

use std::sync::atomic::AtomicU64;

use ipc_proto::Headers;
use ipc_shm::{OutOfBounds, Participants, Segment, Words, fetch};

use super::cell::Body;
use super::geometry::{Geometry, KeyTable};
use super::keys::{KeyMemory, NOTE_WORDS};
use super::memory::{CELL_WORDS, Memory, REASON_WORDS, RingWord};
use super::payload::Payloads;
use super::ring::{Limits, Ring};
use super::word::Seat;

/// A ring and its payload memory.
#[derive(Debug)]
pub(crate) struct Level {
    pub(super) ring: Ring<SegmentMemory>,
    pub(super) payloads: Payloads,
}

impl Level {
    /// Creates the level at `geometry` in the segment.
    pub(super) fn new(
        segment: &Segment,
        geometry: Geometry,
        limits: Limits,
    ) -> Result<Self, OutOfBounds> {
        let memory = SegmentMemory::new(segment, &geometry)?;
        Ok(Self {
            ring: Ring::new(memory, limits),
            payloads: Payloads::new(segment, geometry)?,
        })
    }
}

impl Level {
    /// Returns the place of the payload of a message that may be changing, and its headers. If
    /// these are damaged, there are none.
    pub(super) fn headers_of(&self, index: u32, body: Body) -> (Body, Headers) {
        match body.before_headers() {
            None => (body, Headers::new()),
            Some(body) => (body, self.payloads.headers(index, body).unwrap_or_default()),
        }
    }
}

/// The memory of a ring in a segment.
#[derive(Debug)]
pub(crate) struct SegmentMemory {
    ring_words: Words<1>,
    cells: Words<CELL_WORDS>,
    tags: Words<1>,
    reasons: Words<REASON_WORDS>,
    cell_count: u32,
    unit_count: u32,
    participants: Participants,
}

impl SegmentMemory {
    fn new(segment: &Segment, geometry: &Geometry) -> Result<Self, OutOfBounds> {
        let mapping = segment.mapping();
        let body = segment.header().body_offset + geometry.at;
        let line = ipc_shm::CACHE_LINE_BYTES;
        Ok(Self {
            ring_words: mapping.words(body, line, RingWord::COUNT)?,
            cells: mapping.words(
                body + geometry.cells_at,
                geometry.cell_bytes,
                geometry.cells as usize,
            )?,
            tags: mapping.words(body + geometry.tags_at, 8, geometry.units as usize)?,
            reasons: mapping.words(
                body + geometry.reasons_at,
                8 * REASON_WORDS,
                geometry.reasons as usize,
            )?,
            cell_count: geometry.cells,
            unit_count: geometry.units,
            participants: Participants::of(segment),
        })
    }
}

impl Memory for SegmentMemory {
    type Word = AtomicU64;

    #[inline]
    fn cells(&self) -> u32 {
        self.cell_count
    }

    #[inline]
    fn cell(&self, index: u32) -> &[AtomicU64; CELL_WORDS] {
        self.cells.get(index as usize)
    }

    #[inline(always)]
    fn fetch_to_fill(&self, index: u32) {
        let header = self.cells.address(index as usize);
        fetch::to_write(header);
        fetch::to_write(first_line_of_payload(header));
    }

    #[inline(always)]
    fn fetch_to_take(&self, index: u32) {
        let header = self.cells.address(index as usize);
        fetch::to_write(header);
        fetch::to_read(first_line_of_payload(header));
    }

    #[inline]
    fn ring_word(&self, word: RingWord) -> &AtomicU64 {
        &self.ring_words.get(word as usize)[0]
    }

    fn process(&self, seat: Seat) -> u32 {
        if seat.slot() < self.participants.count() {
            self.participants.get(seat.slot()).process.pid
        } else {
            0
        }
    }

    #[inline(always)]
    fn units(&self) -> u32 {
        self.unit_count
    }

    #[inline(always)]
    fn tag(&self, index: u32) -> &AtomicU64 {
        &self.tags.get(index as usize)[0]
    }

    fn reasons(&self) -> u32 {
        u32::try_from(self.reasons.count()).expect("made from a u32")
    }

    fn reason(&self, index: u32) -> &[AtomicU64; REASON_WORDS] {
        self.reasons.get(index as usize)
    }
}

#[inline(always)]
fn first_line_of_payload(header: *const [AtomicU64; CELL_WORDS]) -> *const u8 {
    header.wrapping_add(1).cast()
}

/// The memory of the table of keys in a segment.
#[derive(Debug)]
pub(crate) struct SegmentKeys {
    words: Words<1>,
    notes: Words<NOTE_WORDS>,
    slots: u32,
}

impl SegmentKeys {
    pub(super) fn new(segment: &Segment, table: KeyTable) -> Result<Self, OutOfBounds> {
        let (mapping, body) = (segment.mapping(), segment.header().body_offset);
        let slots = table.slots as usize;
        Ok(Self {
            words: mapping.words(body + table.words_at, 8, slots)?,
            notes: mapping.words(body + table.notes_at, KeyTable::NOTE_BYTES, slots)?,
            slots: table.slots,
        })
    }
}

impl KeyMemory for SegmentKeys {
    type Word = AtomicU64;

    fn slots(&self) -> u32 {
        self.slots
    }

    fn word(&self, slot: u32) -> &AtomicU64 {
        &self.words.get(slot as usize)[0]
    }

    fn notes(&self, slot: u32) -> &[AtomicU64; NOTE_WORDS] {
        self.notes.get(slot as usize)
    }
}
