//! The layout of a queue's segment, computed from its settings alone.
//!
//! | what | bytes |
//! |---|---|
//! | counters: four shards for each participant and tool | 4 × 64 each |
//! | marks: the save or restore in progress, and those done | 64 |
//! | with de-duplication, page-aligned: two slots for each of `dedup_keys` | 8 each |
//! | those slots' notes | 40 each |
//!
//! then once, or with priorities four times, each page-aligned:
//!
//! | what | bytes |
//! |---|---|
//! | ring words, one cache line each | 4 × 64 |
//! | cells: header, inline payload | 64 + inline size, each a multiple of 64 |
//! | tags of units of payload memory | 8 each |
//! | reasons of failures, one slot for each cell, at most 4,096 | 256 each |
//! | units of payload memory | a power of two, at least 64, each |
//!
//! A payload that does not fit its cell takes neighbouring units, together with its headers.
//!
//! Cells and payload memory begin on page boundaries.

use std::ops::Range;
use std::time::Duration;

use ipc_proto::{Backoff, Headers, Priority, QueueSettings, SettingsError};
use ipc_shm::{CACHE_LINE_BYTES, fingerprint};

use super::keys::NOTE_WORDS;
use super::memory::{CELL_WORDS, REASON_WORDS, RingWord};

/// The fingerprint of the layout. It changes whenever this file, the cell header or the meaning of
/// a word changes.
pub const LAYOUT_HASH: u64 =
    fingerprint(b"queue 11: state of runs headers+body claim+expiry sender expiry+sequence sent due tally; keys; reasons; marks; units");
/// The number of participant slots for tools, in addition to `max_participants`. Together they fit
/// the nine bits of a slot number.
pub const TOOL_SLOTS: u16 = 8;
/// The number of counter shards for each participant.
pub const LANES: usize = 4;
/// The maximum number of leases of a message that may expire before it is a dead letter.
const MOST_EXPIRIES: u8 = 2;

const HEADER_BYTES: usize = CELL_WORDS * 8;
const PAGE_BYTES: usize = 4096;
/// The size of the length of a message's headers, which follow its payload.
pub(super) const LENGTH_BYTES: usize = 2;
/// The maximum number of bytes after a payload: the length of its headers, and the headers.
const MAX_TRAILER_BYTES: usize = LENGTH_BYTES + Headers::MAX_BYTES;
/// The number of units of a payload just too large for its cell, if a cache line allows it.
const LEAST_UNITS: usize = 7;
/// The limit on the number of units, so that a tag has room for enough generations: in a queue of
/// any capacity, its words repeat after 2^38 messages.
const MOST_UNITS: usize = 1 << 25;
/// The maximum number of slots for reasons. In queues with more messages, some reasons are dropped.
const MOST_REASONS: u32 = 4096;
/// The pool of the settings is this many times as large as the payload memory of a queue in which
/// only payloads with headers need any.
const HEADERS_SHARE: usize = 8;
/// The payload memory of such a queue at least.
const LEAST_HEADERS_BYTES: usize = 1 << 16;
const ID_PARAM: usize = 13;
/// The parameters with up to six delays in milliseconds, two in each word.
const BACKOFF_PARAMS: Range<usize> = 10..13;

/// The layout of one priority's part of a queue. Offsets are from its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The offset of this part in the segment's body.
    pub at: usize,
    /// The number of cells.
    pub cells: u32,
    /// The payload bytes in a cell.
    pub inline_bytes: usize,
    /// The distance from one cell to the next.
    pub cell_bytes: usize,
    /// The offset of the cells.
    pub cells_at: usize,
    /// The offset of the units' tags.
    pub tags_at: usize,
    /// The offset of the reasons of failures.
    pub reasons_at: usize,
    /// The number of slots for reasons.
    pub reasons: u32,
    /// The size of the largest payload.
    pub largest_bytes: usize,
    /// The offset of the payload memory.
    pub pool_at: usize,
    /// The size of a unit of payload memory: a power of two, at least a cache line.
    pub unit_bytes: usize,
    /// The exponent of that power.
    pub unit_shift: u32,
    /// The number of units.
    pub units: u32,
    /// The number of those, the first ones, that payloads without headers may use.
    pub plain_units: u32,
    /// The size of this part.
    pub total_bytes: usize,
}

/// The place of the table of keys in a segment's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyTable {
    /// The offset of the slots' first words.
    pub words_at: usize,
    /// The number of slots.
    pub slots: u32,
    /// The offset of the slots' notes.
    pub notes_at: usize,
    end: usize,
}

impl KeyTable {
    /// The size of one slot's notes.
    pub const NOTE_BYTES: usize = 8 * NOTE_WORDS;

    /// Returns the table of a queue with validated settings, if it has one. It has twice as many
    /// slots as keys, because a bucket might be full while the table is not.
    pub fn of(settings: &QueueSettings) -> Option<Self> {
        settings.dedup_window?;
        let slots = 2 * settings.dedup_keys;
        let words_at = counter_bytes(settings).next_multiple_of(PAGE_BYTES);
        let notes_at = words_at + 8 * slots as usize;
        Some(Self {
            words_at,
            slots,
            notes_at,
            end: notes_at + Self::NOTE_BYTES * slots as usize,
        })
    }
}

fn counter_bytes(settings: &QueueSettings) -> usize {
    marks_at(settings.max_participants + TOOL_SLOTS) + CACHE_LINE_BYTES
}

/// Returns the offset of the marks in a segment's body (`shm/frozen.rs`): after the counters of its
/// `slots` slots.
pub fn marks_at(slots: u16) -> usize {
    usize::from(slots) * LANES * CACHE_LINE_BYTES
}

/// Returns the layout of each priority of a queue with validated settings, and the size of its
/// segment's body. `None` if it exceeds the address space.
pub fn levels(settings: &QueueSettings) -> Option<(Vec<Geometry>, usize)> {
    let before = KeyTable::of(settings).map_or(counter_bytes(settings), |keys| keys.end);
    let mut at = before.next_multiple_of(PAGE_BYTES);
    let count = if settings.priorities {
        Priority::COUNT
    } else {
        1
    };
    let mut levels = Vec::with_capacity(count);
    for _ in 0..count {
        let level = Geometry::new(settings, at)?;
        at = at
            .checked_add(level.total_bytes)?
            .checked_next_multiple_of(PAGE_BYTES)?;
        levels.push(level);
    }
    let last = levels.last()?;
    let total = last.at + last.total_bytes;
    Some((levels, total))
}

impl Geometry {
    /// Computes the layout of a priority that begins at `level_at`.
    fn new(settings: &QueueSettings, level_at: usize) -> Option<Self> {
        let inline_bytes = (settings.inline_bytes as usize).next_multiple_of(CACHE_LINE_BYTES);
        let cell_bytes = HEADER_BYTES + inline_bytes;
        let cells_at = (RingWord::COUNT * CACHE_LINE_BYTES).next_multiple_of(PAGE_BYTES);
        let tags_at = cells_at.checked_add(cell_bytes.checked_mul(settings.capacity as usize)?)?;
        let (unit_bytes, plain_units, units) = pool(settings, inline_bytes)?;
        let reasons = settings.capacity.min(MOST_REASONS);
        let reasons_at = tags_at
            .checked_add((units as usize).checked_mul(8)?)?
            .checked_next_multiple_of(CACHE_LINE_BYTES)?;
        let pool_at = reasons_at
            .checked_add(reasons as usize * 8 * REASON_WORDS)?
            .checked_next_multiple_of(PAGE_BYTES)?;
        Some(Self {
            at: level_at,
            cells: settings.capacity,
            inline_bytes,
            cell_bytes,
            cells_at,
            tags_at,
            reasons_at,
            reasons,
            largest_bytes: settings.max_message_bytes.max(settings.inline_bytes) as usize,
            pool_at,
            unit_bytes,
            unit_shift: unit_bytes.trailing_zeros(),
            units,
            plain_units,
            total_bytes: pool_at.checked_add(unit_bytes.checked_mul(units as usize)?)?,
        })
    }

    /// Returns the offset of the payload bytes of cell `index`.
    #[inline]
    pub fn inline_at(&self, index: u32) -> usize {
        self.cells_at + index as usize * self.cell_bytes + HEADER_BYTES
    }

    /// Returns the number of units for a payload of this size, together with its headers.
    #[inline(always)]
    pub fn units_of(&self, bytes: usize) -> u32 {
        // The result fits: a payload has at most `u32::MAX` bytes.
        ((bytes + self.unit_bytes - 1) >> self.unit_shift) as u32
    }

    /// Returns the number of messages of this size, without headers, that fit at once, if there are
    /// no others.
    pub fn holds(&self, payload_bytes: usize) -> u32 {
        if payload_bytes <= self.inline_bytes {
            return self.cells;
        }
        (self.plain_units / self.units_of(payload_bytes)).min(self.cells)
    }

    /// Returns the size of the payload memory.
    #[inline(always)]
    pub fn pool_bytes(&self) -> usize {
        (self.units as usize) << self.unit_shift
    }

    /// Returns the offset of the chunk that begins at unit `chunk`, and the number of bytes from
    /// there to the end of the pool. `None` if there is no such unit.
    #[inline(always)]
    pub fn chunk_at(&self, chunk: u32) -> Option<(usize, usize)> {
        let behind = self
            .units
            .checked_sub(chunk)
            .filter(|behind| *behind != 0)?;
        let at = self.pool_at + chunk as usize * self.unit_bytes;
        Some((at, behind as usize * self.unit_bytes))
    }
}

/// Returns the size of a unit of payload memory, the number of units for payloads without headers,
/// and the number of all units.
///
/// Payloads without headers can use exactly the pool of the settings. What is added lets the
/// headers of one message follow, even if the pool is no larger than the largest payload.
///
/// Unless the pool is very large, a unit is at most a seventh of the smallest payload that needs
/// one. So rounding takes at most an eighth of a chunk, where a cache line is not larger already.
fn pool(settings: &QueueSettings, inline_bytes: usize) -> Option<(usize, u32, u32)> {
    let mut unit_bytes = CACHE_LINE_BYTES;
    while unit_bytes * 2 * LEAST_UNITS <= inline_bytes {
        unit_bytes *= 2;
    }
    loop {
        let (plain, all) = units(settings, inline_bytes, unit_bytes)?;
        if all < MOST_UNITS {
            return Some((unit_bytes, plain as u32, all as u32));
        }
        unit_bytes = unit_bytes.checked_mul(2)?;
    }
}

/// Returns the number of units of this size for payloads without headers, and that of all units. No
/// more than all messages can use, and always enough for one with headers.
fn units(
    settings: &QueueSettings,
    inline_bytes: usize,
    unit_bytes: usize,
) -> Option<(usize, usize)> {
    let units_of = |bytes: usize| bytes.div_ceil(unit_bytes);
    let bytes = usize::try_from(settings.pool_bytes).ok()?;
    let payload = settings.max_message_bytes as usize;
    let largest = units_of(payload.max(settings.inline_bytes as usize) + MAX_TRAILER_BYTES);
    let capacity = settings.capacity as usize;
    if payload > inline_bytes {
        let plain = units_of(bytes).min(units_of(payload).checked_mul(capacity)?);
        return Some((plain, largest.max(plain + units_of(MAX_TRAILER_BYTES))));
    }
    // For payloads that fit their cells, but not together with their headers.
    let bytes = (bytes / HEADERS_SHARE).max(LEAST_HEADERS_BYTES);
    let all = units_of(bytes).min(largest.checked_mul(capacity)?);
    Some((0, all.max(largest)))
}

/// Checks the limits of a queue in shared memory, in addition to those of every queue.
///
/// # Errors
/// [`SettingsError::OutOfRange`]: a cell remembers one receiver that lost its lease and may still
/// be reading. If another lease of that message expires meanwhile, the message is a dead letter.
pub fn check(settings: &QueueSettings) -> Result<(), SettingsError> {
    if settings.expiry_limit <= MOST_EXPIRIES {
        return Ok(());
    }
    Err(SettingsError::OutOfRange {
        field: "expiry_limit (of a queue in shared memory)",
        given: settings.expiry_limit.into(),
        least: 1,
        most: MOST_EXPIRIES.into(),
    })
}

/// Returns the settings as the fourteen parameters of a segment's header.
pub fn to_params(settings: &QueueSettings, queue_id: u64) -> [u64; 14] {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut params = [0; 14];
    let backoff = backoff_to_params(&settings.backoff);
    params[BACKOFF_PARAMS].copy_from_slice(&backoff.1);
    params[..10].copy_from_slice(&[
        settings.capacity.into(),
        settings.inline_bytes.into(),
        settings.max_message_bytes.into(),
        settings.pool_bytes,
        u64::from_le_bytes([
            settings.attempt_limit,
            settings.crash_limit,
            settings.expiry_limit,
            backoff.0,
            0,
            0,
            0,
            0,
        ]),
        settings.lease.map_or(0, millis),
        settings.priorities.into(),
        millis(settings.aging),
        settings.dedup_window.map_or(0, millis),
        settings.dedup_keys.into(),
    ]);
    params[ID_PARAM] = queue_id;
    params
}

/// Returns the kind of back-off, with the number of its delays in the upper bits, and the delays.
fn backoff_to_params(backoff: &Backoff) -> (u8, [u64; 3]) {
    let (kind, delays) = match backoff {
        Backoff::None => (0, Vec::new()),
        Backoff::Fixed(delay) => (1, vec![*delay]),
        Backoff::Exponential { first, most } => (2, vec![*first, *most]),
        Backoff::List(delays) => (3, delays.clone()),
    };
    let mut words = [0; 3];
    for (index, delay) in delays.iter().enumerate() {
        let millis = u32::try_from(delay.as_millis()).unwrap_or(u32::MAX);
        words[index / 2] |= u64::from(millis) << (32 * (index % 2));
    }
    (kind | (delays.len() as u8) << 2, words)
}

fn backoff_from_params(kind: u8, words: [u64; 3]) -> Option<Backoff> {
    let count = usize::from(kind >> 2);
    let millis = words
        .into_iter()
        .flat_map(|word| [word as u32, (word >> 32) as u32]);
    let mut delays = millis.map(|millis| Duration::from_millis(millis.into()));
    match (kind & 3, count) {
        (0, 0) => Some(Backoff::None),
        (1, 1) => delays.next().map(Backoff::Fixed),
        (2, 2) => Some(Backoff::Exponential {
            first: delays.next()?,
            most: delays.next()?,
        }),
        (3, 1..=Backoff::MAX_LIST) => Some(Backoff::List(delays.take(count).collect())),
        _ => None,
    }
}

/// Returns the number that distinguishes this queue from others, including earlier and later queues
/// of the same name.
pub fn queue_id(params: &[u64; 14]) -> u64 {
    params[ID_PARAM]
}

/// Returns the settings that [`to_params`] made `params` from, if they are valid.
pub fn from_params(params: &[u64; 14], max_participants: u16) -> Option<QueueSettings> {
    let time = |millis: u64| Some(Duration::from_millis(millis)).filter(|time| !time.is_zero());
    let [
        attempt_limit,
        crash_limit,
        expiry_limit,
        backoff,
        0,
        0,
        0,
        0,
    ] = params[4].to_le_bytes()
    else {
        return None;
    };
    let settings = QueueSettings {
        crash_limit,
        expiry_limit,
        backoff: backoff_from_params(backoff, params[BACKOFF_PARAMS].try_into().ok()?)?,
        capacity: u32::try_from(params[0]).ok()?,
        inline_bytes: u32::try_from(params[1]).ok()?,
        max_message_bytes: u32::try_from(params[2]).ok()?,
        pool_bytes: params[3],
        attempt_limit,
        lease: time(params[5]),
        max_participants,
        priorities: match params[6] {
            0 => false,
            1 => true,
            _ => return None,
        },
        aging: time(params[7])?,
        dedup_window: time(params[8]),
        dedup_keys: u32::try_from(params[9]).ok()?,
    };
    settings.validate().and_then(|()| check(&settings)).ok()?;
    Some(settings)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn settings_survive_the_header() {
        for lease in [None, Some(Duration::from_millis(1500))] {
            let settings = QueueSettings {
                lease,
                priorities: lease.is_some(),
                dedup_window: lease,
                ..QueueSettings::default()
            };
            let params = to_params(&settings, 77);
            assert_eq!(queue_id(&params), 77);
            assert_eq!(
                from_params(&params, settings.max_participants),
                Some(settings)
            );
        }
        assert_eq!(from_params(&[0; 14], 1), None);
    }

    #[test]
    fn the_default_pool_holds_its_capacity_of_a_kibibyte_and_several_of_the_largest() {
        let geometry = Geometry::new(&QueueSettings::default(), 0).unwrap();
        let sizes = [
            192,
            193,
            1 << 10,
            1 << 12,
            1 << 14,
            1 << 16,
            1 << 18,
            600 << 10,
            1 << 20,
        ];
        let held = sizes.map(|bytes| geometry.holds(bytes));
        assert_eq!(held, [1024, 1024, 1024, 1024, 512, 128, 32, 13, 8]);
        assert_eq!(
            (geometry.unit_bytes, geometry.plain_units),
            (64, (8 << 20) / 64),
            "no more and no less than the pool"
        );
    }

    #[test]
    fn rounding_takes_at_most_an_eighth_of_a_chunk_unless_a_cache_line_is_more() {
        for inline_bytes in [0, 64, 192, 447, 448, 449, 1000, 4096, 65_472] {
            let settings = QueueSettings {
                inline_bytes,
                ..QueueSettings::default()
            };
            let geometry = Geometry::new(&settings, 0).unwrap();
            let smallest = geometry.inline_bytes + 1;
            for bytes in (smallest..smallest + 2000).chain([100_001, 1 << 20]) {
                let held = geometry.units_of(bytes) as usize * geometry.unit_bytes;
                assert!(held - bytes < 64 || 8 * (held - bytes) <= held, "{bytes}");
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_overlaps_and_the_largest_message_fits(
            capacity in 1..5000u32,
            inline_bytes in 0..5000u32,
            max_message_bytes in 0..(1u32 << 22),
            extra in 0..(1u64 << 23),
            max_participants in 1..=QueueSettings::MAX_PARTICIPANTS,
            priorities: bool,
            keys in proptest::option::of(6..12u32),
        ) {
            let settings = QueueSettings {
                capacity,
                inline_bytes,
                max_message_bytes,
                pool_bytes: u64::from(max_message_bytes) + extra,
                max_participants,
                priorities,
                dedup_window: keys.map(|_| Duration::from_secs(1)),
                dedup_keys: 1 << keys.unwrap_or(6),
                ..QueueSettings::default()
            };
            settings.validate().unwrap();
            let (levels, body_bytes) = levels(&settings).unwrap();
            prop_assert_eq!(levels.len(), if priorities { 4 } else { 1 });
            let mut begin = 64 * LANES * usize::from(max_participants);
            if let Some(table) = KeyTable::of(&settings) {
                prop_assert!(table.words_at >= begin && table.slots >= 2 * settings.dedup_keys);
                prop_assert!(table.words_at + 8 * table.slots as usize <= table.notes_at);
                begin = table.notes_at + 40 * table.slots as usize;
            }
            for level in &levels {
                prop_assert!(level.at >= begin && level.at % 4096 == 0);
                begin = level.at + level.total_bytes;
            }
            prop_assert_eq!(begin, body_bytes);
            let geometry = levels[0].clone();
            prop_assert!(64 * RingWord::COUNT <= geometry.cells_at);
            prop_assert!(geometry.inline_at(capacity - 1) + geometry.inline_bytes <= geometry.tags_at);
            let tags_end = geometry.tags_at + 8 * geometry.units as usize;
            prop_assert!(tags_end <= geometry.reasons_at && geometry.reasons >= 1);
            let end = geometry.reasons_at + 8 * REASON_WORDS * geometry.reasons as usize;
            let (at, bytes) = geometry.chunk_at(0).unwrap();
            prop_assert!(at >= end && at % 4096 == 0);
            prop_assert_eq!(at + bytes, geometry.total_bytes);
            let (last, unit_bytes) = geometry.chunk_at(geometry.units - 1).unwrap();
            prop_assert_eq!(last + unit_bytes, geometry.total_bytes);
            prop_assert_eq!(geometry.chunk_at(geometry.units), None);
            prop_assert_eq!(unit_bytes, geometry.unit_bytes);
            prop_assert!(unit_bytes.is_power_of_two() && unit_bytes >= 64);
            let with_headers = max_message_bytes.max(inline_bytes) as usize + MAX_TRAILER_BYTES;
            prop_assert!(geometry.units_of(with_headers) <= geometry.units);
            // The pool has the requested size, unless the cells cannot use all of it.
            let largest = geometry.units_of(max_message_bytes as usize);
            let plain = geometry.plain_units;
            prop_assert!(plain <= geometry.units);
            if max_message_bytes as usize > geometry.inline_bytes {
                prop_assert!(plain >= largest);
                let requested = geometry.units_of(settings.pool_bytes as usize);
                prop_assert!(plain == requested || plain < requested && plain >= largest * capacity);
                prop_assert!(bytes <= (plain as usize + 1) * unit_bytes + MAX_TRAILER_BYTES);
            }
        }
    }
}
