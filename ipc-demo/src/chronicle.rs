//! Notes down what happened when, for the timeline.

use std::time::Duration;

use ipc_shm::clock;

use crate::task::Outcome;
use crate::timeline::{self, Kill, Redelivery, TaskSpan, Timeline};

/// The events of a run, in seconds since its begin.
#[derive(Debug)]
pub(crate) struct Chronicle {
    timeline: Timeline,
    /// On the clock that workers use, too.
    began: Duration,
}

impl Chronicle {
    /// Of a run that begins now.
    pub(crate) fn begin() -> Self {
        Self {
            timeline: Timeline::default(),
            began: clock::monotonic(),
        }
    }

    /// An answer came for the task called `what`.
    pub(crate) fn answered(&mut self, outcome: &Outcome, what: String) {
        let (start_s, end_s) = (self.seconds(outcome.began), self.seconds(outcome.ended));
        let worker = outcome.worker.clone();
        if outcome.attempt > 1 {
            self.timeline.add_redelivery(Redelivery {
                worker: worker.clone(),
                at_s: start_s,
                what: what.clone(),
            });
        }
        self.timeline.add_task(TaskSpan {
            worker,
            start_s,
            end_s,
            what,
            outcome: timeline::Outcome::Acked,
        });
    }

    /// A worker that held the task called `what` since some time was killed just now.
    pub(crate) fn killed(&mut self, worker: &str, pid: u32, since: Duration, what: String) {
        self.timeline.add_task(TaskSpan {
            worker: worker.to_owned(),
            start_s: self.seconds(since),
            end_s: self.seconds(clock::monotonic()),
            what,
            outcome: timeline::Outcome::Lost,
        });
        self.died(worker, pid);
    }

    /// The end of a worker was noticed, or brought about.
    pub(crate) fn died(&mut self, worker: &str, pid: u32) {
        self.timeline.add_kill(Kill {
            worker: worker.to_owned(),
            at_s: self.seconds(clock::monotonic()),
            pid,
        });
    }

    pub(crate) fn into_timeline(self) -> Timeline {
        self.timeline
    }

    fn seconds(&self, at: Duration) -> f64 {
        at.saturating_sub(self.began).as_secs_f64()
    }
}
