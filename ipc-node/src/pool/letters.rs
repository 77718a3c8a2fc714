//! Dead letters in the job queue. Each one's ticket is answered, and the letter moves to the pool's
//! list.
//!
//! Most became dead letters with the death of their last worker, whose end explains the cause.
//! Others were returned too often, or were held too long. Or their worker belonged to another host,
//! or died before it could report that it had the job.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ipc_proto::codec;
use ipc_queue::{DeadLetter, DeadReason};

use super::events;
use super::job_error::JobError;
use super::state::{Orphan, Shared};
use super::wire::{Job, REMOTE};

/// The interval of the checks after a worker died over a job.
const SOON: Duration = Duration::from_millis(50);
/// The interval of the checks while any job is open. Also the time limit for learning how the
/// worker ended that left a dead letter.
const NOW_AND_THEN: Duration = Duration::from_millis(500);

/// The state of the checks.
#[derive(Debug, Default)]
pub(super) struct Letters {
    looked_at: Option<Instant>,
    /// No job was open at the last check.
    is_idle: bool,
    /// The letters whose worker's end is not known yet: by ticket, with the time since then.
    unexplained: HashMap<u64, Instant>,
}

/// What is known about why a job is a dead letter.
enum Explanation {
    /// More may be known in a moment.
    NotYet,
    Known {
        error: JobError,
        signal: Option<u8>,
    },
}

impl Letters {
    /// Returns the time of the next check, if there is one.
    pub(super) fn due(&self, shared: &Shared, now: Instant) -> Option<Instant> {
        if shared.is_remote() {
            return None;
        }
        let last = self.looked_at.unwrap_or(now);
        if !shared.state().orphans.is_empty() {
            return Some(last + SOON);
        }
        // One more look after the last job: then a program that waits for each of its jobs need not
        // wake the supervisor for the next one.
        let will_look = |is_idle: bool| !is_idle || !shared.tickets.lock().is_empty();
        let mut looks = will_look(self.is_idle);
        if !looks {
            // First set the flag, then look once more. A submitter does it in the opposite order,
            // so one of the two notices.
            shared.set_idle(true);
            looks = will_look(true);
        }
        if looks {
            shared.set_idle(false);
        }
        looks.then(|| last + NOW_AND_THEN)
    }

    /// Answers the jobs that became dead letters, if a check is due.
    pub(super) fn look(&mut self, shared: &Shared, now: Instant) {
        let due = self.due(shared, now).is_some_and(|due| due <= now);
        if !due && self.looked_at.is_some() {
            return;
        }
        self.looked_at = Some(now);
        self.is_idle = shared.tickets.lock().is_empty();
        let jobs = shared.queues.jobs.transport();
        // If the queue does not answer, the next check tries again.
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

    /// Answers the letter's ticket and moves the letter, once the outcome of the job is known.
    fn settle(&mut self, mut letter: DeadLetter, shared: &Shared, now: Instant) {
        // A letter that is not a job has no ticket, but it also takes a cell.
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
        // `false`: a tool requeued or dropped the letter meanwhile. An error: the letter may still
        // be there, and a later check moves it. The job will not be done in either case.
        let is_moved = shared.queues.jobs.transport().discard(letter.id);
        if is_moved.is_ok_and(|is_ours| is_ours) {
            let dropped = shared.dead_letters.add(letter);
            if dropped > 0 {
                events::dead_letters_dropped(&shared.config, dropped);
            }
        }
        if let Some((ticket, error)) = answer {
            self.unexplained.remove(&ticket);
            shared.cancellations.done(ticket);
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
        // Failures of handlers and deaths of workers together have reached the queue's limit.
        if letter.reason == DeadReason::Nacked && !letter.error.is_empty() {
            let message = letter.error.clone();
            let error = JobError::Failed { message, attempts };
            let signal = letter.signal;
            return Explanation::Known { error, signal };
        }
        let keep_alive = shared.config.keep_alive;
        let is_death = matches!(letter.reason, DeadReason::Crashed | DeadReason::Nacked)
            || (letter.reason == DeadReason::Expired && keep_alive.is_some());
        let (worker, is_remote) = worker_at(ticket, shared).unzip();
        let is_owed = shared.tickets.is_unanswered(ticket);
        let since = *self.unexplained.entry(ticket).or_insert(now);
        let is_fresh = now.saturating_duration_since(since) < NOW_AND_THEN;
        // The kernel noticed the death of one of our own workers, so the cause is known in a
        // moment.
        let is_about_to_be_known = letter.reason == DeadReason::Crashed && is_remote == Some(false);
        if is_owed && (is_about_to_be_known || (is_fresh && is_remote != Some(true))) {
            return Explanation::NotYet;
        }
        if !is_death {
            let why = in_words(letter.reason).to_owned();
            let error = JobError::GivenUp { attempts, why };
            let signal = letter.signal;
            return Explanation::Known { error, signal };
        }
        if is_remote == Some(true) {
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

/// Returns the worker that last reported having this job, and whether it is remote.
fn worker_at(ticket: u64, shared: &Shared) -> Option<(String, bool)> {
    let state = shared.state();
    let (start, worker) = state.worker_at(ticket)?;
    let is_remote = start & REMOTE != 0;
    let kind = if is_remote { "remote worker" } else { "worker" };
    let text = format!("the {kind} {:?} (process {})", worker.name, worker.pid);
    Some((text, is_remote))
}

/// Returns what is known about the death of a job's last worker.
///
/// A worker that returns a job gives a reason. So a job that came back without a reason came back
/// because of a death.
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
