//! How a file that does not fit one message is cut into parts.
//!
//! Pure arithmetic on lengths. Parts depend on each other, each continues the
//! [`Progress`](crate::fingerprint::Progress) of the one before, so they are to be done in order.

use std::num::NonZeroU64;

/// A stretch of a file that goes into one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where in the file it begins.
    pub offset_bytes: u64,
    /// How long it is. Only an empty file has a part of zero bytes.
    pub len_bytes: u64,
    /// Whether the file ends with it.
    pub is_last: bool,
}

/// Cuts `len_bytes` into parts of at most `max_part_bytes`, all but the last of exactly that.
///
/// There is always at least one part: an empty file has a fingerprint too.
///
/// ```
/// use std::num::NonZeroU64;
/// use ipc_demo::parts::split;
///
/// let max = NonZeroU64::new(4).expect("is not zero");
/// let lengths: Vec<u64> = split(10, max).map(|part| part.len_bytes).collect();
/// assert_eq!(lengths, [4, 4, 2]);
/// assert_eq!(split(0, max).count(), 1);
/// ```
pub fn split(len_bytes: u64, max_part_bytes: NonZeroU64) -> impl Iterator<Item = Part> {
    let max_part_bytes = max_part_bytes.get();
    let count = len_bytes.div_ceil(max_part_bytes).max(1);
    (0..count).map(move |index| {
        let offset_bytes = index * max_part_bytes;
        Part {
            offset_bytes,
            len_bytes: max_part_bytes.min(len_bytes - offset_bytes),
            is_last: index + 1 == count,
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_file_is_one_last_part_of_zero_bytes() {
        let parts: Vec<Part> = split(0, NonZeroU64::MIN).collect();
        assert_eq!(
            parts,
            [Part {
                offset_bytes: 0,
                len_bytes: 0,
                is_last: true
            }]
        );
    }

    #[test]
    fn the_largest_file_is_cut_without_overflow() {
        let half = NonZeroU64::new(1 << 63).unwrap();
        let parts: Vec<Part> = split(u64::MAX, half).collect();
        let last = Part {
            offset_bytes: 1 << 63,
            len_bytes: (1 << 63) - 1,
            is_last: true,
        };
        assert_eq!((parts.len(), parts[1]), (2, last));
    }

    proptest! {
        #[test]
        fn parts_cover_every_byte_once_in_order(len in 0..10_000_u64, max in 1..500_u64) {
            let parts: Vec<Part> = split(len, NonZeroU64::new(max).unwrap()).collect();
            let mut end = 0;
            for part in &parts {
                prop_assert_eq!(part.offset_bytes, end);
                prop_assert!(part.len_bytes <= max && (part.len_bytes > 0 || len == 0));
                end += part.len_bytes;
                prop_assert_eq!(part.is_last, end == len);
            }
            prop_assert_eq!(end, len);
        }
    }
}
