//! The pool's dead letters: jobs that ended without a result, taken out of the job queue.
//!
//! A dead letter in the job queue takes a cell and memory. Enough of them would block every
//! `submit`. So the supervisor moves each one here when it answers the ticket. The list is limited
//! in number and in bytes. When it is full, the oldest letter is dropped and counted. It is memory
//! of the pool's process and ends with the pool.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipc_proto::codec;
use ipc_queue::{DeadLetter, DeadLetterId};

use super::wire::Job;

/// The maximum number and size of the dead letters that a pool keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetterLimit {
    /// The number of letters.
    pub letters: usize,
    /// The total size of their payloads in bytes.
    pub bytes: usize,
}

/// 1,000 letters, 16 MiB.
impl Default for DeadLetterLimit {
    fn default() -> Self {
        Self {
            letters: 1000,
            bytes: 16 << 20,
        }
    }
}

/// The list, oldest first: in the order of the numbers that the letters got here.
#[derive(Debug)]
pub(super) struct DeadLetterList {
    limit: DeadLetterLimit,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    letters: VecDeque<DeadLetter>,
    bytes: usize,
    last_number: u64,
    dropped: u64,
}

impl DeadLetterList {
    pub(super) fn new(limit: DeadLetterLimit) -> Self {
        Self {
            limit,
            kept: Mutex::default(),
        }
    }

    /// Adds a letter, under an id of this list. Returns how many letters were dropped to make room.
    pub(super) fn add(&self, mut letter: DeadLetter) -> u64 {
        let mut kept = self.lock();
        kept.last_number += 1;
        letter.id = DeadLetterId::new(0, kept.last_number);
        kept.bytes += letter.payload.len();
        kept.letters.push_back(letter);
        kept.shrink_to(self.limit)
    }

    pub(super) fn all(&self) -> Vec<DeadLetter> {
        self.lock().letters.iter().cloned().collect()
    }

    /// Removes a letter from the list. Returns `None` if it is not there.
    pub(super) fn take(&self, id: DeadLetterId) -> Option<DeadLetter> {
        let mut kept = self.lock();
        let index = kept.letters.iter().position(|letter| letter.id == id)?;
        let letter = kept.letters.remove(index)?;
        kept.bytes -= letter.payload.len();
        Some(letter)
    }

    /// Returns a letter to its position, after [`take`](Self::take) removed it.
    pub(super) fn put_back(&self, letter: DeadLetter) {
        let mut kept = self.lock();
        let later = |other: &DeadLetter| other.id.parts() > letter.id.parts();
        let index = kept.letters.iter().position(later);
        let index = index.unwrap_or(kept.letters.len());
        kept.bytes += letter.payload.len();
        kept.letters.insert(index, letter);
        kept.shrink_to(self.limit);
    }

    /// Returns the number of letters in the list, and of those dropped because it was full.
    pub(super) fn counts(&self) -> (usize, u64) {
        let kept = self.lock();
        (kept.letters.len(), kept.dropped)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn shrink_to(&mut self, limit: DeadLetterLimit) -> u64 {
        let before = self.dropped;
        while self.letters.len() > limit.letters || self.bytes > limit.bytes {
            let Some(oldest) = self.letters.pop_front() else {
                break;
            };
            self.bytes -= oldest.payload.len();
            self.dropped += 1;
        }
        self.dropped - before
    }
}

/// Returns the payload of a job under another ticket number, with the same content after it.
///
/// Returns `None` if the payload is not a job.
pub(super) fn renumbered(payload: &[u8], ticket: u64) -> Option<Vec<u8>> {
    let (job, content) = codec::decode_prefix::<Job>(payload).ok()?;
    let mut again = codec::encode(&Job { ticket, ..job }).ok()?;
    again.extend_from_slice(content);
    Some(again)
}

#[cfg(test)]
mod tests {
    use ipc_proto::{Kind, MessageId, SenderId, Timestamp};
    use ipc_queue::DeadReason;

    use super::super::retry::Attempts;
    use super::*;

    fn letter(payload: &[u8]) -> DeadLetter {
        let message = MessageId::new(SenderId::new(1), 1);
        let message = (Kind::Data, message, Timestamp::default());
        let id = DeadLetterId::new(7, 7);
        let mut letter = DeadLetter::new(id, message, DeadReason::Crashed, payload.to_vec());
        (letter.attempts, letter.crashes) = (1, 1);
        letter
    }

    fn payloads(list: &DeadLetterList) -> Vec<Vec<u8>> {
        list.all()
            .into_iter()
            .map(|letter| letter.payload)
            .collect()
    }

    #[test]
    fn a_full_list_drops_its_oldest_letters_and_counts_them() {
        let list = DeadLetterList::new(DeadLetterLimit {
            letters: 2,
            bytes: 10,
        });
        let dropped: Vec<u64> = [&b"a"[..], b"b", b"c"]
            .map(|payload| list.add(letter(payload)))
            .into();
        assert_eq!(
            (dropped, payloads(&list)),
            (vec![0, 0, 1], vec![b"b".to_vec(), b"c".to_vec()])
        );
        // The limit in bytes applies: both other letters are dropped.
        assert_eq!(list.add(letter(&[0; 10])), 2);
        // A letter larger than the whole list is not kept either.
        assert_eq!(list.add(letter(&[0; 11])), 2);
        assert_eq!(list.counts(), (0, 5));
    }

    #[test]
    fn a_returned_letter_keeps_its_place_and_id() {
        let list = DeadLetterList::new(DeadLetterLimit::default());
        for payload in [b"a", b"b", b"c"] {
            list.add(letter(payload));
        }
        let id = list.all()[1].id;
        let taken = list.take(id).unwrap();
        assert_eq!(list.take(id), None);
        list.put_back(taken);
        assert_eq!(payloads(&list), [b"a", b"b", b"c"]);
        assert_eq!(list.all()[1].id, id);
    }

    #[test]
    fn a_renumbered_job_is_otherwise_unchanged() {
        let job = Job {
            ticket: 300,
            handler: "square",
            input: &[3],
            attempts: Attempts {
                errors: 4,
                panics: 2,
            },
        };
        let mut payload = codec::encode(&job).unwrap();
        payload.extend_from_slice(b"content");
        let again = renumbered(&payload, 1).unwrap();
        let (found, content) = codec::decode_prefix::<Job>(&again).unwrap();
        assert_eq!(
            (found.ticket, found.handler, content),
            (1, "square", &b"content"[..])
        );
        assert_eq!(found.attempts, job.attempts);
        assert_eq!(renumbered(b"\xff", 1), None);
    }
}
