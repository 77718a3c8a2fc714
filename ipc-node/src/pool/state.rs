//! The state that a pool's threads share: the supervisor, the reader of answers, and the
//! submitters.

use std::collections::HashMap;
use std::io::{PipeWriter, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipc_queue::{ByteSender, ControlError, QueueStats};

use super::cancellations::Cancellations;
use super::dead_letters::DeadLetterList;
use super::job_error::JobError;
use super::job_events::JobEvent;
use super::limits::{Limits, OnProgress, OnWorkerExit};
use super::queues::Queues;
use super::ticket::{Canceller, Tickets};
use super::wire::{Blob, REMOTE, What, WorkerConfig};
use super::worker_exit::WorkerExit;

/// One started worker.
#[derive(Debug)]
pub(super) struct Worker {
    pub name: String,
    pub pid: u32,
    pub started_at: Instant,
    pub ready: bool,
    /// It reported that it ends now.
    pub leaving: bool,
    pub running: Option<Running>,
    pub jobs_done: u64,
}

impl Worker {
    /// The report about its unexpected end.
    pub(super) fn exit(&self, note: &str) -> WorkerExit {
        let now = Instant::now();
        WorkerExit {
            worker: self.name.clone(),
            pid: self.pid,
            job: self.running.map(|job| (job.ticket, job.time(now))),
            note: note.to_owned(),
        }
    }
}

/// A job that a worker has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    pub ticket: u64,
    pub since: Instant,
    /// Set when the job was cancelled: the time at which its worker is killed.
    pub kill_at: Option<Instant>,
}

/// A job whose worker died, until its outcome is known.
#[derive(Clone, Debug)]
pub(super) struct Orphan {
    pub signal: Option<i32>,
    pub note: String,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// By start number.
    pub workers: HashMap<u64, Worker>,
    /// By ticket.
    pub orphans: HashMap<u64, Orphan>,
    /// Workers to be killed, by start number.
    pub condemned: Vec<u64>,
    pub draining: bool,
    /// The counters of the queues at the time of their removal.
    pub last_stats: Option<(QueueStats, QueueStats)>,
    /// The reason why the pool cannot continue.
    pub trouble: Option<String>,
    /// The pool must end without waiting any longer.
    pub kill: bool,
    /// The reason why the pool ended, if it has.
    pub ended: Option<String>,
    /// The pool ended, its queues are removed, and all jobs are answered.
    pub is_over: bool,
    pub restarts: u64,
    /// Answers to jobs that already had one.
    pub late_answers: u64,
    /// Jobs finished since the supervisor's last pass.
    pub worked: bool,
}

pub(super) struct Shared {
    pub config: WorkerConfig,
    pub limits: Limits,
    pub queues: Arc<Queues>,
    pub cancellations: Arc<Cancellations>,
    pub tickets: Arc<Tickets>,
    pub dead_letters: DeadLetterList,
    pub next_ticket: AtomicU64,
    /// The number of workers that are started or should be. Only grows.
    wanted: AtomicUsize,
    /// Set when any job has a time by which it must begin.
    pub expiring: AtomicBool,
    /// The number of jobs that a dead pool left.
    pub leftover_jobs: u64,
    pub on_progress: Option<Box<OnProgress>>,
    pub on_worker_exit: Option<Box<OnWorkerExit>>,
    state: Mutex<State>,
    /// Notified when the supervisor is done.
    over: Condvar,
    /// The number of reports handled.
    heard: AtomicU64,
    waker: PipeWriter,
    woken: AtomicBool,
    /// Raised by the supervisor if it will not look for dead letters unless it is woken.
    is_idle: AtomicBool,
    /// A sender of jobs that no thread uses now.
    idle_sender: Mutex<Option<ByteSender>>,
}

impl Shared {
    pub(super) fn new(
        config: WorkerConfig,
        limits: Limits,
        queues: Arc<Queues>,
        waker: PipeWriter,
    ) -> Self {
        Self {
            config,
            dead_letters: DeadLetterList::new(limits.dead_letters),
            wanted: AtomicUsize::new(if limits.on_demand { 1 } else { limits.workers }),
            limits,
            queues,
            cancellations: Arc::default(),
            tickets: Arc::default(),
            next_ticket: AtomicU64::new(1),
            expiring: AtomicBool::new(false),
            leftover_jobs: 0,
            on_progress: None,
            on_worker_exit: None,
            state: Mutex::default(),
            over: Condvar::new(),
            heard: AtomicU64::new(0),
            waker,
            woken: AtomicBool::new(false),
            is_idle: AtomicBool::new(true),
            idle_sender: Mutex::default(),
        }
    }

    /// Returns the number of workers that are started or should be.
    pub(super) fn wanted_workers(&self) -> usize {
        self.wanted.load(Ordering::SeqCst)
    }

    /// Has a worker started for each of this many jobs, up to the limit.
    pub(super) fn want_workers(&self, jobs: usize) {
        if !self.limits.on_demand {
            return;
        }
        let wanted = jobs.min(self.limits.workers);
        if self.wanted_workers() < wanted
            && self.wanted.fetch_max(wanted, Ordering::SeqCst) < wanted
        {
            self.wake_supervisor();
        }
    }

    /// Returns `true` if the workers are for a pool of another process.
    pub(super) fn is_remote(&self) -> bool {
        self.config.is_remote()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to drain. For a pool that has ended, that is not an error.
    pub(super) fn close(&self) -> Result<(), ControlError> {
        self.state().draining = true;
        let closed = self.queues.jobs.transport().close();
        self.wake_supervisor();
        // The supervisor may already have closed and removed the queue.
        closed.or_else(|error| self.state().ended.as_ref().map(|_| ()).ok_or(error))
    }

    /// Records that the supervisor is done.
    pub(super) fn set_over(&self) {
        self.state().is_over = true;
        self.over.notify_all();
    }

    /// Waits until the supervisor is done.
    pub(super) fn wait_until_over(&self) {
        let running = |state: &mut State| !state.is_over;
        drop(
            self.over
                .wait_while(self.state(), running)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Wakes the supervisor.
    pub(super) fn wake_supervisor(&self) {
        // Only the first caller since the supervisor's last pass writes to the pipe.
        if !self.woken.swap(true, Ordering::SeqCst) {
            let _ = (&self.waker).write_all(&[0]);
        }
    }

    /// Counts a report that was handled.
    pub(super) fn heard_one(&self) {
        self.heard.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns the number of reports handled.
    pub(super) fn heard_so_far(&self) -> u64 {
        self.heard.load(Ordering::SeqCst)
    }

    /// Returns at least the number that [`heard_so_far`](Self::heard_so_far) will have once all
    /// present reports are handled.
    pub(super) fn said_so_far(&self) -> u64 {
        match self.queues.answers.transport().stats() {
            // Read last, so a report that is handled in between counts twice rather than not at
            // all.
            Ok(waiting) => waiting.ready + waiting.leased + self.heard_so_far(),
            // The number is unknown, so only an empty queue shows that all were handled.
            Err(_) => u64::MAX,
        }
    }

    /// Records whether the supervisor will look for dead letters only if it is woken.
    pub(super) fn set_idle(&self, is_idle: bool) {
        self.is_idle.store(is_idle, Ordering::SeqCst);
    }

    /// Makes sure that the supervisor looks for dead letters: a job was entered into the table.
    pub(super) fn wake_if_idle(&self) {
        if self.is_idle.swap(false, Ordering::SeqCst) {
            self.wake_supervisor();
        }
    }

    /// Sends a job. Making a sender takes longer than sending, so one is kept for the next job.
    pub(super) fn with_sender<R>(&self, send: impl FnOnce(&ByteSender) -> R) -> R {
        let idle = || {
            self.idle_sender
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let sender = idle().take();
        let sender = sender.unwrap_or_else(|| self.queues.jobs.sender());
        let sent = send(&sender);
        *idle() = Some(sender);
        sent
    }

    /// Called by the supervisor when it wakes: the next wake-up writes to the pipe again.
    pub(super) fn heard(&self) {
        self.woken.store(false, Ordering::SeqCst);
    }

    /// Handles a worker's report.
    pub(super) fn hear(&self, start: u64, what: What) {
        if matches!(what, What::Ready { .. }) {
            self.report_ready(start);
        }
        let mut state = self.state();
        let is_remote = start & REMOTE != 0;
        let worker = state.workers.get_mut(&start);
        match what {
            What::Ready { name, pid } if is_remote => {
                let mut remote = Worker::new(name, pid);
                remote.ready = true;
                state.workers.insert(start, remote);
            }
            What::Ready { .. } => {
                worker.into_iter().for_each(|worker| worker.ready = true);
                self.wake_supervisor();
            }
            // No process here sees its end.
            What::Leaving if is_remote => drop(state.workers.remove(&start)),
            What::Leaving => worker.into_iter().for_each(|worker| worker.leaving = true),
            What::Started { ticket, .. } => self.hear_begin(&mut state, start, ticket),
            What::Progress { ticket, done, of } => {
                drop(state);
                if let Some(entry) = self.tickets.lock().get_mut(&ticket) {
                    entry.progress = (done, of);
                }
                if let Some(tell) = &self.on_progress {
                    tell(ticket, done, of);
                }
            }
            What::Answered {
                ticket,
                attempt,
                answer,
            } => {
                let answer = answer.map(|Blob(answer)| answer);
                self.hear_answer(&mut state, start, ticket, (attempt, answer));
            }
            What::Retries {
                ticket,
                attempt,
                why,
            } => {
                if let Some(worker) = worker {
                    worker.running = None;
                }
                state.worked = true;
                state.orphans.remove(&ticket);
                drop(state);
                super::events::job_retries(&self.config, ticket, attempt, &why);
            }
            What::Skipped { ticket } => {
                worker.into_iter().for_each(|worker| worker.running = None);
                state.orphans.remove(&ticket);
                self.cancellations.done(ticket);
            }
        }
    }

    fn hear_begin(&self, state: &mut State, start: u64, ticket: u64) {
        let since = Instant::now();
        let wanted = self.begins(ticket);
        let running = Running {
            ticket,
            since,
            // The job was cancelled while it began, and the worker did not see that.
            kill_at: since.checked_add(self.limits.grace).filter(|_| !wanted),
        };
        state.begun_anew(ticket);
        if let Some(worker) = state.workers.get_mut(&start) {
            worker.running = Some(running);
        }
        if self.limits.job.is_some() || !wanted {
            self.wake_supervisor(); // The time limit starts now.
        }
    }

    fn hear_answer(
        &self,
        state: &mut State,
        start: u64,
        ticket: u64,
        (attempts, answer): (u8, Result<Vec<u8>, String>),
    ) {
        if let Some(worker) = state.workers.get_mut(&start) {
            if let Some(running) = worker.running.take() {
                super::events::answered(&self.config, running.since.elapsed());
            }
            worker.jobs_done += 1;
        }
        state.worked = true;
        state.orphans.remove(&ticket);
        self.cancellations.done(ticket);
        let answer = answer.map_err(|message| JobError::Failed { message, attempts });
        self.report_failure(ticket, &answer);
        let mut tickets = self.tickets.lock();
        let first = self.tickets.answer(&mut tickets, ticket, answer);
        state.late_answers += u64::from(!first);
    }

    fn report_ready(&self, start: u64) {
        let pid = self.state().workers.get(&start).map(|worker| worker.pid);
        if let Some(pid) = pid {
            super::events::worker_ready(&self.config, pid);
        }
    }

    /// Records that a job begins. Returns `true` if it is still wanted.
    fn begins(&self, ticket: u64) -> bool {
        let mut entries = self.tickets.lock();
        entries.get_mut(&ticket).is_some_and(|entry| {
            if entry.is_streamed && !entry.begun {
                self.tickets.stream.push(JobEvent::Begun { job: ticket });
            }
            entry.begun = true;
            entry.answer.is_none()
        })
    }

    /// Answers a job on behalf of its workers.
    pub(super) fn answer(&self, ticket: u64, error: JobError) -> bool {
        let mut entries = self.tickets.lock();
        let told = error.clone();
        let first = self.tickets.answer(&mut entries, ticket, Err(error));
        drop(entries);
        if first {
            super::events::job_without_result(&self.config, ticket, &told);
        }
        first
    }

    /// Answers all open jobs, because the pool ended.
    pub(super) fn answer_all(&self, reason: &str) {
        let open: Vec<u64> = self.tickets.lock().keys().copied().collect();
        for ticket in open {
            let reason = reason.to_owned();
            self.answer(ticket, JobError::PoolEnded { reason });
        }
    }

    fn report_failure(&self, ticket: u64, answer: &Result<Vec<u8>, JobError>) {
        if let Err(failed) = answer {
            super::events::job_without_result(&self.config, ticket, failed);
        }
    }
}

impl Canceller for Shared {
    fn cancel(&self, ticket: u64) {
        if !self.answer(ticket, JobError::Cancelled) {
            return;
        }
        self.cancellations.unwanted(ticket);
        let kill_at = Instant::now().checked_add(self.limits.grace);
        let mut state = self.state();
        let running = state
            .workers
            .values_mut()
            .filter_map(|worker| worker.running.as_mut());
        for running in running.filter(|running| running.ticket == ticket) {
            running.kill_at = kill_at;
        }
        drop(state);
        self.wake_supervisor();
    }
}

impl Worker {
    /// Returns the entry of a worker that was just started.
    pub(super) fn new(name: String, pid: u32) -> Self {
        Self {
            name,
            pid,
            started_at: Instant::now(),
            ready: false,
            leaving: false,
            running: None,
            jobs_done: 0,
        }
    }
}

impl State {
    /// Returns the worker that has this job, and its start number.
    pub(super) fn worker_at(&self, ticket: u64) -> Option<(u64, &Worker)> {
        let mut workers = self.workers.iter();
        let has_job = |worker: &Worker| worker.running.is_some_and(|job| job.ticket == ticket);
        let (start, worker) = workers.find(|(_, worker)| has_job(worker))?;
        Some((*start, worker))
    }

    /// Forgets which worker had this job, because that worker is gone.
    pub(super) fn forget_worker_at(&mut self, ticket: u64) {
        if let Some((start, _)) = self.worker_at(ticket) {
            self.workers.remove(&start);
        }
    }

    /// Records that a worker has this job now, and no other one does.
    fn begun_anew(&mut self, ticket: u64) {
        self.orphans.remove(&ticket);
        let others = self.workers.values_mut();
        for other in others.filter(|other| other.running.is_some_and(|job| job.ticket == ticket)) {
            other.running = None;
        }
    }
}

/// The time for which a worker has had its job.
impl Running {
    pub(super) fn time(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }
}
