//! The `local` transport: a queue among the threads of one process.
//!
//! Everything is in one table (`local/table.rs`) under a mutex, which no thread holds while it
//! waits. A thread that waits for a message or for a place sleeps on a condition variable. Threads
//! do not die alone, so there is nothing to recover. A thread that panics drops its deliveries, and
//! a dropped delivery is a nack.
//!
//! For tests, for programs that run in one process but can also run over shared memory, and as the
//! shortest complete transport to read.

mod keys;
mod table;
mod wait_queue;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ipc_proto::{MessageId, Name, QueueSettings, SenderId};

use crate::capability::{Capabilities, Feature};
use crate::contract::{LeaseInfo, ReceivePort, SendPort, Transport};
use crate::control::{ControlCall, ControlError, ControlFailure};
use crate::dead_letter::{DeadLetter, DeadLetterId};
use crate::error::{
    DrainError, QueueError, RecvPortError, SendFailure, SendPortError, SettleFailure, Unavailable,
};
use crate::notifier::{Notifier, Waiters};
use crate::open_request::{OpenMode, OpenRequest};
use crate::port::{PortDelivery, PortLoan, PublishOnce};
use crate::send_options::{Key, SendOptions};
use crate::settle::Settle;
use crate::stats::QueueStats;
use crate::wait::Wait;
use keys::Lack;
use table::{Life, Table, Wake};
use wait_queue::{LocalHeld, Side};

/// A queue among the threads of this process.
#[derive(Clone, Debug)]
pub struct LocalQueue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: Name,
    id: u64,
    settings: QueueSettings,
    payload: String,
    table: Mutex<Table>,
    /// For receivers: a message is ready, or the queue was closed or removed.
    items: Condvar,
    /// For senders: a place is free, or the queue was closed or removed.
    room: Condvar,
    /// The number of wakes. Changed under the table's lock.
    changes: AtomicU32,
    /// The async waiters for messages, and those for places.
    waiters: [Arc<Waiters>; 2],
}

#[derive(Debug)]
struct LocalSender {
    shared: Arc<Shared>,
    id: SenderId,
    /// The sequence number of the next message.
    sequence: Arc<AtomicU64>,
}

/// A place that is lent to a sender.
#[derive(Debug)]
struct LocalPlace {
    shared: Arc<Shared>,
    sender: SenderId,
    /// That of the sender.
    sequence: Arc<AtomicU64>,
    ticket: u64,
}

#[derive(Debug)]
struct LocalReceiver {
    shared: Arc<Shared>,
    /// Distinguishes the deliveries of this receiver from those of others.
    id: u64,
}

fn registry() -> MutexGuard<'static, HashMap<Name, Arc<Shared>>> {
    static QUEUES: OnceLock<Mutex<HashMap<Name, Arc<Shared>>>> = OnceLock::new();
    QUEUES
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

impl LocalQueue {
    /// Opens or creates the queue `name` of this process.
    ///
    /// # Errors
    /// [`QueueError`] if the queue exists and must not, does not exist and must, or differs.
    pub fn open(name: &Name, request: &OpenRequest) -> Result<Self, QueueError> {
        request.settings.validate()?;
        let mut queues = registry();
        if let Some(shared) = queues.get(name) {
            check(name, shared, request)?;
            return Ok(Self {
                shared: Arc::clone(shared),
            });
        }
        if request.mode == OpenMode::Open {
            return Err(QueueError::NotFound {
                name: name.to_string(),
            });
        }
        let shared = Arc::new(Shared {
            name: name.clone(),
            id: fastrand::u64(1..),
            settings: request.settings.clone(),
            payload: request.payload.clone(),
            table: Mutex::new(Table::new(&request.settings)),
            items: Condvar::new(),
            room: Condvar::new(),
            changes: AtomicU32::new(0),
            waiters: Default::default(),
        });
        queues.insert(name.clone(), Arc::clone(&shared));
        Ok(Self { shared })
    }

    /// Removes the queue `name`. `false` if there was none.
    #[must_use]
    pub fn remove(name: &Name) -> bool {
        let Some(shared) = registry().remove(name) else {
            return false;
        };
        let mut table = shared.table();
        table.life = Life::Removed;
        shared.wake(&table, Wake::Everybody);
        true
    }
}

impl LocalQueue {
    /// Returns the table, unless the queue was removed.
    fn usable(&self, call: ControlCall) -> Result<MutexGuard<'_, Table>, ControlError> {
        let table = self.shared.table();
        if table.life == Life::Removed {
            return Err(ControlFailure::from(Unavailable::Removed).of(self.address(), call));
        }
        Ok(table)
    }
}

fn check(name: &Name, found: &Shared, request: &OpenRequest) -> Result<(), QueueError> {
    if request.mode == OpenMode::Create {
        return Err(QueueError::Exists {
            name: name.to_string(),
        });
    }
    request.check_payload(name.as_str(), &found.payload)?;
    request.check(name.as_str(), &found.settings)
}

impl Transport for LocalQueue {
    fn settings(&self) -> &QueueSettings {
        &self.shared.settings
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none().natively([
            Feature::Priorities,
            Feature::Delay,
            Feature::Expiry,
            Feature::Deduplication,
            Feature::DropOldest,
            Feature::Pause,
            Feature::Purge,
            Feature::Drain,
            Feature::Leases,
            Feature::Headers,
            Feature::Reasons,
            Feature::Snooze,
        ])
    }

    fn id(&self) -> u64 {
        self.shared.id
    }

    fn payload(&self) -> Option<&str> {
        Some(&self.shared.payload)
    }

    fn sender(&self) -> Box<dyn SendPort> {
        Box::new(LocalSender {
            shared: Arc::clone(&self.shared),
            id: SenderId::new(fastrand::u64(1..)),
            sequence: Arc::default(),
        })
    }

    fn receiver(&self) -> Box<dyn ReceivePort> {
        Box::new(LocalReceiver {
            shared: Arc::clone(&self.shared),
            id: fastrand::u64(..),
        })
    }

    fn address(&self) -> String {
        self.shared.address()
    }

    fn close(&self) -> Result<(), ControlError> {
        let mut table = self.usable(ControlCall::Close)?;
        table.life = Life::Closed;
        self.shared.wake(&table, Wake::Everybody);
        Ok(())
    }

    fn reopen(&self) -> Result<(), ControlError> {
        let mut table = self.usable(ControlCall::Reopen)?;
        table.life = Life::Open;
        self.shared.wake(&table, Wake::Everybody);
        Ok(())
    }

    fn is_closed(&self) -> Result<bool, ControlError> {
        Ok(self.usable(ControlCall::IsClosed)?.life == Life::Closed)
    }

    fn pause(&self) -> Result<(), ControlError> {
        self.usable(ControlCall::Pause)?.paused = true;
        Ok(())
    }

    fn resume(&self) -> Result<(), ControlError> {
        let mut table = self.usable(ControlCall::Resume)?;
        table.paused = false;
        self.shared.wake(&table, Wake::Everybody);
        Ok(())
    }

    fn is_paused(&self) -> Result<bool, ControlError> {
        Ok(self.usable(ControlCall::IsPaused)?.paused)
    }

    fn purge(&self) -> Result<u64, ControlError> {
        let mut table = self.usable(ControlCall::Purge)?;
        let (purged, wake) = table.purge();
        self.shared.wake(&table, wake);
        Ok(purged)
    }

    fn drain(&self, wait: Wait) -> Result<(), DrainError> {
        self.close()?;
        let started = Instant::now();
        let mut table = self.shared.table();
        loop {
            let (wake, next) = table.look_at_clock(Instant::now());
            self.shared.wake(&table, wake);
            let left = table.left();
            if table.life == Life::Removed {
                let removed = ControlFailure::from(Unavailable::Removed);
                return Err(removed.of(self.address(), ControlCall::Drain).into());
            } else if left == 0 {
                return Ok(());
            }
            let until = time_left(wait, started).map_err(|time_up| DrainError::TimedOut {
                queue: self.address(),
                waited: time_up.waited().unwrap_or_default(),
                left,
            })?;
            let until = until.into_iter().chain(next).min();
            table = self.shared.sleep_for_item(table, until);
        }
    }

    fn stats(&self) -> Result<QueueStats, ControlError> {
        Ok(self.usable(ControlCall::Stats)?.stats())
    }

    fn leases(&self) -> Result<Vec<LeaseInfo>, ControlError> {
        Ok(self.usable(ControlCall::Leases)?.leases())
    }

    fn dead_letters(&self) -> Result<Vec<DeadLetter>, ControlError> {
        Ok(self.usable(ControlCall::DeadLetters)?.dead_letters())
    }

    fn requeue(&self, id: DeadLetterId) -> Result<bool, ControlError> {
        let mut table = self.usable(ControlCall::Requeue)?;
        if table.life == Life::Closed {
            return Err(ControlFailure::Closed.of(self.address(), ControlCall::Requeue));
        }
        let Some(wake) = table.requeue(id) else {
            return Ok(false);
        };
        self.shared.wake(&table, wake);
        Ok(true)
    }

    fn forget(&self, key: Key) -> Result<bool, ControlError> {
        let mut table = self.usable(ControlCall::Forget)?;
        let forgotten = table.forget(key).map_err(|missing| {
            ControlFailure::from(missing).of(self.address(), ControlCall::Forget)
        })?;
        self.shared.wake(&table, Wake::Everybody);
        Ok(forgotten)
    }

    fn discard(&self, id: DeadLetterId) -> Result<bool, ControlError> {
        let mut table = self.usable(ControlCall::Discard)?;
        let dropped = table.drop_dead(id);
        if dropped {
            self.shared.wake(&table, Wake::Sender);
        }
        Ok(dropped)
    }
}

impl Shared {
    fn address(&self) -> String {
        format!("local:{}", self.name)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, ticket: u64, how: Settle<'_>) -> Result<(), SettleFailure> {
        let mut table = self.table();
        let wake = table.settle(ticket, how)?;
        self.wake(&table, wake);
        Ok(())
    }

    fn extend(&self, ticket: u64, by: Duration) -> Result<(), SettleFailure> {
        let mut table = self.table();
        let wake = table.extend(ticket, by)?;
        self.wake(&table, wake);
        Ok(())
    }

    /// Wakes the sleepers that a change concerns. Does nothing if none sleeps, because a wake costs
    /// a system call.
    fn wake(&self, table: &Table, wake: Wake) {
        if wake != Wake::Nobody {
            self.changes.fetch_add(1, Ordering::SeqCst);
        }
        let (receivers, senders) = (table.receivers_asleep > 0, table.senders_asleep > 0);
        match wake {
            Wake::Receiver if receivers => self.items.notify_one(),
            Wake::Sender if senders => self.room.notify_one(),
            Wake::Receivers | Wake::Everybody if receivers => self.items.notify_all(),
            _ => {}
        }
        if wake == Wake::Everybody && senders {
            self.room.notify_all();
        }
    }

    /// Sleeps until a message may be ready, or until `until`.
    fn sleep_for_item<'t>(
        &self,
        mut table: MutexGuard<'t, Table>,
        until: Option<Instant>,
    ) -> MutexGuard<'t, Table> {
        table.receivers_asleep += 1;
        let mut table = sleep(&self.items, table, until);
        table.receivers_asleep -= 1;
        table
    }

    /// Sleeps until a place may be free, or until `until`.
    fn sleep_for_room<'t>(
        &self,
        mut table: MutexGuard<'t, Table>,
        until: Option<Instant>,
    ) -> MutexGuard<'t, Table> {
        table.senders_asleep += 1;
        let mut table = sleep(&self.room, table, until);
        table.senders_asleep -= 1;
        table
    }
}

fn sleep<'t>(
    bed: &Condvar,
    table: MutexGuard<'t, Table>,
    until: Option<Instant>,
) -> MutexGuard<'t, Table> {
    match until {
        None => bed.wait(table).unwrap_or_else(PoisonError::into_inner),
        Some(until) => {
            let left = until.saturating_duration_since(Instant::now());
            let woken = bed.wait_timeout(table, left);
            woken.unwrap_or_else(PoisonError::into_inner).0
        }
    }
}

/// Returns the end of the wait; `None`: without a limit. `Err`: the time is up.
fn time_left(wait: Wait, started: Instant) -> Result<Option<Instant>, TimeUp> {
    let now = Instant::now();
    match wait {
        Wait::No => Err(TimeUp::AtOnce),
        Wait::Until(deadline) if now >= deadline => Err(TimeUp::After(now - started)),
        Wait::Until(deadline) => Ok(Some(deadline)),
        Wait::Forever => Ok(None),
    }
}

enum TimeUp {
    AtOnce,
    After(Duration),
}

impl TimeUp {
    /// Returns how long the caller waited. `None`: it did not wait.
    fn waited(self) -> Option<Duration> {
        match self {
            Self::AtOnce => None,
            Self::After(waited) => Some(waited),
        }
    }
}

impl SendPort for LocalSender {
    fn loan_with(
        &self,
        len: usize,
        options: &SendOptions,
        wait: Wait,
    ) -> Result<PortLoan, SendPortError> {
        let settings = &self.shared.settings;
        let most = settings.max_message_bytes.max(settings.inline_bytes) as usize;
        if len > most {
            return Err(SendFailure::TooLarge { bytes: len, most }.into());
        }
        let started = Instant::now();
        let mut table = self.shared.table();
        loop {
            let (wake, next) = table.look_at_clock(Instant::now());
            self.shared.wake(&table, wake);
            let lack = match table.lend(options) {
                Ok(ticket) => {
                    let place = LocalPlace {
                        shared: Arc::clone(&self.shared),
                        sender: self.id,
                        sequence: Arc::clone(&self.sequence),
                        ticket,
                    };
                    return Ok(PortLoan::new(len, place));
                }
                Err(lack) => lack,
            };
            if let Lack::Failed(failure) = &lack
                && !matches!(failure, SendFailure::KeysFull { .. })
            {
                return Err(failure.clone().into());
            }
            match time_left(wait, started) {
                Ok(until) => {
                    let until = until.into_iter().chain(next).min();
                    table = self.shared.sleep_for_room(table, until);
                }
                Err(time_up) => {
                    table.counts.refused += 1;
                    return Err(match lack {
                        Lack::Failed(failure) => failure.into(),
                        Lack::Room(missing) => SendPortError::NoRoom {
                            missing,
                            waited: time_up.waited(),
                            dead: table.count_dead(),
                        },
                    });
                }
            }
        }
    }

    fn notifier(&self) -> Notifier {
        wait_queue::notifier(&self.shared, Side::Room)
    }
}

impl PublishOnce for LocalPlace {
    fn publish(&self, payload: Vec<u8>) -> Result<MessageId, SendFailure> {
        let mut table = self.shared.table();
        // Only changed while the table is locked.
        let id = MessageId::new(self.sender, self.sequence.load(Ordering::Relaxed));
        let wake = table.publish(self.ticket, id, payload)?;
        self.sequence.store(id.sequence + 1, Ordering::Relaxed);
        self.shared.wake(&table, wake);
        Ok(id)
    }

    fn abandon(&self) {
        let mut table = self.shared.table();
        let wake = table.abandon(self.ticket);
        self.shared.wake(&table, wake);
    }

    fn may_block(&self) -> bool {
        false
    }

    fn queue(&self) -> String {
        self.shared.address()
    }
}

impl ReceivePort for LocalReceiver {
    fn recv(&self, wait: Wait) -> Result<PortDelivery, RecvPortError> {
        let started = Instant::now();
        let mut table = self.shared.table();
        loop {
            let (wake, next) = table.look_at_clock(Instant::now());
            self.shared.wake(&table, wake);
            if let Some((taken, wake)) = table.take(self.id)? {
                self.shared.wake(&table, wake);
                let right = LocalHeld {
                    shared: Arc::clone(&self.shared),
                    ticket: taken.ticket,
                };
                let queue = self.shared.id;
                let delivery = PortDelivery::new(queue, taken.metadata, taken.payload, right);
                return Ok(delivery.with_headers(taken.headers));
            }
            let until = match time_left(wait, started) {
                Ok(until) => until,
                Err(TimeUp::AtOnce) if table.paused => return Err(RecvPortError::Paused),
                Err(TimeUp::AtOnce) => return Err(RecvPortError::Empty),
                Err(TimeUp::After(waited)) => return Err(RecvPortError::TimedOut { waited }),
            };
            let until = until.into_iter().chain(next).min();
            table = self.shared.sleep_for_item(table, until);
        }
    }

    fn notifier(&self) -> Notifier {
        wait_queue::notifier(&self.shared, Side::Items)
    }
}
