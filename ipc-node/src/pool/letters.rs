//! Dead letters in the job queue: each one's ticket is answered, and the letter moves to the pool's
//! list.
//!
//! Most became dead letters with the last of their workers, whose end says why. Others were given
//! back too often, or held for too long, or their worker died before it could report that it had
//! them, or was another host's.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ipc_proto::codec;
use ipc_queue::{DeadLetter, DeadReason};

use super::events;
use super::state::{Orphan, Shared};
use super::ticket::JobError;
use super::wire::{GUEST, Job};

/// How often to look while some worker died over a job.
const SOON: Duration = Duration::from_millis(50);
/// How often to look while any job is open; and how long the end of a worker may take to be known
/// that left one behind.
const NOW_AND_THEN: Duration = Duration::from_millis(500);

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Letters {
    looked_at: Option<Instant>,
    /// Those whose worker's end is not known yet, by ticket, since when.
    unexplained: HashMap<u64, Instant>,
}

/// What is known of why a job is a dead letter.
enum Explanation {
    /// Perhaps more in a moment.
    NotYet,
    Known {
        error: JobError,
        signal: Option<u8>,
    },
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
        if stats.dead == 0 {
            self.unexplained.clear();
            return;
        }
        let Ok(letters) = jobs.dead_letters() else {
            return;
        };
        for letter in letters {
            self.settle(letter, shared, now);
        }
    }

    /// Answers the letter's ticket and moves the letter, once it is known what became of the job.
    fn settle(&mut self, mut letter: DeadLetter, shared: &Shared, now: Instant) {
        // What is not a job has no ticket, and takes a place all the same.
        let job = codec::decode_prefix::<Job>(&letter.payload).ok();
        let ticket = job.map(|(job, _)| job.ticket);
        let mut answer = None;
        if let Some(ticket) = ticket {
            match self.explain(ticket, &letter, shared, now) {
                Explanation::NotYet => return,
                Explanation::Known { error, signal } => {
                    letter.signal = signal;
                    answer = Some((ticket, error));
                }
            }
        }
        // `false`: a tool requeued or dropped it meanwhile, and has the letter. An error: it stays
        // there, perhaps, and is moved at a later look. The job will not be done in either case.
        let is_moved = shared.queues.jobs.transport().discard(letter.id);
        if is_moved.is_ok_and(|is_ours| is_ours) {
            let dropped = shared.dead_letters.add(letter);
            if dropped > 0 {
                events::dead_letters_dropped(shared, dropped);
            }
        }
        if let Some((ticket, error)) = answer {
            self.unexplained.remove(&ticket);
            shared.notices.done(ticket);
            shared.state().orphans.remove(&ticket);
            shared.answer(ticket, error);
        }
    }

    fn explain(
        &mut self,
        ticket: u64,
        letter: &DeadLetter,
        shared: &Shared,
        now: Instant,
    ) -> Explanation {
        let attempts = letter.attempts;
        let orphan = shared.state().orphans.get(&ticket).cloned();
        if let Some(Orphan { signal, note }) = orphan {
            return Explanation::Known {
                signal: signal.and_then(|signal| u8::try_from(signal).ok()),
                error: JobError::Crashed {
                    signal,
                    attempts,
                    note,
                },
            };
        }
        // Handlers failed and workers died, and the queue's limit was reached by both together.
        if letter.reason == DeadReason::Nacked && !letter.error.is_empty() {
            let message = letter.error.clone();
            let error = JobError::Failed { message, attempts };
            let signal = letter.signal;
            return Explanation::Known { error, signal };
        }
        let keep_alive = shared.place.keep_alive;
        let is_death = matches!(letter.reason, DeadReason::Crashed | DeadReason::Nacked)
            || (letter.reason == DeadReason::Expired && keep_alive.is_some());
        let (worker, is_guest) = worker_at(ticket, shared).unzip();
        let is_owed = shared.tickets.is_unanswered(ticket);
        let since = *self.unexplained.entry(ticket).or_insert(now);
        let is_fresh = now.saturating_duration_since(since) < NOW_AND_THEN;
        // The kernel noticed the death of a worker of our own: why it died is known in a moment.
        let is_about_to_be_known = letter.reason == DeadReason::Crashed && is_guest == Some(false);
        if is_owed && (is_about_to_be_known || (is_fresh && is_guest != Some(true))) {
            return Explanation::NotYet;
        }
        if !is_death {
            let why = in_words(letter.reason).to_owned();
            let error = JobError::GivenUp { attempts, why };
            let signal = letter.signal;
            return Explanation::Known { error, signal };
        }
        if is_guest == Some(true) {
            shared.state().forget_worker_at(ticket);
        }
        let note = how_it_died(letter, worker, keep_alive);
        let error = JobError::Crashed {
            signal: None,
            attempts,
            note,
        };
        let signal = letter.signal;
        Explanation::Known { error, signal }
    }
}

/// The worker that is at this job, as far as it said, and whether it is a guest.
fn worker_at(ticket: u64, shared: &Shared) -> Option<(String, bool)> {
    let state = shared.state();
    let (start, worker) = state.worker_at(ticket)?;
    let is_guest = start & GUEST != 0;
    let kind = if is_guest { "guest" } else { "worker" };
    let text = format!("the {kind} {:?} (process {})", worker.name, worker.pid);
    Some((text, is_guest))
}

/// What is known of how a job's last worker died.
///
/// A worker that gives a job back says why. So a job that came back without a reason came back by a
/// death.
fn how_it_died(
    letter: &DeadLetter,
    worker: Option<String>,
    keep_alive: Option<Duration>,
) -> String {
    let unknown = || match letter.last_worker {
        Some(pid) => format!("a worker that the pool knows nothing of (process {pid})"),
        None => "a worker that the pool knows nothing of".to_owned(),
    };
    let who = worker.unwrap_or_else(unknown);
    match (letter.reason, keep_alive) {
        (DeadReason::Crashed, _) => format!("{who} died"),
        (DeadReason::Expired, Some(time)) => {
            format!("nothing was heard of {who} for {time:?}: it died, or can't reach the queue")
        }
        _ => format!("{who} died, or gave the job back without an answer"),
    }
}

fn in_words(reason: DeadReason) -> &'static str {
    match reason {
        DeadReason::Buried => "a worker could not read it",
        DeadReason::Unknown => "the record of how its last delivery ended was lost in a crash",
        _ => "the last worker that took it did not finish in time",
    }
}
