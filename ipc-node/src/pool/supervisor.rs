//! The thread that owns the workers. It starts them, notices when they end, and decides what
//! follows.
//!
//! It sleeps in `poll` on the workers' pidfds, on a pipe through which other threads wake it, and
//! on one that SIGTERM writes to. It also wakes at the next due time, if there is one. It is one
//! permanent thread for the life of the pool.

mod adopted;
mod ending;
mod exits;
mod over;

use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ipc_queue::ControlError;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use adopted::Adopted;
pub(super) use over::Over;

use super::job_error::JobError;
use super::letters::Letters;
use super::program::{Body, Program, explain};
use super::restart::Restarts;
use super::sigterm::Sigterm;
use super::state::{Shared, Worker};
use super::wire::WorkerConfig;

/// The reason for the end of a pool without errors.
pub(super) const DRAINED: &str = "it was drained";
/// The interval for checking memory, full pipes, and problems that are not resolved yet.
const LOOK: Duration = Duration::from_millis(50);
/// The interval for checking something that must happen within a moment.
const SOON: Duration = Duration::from_millis(2);

pub(super) struct Supervisor {
    shared: Arc<Shared>,
    program: Program,
    /// One for each wanted worker.
    places: Vec<Slot>,
    /// The number of places whose first worker was started.
    places_used: usize,
    restarts: Restarts,
    next_start: u64,
    letters: Letters,
    woken: PipeReader,
    sigterm: Option<Sigterm>,
    drain_by: Option<Instant>,
    adopted: Adopted,
    /// The reason why the job queue is not closed yet, although the pool drains.
    not_closed: Option<ControlError>,
    /// Workers that ended, until all their reports were handled.
    ended: Vec<Ended>,
    /// The number of reports handled, and the time of the last change of that number.
    silence: (u64, Instant),
    /// The time at which no worker was left while jobs were unanswered.
    alone_since: Option<Instant>,
}

/// A worker's slot in the pool.
enum Slot {
    Running(u64, Body, Option<Killed>),
    /// The time at which to start a worker.
    Empty(Instant),
    /// No worker will be started here any more.
    Done,
}

/// The reason why we killed a worker.
#[derive(Clone, Debug)]
struct Killed(String);

struct Ended {
    start: u64,
    status: ExitStatus,
    note: String,
    last_words: String,
    slot: usize,
    /// The number of handled reports at which all reports of this worker are handled.
    said: u64,
}

impl Supervisor {
    pub(super) fn new(
        shared: Arc<Shared>,
        program: Program,
        woken: PipeReader,
    ) -> io::Result<Self> {
        let limits = &shared.limits;
        let now = Instant::now();
        let sigterm = limits.sigterm_drains.then(Sigterm::catch).transpose()?;
        Ok(Self {
            program,
            places: (0..shared.wanted_workers())
                .map(|_| Slot::Empty(now))
                .collect(),
            places_used: 0,
            restarts: Restarts::new(limits.intensity, limits.backoff),
            next_start: shared.config.start,
            letters: Letters::default(),
            woken,
            sigterm,
            drain_by: None,
            adopted: Adopted::new(&shared),
            not_closed: None,
            ended: Vec::new(),
            silence: (0, now),
            alone_since: None,
            shared,
        })
    }

    pub(super) fn run(mut self) {
        let reason = loop {
            if let Some(reason) = self.look() {
                break reason;
            }
            self.sleep();
        };
        let reason = self.reason_for_end(reason);
        super::events::ended(&self.shared.config, &reason);
        self.end(reason);
    }

    /// Does everything that is due. Returns the reason for the end of the pool, if it ends.
    fn look(&mut self) -> Option<String> {
        let now = Instant::now();
        self.hear_sigterm();
        let (draining, kill, trouble) = {
            let mut state = self.shared.state();
            if std::mem::take(&mut state.worked) {
                self.restarts.worked();
            }
            (state.draining, state.kill, state.trouble.clone())
        };
        if kill {
            return Some("it was dropped, or told twice to end".to_owned());
        }
        if let Some(trouble) = trouble {
            return Some(trouble);
        }
        if draining {
            self.drain(now);
        }
        self.reap();
        self.reap_adopted(now);
        self.keep_limits(now);
        let trouble = self.judge_the_ended(now);
        self.letters.look(&self.shared, now);
        self.expire(now);
        if trouble.is_some() {
            return trouble;
        }
        if draining && self.drain_by.is_some_and(|by| now >= by) {
            return Some(self.why_drain_failed());
        }
        let reason = self.end_without_workers(draining, now);
        if reason.is_some() {
            return reason;
        }
        let first = self.next_start;
        self.add_places(now);
        let trouble = self.start_workers(now);
        self.report_starts(first);
        trouble
    }

    fn report_starts(&self, first: u64) {
        let state = self.shared.state();
        let started = state.workers.iter().filter(|(start, _)| **start >= first);
        let pids: Vec<u32> = started.map(|(_, worker)| worker.pid).collect();
        drop(state);
        for pid in pids {
            super::events::worker_started(&self.shared.config, pid);
        }
    }

    fn add_places(&mut self, now: Instant) {
        let wanted = self.shared.wanted_workers().max(self.places.len());
        self.places.resize_with(wanted, || Slot::Empty(now));
    }

    fn start_workers(&mut self, now: Instant) -> Option<String> {
        for (index, slot) in self.places.iter_mut().enumerate() {
            let Slot::Empty(at) = slot else {
                continue;
            };
            if *at > now {
                continue;
            }
            let start = self.next_start;
            self.next_start += 1;
            let config = WorkerConfig {
                start,
                name: format!("{}-{}", self.shared.config.name, index + 1),
                ..self.shared.config.clone()
            };
            // Locked until the worker is in the table, so that its reports find it there.
            let mut state = self.shared.state();
            match self.program.start(&config, &self.shared.cancellations) {
                Ok(body) => {
                    state.restarts += u64::from(index < self.places_used);
                    self.places_used = self.places_used.max(index + 1);
                    let mut worker = Worker::new(config.name, body.pid());
                    // Only its pool gets the reports of a remote worker.
                    worker.ready = self.shared.is_remote();
                    state.workers.insert(start, worker);
                    *slot = Slot::Running(start, body, None);
                }
                Err(error) => match self.restarts.died_idle(now) {
                    Some(pause) => *slot = Slot::Empty(now + pause),
                    None => return Some(format!("no worker can be started: {error}")),
                },
            }
        }
        None
    }

    /// Records the ends of workers whose pidfds are readable.
    fn reap(&mut self) {
        let before = self.ended.len();
        for (index, slot) in self.places.iter_mut().enumerate() {
            let Slot::Running(start, body, killed) = slot else {
                continue;
            };
            if !is_ready(body) {
                continue;
            }
            let Ok(status) = body.reap() else {
                continue;
            };
            if let Body::Process(child) = body {
                self.adopted.worker_ended(child.pid());
            }
            self.shared.cancellations.dismiss(*start);
            let note = killed.take().map(|Killed(why)| why);
            let was_ready = self
                .shared
                .state()
                .workers
                .get(start)
                .is_some_and(|worker| worker.ready);
            self.ended.push(Ended {
                start: *start,
                status,
                note: note.unwrap_or_else(|| explain(status)),
                last_words: if status.success() && was_ready {
                    String::new()
                } else {
                    body.last_words()
                },
                slot: index,
                said: 0,
            });
            // Until the exit handling decides what follows.
            *slot = Slot::Done;
        }
        if self.ended.len() > before && !self.shared.is_remote() {
            let said = self.shared.said_so_far();
            self.ended[before..]
                .iter_mut()
                .for_each(|ended| ended.said = said);
            self.silence = (self.shared.heard_so_far(), Instant::now());
        }
    }

    fn reap_adopted(&mut self, now: Instant) {
        let workers = self.places.iter().filter_map(|slot| match slot {
            Slot::Running(_, Body::Process(child), _) => Some(child.pid()),
            _ => None,
        });
        self.adopted.reap(workers, now);
    }

    /// Kills workers that exceed a limit of time or memory.
    fn keep_limits(&mut self, now: Instant) {
        let limits = &self.shared.limits;
        for slot in &mut self.places {
            let Slot::Running(start, body, killed @ None) = slot else {
                continue;
            };
            let mut state = self.shared.state();
            let is_condemned = state.condemned.contains(start);
            state.condemned.retain(|condemned| condemned != start);
            let Some(worker) = state.workers.get(start) else {
                continue;
            };
            let running = worker.running;
            let slow_start =
                !worker.ready && now.saturating_duration_since(worker.started_at) >= limits.startup;
            drop(state);
            let too_large = limits
                .max_memory
                .and_then(|most| Some((body.resident_bytes()?, most)))
                .filter(|(used, most)| used > most);
            let why = match (running, limits.job, too_large) {
                _ if is_condemned => "`Pool::kill_worker` was called for it".to_owned(),
                _ if slow_start => format!("it was not ready within {:?}", limits.startup),
                (Some(job), Some(most), _) if job.time(now) >= most => {
                    self.shared.cancellations.unwanted(job.ticket);
                    let after = most;
                    self.shared.answer(job.ticket, JobError::TimedOut { after });
                    format!("its job took longer than {most:?}")
                }
                (Some(job), ..) if job.kill_at.is_some_and(|at| at <= now) => {
                    format!(
                        "its job was cancelled, and not ended within {:?}",
                        limits.grace
                    )
                }
                (.., Some((used, most))) => {
                    format!("it used {used} bytes of memory, more than {most}")
                }
                _ => continue,
            };
            *killed = Some(Killed(why));
            body.kill();
        }
    }

    /// Answers the jobs that should have begun by now.
    fn expire(&self, now: Instant) {
        if !self.shared.expiring.load(Ordering::SeqCst) {
            return;
        }
        let mut late = Vec::new();
        for (ticket, entry) in self.shared.tickets.lock().iter() {
            if let Some((by, after)) = entry.begin_by
                && !entry.begun
                && by <= now
            {
                late.push((*ticket, after));
            }
        }
        for (ticket, after) in late {
            self.shared.cancellations.unwanted(ticket);
            self.shared.answer(ticket, JobError::Expired { after });
        }
    }

    /// Sleeps until something happens or is due.
    fn sleep(&mut self) {
        let due = self.next_due();
        let timeout = due.map_or(PollTimeout::NONE, |due| {
            let left = due.saturating_duration_since(Instant::now());
            // Rounded up, so that it does not wake too early again and again.
            let millis = left.as_millis() + 1;
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        });
        let pidfds = self.places.iter().filter_map(|slot| match slot {
            Slot::Running(_, body, _) => Some(body.as_fd()),
            _ => None,
        });
        let others = [
            Some(self.woken.as_fd()),
            self.sigterm.as_ref().map(AsFd::as_fd),
        ];
        let fds = pidfds.chain(others.into_iter().flatten());
        let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let _ = poll(&mut fds, timeout);
        if is_ready(&self.woken) {
            let _ = self.woken.read(&mut [0; 64]);
            self.shared.heard();
        }
    }

    /// Returns the next due time.
    fn next_due(&self) -> Option<Instant> {
        let now = Instant::now();
        let limits = &self.shared.limits;
        let mut due: Vec<Instant> = self.drain_by.into_iter().collect();
        if !self.ended.is_empty() {
            due.push(now + SOON);
        }
        let looks =
            limits.max_memory.is_some() || self.alone_since.is_some() || self.not_closed.is_some();
        if looks || self.shared.cancellations.flush() {
            due.push(now + LOOK);
        }
        due.extend(self.letters.due(&self.shared, now));
        due.extend(self.adopted.due());
        for slot in &self.places {
            if let Slot::Empty(at) = slot {
                due.push(*at);
            }
        }
        if self.shared.expiring.load(Ordering::SeqCst) {
            let tickets = self.shared.tickets.lock();
            let open = tickets
                .values()
                .filter(|entry| !entry.begun && entry.answer.is_none());
            due.extend(open.filter_map(|entry| Some(entry.begin_by?.0)));
        }
        let state = self.shared.state();
        for worker in state.workers.values() {
            let starting = (!worker.ready).then(|| worker.started_at.checked_add(limits.startup));
            due.extend(starting.flatten());
            let Some(running) = worker.running else {
                continue;
            };
            due.extend(running.kill_at);
            due.extend(limits.job.and_then(|most| running.since.checked_add(most)));
        }
        due.into_iter().min()
    }

    fn hear_sigterm(&mut self) {
        let Some(sigterm) = &mut self.sigterm else {
            return;
        };
        let count = sigterm.count();
        let mut state = self.shared.state();
        for _ in 0..count {
            (state.kill, state.draining) = (state.draining, true);
        }
    }

    fn end(mut self, reason: String) {
        self.shared.state().ended = Some(reason.clone());
        let is_remote = self.shared.is_remote();
        if !is_remote {
            // No more jobs are accepted, and no thread waits to submit one.
            let _ = self.shared.queues.jobs.transport().close();
        }
        for slot in &self.places {
            if let Slot::Running(_, body, _) = slot {
                body.kill();
            }
        }
        if !is_remote {
            // Closed now, because that ends a thread worker that waits for a job. Closing also
            // helps if another process had already removed the queue's file.
            let _ = self.shared.queues.answers.transport().close();
            let last_stats = self.shared.queues.stats().ok();
            self.shared.state().last_stats = last_stats;
            if let Err(error) = self.shared.queues.remove(&self.shared.config) {
                super::events::queues_left(&self.shared.config, &error);
                let left = format!("{reason}, but its queues could not be removed: {error}");
                self.shared.state().ended = Some(left);
            }
        }
        for slot in self.places.drain(..) {
            if let Slot::Running(_, Body::Process(child), _) = slot {
                self.adopted.worker_ended(child.pid());
            }
        }
        self.adopted.reap_last();
        self.shared.cancellations.dismiss_all();
        self.shared.state().workers.clear();
        self.shared.answer_all(&reason);
    }
}

fn is_ready(fd: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
}
