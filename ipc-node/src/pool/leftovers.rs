//! Jobs in the queue of a pool whose process died: the next pool at its address finds them.
//!
//! The tickets of these jobs died with the process, so nobody waits for their answers. They are
//! neither run unasked nor lost unseen: the new pool reports how many it found and does with them
//! what its builder says. The old queue is removed only after all of them were read; if the new
//! pool's process dies after that and before it has sent them again, they are gone.

use std::io;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use ipc_queue::transport::Wait;
use ipc_queue::{
    DeadLetter, DeadLetterId, DeadReason, OwnedByteDelivery, SendOptions, TryRecvError,
};

use super::dead_letters::renumbered;
use super::owner::DYING;
use super::state::Shared;
use super::wire::{self, Place};
use super::{PoolError, events};

const PAUSE: Duration = Duration::from_millis(2);

/// What a pool does with the jobs that a dead pool left at its address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeftoverJobs {
    /// Keeps them as [dead letters](super::Pool::dead_letters), to be looked at, requeued or
    /// dropped.
    #[default]
    Keep,
    /// Runs them. Nobody waits for their answers; those that find the queue full are kept.
    Run,
    /// Drops them.
    Drop,
}

/// What was found in the queue of a dead pool.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Jobs that no worker has, as letters.
    waiting: Vec<DeadLetter>,
    /// Dead letters that the dead pool had not taken out of its queue yet.
    dead: Vec<DeadLetter>,
    /// The number of jobs that some worker still has, which outlived its pool.
    held: u64,
}

impl Found {
    /// Reads the queue of the dead pool at `place`. Nothing changes there.
    pub(super) fn read(place: &Place) -> Result<Self, PoolError> {
        if !place.exists() {
            return Ok(Self::default());
        }
        let queue = wire::open(&place.jobs())?;
        let jobs = queue.transport();
        if jobs.is_paused()? {
            jobs.resume()?;
        }
        let receiver = queue.receiver();
        // Held until all are read, so that each is read once.
        let mut held: Vec<OwnedByteDelivery> = Vec::new();
        let deadline = Instant::now() + DYING;
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
                // All was settled, but for what this process holds.
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

    /// The number of jobs.
    pub(super) fn count(&self) -> u64 {
        (self.waiting.len() + self.dead.len()) as u64 + self.held
    }

    /// Does with the jobs what the pool was told to, before it has workers.
    pub(super) fn settle(self, what: LeftoverJobs, shared: &Shared) {
        if self.count() == 0 {
            return;
        }
        events::leftover_jobs(shared, &self.waiting, &self.dead, self.held, what);
        let mut dropped = 0;
        for letter in self.waiting {
            let is_sent = what == LeftoverJobs::Run && send_again(&letter, shared);
            if !is_sent && what != LeftoverJobs::Drop {
                dropped += shared.dead_letters.add(letter);
            }
        }
        if what != LeftoverJobs::Drop {
            for letter in self.dead {
                dropped += shared.dead_letters.add(letter);
            }
        }
        if dropped > 0 {
            events::dead_letters_dropped(shared, dropped);
        }
    }
}

/// Sends a job under a ticket number that nobody holds. `false` if it can't be sent now.
fn send_again(letter: &DeadLetter, shared: &Shared) -> bool {
    let ticket = shared.next_ticket.fetch_add(1, Ordering::Relaxed);
    let Some(job) = renumbered(&letter.payload, ticket) else {
        return false;
    };
    shared.tickets.adopt(ticket);
    let sender = shared.queues.jobs.sender();
    let is_sent = sender
        .send_with(&job, &SendOptions::new().kind(letter.kind).wait(Wait::No))
        .is_ok();
    if !is_sent {
        shared.tickets.lock().remove(&ticket);
    }
    is_sent
}

fn as_letter(held: &OwnedByteDelivery) -> DeadLetter {
    let about = held.about();
    DeadLetter {
        id: DeadLetterId::new(0, 0),
        message: about.id,
        kind: about.kind,
        sent_at: about.sent_at,
        // This delivery does not count.
        attempts: about.attempt.saturating_sub(1),
        reason: DeadReason::Unknown,
        nacks: 0,
        expiries: 0,
        crashes: 0,
        last_worker: None,
        signal: None,
        error: String::new(),
        headers: held.headers().clone(),
        payload: held.payload().to_vec(),
    }
}
