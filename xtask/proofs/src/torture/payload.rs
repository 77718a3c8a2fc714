//! Payloads that show whether they are whole.

/// The queue's largest payload, in bytes.
pub const LARGEST: u32 = 64 * 1024;
const CHECKSUM_BYTES: usize = 4;

/// Fills `payload` with bytes that follow from `key`, and their checksum if there is room for one.
pub fn fill(payload: &mut [u8], key: u64) {
    let mut random = fastrand::Rng::with_seed(key);
    let Some(body) = payload.len().checked_sub(CHECKSUM_BYTES) else {
        payload.fill(tiny(payload.len()));
        return;
    };
    random.fill(&mut payload[..body]);
    let checksum = crc32fast::hash(&payload[..body]).to_le_bytes();
    payload[body..].copy_from_slice(&checksum);
}

/// Returns whether `payload` is as [`fill`] made it.
pub fn is_whole(payload: &[u8]) -> bool {
    let Some(body) = payload.len().checked_sub(CHECKSUM_BYTES) else {
        return payload.iter().all(|byte| *byte == tiny(payload.len()));
    };
    crc32fast::hash(&payload[..body]).to_le_bytes() == payload[body..]
}

/// The byte that fills payloads too short for a checksum.
fn tiny(len: usize) -> u8 {
    0x5a ^ u8::try_from(len).unwrap_or(0)
}

/// A random size: mostly inline, sometimes in a chunk, now and then the largest.
pub fn random_size() -> usize {
    match fastrand::u32(..100) {
        0..5 => fastrand::usize(..5),
        5..60 => fastrand::usize(..=64),
        60..95 => fastrand::usize(..=8 * 1024),
        95..99 => fastrand::usize(..=LARGEST as usize),
        _ => LARGEST as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_noticed_and_a_whole_payload_accepted() {
        for len in [0, 1, 3, 4, 5, 64, 1000] {
            let mut payload = vec![0; len];
            fill(&mut payload, 7);
            assert!(is_whole(&payload), "{len}");
            for at in 0..len {
                payload[at] ^= 1;
                assert!(!is_whole(&payload), "byte {at} of {len}");
                payload[at] ^= 1;
            }
        }
    }
}
