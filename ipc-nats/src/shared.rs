//! A queue as opened by one process: one shared state for all its openings.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use ipc_proto::{Kind, MessageId, Priority};
use ipc_queue::bell::Listeners;
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
use crate::keys::Keyed;
use crate::lane::{Lane, Place, Trouble};
use crate::record::{Record, State};
use crate::runtime::spawn;
use crate::steps::Steps;
use crate::{keeper, record};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) connection: Arc<Connection>,
    pub(crate) directory: Directory,
    pub(crate) name: String,
    pub(crate) entry: Entry,
    /// One, or one for each priority.
    pub(crate) lanes: Vec<Lane>,
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
    /// Held messages changed: for the keeper.
    pub(crate) changed: Arc<Notify>,
    /// The waiters without a thread, for items and for room.
    pub(crate) listeners: [Arc<Listeners>; 2],
    /// Set when other processes' items, and room, are received.
    hears: [AtomicBool; 2],
    /// Set when some process receives reports of items, and of room. Until then none are sent.
    is_heard: [AtomicBool; 2],
    /// Set while this process notes in the directory's entry that it receives such reports.
    notes_hearing: [AtomicBool; 2],
}

/// A message that a receiver of this process holds.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) lane: usize,
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
    pub(crate) told_at: Instant,
}

/// A place on loan.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) lane: usize,
    pub(crate) key: String,
    pub(crate) seq: u64,
    pub(crate) options: SendOptions,
    /// Its message's id and the data about its key, if it has one.
    pub(crate) keyed: Option<(MessageId, Keyed)>,
    pub(crate) since: Instant,
}

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

/// Keyed by the queue's number and the connection's address.
type Opened = HashMap<(u64, usize), Weak<Shared>>;

static OPENED: LazyLock<Mutex<Opened>> = LazyLock::new(Mutex::default);

fn opened() -> MutexGuard<'static, Opened> {
    OPENED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This process's openings of the queue with this number, over any connection.
pub(crate) fn find(id: u64) -> Vec<Arc<Shared>> {
    let opened = opened();
    let of_it = opened.iter().filter(|((queue, _), _)| *queue == id);
    of_it.filter_map(|(_, shared)| shared.upgrade()).collect()
}

/// The priority streams of a queue.
pub(crate) fn lanes(connection: &Arc<Connection>, name: &str, entry: &Entry) -> Vec<Lane> {
    let count = if entry.settings.priorities {
        Priority::COUNT
    } else {
        1
    };
    let queue = format!("{}-{:016x}", directory::key(name), entry.id);
    (0..count)
        .map(|index| {
            let capacity = entry.settings.capacity;
            Lane::new(connection, &queue, index, capacity, entry.layout())
        })
        .collect()
}

/// The deadline of a wait, or `None`: for ever. `Err`: the time is over, with the time waited, if
/// there was a wait.
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
    /// The queue of this entry, as opened by this process.
    pub(crate) fn attach(
        connection: &Arc<Connection>,
        directory: &Directory,
        name: &str,
        entry: Entry,
        revision: u64,
    ) -> Arc<Self> {
        let place = (entry.id, Arc::as_ptr(connection).addr());
        let mut opened = opened();
        if let Some(shared) = opened.get(&place).and_then(Weak::upgrade)
            && !shared.connection.is_forked()
        {
            shared.learn(Some(&(entry, revision)));
            return shared;
        }
        let life = if entry.closed {
            Life::Closed
        } else {
            Life::Open
        };
        let shared = Arc::new(Self {
            connection: Arc::clone(connection),
            directory: directory.clone(),
            name: name.to_owned(),
            lanes: lanes(connection, name, &entry),
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
            listeners: Default::default(),
            hears: Default::default(),
            is_heard: entry.heard.map(AtomicBool::new),
            notes_hearing: Default::default(),
            entry,
        });
        opened.retain(|_, known| known.strong_count() > 0);
        opened.insert(place, Arc::downgrade(&shared));
        drop(opened);
        spawn(keeper::keep(
            Arc::downgrade(&shared),
            Arc::clone(&shared.changed),
        ));
        spawn(watch(Arc::downgrade(&shared)));
        shared
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
        for (is_heard, noted) in self.is_heard.iter().zip(entry.heard) {
            is_heard.store(noted, Ordering::SeqCst);
        }
        self.set_closed(entry.closed);
        if self.paused.swap(entry.paused, Ordering::SeqCst) != entry.paused {
            self.notify_all();
        }
    }

    /// Asks the directory.
    async fn look_up(&self) {
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

    // --- telling ---------------------------------------------------------------------------------

    /// Informs waiters on this side, in this process and in others, that there may be something.
    pub(crate) async fn tell(&self, side: Side) {
        self.tell_with(side, Bytes::new()).await;
    }

    /// Reports that the place of this key is free.
    pub(crate) async fn tell_of_room(&self, lane: usize, key: &str) {
        self.tell_with(Side::Room, format!("{lane} {key}").into())
            .await;
    }

    /// Reports that the places of these keys are free.
    pub(crate) async fn tell_of_places(&self, lane: usize, keys: &[&str]) {
        /// Some kilobytes.
        const AT_ONCE: usize = 256;
        for keys in keys.chunks(AT_ONCE) {
            let keys = keys.join(" ");
            self.tell_with(Side::Room, format!("{lane} {keys}").into())
                .await;
        }
    }

    async fn tell_with(&self, side: Side, what: Bytes) {
        match side {
            Side::Items => self.items.notify(),
            Side::Room => self.room.notify(),
        }
        if self.life() == Life::Closed {
            self.control.notify();
        }
        if !self.is_heard[side as usize].load(Ordering::SeqCst) {
            return;
        }
        // Without a subscriber, the server drops it.
        let subject = self.subject(side);
        let _ = self.connection.client.publish(subject, what).await;
    }

    /// Notes the places that another process reports as free, if it names any.
    fn note_room(&self, said: &[u8]) {
        let said = std::str::from_utf8(said).unwrap_or_default();
        if let Some((lane, keys)) = said.split_once(' ')
            && let Some(lane) = lane
                .parse()
                .ok()
                .and_then(|lane: usize| self.lanes.get(lane))
        {
            keys.split(' ').for_each(|key| lane.freed(key));
        }
    }

    fn subject(&self, side: Side) -> String {
        format!("ipc-told.{:016x}.{}", self.entry.id, side as usize)
    }

    /// From now on, receives what other processes report to waiters on this side.
    ///
    /// They send no reports before they know that some process receives them. Until they do, waiters
    /// find what is there by looking now and then.
    pub(crate) async fn hear(self: &Arc<Self>, side: Side) {
        self.note_hearing(side);
        if self.hears[side as usize].swap(true, Ordering::SeqCst) {
            return;
        }
        let Ok(mut told) = self.connection.client.subscribe(self.subject(side)).await else {
            self.hears[side as usize].store(false, Ordering::SeqCst);
            return;
        };
        let shared = Arc::downgrade(self);
        spawn(async move {
            while let Some(said) = told.next().await {
                let Some(shared) = shared.upgrade() else {
                    return;
                };
                match side {
                    Side::Items => shared.items.notify(),
                    Side::Room => {
                        shared.note_room(&said.payload);
                        shared.room.notify();
                    }
                }
            }
        });
    }

    /// Notes in the directory's entry that a process receives reports about this side. The entry keeps
    /// that for ever, so this happens once for each queue.
    fn note_hearing(self: &Arc<Self>, side: Side) {
        let notes =
            |shared: &Self| shared.notes_hearing[side as usize].swap(true, Ordering::SeqCst);
        if self.is_heard[side as usize].load(Ordering::SeqCst) || notes(self) {
            return;
        }
        let shared = Arc::clone(self);
        spawn(async move {
            let (name, id) = (&shared.name, shared.entry.id);
            let noted = shared.directory.note_heard(name, id, side as usize);
            if let Some(entry) = noted.await {
                shared.learn(Some(&entry));
            }
            shared.notes_hearing[side as usize].store(false, Ordering::SeqCst);
        });
    }

    /// Reports an item when its time comes.
    pub(crate) fn tell_later(self: &Arc<Self>, after: Duration) {
        let shared = Arc::downgrade(self);
        spawn(async move {
            tokio::time::sleep(after).await;
            if let Some(shared) = shared.upgrade() {
                shared.tell(Side::Items).await;
            }
        });
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
    pub(crate) async fn places(&self, until: Instant) -> Result<Vec<(usize, Place)>, Trouble> {
        let mut all = Vec::new();
        for (index, lane) in self.lanes.iter().enumerate() {
            let places = lane.list(until).await?;
            all.extend(places.into_iter().map(|place| (index, place)));
        }
        Ok(all)
    }

    /// The number of messages that may still have to be delivered or settled, except those that the
    /// receiver `but` holds.
    pub(crate) async fn left(
        self: &Arc<Self>,
        but: Option<u64>,
        until: Instant,
    ) -> Result<u64, Trouble> {
        loop {
            let before = self.last_changes(until).await?;
            let places = self.places(until).await?;
            let mut taken_back = false;
            for (lane, place) in &places {
                taken_back |= self.take_back_unsent(*lane, place, until).await?;
            }
            if taken_back {
                continue;
            }
            let now = record::now();
            let is_left = |record: &Record| {
                let holder = record.holder.as_ref().map(|holder| holder.port);
                let theirs = record.state == State::Leased && but.is_some() && holder == but;
                record.state != State::Dead && !theirs && !record.is_expired(now)
            };
            let left = places.iter().filter(|(_, place)| is_left(&place.record));
            let left = left.count() as u64;
            // Changes made during the reading may not be in the list.
            if left > 0 || self.last_changes(until).await? == before {
                return Ok(left);
            }
        }
    }

    async fn last_changes(&self, until: Instant) -> Result<Vec<u64>, Trouble> {
        let mut changes = Vec::new();
        for lane in &self.lanes {
            changes.push(lane.last_change(until).await?);
        }
        Ok(changes)
    }

    // --- troubles --------------------------------------------------------------------------------

    /// Notes that the queue is gone, if that is the trouble.
    fn note(&self, trouble: &Trouble) {
        if *trouble == Trouble::Gone {
            self.set_life(Life::Removed);
        }
    }

    pub(crate) fn send_failure(&self, trouble: Trouble) -> SendFailure {
        self.note(&trouble);
        match trouble {
            Trouble::Gone => Unavailable::Removed.into(),
            other => Unavailable::transport(other.to_string()).into(),
        }
    }

    pub(crate) fn recv_error(&self, trouble: Trouble) -> RecvPortError {
        self.note(&trouble);
        match trouble {
            Trouble::Gone => Unavailable::Removed.into(),
            Trouble::Damaged(what) => RecvFailure::Damaged { reason: what }.into(),
            other => Unavailable::transport(other.to_string()).into(),
        }
    }

    pub(crate) fn settle_error(&self, trouble: Trouble) -> SettleFailure {
        self.note(&trouble);
        match trouble {
            Trouble::Changed => SettleFailure::LeaseLost,
            Trouble::Gone => Unavailable::Removed.into(),
            other => Unavailable::transport(other.to_string()).into(),
        }
    }

    /// The failure of a control call at these steps.
    pub(crate) fn control_failure(&self, steps: &Steps, trouble: Trouble) -> ControlFailure {
        self.note(&trouble);
        steps.failure(trouble)
    }
}

/// Follows the directory's entry, until this process no longer has the queue open.
async fn watch(shared: Weak<Shared>) {
    const PAUSE: Duration = Duration::from_millis(200);
    loop {
        let Some(queue) = shared.upgrade() else {
            return;
        };
        if queue.life() == Life::Removed {
            return;
        }
        let watched = queue.directory.watch(&queue.name).await;
        drop(queue);
        if let Ok(mut watch) = watched {
            while let Some(next) = next_or_gone(&shared, &mut watch).await {
                let Some(queue) = shared.upgrade() else {
                    return;
                };
                match next {
                    Ok(entry) => queue.learn(directory::seen(&entry).as_ref()),
                    Err(_) => break,
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

type Seen = <async_nats::jetstream::kv::Watch as futures_util::Stream>::Item;

async fn next_or_gone(
    shared: &Weak<Shared>,
    watch: &mut async_nats::jetstream::kv::Watch,
) -> Option<Seen> {
    const LOOKS_EVERY: Duration = Duration::from_secs(1);
    const QUIET: u32 = 3;
    let mut quiet: u32 = 0;
    loop {
        quiet = quiet.wrapping_add(1);
        match tokio::time::timeout(LOOKS_EVERY, watch.next()).await {
            Ok(next) => return next,
            // The connection that reports changes may have been to a server that died. The client
            // takes long to detect that.
            Err(_) if quiet.is_multiple_of(QUIET) => shared.upgrade()?.look_up().await,
            Err(_) if shared.strong_count() == 0 => return None,
            Err(_) => {}
        }
    }
}
