//! The process that owns a pool's address. A lock of the kernel decides that, never a process
//! number.
//!
//! In shared memory the lock is a segment beside the pool's queues, `POOL.pool`, with one
//! participant slot. The process that holds the slot owns the address. The kernel frees the slot's
//! lock however the process ends, and shows the lock in every PID namespace that shares the memory.
//!
//! A pool takes the slot before it creates its queues, and frees it after it removed them. Its
//! process may die between any two lines: the next process that takes the slot finds the queues and
//! removes them. That is the next pool at the address, the next pool of the namespace, or one of
//! the workers.
//!
//! A socket belongs to its server, and a `local:` queue to its process. Over transports of other
//! crates the owner has a lease (`owner_lease.rs`).

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ipc_proto::Name;
use ipc_queue::unix::ServeError;
use ipc_queue::{Address, QueueError, QueueOptions, UnixServer};
use ipc_shm::{
    Attachment, Created, Expected, Header, JoinError, Kind, Namespace, OpenError,
    OpenOrCreateError, Participant, Participants, PayloadType, Presence, Segment, fingerprint,
};

use super::error::PoolError;
use super::owner::PoolOwner;
use super::owner_lease::OwnerLease;
use super::wire::WorkerConfig;

/// The right to a pool's address. Freed when dropped.
#[derive(Debug)]
pub(super) enum Ownership {
    Slot(Box<Slot>),
    Lease(OwnerLease),
}

/// The right to an address in shared memory.
#[derive(Debug)]
pub(super) struct Slot {
    attachment: Attachment,
    namespace: Namespace,
    name: Name,
    is_inherited: bool,
}

/// The purpose of taking an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Pool,
    Removal,
}

const KIND: Kind = Kind::new("pool");
const LAYOUT_HASH: u64 = fingerprint(b"pool 1: one slot for the owner");
/// The slot name of a process that removes what a dead pool left.
const REMOVAL: &str = "removal";
/// The time limit for a removal by another process.
const PATIENCE: Duration = Duration::from_secs(10);
/// The time that a killed process may take to be gone.
pub(super) const DYING: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(2);

impl Ownership {
    /// Takes the address for a new pool. Returns `None` if the transport has its own locks.
    ///
    /// Waits while another process removes what a dead pool left there, and for a moment if the
    /// owner was just killed.
    pub(super) fn take(address: &str) -> Result<Option<Self>, PoolError> {
        if let Address::Other { .. } = address.parse()? {
            return Ok(Some(Self::Lease(OwnerLease::take(address)?)));
        }
        let Some((namespace, name)) = in_shared_memory(address)? else {
            return Ok(None);
        };
        let started = Instant::now();
        loop {
            let holder = match try_take(&namespace, &name, Purpose::Pool)? {
                Ok(slot) => return Ok(Some(Self::Slot(Box::new(slot)))),
                Err(holder) => holder,
            };
            let limit = if holder.name == REMOVAL {
                PATIENCE
            } else {
                DYING
            };
            if started.elapsed() >= limit {
                return Err(PoolError::Taken {
                    address: address.to_owned(),
                    owner: PoolOwner::of(&holder),
                });
            }
            thread::sleep(PAUSE);
        }
    }

    /// Returns `true` if another process had the address before and did not clean up.
    pub(super) fn is_inherited(&self) -> bool {
        match self {
            Self::Slot(slot) => slot.is_inherited,
            Self::Lease(lease) => lease.is_inherited,
        }
    }

    /// Returns `true` if the queues at the address are this owner's, and may be removed.
    pub(super) fn is_certain(&self) -> bool {
        match self {
            Self::Slot(_) => true,
            Self::Lease(lease) => lease.is_certain(),
        }
    }

    /// Frees the address after the queues are gone.
    pub(super) fn end(self) {
        match self {
            Self::Slot(slot) => slot.end(),
            Self::Lease(lease) => lease.end(),
        }
    }
}

impl Slot {
    /// Removes the segment, and frees the slot.
    fn end(self) {
        // Done while the slot is ours: a process that opened the segment before then finds it
        // removed.
        let _ = Segment::remove(&self.namespace, &self.name, KIND);
        drop(self.attachment);
    }
}

/// Removes what is left of the pool at `address`, if its process is gone. Returns `false` if
/// nothing is left.
///
/// # Errors
/// [`PoolError::Taken`] if the process is not gone, and [`PoolError::Control`] if something cannot
/// be removed.
pub(super) fn remove(address: &str) -> Result<bool, PoolError> {
    let config = WorkerConfig::of_pool(address.to_owned());
    if let Address::Unix { .. } = address.parse()? {
        let jobs = remove_socket(address, &config.jobs())?;
        return Ok(remove_socket(address, &config.answers())? || jobs);
    }
    if let Address::Other { .. } = address.parse()? {
        let lease = OwnerLease::take_left(address)?;
        let was_there = config.remove_all()? | lease.is_some();
        lease.into_iter().for_each(OwnerLease::end);
        return Ok(was_there);
    }
    let Some((namespace, name)) = in_shared_memory(address)? else {
        return Ok(config.remove_all()?);
    };
    match try_take(&namespace, &name, Purpose::Removal)? {
        Ok(ownership) => {
            // On an error the segment also stays, so that the next owner tries again.
            let was_there = ownership.is_inherited && config.remove_all()?;
            ownership.end();
            Ok(was_there)
        }
        Err(holder) => Err(PoolError::Taken {
            address: address.to_owned(),
            owner: PoolOwner::of(&holder),
        }),
    }
}

/// Removes what is left of the pool of this worker, which has ended. `jobs` is the number of its job
/// queue.
///
/// # Errors
/// Those of [`remove`].
pub(super) fn remove_of_ended(config: &WorkerConfig, jobs: Option<u64>) -> Result<bool, PoolError> {
    let Address::Other { .. } = config.address.parse()? else {
        return remove(&config.address);
    };
    // The lease of the pool runs on for some seconds. It stays, so that no next pool can make
    // queues of these names while workers remove them.
    let found = super::wire::open(&config.jobs())?;
    let is_ours = Some(found.transport().id()) == jobs;
    Ok(is_ours && config.remove_all()?)
}

/// Removes the socket of a dead server, by serving there for a moment. A live server prevents that.
fn remove_socket(pool: &str, queue: &str) -> Result<bool, PoolError> {
    let Address::Unix { path, .. } = queue.parse()? else {
        return Ok(false);
    };
    if !path.exists() {
        return Ok(false);
    }
    let name = format!("local:{}", default_name());
    let queue = QueueOptions::new().capacity(1).open_bytes(&name)?;
    let served = UnixServer::bind(&path, Arc::clone(queue.transport()));
    ipc_queue::remove(&name)?;
    match served {
        Ok(server) => drop(server),
        Err(ServeError::InUse { .. }) => {
            return Err(PoolError::Taken {
                address: pool.to_owned(),
                owner: PoolOwner::serving(&path),
            });
        }
        Err(error) => return Err(error.into()),
    }
    Ok(true)
}

/// Removes what dead pools left in the namespace at addresses with default names, which no other
/// pool uses again.
pub(super) fn remove_leftovers(namespace: &str) {
    let Ok(folder) = Namespace::new(namespace) else {
        return;
    };
    let names = Segment::list(&folder, KIND).unwrap_or_default();
    for name in names.iter().filter(|name| is_default_name(name.as_str())) {
        // The next pool tries again what cannot be removed now.
        let _ = remove(&format!("shm:{namespace}/{name}"));
    }
}

/// Returns a new name for a pool, which no other pool uses.
pub(super) fn default_name() -> String {
    let (process, chance) = (std::process::id(), fastrand::u32(..));
    format!("pool-{process}-{chance:08x}")
}

fn is_default_name(name: &str) -> bool {
    let parts = name
        .strip_prefix("pool-")
        .and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(process, chance)| {
        let is_number = process.bytes().all(|byte| byte.is_ascii_digit());
        is_number && chance.len() == 8 && chance.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

fn in_shared_memory(address: &str) -> Result<Option<(Namespace, Name)>, PoolError> {
    Ok(match address.parse::<Address>()? {
        Address::Shm { namespace, name } => Some((Namespace::new(namespace.as_str())?, name)),
        _ => None,
    })
}

/// Takes the slot, or returns its present holder.
fn try_take(
    namespace: &Namespace,
    name: &Name,
    purpose: Purpose,
) -> Result<Result<Slot, Participant>, PoolError> {
    let called = match purpose {
        Purpose::Pool => super::owner::program(),
        Purpose::Removal => REMOVAL.to_owned(),
    };
    loop {
        let (segment, created) = open(namespace, name)?;
        let table = Participants::of(&segment);
        for member in table.departed(&segment) {
            table.release(&segment, member);
        }
        let flags = segment.flag_view();
        let is_removed =
            || flags[0].load(std::sync::atomic::Ordering::SeqCst) & ipc_shm::REMOVED != 0;
        match Attachment::join(segment, &called) {
            // Its last owner removed the segment after we opened it.
            Ok(_) | Err(JoinError::Full { .. }) if is_removed() => {}
            Ok(attachment) => {
                return Ok(Ok(Slot {
                    attachment,
                    namespace: namespace.clone(),
                    name: name.clone(),
                    is_inherited: created == Created::No,
                }));
            }
            Err(JoinError::Full { .. }) => {
                let holder = table.get(0);
                if holder.presence == Presence::Live {
                    return Ok(Err(holder));
                }
            }
            Err(error) => return Err(QueueError::from(error).into()),
        }
    }
}

fn open(namespace: &Namespace, name: &Name) -> Result<(Segment, Created), PoolError> {
    let expected = Expected {
        kind: KIND,
        layout_hash: LAYOUT_HASH,
        payload: None,
    };
    match Segment::open(namespace, name, &expected) {
        Err(OpenError::NotFound { .. }) => {}
        opened => return Ok((opened.map_err(QueueError::from)?, Created::No)),
    }
    let header = Header::new(KIND, LAYOUT_HASH, PayloadType::bytes(), 1, [0; 14], 0);
    let header = header.expect("one slot fits any address space");
    match Segment::open_or_create(namespace, name, &header) {
        Ok(opened) => Ok(opened),
        Err(OpenOrCreateError::Open(error)) => Err(QueueError::from(error).into()),
        Err(OpenOrCreateError::Create(error)) => Err(QueueError::from(error).into()),
        Err(other) => Err(PoolError::System(std::io::Error::other(other.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_generated_names_are_default_names() {
        assert!(is_default_name(&default_name()));
        for chosen in [
            "pool-guests-12",
            "pool-1-1",
            "pool-1-0000000g",
            "jobs-1-00000000",
        ] {
            assert!(!is_default_name(chosen), "{chosen}");
        }
    }

    #[test]
    fn an_owner_is_named_as_far_as_it_is_known() {
        let mut owner = PoolOwner {
            pid: 7,
            is_elsewhere: true,
            program: "resize".to_owned(),
        };
        assert_eq!(
            owner.to_string(),
            "process 7 of another PID namespace or host (resize)"
        );
        owner = PoolOwner {
            pid: 0,
            program: String::new(),
            ..owner
        };
        assert_eq!(owner.to_string(), "a process that can't be seen from here");
    }
}
