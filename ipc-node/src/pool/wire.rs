//! The messages between a pool and its workers.
//!
//! Jobs and answers travel through two queues of the pool, over any transport. A worker's
//! environment tells it where they are and which worker it is.

use std::fmt;
use std::time::Duration;

use ipc_queue::transport::OpenMode;
use ipc_queue::{ByteQueue, ControlError, QueueError, QueueOptions};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::retry::Attempts;

/// The environment variable that makes a process a worker.
pub(super) const PLACE: &str = "IPC_POOL_WORKER";
/// Set in the numbers of workers that a process other than the pool's started.
pub(super) const REMOTE: u64 = 1 << 63;
/// The length of the field with the size of a job's content, within the room for it.
pub(super) const LENGTH_BYTES: usize = 4;

/// A job on its way to a worker. Content may follow it: room for the content, and at the very end
/// the size of the part that is used.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job<'a> {
    pub ticket: u64,
    pub handler: &'a str,
    #[serde(borrow, serialize_with = "as_bytes")]
    pub input: &'a [u8],
    pub attempts: Attempts,
}

/// Bytes that are encoded in one piece. A `Vec<u8>` is encoded byte by byte, with the same result.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        as_bytes(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsBlob;

        impl Visitor<'_> for AsBlob {
            type Value = Blob;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }

            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes))
            }
        }

        deserializer.deserialize_byte_buf(AsBlob)
    }
}

fn as_bytes<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

/// A report of a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    /// The start number of the worker.
    pub start: u64,
    pub what: What,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum What {
    /// The worker accepts jobs from now on.
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
        answer: Result<Blob, String>,
    },
    /// The attempt failed, and the job must be tried again.
    Retries {
        ticket: u64,
        attempt: u8,
        why: String,
    },
    /// The worker will not run this job, because it is no longer wanted.
    Skipped {
        ticket: u64,
    },
    /// The worker has done its maximum number of jobs, or was told to end, and ends now.
    Leaving,
}

/// The location of a pool's queues, and the identity of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WorkerConfig {
    /// The address of the pool, from which those of its queues are derived.
    pub address: String,
    pub start: u64,
    /// The name of the worker, which its replacement also gets.
    pub name: String,
    /// The number of jobs after which the worker ends; 0 means never.
    pub max_jobs: u64,
    /// The duration of the lease, if the worker renews it by itself.
    pub keep_alive: Option<Duration>,
}

impl WorkerConfig {
    /// Returns the location of a pool's queues, without a worker.
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

    /// The queue whose message belongs to the owner of the address: see `owner_lease.rs`.
    pub(super) fn owner(&self) -> String {
        queue_at(&self.address, "owner")
    }

    /// Returns `true` if it works for a pool of another process.
    pub(super) fn is_remote(&self) -> bool {
        self.start & REMOTE != 0
    }

    /// Returns the text for a worker's environment.
    pub(super) fn to_text(&self) -> String {
        let Self {
            address,
            start,
            name,
            max_jobs,
            keep_alive,
        } = self;
        let alive_ms = keep_alive.map_or(0, |time| time.as_millis());
        // The address comes last, because it may contain blanks.
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

    /// Returns `true` if there is a pool. One that does not answer counts as existing.
    pub(super) fn exists(&self) -> bool {
        !matches!(open(&self.jobs()), Err(QueueError::NotFound { .. }))
    }

    /// Removes as many of the pool's queues as possible. Returns `false` if they were already gone.
    ///
    /// # Errors
    /// [`ControlError`] if one of them still exists, or may.
    pub(super) fn remove_all(&self) -> Result<bool, ControlError> {
        let jobs = ipc_queue::remove(self.jobs());
        let answers = ipc_queue::remove(self.answers());
        Ok(jobs? | answers?)
    }
}

/// Returns the address of a queue of the pool at `address`. The name is inserted before the options
/// after the path.
fn queue_at(address: &str, name: &str) -> String {
    let (path, rest) = address.split_at(address.find('?').unwrap_or(address.len()));
    format!("{path}.{name}{rest}")
}

/// Opens an existing queue of the pool.
pub(super) fn open(address: &str) -> Result<ByteQueue, QueueError> {
    QueueOptions::new().mode(OpenMode::Open).open_bytes(address)
}

/// Returns the content after a job, if there is any.
pub(super) fn content(behind: &[u8]) -> Option<&[u8]> {
    let Some((room, length)) = behind.split_last_chunk::<LENGTH_BYTES>() else {
        return behind.is_empty().then_some(behind);
    };
    room.get(..u32::from_le_bytes(*length) as usize)
}

#[cfg(test)]
mod tests {
    use ipc_proto::codec;

    use super::*;

    fn config(address: &str) -> WorkerConfig {
        WorkerConfig {
            address: address.to_owned(),
            start: 7,
            name: "worker-1".to_owned(),
            max_jobs: 0,
            keep_alive: Some(Duration::from_secs(2)),
        }
    }

    #[test]
    fn a_worker_config_round_trips_through_its_text() {
        let config = config("unix:/a folder/pool");
        assert_eq!(WorkerConfig::from_text(&config.to_text()), Some(config));
        assert_eq!(WorkerConfig::from_text("7 0 0 worker-1"), None);
        assert_eq!(WorkerConfig::from_text("seven 0 0 worker-1 shm:pool"), None);
    }

    #[test]
    fn a_pools_queues_are_beside_each_other_at_every_address() {
        assert_eq!(config("shm:a/pool").jobs(), "shm:a/pool.jobs");
        let nats = config("nats://host:4222/pool?replicas=3");
        assert_eq!(nats.answers(), "nats://host:4222/pool.answers?replicas=3");
    }

    #[test]
    fn bytes_encoded_in_one_piece_equal_bytes_encoded_one_by_one() {
        let bytes = vec![0, 127, 128, 255];
        let together = codec::encode(&Blob(bytes.clone())).unwrap();
        assert_eq!(together, codec::encode(&bytes).unwrap());
        assert_eq!(codec::decode::<Blob>(&together).unwrap(), Blob(bytes));
    }

    #[test]
    fn content_has_the_recorded_length_and_never_exceeds_its_room() {
        assert_eq!(content(b""), Some(&b""[..]));
        assert_eq!(content(b"abc\x02\0\0\0"), Some(&b"ab"[..]));
        assert_eq!(content(b"abc\x04\0\0\0"), None);
        assert_eq!(content(b"abc"), None);
    }
}
