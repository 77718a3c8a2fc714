//! A pool's queues, as its process has them: created at the pool's address, or created here and
//! served there.
//!
//! A queue at a `unix:` address belongs to its server. The pool is the server, with a `local:`
//! queue of its own.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ipc_queue::transport::OpenMode;
use ipc_queue::unix::ServeError;
use ipc_queue::{
    Address, ByteQueue, ControlError, QueueError, QueueOptions, QueueSettings, QueueStats,
    UnixServer,
};

use super::error::PoolError;
use super::leftovers::Leftovers;
use super::owner::PoolOwner;
use super::ownership::{DYING, Ownership};
use super::wire::WorkerConfig;

/// The open queues of a pool.
#[derive(Debug)]
pub(super) struct Queues {
    pub jobs: ByteQueue,
    pub answers: ByteQueue,
    served: Mutex<Vec<Served>>,
    /// The right to the address, if the transport has none of its own.
    ownership: Mutex<Option<Ownership>>,
    /// From now on queues at the address may be another pool's.
    is_left: AtomicBool,
}

#[derive(Debug)]
struct Served {
    own_address: String,
    _server: UnixServer,
}

impl Queues {
    /// Returns the counters of the job queue and of the answer queue.
    pub(super) fn stats(&self) -> Result<(QueueStats, QueueStats), ControlError> {
        Ok((
            self.jobs.transport().stats()?,
            self.answers.transport().stats()?,
        ))
    }

    /// Takes the address of a new pool and creates its queues there. Also returns what a dead pool
    /// left.
    pub(super) fn create(
        config: &WorkerConfig,
        settings: &QueueSettings,
    ) -> Result<(Self, Leftovers), PoolError> {
        let ownership = Ownership::take(&config.address)?;
        let made = Self::create_at(config, settings, ownership.as_ref());
        match made {
            Ok((mut queues, found)) => {
                queues.ownership = Mutex::new(ownership);
                Ok((queues, found))
            }
            Err(error) => {
                // If a dead pool's queues may still be there, the segment stays, and the next owner
                // removes them.
                let ours = ownership.filter(|ownership| !ownership.is_inherited());
                ours.into_iter().for_each(Ownership::end);
                Err(error)
            }
        }
    }

    fn create_at(
        config: &WorkerConfig,
        settings: &QueueSettings,
        ownership: Option<&Ownership>,
    ) -> Result<(Self, Leftovers), PoolError> {
        let mut found = Leftovers::default();
        if ownership.is_some_and(Ownership::is_inherited) {
            found = Leftovers::read(config)?;
            config.remove_all()?;
        }
        let mut served = Vec::new();
        let taken = |error| taken(error, config);
        // The answer queue first: a remote worker that finds the jobs must also find the answers.
        let answers = make(&config.answers(), settings, &mut served).map_err(taken)?;
        let jobs = make(&config.jobs(), settings, &mut served).inspect_err(|_| {
            // The queue at the address of the jobs is not ours, so only the answer queue is
            // removed.
            match served.first() {
                Some(served) => drop(ipc_queue::remove(&served.own_address)),
                None => drop(ipc_queue::remove(config.answers())),
            }
        });
        let queues = Self {
            jobs: jobs.map_err(taken)?,
            answers,
            served: Mutex::new(served),
            ownership: Mutex::default(),
            is_left: AtomicBool::default(),
        };
        Ok((queues, found))
    }

    /// Opens the queues of a pool that belongs to another process.
    pub(super) fn open(config: &WorkerConfig) -> Result<Self, PoolError> {
        Ok(Self {
            jobs: super::wire::open(&config.jobs())?,
            answers: super::wire::open(&config.answers())?,
            served: Mutex::default(),
            ownership: Mutex::default(),
            is_left: AtomicBool::default(),
        })
    }

    /// Removes the queues and frees the address. Queues that are already gone are not an error.
    ///
    /// # Errors
    /// [`ControlError`] if a queue still exists, or may. The next owner of the address then removes
    /// it.
    pub(super) fn remove(&self, config: &WorkerConfig) -> Result<(), ControlError> {
        let mut ownership = self
            .ownership
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if self.is_left.load(Ordering::SeqCst) {
            return Ok(());
        }
        if ownership.as_ref().is_some_and(|ours| !ours.is_certain()) {
            // The queues are the next owner's, or will be.
            self.is_left.store(true, Ordering::SeqCst);
            drop(ownership.take());
            return Ok(());
        }
        let served =
            std::mem::take(&mut *self.served.lock().unwrap_or_else(PoisonError::into_inner));
        let mut removed = Ok(());
        if served.is_empty() {
            removed = config.remove_all().map(drop);
        }
        // Before the servers end, because they wait for their threads, which wait for the queues.
        for Served { own_address, .. } in &served {
            removed = removed.and(ipc_queue::remove(own_address).map(drop));
        }
        self.is_left.store(removed.is_ok(), Ordering::SeqCst);
        match (ownership.take(), &removed) {
            (Some(ownership), Ok(())) => ownership.end(),
            (ownership, _) => drop(ownership),
        }
        removed
    }
}

/// A queue that is served at a socket, or that is in this process, belongs to its owner while it
/// exists.
fn taken(error: PoolError, config: &WorkerConfig) -> PoolError {
    let address = config.address.clone();
    let owner = match (&error, address.parse()) {
        (PoolError::Serve(ServeError::InUse { path }), _) => PoolOwner::serving(path),
        (PoolError::Queue(QueueError::Exists { .. }), Ok(Address::Local { .. })) => {
            PoolOwner::ourselves()
        }
        _ => return error,
    };
    PoolError::Taken { address, owner }
}

fn make(
    address: &str,
    settings: &QueueSettings,
    served: &mut Vec<Served>,
) -> Result<ByteQueue, PoolError> {
    let options = QueueOptions::new()
        .settings(settings.clone())
        .mode(OpenMode::Create);
    let Address::Unix { path, .. } = address.parse()? else {
        return Ok(options.open_bytes(address)?);
    };
    let own_address = format!(
        "local:pool-{}-{:016x}",
        std::process::id(),
        fastrand::u64(..)
    );
    let queue = options.open_bytes(&own_address)?;
    let server = serve(&path, &queue).inspect_err(|_| drop(ipc_queue::remove(&own_address)))?;
    served.push(Served {
        own_address,
        _server: server,
    });
    Ok(queue)
}

/// Serves a queue at `path`. Waits a moment for a server there that was just killed.
fn serve(path: &Path, queue: &ByteQueue) -> Result<UnixServer, PoolError> {
    const PAUSE: Duration = Duration::from_millis(2);
    let started = Instant::now();
    loop {
        match UnixServer::bind(path, Arc::clone(queue.transport())) {
            Err(ServeError::InUse { .. }) if started.elapsed() < DYING => thread::sleep(PAUSE),
            served => return Ok(served?),
        }
    }
}
