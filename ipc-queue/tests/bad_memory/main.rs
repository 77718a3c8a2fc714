//! Damaged segments: an error or a bounded loss, never a panic, a hang or a stray access.
//!
//! An image of a small queue with messages in every state is changed in one place and becomes the
//! file of a queue. Then it is used like any queue: opened, inspected, received from, settled, sent
//! to, closed, drained.

mod image;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use ipc_queue::transport::Settle;

use image::{CAPACITY, CHECKSUM, FLAGS, Image, Use, With, seal};

const PAGE: usize = 4096;

impl Image {
    /// Uses the image with a change, and returns the result.
    fn used_with(&self, change: impl FnOnce(&mut Vec<u8>)) -> Use {
        let mut bytes = self.bytes.clone();
        change(&mut bytes);
        self.used(&bytes, |_| Settle::Ack)
    }
}

#[test]
fn an_unchanged_image_is_a_working_queue() {
    let used = Image::new().used_with(|_| {});
    let Use::Worked {
        received,
        sent,
        dead,
    } = used
    else {
        panic!("{used:?}");
    };
    assert_eq!((received, dead), (4, 1));
    // The delayed message and the requeued dead letter each take a place.
    assert_eq!(sent, CAPACITY as usize - 2);
}

#[test]
fn any_flipped_bit_of_the_header_is_an_error_or_harmless() {
    let image = Image::new();
    let checksummed = CHECKSUM + 8;
    for bit in 0..8 * PAGE {
        let used = image.used_with(|bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        if bit / 8 < checksummed {
            assert!(matches!(used, Use::Refused(_)), "bit {bit}: {used:?}");
        }
    }
}

#[test]
fn any_flipped_bit_of_the_queue_loses_a_bounded_number_of_messages() {
    let image = Image::new();
    for bit in 8 * PAGE..8 * image.bytes.len() {
        let at = bit / 8;
        // Chunk payloads: a thousand equal bytes.
        if image.bytes[at] == 0x5a && bit % 97 != 0 {
            continue;
        }
        let used = image.used_with(|bytes| bytes[at] ^= 1 << (bit % 8));
        match used {
            Use::Refused(reason) => panic!("bit {bit}: {reason}"),
            Use::Worked { received, sent, .. } => {
                assert!(
                    received >= 2,
                    "bit {bit} at {at:#x} lost too much: {received} received"
                );
                assert!(
                    sent >= 3,
                    "bit {bit} at {at:#x} took too much room: {sent} sent"
                );
            }
        }
    }
}

/// Flips every bit of the used part, and some of the zeroes in between.
#[test]
fn any_flipped_bit_of_keys_and_priorities_does_no_harm() {
    let image = Image::of(With::Everything);
    for bit in 8 * PAGE..8 * image.bytes.len() {
        let at = bit / 8;
        let word = at / 8 * 8..at / 8 * 8 + 8;
        let used = image.bytes[word].iter().any(|byte| *byte != 0);
        let payload = image.bytes[at] == 0x5a;
        if used && !payload || bit % 193 == 0 {
            let used = image.used_with(|bytes| bytes[at] ^= 1 << (bit % 8));
            assert!(matches!(used, Use::Worked { .. }), "bit {bit}: {used:?}");
        }
    }
}

/// Every bit of what is in use, but for payloads. A run that is damaged is a bounded loss, too.
#[test]
fn any_flipped_bit_of_runs_does_no_harm() {
    let image = Image::of(With::Runs);
    let Use::Worked { received, sent, .. } = image.used_with(|_| {}) else {
        panic!("it works");
    };
    assert_eq!((received, sent), (4, CAPACITY as usize));
    for bit in 8 * PAGE..8 * image.bytes.len() {
        let at = bit / 8;
        let word = at / 8 * 8..at / 8 * 8 + 8;
        let used = image.bytes[word].iter().any(|byte| *byte != 0);
        if used && image.bytes[at] != 0x5a {
            let used = image.used_with(|bytes| bytes[at] ^= 1 << (bit % 8));
            assert!(matches!(used, Use::Worked { .. }), "bit {bit}: {used:?}");
        }
    }
}

#[test]
fn random_bytes_behind_a_good_header_do_no_harm() {
    let images = [With::Messages, With::Everything].map(Image::of);
    for seed in 0..400 {
        let image = &images[seed as usize % 2];
        let mut random = fastrand::Rng::with_seed(seed / 2);
        image.used_with(|bytes| {
            for byte in &mut bytes[FLAGS..] {
                if random.u32(..=3) >= (seed / 2 % 4) as u32 {
                    *byte = random.u8(..);
                }
            }
        });
    }
}

#[test]
fn a_header_that_lies_under_a_good_checksum_is_refused_or_describes_a_queue() {
    let image = Image::new();
    let mut random = fastrand::Rng::with_seed(1);
    let values = [0, 1, 2, 64, 255, 4096, 1 << 16, 1 << 20, 1 << 31, u64::MAX];
    for at in (0..CHECKSUM).step_by(8) {
        for value in values.into_iter().chain([random.u64(..)]) {
            image.used_with(|bytes| {
                bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
                seal(bytes);
            });
        }
    }
}

#[test]
fn words_that_change_while_the_queue_is_used_do_no_harm() {
    let images = [With::Messages, With::Everything].map(Image::of);
    for seed in 0..400 {
        let image = &images[seed as usize % 2];
        let mut random = fastrand::Rng::with_seed(seed / 2);
        image.used(&image.bytes, |file| {
            for _ in 0..random.usize(..4) {
                let at = random.usize(FLAGS / 8..image.bytes.len() / 8) * 8;
                let value = match random.u8(..4) {
                    0 => 0,
                    1 => u64::MAX,
                    2 => random.u64(..),
                    // Another word of the image, which probably has a meaning.
                    _ => {
                        let other = random.usize(FLAGS / 8..PAGE / 4) * 8;
                        u64::from_le_bytes(image.bytes[other..other + 8].try_into().unwrap())
                    }
                };
                file.write_all_at(&value.to_le_bytes(), at as u64).unwrap();
            }
            match random.u8(..4) {
                0 | 1 => Settle::Ack,
                2 => Settle::Bury { reason: "" },
                _ => Settle::Nack {
                    delay: Some(Duration::from_millis(random.u64(..2))),
                    reason: "",
                },
            }
        });
    }
}

#[test]
fn a_file_of_any_other_length_is_refused() {
    let image = Image::new();
    let full = image.bytes.len();
    for len in [
        0,
        1,
        7,
        255,
        256,
        575,
        576,
        PAGE,
        full - PAGE,
        full - 1,
        full + 1,
        full + PAGE,
    ] {
        let used = image.used_with(|bytes| bytes.resize(len, 0));
        assert!(matches!(used, Use::Refused(_)), "{len} of {full}: {used:?}");
    }
}

#[test]
fn random_files_are_refused() {
    let image = Image::new();
    for seed in 0..100 {
        let mut random = fastrand::Rng::with_seed(seed);
        let used = image.used_with(|bytes| {
            bytes.truncate(random.usize(..20_000));
            random.fill(bytes);
        });
        assert!(matches!(used, Use::Refused(_)), "{seed}: {used:?}");
    }
}

#[test]
fn a_removed_image_leaves_nothing() {
    let image = Image::new();
    image.used_with(|_| {});
    assert!(!Path::new(&image.namespace.path()).exists());
}
