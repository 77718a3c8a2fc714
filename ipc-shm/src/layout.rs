//! The bytes every segment begins with.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | magic |
//! | 8 | 8 | ABI version |
//! | 16 | 8 | kind, ASCII padded with zeroes |
//! | 24 | 8 | hash of the kind's own layout |
//! | 32 | 8 | total size of the file |
//! | 40 | 8 | number of participant slots in the low 16 bits; above them, of those kept for tools |
//! | 48 | 8 | offset of the body |
//! | 56 | 8 | fingerprint of the payload's type, 0 for none |
//! | 64 | 64 | the type's name, cut to fit, padded with zeroes |
//! | 128 | 112 | fourteen parameters of the kind |
//! | 240 | 8 | fingerprint of the boot id, 0 if unknown |
//! | 248 | 8 | CRC-32 of all of the above |
//! | 256 | 8 | flags; from here on everything changes while in use |
//! | 264 | 8 | participants: how often one came or went |
//! | 320 | 4 each, 64 apart | four events |
//! | 576 | 192 each | participant slots |
//! | behind the slots | | the type's whole name if it is longer than 64 bytes, padded with zeroes |
//! | body | | the kind's own, zero-filled at first |
//!
//! Everything above 256, and the type's name, is written once, before the file has a name.

use thiserror::Error;

use crate::boot;

/// First eight bytes of every segment.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"IPCSEGM\x01");
/// Changes when anything in this file, or any rule about who may write what, changes.
pub(crate) const ABI_VERSION: u64 = 2;
pub(crate) const FLAGS: usize = 256;
pub(crate) const CHANGES: usize = 264;
pub(crate) const EVENTS: usize = 320;
pub(crate) const EVENT_COUNT: usize = 4;
pub(crate) const SLOTS: usize = 576;
pub(crate) const SLOT_BYTES: usize = 192;
pub(crate) const PARAMS: usize = 14;
const TYPE_NAME_BYTES: usize = 64;
/// Longer names are cut.
const MAX_TYPE_NAME_BYTES: usize = 32 << 10;
const BOOT: usize = 240;
const CRC: usize = 248;
const PAGE: usize = 4096;

/// What a segment says about itself, never changed after it got its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is used as.
    pub kind: Kind,
    /// The hash of the kind's own layout.
    pub layout_hash: u64,
    /// The size of the file.
    pub total_bytes: usize,
    /// How many processes can be attached, tools not counted.
    pub max_participants: u16,
    /// How many tools can be attached in addition.
    pub tool_slots: u16,
    /// The boot of the machine in which it was made: a fingerprint of the boot id, 0 if that was
    /// not known.
    pub boot: u64,
    /// Where the kind's own bytes begin.
    pub body_offset: usize,
    /// What its payloads are.
    pub payload: PayloadType,
    /// The kind's own settings.
    pub params: [u64; PARAMS],
}

/// What a segment is used as: up to eight lower-case letters, which are also its file's extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind(&'static str);

impl Kind {
    /// A kind.
    ///
    /// # Panics
    /// When compiled, if `name` is not 1 to 8 lower-case letters.
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

    /// Its name.
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

/// What a segment's payloads are, so that two programs that mean different things notice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PayloadType {
    fingerprint: u64,
    name: String,
}

impl PayloadType {
    /// Plain bytes: agrees only with itself.
    #[must_use]
    pub fn bytes() -> Self {
        Self::default()
    }

    /// The type called `name`. Two types are taken for the same when their names are.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            fingerprint: fingerprint(name.as_bytes()),
            name: cut(name, MAX_TYPE_NAME_BYTES).to_owned(),
        }
    }

    /// Its name, cut to 32 KiB; empty for plain bytes.
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

/// The first `most` bytes of `name`, or up to three fewer.
fn cut(name: &str, most: usize) -> &str {
    ipc_proto::shortened(name, most)
}

/// FNV-1a, 64 bits, never 0. <http://www.isthe.com/chongo/tech/comp/fnv/>
#[must_use]
pub const fn fingerprint(bytes: &[u8]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut index = 0;
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u64).wrapping_mul(0x0100_0000_01b3);
        index += 1;
    }
    if hash == 0 { 1 } else { hash }
}

/// Why bytes are no usable header.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Not even a header fits.
    #[error("it has {found} bytes, a segment has at least {least}: remove it")]
    TooShort {
        /// The file's size.
        found: u64,
        /// The least size.
        least: usize,
    },
    /// It does not begin as segments do.
    #[error(
        "it begins with {found:#018x} instead of {MAGIC:#018x}: it is not a segment of ours; remove it, or choose another name"
    )]
    Magic {
        /// Its first word.
        found: u64,
    },
    /// It was made by an incompatible version.
    #[error(
        "it has ABI version {found}, this program uses {ABI_VERSION}: save it with the old version (ipc save) and restore it with the new one (ipc restore), or drain it with the old program and remove it"
    )]
    AbiVersion {
        /// Its version.
        found: u64,
    },
    /// Its header's checksum is wrong.
    #[error(
        "its header is damaged: CRC {found:#010x} at offset {CRC}, computed {computed:#010x}: remove it"
    )]
    Damaged {
        /// The checksum in the header.
        found: u64,
        /// The header's actual checksum.
        computed: u64,
    },
    /// It is used as something else.
    #[error("it is a {found:?} segment, wanted {wanted:?}")]
    Kind {
        /// What it is.
        found: String,
        /// What was wanted.
        wanted: &'static str,
    },
    /// The kind's own layout differs: made by another version of that kind's code.
    #[error(
        "its layout is {found:#018x}, this program's {wanted:#018x}: save it with the old version (ipc save) and restore it with the new one (ipc restore), or drain it with the old program and remove it"
    )]
    Layout {
        /// Its hash.
        found: u64,
        /// This program's.
        wanted: u64,
    },
    /// Its payloads are of another type.
    #[error("it carries {found}, this program wants {wanted}: is this the right name?")]
    Payload {
        /// What it carries.
        found: PayloadType,
        /// What was wanted.
        wanted: PayloadType,
    },
    /// The file is shorter or longer than its header says.
    #[error(
        "the file has {found} bytes, its header says {wanted}: it was cut or grown from outside; remove it"
    )]
    Size {
        /// The file's size.
        found: u64,
        /// The header's word.
        wanted: u64,
    },
    /// Intact, but no header that this version would write.
    #[error("header field {field} is {found}, which no segment has: remove it")]
    Field {
        /// Which.
        field: &'static str,
        /// Its value.
        found: u64,
    },
}

/// What an opener insists on.
#[derive(Clone, Debug)]
pub struct Expected {
    /// What the segment must be used as.
    pub kind: Kind,
    /// The layout hash it must have.
    pub layout_hash: u64,
    /// The payload it must carry; `None` for any (tools that look at any queue).
    pub payload: Option<PayloadType>,
}

impl Header {
    /// The header of a segment with `body_bytes` bytes of its kind's own.
    ///
    /// Returns `None` if that is more than fits in this machine's addresses.
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

    /// The same with participant slots for tools, in addition to the others.
    ///
    /// Returns `None` if that is more than fits in this machine's addresses.
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

    /// How many participant slots there are in all.
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

    /// The type's whole name, and where in the file it lies, if it does not fit into the header.
    pub(crate) fn long_name(&self) -> Option<(&[u8], usize)> {
        let name = self.payload.name.as_bytes();
        (name.len() > TYPE_NAME_BYTES).then(|| (name, name_offset(self.slots())))
    }

    /// Where the type's whole name may lie, if the header holds the beginning of one.
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

    /// Reads a header, trusting nothing. `long_name`: what lies at
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

/// The type's name: the whole one if it is there and intact, else its beginning. The fingerprint
/// tells.
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

/// Without a name behind the slots, and with the longest.
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

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind::new("test");

    fn header() -> Header {
        let payload = PayloadType::named("Task");
        let header = Header::new(KIND, 7, payload, 3, [5; PARAMS], 10_000).unwrap();
        header.with_tool_slots(2).unwrap()
    }

    fn expected() -> Expected {
        Expected {
            kind: KIND,
            layout_hash: 7,
            payload: Some(PayloadType::named("Task")),
        }
    }

    fn read(bytes: &[u8; FLAGS]) -> Result<Header, HeaderError> {
        Header::from_bytes(bytes, &[], header().total_bytes as u64, &expected())
    }

    #[test]
    fn a_header_survives_its_bytes() {
        assert_eq!(read(&header().to_bytes()), Ok(header()));
    }

    #[test]
    fn a_long_type_name_lies_behind_the_slots_and_is_cut_when_it_is_damaged() {
        let payload = PayloadType::named(&"Job".repeat(2000));
        let header = Header::new(KIND, 7, payload.clone(), 3, [5; PARAMS], 10_000).unwrap();
        let bytes = header.to_bytes();
        let (name, at) = header.long_name().unwrap();
        let (found_at, room) = Header::long_name_at(&bytes).unwrap();
        assert_eq!((found_at, room >= name.len()), (at, true));
        assert!(at + name.len() <= header.body_offset);
        let expected = Expected {
            payload: None,
            ..expected()
        };
        let read = |name: &[u8]| {
            Header::from_bytes(&bytes, name, header.total_bytes as u64, &expected).unwrap()
        };
        let padded = [name, &[0; 9]].concat();
        assert_eq!(read(&padded), header);
        let cut = &payload.name()[..TYPE_NAME_BYTES];
        assert_eq!(read(&padded[1..]).payload.name(), cut);
        assert_eq!(read(&[]).payload.name(), cut);
        assert_eq!(Header::long_name_at(&self::header().to_bytes()), None);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = header().to_bytes();
        for bit in 0..8 * (CRC + 8) {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad).is_err(), "bit {bit} of byte {}", bit / 8);
        }
    }

    #[test]
    fn each_mismatch_has_its_own_error() {
        let bytes = header().to_bytes();
        let with = |change: fn(&mut Expected)| {
            let mut expected = expected();
            change(&mut expected);
            Header::from_bytes(&bytes, &[], header().total_bytes as u64, &expected).unwrap_err()
        };
        assert!(matches!(
            with(|e| e.kind = Kind::new("other")),
            HeaderError::Kind { .. }
        ));
        assert!(matches!(
            with(|e| e.layout_hash = 8),
            HeaderError::Layout { .. }
        ));
        let error = with(|e| e.payload = Some(PayloadType::named("Job")));
        assert!(
            error
                .to_string()
                .contains("carries Task, this program wants Job"),
            "{error}"
        );
        let error = Header::from_bytes(&bytes, &[], 4096, &expected()).unwrap_err();
        assert!(
            matches!(error, HeaderError::Size { found: 4096, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_size_beyond_all_addresses_is_no_header() {
        let huge = |bytes| Header::new(KIND, 7, PayloadType::bytes(), 3, [0; PARAMS], bytes);
        assert_eq!(huge(usize::MAX), None);
        assert_eq!(huge(usize::MAX - 8192), None);
    }

    #[test]
    fn a_kind_is_one_to_eight_lower_case_letters() {
        for bad in ["", "ninechars", "a/b", "Queue", "a1", "a\0"] {
            assert!(
                std::panic::catch_unwind(|| Kind::new(bad)).is_err(),
                "{bad:?}"
            );
        }
        assert_eq!(Kind::new("abcdefgh").as_str(), "abcdefgh");
    }
}
