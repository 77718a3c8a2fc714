//! The `shm` transport: a queue in a shared-memory segment.
//!
//! Read `shm/word.rs` (the states of a cell), then `shm/ring.rs` (sending, receiving, settling),
//! then `shm/recovery.rs` (recovery after deaths). This file connects the ring with its
//! surroundings: the segment, the process's participant slot, payload memory, waiting and waking.
//!
//! Any process may be killed between any two lines. `Shared::look_around` frees what it held. It
//! runs in every attached process when one dies (`ipc_shm::watch`), when a process opens the queue,
//! and before a blocked handle goes back to sleep.

mod blocked;
mod by_priority;
mod cell;
mod chunk;
mod contents;
mod due;
mod events;
mod frozen;
mod geometry;
mod inspector;
mod keys;
mod last_taken;
mod leases;
mod letters;
mod level;
mod memory;
#[cfg(test)]
mod model;
mod opening;
mod patrol;
mod payload;
mod picking;
mod reason;
mod receiver;
mod recovery;
mod ring;
mod sender;
mod spin;
mod stats;
mod tag;
mod tally;
mod transport;
mod wait_queue;
mod waiting;
mod word;

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipc_proto::Name;
use ipc_shm::wait::Event;
use ipc_shm::watch::{self, Running, Watched};
use ipc_shm::{
    Attachment, Kind as SegmentKind, Member, Namespace, Participants, Presence, ProcessIdentity,
    Segment, View, clock,
};

pub use blocked::BlockedView;
pub use by_priority::{ShmReceiver, ShmSender};
pub(crate) use frozen::{Frozen, NotFrozen, NotPut, Room, TooLittle};
pub use inspector::{Inspector, Waiting};
pub use leases::{LeaseView, PoolView};
pub(crate) use receiver::{Acks, LevelReceiver, Reading, ShmDelivery};
pub(crate) use ring::Lease;
pub(crate) use sender::{OwnedShmLoan, ShmLoan};

use crate::capability::{Capabilities, Feature};
use crate::control::{ControlCall, ControlError, ControlFailure};
use crate::error::{QueueError, Unavailable};
use crate::notifier::Waiters;
use crate::open_request::{AttachAs, OpenRequest};
use crate::stats::QueueStats;
use contents::Contents;
use due::{Due, Scans};
use level::SegmentMemory;
use opening::{open_segment, process_name};
use patrol::Patrol;
use recovery::Changed;
use ring::Ring;
use tally::{Lane, Received, Sent, Side};
use word::{CellKind, Seat};

/// The features of every queue in shared memory.
const CAPABILITIES: Capabilities = Capabilities::none().natively([
    Feature::ZeroCopy,
    Feature::DeathNoticed,
    Feature::Batches,
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
    Feature::Snapshot,
]);
/// The file name of queue segments: `<name>.queue`.
const KIND: SegmentKind = SegmentKind::new("queue");
/// A segment flag: the queue is closed.
const CLOSED: u64 = 1 << 1;
/// A segment flag: a message was delayed or may expire, so deadlines must be checked.
const TIMED: u64 = 1 << 2;
/// A segment flag: the queue is paused.
const PAUSED: u64 = 1 << 3;
/// A segment flag: there may be dead letters. Only for the errors of a full queue.
const LETTERS: u64 = 1 << 4;
/// A segment flag: closed and paused while the queue is saved, restored or moved.
const FROZEN: u64 = 1 << 5;
/// A segment flag, with [`FROZEN`]: the queue was closed before.
const WAS_CLOSED: u64 = 1 << 6;
/// A segment flag, with [`FROZEN`]: the queue was paused before.
const WAS_PAUSED: u64 = 1 << 7;
/// The index of the event that receivers wait for.
const ITEMS: usize = 0;
/// The index of the event that senders wait for.
const ROOM: usize = 1;

/// A queue in shared memory, opened by this process.
///
/// Any process of the same user that sees the same folder can open it by name. The queue outlives
/// all its processes, until [`remove`](Self::remove). Cheap to clone. The process stays attached
/// until the last clone, handle, loan and delivery is dropped.
#[derive(Clone, Debug)]
pub struct ShmQueue {
    shared: Hold,
}

/// One process's attachment to one queue.
#[derive(Debug)]
pub(crate) struct Shared {
    attachment: Attachment,
    contents: Contents,
    seat: Seat,
    /// The events that receivers and senders wait for.
    events: [View<AtomicU32>; 2],
    /// The async waiters at each event.
    waiters: [Arc<Waiters>; 2],
    /// The time of the watcher's next scan, in milliseconds since boot. Private to this process.
    next_look: AtomicU64,
    /// The watcher's scans for leases. Private to this process.
    lease_scans: Scans,
    /// The scrubber. Private to this process.
    patrol: Mutex<Patrol>,
    /// The number of [`Hold`]s.
    holds: AtomicUsize,
}

/// Keeps this process attached, while at least one exists.
///
/// The reference count of [`Shared`] cannot be used for this: the watcher sometimes takes a
/// reference, and would delay the detachment.
#[derive(Debug)]
pub(crate) struct Hold(Arc<Shared>);

impl ShmQueue {
    /// Opens or creates the queue `name`.
    ///
    /// # Errors
    /// [`QueueError`], which has a variant for each problem of an existing queue, and for each
    /// obstacle to creating one.
    pub fn open(
        namespace: &Namespace,
        name: &Name,
        request: &OpenRequest,
    ) -> Result<Self, QueueError> {
        request.settings.validate()?;
        geometry::check(&request.settings)?;
        let segment = open_segment(namespace, name, request)?;
        Self::attach(segment, request)
    }

    fn attach(segment: Segment, request: &OpenRequest) -> Result<Self, QueueError> {
        let contents = Contents::of(&segment)?;
        request.check(segment.name().as_str(), &contents.settings)?;
        let events = [ITEMS, ROOM].map(|event| segment.event_view(event));
        // Before joining, because dead processes may occupy every slot.
        let table = Participants::of(&segment);
        for member in table.departed(&segment) {
            contents.recover(&segment, &table, member);
        }
        let attach_as = match request.attach_as {
            AttachAs::Participant => ipc_shm::AttachAs::Participant,
            AttachAs::Tool => ipc_shm::AttachAs::Tool,
        };
        let attachment = Attachment::join_as(segment, &process_name(), attach_as)?;
        let shared = Hold(Arc::new(Shared {
            seat: Seat::of_slot(attachment.member().index),
            attachment,
            contents,
            events,
            waiters: Default::default(),
            next_look: AtomicU64::new(u64::MAX),
            lease_scans: Scans::default(),
            patrol: Mutex::new(Patrol::anywhere()),
            holds: AtomicUsize::new(1),
        }));
        let subject: Arc<dyn Watched> = Arc::clone(&shared.0) as _;
        watch::watch(Arc::downgrade(&subject));
        Ok(Self { shared })
    }

    /// Removes the queue `name` with all its messages. `Ok(false)` if there was none.
    ///
    /// Every attached process is woken and gets `Removed` from then on.
    ///
    /// # Errors
    /// [`ControlError`] if the folder or the file belongs to another user, or the system refuses.
    pub fn remove(namespace: &Namespace, name: &Name) -> Result<bool, ControlError> {
        Segment::remove(namespace, name, KIND).map_err(|error| {
            let address = format!("shm:{}/{name}", namespace.name());
            ControlFailure::from(QueueError::from(error)).of(address, ControlCall::Remove)
        })
    }

    /// Removes any entry with the name of the queue, including those that [`remove`](Self::remove)
    /// refuses: a file that other users may use, a link (never its target), an empty folder.
    /// `Ok(false)` if there was none.
    ///
    /// # Errors
    /// [`ControlError`] if the entry belongs to another user, is a folder that is not empty, or the
    /// system refuses.
    pub fn remove_by_force(namespace: &Namespace, name: &Name) -> Result<bool, ControlError> {
        Segment::remove_by_force(namespace, name, KIND).map_err(|error| {
            let address = format!("shm:{}/{name}", namespace.name());
            ControlFailure::from(QueueError::from(error)).of(address, ControlCall::Remove)
        })
    }

    /// Returns the names of the queues in a namespace, sorted, including queues that cannot be
    /// opened.
    ///
    /// # Errors
    /// [`QueueError::Namespace`] if the folder is refused or cannot be read.
    pub fn list(namespace: &Namespace) -> Result<Vec<Name>, QueueError> {
        Ok(Segment::list(namespace, KIND)?)
    }

    /// Returns this process's membership of the queue's segment, which is unique.
    #[must_use]
    pub fn member(&self) -> Member {
        self.shared.attachment.member()
    }

    /// Returns the queue's namespace and name.
    pub(crate) fn place(&self) -> (Namespace, Name) {
        let segment = self.shared.attachment.segment();
        (segment.namespace().clone(), segment.name().clone())
    }

    /// Returns a handle for sending.
    #[must_use]
    pub fn shm_sender(&self) -> ShmSender {
        ShmSender::new(&self.shared)
    }

    /// Returns a handle for receiving.
    #[must_use]
    pub fn shm_receiver(&self) -> ShmReceiver {
        ShmReceiver::new(&self.shared)
    }
}

impl Shared {
    #[inline]
    fn flag(&self) -> &AtomicU64 {
        self.contents.flag()
    }

    #[inline]
    fn items(&self) -> Event<'_> {
        Event::new(&self.events[ITEMS])
    }

    #[inline]
    fn room(&self) -> Event<'_> {
        Event::new(&self.events[ROOM])
    }

    pub(crate) fn queue_id(&self) -> u64 {
        geometry::queue_id(&self.attachment.segment().header().params)
    }

    fn stats(&self) -> QueueStats {
        self.contents.stats(self.attachment.participants())
    }

    fn address(&self) -> String {
        let segment = self.attachment.segment();
        let (namespace, name) = (segment.namespace().name(), segment.name());
        format!("shm:{namespace}/{name}")
    }

    /// Returns the result of `ask`, if the queue is usable both before and after it. The reason: a
    /// queue that is truncated or removed meanwhile reads as zeroes.
    fn answer<R>(
        &self,
        call: ControlCall,
        ask: impl FnOnce(&Self) -> R,
    ) -> Result<R, ControlError> {
        self.check_usable(call)?;
        let answer = ask(self);
        self.check_usable(call)?;
        Ok(answer)
    }

    fn check_usable(&self, call: ControlCall) -> Result<(), ControlError> {
        match self.usable() {
            Ok(_) => Ok(()),
            Err(gone) => {
                let failure = ControlFailure::from(Unavailable::from(gone));
                Err(failure.of(self.address(), call))
            }
        }
    }

    fn has_flag(&self, flag: u64, call: ControlCall) -> Result<bool, ControlError> {
        match self.usable() {
            Ok(flags) => Ok(flags & flag != 0),
            Err(gone) => {
                let failure = ControlFailure::from(Unavailable::from(gone));
                Err(failure.of(self.address(), call))
            }
        }
    }

    /// Returns the rings of all priorities.
    fn rings(&self) -> impl Iterator<Item = &Ring<SegmentMemory>> + Clone {
        self.contents.rings()
    }

    /// Returns whether no message is left that a process other than `me` may still deliver or
    /// settle. The messages of a closed queue stay in their priority rings, so the rings can be
    /// checked one after the other.
    fn is_drained(&self, me: Option<Seat>) -> bool {
        self.rings().all(|ring| ring.is_drained(me))
    }

    /// Notifies senders of a free place: one sender, if any sender can use it. With several
    /// priorities or with keys it notifies all, because some may wait for another priority's place,
    /// or for a key.
    #[inline(always)]
    fn tell_room(&self) {
        if self.contents.levels.len() == 1 && self.contents.keys.is_none() {
            self.room().notify_one();
        } else {
            self.room().notify_all();
        }
    }

    /// Records that deadlines must be checked from now on.
    fn set_timed(&self) {
        self.flag().fetch_or(TIMED, Ordering::SeqCst);
    }

    /// Ensures that the watcher scans at `due`.
    fn look_by(&self, due: Due) {
        let millis = u64::try_from(due.since_boot().as_millis()).unwrap_or(u64::MAX);
        if millis < self.next_look.load(Ordering::SeqCst) {
            self.next_look.fetch_min(millis, Ordering::SeqCst);
            watch::nudge();
        }
    }

    /// Ensures that the watcher scans for leases soon, after a message was taken in a queue whose
    /// leases end.
    #[inline(always)]
    fn lease_taken(&self) {
        if self.lease_scans.rest() {
            self.wake_lease_scans();
        }
    }

    #[cold]
    fn wake_lease_scans(&self) {
        if self.lease_scans.begin() {
            watch::nudge();
        }
    }

    /// Wakes the callers that wait for a closed queue to drain: they must check after every end of
    /// a message.
    #[inline]
    fn wake_if_closed(&self) {
        if self.flag().load(Ordering::SeqCst) & CLOSED != 0 {
            self.items().notify_all();
        }
    }

    /// Returns the number of dead letters. Counts only if there may be some.
    fn dead(&self) -> u64 {
        if self.flag().load(Ordering::SeqCst) & LETTERS == 0 {
            return 0;
        }
        self.rings().map(|ring| ring.count(CellKind::Dead)).sum()
    }

    /// Drops the waiting messages, and returns their number.
    fn purge(&self) -> u64 {
        let purged = self.rings().map(Ring::purge).sum();
        self.shared_lane(Side::Send).add(Sent::Purged, purged);
        self.room().notify_all();
        self.wake_if_closed();
        events::purged(self, purged);
        purged
    }

    /// Returns the counter shard for events that belong to the process, not to a handle.
    fn shared_lane(&self, side: Side) -> Lane {
        self.contents
            .counters
            .shared(self.attachment.member(), side)
    }

    fn notify(&self, changed: Changed) {
        if changed.dead > 0 {
            self.flag().fetch_or(LETTERS, Ordering::SeqCst);
        }
        if changed.expired > 0 {
            let lane = self.shared_lane(Side::Receive);
            lane.add(Received::Expired, changed.expired as u64);
            self.wake_if_closed();
            events::unwanted(self, changed.expired);
        }
        if changed.expiries > 0 {
            let lane = self.shared_lane(Side::Send);
            lane.add(Sent::Expiries, changed.expiries as u64);
            events::expired(self, changed);
        }
        // A dead letter may be the end of a closed queue, for which a receiver may wait.
        if changed.ready > 0 || changed.dead > 0 {
            self.items().notify_all();
        }
        if changed.freed > 0 {
            self.room().notify_all();
        }
    }

    /// Returns leaked deliveries and loans (`mem::forget`), then frees the slot.
    fn detach(&self) {
        self.attachment.leave();
        self.recover(self.attachment.member());
    }

    /// The maintenance by a blocked handle before it goes back to sleep.
    fn look_around(&self, running: &Running) {
        for member in self.attachment.departed_beside(running) {
            self.recover(member);
        }
    }

    /// Runs the scrubber: raises hints that a stopped process may have failed to raise. So a lost
    /// hint costs at most one slice of time. In a queue with more cells than one stretch, it costs
    /// one slice for each stretch.
    fn patrol(&self) {
        let mut patrol = self.patrol.lock().unwrap_or_else(PoisonError::into_inner);
        patrol.go_on(self.rings());
    }

    fn recover(&self, member: Member) {
        let (segment, table) = (self.attachment.segment(), self.attachment.participants());
        self.contents.recover(segment, table, member);
    }

    /// Before the watcher scans: returns the latest time of its next scan, if this process's
    /// receivers take messages whose leases end.
    fn look_for_leases(&self) -> Option<Due> {
        let interval = Scans::interval(self.contents.settings.lease?);
        let takes = || self.rings().map(Ring::takes).fold(0, u64::wrapping_add);
        let go_on = self.lease_scans.pass(takes);
        go_on.then(|| Due::at(clock::monotonic()).after(interval))
    }

    fn look_at_clock(&self) -> Option<Due> {
        let timed = self.flag().load(Ordering::SeqCst) & TIMED != 0;
        if !timed && self.contents.settings.lease.is_none() {
            return None;
        }
        let now = Due::at(clock::monotonic());
        let mut next = None;
        for ring in self.rings() {
            let (changed, due) = ring.look_at_clock(now, self.contents.settings.lease);
            self.notify(changed);
            next = next.into_iter().chain(due).min();
        }
        next
    }
}

impl Watched for Shared {
    fn peers(&self) -> Vec<ProcessIdentity> {
        let ours = self.attachment.member();
        let live =
            |slot: &ipc_shm::Participant| slot.presence == Presence::Live && slot.member != ours;
        let slots = self.attachment.participants().iter();
        slots.filter(live).map(|slot| slot.process).collect()
    }

    fn maintain(&self, running: &Running) -> Option<Instant> {
        if !self.attachment.is_ours() {
            return None;
        }
        // Stored before the scan, so that a deadline recorded after it wakes the watcher.
        self.next_look.store(u64::MAX, Ordering::SeqCst);
        self.attachment.check_file();
        if !self.attachment.is_ours() {
            return None;
        }
        self.look_around(running);
        self.patrol();
        let taken = self
            .contents
            .counters
            .taken_in(self.attachment.member().index);
        last_taken::note(&self.attachment, taken);
        let due = self.look_for_leases();
        let due = due.into_iter().chain(self.look_at_clock()).min()?;
        let millis = u64::try_from(due.since_boot().as_millis()).unwrap_or(u64::MAX);
        self.next_look.fetch_min(millis, Ordering::SeqCst);
        let left = due.since_boot().saturating_sub(clock::monotonic());
        Some(Instant::now() + left.min(Duration::from_secs(3600)))
    }
}

impl Clone for Hold {
    fn clone(&self) -> Self {
        self.0.holds.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl Deref for Hold {
    type Target = Shared;

    #[inline]
    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // A forked copy does not detach, because the slot is its parent's. A process that lost its
        // descriptor does: its life lock lasts as long as the mapping, and every step checks the
        // slot's epoch.
        let last = self.holds.fetch_sub(1, Ordering::AcqRel) == 1;
        if last && self.attachment.is_this_process() {
            self.detach();
        }
    }
}
