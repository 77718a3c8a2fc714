//! The worker's side of a pool: a process that runs handlers by name.
//!
//! It ends with its pool: its standard input is a pipe that only the pool holds open, so the end of that pipe is the end of
//! the pool, however it came, and the worker then kills its own process group, so that what it started ends, too.
//! A signal for a parent's death would not do: it belongs to the thread that started the worker, not to the process.
//!
//! An answer is published before its job is acked. Killed in between, the worker leaves a job that runs again, and
//! a second answer, which the pool drops.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::process;
use std::thread;
use std::time::Duration;

use ipc_proto::codec;
use ipc_queue::{ByteDelivery, ByteSender, RecvError, SendFailure, SettleError};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::getpgrp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::wire::{self, Job, PLACE, Place, Report, Unwanted, What};

/// What a worker can do, by name. The same set in the program that has the pool and in its workers.
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

/// Longer than it takes to remove a pool's queues.
const REMOVAL: Duration = Duration::from_secs(5);

type Run = dyn Fn(&[u8], &Context<'_>) -> Result<Vec<u8>, String> + Send + Sync;

/// What a handler may ask and say about the job that it works on.
pub struct Context<'a> {
    delivery: &'a ByteDelivery<'a>,
    worker: &'a Worker,
    ticket: u64,
}

/// One worker process.
struct Worker {
    start: u64,
    answers: ByteSender,
    unwanted: Unwanted,
    lease: Option<Duration>,
}

impl Handlers {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Handles jobs of this name with `run`, which gets the job's input, and what to ask and say meanwhile. Replaces what
    /// had the name before.
    ///
    /// An error is the job's answer, and so is a panic; only a crash of the process is tried again.
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
            let said = |error: &dyn Display| error.to_string();
            let input = codec::decode(input).map_err(|error| said(&error))?;
            let output = run(input, context).map_err(|error| said(&error))?;
            codec::encode(&output).map_err(|error| said(&error))
        };
        self.by_name.insert(name.to_owned(), Box::new(run));
        self
    }

    /// In a process that a pool started, works until the pool ends, and does not return. In any other, returns at once.
    ///
    /// Call it first in `main`, before anything is started or opened.
    pub fn work_if_worker(&self) {
        let Ok(text) = std::env::var(PLACE) else {
            return;
        };
        let Some(place) = Place::from_text(&text) else {
            eprintln!("{PLACE} is {text:?}, which no pool of this version sets");
            process::exit(2);
        };
        end_with_the_pool(place.clone());
        match self.work(&place) {
            Ok(()) => process::exit(0),
            Err(error) => {
                eprintln!("{error}");
                process::exit(1);
            }
        }
    }

    fn work(&self, place: &Place) -> Result<(), Box<dyn std::error::Error>> {
        let jobs = wire::open(&place.jobs())?;
        let worker = Worker {
            start: place.start,
            answers: wire::open(&place.answers())?.sender(),
            unwanted: Unwanted::connect(place)?,
            lease: jobs.transport().settings().lease,
        };
        let receiver = jobs.receiver();
        worker.say(What::Ready)?;
        for served in 1.. {
            let delivery = match receiver.recv() {
                Ok(delivery) => delivery,
                Err(RecvError::Closed) => return Ok(()),
                Err(RecvError::Removed) => end_with_all(),
                Err(error) => return Err(error.into()),
            };
            self.serve(&worker, delivery)?;
            if served == place.max_jobs {
                return Ok(worker.say(What::Leaving)?);
            }
        }
        Ok(())
    }

    fn serve(
        &self,
        worker: &Worker,
        delivery: ByteDelivery<'_>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let job: Job = match codec::decode(delivery.payload()) {
            Ok(job) => job,
            Err(_) => return Ok(delivery.bury()?),
        };
        let ticket = job.ticket;
        if worker.unwanted.is_set(ticket) {
            worker.say(What::Skipped { ticket })?;
        } else {
            let attempt = delivery.attempt();
            worker.say(What::Started { ticket, attempt })?;
            let context = Context {
                delivery: &delivery,
                worker,
                ticket,
            };
            let answer = self.run(&job, &context);
            worker.answer(ticket, answer)?;
        }
        match delivery.ack() {
            // Too slow without a sign of life: somebody else has it, or had it.
            Ok(()) | Err(SettleError::LeaseLost) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn run(&self, job: &Job, context: &Context<'_>) -> Result<Vec<u8>, String> {
        let Some(run) = self.by_name.get(&job.handler) else {
            let name = &job.handler;
            return Err(format!(
                "this worker has no handler {name:?}: add it before work_if_worker"
            ));
        };
        let ran = panic::catch_unwind(AssertUnwindSafe(|| run(&job.input, context)));
        ran.unwrap_or_else(|panic| Err(format!("the handler panicked: {}", message_of(&*panic))))
    }
}

impl Worker {
    fn say(&self, what: What) -> Result<(), SendFailure> {
        let report = Report {
            start: self.start,
            what,
        };
        self.answers.send(&codec::encode(&report)?).map(drop)
    }

    /// An answer that the queue can't carry is said to be so.
    fn answer(&self, ticket: u64, answer: Result<Vec<u8>, String>) -> Result<(), SendFailure> {
        match self.say(What::Answered { ticket, answer }) {
            Err(error @ SendFailure::TooLarge { .. }) => {
                let answer = Err(format!("the answer can't be sent: {error}"));
                self.say(What::Answered { ticket, answer })
            }
            said => said,
        }
    }
}

impl Context<'_> {
    /// Says how far the job is, and that the worker is well: its lease begins anew.
    ///
    /// Errors of the queue are none of the handler's business, and are met when the job ends.
    pub fn progress(&self, done: u64, of: u64) {
        let ticket = self.ticket;
        let _ = self.worker.say(What::Progress { ticket, done, of });
        if let Some(lease) = self.worker.lease {
            let _ = self.delivery.extend(lease);
        }
    }

    /// Whether nobody wants the answer any more. Who does not stop then is killed after the pool's grace.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.worker.unwanted.is_set(self.ticket)
    }

    /// How often the job was begun, this time included.
    #[must_use]
    pub fn attempt(&self) -> u8 {
        self.delivery.attempt()
    }
}

/// Kills this process and what it started when the pool is gone; and takes what the pool left in shared memory away.
fn end_with_the_pool(place: Place) {
    let watch = move || {
        // Nobody writes: the end of the pipe is the pool's.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        place.remove_all();
        let _ = killpg(getpgrp(), Signal::SIGKILL);
    };
    let started = thread::Builder::new()
        .name("ipc-pool-end".to_owned())
        .spawn(watch);
    if let Err(error) = started {
        eprintln!("can't watch for the pool's end: {error}");
        process::exit(1);
    }
}

/// The pool is gone. The thread that watches for that is about to end us, when it has taken away what was left.
fn end_with_all() -> ! {
    thread::sleep(REMOVAL);
    let _ = killpg(getpgrp(), Signal::SIGKILL);
    process::exit(1);
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
