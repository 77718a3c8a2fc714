//! The coordinator: hands out tasks, collects answers, keeps the crew complete.
//!
//! One thread does all of it. It never waits for room in the queue of tasks while answers may be waiting
//! for it, so the two queues can't block each other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipc_node::{Health, Node, NodeInfo, Registry};
use ipc_queue::transport::Wait;
use ipc_queue::{
    ByteSender, DeadLetter, DeadReason, Kind, MessageId, Receiver, RecvError, SendFailure,
};
use ipc_shm::clock;

use crate::chronicle::Chronicle;
use crate::crew::{self, Crew, Worker};
use crate::doom::Doom;
use crate::ledger::Ledger;
use crate::report::{FileReport, Report, Transfer, WorkerReport};
use crate::source::{Done, Job, Step};
use crate::task::{Draft, Header, Outcome};
use crate::timeline::Timeline;
use crate::wiring::{self, Premises, Transport, Wiring};

/// What a run is to be.
#[derive(Debug)]
pub struct Plan {
    /// What is to be done.
    pub jobs: Vec<Job>,
    /// How many workers do it.
    pub workers: usize,
    /// How many of them are killed in the middle of a task.
    pub kills: usize,
    /// What the messages travel over.
    pub transport: Transport,
    /// Whether workers get a `Shutdown` message each at the end, or find the queue closed.
    pub ending: Ending,
}

/// How the workers learn that it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The queue is closed: each goes when it is drained.
    Close,
    /// One `Shutdown` message for each.
    Shutdown,
}

/// Somebody who wants to know how it goes.
pub trait Audience {
    /// A job was done.
    fn progress(&mut self, done: usize, all: usize);
    /// Something else happened.
    fn note(&mut self, text: &str);
}

/// What a run came to.
#[derive(Debug)]
pub struct Finished {
    /// The figures.
    pub report: Report,
    /// Who did what when.
    pub timeline: Timeline,
    /// The jobs with their results.
    pub jobs: Vec<Job>,
    /// Every node's statistics.
    pub nodes: Vec<NodeInfo>,
    /// Whether it was interrupted: jobs are missing.
    pub interrupted: bool,
}

/// How often the user asked to stop: once, and what was begun is finished; twice, and it is not.
pub type Interrupts = Arc<AtomicUsize>;

/// Runs a plan in a namespace of its own and removes the namespace afterwards, whatever happens.
///
/// # Errors
/// When queues can't be made, workers can't be started, or the system refuses something.
pub fn run(plan: Plan, interrupts: &Interrupts, audience: &mut dyn Audience) -> Result<Finished> {
    let namespace = wiring::namespace_of_run()?;
    for note in wiring::remove_dead_runs(&namespace)? {
        audience.note(&note);
    }
    // The namespace is ours once we are its coordinator, and to be removed from then on, also by a panic.
    let node = crew::join(&namespace, crew::COORDINATOR)?;
    let premises = Premises::new(plan.transport, namespace);
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
    // A delivery that ends with a planned kill is an attempt like any other.
    let attempts = doom.most_deaths().saturating_add(ATTEMPTS);
    let wiring = Wiring::create(premises, attempts)?;
    let crew = Crew::start(premises, plan.workers)?;
    let started = Instant::now();
    let mut run = Run {
        doom,
        sender: wiring.tasks.sender(),
        results: wiring.results.receiver(),
        ledger: Ledger::new(plan.jobs),
        dead_lettered: 0,
        by_worker: HashMap::new(),
        chronicle: Chronicle::begin(),
        wiring: &wiring,
        node,
        crew,
        audience,
        interrupts,
        stopping: Stopping::No,
    };
    run.hand_out_and_collect()?;
    run.dismiss(plan.ending)?;
    Ok(run.finish(premises, started.elapsed()))
}

/// How many deliveries a task gets, besides those that end as planned.
const ATTEMPTS: u8 = 5;

/// What became of a part that was to be sent.
enum Written {
    Sent { message: MessageId, bytes: usize },
    NoRoom,
    Unreadable(String),
}

/// Whether the user wants to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stopping {
    No,
    /// When the workers have finished what they began.
    Soon,
    Now,
}

struct Run<'a> {
    wiring: &'a Wiring,
    node: &'a Node,
    sender: ByteSender,
    results: Receiver<Outcome>,
    crew: Crew,
    ledger: Ledger,
    dead_lettered: u64,
    by_worker: HashMap<String, u64>,
    doom: Doom,
    chronicle: Chronicle,
    audience: &'a mut dyn Audience,
    interrupts: &'a Interrupts,
    stopping: Stopping,
}

impl Run<'_> {
    fn hand_out_and_collect(&mut self) -> Result<()> {
        // Short enough for a prompt replacement of the dead, and for a second try at a full queue.
        const PATIENCE: Duration = Duration::from_millis(20);
        while !self.ledger.is_complete() {
            match self.stopping() {
                Stopping::No => self.hand_out()?,
                Stopping::Soon => self.take_back()?,
                Stopping::Now => return Ok(()),
            }
            if self.stopping == Stopping::Soon && self.ledger.is_idle() {
                return Ok(());
            }
            if self.collect(PATIENCE)? == 0 {
                self.give_up_dead_letters()?;
            }
            self.carry_out_kills();
            self.replace_the_lost()?;
        }
        Ok(())
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

    /// Sends parts until there is no room for more.
    fn hand_out(&mut self) -> Result<()> {
        while let Some(job) = self.ledger.next() {
            let deaths = self.doom.deaths_of(job, self.ledger.jobs()[job].part);
            match self.write(job, deaths)? {
                Written::NoRoom => break,
                Written::Unreadable(reason) => {
                    self.node.counters().error();
                    self.ledger.failed_to_send(reason);
                    self.progressed();
                }
                Written::Sent { message, bytes } => {
                    self.node.counters().sent(bytes);
                    self.doom.sent(job, deaths, message);
                    self.ledger.sent(message);
                }
            }
        }
        Ok(())
    }

    /// Reads a job's next part straight into the memory that a worker will read.
    fn write(&self, index: usize, deaths: u8) -> Result<Written> {
        let job = &self.ledger.jobs()[index];
        let draft = Draft::new(&Header {
            task: index as u64,
            part: job.part,
            work: job.work(),
            at_least: job.at_least(),
            deaths,
        })?;
        let (mut content, known_bytes) = match job.content() {
            Ok(content) => content,
            Err(problem) => return Ok(Written::Unreadable(problem.to_string())),
        };
        let most = draft.room(self.wiring.tasks.transport().settings().max_message_bytes as usize);
        // One more than is known, to see the end; and what is said to be empty may not be (`/proc`).
        let room = usize::try_from(known_bytes)
            .unwrap_or(most)
            .saturating_add(1)
            .clamp(64, most);
        let mut loan = match self.sender.loan_as(Kind::Data, draft.size(room), Wait::No) {
            Ok(loan) => loan,
            Err(SendFailure::Full { .. } | SendFailure::NoMemory { .. }) => {
                return Ok(Written::NoRoom);
            }
            Err(failure) => return Err(failure).context("sending a task"),
        };
        if let Err(problem) = draft.fill(&mut loan, &mut content) {
            return Ok(Written::Unreadable(problem.to_string()));
        }
        let bytes = loan.len();
        let message = loan.publish().context("sending a task")?;
        Ok(Written::Sent { message, bytes })
    }

    /// Takes back what no worker has begun.
    fn take_back(&mut self) -> Result<()> {
        let tasks = self.wiring.tasks.receiver();
        loop {
            match tasks.try_recv() {
                Ok(delivery) => {
                    self.ledger.taken_back(delivery.id());
                    delivery.ack().context("taking a task back")?;
                }
                Err(RecvError::Empty) => return Ok(()),
                Err(error) => return Err(error).context("taking tasks back"),
            }
        }
    }

    /// Takes in every answer that is there, waiting at most so long for the first. How many there were.
    fn collect(&mut self, patience: Duration) -> Result<usize> {
        let mut count = 0;
        let mut wait = patience;
        loop {
            let outcome = match self.results.recv_timeout(wait) {
                Ok(delivery) => {
                    let outcome = delivery.data().cloned();
                    let bytes = outcome.as_ref().map_or(0, Outcome::encoded_bytes);
                    let counters = self.node.counters();
                    counters.received(bytes, delivery.attempt());
                    delivery.ack().context("acking a result")?;
                    outcome
                }
                Err(RecvError::TimedOut { .. }) => return Ok(count),
                // Nor can it be said whose answer it was: its task would be waited for for ever.
                Err(error) => return Err(error).context("receiving a result"),
            };
            if let Some(outcome) = outcome {
                self.take_in(outcome)?;
            }
            count += 1;
            wait = Duration::ZERO;
        }
    }

    fn take_in(&mut self, outcome: Outcome) -> Result<()> {
        let job = usize::try_from(outcome.task).context("an answer to no task")?;
        self.chronicle.answered(&outcome, self.name_of(job));
        if self.ledger.answered(job, outcome.part, outcome.answer) == Step::Done {
            *self.by_worker.entry(outcome.worker).or_default() += 1;
            self.progressed();
        }
        Ok(())
    }

    fn progressed(&mut self) {
        let (done, all) = (self.ledger.done(), self.ledger.jobs().len());
        self.audience.progress(done, all);
    }

    fn name_of(&self, job: usize) -> String {
        self.ledger
            .jobs()
            .get(job)
            .map(Job::name)
            .unwrap_or_default()
    }

    /// Ends the jobs whose tasks will not be delivered any more.
    fn give_up_dead_letters(&mut self) -> Result<()> {
        let tasks = self.wiring.tasks.transport();
        if tasks.stats().dead == 0 {
            return Ok(());
        }
        let letters = tasks.dead_letters();
        // Whoever died over one may have answered before: that answer is there by now, and counts.
        self.collect(Duration::ZERO)?;
        for letter in letters {
            if let Some(job) = self.ledger.given_up(letter.message, why(&letter)) {
                self.dead_lettered += 1;
                self.node.counters().error();
                let text = format!("{}: {}", self.name_of(job), why(&letter));
                self.audience.note(&text);
                self.progressed();
            }
            // It was said what became of it, and it would keep its place in the queue.
            self.wiring.tasks.transport().discard(letter.id);
        }
        Ok(())
    }

    /// Kills whoever holds a task that is to be killed over.
    fn carry_out_kills(&mut self) {
        if !self.doom.is_pending() {
            return;
        }
        let holdings = self.wiring.tasks.transport().holdings().unwrap_or_default();
        for victim in self.doom.victims(&holdings, clock::monotonic()) {
            // `None`: it was not started by us, and is not ours to kill.
            let Some(worker) = self.crew.kill(&victim.holding) else {
                continue;
            };
            let (pid, what) = (victim.holding.pid, self.name_of(victim.job));
            self.chronicle.killed(&worker, pid, victim.since, what);
            self.doom.died(&victim);
        }
    }

    fn replace_the_lost(&mut self) -> Result<()> {
        for loss in self.crew.tend()? {
            let text = format!("{} was lost ({}); replaced", loss.worker, loss.how);
            self.audience.note(&text);
            if !loss.was_ordered {
                self.chronicle.died(&loss.worker, loss.pid);
            }
        }
        Ok(())
    }

    /// Tells the workers that it is over and waits for them.
    fn dismiss(&mut self, ending: Ending) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(10);
        self.crew.stop_replacing();
        if self.stopping() == Stopping::Now {
            self.crew.wait(Duration::ZERO, || true);
            return Ok(());
        }
        if ending == Ending::Shutdown {
            for _ in self.crew.workers() {
                let sent = self
                    .sender
                    .send_as(Kind::Shutdown, &[], Wait::at_most(PATIENCE));
                sent.context("sending a shutdown")?;
                self.node.counters().sent(0);
            }
        }
        // Also after shutdowns: workers that we did not start may have taken some.
        self.wiring.tasks.transport().close();
        let interrupts = self.interrupts;
        self.crew
            .wait(PATIENCE, || interrupts.load(Ordering::Relaxed) > 1);
        Ok(())
    }

    fn finish(self, premises: &Premises, elapsed: Duration) -> Finished {
        let nodes = Registry::open(premises.namespace())
            .map(|registry| registry.nodes(Duration::from_secs(10)))
            .unwrap_or_default();
        let (tasks, results) = self.wiring.stats();
        let worker = |worker: &Worker| WorkerReport {
            name: worker.name.clone(),
            pid: worker.pid,
            completed: self.by_worker.get(&worker.name).copied().unwrap_or(0),
            restarts: worker.restarts,
        };
        let jobs = self.ledger.jobs();
        let report = Report {
            tasks: jobs.len() as u64,
            completed: self.ledger.done() as u64,
            distinct: self.ledger.well_done() as u64,
            redelivered: tasks.redelivered,
            dead_lettered: self.dead_lettered,
            workers: self.crew.workers().iter().map(worker).collect(),
            stats: Transfer {
                messages_sent: tasks.sent + results.sent,
                messages_received: tasks.received + results.received,
                bytes_transferred: tasks.bytes_sent + results.bytes_sent,
                errors: nodes.iter().map(|node| node.stats.errors).sum(),
            },
            files: jobs.iter().filter_map(file_report).collect(),
            elapsed_s: elapsed.as_secs_f64(),
            leaked: Vec::new(),
        };
        Finished {
            report,
            timeline: self.chronicle.into_timeline(),
            interrupted: !self.ledger.is_complete(),
            nodes: nodes
                .into_iter()
                .filter(|node| node.health != Health::Dead)
                .collect(),
            jobs: self.ledger.into_jobs(),
        }
    }
}

fn why(letter: &DeadLetter) -> String {
    let last = match letter.reason {
        DeadReason::Crashed => "the last worker that took it died, too",
        DeadReason::Buried => "a worker could not read the task",
        DeadReason::Nacked => "the last worker that took it gave it back",
        _ => "the last worker that took it did not finish",
    };
    format!("given up at attempt {}: {last}", letter.attempts)
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
            ending: Ending::Close,
        };
        let run = || run(plan, &Interrupts::default(), &mut Fainting);
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        let namespace = wiring::namespace_of_run().unwrap();
        assert!(!namespace.path().exists());
    }
}
