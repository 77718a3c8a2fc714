//! Jobs that are dead letters: answered, or their tickets would wait for ever.
//!
//! Most became so with the last of their workers, whose end says why. Others were given back too often, or held for too long, or
//! their worker died before it could say that it had them, or was another host's.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ipc_proto::codec;
use ipc_queue::{DeadLetter, DeadReason};

use super::state::Shared;
use super::ticket::JobError;
use super::wire::Job;

/// How often to look while some worker died over a job.
const SOON: Duration = Duration::from_millis(50);
/// How often to look while any job is open; and how long the end of a worker may take to be known that left one behind.
const NOW_AND_THEN: Duration = Duration::from_millis(500);

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Letters {
    looked_at: Option<Instant>,
    /// How many there were that all had been answered.
    settled: u64,
    /// Of which nobody has said anything yet, by ticket, since when.
    unexplained: HashMap<u64, Instant>,
}

impl Letters {
    /// When to look next, if at all.
    pub(super) fn due(&self, shared: &Shared, now: Instant) -> Option<Instant> {
        if shared.is_guest() {
            return None;
        }
        let last = self.looked_at.unwrap_or(now);
        if !shared.state().orphans.is_empty() {
            return Some(last + SOON);
        }
        let any_open = !shared.tickets.lock().is_empty();
        any_open.then(|| last + NOW_AND_THEN)
    }

    /// Answers the jobs that became dead letters, once it is time to look.
    pub(super) fn look(&mut self, shared: &Shared, now: Instant) {
        let due = self.due(shared, now).is_some_and(|due| due <= now);
        if !due && self.looked_at.is_some() {
            return;
        }
        self.looked_at = Some(now);
        let jobs = shared.queues.jobs.transport();
        // A queue that does not answer is asked again when it is time to look again.
        let Ok(stats) = jobs.stats() else {
            return;
        };
        if stats.dead == self.settled {
            return;
        }
        let Ok(letters) = jobs.dead_letters() else {
            return;
        };
        let open = letters
            .iter()
            .filter(|letter| !self.explain(letter, shared, now));
        if open.count() == 0 {
            self.settled = letters.len() as u64;
            self.unexplained.clear();
        }
    }

    /// Whether it is known what became of the job.
    fn explain(&mut self, letter: &DeadLetter, shared: &Shared, now: Instant) -> bool {
        let Ok((Job { ticket, .. }, _)) = codec::decode_prefix(&letter.payload) else {
            return true;
        };
        shared.notices.done(ticket);
        let orphan = shared.state().orphans.remove(&ticket);
        let (attempts, reason) = (letter.attempts, letter.reason);
        let error = match orphan {
            Some(orphan) => JobError::Crashed {
                signal: orphan.signal,
                attempts,
                note: orphan.note,
            },
            None => {
                let open = shared.tickets.lock();
                let is_open = open
                    .get(&ticket)
                    .is_some_and(|entry| entry.answer.is_none());
                drop(open);
                let since = *self.unexplained.entry(ticket).or_insert(now);
                if is_open && now.saturating_duration_since(since) < NOW_AND_THEN {
                    return false;
                }
                JobError::GivenUp {
                    attempts,
                    why: in_words(reason).to_owned(),
                }
            }
        };
        shared.answer(ticket, error);
        true
    }
}

fn in_words(reason: DeadReason) -> &'static str {
    match reason {
        DeadReason::Crashed => "the last worker that took it died, too",
        DeadReason::Buried => "a worker could not read it",
        DeadReason::Nacked => "the last worker that took it gave it back",
        _ => "the last worker that took it did not finish in time",
    }
}
