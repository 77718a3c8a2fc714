//! The coordinator: hands out tasks, collects answers, and reports. The pool manages the workers.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ipc_node::pool::{
    Backoff, Intensity, JobError, OpenTickets, Pool, PoolBuilder, PoolError, Ticket, WorkerExit,
};
use ipc_node::{Health, Node, Registry};
use ipc_queue::transport::Wait;
use ipc_queue::{ControlError, QueueStats, SendError, SendFailure, Unavailable};

use crate::chronicle::Chronicle;
use crate::doom::Doom;
use crate::nats;
use crate::outage::{Advice, Outage};
use crate::plan::{Audience, Ending, Finished, Interrupts, Plan};
use crate::premises::{self, Premises, Transport};
use crate::report::{FileReport, Report};
use crate::roster::Roster;
use crate::source::{self, Done, Job, Step};
use crate::tally::Tally;
use crate::task::{self, Outcome, Task};

/// The number of deliveries of a task, besides those that end with a planned kill.
const ATTEMPTS: u8 = 5;
/// If this many workers die before they have a task, workers can't work here.
const FALSE_STARTS: usize = 50;
/// The most tasks that may be with the pool at once.
const WINDOW: usize = 256;
/// The largest part of a file that is one task.
///
/// With the rest of its message it is at most what a NATS server accepts as one message.
pub const PART_BYTES: usize = (1 << 20) - 12 * 1024;
/// The most content that may be with the pool at once. Only a server elsewhere has memory for more.
const WINDOW_BYTES: usize = 16 << 20;

/// Runs a plan in a namespace of its own, and always removes the namespace afterwards.
///
/// # Errors
/// When queues can't be made, workers can't be started, or the system refuses something.
pub fn run(plan: Plan, interrupts: &Interrupts, audience: &mut dyn Audience) -> Result<Finished> {
    for note in premises::remove_dead_runs()? {
        audience.note(&note);
    }
    // Once this process is the coordinator, the namespace is its own. From then on the namespace
    // must be removed, even after a panic.
    let (namespace, node) = premises::join_own()?;
    let premises = Premises::new(plan.transport, plan.at.as_deref(), namespace)?;
    let mut finished = run_in(&premises, &node, plan, interrupts, audience)?;
    finished.report.leaked = premises.remove().context("cleaning up")?;
    Ok(finished)
}

fn run_in(
    premises: &Premises,
    node: &Node,
    plan: Plan,
    interrupts: &Interrupts,
    audience: &mut dyn Audience,
) -> Result<Finished> {
    let doom = Doom::new(&plan.jobs, plan.kills);
    let (tell, losses) = mpsc::channel();
    let builder = premises.pool(plan.workers);
    let builder =
        patient(builder, doom.most_deaths()).on_worker_exit(move |loss| drop(tell.send(loss)));
    let backlog = (0..plan.jobs.len()).rev();
    let backlog: Vec<usize> = backlog
        .filter(|job| plan.jobs[*job].result().is_none())
        .collect();
    let mut run = Run {
        pool: builder.start().context("starting the workers")?,
        done: plan.jobs.len() - backlog.len(),
        backlog,
        jobs: plan.jobs,
        workers: Roster::new(plan.workers),
        open: OpenTickets::default(),
        parts: HashMap::new(),
        dead_lettered: 0,
        doom,
        outage: Outage::default(),
        tally: Tally::default(),
        chronicle: Chronicle::begin(),
        losses,
        node,
        premises,
        audience,
        interrupts,
        stopping: Stopping::No,
    };
    if premises.transport() == Transport::Nats {
        let address = nats::shown(premises.address());
        let text = format!("others may help: ipc-demo host --at {address}");
        run.audience.note(&text);
    }
    let started = Instant::now();
    run.hand_out_and_collect()?;
    run.dismiss(plan.ending)?;
    let elapsed = started.elapsed();
    // Only now: workers count a message after they sent it.
    let stats = run.pool.stats()?;
    Ok(run.finish(stats, elapsed))
}

/// A pool that tolerates the planned deaths before it gives up tasks or workers.
fn patient(pool: PoolBuilder, deaths: u8) -> PoolBuilder {
    // A delivery that ends with a planned kill is an ordinary attempt.
    pool.attempt_limit(deaths.saturating_add(ATTEMPTS))
        .intensity(Intensity {
            deaths: FALSE_STARTS,
            within: Duration::from_secs(60),
        })
        .backoff(Backoff {
            longest: Duration::from_millis(50),
            ..Backoff::default()
        })
}

/// The user's request to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stopping {
    No,
    /// Stops when the workers have finished what they began.
    Soon,
    Now,
}

/// A part of a job that is with the pool.
struct Part {
    job: usize,
    /// Set if the content ended with this part.
    is_last: bool,
    bytes: usize,
}

struct Run<'a> {
    pool: Pool,
    jobs: Vec<Job>,
    /// Jobs with a part to be submitted, the next one last.
    backlog: Vec<usize>,
    /// The number of jobs that ended, successfully or not.
    done: usize,
    open: OpenTickets<Outcome>,
    /// Keyed by ticket.
    parts: HashMap<u64, Part>,
    workers: Roster,
    dead_lettered: u64,
    doom: Doom,
    outage: Outage,
    tally: Tally,
    chronicle: Chronicle,
    losses: mpsc::Receiver<WorkerExit>,
    node: &'a Node,
    premises: &'a Premises,
    audience: &'a mut dyn Audience,
    interrupts: &'a Interrupts,
    stopping: Stopping,
}

impl Run<'_> {
    fn hand_out_and_collect(&mut self) -> Result<()> {
        // Short enough for a prompt kill, and for a retry at a full queue.
        const PATIENCE: Duration = Duration::from_millis(20);
        while !self.is_complete() {
            let mut wait = PATIENCE;
            match self.stopping() {
                Stopping::No if self.hand_out(PATIENCE)? => {}
                Stopping::No => wait = Duration::ZERO,
                Stopping::Soon if self.open.is_empty() => return Ok(()),
                Stopping::Soon => self.take_back(),
                Stopping::Now => return Ok(()),
            }
            if let Err(error) = self.premises.check() {
                // Stop at once: without the server, nothing else ends quickly.
                self.audience.note(&format!("{error}; ending"));
                return Err(error);
            }
            while let Some((ticket, answer)) = self.open.next(Some(wait)) {
                self.take_in(ticket, answer)?;
                wait = Duration::ZERO;
            }
            self.carry_out_kills();
            self.note_losses();
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.backlog.is_empty() && self.open.is_empty()
    }

    fn stopping(&mut self) -> Stopping {
        let asked = match self.interrupts.load(Ordering::Relaxed) {
            0 => Stopping::No,
            1 => Stopping::Soon,
            _ => Stopping::Now,
        };
        if asked > self.stopping {
            self.stopping = asked;
            self.audience.note(match asked {
                Stopping::Now => "stopping at once",
                _ => "finishing what the workers have begun; once more to stop at once",
            });
        }
        self.stopping
    }

    /// Submits parts until there is no room for more. `false`: the time was up, and there may be
    /// room.
    fn hand_out(&mut self, time: Duration) -> Result<bool> {
        let until = Instant::now() + time;
        while self.has_window() {
            if Instant::now() >= until {
                return Ok(false);
            }
            let Some(job) = self.backlog.pop() else {
                break;
            };
            match self.submit(job) {
                Ok(()) => self.outage.over(),
                Err(PoolError::Send(SendError {
                    failure: SendFailure::Unavailable(why @ Unavailable::Transport { .. }),
                    ..
                })) => {
                    match self.outage.failed(Instant::now()) {
                        Advice::GiveUp => bail!("submitting a task: {why}"),
                        Advice::TellAndRetry => self.audience.note(&format!("waiting: {why}")),
                        Advice::Retry => {}
                    }
                    self.backlog.push(job);
                    break;
                }
                Err(PoolError::NoRoom { .. }) => {
                    self.backlog.push(job);
                    break;
                }
                Err(PoolError::System(unreadable)) => self.fail(job, unreadable.to_string()),
                Err(error) => return Err(error).context("submitting a task"),
            }
        }
        Ok(true)
    }

    fn has_window(&self) -> bool {
        let bytes: usize = self.parts.values().map(|part| part.bytes).sum();
        self.open.len() < WINDOW && bytes < WINDOW_BYTES
    }

    /// Reads a job's next part straight into the memory that a worker will read.
    fn submit(&mut self, index: usize) -> Result<(), PoolError> {
        let job = &self.jobs[index];
        let task = Task {
            work: job.work(),
            at_least: job.at_least(),
            deaths: self.doom.deaths_of(index),
        };
        let (mut content, known_bytes) = job.content()?;
        // One byte more than is known, to detect the end. A file that claims to be empty may not be
        // (`/proc`).
        let room = usize::try_from(known_bytes)
            .unwrap_or(PART_BYTES)
            .saturating_add(1)
            .clamp(64, PART_BYTES);
        let mut bytes = 0;
        let fill = |memory: &mut [u8]| {
            bytes = source::read_fully(&mut content, memory)?;
            Ok(bytes)
        };
        let ticket = self
            .pool
            .submit_with(task::HANDLER, &task, room, Wait::No, fill)?;
        self.node.counters().sent(bytes);
        self.doom.submitted(index, ticket.number());
        let part = Part {
            job: index,
            is_last: bytes < room,
            bytes,
        };
        self.parts.insert(ticket.number(), part);
        self.open.push(ticket);
        Ok(())
    }

    /// Cancels all tasks that no worker has begun.
    fn take_back(&mut self) {
        let waiting = self.open.iter().filter(|ticket| !ticket.is_begun());
        waiting.for_each(Ticket::cancel);
        self.backlog.clear();
    }

    fn take_in(&mut self, ticket: u64, answer: Result<Outcome, JobError>) -> Result<()> {
        let part = self.parts.remove(&ticket).context("an answer to no task")?;
        let outcome = match answer {
            Ok(outcome) => outcome,
            Err(JobError::Cancelled) => return Ok(()),
            Err(JobError::PoolEnded { reason }) => bail!("workers can't work here: {reason}"),
            Err(error) => {
                self.give_up(part.job, &error);
                return Ok(());
            }
        };
        self.tally.ended(outcome.attempt);
        let name = self.jobs[part.job].name();
        self.chronicle.answered(&outcome, name);
        let bytes = outcome.encoded_bytes();
        self.node.counters().received(bytes, 1);
        match self.jobs[part.job].answered(outcome.answer, part.is_last) {
            Step::NextPart => self.backlog.push(part.job),
            Step::Done => {
                self.workers.completed(&outcome.worker);
                self.progressed();
            }
        }
        Ok(())
    }

    fn give_up(&mut self, job: usize, error: &JobError) {
        let why = match error {
            JobError::Crashed { attempts, note, .. } => {
                self.tally.ended(*attempts);
                format!(
                    "given up at attempt {attempts}: the last worker that took it died ({note})"
                )
            }
            other => other.to_string(),
        };
        self.dead_lettered += 1;
        let text = format!("{}: {why}", self.jobs[job].name());
        self.audience.note(&text);
        self.fail(job, why);
    }

    fn fail(&mut self, job: usize, reason: String) {
        self.node.counters().error();
        self.jobs[job].fail(reason);
        self.progressed();
    }

    fn progressed(&mut self) {
        self.done += 1;
        self.audience.progress(self.done, self.jobs.len());
    }

    /// Kills each worker that is in the middle of a task chosen for a kill.
    fn carry_out_kills(&mut self) {
        if self.doom.is_pending() {
            for victim in self.doom.victims(&self.pool.workers()) {
                self.pool.kill_worker(victim);
            }
        }
    }

    fn note_losses(&mut self) {
        while let Ok(loss) = self.losses.try_recv() {
            let text = format!("{} was lost ({}); replaced", loss.worker, loss.note);
            self.audience.note(&text);
            let over = loss.job.and_then(|(ticket, _)| self.parts.get(&ticket));
            let what = over.map(|part| self.jobs[part.job].name());
            self.chronicle.lost(&loss, what);
            self.workers.lost(&loss);
        }
    }

    /// Tells the workers to end, and waits for them for a limited time.
    fn dismiss(&mut self, ending: Ending) -> Result<(), ControlError> {
        const PATIENCE: Duration = Duration::from_secs(10);
        self.workers.seen(&self.pool.workers());
        match ending {
            Ending::Close => self.pool.close()?,
            Ending::Shutdown => {
                self.pool.close_by_message()?;
                (0..self.workers.len()).for_each(|_| self.node.counters().sent(0));
            }
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.pool.has_ended()
            && self.stopping() != Stopping::Now
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(2));
        }
        self.note_losses();
        Ok(())
    }

    fn finish(self, (tasks, results): (QueueStats, QueueStats), elapsed: Duration) -> Finished {
        // The remaining workers are killed.
        drop(self.pool);
        let nodes = Registry::open(self.premises.namespace())
            .map(|registry| registry.nodes(Duration::from_secs(10)))
            .unwrap_or_default();
        let errors = nodes.iter().map(|node| node.stats.errors).sum();
        let well = |job: &&Job| matches!(job.result(), Some(Ok(_)));
        let report = Report {
            tasks: self.jobs.len() as u64,
            completed: self.done as u64,
            distinct: self.jobs.iter().filter(well).count() as u64,
            redelivered: self.tally.redelivered(&tasks),
            dead_lettered: self.dead_lettered,
            workers: self.workers.into_reports(),
            stats: self.tally.transfer(&tasks, &results, errors),
            files: self.jobs.iter().filter_map(file_report).collect(),
            elapsed_s: elapsed.as_secs_f64(),
            leaked: Vec::new(),
        };
        Finished {
            report,
            timeline: self.chronicle.into_timeline(),
            interrupted: self.done < self.jobs.len(),
            nodes: nodes
                .into_iter()
                .filter(|node| node.health != Health::Dead)
                .collect(),
            jobs: self.jobs,
        }
    }
}

fn file_report(job: &Job) -> Option<FileReport> {
    let outcome = match job.result()? {
        Ok(Done::Fingerprint(fingerprint)) => Ok(*fingerprint),
        Ok(Done::Text(_)) => return None,
        Err(reason) => Err(reason.clone()),
    };
    Some(FileReport {
        path: job.path()?.clone(),
        outcome,
    })
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    struct Fainting;

    impl Audience for Fainting {
        fn progress(&mut self, done: usize, _all: usize) {
            assert!(done < 3, "the audience faints");
        }

        fn note(&mut self, _text: &str) {}
    }

    #[test]
    fn a_panic_in_the_middle_of_a_run_leaves_nothing_in_shared_memory() {
        let job = || Job::simulated("task".to_owned(), Duration::from_millis(1));
        let plan = Plan {
            jobs: (0..10).map(|_| job()).collect(),
            workers: 2,
            kills: 0,
            transport: Transport::Local,
            at: None,
            ending: Ending::Close,
        };
        let run = || run(plan, &Interrupts::default(), &mut Fainting);
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        let namespace = premises::namespace_of_run(0).unwrap();
        assert!(!namespace.path().exists());
    }
}
