//! The bytes at the start of every segment.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | magic |
//! | 8 | 8 | ABI version |
//! | 16 | 8 | kind, ASCII padded with zeroes |
//! | 24 | 8 | hash of the kind's own layout |
//! | 32 | 8 | total size of the file |
//! | 40 | 8 | number of participant slots in the low 16 bits; number of tool slots above them |
//! | 48 | 8 | offset of the body |
//! | 56 | 8 | fingerprint of the payload's type, 0 for none |
//! | 64 | 64 | the type's name, truncated to fit, padded with zeroes |
//! | 128 | 112 | fourteen parameters of the kind |
//! | 240 | 8 | fingerprint of the boot id, 0 if unknown |
//! | 248 | 8 | CRC-32 of all of the above |
//! | 256 | 8 | flags; from here on, words change while the segment is in use |
//! | 264 | 8 | number of joins and departures of participants |
//! | 320 | 4 each, 64 apart | four events |
//! | 576 | 192 each | participant slots |
//! | after the slots | | the type's full name if it is longer than 64 bytes, padded with zeroes |
//! | body | | the kind's own bytes, initially zero |
//!
//! The bytes before 256, and the type's name, are written once, before the file gets its name.

#[cfg(test)]
mod tests;

use thiserror::Error;

use crate::boot;
use crate::fingerprint::fingerprint;

/// The first eight bytes of every segment.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"IPCSEGM\x01");
/// Changes whenever this layout changes, or a rule about which process may write a word.
pub(crate) const ABI_VERSION: u64 = 2;
pub(crate) const FLAGS: usize = 256;
pub(crate) const CHANGES: usize = 264;
pub(crate) const EVENTS: usize = 320;
pub(crate) const EVENT_COUNT: usize = 4;
pub(crate) const SLOTS: usize = 576;
pub(crate) const SLOT_BYTES: usize = 192;
pub(crate) const PARAMS: usize = 14;
const TYPE_NAME_BYTES: usize = 64;
/// Longer names are truncated.
const MAX_TYPE_NAME_BYTES: usize = 32 << 10;
const BOOT: usize = 240;
const CRC: usize = 248;
const PAGE: usize = 4096;

/// The immutable description of a segment, fixed before the segment gets its name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// The kind of segment.
    pub kind: Kind,
    /// The hash of the kind's own layout.
    pub layout_hash: u64,
    /// The size of the file.
    pub total_bytes: usize,
    /// The maximum number of attached processes, except tools.
    pub max_participants: u16,
    /// The number of additional slots for tools.
    pub tool_slots: u16,
    /// The boot of the machine in which the segment was created: a fingerprint of the boot id, or 0
    /// if that was unknown.
    pub boot: u64,
    /// The offset of the kind's own bytes.
    pub body_offset: usize,
    /// The type of its payloads.
    pub payload: PayloadType,
    /// The kind's own settings.
    pub params: [u64; PARAMS],
}

/// A kind of segment: up to eight lower-case letters, which are also the file's extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind(&'static str);

impl Kind {
    /// Creates a kind.
    ///
    /// # Panics
    /// At compile time, if `name` is not 1 to 8 lower-case letters.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        assert!(!name.is_empty() && name.len() <= 8);
        let mut index = 0;
        while index < name.len() {
            assert!(name.as_bytes()[index].is_ascii_lowercase());
            index += 1;
        }
        Self(name)
    }

    /// Returns its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }

    fn to_word(self) -> u64 {
        let mut bytes = [0; 8];
        bytes[..self.0.len()].copy_from_slice(self.0.as_bytes());
        u64::from_le_bytes(bytes)
    }
}

/// The type of a segment's payloads. It lets two programs with different types notice the mismatch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PayloadType {
    fingerprint: u64,
    name: String,
}

impl PayloadType {
    /// Returns the type of plain bytes, which matches only itself.
    #[must_use]
    pub fn bytes() -> Self {
        Self::default()
    }

    /// Returns the type called `name`. Types with equal names count as the same type.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            fingerprint: fingerprint(name.as_bytes()),
            name: cut(name, MAX_TYPE_NAME_BYTES).to_owned(),
        }
    }

    /// Returns its name, truncated to 32 KiB; empty for plain bytes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl std::fmt::Display for PayloadType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.fingerprint == 0 {
            "plain bytes"
        } else {
            &self.name
        })
    }
}

/// Returns the first `most` bytes of `name`, or up to three fewer.
fn cut(name: &str, most: usize) -> &str {
    ipc_proto::shortened(name, most)
}

/// The reason why bytes are not a usable header.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The file is too short for a header.
    #[error("it has {found} bytes, but a segment has at least {least}; remove it")]
    TooShort {
        /// The size of the file.
        found: u64,
        /// The minimum size.
        least: usize,
    },
    /// The first word is not that of a segment.
    #[error(
        "its first word is {found:#018x} (expected {MAGIC:#018x}), so it is not a segment; \
         remove it, or choose another name"
    )]
    Magic {
        /// The first word.
        found: u64,
    },
    /// An incompatible version created the segment.
    #[error(
        "it has ABI version {found} (this program uses {ABI_VERSION}): save it with the old \
         version (ipc save) and restore it with the new one (ipc restore), or drain it with the \
         old program and remove it"
    )]
    AbiVersion {
        /// The version of the segment.
        found: u64,
    },
    /// The header's checksum is wrong.
    #[error(
        "its header is damaged: the CRC at offset {CRC} is {found:#010x}, computed \
         {computed:#010x}; remove it"
    )]
    Damaged {
        /// The checksum in the header.
        found: u64,
        /// The computed checksum.
        computed: u64,
    },
    /// The segment is of another kind.
    #[error("it is a {found:?} segment (expected {wanted:?}); choose another name")]
    Kind {
        /// The kind found.
        found: String,
        /// The kind expected.
        wanted: &'static str,
    },
    /// The kind's own layout differs: another version of the kind's code created the segment.
    #[error(
        "its layout is {found:#018x} (this program uses {wanted:#018x}): save it with the old \
         version (ipc save) and restore it with the new one (ipc restore), or drain it with the \
         old program and remove it"
    )]
    Layout {
        /// The hash in the header.
        found: u64,
        /// The hash of this program's layout.
        wanted: u64,
    },
    /// The payloads are of another type.
    #[error("it carries {found}, this program wants {wanted}: is this the right name?")]
    Payload {
        /// The type found.
        found: PayloadType,
        /// The type expected.
        wanted: PayloadType,
    },
    /// The file is shorter or longer than its header says.
    #[error(
        "the file has {found} bytes, but its header says {wanted}: other code truncated or \
         extended it; remove it"
    )]
    Size {
        /// The size of the file.
        found: u64,
        /// The size in the header.
        wanted: u64,
    },
    /// The header is intact, but this version would not write such a value.
    #[error("header field {field} has the invalid value {found}; remove it")]
    Field {
        /// The name of the field.
        field: &'static str,
        /// Its value.
        found: u64,
    },
}

/// The properties that an opener requires.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The required kind.
    pub kind: Kind,
    /// The required layout hash.
    pub layout_hash: u64,
    /// The required payload type; `None` accepts any type (tools that inspect any queue).
    pub payload: Option<PayloadType>,
}

impl Header {
    /// Creates the header of a segment whose body has `body_bytes` bytes.
    ///
    /// Returns `None` if the segment would not fit into the address space.
    #[must_use]
    pub fn new(
        kind: Kind,
        layout_hash: u64,
        payload: PayloadType,
        max_participants: u16,
        params: [u64; PARAMS],
        body_bytes: usize,
    ) -> Option<Self> {
        let body_offset = body_offset(max_participants, &payload);
        let total = body_offset
            .checked_add(body_bytes)?
            .checked_next_multiple_of(PAGE)?;
        Some(Self {
            kind,
            layout_hash,
            total_bytes: isize::try_from(total).ok()?.unsigned_abs(),
            max_participants,
            tool_slots: 0,
            boot: boot::current(),
            body_offset,
            payload,
            params,
        })
    }

    /// Adds participant slots for tools to the ordinary ones.
    ///
    /// Returns `None` if the segment would not fit into the address space.
    #[must_use]
    pub fn with_tool_slots(mut self, tool_slots: u16) -> Option<Self> {
        let body_bytes = self.total_bytes - self.body_offset;
        self.tool_slots = tool_slots;
        let slots = self.max_participants.checked_add(tool_slots)?;
        self.body_offset = body_offset(slots, &self.payload);
        let total = self.body_offset.checked_add(body_bytes)?;
        self.total_bytes = isize::try_from(total).ok()?.unsigned_abs();
        Some(self)
    }

    /// Returns the total number of participant slots.
    #[must_use]
    pub fn slots(&self) -> u16 {
        self.max_participants.saturating_add(self.tool_slots)
    }

    pub(crate) fn to_bytes(&self) -> [u8; FLAGS] {
        let mut bytes = [0; FLAGS];
        let words = [
            MAGIC,
            ABI_VERSION,
            self.kind.to_word(),
            self.layout_hash,
            self.total_bytes as u64,
            u64::from(self.tool_slots) << 16 | u64::from(self.max_participants),
            self.body_offset as u64,
            self.payload.fingerprint,
        ];
        for (at, word) in words.iter().enumerate() {
            put(&mut bytes, 8 * at, *word);
        }
        let name = cut(&self.payload.name, TYPE_NAME_BYTES).as_bytes();
        bytes[64..64 + name.len()].copy_from_slice(name);
        for (at, word) in self.params.iter().enumerate() {
            put(&mut bytes, 128 + 8 * at, *word);
        }
        put(&mut bytes, BOOT, self.boot);
        let crc = crc32fast::hash(&bytes[..CRC]);
        put(&mut bytes, CRC, crc.into());
        bytes
    }

    /// Returns the type's full name and its offset in the file, if the name does not fit into the
    /// header.
    pub(crate) fn long_name(&self) -> Option<(&[u8], usize)> {
        let name = self.payload.name.as_bytes();
        (name.len() > TYPE_NAME_BYTES).then(|| (name, name_offset(self.slots())))
    }

    /// Returns the range that may hold the type's full name, if the header holds only its
    /// beginning.
    pub(crate) fn long_name_at(bytes: &[u8; FLAGS]) -> Option<(usize, usize)> {
        let name = padded_text(&bytes[64..128]);
        if fingerprint(name.as_bytes()) == get(bytes, 56) || name.is_empty() {
            return None;
        }
        let participants = u32::try_from(get(bytes, 40)).ok()?;
        let slots = (participants & 0xffff) + (participants >> 16);
        let at = name_offset(u16::try_from(slots).ok()?);
        let body = usize::try_from(get(bytes, 48)).ok()?;
        let len = body.checked_sub(at)?.min(MAX_TYPE_NAME_BYTES + PAGE);
        Some((at, len))
    }

    /// Reads a header without trusting it. `long_name` holds the bytes at
    /// [`long_name_at`](Self::long_name_at).
    pub(crate) fn from_bytes(
        bytes: &[u8; FLAGS],
        long_name: &[u8],
        file_bytes: u64,
        expected: &Expected,
    ) -> Result<Self, HeaderError> {
        check_identity(bytes)?;
        let kind = get(bytes, 16);
        if kind != expected.kind.to_word() {
            return Err(HeaderError::Kind {
                found: padded_text(&kind.to_le_bytes()),
                wanted: expected.kind.0,
            });
        }
        let layout = get(bytes, 24);
        if layout != expected.layout_hash {
            return Err(HeaderError::Layout {
                found: layout,
                wanted: expected.layout_hash,
            });
        }
        let payload = payload_of(bytes, long_name);
        if let Some(wanted) = expected
            .payload
            .as_ref()
            .filter(|wanted| **wanted != payload)
        {
            return Err(HeaderError::Payload {
                found: payload,
                wanted: wanted.clone(),
            });
        }
        Self::from_checked(bytes, file_bytes, expected, payload)
    }

    fn from_checked(
        bytes: &[u8; FLAGS],
        file_bytes: u64,
        expected: &Expected,
        payload: PayloadType,
    ) -> Result<Self, HeaderError> {
        let field = |field, found| HeaderError::Field { field, found };
        let total = get(bytes, 32);
        if total != file_bytes {
            return Err(HeaderError::Size {
                found: file_bytes,
                wanted: total,
            });
        }
        let participants = get(bytes, 40);
        let bad_participants = || field("participants", participants);
        let slots = u32::try_from(participants).map_err(|_| bad_participants())?;
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        let (max_participants, tool_slots) = (slots as u16, (slots >> 16) as u16);
        let all_slots = max_participants
            .checked_add(tool_slots)
            .ok_or_else(bad_participants)?;
        let body = get(bytes, 48);
        let (least, most) = body_offsets(all_slots);
        let body_offset = usize::try_from(body).unwrap_or(usize::MAX);
        if !(least..=most).contains(&body_offset) || body_offset % PAGE != 0 || body > total {
            return Err(field("body offset", body));
        }
        Ok(Self {
            kind: expected.kind,
            layout_hash: expected.layout_hash,
            total_bytes: usize::try_from(total).map_err(|_| field("size", total))?,
            max_participants,
            tool_slots,
            boot: get(bytes, BOOT),
            body_offset,
            payload,
            params: std::array::from_fn(|at| get(bytes, 128 + 8 * at)),
        })
    }
}

fn check_identity(bytes: &[u8; FLAGS]) -> Result<(), HeaderError> {
    let found = get(bytes, 0);
    if found != MAGIC {
        return Err(HeaderError::Magic { found });
    }
    let found = get(bytes, 8);
    if found != ABI_VERSION {
        return Err(HeaderError::AbiVersion { found });
    }
    let (found, computed) = (get(bytes, CRC), crc32fast::hash(&bytes[..CRC]).into());
    if found != computed {
        return Err(HeaderError::Damaged { found, computed });
    }
    Ok(())
}

/// Returns the type's name: the full one if it is intact, otherwise its beginning. The fingerprint
/// decides which.
fn payload_of(bytes: &[u8; FLAGS], long_name: &[u8]) -> PayloadType {
    let found = get(bytes, 56);
    let long = padded_text(long_name);
    let is_intact = fingerprint(long.as_bytes()) == found && long.len() > TYPE_NAME_BYTES;
    PayloadType {
        fingerprint: found,
        name: if is_intact {
            long
        } else {
            padded_text(&bytes[64..128])
        },
    }
}

fn name_offset(slots: u16) -> usize {
    SLOTS + usize::from(slots) * SLOT_BYTES
}

fn body_offset(slots: u16, payload: &PayloadType) -> usize {
    let name_bytes = match payload.name.len() {
        0..=TYPE_NAME_BYTES => 0,
        bytes => bytes,
    };
    (name_offset(slots) + name_bytes).next_multiple_of(PAGE)
}

/// Returns the body offset without a name after the slots, and with the longest one.
fn body_offsets(slots: u16) -> (usize, usize) {
    let least = name_offset(slots);
    let most = least + MAX_TYPE_NAME_BYTES;
    (least.next_multiple_of(PAGE), most.next_multiple_of(PAGE))
}

fn put(bytes: &mut [u8; FLAGS], at: usize, word: u64) {
    bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

fn get(bytes: &[u8; FLAGS], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

fn padded_text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
