//! The workers, and what each has completed, across all of its processes.

use ipc_node::pool::{WorkerExit, WorkerStatus};

use crate::report::WorkerReport;

/// The pool's own workers, then its remote workers, in the order of their first appearance.
#[derive(Debug)]
pub(crate) struct Roster(Vec<WorkerReport>);

impl Roster {
    /// A roster of this many workers, which the pool calls by their numbers.
    pub(crate) fn new(workers: usize) -> Self {
        let mut roster = Self(Vec::new());
        for number in 1..=workers {
            roster.named(&format!("worker-{number}"));
        }
        roster
    }

    /// The number of workers.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Notes that a worker completed a job.
    pub(crate) fn completed(&mut self, worker: &str) {
        self.named(worker).completed += 1;
    }

    /// Notes that a worker died and is replaced.
    pub(crate) fn lost(&mut self, loss: &WorkerExit) {
        let worker = self.named(&loss.worker);
        (worker.pid, worker.restarts) = (loss.pid, worker.restarts + 1);
    }

    /// Notes the present workers.
    pub(crate) fn seen(&mut self, workers: &[WorkerStatus]) {
        for worker in workers {
            self.named(&worker.name).pid = worker.pid;
        }
    }

    pub(crate) fn into_reports(self) -> Vec<WorkerReport> {
        self.0
    }

    fn named(&mut self, name: &str) -> &mut WorkerReport {
        let known = self.0.iter().position(|worker| worker.name == name);
        let index = known.unwrap_or(self.0.len());
        if known.is_none() {
            self.0.push(WorkerReport {
                name: name.to_owned(),
                ..WorkerReport::default()
            });
        }
        &mut self.0[index]
    }
}
