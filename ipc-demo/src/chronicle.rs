//! Records the events of a run with their times, for the timeline.

use std::time::Duration;

use ipc_node::pool::WorkerExit;

use crate::task::{self, Outcome};
use crate::timeline::{self, Kill, Redelivery, TaskSpan, Timeline};

/// The events of a run, in seconds since its start.
#[derive(Debug)]
pub(crate) struct Chronicle {
    timeline: Timeline,
    /// The start of the run, since 1970.
    began: Duration,
}

impl Chronicle {
    /// The chronicle of a run that starts now.
    pub(crate) fn begin() -> Self {
        Self {
            timeline: Timeline::default(),
            began: task::now(),
        }
    }

    /// Notes an answer for the task called `what`.
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

    /// Notes that a worker died just now, perhaps with the task called `what`.
    pub(crate) fn lost(&mut self, loss: &WorkerExit, what: Option<String>) {
        let at_s = self.seconds(task::now());
        if let Some(((_, time), what)) = loss.job.zip(what) {
            self.timeline.add_task(TaskSpan {
                worker: loss.worker.clone(),
                start_s: at_s - time.as_secs_f64(),
                end_s: at_s,
                what,
                outcome: timeline::Outcome::Lost,
            });
        }
        self.timeline.add_kill(Kill {
            worker: loss.worker.clone(),
            at_s,
            pid: loss.pid,
        });
    }

    pub(crate) fn into_timeline(self) -> Timeline {
        self.timeline
    }

    fn seconds(&self, at: Duration) -> f64 {
        at.saturating_sub(self.began).as_secs_f64()
    }
}
