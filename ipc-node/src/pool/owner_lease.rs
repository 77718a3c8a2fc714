//! The ownership of a pool's address over a transport of another crate: a lease.
//!
//! No lock of this host's kernel tells about a process on another host. So a third queue stands
//! beside the pool's queues, `POOL.owner`, and has one message. The pool that holds this message
//! owns the address. Its keeper thread renews the lease for as long as the process runs. A killed
//! pool renews nothing: [`LEASE`] later the next pool gets the message, and with it the address.
//!
//! A pool that is stopped, or cut off from the servers, for longer than the lease may lose the
//! address to the next pool. That one removes the former queues, which ends the former pool. A pool
//! whose lease was lost removes nothing any more. If there is no next pool, it takes the message
//! back and continues.
//!
//! Whether a process is alive is not asked. Only the message decides.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ipc_queue::transport::OpenMode;
use ipc_queue::{
    Backoff, ByteDelivery, ByteQueue, ControlFailure, OwnedByteDelivery, QueueError, QueueOptions,
    RecvFailure, RecvTimeoutError, TrySendError, Unavailable,
};

use super::error::PoolError;
use super::owner::PoolOwner;
use super::wire::{self, WorkerConfig};

/// The time after which the address of a killed pool is free.
pub(super) const LEASE: Duration = Duration::from_secs(10);
const RENEWED_EVERY: Duration = Duration::from_secs(2);
/// The additional time that a transport may take to deliver a message whose lease is over.
const MARGIN: Duration = Duration::from_secs(5);
/// The time of one wait for the message.
const SLICE: Duration = Duration::from_millis(500);

/// The right to an address. Given back when dropped.
#[derive(Debug)]
pub(super) struct OwnerLease {
    address: String,
    held: Arc<Held>,
    /// Dropped to end the keeper.
    keeper: Option<(flume::Sender<()>, thread::JoinHandle<()>)>,
    /// `true` if another pool had the address before and did not clean up.
    pub is_inherited: bool,
}

/// The owner's message, while this process has it.
#[derive(Debug)]
struct Held {
    state: Mutex<State>,
    queue: ByteQueue,
}

#[derive(Debug)]
struct State {
    message: Option<OwnedByteDelivery>,
    /// The time before the last request that showed that this process has the message.
    seen_at: Instant,
}

/// The reason why this try did not succeed.
enum Miss {
    /// The queue was removed meanwhile.
    Removed,
    Failed(PoolError),
}

impl OwnerLease {
    /// Takes the address for a new pool. Waits until the lease of a killed owner is over.
    ///
    /// # Errors
    /// [`PoolError::Taken`] if the owner renewed its lease meanwhile.
    pub(super) fn take(address: &str) -> Result<Self, PoolError> {
        loop {
            let (queue, is_inherited) = open_or_create(address)?;
            match Self::of(address, &queue, is_inherited) {
                Ok(lease) => return Ok(lease),
                Err(Miss::Removed) => {}
                Err(Miss::Failed(error)) => return Err(error),
            }
        }
    }

    /// Takes the address of a former pool, to remove what it left. `None` if no pool left its
    /// message there.
    ///
    /// # Errors
    /// Those of [`take`](Self::take).
    pub(super) fn take_left(address: &str) -> Result<Option<Self>, PoolError> {
        let queue = match wire::open(&owner_queue(address)) {
            Err(QueueError::NotFound { .. }) => return Ok(None),
            opened => opened?,
        };
        match Self::of(address, &queue, true) {
            Ok(lease) => Ok(Some(lease)),
            Err(Miss::Removed) => Ok(None),
            Err(Miss::Failed(error)) => Err(error),
        }
    }

    fn of(address: &str, queue: &ByteQueue, is_inherited: bool) -> Result<Self, Miss> {
        let message = receive(address, queue)?;
        let held = Arc::new(Held {
            state: Mutex::new(State {
                message: Some(message),
                seen_at: Instant::now(),
            }),
            queue: queue.clone(),
        });
        let (stop, stopped) = flume::bounded(0);
        let kept = Arc::clone(&held);
        let named = thread::Builder::new().name("ipc-pool-owner".to_owned());
        let keeper = named.spawn(move || kept.keep(&stopped));
        let keeper = keeper.map_err(|error| Miss::Failed(error.into()))?;
        Ok(Self {
            address: address.to_owned(),
            held,
            keeper: Some((stop, keeper)),
            is_inherited,
        })
    }

    /// Returns `true` if no other pool can have the address for some seconds. After an outage it
    /// may take until the former lease is over to find out.
    pub(super) fn is_certain(&self) -> bool {
        let deadline = Instant::now() + LEASE + MARGIN;
        loop {
            // After a longer time the lease may be over, and another pool may be about to take it.
            let is_ours = self.held.renew() && self.held.state().seen_at.elapsed() < LEASE / 2;
            if is_ours || self.held.is_elsewhere() || Instant::now() >= deadline {
                return is_ours;
            }
            thread::sleep(SLICE);
        }
    }

    /// Frees the address after the queues are gone.
    pub(super) fn end(mut self) {
        self.stop();
        if self.is_certain() {
            let _ = ipc_queue::remove(owner_queue(&self.address));
        }
    }

    fn stop(&mut self) {
        if let Some((stop, keeper)) = self.keeper.take() {
            drop(stop);
            let _ = keeper.join();
        }
    }
}

/// The next pool gets the message at once.
impl Drop for OwnerLease {
    fn drop(&mut self) {
        self.stop();
        if let Some(message) = self.held.state().message.take() {
            let _ = message.nack_after(Duration::ZERO);
        }
    }
}

impl Held {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews the lease until `stopped` is disconnected.
    fn keep(&self, stopped: &flume::Receiver<()>) {
        while stopped.recv_timeout(RENEWED_EVERY) == Err(flume::RecvTimeoutError::Timeout) {
            self.renew();
        }
    }

    /// Renews the lease. Returns `true` if this process has the message.
    fn renew(&self) -> bool {
        let mut state = self.state();
        let before = Instant::now();
        match state.message.as_ref().map(|message| self.is_ours(message)) {
            Some(None) => return false,
            Some(Some(true)) => {}
            // Lost, but perhaps to no other pool.
            Some(Some(false)) | None => {
                let receiver = self.queue.receiver();
                state.message = receiver.try_recv().ok().map(ByteDelivery::into_owned);
            }
        }
        if state.message.is_some() {
            state.seen_at = before;
        }
        state.message.is_some()
    }

    /// Returns `true` if another process certainly has the message.
    fn is_elsewhere(&self) -> bool {
        let held = self.queue.transport().leases().unwrap_or_default();
        held.iter().any(|lease| lease.pid != std::process::id())
    }

    /// `None`: the transport did not answer.
    fn is_ours(&self, message: &OwnedByteDelivery) -> Option<bool> {
        match message.extend(LEASE) {
            Ok(()) => {}
            Err(error) if error.is_lease_lost() => return Some(false),
            Err(_) => return None,
        }
        // A transport may renew without asking its server, which may have another holder by now.
        let ours = (message.id(), message.attempt());
        match self.queue.transport().leases() {
            Ok(held) => Some(held.iter().any(|held| (held.message, held.attempt) == ours)),
            Err(error) if matches!(error.failure, ControlFailure::Unsupported(_)) => Some(true),
            Err(_) => None,
        }
    }
}

/// The queue with the owner's message, beside the queues of the pool at `address`.
fn owner_queue(address: &str) -> String {
    WorkerConfig::of_pool(address.to_owned()).owner()
}

/// Also returns `true` if the queue existed: a former pool did not remove it.
fn open_or_create(address: &str) -> Result<(ByteQueue, bool), PoolError> {
    let options = QueueOptions::new()
        .capacity(1)
        .lease(LEASE)
        .attempt_limit(MOST_TURNS)
        .expiry_limit(MOST_TURNS)
        .crash_limit(MOST_TURNS)
        .backoff(Backoff::None);
    let address = owner_queue(address);
    loop {
        match wire::open(&address) {
            Err(QueueError::NotFound { .. }) => {}
            opened => return Ok((opened?, true)),
        }
        match options.clone().mode(OpenMode::Create).open_bytes(&address) {
            Err(QueueError::Exists { .. }) => {}
            made => return Ok((made?, false)),
        }
    }
}

/// The highest limit that a queue can have. A message that reached it is replaced.
const MOST_TURNS: u8 = 250;

fn receive(address: &str, queue: &ByteQueue) -> Result<OwnedByteDelivery, Miss> {
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let deadline = Instant::now() + LEASE + MARGIN;
    loop {
        // There is room for one message, so only the first pool sends one.
        match sender.try_send(b"owner") {
            Ok(_) | Err(TrySendError::Full { .. }) => {}
            Err(error) if error.failure() == Some(&Unavailable::Removed.into()) => {
                return Err(Miss::Removed);
            }
            Err(error) => return Err(failed(error)),
        }
        match receiver.recv_timeout(SLICE) {
            Ok(delivery) => return Ok(delivery.into_owned()),
            Err(RecvTimeoutError::TimedOut { .. }) => {}
            Err(error) if error.failure() == Some(&RecvFailure::from(Unavailable::Removed)) => {
                return Err(Miss::Removed);
            }
            Err(error) => return Err(failed(error)),
        }
        let transport = queue.transport();
        for letter in transport.dead_letters().map_err(failed)? {
            transport.discard(letter.id).map_err(failed)?;
        }
        if Instant::now() >= deadline {
            let holder = transport.leases().unwrap_or_default().pop();
            return Err(Miss::Failed(PoolError::Taken {
                address: address.to_owned(),
                owner: PoolOwner::elsewhere(holder),
            }));
        }
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Miss {
    Miss::Failed(io::Error::other(error).into())
}
