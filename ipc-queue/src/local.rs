//! The `local` transport: a queue among the threads of one process.
//!
//! Two flume channels: one of messages, and one of places, as long as the queue's capacity, in which every
//! message has a token from its loan to its end. Leases, delayed messages and dead letters are in a table
//! under a mutex, which no thread holds while it waits. Threads do not die alone, so there is nothing to recover;
//! a thread that panics drops its deliveries, and a dropped delivery is a nack.
//! For tests, for one-process set-ups of programs that can also run over shared memory, and as the
//! shortest complete transport to read.

mod table;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use flume::{Receiver, Selector, Sender};
use ipc_proto::{Kind, MessageId, Name, QueueSettings, SenderId};

use crate::dead_letter::{DeadLetter, DeadLetterId};
use crate::delivery::{About, ByteDelivery};
use crate::error::{QueueError, RecvError, SendFailure, SettleError};
use crate::loan::Loan;
use crate::stats::QueueStats;
use crate::transport::{
    Holding, OpenMode, OpenRequest, ReceivePort, SendPort, Settle, Transport, Wait,
};
use table::{After, Item, Table};

/// A queue among threads.
#[derive(Clone, Debug)]
pub struct LocalQueue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: QueueSettings,
    payload: String,
    /// One token for each place that is taken.
    places: (Sender<()>, Receiver<()>),
    ready: (Sender<Item>, Receiver<Item>),
    table: Mutex<Table>,
    closed: AtomicBool,
    removed: AtomicBool,
    /// One for each handle: rung when something changed that is no message and no place.
    bells: Mutex<Vec<Sender<()>>>,
}

#[derive(Debug)]
struct LocalSender {
    shared: Arc<Shared>,
    bell: Receiver<()>,
    id: SenderId,
    sequence: AtomicU64,
}

#[derive(Debug)]
struct LocalReceiver {
    shared: Arc<Shared>,
    bell: Receiver<()>,
    /// Tells its leases from those of other receivers.
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
    /// [`QueueError`] when it must not exist and does, or the other way round, or differs.
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
        let shared = Arc::new(Shared::new(request));
        queues.insert(name.clone(), Arc::clone(&shared));
        Ok(Self { shared })
    }

    /// Removes the queue `name`; `false` if there was none.
    #[must_use]
    pub fn remove(name: &Name) -> bool {
        let Some(shared) = registry().remove(name) else {
            return false;
        };
        shared.removed.store(true, Ordering::SeqCst);
        shared.ring();
        true
    }
}

fn check(name: &Name, found: &Shared, request: &OpenRequest) -> Result<(), QueueError> {
    if request.mode == OpenMode::Create {
        return Err(QueueError::Exists {
            name: name.to_string(),
        });
    }
    if found.payload != request.payload {
        let said = |payload: &str| match payload {
            "" => "plain bytes".to_owned(),
            name => name.to_owned(),
        };
        return Err(QueueError::PayloadDiffers {
            name: name.to_string(),
            found: said(&found.payload),
            wanted: said(&request.payload),
        });
    }
    request.check(name.as_str(), &found.settings)
}

impl Transport for LocalQueue {
    fn settings(&self) -> &QueueSettings {
        &self.shared.settings
    }

    fn sender(&self) -> Box<dyn SendPort> {
        Box::new(LocalSender {
            bell: self.shared.new_bell(),
            shared: Arc::clone(&self.shared),
            id: SenderId::new(fastrand::u64(1..)),
            sequence: AtomicU64::new(0),
        })
    }

    fn receiver(&self) -> Box<dyn ReceivePort> {
        Box::new(LocalReceiver {
            bell: self.shared.new_bell(),
            shared: Arc::clone(&self.shared),
            id: fastrand::u64(..),
        })
    }

    fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.shared.ring();
    }

    fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::SeqCst)
    }

    fn stats(&self) -> QueueStats {
        let table = self.shared.table();
        let ready = self.shared.ready.1.len() as u64;
        let mut stats = table.stats();
        stats.ready = ready;
        stats.writing = (self.shared.places.1.len() as u64).saturating_sub(stats.in_use());
        stats.participants = 1;
        stats
    }

    fn holdings(&self) -> Vec<Holding> {
        self.shared.table().holdings()
    }

    fn dead_letters(&self) -> Vec<DeadLetter> {
        self.shared.table().dead_letters()
    }

    fn requeue(&self, id: DeadLetterId) -> Result<bool, SendFailure> {
        let Some((kind, payload)) = self.shared.table().dead_payload(id) else {
            return Ok(false);
        };
        let sender = self.sender();
        let mut loan = sender.loan(payload.len(), kind, Wait::No)?;
        loan.copy_from_slice(&payload);
        loan.publish()?;
        self.discard(id);
        Ok(true)
    }

    fn discard(&self, id: DeadLetterId) -> bool {
        let dropped = self.shared.table().drop_dead(id);
        if dropped {
            self.shared.free_place();
        }
        dropped
    }
}

impl Shared {
    fn new(request: &OpenRequest) -> Self {
        Self {
            places: flume::bounded(request.settings.capacity as usize),
            ready: flume::unbounded(),
            table: Mutex::new(Table::new(
                request.settings.attempt_limit,
                request.settings.lease,
            )),
            settings: request.settings.clone(),
            payload: request.payload.clone(),
            closed: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            bells: Mutex::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_bell(&self) -> Receiver<()> {
        let (sender, receiver) = flume::bounded(1);
        self.bells
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(sender);
        receiver
    }

    /// Makes every blocked handle look again. A bell that rings already need not ring twice.
    fn ring(&self) {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        bells.retain(|bell| {
            !matches!(
                bell.try_send(()),
                Err(flume::TrySendError::Disconnected(()))
            )
        });
    }

    fn free_place(&self) {
        let _ = self.places.1.try_recv();
        self.ring_if_closed();
    }

    /// Who waits for a closed queue to drain must look whenever something was settled.
    fn ring_if_closed(&self) {
        if self.closed.load(Ordering::SeqCst) {
            self.ring();
        }
    }

    fn make_ready(&self, item: Item) {
        self.table().waiting += 1;
        // Fails only when no receiver is left, but `self` has one.
        let _ = self.ready.0.send(item);
    }

    fn after(&self, after: After) {
        match after {
            After::Ready(item) => self.make_ready(item),
            After::Freed => self.free_place(),
            After::Kept => self.ring_if_closed(),
            // A receiver asleep may have to get up earlier now.
            After::Later => self.ring(),
        }
    }

    /// Makes ready what is due. When to look again.
    fn look_at_clock(&self) -> Option<Instant> {
        let (due, next) = {
            let mut table = self.table();
            table.due(Instant::now())
        };
        due.into_iter().for_each(|after| self.after(after));
        next
    }
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

fn deadline_of(wait: Wait) -> Option<Instant> {
    match wait {
        Wait::No => Some(Instant::now()),
        Wait::Until(deadline) => Some(deadline),
        Wait::Forever => None,
    }
}

impl LocalSender {
    fn check_open(&self) -> Result<(), SendFailure> {
        if self.shared.removed.load(Ordering::SeqCst) {
            return Err(SendFailure::Removed);
        }
        if self.shared.closed.load(Ordering::SeqCst) {
            return Err(SendFailure::Closed);
        }
        Ok(())
    }

    fn wait_for_place(&self, wait: Wait) -> Result<(), SendFailure> {
        let started = Instant::now();
        loop {
            self.check_open()?;
            if self.shared.places.0.try_send(()).is_ok() {
                return Ok(());
            }
            let waited = started.elapsed();
            match deadline_of(wait) {
                _ if wait == Wait::No => {
                    let capacity = self.shared.settings.capacity;
                    return Err(SendFailure::Full { capacity });
                }
                Some(deadline) if Instant::now() >= deadline => {
                    return Err(SendFailure::TimedOut { waited });
                }
                deadline => {
                    if select_place(&self.shared.places.0, &self.bell, deadline) {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// Waits for a place or the bell; whether it got a place.
fn select_place(places: &Sender<()>, bell: &Receiver<()>, deadline: Option<Instant>) -> bool {
    let selector = Selector::new()
        .send(places, (), |sent| sent.is_ok())
        .recv(bell, |_| false);
    match deadline {
        None => selector.wait(),
        Some(deadline) => selector.wait_deadline(deadline).unwrap_or(false),
    }
}

impl SendPort for LocalSender {
    fn loan(&self, len: usize, kind: Kind, wait: Wait) -> Result<Loan<'_>, SendFailure> {
        let settings = &self.shared.settings;
        let most = settings.max_message_bytes.max(settings.inline_bytes) as usize;
        if len > most {
            return Err(SendFailure::TooLarge { bytes: len, most });
        }
        let place = self.wait_for_place(wait);
        if let Err(SendFailure::Full { .. } | SendFailure::TimedOut { .. }) = place {
            self.shared.table().counts.refused += 1;
        }
        place?;
        // Closed meanwhile: whoever found it drained must not see another message.
        if let Err(failure) = self.check_open() {
            self.shared.free_place();
            return Err(failure);
        }
        Ok(Loan::buffered(self, 0, kind, len))
    }

    fn publish(&self, _: u64, kind: Kind, payload: Vec<u8>) -> Result<MessageId, SendFailure> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let id = MessageId::new(self.id, sequence);
        {
            let mut table = self.shared.table();
            table.counts.sent += 1;
            table.counts.bytes_sent += payload.len() as u64;
        }
        self.shared.make_ready(Item::new(id, kind, payload));
        Ok(id)
    }

    fn abandon(&self, _: u64) {
        self.shared.free_place();
    }
}

impl LocalReceiver {
    fn deliver(&self, item: Item) -> ByteDelivery<'_> {
        let (ticket, about, payload, after) = self.shared.table().lease(item, self.id);
        self.shared.after(after);
        let about: About = about;
        ByteDelivery::buffered(self, ticket, about, payload)
    }
}

impl ReceivePort for LocalReceiver {
    fn recv(&self, wait: Wait) -> Result<ByteDelivery<'_>, RecvError> {
        let started = Instant::now();
        let deadline = deadline_of(wait);
        loop {
            if self.shared.removed.load(Ordering::SeqCst) {
                return Err(RecvError::Removed);
            }
            let next = self.shared.look_at_clock();
            // Before the look for messages: what is sent afterwards was sent to a closed queue, so is not.
            let closed = self.shared.closed.load(Ordering::SeqCst);
            if let Ok(item) = self.shared.ready.1.try_recv() {
                return Ok(self.deliver(item));
            }
            if closed
                && self
                    .shared
                    .table()
                    .is_drained_for(self.id, self.shared.places.1.len())
            {
                return Err(RecvError::Closed);
            }
            if wait == Wait::No {
                return Err(RecvError::Empty);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                let waited = started.elapsed();
                return Err(RecvError::TimedOut { waited });
            }
            let until = earliest(deadline, next);
            if let Some(item) = select_item(&self.shared.ready.1, &self.bell, until) {
                return Ok(self.deliver(item));
            }
        }
    }

    fn settle(&self, ticket: u64, how: Settle) -> Result<(), SettleError> {
        let after = self.shared.table().settle(ticket, how)?;
        self.shared.after(after);
        self.shared.ring_if_closed();
        Ok(())
    }

    fn extend(&self, ticket: u64, by: Duration) -> Result<(), SettleError> {
        self.shared.table().extend(ticket, by)
    }
}

/// Waits for a message, the bell or the time.
fn select_item(
    ready: &Receiver<Item>,
    bell: &Receiver<()>,
    until: Option<Instant>,
) -> Option<Item> {
    let selector = Selector::new().recv(ready, Result::ok).recv(bell, |_| None);
    match until {
        None => selector.wait(),
        Some(until) => selector.wait_deadline(until).ok().flatten(),
    }
}
