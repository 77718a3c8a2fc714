//! What is in a local queue: what is ready, who has which message, what waits for its time, and what is dead.
//!
//! Every change says who is to be woken by it; sleeping and waking are done elsewhere.

use std::collections::{HashMap, VecDeque};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ipc_proto::{Kind, MessageId, QueueSettings, Timestamp};

use crate::dead_letter::{DeadLetter, DeadLetterId, DeadReason};
use crate::delivery::About;
use crate::error::{RecvError, SendFailure, SettleError};
use crate::stats::QueueStats;
use crate::transport::{Holding, Settle};

/// A message of a local queue.
#[derive(Clone, Debug)]
struct Item {
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

/// How far a queue has come. Never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Life {
    #[default]
    Open,
    Closed,
    Removed,
}

/// Everything in a local queue.
#[derive(Debug)]
pub(super) struct Table {
    capacity: u32,
    attempt_limit: u8,
    lease: Option<Duration>,
    pub(super) life: Life,
    ready: VecDeque<Item>,
    /// Places lent to senders.
    loans: u64,
    leases: HashMap<u64, Lease>,
    /// With when they are due; `None`: never.
    delayed: Vec<(Option<Instant>, Item)>,
    dead: Vec<(u64, DeadReason, Item)>,
    next_ticket: u64,
    pub(super) receivers_asleep: usize,
    pub(super) senders_asleep: usize,
    pub(super) counts: QueueStats,
}

/// Who must look again after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Wake {
    Nobody,
    /// One message is ready.
    Receiver,
    /// Several are, or something is due earlier than sleepers know, or a closed queue may be drained.
    Receivers,
    /// One place is free.
    Sender,
    Everybody,
}

impl Table {
    pub(super) fn new(settings: &QueueSettings) -> Self {
        Self {
            capacity: settings.capacity,
            attempt_limit: settings.attempt_limit,
            lease: settings.lease,
            life: Life::Open,
            ready: VecDeque::new(),
            loans: 0,
            leases: HashMap::new(),
            delayed: Vec::new(),
            dead: Vec::new(),
            next_ticket: 0,
            receivers_asleep: 0,
            senders_asleep: 0,
            counts: QueueStats::default(),
        }
    }

    // --- sending ---------------------------------------------------------------------------------

    /// Lends a place.
    pub(super) fn lend(&mut self) -> Result<(), SendFailure> {
        match self.life {
            Life::Removed => return Err(SendFailure::Removed),
            Life::Closed => return Err(SendFailure::Closed),
            Life::Open => {}
        }
        if self.stats().in_use() >= self.capacity.into() {
            let capacity = self.capacity;
            return Err(SendFailure::Full { capacity });
        }
        self.loans += 1;
        Ok(())
    }

    /// Makes a message ready, in a place that was lent.
    pub(super) fn publish(
        &mut self,
        id: MessageId,
        kind: Kind,
        payload: Vec<u8>,
    ) -> Result<Wake, SendFailure> {
        self.loans -= 1;
        if self.life == Life::Removed {
            return Err(SendFailure::Removed);
        }
        self.counts.sent += 1;
        self.counts.bytes_sent += payload.len() as u64;
        self.ready.push_back(Item {
            id,
            kind,
            sent_at: Timestamp::from(SystemTime::now()),
            payload,
            attempt: 0,
            nacks: 0,
            expiries: 0,
        });
        Ok(Wake::Receiver)
    }

    /// Takes back a place that was lent.
    pub(super) fn abandon(&mut self) -> Wake {
        self.loans -= 1;
        self.freed()
    }

    // --- receiving -------------------------------------------------------------------------------

    /// Delivers the next message, if one is ready.
    #[expect(clippy::type_complexity, reason = "named where it is taken apart")]
    pub(super) fn take(
        &mut self,
        holder: u64,
    ) -> Result<Option<(u64, About, Vec<u8>, Wake)>, RecvError> {
        if self.life == Life::Removed {
            return Err(RecvError::Removed);
        }
        let Some(mut item) = self.ready.pop_front() else {
            if self.life == Life::Closed && self.is_drained_for(holder) {
                return Err(RecvError::Closed);
            }
            return Ok(None);
        };
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
        // Those asleep may have to get up earlier now, to end this lease.
        let wake = ends_at.map_or(Wake::Nobody, |_| Wake::Receivers);
        let lease = Lease {
            item,
            holder,
            thread: thread::current().name().unwrap_or_default().to_owned(),
            ends_at,
        };
        self.leases.insert(ticket, lease);
        Ok(Some((ticket, about, payload, wake)))
    }

    /// Whether nothing is left but what `holder` holds, and the dead.
    fn is_drained_for(&self, holder: u64) -> bool {
        let others = self.leases.values().any(|lease| lease.holder != holder);
        self.ready.is_empty() && self.loans == 0 && self.delayed.is_empty() && !others
    }

    // --- settling --------------------------------------------------------------------------------

    pub(super) fn settle(&mut self, ticket: u64, how: Settle) -> Result<Wake, SettleError> {
        let Some(Lease { mut item, .. }) = self.leases.remove(&ticket) else {
            self.counts.leases_lost += 1;
            return Err(SettleError::LeaseLost);
        };
        let wake = match how {
            Settle::Ack => {
                self.counts.acked += 1;
                self.freed()
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
        };
        Ok(wake)
    }

    pub(super) fn extend(&mut self, ticket: u64, by: Duration) -> Result<Wake, SettleError> {
        let lease = self.leases.get_mut(&ticket).ok_or(SettleError::LeaseLost)?;
        if lease.ends_at.is_some() {
            // Beyond what the clock can say is never.
            lease.ends_at = Instant::now().checked_add(by);
        }
        Ok(Wake::Receivers)
    }

    /// Ends leases and delays that are over; and when to look again.
    pub(super) fn look_at_clock(&mut self, now: Instant) -> (Wake, Option<Instant>) {
        let mut wake = Wake::Nobody;
        let over = |lease: &Lease| lease.ends_at.is_some_and(|ends_at| ends_at <= now);
        let expired: Vec<Lease> = self
            .leases
            .extract_if(|_, lease| over(lease))
            .map(|(_, lease)| lease)
            .collect();
        for Lease { mut item, .. } in expired {
            item.expiries = item.expiries.saturating_add(1);
            // As over shared memory, a message that two held too long is poison.
            let _ = match item.expiries {
                1 => self.again(item, Duration::ZERO, DeadReason::Expired),
                _ => self.bury(item, DeadReason::Expired),
            };
            wake = Wake::Receivers;
        }
        let due = self
            .delayed
            .extract_if(.., |(at, _)| at.is_some_and(|at| at <= now));
        for (_, item) in due {
            self.ready.push_back(item);
            wake = Wake::Receivers;
        }
        let ends = self.leases.values().filter_map(|lease| lease.ends_at);
        let next = ends
            .chain(self.delayed.iter().filter_map(|(at, _)| *at))
            .min();
        (wake, next)
    }

    fn again(&mut self, item: Item, delay: Duration, reason: DeadReason) -> Wake {
        if item.attempt >= self.attempt_limit {
            return self.bury(item, reason);
        }
        if delay.is_zero() {
            self.ready.push_back(item);
            return Wake::Receiver;
        }
        let due = Instant::now().checked_add(delay);
        self.delayed.push((due, item));
        Wake::Receivers
    }

    fn bury(&mut self, item: Item, reason: DeadReason) -> Wake {
        let ticket = self.new_ticket();
        self.dead.push((ticket, reason, item));
        self.wake_if_closed(Wake::Nobody)
    }

    fn freed(&self) -> Wake {
        self.wake_if_closed(Wake::Sender)
    }

    /// Who waits for a closed queue to drain must look whenever something in it came to an end.
    fn wake_if_closed(&self, otherwise: Wake) -> Wake {
        match self.life {
            Life::Open => otherwise,
            Life::Closed | Life::Removed => Wake::Everybody,
        }
    }

    fn new_ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    // --- looking ---------------------------------------------------------------------------------

    pub(super) fn stats(&self) -> QueueStats {
        let mut stats = self.counts;
        stats.ready = self.ready.len() as u64;
        stats.writing = self.loans;
        stats.leased = self.leases.len() as u64;
        stats.delayed = self.delayed.len() as u64;
        stats.dead = self.dead.len() as u64;
        stats.participants = 1;
        stats
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

    /// Sends a copy of a dead letter and drops it; `false` if it is gone.
    pub(super) fn requeue(
        &mut self,
        id: DeadLetterId,
        copy: MessageId,
    ) -> Result<(bool, Wake), SendFailure> {
        let Some(index) = self.dead_index(id) else {
            return Ok((false, Wake::Nobody));
        };
        if let Err(failure) = self.lend() {
            self.counts.refused += u64::from(matches!(failure, SendFailure::Full { .. }));
            return Err(failure);
        }
        let (_, _, item) = self.dead.remove(index);
        let _ = self.publish(copy, item.kind, item.payload)?;
        Ok((true, Wake::Everybody))
    }

    pub(super) fn drop_dead(&mut self, id: DeadLetterId) -> bool {
        let index = self.dead_index(id);
        index.map(|index| self.dead.remove(index)).is_some()
    }

    fn dead_index(&self, id: DeadLetterId) -> Option<usize> {
        self.dead
            .iter()
            .position(|(ticket, ..)| *ticket == id.parts().0)
    }
}
