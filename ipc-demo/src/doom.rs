//! The tasks over which workers are killed.
//!
//! Such a task takes long until it was killed as often as planned. So its worker is certainly in
//! the middle of it meanwhile. This module decides which worker dies and when; the pool does the
//! killing.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use ipc_node::pool::WorkerStatus;

use crate::source::Job;

/// The planned kills.
#[derive(Debug)]
pub(crate) struct Doom {
    /// The number of times that each chosen job's first part will be killed, until it is submitted.
    chosen: HashMap<usize, u8>,
    /// The number of kills still to come for each submitted task, by ticket.
    pending: HashMap<u64, u8>,
    /// Workers that have been told to die.
    dying: HashSet<u64>,
}

/// The time for which a victim is left alone, so that it is in the middle of its task.
const MIDDLE: Duration = Duration::from_millis(5);

impl Doom {
    /// Chooses `kills` open jobs at random, some more than once if there are fewer.
    pub(crate) fn new(jobs: &[Job], kills: usize) -> Self {
        let mut open: Vec<usize> = (0..jobs.len())
            .filter(|job| jobs[*job].result().is_none())
            .collect();
        fastrand::shuffle(&mut open);
        // A file that can't be read never reaches a worker.
        let readable = open.iter().filter(|job| jobs[**job].content().is_ok());
        let victims: Vec<&usize> = readable.take(kills).collect();
        let mut chosen: HashMap<usize, u8> = HashMap::new();
        for job in victims.into_iter().cycle().take(kills) {
            let deaths = chosen.entry(*job).or_default();
            *deaths = deaths.saturating_add(1);
        }
        Self {
            chosen,
            pending: HashMap::new(),
            dying: HashSet::new(),
        }
    }

    /// The highest number of kills of one job.
    pub(crate) fn most_deaths(&self) -> u8 {
        self.chosen.values().copied().max().unwrap_or(0)
    }

    /// The number of kills for this job at its next submission.
    pub(crate) fn deaths_of(&self, job: usize) -> u8 {
        self.chosen.get(&job).copied().unwrap_or(0)
    }

    /// Notes that the job was submitted.
    pub(crate) fn submitted(&mut self, job: usize, ticket: u64) {
        if let Some(deaths) = self.chosen.remove(&job) {
            self.pending.insert(ticket, deaths);
        }
    }

    /// Returns whether a worker is still to die over a submitted task.
    pub(crate) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The workers to kill now. Remote workers are not this process's to kill.
    pub(crate) fn victims(&mut self, workers: &[WorkerStatus]) -> Vec<u64> {
        let mut victims = Vec::new();
        for worker in workers.iter().filter(|worker| !worker.is_remote) {
            let Some((ticket, time)) = worker.job else {
                continue;
            };
            let Some(deaths) = self.pending.get_mut(&ticket) else {
                continue;
            };
            if time < MIDDLE || !self.dying.insert(worker.number) {
                continue;
            }
            victims.push(worker.number);
            *deaths -= 1;
            if *deaths == 0 {
                self.pending.remove(&ticket);
            }
        }
        victims
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::Input;

    fn simulated(count: usize) -> Vec<Job> {
        (0..count)
            .map(|_| Job::simulated("task".to_owned(), Duration::ZERO))
            .collect()
    }

    fn worker(number: u64, job: Option<(u64, u64)>) -> WorkerStatus {
        let mut worker = WorkerStatus::new(number, "worker-1".to_owned(), 1);
        worker.job = job.map(|(ticket, ms)| (ticket, Duration::from_millis(ms)));
        worker
    }

    #[test]
    fn as_many_deaths_as_asked_for_fall_on_the_readable_jobs() {
        let missing = Input {
            path: "no/such/file".into(),
            bytes_hint: Ok(3),
        };
        let mut jobs = simulated(3);
        jobs.insert(1, Job::file(missing));
        let doom = Doom::new(&jobs, 5);
        let deaths: Vec<u8> = (0..4).map(|job| doom.deaths_of(job)).collect();
        assert_eq!(deaths.iter().sum::<u8>(), 5);
        assert_eq!((deaths[1], doom.most_deaths()), (0, 2));
        assert_eq!(Doom::new(&[], 5).most_deaths(), 0);
    }

    #[test]
    fn workers_with_a_doomed_task_die_as_often_as_planned() {
        let mut doom = Doom::new(&simulated(1), 2);
        doom.submitted(0, 7);
        assert_eq!(doom.deaths_of(0), 0);
        for harmless in [None, Some((8, 100)), Some((7, 4))] {
            assert!(doom.victims(&[worker(1, harmless)]).is_empty());
        }
        assert_eq!(doom.victims(&[worker(1, Some((7, 5)))]), [1]);
        assert!(
            doom.victims(&[worker(1, Some((7, 6)))]).is_empty(),
            "dead already"
        );
        assert_eq!(doom.victims(&[worker(2, Some((7, 5)))]), [2]);
        assert!(!doom.is_pending());
    }
}
