//! What travels between the coordinator and its workers.
//!
//! A task is a typed header with raw content behind it, so that a file is read straight into the memory
//! that the worker reads: the header's length is known before, how much could be read only afterwards. Hence
//! the frame: `content bytes: u32 | last part: u8 | header | content, perhaps with room left over`.

use std::io::{self, Read};
use std::time::Duration;

use ipc_proto::{CodecError, codec};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::fingerprint::Progress;

/// What comes before the content of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Which task.
    pub task: u64,
    /// Which part of it, from 0.
    pub part: u32,
    /// What to do with the content.
    pub work: Work,
    /// How long it takes at least.
    pub at_least: Duration,
    /// How often it is to be killed over. It takes very long until it was.
    pub deaths: u8,
}

/// What to do with a task's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Go on with the fingerprint of a file, from what its earlier parts gave.
    Fingerprint(Progress),
    /// Answer with `processed_` and the content.
    Echo,
}

/// A worker's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which task.
    pub task: u64,
    /// Which part of it.
    pub part: u32,
    /// What came of it.
    pub answer: Answer,
    /// Which worker did it.
    pub worker: String,
    /// When it began, on the machine's monotonic clock.
    pub began: Duration,
    /// When it was done.
    pub ended: Duration,
    /// How often the task had been delivered.
    pub attempt: u8,
}

impl Outcome {
    /// How long it is as a message.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        codec::encode(self).map_or(0, |bytes| bytes.len())
    }
}

/// What came of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The fingerprint so far; `last`: the file ends here.
    Fingerprint {
        /// What is known of the file up to here.
        progress: Progress,
        /// Whether this was its last part.
        last: bool,
    },
    /// The text asked for.
    Text(String),
}

/// A task as its worker sees it, its content in place.
#[derive(Debug, PartialEq, Eq)]
pub struct Task<'a> {
    /// What to do.
    pub header: Header,
    /// Whether no part follows.
    pub last: bool,
    /// What to do it with.
    pub content: &'a [u8],
}

/// Why bytes are no task.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum TaskError {
    /// They are too short.
    #[error("a task of {found} bytes is cut short: {needed} are needed")]
    Short {
        /// How many there are.
        found: usize,
        /// How many there should be.
        needed: usize,
    },
    /// The header is none.
    #[error(transparent)]
    Header(#[from] CodecError),
}

const FRAME_BYTES: usize = 5;

/// A task about to be written.
#[derive(Debug)]
pub struct Draft {
    header: Vec<u8>,
}

impl Draft {
    /// Encodes a header.
    ///
    /// # Errors
    /// [`CodecError`], never for these types.
    pub fn new(header: &Header) -> Result<Self, CodecError> {
        codec::encode(header).map(|header| Self { header })
    }

    /// The size of a task with room for `content` bytes.
    #[must_use]
    pub fn size(&self, content: usize) -> usize {
        FRAME_BYTES + self.header.len() + content
    }

    /// How much content fits into a message of `message` bytes.
    #[must_use]
    pub fn room(&self, message: usize) -> usize {
        message.saturating_sub(self.size(0))
    }

    /// Writes the task into `memory`, reading as much content as fits. How much that was, and whether the
    /// content ended.
    ///
    /// # Errors
    /// What `content` says.
    ///
    /// # Panics
    /// If `memory` is shorter than [`size`](Self::size) of 0.
    pub fn fill(&self, memory: &mut [u8], content: &mut impl Read) -> io::Result<(usize, bool)> {
        let (frame, rest) = memory.split_at_mut(FRAME_BYTES);
        let (header, room) = rest.split_at_mut(self.header.len());
        header.copy_from_slice(&self.header);
        let read = read_fully(content, room)?;
        let last = read < room.len();
        let bytes = u32::try_from(read).map_err(io::Error::other)?;
        frame[..4].copy_from_slice(&bytes.to_le_bytes());
        frame[4] = u8::from(last);
        Ok((read, last))
    }
}

impl<'a> Task<'a> {
    /// The task in `bytes`.
    ///
    /// # Errors
    /// [`TaskError`] for bytes that [`Draft::fill`] did not write.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TaskError> {
        let short = |needed| TaskError::Short {
            found: bytes.len(),
            needed,
        };
        let (frame, rest) = bytes
            .split_at_checked(FRAME_BYTES)
            .ok_or_else(|| short(FRAME_BYTES))?;
        let (header, content) = codec::decode_prefix(rest)?;
        let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
        let before = bytes.len() - content.len();
        let content = content
            .get(..length)
            .ok_or_else(|| short(before + length))?;
        Ok(Self {
            header,
            last: frame[4] != 0,
            content,
        })
    }
}

fn read_fully(from: &mut impl Read, room: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < room.len() {
        match from.read(&mut room[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        Header {
            task: 7,
            part: 2,
            work: Work::Fingerprint(Progress::default()),
            at_least: Duration::from_millis(3),
            deaths: 1,
        }
    }

    proptest! {
        #[test]
        fn a_task_survives_its_bytes(content: Vec<u8>, room in 0..200usize) {
            let draft = Draft::new(&header()).unwrap();
            let mut memory = vec![0xee; draft.size(room)];
            let (read, last) = draft.fill(&mut memory, &mut &content[..]).unwrap();
            let task = Task::parse(&memory).unwrap();
            prop_assert_eq!(&task.header, &header());
            prop_assert_eq!(task.content, &content[..read]);
            prop_assert_eq!((read, last), (content.len().min(room), content.len() < room));
            prop_assert_eq!(task.last, last);
        }

        #[test]
        fn any_bytes_are_a_task_or_an_error(bytes: Vec<u8>) {
            let _ = Task::parse(&bytes);
        }
    }
}
