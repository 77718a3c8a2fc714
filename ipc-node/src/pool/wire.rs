//! What a pool and its workers tell each other.
//!
//! Jobs and answers travel through two queues of the pool's own. Which jobs nobody wants any more is said by bits in a
//! shared buffer: a queued job can't be called back from a queue, but whoever receives it can see that it is not to be run.

use ipc_queue::{ByteQueue, QueueError, QueueOptions};
use ipc_shm::{AccessError, BufferError, Namespace, SharedBuffer};
use serde::{Deserialize, Serialize};

/// The environment variable that makes a process a worker.
pub(super) const PLACE: &str = "IPC_POOL_WORKER";
/// How many tickets have a bit of their own. More can't be in the queue and in work at once.
const TICKETS: u64 = 1 << 22;

/// A job on its way to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub ticket: u64,
    pub handler: String,
    pub input: Vec<u8>,
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    /// Which start of a worker says it.
    pub start: u64,
    pub what: What,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum What {
    /// It takes jobs from now on.
    Ready,
    Started {
        ticket: u64,
        attempt: u8,
    },
    Progress {
        ticket: u64,
        done: u64,
        of: u64,
    },
    Answered {
        ticket: u64,
        answer: Result<Vec<u8>, String>,
    },
    /// It will not run this one: nobody wants it any more.
    Skipped {
        ticket: u64,
    },
    /// It has done as many jobs as it may, and ends.
    Leaving,
}

/// Where a pool's queues are, and who a worker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub namespace: String,
    pub pool: String,
    pub start: u64,
    /// After how many jobs the worker ends; 0: never.
    pub max_jobs: u64,
}

impl Place {
    pub(super) fn jobs(&self) -> String {
        format!("shm:{}/{}.jobs", self.namespace, self.pool)
    }

    pub(super) fn answers(&self) -> String {
        format!("shm:{}/{}.answers", self.namespace, self.pool)
    }

    /// For the environment of a worker.
    pub(super) fn to_text(&self) -> String {
        let Self {
            namespace,
            pool,
            start,
            max_jobs,
        } = self;
        format!("{namespace} {pool} {start} {max_jobs}")
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let place = Self {
            namespace: words.next()?.to_owned(),
            pool: words.next()?.to_owned(),
            start: words.next()?.parse().ok()?,
            max_jobs: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(place)
    }

    /// Removes everything that the pool has in shared memory. Whatever is gone already is as well.
    pub(super) fn remove_all(&self) {
        let _ = ipc_queue::remove(&self.jobs());
        let _ = ipc_queue::remove(&self.answers());
        if let Ok(namespace) = Namespace::new(&self.namespace) {
            let _ = SharedBuffer::remove(&namespace, &self.pool);
        }
    }
}

/// An existing queue of the pool.
pub(super) fn open(address: &str) -> Result<ByteQueue, QueueError> {
    QueueOptions::new()
        .mode(ipc_queue::transport::OpenMode::Open)
        .open_bytes(address)
}

/// Which jobs nobody wants any more.
pub(super) struct Unwanted(SharedBuffer);

impl Unwanted {
    pub(super) fn create(place: &Place) -> Result<Self, BufferError> {
        let namespace = Namespace::new(&place.namespace)?;
        let bytes = (TICKETS / 8) as usize;
        SharedBuffer::create(&namespace, &place.pool, bytes).map(Self)
    }

    pub(super) fn connect(place: &Place) -> Result<Self, BufferError> {
        let namespace = Namespace::new(&place.namespace)?;
        SharedBuffer::connect(&namespace, &place.pool).map(Self)
    }

    /// Says whether the job is wanted.
    pub(super) fn set(&self, ticket: u64, unwanted: bool) -> Result<(), AccessError> {
        let (at, bit) = Self::bit(ticket);
        let mut guard = self.0.lock()?;
        let mut byte = [0];
        guard.read_at(at, &mut byte)?;
        let changed = if unwanted {
            byte[0] | bit
        } else {
            byte[0] & !bit
        };
        if changed != byte[0] {
            guard.write_at(at, &[changed])?;
        }
        Ok(())
    }

    /// Whether nobody wants the job any more. A torn or unreadable bit counts as wanted: the job is run once too often.
    pub(super) fn is_set(&self, ticket: u64) -> bool {
        let (at, bit) = Self::bit(ticket);
        let mut byte = [0];
        self.0.read_at(at, &mut byte).is_ok() && byte[0] & bit != 0
    }

    fn bit(ticket: u64) -> (usize, u8) {
        let bit = ticket % TICKETS;
        ((bit / 8) as usize, 1 << (bit % 8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_its_text() {
        let place = Place {
            namespace: "default".to_owned(),
            pool: "pool-1-2".to_owned(),
            start: 7,
            max_jobs: 0,
        };
        assert_eq!(Place::from_text(&place.to_text()), Some(place));
        assert_eq!(Place::from_text("default pool-1-2 7"), None);
        assert_eq!(Place::from_text("default pool-1-2 7 0 more"), None);
    }
}
