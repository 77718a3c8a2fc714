//! What a pool and its workers tell each other.
//!
//! Jobs and answers travel through two queues of the pool's own, over whichever transport. A worker learns from its environment
//! where they are and who it is.

use std::time::Duration;

use ipc_queue::transport::OpenMode;
use ipc_queue::{ByteQueue, ControlError, QueueError, QueueOptions};
use serde::{Deserialize, Serialize};

use super::retry::Attempts;

/// The environment variable that makes a process a worker.
pub(super) const PLACE: &str = "IPC_POOL_WORKER";
/// Set in the numbers of those that another process than the pool's has started.
pub(super) const GUEST: u64 = 1 << 63;
/// How long the note is that says how much of a job's room its content takes.
pub(super) const LENGTH_BYTES: usize = 4;

/// A job on its way to a worker. Behind it may be content: room for it, and at the very end how much of that is used.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub ticket: u64,
    pub handler: String,
    pub input: Vec<u8>,
    pub attempts: Attempts,
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
    Ready {
        name: String,
        pid: u32,
    },
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
        attempt: u8,
        answer: Result<Vec<u8>, String>,
    },
    /// The attempt failed, and the job is to be tried again.
    Retries {
        ticket: u64,
        attempt: u8,
        why: String,
    },
    /// It will not run this one: nobody wants it any more.
    Skipped {
        ticket: u64,
    },
    /// It has done as many jobs as it may, or was told to, and ends.
    Leaving,
}

/// Where a pool's queues are, and who a worker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The address of the pool: those of its queues are made from it.
    pub address: String,
    pub start: u64,
    /// What the worker is called; whoever comes in its place, too.
    pub name: String,
    /// After how many jobs the worker ends; 0: never.
    pub max_jobs: u64,
    /// The worker renews its lease by itself: it is this long.
    pub keep_alive: Option<Duration>,
}

impl Place {
    /// That of a pool's queues, without a worker.
    pub(super) fn of_pool(address: String) -> Self {
        Self {
            address,
            start: 0,
            name: String::new(),
            max_jobs: 0,
            keep_alive: None,
        }
    }

    pub(super) fn jobs(&self) -> String {
        queue_at(&self.address, "jobs")
    }

    pub(super) fn answers(&self) -> String {
        queue_at(&self.address, "answers")
    }

    /// Whether it works for a pool that another process has.
    pub(super) fn is_guest(&self) -> bool {
        self.start & GUEST != 0
    }

    /// For the environment of a worker.
    pub(super) fn to_text(&self) -> String {
        let Self {
            address,
            start,
            name,
            max_jobs,
            keep_alive,
        } = self;
        let alive_ms = keep_alive.map_or(0, |time| time.as_millis());
        // Last what may have blanks in it.
        format!("{start} {max_jobs} {alive_ms} {name} {address}")
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        let mut words = text.splitn(5, ' ');
        let mut number = || words.next()?.parse().ok();
        let (start, max_jobs, alive_ms) = (number()?, number()?, number()?);
        Some(Self {
            start,
            max_jobs,
            keep_alive: (alive_ms > 0).then(|| Duration::from_millis(alive_ms)),
            name: words.next()?.to_owned(),
            address: words.next()?.to_owned(),
        })
    }

    /// Whether there is a pool. One that does not answer counts as there.
    pub(super) fn exists(&self) -> bool {
        !matches!(open(&self.jobs()), Err(QueueError::NotFound { .. }))
    }

    /// Removes the pool's queues, as many of them as possible. `false`: they were gone already.
    ///
    /// # Errors
    /// [`ControlError`] if one of them is still there, or may be.
    pub(super) fn remove_all(&self) -> Result<bool, ControlError> {
        let jobs = ipc_queue::remove(self.jobs());
        let answers = ipc_queue::remove(self.answers());
        Ok(jobs? | answers?)
    }
}

/// The address of one of the queues of the pool at `address`: before what an address may have behind its path.
fn queue_at(address: &str, name: &str) -> String {
    let (path, rest) = address.split_at(address.find('?').unwrap_or(address.len()));
    format!("{path}.{name}{rest}")
}

/// An existing queue of the pool.
pub(super) fn open(address: &str) -> Result<ByteQueue, QueueError> {
    QueueOptions::new().mode(OpenMode::Open).open_bytes(address)
}

/// The content behind a job, if there is any.
pub(super) fn content(behind: &[u8]) -> Option<&[u8]> {
    let Some((room, length)) = behind.split_last_chunk::<LENGTH_BYTES>() else {
        return behind.is_empty().then_some(behind);
    };
    room.get(..u32::from_le_bytes(*length) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(address: &str) -> Place {
        Place {
            address: address.to_owned(),
            start: 7,
            name: "worker-1".to_owned(),
            max_jobs: 0,
            keep_alive: Some(Duration::from_secs(2)),
        }
    }

    #[test]
    fn a_place_survives_its_text() {
        let place = place("unix:/a folder/pool");
        assert_eq!(Place::from_text(&place.to_text()), Some(place));
        assert_eq!(Place::from_text("7 0 0 worker-1"), None);
        assert_eq!(Place::from_text("seven 0 0 worker-1 shm:pool"), None);
    }

    #[test]
    fn queues_are_beside_each_other_whatever_the_address() {
        assert_eq!(place("shm:a/pool").jobs(), "shm:a/pool.jobs");
        let nats = place("nats://host:4222/pool?replicas=3");
        assert_eq!(nats.answers(), "nats://host:4222/pool.answers?replicas=3");
    }

    #[test]
    fn content_is_as_long_as_is_said_and_never_longer_than_its_room() {
        assert_eq!(content(b""), Some(&b""[..]));
        assert_eq!(content(b"abc\x02\0\0\0"), Some(&b"ab"[..]));
        assert_eq!(content(b"abc\x04\0\0\0"), None);
        assert_eq!(content(b"abc"), None);
    }
}
