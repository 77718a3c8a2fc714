//! The worker's side of a pool: runs handlers by name, in a process of its own or in a thread of
//! the pool's process.
//!
//! A process ends with its pool, and so do the programs it started: see `lifeline`.
//!
//! A worker publishes an answer before it acks the job. If it is killed in between, the job runs
//! again and causes a second answer, which the pool drops. It receives the next job without waiting
//! until a server confirms the ack.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt::{self, Display};
use std::io::{self, PipeReader, Write};
use std::panic::{self, AssertUnwindSafe};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use ipc_proto::{CodecError, Kind, codec};
use ipc_queue::{
    BatchAckError, ByteDelivery, ByteQueue, ByteReceiver, ByteSender, Nack, OwnedByteDelivery,
    QueueError, SendFailure, SendTimeoutError, SettleError, SettleFailure, Unavailable,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cancellations::{Cancellations, Inbox};
use super::error::PoolError;
use super::lifeline;
use super::outage::{self, Outage, is_temporary};
use super::retry::Attempts;
use super::wire::{self, Blob, Job, PLACE, Report, What, WorkerConfig};

/// The handlers of a worker, by name. The pool's program and its workers need the same set.
///
/// ```no_run
/// use ipc_node::pool::{Handlers, Pool};
///
/// let mut handlers = Handlers::new();
/// handlers.add("square", |n: u64, _| Ok::<_, String>(n * n));
/// handlers.work_if_worker(); // in a worker this does not return
///
/// let pool = Pool::builder().workers(4).start()?;
/// let ticket = pool.submit::<u64, u64>("square", &7)?;
/// assert_eq!(ticket.wait()?, 49);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct Handlers {
    by_name: HashMap<String, Box<Run>>,
}

/// The exit code of a program that panicked.
const PANICKED: i32 = 101;

type Run = dyn Fn(&[u8], &Context<'_>) -> Result<Vec<u8>, Failure> + Send + Sync;
type Trouble = Box<dyn std::error::Error + Send + Sync>;

/// A handler's access to the job that it runs.
pub struct Context<'a> {
    hold: Hold<'a>,
    worker: &'a Worker,
    ticket: u64,
    attempt: u8,
    content: &'a [u8],
    is_final: Cell<bool>,
}

/// The way in which an attempt at a job failed.
#[derive(Debug)]
enum Failure {
    /// The job cannot be begun, or its output cannot be sent: another attempt would not help.
    Unfit(String),
    /// The handler's error.
    Error(String),
    /// The handler's panic.
    Panic(String),
}

/// The right to a job's message.
enum Hold<'a> {
    Lent(&'a ByteDelivery<'a>),
    /// Its lease is also renewed in the background.
    Kept,
}

/// One worker.
struct Worker {
    config: WorkerConfig,
    link: PoolLink,
    answers: ByteSender,
    lease: Option<Duration>,
    kept: Arc<Kept>,
}

/// The connection between a worker and its pool.
pub(super) enum PoolLink {
    Process(Arc<Inbox<PipeReader>>),
    Thread {
        cancellations: Arc<Cancellations>,
        killed: Arc<AtomicBool>,
    },
}

/// A message whose lease is renewed while it is here.
#[derive(Default)]
struct Kept(Mutex<Option<OwnedByteDelivery>>);

/// The payload of a panic that ends a thread as SIGKILL ends a process.
struct ThreadKilled;

/// The way to settle a job's message.
#[derive(Clone)]
enum End {
    Ack,
    Bury,
    /// To be tried again, with the reason.
    Retry(String),
    /// The message was the request to end.
    Leave,
}

impl Handlers {
    /// Returns an empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the handler `run` for jobs with this name. It gets the job's input and a [`Context`].
    /// Replaces an earlier handler of that name.
    ///
    /// An error or a panic is the job's answer, unless the pool [tries
    /// again](super::PoolBuilder::retry). A crash of the process is tried again.
    pub fn add<I, O, E>(
        &mut self,
        name: &str,
        run: impl Fn(I, &Context<'_>) -> Result<O, E> + Send + Sync + 'static,
    ) -> &mut Self
    where
        I: DeserializeOwned,
        O: Serialize,
        E: Display,
    {
        let run = move |input: &[u8], context: &Context<'_>| {
            let unfit = |error: CodecError| Failure::Unfit(error.to_string());
            let input = codec::decode(input).map_err(unfit)?;
            let output = run(input, context).map_err(|error| Failure::Error(error.to_string()))?;
            codec::encode(&output).map_err(unfit)
        };
        self.by_name.insert(name.to_owned(), Box::new(run));
        self
    }

    /// In a process that a pool started, works until the pool ends, and does not return. In any
    /// other process, returns at once.
    ///
    /// Call it first in `main`, before anything is started or opened. Only transports of other
    /// crates must be [registered](ipc_queue::transport::register) before.
    pub fn work_if_worker(&self) {
        if let Some(code) = self.work_to_end() {
            process::exit(code);
        }
    }

    /// Like [`work_if_worker`](Self::work_if_worker), but also returns in a worker when its work is
    /// done, with the exit code for the process. Returns `None` if this is not a worker.
    ///
    /// For programs that have something to do at their end, such as an interpreter's `atexit`. End
    /// the process soon after, because the pool waits for that. The programs that the worker
    /// started were killed. If the pool was killed, this does not return: the process ends at once.
    ///
    /// ```no_run
    /// # let handlers = ipc_node::pool::Handlers::new();
    /// if let Some(code) = handlers.work_to_end() {
    ///     // Flush, close, say goodbye.
    ///     std::process::exit(code);
    /// }
    /// ```
    #[must_use = "the process is to end with this code"]
    pub fn work_to_end(&self) -> Option<i32> {
        let text = lifeline::config_of_new_worker()?;
        let Some(config) = WorkerConfig::from_text(&text) else {
            let text = format!("{PLACE} is {text:?}, which no pool of this version sets");
            complain(&text);
            return Some(2);
        };
        let inbox = match lifeline::end_with_the_pool(config.clone()) {
            Ok(inbox) => inbox,
            Err(error) => {
                complain(&format!("a worker can't watch its pool: {error}"));
                return Some(1);
            }
        };
        let link = PoolLink::Process(Arc::clone(&inbox));
        // A panic must not skip the code that ends the programs which this worker started.
        let worked = panic::catch_unwind(AssertUnwindSafe(|| self.work(config, link)));
        let code = match worked {
            Ok(Ok(())) => 0,
            Ok(Err(error)) => {
                complain(&error.to_string());
                1
            }
            Err(_) => PANICKED,
        };
        lifeline::end_work(&inbox, code);
        Some(code)
    }

    /// Works until the pool ends, or until this worker has to end.
    pub(super) fn work(&self, config: WorkerConfig, link: PoolLink) -> Result<(), Trouble> {
        let mut outage = Outage::at(&config);
        let jobs = open(&config.jobs(), &mut outage)?;
        let _ = lifeline::JOBS.set(jobs.transport().id());
        let worker = Worker {
            answers: open(&config.answers(), &mut outage)?.sender(),
            lease: jobs.transport().settings().lease,
            kept: Arc::default(),
            config,
            link,
        };
        if let Some(time) = worker.config.keep_alive {
            renew_leases(&worker.kept, time)?;
        }
        let receiver = jobs.receiver();
        worker.say(What::Ready {
            name: worker.config.name.clone(),
            pid: process::id(),
        })?;
        let mut served = 0;
        loop {
            let delivery = match receiver.recv_within(outage.wait()) {
                Ok(delivery) => delivery,
                Err(error) if error.is_timeout() => {
                    outage.over();
                    continue;
                }
                Err(error) if is_temporary(&error) && outage.pause() => continue,
                Err(error) if error.is_closed() => return Ok(()),
                Err(error) if error.failure() == Some(&Unavailable::Removed.into()) => {
                    if worker.outlives_its_pool() {
                        return Ok(());
                    }
                    lifeline::end_with_all()
                }
                Err(error) => return Err(error.into()),
            };
            worker.die_if_killed();
            outage.over();
            served += 1;
            let leaves = matches!(self.serve(&worker, &receiver, delivery)?, End::Leave);
            if leaves || served == worker.config.max_jobs {
                check_acks(receiver.flush())?;
                return Ok(worker.say(What::Leaving)?);
            }
        }
    }

    fn serve(
        &self,
        worker: &Worker,
        receiver: &ByteReceiver,
        delivery: ByteDelivery<'_>,
    ) -> Result<End, Trouble> {
        if delivery.kind() == Kind::Shutdown {
            delivery.ack()?;
            return Ok(End::Leave);
        }
        let attempt = delivery.attempt();
        let (end, delivery) = if worker.config.keep_alive.is_some() {
            let payload = delivery.payload().to_vec();
            worker.kept.put(delivery.into_owned());
            let end = self.handle(worker, &payload, Hold::Kept, attempt)?;
            (end, worker.kept.take().map(ByteDelivery::from))
        } else {
            let hold = Hold::Lent(&delivery);
            let end = self.handle(worker, delivery.payload(), hold, attempt)?;
            (end, Some(delivery))
        };
        let Some(delivery) = delivery else {
            return Ok(end);
        };
        match &end {
            End::Bury => check_settled(delivery.bury())?,
            End::Retry(why) => check_settled(delivery.nack_with(Nack::new().reason(why)))?,
            _ => check_acks(receiver.ack_later(delivery))?,
        }
        Ok(end)
    }

    fn handle(
        &self,
        worker: &Worker,
        payload: &[u8],
        hold: Hold<'_>,
        attempt: u8,
    ) -> Result<End, Trouble> {
        let Ok((job, behind)) = codec::decode_prefix::<Job>(payload) else {
            return Ok(End::Bury);
        };
        let Some(content) = wire::content(behind) else {
            return Ok(End::Bury);
        };
        let ticket = job.ticket;
        if worker.link.says_unwanted(ticket) {
            worker.say(What::Skipped { ticket })?;
            return Ok(End::Ack);
        }
        worker.say(What::Started { ticket, attempt })?;
        let context = Context {
            hold,
            worker,
            ticket,
            attempt,
            content,
            is_final: Cell::new(false),
        };
        let answer = match self.run(&job, &context) {
            Ok(output) => Ok(output),
            Err(failure) if failure.is_retried(job.attempts, &context) => {
                let why = failure.into_message();
                worker.say(What::Retries {
                    ticket,
                    attempt,
                    why: why.clone(),
                })?;
                return Ok(End::Retry(why));
            }
            Err(failure) => Err(failure.into_message()),
        };
        worker.answer(ticket, attempt, answer)?;
        Ok(End::Ack)
    }

    fn run(&self, job: &Job<'_>, context: &Context<'_>) -> Result<Vec<u8>, Failure> {
        let _span = super::events::span(job, context.attempt()).entered();
        let Some(run) = self.by_name.get(job.handler) else {
            let name = job.handler;
            return Err(Failure::Unfit(format!(
                "this worker has no handler {name:?}: add it before work_if_worker"
            )));
        };
        let ran = panic::catch_unwind(AssertUnwindSafe(|| run(job.input, context)));
        ran.unwrap_or_else(|panic| {
            if panic.is::<ThreadKilled>() {
                panic::resume_unwind(panic);
            }
            let message = message_of(&*panic);
            Err(Failure::Panic(format!("the handler panicked: {message}")))
        })
    }
}

impl Failure {
    /// Returns `true` if the job is tried again, rather than answered.
    fn is_retried(&self, attempts: Attempts, context: &Context<'_>) -> bool {
        let limit = match self {
            Self::Unfit(_) => return false,
            Self::Error(_) => attempts.errors,
            Self::Panic(_) => attempts.panics,
        };
        let is_wanted = !context.worker.link.said_unwanted(context.ticket);
        context.attempt < limit && is_wanted && !context.is_final.get()
    }

    fn into_message(self) -> String {
        match self {
            Self::Unfit(message) | Self::Error(message) | Self::Panic(message) => message,
        }
    }
}

impl Worker {
    fn say(&self, what: What) -> Result<(), PoolError> {
        let report = Report {
            start: self.config.start,
            what,
        };
        let report = codec::encode(&report)?;
        loop {
            match self.answers.send_timeout(&report, outage::LIMIT) {
                // The queue is full, because the pool is slow or stopped.
                Err(SendTimeoutError::TimedOut { .. }) => {}
                said => return Ok(said.map(drop)?),
            }
        }
    }

    /// Sends an answer. If the queue cannot carry it, sends that error instead.
    fn answer(
        &self,
        ticket: u64,
        attempt: u8,
        answer: Result<Vec<u8>, String>,
    ) -> Result<(), PoolError> {
        let answered = |answer: Result<Vec<u8>, String>| What::Answered {
            ticket,
            attempt,
            answer: answer.map(Blob),
        };
        match self.say(answered(answer)) {
            Err(PoolError::Send(error))
                if matches!(error.failure, SendFailure::TooLarge { .. }) =>
            {
                self.say(answered(Err(format!("the answer can't be sent: {error}"))))
            }
            said => said,
        }
    }

    /// Returns `true` if the worker just stops when its pool's queues are gone.
    fn outlives_its_pool(&self) -> bool {
        self.config.is_remote() || matches!(self.link, PoolLink::Thread { .. })
    }

    fn die_if_killed(&self) {
        if let PoolLink::Thread { killed, .. } = &self.link
            && killed.load(Ordering::Relaxed)
        {
            // For the values on the stack this is a normal panic, but it prints nothing.
            panic::resume_unwind(Box::new(ThreadKilled));
        }
    }
}

impl PoolLink {
    /// Returns `true` if the job must not begin. Reads the pool's cancellations first.
    fn says_unwanted(&self, ticket: u64) -> bool {
        if let Self::Process(inbox) = self {
            inbox.look();
        }
        self.said_unwanted(ticket)
    }

    fn said_unwanted(&self, ticket: u64) -> bool {
        match self {
            Self::Process(inbox) => inbox.is_unwanted(ticket),
            Self::Thread { cancellations, .. } => cancellations.is_unwanted(ticket),
        }
    }
}

impl Kept {
    fn put(&self, held: OwnedByteDelivery) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
    }

    fn renew(&self, lease: Duration) {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A lost lease is noticed when the job ends.
        let _ = held.as_ref().map(|held| held.extend(lease));
    }

    fn take(&self) -> Option<OwnedByteDelivery> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Context<'_> {
    /// Reports the job's progress, which is also a sign of life: the lease starts again.
    ///
    /// Errors of the queue are not reported here, but noticed when the job ends. A worker that is a
    /// thread and should be killed ends in this call.
    pub fn progress(&self, done: u64, of: u64) {
        self.worker.die_if_killed();
        let ticket = self.ticket;
        let _ = self.worker.say(What::Progress { ticket, done, of });
        let Some(lease) = self.worker.lease else {
            return;
        };
        match &self.hold {
            Hold::Lent(delivery) => drop(delivery.extend(lease)),
            Hold::Kept => self.worker.kept.renew(lease),
        }
    }

    /// Returns `true` if the answer is no longer wanted. A handler that does not stop is killed
    /// after the pool's grace time. A worker that is a thread and should be killed ends in this
    /// call. A remote worker never learns of a cancellation.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.worker.die_if_killed();
        self.worker.link.said_unwanted(self.ticket)
    }

    /// Declares that another attempt would not help: if this attempt fails, the failure is the
    /// job's answer.
    pub fn do_not_retry(&self) {
        self.is_final.set(true);
    }

    /// Returns how often the job was begun, including this time.
    #[must_use]
    pub fn attempt(&self) -> u8 {
        self.attempt
    }

    /// Returns the content [submitted with the job](super::Pool::submit_with). It is read where it
    /// arrived: in shared memory, where it was written.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        self.content
    }

    /// Returns this worker's name, which the workers before it in its slot also had.
    #[must_use]
    pub fn worker(&self) -> &str {
        &self.worker.config.name
    }
}

/// Ignores acks that failed because the message is delivered again, or may be.
fn check_acks(acked: Result<(), BatchAckError>) -> Result<(), SettleError> {
    let Err(error) = acked else { return Ok(()) };
    for failure in error.failures() {
        check_settled(Err(failure.clone()))?;
    }
    Ok(())
}

fn check_settled(settled: Result<(), SettleError>) -> Result<(), SettleError> {
    let Err(error) = settled else { return Ok(()) };
    match error.failure {
        // The lease was lost without a sign of life: another worker has the job, had it, or will
        // have it.
        SettleFailure::LeaseLost
        // The next call finds out whether the queue is gone.
        | SettleFailure::Unavailable(Unavailable::Transport { .. }) => Ok(()),
        _ => Err(error),
    }
}

/// Opens a queue of the pool, once it is in reach.
fn open(address: &str, outage: &mut Outage) -> Result<ByteQueue, QueueError> {
    loop {
        match wire::open(address) {
            Err(QueueError::Transport(_)) if outage.pause() => {}
            opened => return opened,
        }
    }
}

/// Renews the leases of a worker's jobs as long as the worker exists.
fn renew_leases(kept: &Arc<Kept>, lease: Duration) -> io::Result<()> {
    let kept: Weak<Kept> = Arc::downgrade(kept);
    let renew = move || {
        loop {
            // A third of the lease, so that two renewals may be late or lost.
            thread::sleep(lease / 3);
            let Some(kept) = kept.upgrade() else {
                return;
            };
            kept.renew(lease);
        }
    };
    let named = thread::Builder::new().name("ipc-pool-alive".to_owned());
    named.spawn(renew).map(drop)
}

/// Writes to standard error, whose other end the pool reads. `eprintln` would panic if the pool is
/// gone.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "without a message".to_owned())
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}
