//! Which jobs wait to be sent, which are with the workers, and which are done.
//!
//! Bookkeeping only: told what happened, it knows what is next. A job has at most one part with the workers.

use std::collections::HashMap;

use ipc_queue::MessageId;

use crate::source::{Job, Step};
use crate::task::Answer;

/// All jobs of a run.
#[derive(Debug)]
pub(crate) struct Ledger {
    jobs: Vec<Job>,
    /// Jobs with a part to be sent, the next one last.
    backlog: Vec<usize>,
    /// The messages of the parts that are with the workers, by job.
    sent: HashMap<usize, MessageId>,
    done: usize,
}

impl Ledger {
    /// Of these jobs, some of which may have failed already.
    pub(crate) fn new(jobs: Vec<Job>) -> Self {
        let backlog: Vec<usize> = (0..jobs.len())
            .rev()
            .filter(|job| jobs[*job].result().is_none())
            .collect();
        Self {
            done: jobs.len() - backlog.len(),
            backlog,
            sent: HashMap::new(),
            jobs,
        }
    }

    pub(crate) fn jobs(&self) -> &[Job] {
        &self.jobs
    }

    pub(crate) fn into_jobs(self) -> Vec<Job> {
        self.jobs
    }

    /// How many jobs came to an end, well or not.
    pub(crate) fn done(&self) -> usize {
        self.done
    }

    /// How many jobs have a result, and no problem.
    pub(crate) fn well_done(&self) -> usize {
        let well = |job: &&Job| matches!(job.result(), Some(Ok(_)));
        self.jobs.iter().filter(well).count()
    }

    /// Whether every job came to an end.
    pub(crate) fn is_complete(&self) -> bool {
        self.done == self.jobs.len()
    }

    /// Whether the workers have nothing that was not answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.sent.is_empty()
    }

    /// The job whose next part is to be sent. It stays that until one of the following three was called.
    pub(crate) fn next(&self) -> Option<usize> {
        self.backlog.last().copied()
    }

    /// The next job's part was sent.
    pub(crate) fn sent(&mut self, message: MessageId) {
        if let Some(job) = self.backlog.pop() {
            self.sent.insert(job, message);
        }
    }

    /// The next job can't be sent.
    pub(crate) fn failed_to_send(&mut self, reason: String) {
        if let Some(job) = self.backlog.pop() {
            self.jobs[job].fail(reason);
            self.done += 1;
        }
    }

    /// A part came back undone. Its job is the next.
    pub(crate) fn taken_back(&mut self, message: MessageId) {
        if let Some(job) = self.job_of(message) {
            self.sent.remove(&job);
            self.backlog.push(job);
        }
    }

    /// A part was given up. Its job, unless the part was answered before.
    pub(crate) fn given_up(&mut self, message: MessageId, reason: String) -> Option<usize> {
        let job = self.job_of(message)?;
        self.sent.remove(&job);
        self.jobs[job].fail(reason);
        self.done += 1;
        Some(job)
    }

    /// A part was answered.
    pub(crate) fn answered(&mut self, job: usize, part: u32, answer: Answer) -> Step {
        let Some(found) = self.jobs.get_mut(job) else {
            return Step::Repeated;
        };
        let step = found.answered(part, answer);
        match step {
            Step::Repeated => return step,
            Step::NextPart => self.backlog.push(job),
            Step::Done => self.done += 1,
        }
        self.sent.remove(&job);
        step
    }

    /// Looks at all that are with the workers: for what is rare.
    fn job_of(&self, message: MessageId) -> Option<usize> {
        let mut sent = self.sent.iter();
        sent.find_map(|(job, sent)| (*sent == message).then_some(*job))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ipc_queue::SenderId;

    use super::*;
    use crate::fingerprint::Progress;
    use crate::input::Input;

    fn message(number: u64) -> MessageId {
        MessageId::new(SenderId::default(), number)
    }

    fn text() -> Answer {
        Answer::Text("processed".to_owned())
    }

    fn part(last: bool) -> Answer {
        Answer::Fingerprint {
            progress: Progress::default(),
            last,
        }
    }

    fn file(bytes_hint: Result<u64, String>) -> Job {
        Job::file(Input {
            path: "file".into(),
            bytes_hint,
        })
    }

    #[test]
    fn every_job_comes_to_one_end_whichever_way_it_goes() {
        let simulated = || Job::simulated("task".to_owned(), Duration::ZERO);
        let failed = file(Err("gone".to_owned()));
        let mut ledger = Ledger::new(vec![simulated(), failed, simulated(), simulated()]);
        assert_eq!((ledger.next(), ledger.done()), (Some(0), 1));
        ledger.failed_to_send("unreadable".to_owned());
        ledger.sent(message(2));
        ledger.sent(message(3));
        assert_eq!((ledger.next(), ledger.is_idle()), (None, false));

        assert_eq!(ledger.given_up(message(3), "poison".to_owned()), Some(3));
        assert_eq!(ledger.given_up(message(3), "poison".to_owned()), None);
        assert_eq!(ledger.answered(3, 0, text()), Step::Repeated);
        assert_eq!(ledger.answered(2, 0, text()), Step::Done);
        assert_eq!(ledger.answered(2, 0, text()), Step::Repeated);
        assert_eq!(ledger.answered(99, 0, text()), Step::Repeated);
        assert!(ledger.is_complete() && ledger.is_idle());
        assert_eq!((ledger.done(), ledger.well_done()), (4, 1));
    }

    #[test]
    fn a_part_that_is_taken_back_is_sent_again_and_one_that_was_answered_is_not() {
        let mut ledger = Ledger::new(vec![file(Ok(10)), file(Ok(10))]);
        ledger.sent(message(0));
        ledger.sent(message(1));
        assert_eq!(ledger.answered(0, 0, part(false)), Step::NextPart);
        ledger.taken_back(message(0));
        ledger.taken_back(message(1));
        assert!(ledger.is_idle());
        assert_eq!(ledger.next(), Some(1));
        ledger.sent(message(2));
        assert_eq!((ledger.next(), ledger.jobs()[0].part), (Some(0), 1));
        ledger.sent(message(3));
        assert_eq!(ledger.answered(0, 0, part(false)), Step::Repeated);
        assert_eq!(ledger.job_of(message(3)), Some(0), "it is not answered");
        assert_eq!(ledger.answered(0, 1, part(true)), Step::Done);
        assert_eq!(ledger.next(), None);
    }
}
