//! A pool's queues, as its process has them: made where its address says, or made here and served there.
//!
//! What is at a `unix:` address is the queue of whoever serves it: the pool does, from a `local:` queue of its own.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ipc_queue::transport::OpenMode;
use ipc_queue::{
    Address, ByteQueue, ControlError, QueueOptions, QueueSettings, QueueStats, UnixServer,
};

use super::builder::PoolError;
use super::wire::Place;

/// A pool's queues, opened.
#[derive(Debug)]
pub(super) struct Queues {
    pub jobs: ByteQueue,
    pub answers: ByteQueue,
    served: Mutex<Vec<Served>>,
}

#[derive(Debug)]
struct Served {
    own_address: String,
    _server: UnixServer,
}

impl Queues {
    /// The counters of the jobs' queue and of the answers'.
    pub(super) fn stats(&self) -> Result<(QueueStats, QueueStats), ControlError> {
        Ok((
            self.jobs.transport().stats()?,
            self.answers.transport().stats()?,
        ))
    }

    /// Makes those of a new pool.
    pub(super) fn create(place: &Place, settings: &QueueSettings) -> Result<Self, PoolError> {
        let mut served = Vec::new();
        let jobs = make(&place.jobs(), settings, &mut served)?;
        // From here on the address is ours, and what is there ours to remove.
        let answers = make(&place.answers(), settings, &mut served);
        let queues = |answers| Self {
            jobs,
            answers,
            served: Mutex::new(served),
        };
        answers.map(queues).inspect_err(|_| place.remove_all())
    }

    /// Those of a pool that another process has.
    pub(super) fn open(place: &Place) -> Result<Self, PoolError> {
        Ok(Self {
            jobs: super::wire::open(&place.jobs())?,
            answers: super::wire::open(&place.answers())?,
            served: Mutex::default(),
        })
    }

    /// Removes them. Whatever is gone already is as well.
    pub(super) fn remove(&self, place: &Place) {
        let served =
            std::mem::take(&mut *self.served.lock().unwrap_or_else(PoisonError::into_inner));
        if served.is_empty() {
            place.remove_all();
        }
        // Before the servers end: they wait for their threads, which wait for the queues.
        for Served { own_address, .. } in &served {
            let _ = ipc_queue::remove(own_address);
        }
    }
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

fn serve(path: &Path, queue: &ByteQueue) -> Result<UnixServer, PoolError> {
    Ok(UnixServer::bind(path, Arc::clone(queue.transport()))?)
}
