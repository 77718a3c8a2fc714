//! Who has which message of a local queue, what waits for its time, and what is dead.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ipc_proto::{Kind, MessageId, Timestamp};

use crate::dead_letter::{DeadLetter, DeadLetterId, DeadReason};
use crate::delivery::About;
use crate::error::SettleError;
use crate::stats::QueueStats;
use crate::transport::{Holding, Settle};

/// A message of a local queue.
#[derive(Clone, Debug)]
pub(super) struct Item {
    id: MessageId,
    kind: Kind,
    sent_at: Timestamp,
    payload: Vec<u8>,
    attempt: u8,
    nacks: u8,
    expiries: u8,
}

#[derive(Debug)]
struct Lease {
    item: Item,
    holder: u64,
    /// The name of the thread that received it.
    thread: String,
    ends_at: Option<Instant>,
}

/// Everything about a local queue that is not in a channel.
#[derive(Debug)]
pub(super) struct Table {
    attempt_limit: u8,
    lease: Option<Duration>,
    leases: HashMap<u64, Lease>,
    delayed: Vec<(Instant, Item)>,
    dead: Vec<(u64, DeadReason, Item)>,
    next_ticket: u64,
    /// Messages in the channel of ready ones, or on their way into it.
    pub(super) waiting: usize,
    pub(super) counts: QueueStats,
}

/// What is to be done after a change, without the lock.
#[derive(Debug)]
pub(super) enum After {
    /// The message is to be delivered again.
    Ready(Item),
    /// Its place is free.
    Freed,
    /// It keeps its place.
    Kept,
    /// It keeps its place, and something is due at a time that nobody knew of.
    Later,
}

impl Item {
    pub(super) fn new(id: MessageId, kind: Kind, payload: Vec<u8>) -> Self {
        Self {
            id,
            kind,
            sent_at: Timestamp::from(SystemTime::now()),
            payload,
            attempt: 0,
            nacks: 0,
            expiries: 0,
        }
    }
}

impl Table {
    pub(super) fn new(attempt_limit: u8, lease: Option<Duration>) -> Self {
        Self {
            attempt_limit,
            lease,
            leases: HashMap::new(),
            delayed: Vec::new(),
            dead: Vec::new(),
            next_ticket: 0,
            waiting: 0,
            counts: QueueStats::default(),
        }
    }

    /// Delivers a message that came out of the channel.
    pub(super) fn lease(&mut self, mut item: Item, holder: u64) -> (u64, About, Vec<u8>, After) {
        self.waiting -= 1;
        item.attempt += 1;
        let about = About {
            kind: item.kind,
            id: item.id,
            sent_at: item.sent_at,
            attempt: item.attempt,
        };
        let payload = item.payload.clone();
        self.counts.received += 1;
        self.counts.bytes_received += payload.len() as u64;
        self.counts.redelivered += u64::from(item.attempt > 1);
        let ticket = self.new_ticket();
        let ends_at = self.lease.map(|lease| Instant::now() + lease);
        let after = if ends_at.is_some() {
            After::Later
        } else {
            After::Kept
        };
        self.leases.insert(
            ticket,
            Lease {
                item,
                holder,
                thread: thread::current().name().unwrap_or_default().to_owned(),
                ends_at,
            },
        );
        (ticket, about, payload, after)
    }

    pub(super) fn settle(&mut self, ticket: u64, how: Settle) -> Result<After, SettleError> {
        let Some(Lease { mut item, .. }) = self.leases.remove(&ticket) else {
            self.counts.leases_lost += 1;
            return Err(SettleError::LeaseLost);
        };
        Ok(match how {
            Settle::Ack => {
                self.counts.acked += 1;
                After::Freed
            }
            Settle::Bury => {
                self.counts.buried += 1;
                self.bury(item, DeadReason::Buried)
            }
            Settle::Nack { delay } => {
                self.counts.nacked += 1;
                item.nacks = item.nacks.saturating_add(1);
                self.again(item, delay, DeadReason::Nacked)
            }
        })
    }

    pub(super) fn extend(&mut self, ticket: u64, by: Duration) -> Result<(), SettleError> {
        let lease = self.leases.get_mut(&ticket).ok_or(SettleError::LeaseLost)?;
        if let Some(ends_at) = &mut lease.ends_at {
            *ends_at = Instant::now() + by;
        }
        Ok(())
    }

    /// Ends leases and delays; what follows from each, and when to look again.
    pub(super) fn due(&mut self, now: Instant) -> (Vec<After>, Option<Instant>) {
        let mut afters = Vec::new();
        let over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let expired: Vec<u64> = self
            .leases
            .iter()
            .filter(|(_, lease)| over(lease.ends_at))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in expired {
            if let Some(Lease { mut item, .. }) = self.leases.remove(&ticket) {
                item.expiries = item.expiries.saturating_add(1);
                // As over shared memory, a message that two held too long is poison.
                afters.push(match item.expiries {
                    1 => self.again(item, Duration::ZERO, DeadReason::Expired),
                    _ => self.bury(item, DeadReason::Expired),
                });
            }
        }
        let (due, later) = std::mem::take(&mut self.delayed)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.delayed = later;
        let due: Vec<(Instant, Item)> = due;
        afters.extend(due.into_iter().map(|(_, item)| After::Ready(item)));
        let ends = self.leases.values().filter_map(|lease| lease.ends_at);
        let next = ends.chain(self.delayed.iter().map(|(at, _)| *at)).min();
        (afters, next)
    }

    /// Whether nothing is left but what `holder` holds, and the dead. `places` are taken in all.
    pub(super) fn is_drained_for(&self, holder: u64, places: usize) -> bool {
        let others = self.leases.values().any(|lease| lease.holder != holder);
        // A place that belongs to nothing here is a loan, or a message on its way.
        let known = self.leases.len() + self.dead.len();
        !others && self.delayed.is_empty() && self.waiting == 0 && places <= known
    }

    pub(super) fn holdings(&self) -> Vec<Holding> {
        let holding = |lease: &Lease| Holding {
            holder: lease.thread.clone(),
            pid: std::process::id(),
            message: lease.item.id,
            attempt: lease.item.attempt,
        };
        self.leases.values().map(holding).collect()
    }

    pub(super) fn dead_letters(&self) -> Vec<DeadLetter> {
        let letter = |(ticket, reason, item): &(u64, DeadReason, Item)| DeadLetter {
            id: DeadLetterId::new(*ticket, 0),
            message: item.id,
            kind: item.kind,
            sent_at: item.sent_at,
            attempts: item.attempt,
            reason: *reason,
            nacks: item.nacks,
            expiries: item.expiries,
            crashes: 0,
            payload: item.payload.clone(),
        };
        self.dead.iter().map(letter).collect()
    }

    pub(super) fn dead_payload(&self, id: DeadLetterId) -> Option<(Kind, Vec<u8>)> {
        let (_, _, item) = self
            .dead
            .iter()
            .find(|(ticket, ..)| *ticket == id.parts().0)?;
        Some((item.kind, item.payload.clone()))
    }

    pub(super) fn drop_dead(&mut self, id: DeadLetterId) -> bool {
        let before = self.dead.len();
        self.dead.retain(|(ticket, ..)| *ticket != id.parts().0);
        self.dead.len() < before
    }

    /// The counters, and what is here now; not what is in the channels.
    pub(super) fn stats(&self) -> QueueStats {
        let mut stats = self.counts;
        stats.leased = self.leases.len() as u64;
        stats.delayed = self.delayed.len() as u64;
        stats.dead = self.dead.len() as u64;
        stats
    }

    fn again(&mut self, item: Item, delay: Duration, reason: DeadReason) -> After {
        if item.attempt >= self.attempt_limit {
            return self.bury(item, reason);
        }
        if delay.is_zero() {
            return After::Ready(item);
        }
        self.delayed.push((Instant::now() + delay, item));
        After::Later
    }

    fn bury(&mut self, item: Item, reason: DeadReason) -> After {
        let ticket = self.new_ticket();
        self.dead.push((ticket, reason, item));
        After::Kept
    }

    fn new_ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }
}
