//! The jobs that a pool left in its queue when its process died. The next pool at its address finds
//! them.
//!
//! The tickets of these jobs died with the process, so no caller waits for their answers. The jobs
//! are neither run without being asked for nor lost unnoticed: the new pool reports their number
//! and does with them what its builder says. The old queue is removed only after all jobs were
//! read. If the new pool's process dies after that and before it sends them again, the jobs are
//! lost.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use ipc_queue::{DeadLetter, DeadLetterId, DeadReason, OwnedByteDelivery, TryRecvError};

use super::error::PoolError;
use super::ownership::DYING;
use super::wire::{self, WorkerConfig};

const PAUSE: Duration = Duration::from_millis(2);

/// The treatment of the jobs that a dead pool left at the address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeftoverJobs {
    /// Keeps them as [dead letters](super::Pool::dead_letters), which can be inspected, requeued or
    /// dropped.
    #[default]
    Keep,
    /// Runs them without a waiting caller. Those that find the queue full are kept.
    Run,
    /// Drops them.
    Drop,
}

/// The jobs found in the queue of a dead pool.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    /// Jobs that no worker has, as letters.
    pub waiting: Vec<DeadLetter>,
    /// Dead letters that the dead pool had not yet taken out of its queue.
    pub dead: Vec<DeadLetter>,
    /// The number of jobs that workers which outlived their pool still have.
    pub held: u64,
}

impl Leftovers {
    /// Reads the queue of the dead pool at this address. The jobs stay in that queue.
    pub(super) fn read(config: &WorkerConfig) -> Result<Self, PoolError> {
        if !config.exists() {
            return Ok(Self::default());
        }
        let queue = wire::open(&config.jobs())?;
        let jobs = queue.transport();
        if jobs.is_paused()? {
            jobs.resume()?;
        }
        let receiver = queue.receiver();
        // Held until all are read, so that each is read only once.
        let mut held: Vec<OwnedByteDelivery> = Vec::new();
        // A transport that does not notice deaths gives jobs back only when their leases end.
        let deadline = Instant::now() + config.keep_alive.unwrap_or(DYING).max(DYING);
        let mut others = 0;
        loop {
            match receiver.try_recv() {
                Ok(delivery) => held.push(delivery.into_owned()),
                Err(error) if error.is_of_one_message() => {}
                Err(TryRecvError::Empty) => {
                    others = jobs.stats()?.leased.saturating_sub(held.len() as u64);
                    if others == 0 || Instant::now() >= deadline {
                        break;
                    }
                    thread::sleep(PAUSE);
                }
                // Everything is settled, except what this process holds.
                Err(error) if error.is_closed() => break,
                Err(error) => return Err(io::Error::other(error).into()),
            }
        }
        Ok(Self {
            waiting: held.iter().map(as_letter).collect(),
            dead: jobs.dead_letters()?,
            held: others,
        })
    }

    /// Returns the number of jobs.
    pub(super) fn count(&self) -> u64 {
        (self.waiting.len() + self.dead.len()) as u64 + self.held
    }
}

fn as_letter(held: &OwnedByteDelivery) -> DeadLetter {
    let about = held.metadata();
    let (id, message) = (
        DeadLetterId::new(0, 0),
        (about.kind, about.id, about.sent_at),
    );
    let payload = held.payload().to_vec();
    let mut letter = DeadLetter::new(id, message, DeadReason::Unknown, payload);
    // This delivery does not count as an attempt.
    letter.attempts = about.attempt.saturating_sub(1);
    letter.headers = held.headers().clone();
    letter
}
