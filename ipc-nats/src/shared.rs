//! A queue as opened by one process: one shared state for all its openings.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipc_proto::{Kind, MessageId, Priority};
use ipc_queue::notifier::Waiters;
use ipc_queue::transport::{RecvPortError, Wait};
use ipc_queue::{
    ControlFailure, RecvFailure, SendFailure, SendOptions, SettleFailure, Unavailable,
};
use tokio::sync::Notify;

use crate::connection::Connection;
use crate::content::Content;
use crate::counts::Counts;
use crate::directory::{self, Directory, Entry};
use crate::event::Event;
use crate::priority_stream::{Place, PriorityStream};
use crate::record::{Keyed, Record, State};
use crate::request_error::RequestError;
use crate::steps::Steps;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) connection: Arc<Connection>,
    pub(crate) directory: Directory,
    pub(crate) name: String,
    pub(crate) entry: Entry,
    /// One, or one for each priority.
    pub(crate) streams: Vec<PriorityStream>,
    life: AtomicU8,
    paused: AtomicBool,
    /// The known revision of the directory's entry.
    revision: Mutex<u64>,
    pub(crate) counts: Counts,
    /// A message may be ready.
    pub(crate) items: Event,
    /// A place may be free.
    pub(crate) room: Event,
    /// The queue was closed, paused, resumed or removed; or, if closed, came closer to its end.
    pub(crate) control: Event,
    held: Mutex<HashMap<u64, Held>>,
    loans: Mutex<HashMap<u64, Lent>>,
    tickets: AtomicU64,
    /// Notified when `held` changes. The task that keeps leases waits for it.
    pub(crate) changed: Arc<Notify>,
    /// The waiters without a thread, for items and for room.
    pub(crate) waiters: [Arc<Waiters>; 2],
    /// Set when other processes' items, and room, are received.
    pub(crate) subscribed: [AtomicBool; 2],
    /// Set when some process receives reports of items, and of room. Until then none are sent.
    pub(crate) has_subscribers: [AtomicBool; 2],
    /// Set while this process notes in the directory's entry that it receives such reports.
    pub(crate) recording_subscription: [AtomicBool; 2],
}

/// A message that a receiver of this process holds.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) stream: usize,
    pub(crate) key: String,
    /// The sequence of its record.
    pub(crate) seq: u64,
    pub(crate) record: Record,
    /// The content as it came from the work queue.
    pub(crate) content: Content,
    /// The subject on which the server expects news of it.
    pub(crate) reply: String,
    /// `None`: never, while this process lives.
    pub(crate) ends_at: Option<Instant>,
    /// The time of the last sign of life to the server.
    pub(crate) reported_at: Instant,
}

/// A place on loan.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) stream: usize,
    pub(crate) key: String,
    pub(crate) seq: u64,
    pub(crate) options: SendOptions,
    /// Its message's id and the data about its key, if it has one.
    pub(crate) keyed: Option<(MessageId, Keyed)>,
    pub(crate) since: Instant,
}

/// The number of requests of a batch that are in flight at the same time.
pub(crate) const IN_FLIGHT: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Items = 0,
    Room = 1,
}

/// The life stage of a queue. A closed queue can be reopened, a removed one stays removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Life {
    Open = 0,
    Closed = 1,
    Removed = 2,
}

/// The shortest time that a server gets to answer, however little is left.
const LEAST: Duration = Duration::from_millis(500);
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The priority streams of a queue.
pub(crate) fn streams(
    connection: &Arc<Connection>,
    name: &str,
    entry: &Entry,
) -> Vec<PriorityStream> {
    let count = if entry.settings.priorities {
        Priority::COUNT
    } else {
        1
    };
    let queue = format!("{}-{:016x}", directory::key(name), entry.id);
    (0..count)
        .map(|index| {
            let capacity = entry.settings.capacity;
            PriorityStream::new(connection, &queue, index, capacity, entry.layout())
        })
        .collect()
}

/// Returns the deadline of a wait, or `None` for a wait without a limit. If the time is over,
/// returns `Err` with the time waited, if any.
pub(crate) fn time_left(wait: Wait, started: Instant) -> Result<Option<Instant>, Option<Duration>> {
    let now = Instant::now();
    match wait {
        Wait::No => Err(None),
        Wait::Until(deadline) if now >= deadline => Err(Some(now - started)),
        Wait::Until(deadline) => Ok(Some(deadline)),
        Wait::Forever => Ok(None),
    }
}

impl Shared {
    pub(crate) fn new(
        connection: &Arc<Connection>,
        directory: &Directory,
        name: &str,
        entry: Entry,
        revision: u64,
    ) -> Self {
        let life = if entry.closed {
            Life::Closed
        } else {
            Life::Open
        };
        Self {
            connection: Arc::clone(connection),
            directory: directory.clone(),
            name: name.to_owned(),
            streams: streams(connection, name, &entry),
            life: AtomicU8::new(life as u8),
            paused: AtomicBool::new(entry.paused),
            revision: Mutex::new(revision),
            counts: Counts::default(),
            items: Event::new(),
            room: Event::new(),
            control: Event::new(),
            held: Mutex::default(),
            loans: Mutex::default(),
            tickets: AtomicU64::new(1),
            changed: Arc::default(),
            waiters: Default::default(),
            subscribed: Default::default(),
            has_subscribers: entry.subscribed.map(AtomicBool::new),
            recording_subscription: Default::default(),
            entry,
        }
    }

    /// The queue's address, without credentials.
    pub(crate) fn address(&self) -> String {
        format!("nats://{}/{}", self.connection.servers, self.name)
    }

    /// The deadline for the server's answer.
    pub(crate) fn until(&self, wait: Wait) -> Instant {
        let now = Instant::now();
        match wait {
            Wait::No => self.connection.soon(),
            Wait::Until(deadline) => deadline.max(now + LEAST),
            Wait::Forever => now + FOR_EVER,
        }
    }

    pub(crate) fn life(&self) -> Life {
        match self.life.load(Ordering::SeqCst) {
            0 => Life::Open,
            1 => Life::Closed,
            _ => Life::Removed,
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// Applies the directory's entry; `None`: the queue is gone.
    ///
    /// An older revision is ignored.
    pub(crate) fn learn(&self, entry: Option<&(Entry, u64)>) {
        let entry = entry.filter(|(entry, _)| entry.id == self.entry.id);
        let Some((entry, revision)) = entry else {
            self.set_life(Life::Removed);
            return;
        };
        // Held until the entry is applied: a late update must not undo a later one.
        let mut known = self.revision.lock().unwrap_or_else(PoisonError::into_inner);
        if *known > *revision {
            return;
        }
        *known = *revision;
        for (has_subscribers, noted) in self.has_subscribers.iter().zip(entry.subscribed) {
            has_subscribers.store(noted, Ordering::SeqCst);
        }
        self.set_closed(entry.closed);
        if self.paused.swap(entry.paused, Ordering::SeqCst) != entry.paused {
            self.notify_all();
        }
    }

    /// Asks the directory.
    pub(crate) async fn look_up(&self) {
        let _ = self.entry_now().await;
    }

    /// The entry as the directory has it now; `None`: the queue is gone.
    pub(crate) async fn entry_now(&self) -> Result<Option<Entry>, String> {
        let found = self.directory.look_up(&self.name).await?;
        let found = found.filter(|(entry, _)| entry.id == self.entry.id);
        self.learn(found.as_ref());
        Ok(found.map(|(entry, _)| entry))
    }

    pub(crate) fn set_life(&self, life: Life) {
        if self.life.fetch_max(life as u8, Ordering::SeqCst) < life as u8 {
            self.notify_all();
        }
    }

    /// Closes the queue in this process or opens it again, unless it is removed.
    fn set_closed(&self, closed: bool) {
        let (from, to) = match closed {
            true => (Life::Open as u8, Life::Closed as u8),
            false => (Life::Closed as u8, Life::Open as u8),
        };
        let swapped = self
            .life
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
        if swapped.is_ok() {
            self.notify_all();
        }
    }

    fn notify_all(&self) {
        for event in [&self.control, &self.items, &self.room] {
            event.notify();
        }
    }

    // --- tickets ---------------------------------------------------------------------------------

    pub(crate) fn held(&self) -> MutexGuard<'_, HashMap<u64, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn loans(&self) -> MutexGuard<'_, HashMap<u64, Lent>> {
        self.loans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn new_ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::Relaxed)
    }

    // --- records ---------------------------------------------------------------------------------

    pub(crate) fn record(&self, state: State, kind: Kind) -> Record {
        Record::new(state, &self.connection.process, kind)
    }

    /// Every place of every priority stream, with the index of the stream.
    pub(crate) async fn places(&self, until: Instant) -> Result<Vec<(usize, Place)>, RequestError> {
        let mut all = Vec::new();
        for (index, stream) in self.streams.iter().enumerate() {
            let places = stream.list(until).await?;
            all.extend(places.into_iter().map(|place| (index, place)));
        }
        Ok(all)
    }

    // --- errors
    // ------------------------------------------------------------------------------------

    /// Notes that the queue is gone, if that is the error.
    fn note(&self, error: &RequestError) {
        if *error == RequestError::Gone {
            self.set_life(Life::Removed);
        }
    }

    pub(crate) fn send_failure(&self, error: RequestError) -> SendFailure {
        self.note(&error);
        match error {
            RequestError::Gone => Unavailable::Removed.into(),
            other => Unavailable::transport(other.to_string()).into(),
        }
    }

    pub(crate) fn recv_error(&self, error: RequestError) -> RecvPortError {
        self.note(&error);
        match error {
            RequestError::Gone => Unavailable::Removed.into(),
            RequestError::Damaged(what) => RecvFailure::Damaged { reason: what }.into(),
            other => Unavailable::transport(other.to_string()).into(),
        }
    }

    pub(crate) fn settle_error(&self, error: RequestError) -> SettleFailure {
        self.note(&error);
        match error {
            RequestError::Changed => SettleFailure::LeaseLost,
            RequestError::Gone => Unavailable::Removed.into(),
            other => Unavailable::transport(other.to_string()).into(),
        }
    }

    /// The failure of a control call at these steps.
    pub(crate) fn control_failure(&self, steps: &Steps, error: RequestError) -> ControlFailure {
        self.note(&error);
        steps.failure(error)
    }
}
