//! Exit handling: was the end of a worker expected, over which job did it die, and is it replaced?
//!
//! This is decided only after all its reports were handled, because its answer may still be in the
//! queue.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use super::super::state::{Orphan, Worker};
use super::super::{RestartPolicy, events};
use super::{Ended, Slot, Supervisor};

/// The time after which a missing report counts as never sent.
const UNSAID: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Handles the ends of workers, once all their reports were handled. Returns the reason for the
    /// end of the pool, if there were too many.
    pub(super) fn judge_the_ended(&mut self, now: Instant) -> Option<String> {
        if self.ended.is_empty() {
            return None;
        }
        if !self.shared.is_remote() && !self.is_all_heard(now) {
            return None;
        }
        let ended = std::mem::take(&mut self.ended);
        ended
            .into_iter()
            .filter_map(|ended| {
                self.report_end(&ended);
                self.judge(ended, now)
            })
            .last()
    }

    /// Returns `true` if all reports of the ended workers were handled. Other workers may still
    /// report.
    fn is_all_heard(&mut self, now: Instant) -> bool {
        let heard = self.shared.heard_so_far();
        if self.ended.iter().all(|ended| ended.said <= heard) {
            return true;
        }
        if self.silence.0 != heard {
            self.silence = (heard, now);
        }
        // A transport that does not notice deaths counts a report of a dead worker as present for a
        // long time.
        let is_noticed = self.shared.config.keep_alive.is_none();
        let is_silent = now.saturating_duration_since(self.silence.1) >= UNSAID;
        (is_silent && !is_noticed) || {
            let unheard = self.shared.queues.answers.transport().stats();
            unheard.is_ok_and(|unheard| unheard.ready + unheard.leased == 0)
        }
    }

    fn report_end(&self, ended: &Ended) {
        let state = self.shared.state();
        let Some(worker) = state.workers.get(&ended.start) else {
            return;
        };
        let (pid, ticket) = (worker.pid, worker.running.map(|running| running.ticket));
        drop(state);
        if ended.status.success() && ticket.is_none() {
            events::worker_ended(&self.shared.config, pid);
        } else {
            let signal = ended.status.signal();
            events::worker_died(&self.shared.config, pid, signal, ticket, &ended.note);
        }
    }

    fn judge(&mut self, ended: Ended, now: Instant) -> Option<String> {
        let mut state = self.shared.state();
        let worker = state.workers.remove(&ended.start)?;
        let told = state.draining || self.shared.is_remote();
        let is_well = ended.status.success();
        // Only its pool gets the reports of a remote worker.
        let left = is_well && (worker.leaving || self.shared.is_remote());
        if let Some(running) = worker.running {
            let orphan = Orphan {
                signal: ended.status.signal(),
                note: ended.note.clone(),
            };
            state.orphans.insert(running.ticket, orphan);
        }
        drop(state);
        if let Some(tell) = &self.shared.on_worker_exit
            && (worker.running.is_some() || !(left || (is_well && told)))
        {
            tell(worker.exit(&ended.note));
        }
        if self.shared.limits.restart == RestartPolicy::Never {
            return None;
        }
        let is_replaced = if left {
            self.has_more_jobs()
        } else {
            worker.running.is_some()
        };
        // It died over a job, or ended as it should: replaced at once. (The job of a remote worker
        // is not known here.)
        if is_replaced {
            self.places[ended.slot] = Slot::Empty(now);
            return None;
        }
        if left || (is_well && told) {
            return None;
        }
        if self.shared.is_remote() && !self.shared.config.exists() {
            return None; // Its pool ended unexpectedly.
        }
        let slot = &mut self.places[ended.slot];
        match self.restarts.died_idle(now) {
            Some(pause) => {
                events::backing_off(&self.shared.config, pause);
                *slot = Slot::Empty(now + pause);
                None
            }
            None => Some(Self::cannot_start(&worker, &ended)),
        }
    }

    /// Returns `true` if a worker that ended as it should is to be replaced: the pool accepts jobs,
    /// or jobs are waiting.
    fn has_more_jobs(&self) -> bool {
        let shared = &self.shared;
        if shared.is_remote() && !shared.config.exists() {
            return false;
        }
        let Ok(stats) = shared.queues.jobs.transport().stats() else {
            // If that is unknown, the next worker finds out.
            return true;
        };
        let is_ending = if shared.is_remote() {
            stats.closed
        } else {
            shared.state().draining
        };
        !is_ending || stats.ready + stats.delayed > 0
    }

    fn cannot_start(worker: &Worker, ended: &Ended) -> String {
        let when = if worker.ready {
            "between two jobs"
        } else {
            "before they were ready"
        };
        let Ended {
            note, last_words, ..
        } = ended;
        let said = match &last_words[..] {
            "" => "it wrote nothing to its standard error".to_owned(),
            words => format!("it wrote last: {words}"),
        };
        format!("too many workers died {when}; the last: {note}; {said}")
    }
}
