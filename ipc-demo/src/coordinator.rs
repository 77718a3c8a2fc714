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
use ipc_queue::transport::{Holding, Wait};
use ipc_queue::{ByteSender, Kind, MessageId, Receiver, RecvError, SendFailure};
use ipc_shm::clock;

use crate::crew::{self, Crew};
use crate::report::{FileReport, Report, Transfer, WorkerReport};
use crate::source::{Done, Job, Step};
use crate::task::{Draft, Header, Outcome};
use crate::timeline::{Kill, Outcome as SpanOutcome, Redelivery, TaskSpan, Timeline};
use crate::wiring::{Transport, Wiring};

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
    let namespace = crate::wiring::namespace_of_run()?;
    let transport = plan.transport;
    let outcome = run_in(plan, namespace.clone(), interrupts, audience);
    let leaked = Wiring::remove(transport, &namespace);
    let mut finished = outcome?;
    finished.report.leaked = leaked.context("cleaning up")?;
    Ok(finished)
}

fn run_in(
    plan: Plan,
    namespace: ipc_shm::Namespace,
    interrupts: &Interrupts,
    audience: &mut dyn Audience,
) -> Result<Finished> {
    // A killed delivery counts as an attempt, and a task may be picked to die several times.
    let attempts = u8::try_from(plan.kills.saturating_add(5))
        .unwrap_or(u8::MAX)
        .min(250);
    let wiring = Wiring::create(plan.transport, namespace, attempts)?;
    let node = crew::join(&wiring, "coordinator")?;
    for name in crate::wiring::remove_dead_runs(wiring.namespace())? {
        audience.note(&format!("removed what a killed run left behind: {name}"));
    }
    let crew = Crew::start(&wiring, plan.transport, plan.workers)?;
    let started = Instant::now();
    let mut run = Run {
        doom: Doom::new(&plan.jobs, plan.kills),
        backlog: (0..plan.jobs.len())
            .rev()
            .filter(|job| plan.jobs[*job].result().is_none())
            .collect(),
        sender: wiring.tasks.sender(),
        results: wiring.results.receiver(),
        jobs: plan.jobs,
        outstanding: 0,
        completed: 0,
        by_worker: HashMap::new(),
        timeline: Timeline::default(),
        started_at: clock::monotonic(),
        wiring: &wiring,
        node: &node,
        crew,
        audience,
        interrupts,
    };
    run.hand_out_and_collect()?;
    run.dismiss(plan.ending)?;
    Ok(run.finish(started.elapsed()))
}

/// What became of a part that was to be sent.
enum Written {
    Sent { message: MessageId, bytes: usize },
    NoRoom,
    Unreadable(String),
}

struct Run<'a> {
    wiring: &'a Wiring,
    node: &'a Node,
    sender: ByteSender,
    results: Receiver<Outcome>,
    crew: Crew,
    jobs: Vec<Job>,
    /// Jobs with a part to be sent, the next one last.
    backlog: Vec<usize>,
    /// Parts sent and not answered.
    outstanding: usize,
    /// Answers that came, repeated ones included.
    completed: u64,
    by_worker: HashMap<String, u64>,
    doom: Doom,
    timeline: Timeline,
    started_at: Duration,
    audience: &'a mut dyn Audience,
    interrupts: &'a Interrupts,
}

impl Run<'_> {
    fn hand_out_and_collect(&mut self) -> Result<()> {
        let all = self.jobs.len();
        while self.done() < all {
            match self.interrupts.load(Ordering::Relaxed) {
                0 => {}
                // Drain: what was sent is finished, nothing more is sent.
                1 if self.outstanding > 0 => self.backlog.clear(),
                _ => break,
            }
            while let Some(job) = self.backlog.pop() {
                if !self.send(job)? {
                    self.backlog.push(job);
                    break;
                }
            }
            self.collect()?;
            self.carry_out_kills();
            self.replace_the_lost()?;
        }
        Ok(())
    }

    fn done(&self) -> usize {
        self.jobs
            .iter()
            .filter(|job| job.result().is_some())
            .count()
    }

    /// Sends a job's next part. `false`: there is no room for it now.
    fn send(&mut self, index: usize) -> Result<bool> {
        let deaths = self.doom.deaths_of(index, self.jobs[index].part);
        match self.write(index, deaths)? {
            Written::NoRoom => return Ok(false),
            Written::Unreadable(reason) => {
                self.node.counters().error();
                self.jobs[index].fail(reason);
                self.doom.forget(index);
            }
            Written::Sent { message, bytes } => {
                self.node.counters().sent(bytes);
                self.doom.sent(index, deaths, message);
                self.outstanding += 1;
            }
        }
        Ok(true)
    }

    /// Reads a job's next part straight into the memory that a worker will read.
    fn write(&self, index: usize, deaths: u8) -> Result<Written> {
        let job = &self.jobs[index];
        let draft = Draft::new(&Header {
            task: index as u64,
            part: job.part,
            work: job.work(),
            at_least: if deaths > 0 {
                Doom::LONG
            } else {
                job.at_least()
            },
            until_attempt: if deaths > 0 { deaths } else { u8::MAX },
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

    /// Takes in every answer that is there, waiting a little for the first.
    fn collect(&mut self) -> Result<()> {
        // Short enough for a prompt replacement of the dead, and for a second try at a full queue.
        const PATIENCE: Duration = Duration::from_millis(20);
        let mut wait = PATIENCE;
        loop {
            let outcome = match self.results.recv_timeout(wait) {
                Ok(delivery) => {
                    self.node
                        .counters()
                        .received(size_of::<Outcome>(), delivery.attempt());
                    let outcome = delivery.data().cloned();
                    delivery.ack().context("acking a result")?;
                    outcome
                }
                Err(RecvError::TimedOut { .. }) => return Ok(()),
                Err(error @ RecvError::Decode { .. }) => {
                    self.node.counters().error();
                    self.audience.note(&error.to_string());
                    None
                }
                Err(error) => return Err(error).context("receiving a result"),
            };
            if let Some(outcome) = outcome {
                self.take_in(outcome);
            }
            wait = Duration::ZERO;
        }
    }

    fn take_in(&mut self, outcome: Outcome) {
        self.completed += 1;
        self.note_span(&outcome);
        let Some(job) = usize::try_from(outcome.task)
            .ok()
            .filter(|job| *job < self.jobs.len())
        else {
            return;
        };
        match self.jobs[job].answered(outcome.part, outcome.answer) {
            Step::Repeated => return,
            Step::NextPart => self.backlog.push(job),
            Step::Done => {
                *self.by_worker.entry(outcome.worker).or_default() += 1;
                self.audience.progress(self.done(), self.jobs.len());
            }
        }
        self.outstanding -= 1;
    }

    fn note_span(&mut self, outcome: &Outcome) {
        let what = self
            .jobs
            .get(outcome.task as usize)
            .map(Job::name)
            .unwrap_or_default();
        if outcome.attempt > 1 {
            self.timeline.add_redelivery(Redelivery {
                worker: outcome.worker.clone(),
                at_s: self.seconds(outcome.began),
                what: what.clone(),
            });
        }
        self.timeline.add_task(TaskSpan {
            worker: outcome.worker.clone(),
            start_s: self.seconds(outcome.began),
            end_s: self.seconds(outcome.ended),
            what,
            outcome: SpanOutcome::Acked,
        });
    }

    fn seconds(&self, at: Duration) -> f64 {
        at.saturating_sub(self.started_at).as_secs_f64()
    }

    /// Kills whoever holds a task that is to be killed over.
    fn carry_out_kills(&mut self) {
        if self.doom.pending.is_empty() {
            return;
        }
        for (job, holding, began) in self.doom.victims(&self.wiring.tasks.transport().holdings()) {
            let Some(worker) = self.crew.kill(&holding) else {
                continue;
            };
            let at = clock::monotonic();
            self.timeline.add_task(TaskSpan {
                worker: worker.clone(),
                start_s: self.seconds(began),
                end_s: self.seconds(at),
                what: self.jobs[job].name(),
                outcome: SpanOutcome::Lost,
            });
            self.timeline.add_kill(Kill {
                worker,
                at_s: self.seconds(at),
                pid: holding.pid,
            });
        }
    }

    fn replace_the_lost(&mut self) -> Result<()> {
        for loss in self.crew.tend()? {
            self.audience.note(&format!(
                "{} was lost ({}); replaced",
                loss.worker, loss.how
            ));
        }
        Ok(())
    }

    /// Tells the workers that it is over and waits for them.
    fn dismiss(&mut self, ending: Ending) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(10);
        self.crew.stop_replacing();
        if self.interrupts.load(Ordering::Relaxed) > 1 {
            self.crew.wait(Duration::ZERO);
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
        } else {
            self.wiring.tasks.transport().close();
        }
        self.crew.wait(PATIENCE);
        Ok(())
    }

    fn finish(self, elapsed: Duration) -> Finished {
        let nodes = Registry::open(self.wiring.namespace())
            .map(|registry| registry.nodes(Duration::from_secs(10)))
            .unwrap_or_default();
        let (tasks, results) = self.wiring.stats();
        let distinct = self
            .jobs
            .iter()
            .filter(|job| matches!(job.result(), Some(Ok(_))))
            .count();
        let worker = |worker: &crate::crew::Worker| WorkerReport {
            name: worker.name.clone(),
            pid: worker.pid,
            completed: self.by_worker.get(&worker.name).copied().unwrap_or(0),
            restarts: worker.restarts,
        };
        let report = Report {
            tasks: self.jobs.len() as u64,
            completed: self
                .jobs
                .iter()
                .filter(|job| job.result().is_some())
                .count() as u64,
            distinct: distinct as u64,
            redelivered: tasks.redelivered,
            dead_lettered: tasks.dead,
            workers: self.crew.workers().iter().map(worker).collect(),
            stats: Transfer {
                messages_sent: tasks.sent + results.sent,
                messages_received: tasks.received + results.received,
                bytes_transferred: tasks.bytes_sent + results.bytes_sent,
                errors: nodes.iter().map(|node| node.stats.errors).sum(),
            },
            files: self.jobs.iter().filter_map(file_report).collect(),
            elapsed_s: elapsed.as_secs_f64(),
            leaked: Vec::new(),
        };
        Finished {
            report,
            timeline: self.timeline,
            interrupted: self.jobs.iter().any(|job| job.result().is_none()),
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

/// The tasks over which workers are to be killed.
///
/// Such a task takes long, until it was killed over as often as planned; who holds it meanwhile is in the
/// middle of it for certain.
struct Doom {
    /// How often each chosen job's first part is to be killed over.
    chosen: HashMap<usize, u8>,
    /// Those sent: their message, the deaths due, and since when the present attempt has been seen to be held.
    pending: Vec<Condemned>,
}

struct Condemned {
    job: usize,
    message: MessageId,
    deaths: u8,
    /// The attempt that is held now, and since when.
    seen: Option<(u8, Duration)>,
    /// Attempts that were killed.
    killed: u8,
}

impl Doom {
    /// Longer than any kill takes to come.
    const LONG: Duration = Duration::from_secs(60);
    /// For how long a victim is left alone, so that it is in the middle of its task.
    const MIDDLE: Duration = Duration::from_millis(5);

    /// Chooses `kills` jobs at random, some more than once if there are fewer.
    fn new(jobs: &[Job], kills: usize) -> Self {
        let open: Vec<usize> = (0..jobs.len())
            .filter(|job| jobs[*job].result().is_none())
            .collect();
        let mut chosen = HashMap::new();
        let mut bag = Vec::new();
        for _ in 0..kills {
            if bag.is_empty() {
                bag.clone_from(&open);
                fastrand::shuffle(&mut bag);
            }
            if let Some(job) = bag.pop() {
                let deaths: &mut u8 = chosen.entry(job).or_default();
                *deaths = deaths.saturating_add(1);
            }
        }
        Self {
            chosen,
            pending: Vec::new(),
        }
    }

    fn deaths_of(&self, job: usize, part: u32) -> u8 {
        if part > 0 {
            return 0;
        }
        self.chosen.get(&job).copied().unwrap_or(0)
    }

    fn sent(&mut self, job: usize, deaths: u8, message: MessageId) {
        if deaths > 0 {
            self.chosen.remove(&job);
            self.pending.push(Condemned {
                job,
                message,
                deaths,
                seen: None,
                killed: 0,
            });
        }
    }

    fn forget(&mut self, job: usize) {
        self.chosen.remove(&job);
    }

    /// Who is in the middle of a task to be killed over: the job, the worker, and since when.
    fn victims(&mut self, holdings: &[Holding]) -> Vec<(usize, Holding, Duration)> {
        let now = clock::monotonic();
        let mut victims = Vec::new();
        for condemned in &mut self.pending {
            let Some(holding) = holdings
                .iter()
                .find(|holding| holding.message == condemned.message)
            else {
                continue;
            };
            if holding.attempt <= condemned.killed {
                continue; // Its death has not been noticed yet.
            }
            let since = match condemned.seen {
                Some((attempt, since)) if attempt == holding.attempt => since,
                _ => now,
            };
            condemned.seen = Some((holding.attempt, since));
            if now.saturating_sub(since) >= Self::MIDDLE {
                condemned.killed = holding.attempt;
                victims.push((condemned.job, holding.clone(), since));
            }
        }
        self.pending
            .retain(|condemned| condemned.killed < condemned.deaths);
        victims
    }
}
