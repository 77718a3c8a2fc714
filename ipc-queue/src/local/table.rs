//! The contents of a local queue: ready and delayed messages, leases, loans, and dead letters.
//!
//! Every change returns which sleepers to wake. The callers sleep and wake.

use std::collections::{HashMap, VecDeque};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ipc_proto::{Headers, Kind, MessageId, Priority, QueueSettings, Timestamp};

use super::keys::Keys;
use crate::aging;
use crate::capability::{Feature, Unsupported};
use crate::dead_letter::{DeadLetter, DeadLetterId, DeadReason};
use crate::delivery::Metadata;
use crate::error::{NoRoom, RecvFailure, RecvPortError, SendFailure, SettleFailure, Unavailable};
use crate::send_options::{Key, OverflowPolicy, SendOptions};
use crate::stats::QueueStats;
use crate::transport::{LeaseInfo, Settle, nack_delay, shorten_reason};

/// A message of a local queue.
#[derive(Clone, Debug)]
struct Item {
    id: MessageId,
    kind: Kind,
    priority: Priority,
    sent_at: Timestamp,
    /// The start of its wait, for aging.
    since: Instant,
    expires_at: Option<Instant>,
    headers: Headers,
    payload: Vec<u8>,
    attempt: u8,
    nacks: u8,
    expiries: u8,
    deliveries: u64,
    /// The reason given with the last nack or the burial.
    error: String,
}

#[derive(Debug)]
struct Lease {
    item: Item,
    holder: u64,
    /// The name of the thread that received it.
    thread: String,
    ends_at: Option<Instant>,
}

/// The reason why a message was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// Waiting may help.
    Room(NoRoom),
    Failed(SendFailure),
}

impl From<SendFailure> for Lack {
    fn from(failure: SendFailure) -> Self {
        Self::Failed(failure)
    }
}

/// The life of a queue. A closed queue can be opened again; a removed one stays removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Life {
    #[default]
    Open,
    Closed,
    Removed,
}

/// The contents of a local queue.
#[derive(Debug)]
pub(super) struct Table {
    settings: QueueSettings,
    lease: Option<Duration>,
    priorities: bool,
    aging: Duration,
    pub(super) life: Life,
    pub(super) paused: bool,
    /// The ready messages, by priority.
    ready: [VecDeque<Item>; Priority::COUNT],
    /// No ready message expires before this time.
    next_expiry: Option<Instant>,
    /// The places that are lent to senders, and the options of their messages.
    loans: HashMap<u64, SendOptions>,
    /// `None`: messages have no keys.
    keys: Option<Keys>,
    leases: HashMap<u64, Lease>,
    /// The delayed messages and their times; `None`: never.
    delayed: Vec<(Option<Instant>, Item)>,
    dead: Vec<(u64, DeadReason, Item)>,
    next_ticket: u64,
    pub(super) receivers_asleep: usize,
    pub(super) senders_asleep: usize,
    pub(super) counts: QueueStats,
}

/// A message that was just delivered.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) ticket: u64,
    pub(super) metadata: Metadata,
    pub(super) headers: Headers,
    pub(super) payload: Vec<u8>,
}

/// The sleepers that must check again after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Wake {
    Nobody,
    /// One message is ready.
    Receiver,
    /// Several messages are ready, or an earlier time than the sleepers know was set, or a closed
    /// queue may be drained.
    Receivers,
    /// One place is free.
    Sender,
    Everybody,
}

impl Table {
    pub(super) fn new(settings: &QueueSettings) -> Self {
        Self {
            settings: settings.clone(),
            lease: settings.lease,
            priorities: settings.priorities,
            aging: settings.aging,
            life: Life::Open,
            paused: false,
            ready: Default::default(),
            next_expiry: None,
            loans: HashMap::new(),
            keys: (settings.dedup_window).map(|window| Keys::new(window, settings.dedup_keys)),
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

    /// Lends a place and returns its ticket.
    pub(super) fn lend(&mut self, options: &SendOptions) -> Result<u64, Lack> {
        match self.life {
            Life::Removed => return Err(SendFailure::from(Unavailable::Removed).into()),
            Life::Closed => return Err(SendFailure::Closed.into()),
            Life::Open => {}
        }
        if !self.priorities && options.priority != Priority::default() {
            return Err(SendFailure::from(Unsupported::by_settings(Feature::Priorities)).into());
        }
        self.check_room(options)?;
        if let Some(key) = options.key {
            let keys = self.keys.as_mut();
            let missing = || Unsupported::by_settings(Feature::Deduplication);
            let keys = keys.ok_or_else(|| SendFailure::from(missing()))?;
            let taken = keys.take(key, Instant::now());
            let duplicate = matches!(taken, Err(Lack::Failed(SendFailure::Duplicate { .. })));
            self.counts.duplicates += u64::from(duplicate);
            taken?;
        }
        let ticket = self.new_ticket();
        self.loans.insert(ticket, options.clone());
        Ok(ticket)
    }

    /// Checks that there is a place. If `options` asks for it, tries to make one.
    fn check_room(&mut self, options: &SendOptions) -> Result<(), Lack> {
        if self.in_use(options.priority) < u64::from(self.settings.capacity) {
            return Ok(());
        }
        if options.overflow == OverflowPolicy::DropOldest
            && self.ready[options.priority.index()].pop_front().is_some()
        {
            self.counts.overflowed += 1;
            return Ok(());
        }
        Err(Lack::Room(NoRoom::Places {
            capacity: self.settings.capacity,
        }))
    }

    pub(super) fn count_dead(&self) -> u64 {
        self.dead.len() as u64
    }

    /// Returns the number of places of this priority that are taken.
    fn in_use(&self, priority: Priority) -> u64 {
        if !self.priorities {
            return self.left() + self.dead.len() as u64;
        }
        let here = |item: &Item| item.priority == priority;
        let loans = self.loans.values().filter(|loan| loan.priority == priority);
        let leased = self.leases.values().filter(|lease| here(&lease.item));
        let delayed = self.delayed.iter().filter(|(_, item)| here(item));
        let dead = self.dead.iter().filter(|(.., item)| here(item));
        let ready = self.ready[priority.index()].len();
        (ready + loans.count() + leased.count() + delayed.count() + dead.count()) as u64
    }

    /// Fills a place that was lent: makes its message ready, or delays it.
    pub(super) fn publish(
        &mut self,
        ticket: u64,
        id: MessageId,
        payload: Vec<u8>,
    ) -> Result<Wake, SendFailure> {
        let Some(options) = self.loans.remove(&ticket) else {
            return Err(Unavailable::transport("this loan does not exist").into());
        };
        if self.life == Life::Removed {
            return Err(Unavailable::Removed.into());
        }
        let now = Instant::now();
        if let (Some(key), Some(keys)) = (options.key, &mut self.keys) {
            keys.sent(key, id, now);
        }
        self.counts.sent += 1;
        self.counts.bytes_sent += payload.len() as u64;
        let item = Item {
            id,
            kind: options.kind,
            priority: options.priority,
            sent_at: Timestamp::from(SystemTime::now()),
            since: now,
            expires_at: options.expires_in.and_then(|time| now.checked_add(time)),
            headers: options.headers,
            payload,
            attempt: 0,
            nacks: 0,
            expiries: 0,
            deliveries: 0,
            error: String::new(),
        };
        // A sender may wait for the key. Receivers may have to wake earlier than planned, to drop
        // the message.
        let wake = match (options.key, item.expires_at) {
            (None, None) => Wake::Receiver,
            (None, Some(_)) => Wake::Receivers,
            (Some(_), _) => Wake::Everybody,
        };
        if options.delay.is_zero() {
            self.make_ready(item);
            return Ok(wake);
        }
        self.delayed.push((now.checked_add(options.delay), item));
        Ok(Wake::Everybody)
    }

    /// Frees a place that was lent.
    pub(super) fn abandon(&mut self, ticket: u64) -> Wake {
        let options = self.loans.remove(&ticket);
        let key = options.and_then(|options| options.key);
        if let (Some(key), Some(keys)) = (key, &mut self.keys) {
            keys.give_back(key);
        }
        self.freed()
    }

    fn make_ready(&mut self, item: Item) {
        self.next_expiry = self.next_expiry.into_iter().chain(item.expires_at).min();
        self.ready[item.priority.index()].push_back(item);
    }

    // --- receiving -------------------------------------------------------------------------------

    /// Delivers the next message, if one is ready.
    pub(super) fn take(&mut self, holder: u64) -> Result<Option<(Taken, Wake)>, RecvPortError> {
        if self.life == Life::Removed {
            return Err(Unavailable::Removed.into());
        }
        let Some(mut item) = self.most_urgent() else {
            if self.life == Life::Closed && self.is_drained_for(holder) {
                return Err(RecvFailure::Closed.into());
            }
            return Ok(None);
        };
        item.attempt += 1;
        item.deliveries += 1;
        let metadata = Metadata {
            kind: item.kind,
            id: item.id,
            sent_at: item.sent_at,
            attempt: item.attempt,
            delivery: item.deliveries,
        };
        let (payload, headers) = (item.payload.clone(), item.headers.clone());
        self.counts.received += 1;
        self.counts.bytes_received += payload.len() as u64;
        self.counts.redelivered += u64::from(item.attempt > 1);
        let ticket = self.new_ticket();
        let ends_at = self.lease.map(|lease| Instant::now() + lease);
        // Sleepers may have to wake earlier than planned, to end this lease.
        let wake = ends_at.map_or(Wake::Nobody, |_| Wake::Receivers);
        let lease = Lease {
            item,
            holder,
            thread: thread::current().name().unwrap_or_default().to_owned(),
            ends_at,
        };
        self.leases.insert(ticket, lease);
        let taken = Taken {
            ticket,
            metadata,
            headers,
            payload,
        };
        Ok(Some((taken, wake)))
    }

    /// Takes out the message that goes next.
    fn most_urgent(&mut self) -> Option<Item> {
        if self.paused {
            return None;
        }
        if !self.priorities {
            return self.ready[Priority::default().index()].pop_front();
        }
        let now = Instant::now();
        let waited = |items: &VecDeque<Item>| {
            let first = items.front();
            first.map(|item| now.saturating_duration_since(item.since))
        };
        let order = aging::order(self.ready.each_ref().map(waited), self.aging);
        order
            .into_iter()
            .find_map(|priority| self.ready[priority.index()].pop_front())
    }

    /// Returns whether only dead letters and messages held by `holder` are left.
    fn is_drained_for(&self, holder: u64) -> bool {
        let held = self.leases.values().filter(|lease| lease.holder == holder);
        self.left() == held.count() as u64
    }

    /// Returns the number of messages that are not settled yet.
    pub(super) fn left(&self) -> u64 {
        let ready: usize = self.ready.iter().map(VecDeque::len).sum();
        (ready + self.loans.len() + self.delayed.len() + self.leases.len()) as u64
    }

    /// Drops the waiting messages, and returns their number.
    pub(super) fn purge(&mut self) -> (u64, Wake) {
        let delayed = self.delayed.drain(..).count();
        let ready: usize = self
            .ready
            .iter_mut()
            .map(|items| items.drain(..).count())
            .sum();
        let purged = (delayed + ready) as u64;
        self.counts.purged += purged;
        (purged, Wake::Everybody)
    }

    // --- settling --------------------------------------------------------------------------------

    pub(super) fn settle(&mut self, ticket: u64, how: Settle<'_>) -> Result<Wake, SettleFailure> {
        let Some(Lease { mut item, .. }) = self.leases.remove(&ticket) else {
            self.counts.leases_lost += 1;
            return Err(SettleFailure::LeaseLost);
        };
        let wake = match how {
            Settle::Ack => {
                self.counts.acked += 1;
                self.freed()
            }
            Settle::Bury { reason } => {
                self.counts.buried += 1;
                shorten_reason(reason).clone_into(&mut item.error);
                self.bury(item, DeadReason::Buried)
            }
            Settle::Nack { delay, reason } => {
                self.counts.nacked += 1;
                item.nacks = item.nacks.saturating_add(1);
                shorten_reason(reason).clone_into(&mut item.error);
                let delay = nack_delay(&self.settings, delay, item.nacks);
                self.again(item, delay, DeadReason::Nacked)
            }
            Settle::Snooze { delay } => {
                self.counts.nacked += 1;
                item.attempt -= 1;
                self.put_off(item, delay)
            }
        };
        Ok(wake)
    }

    pub(super) fn extend(&mut self, ticket: u64, by: Duration) -> Result<Wake, SettleFailure> {
        let lease = self
            .leases
            .get_mut(&ticket)
            .ok_or(SettleFailure::LeaseLost)?;
        if lease.ends_at.is_some() {
            // A time that the clock cannot represent means never.
            lease.ends_at = Instant::now().checked_add(by);
        }
        Ok(Wake::Receivers)
    }

    /// Ends leases and delays that are over. Returns the time of the next check.
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
            self.counts.expiries += 1;
            let _ = if item.expiries < self.settings.expiry_limit {
                self.again(item, Duration::ZERO, DeadReason::Expired)
            } else {
                self.bury(item, DeadReason::Expired)
            };
            wake = Wake::Receivers;
        }
        let due = self
            .delayed
            .extract_if(.., |(at, _)| at.is_some_and(|at| at <= now));
        for item in due.map(|(_, item)| item).collect::<Vec<_>>() {
            self.make_ready(item);
            wake = Wake::Receivers;
        }
        if self.next_expiry.is_some_and(|at| at <= now) {
            self.drop_expired(now);
            wake = Wake::Everybody;
        }
        let ends = self.leases.values().filter_map(|lease| lease.ends_at);
        let next = ends
            .chain(self.delayed.iter().filter_map(|(at, _)| *at))
            .chain(self.next_expiry)
            .min();
        (wake, next)
    }

    fn drop_expired(&mut self, now: Instant) {
        let items = self.ready.iter_mut();
        for items in items {
            let before = items.len();
            items.retain(|item| item.expires_at.is_none_or(|at| now < at));
            self.counts.expired += (before - items.len()) as u64;
        }
        let left = self.ready.iter().flatten();
        self.next_expiry = left.filter_map(|item| item.expires_at).min();
    }

    fn again(&mut self, item: Item, delay: Duration, reason: DeadReason) -> Wake {
        if item.attempt >= self.settings.attempt_limit {
            return self.bury(item, reason);
        }
        self.put_off(item, delay)
    }

    fn put_off(&mut self, item: Item, delay: Duration) -> Wake {
        if delay.is_zero() {
            self.make_ready(item);
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
        // With priorities or keys, the sender that would be woken may not be the one that can go
        // on.
        self.wake_if_closed(if self.priorities || self.keys.is_some() {
            Wake::Everybody
        } else {
            Wake::Sender
        })
    }

    /// Adds the callers that wait for a closed queue to drain: they must check after every end of a
    /// message.
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
        stats.ready = self.ready.iter().map(VecDeque::len).sum::<usize>() as u64;
        stats.writing = self.loans.len() as u64;
        stats.leased = self.leases.len() as u64;
        stats.delayed = self.delayed.len() as u64;
        stats.dead = self.dead.len() as u64;
        let now = Instant::now();
        stats.keys = self.keys.as_ref().map_or(0, |keys| keys.count(now));
        stats.participants = 1;
        stats.paused = self.paused;
        stats.closed = self.life >= Life::Closed;
        stats
    }

    /// Forgets a key. Returns whether it was remembered.
    pub(super) fn forget(&mut self, key: Key) -> Result<bool, Unsupported> {
        let keys = self.keys.as_mut();
        let keys = keys.ok_or(Unsupported::by_settings(Feature::Deduplication))?;
        Ok(keys.forget(key, Instant::now()))
    }

    pub(super) fn leases(&self) -> Vec<LeaseInfo> {
        let lease = |lease: &Lease| LeaseInfo {
            holder: lease.thread.clone(),
            pid: std::process::id(),
            message: lease.item.id,
            attempt: lease.item.attempt,
        };
        self.leases.values().map(lease).collect()
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
            last_worker: Some(std::process::id()),
            signal: None,
            error: item.error.clone(),
            headers: item.headers.clone(),
            payload: item.payload.clone(),
        };
        self.dead.iter().map(letter).collect()
    }

    /// Makes a dead letter ready, in place. `None`: there is no such dead letter.
    pub(super) fn requeue(&mut self, id: DeadLetterId) -> Option<Wake> {
        let index = self.dead_index(id)?;
        let (_, _, mut item) = self.dead.remove(index);
        (item.attempt, item.nacks, item.expiries) = (0, 0, 0);
        (item.expires_at, item.since) = (None, Instant::now());
        item.error.clear();
        self.make_ready(item);
        Some(Wake::Receiver)
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
