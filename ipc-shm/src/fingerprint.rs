//! A short number that stands for a longer text.

/// Returns the FNV-1a hash, 64 bits, never 0. <http://www.isthe.com/chongo/tech/comp/fnv/>
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
