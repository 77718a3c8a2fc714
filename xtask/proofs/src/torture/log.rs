//! The records of an actor, in a file that outlives it.
//!
//! One record is one `write` to a file on a tmpfs. An actor that is killed before it has recorded
//! nothing; one that is killed after it has recorded all of it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use ipc_proto::{MessageId, SenderId};

/// An event in the life of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// `send` returned `Ok`.
    Accepted,
    /// A delivery came, with this attempt.
    Received,
    /// `ack` or `bury` is about to be called.
    Settling,
    /// `ack` returned `Ok`.
    Acked,
    /// `bury` returned `Ok`.
    Buried,
    /// The payload differed from what was sent.
    Corrupt,
    /// `send` into the orderly queue returned `Ok`.
    Ordered,
}

const EVENTS: [Event; 7] = [
    Event::Accepted,
    Event::Received,
    Event::Settling,
    Event::Acked,
    Event::Buried,
    Event::Corrupt,
    Event::Ordered,
];

/// One line of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub event: Event,
    pub message: MessageId,
    pub attempt: u8,
}

const RECORD_BYTES: usize = 18;

/// A log being written.
pub struct Log {
    file: File,
}

impl Log {
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        Ok(Self { file })
    }

    pub fn note(&mut self, event: Event, message: MessageId, attempt: u8) -> io::Result<()> {
        let mut bytes = [0; RECORD_BYTES];
        bytes[0] = event as u8;
        bytes[1] = attempt;
        bytes[2..10].copy_from_slice(&message.sender.get().to_le_bytes());
        bytes[10..].copy_from_slice(&message.sequence.to_le_bytes());
        self.file.write_all(&bytes)
    }
}

/// All records of a log, in order. A truncated last one was never written.
pub fn read(path: &Path) -> io::Result<Vec<Record>> {
    let bytes = std::fs::read(path)?;
    Ok(bytes.chunks_exact(RECORD_BYTES).filter_map(parse).collect())
}

fn parse(bytes: &[u8]) -> Option<Record> {
    let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    Some(Record {
        event: *EVENTS.get(usize::from(bytes[0]))?,
        attempt: bytes[1],
        message: MessageId::new(SenderId::new(number(2)?), number(10)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_returns_its_records_and_ignores_a_torn_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let message = MessageId::new(SenderId::new(u64::MAX), 3);
        let mut log = Log::create(&path).unwrap();
        for event in EVENTS {
            log.note(event, message, 9).unwrap();
        }
        log.file.write_all(&[1, 2, 3]).unwrap();
        let records = read(&path).unwrap();
        assert_eq!(
            records
                .iter()
                .map(|record| record.event)
                .collect::<Vec<_>>(),
            EVENTS
        );
        assert!(
            records
                .iter()
                .all(|record| record.message == message && record.attempt == 9)
        );
    }
}
