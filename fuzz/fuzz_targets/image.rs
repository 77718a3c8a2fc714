//! A queue's file with any content gives an error, or a queue that works as well as possible; never
//! a panic, a hang or a stray access. The operations are those of `ipc-queue/tests/bad_memory`.
#![no_main]

#[path = "../../ipc-queue/tests/bad_memory/image.rs"]
mod image;

use std::os::unix::fs::FileExt;
use std::sync::LazyLock;
use std::time::Duration;

use arbitrary::Arbitrary;
use image::{FLAGS, Image, With, seal};
use ipc_queue::transport::Settle;
use libfuzzer_sys::fuzz_target;

/// The damage to the file.
#[derive(Debug, Arbitrary)]
enum Damage {
    /// The whole file has this content.
    Anything(Vec<u8>),
    /// The file is changed before it is opened, and this many times while it is used.
    Edited {
        /// Set if the queue has priorities and keys.
        has_everything: bool,
        before: Vec<Edit>,
        /// Set if the header's checksum is corrected.
        sealed: bool,
        meanwhile: Vec<(Edit, How)>,
        cut_to: Option<u16>,
    },
}

#[derive(Clone, Copy, Debug, Arbitrary)]
struct Edit {
    /// The index of the word, modulo their number.
    at: u16,
    change: Change,
}

#[derive(Clone, Copy, Debug, Arbitrary)]
enum Change {
    Set(u64),
    Flip(u8),
    Add(i8),
    /// To the value of another word.
    Copy(u16),
}

#[derive(Clone, Copy, Debug, Arbitrary)]
enum How {
    Ack,
    Nack,
    Delay,
    Bury,
}

static IMAGES: LazyLock<[Image; 2]> =
    LazyLock::new(|| [With::Messages, With::Everything].map(Image::of));

fuzz_target!(|damage: Damage| {
    match damage {
        Damage::Anything(bytes) => drop(IMAGES[0].used(&bytes, |_| Settle::Ack)),
        Damage::Edited {
            has_everything,
            before,
            sealed,
            meanwhile,
            cut_to,
        } => {
            let image = &IMAGES[usize::from(has_everything)];
            let mut bytes = image.bytes.clone();
            for edit in before {
                let (at, word) = edit.word(&bytes, 0);
                bytes[at..at + 8].copy_from_slice(&word);
            }
            if sealed {
                seal(&mut bytes);
            }
            let mut meanwhile = meanwhile.into_iter();
            let mut cut_to = cut_to.map(u64::from);
            let used = image.used(&bytes, |file| {
                let Some((edit, how)) = meanwhile.next() else {
                    if let Some(len) = cut_to.take() {
                        file.set_len(len).unwrap();
                    }
                    return Settle::Ack;
                };
                // The header itself is read only once.
                let (at, word) = edit.word(&image.bytes, FLAGS);
                file.write_all_at(&word, at as u64).unwrap();
                how.into()
            });
            drop(used);
        }
    }
});

impl Edit {
    /// Returns the offset of the changed word, from `first` on, and its new value.
    fn word(self, bytes: &[u8], first: usize) -> (usize, [u8; 8]) {
        let place = |number: u16| {
            let words = (bytes.len() - first) / 8;
            first + usize::from(number) % words * 8
        };
        let read = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let at = place(self.at);
        let word = match self.change {
            Change::Set(word) => word,
            Change::Flip(bit) => read(at) ^ 1 << (bit % 64),
            Change::Add(number) => read(at).wrapping_add_signed(number.into()),
            Change::Copy(other) => read(place(other)),
        };
        (at, word.to_le_bytes())
    }
}

impl From<How> for Settle<'static> {
    fn from(how: How) -> Self {
        match how {
            How::Ack => Self::Ack,
            How::Nack => Self::Nack {
                delay: Some(Duration::ZERO),
                reason: "",
            },
            How::Delay => Self::Nack {
                delay: Some(Duration::from_millis(1)),
                reason: "",
            },
            How::Bury => Self::Bury { reason: "" },
        }
    }
}
