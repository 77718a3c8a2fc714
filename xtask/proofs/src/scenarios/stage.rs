//! The fixture that scenarios share (code: `Stage`): a private folder for queues, waiting for
//! conditions, and the check that nothing is left.

use std::fmt::Debug;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use ipc_proto::QueueSettings;
use ipc_queue::transport::OpenMode;
use ipc_queue::{ByteQueue, QueueError, QueueOptions, QueueStats, ShmQueue};
use ipc_shm::Namespace;
use serde_json::{Value, json};

use super::numbered;

/// The limit for "within milliseconds" even on the slowest machine.
pub const PROMPT: Duration = Duration::from_secs(5);
/// The queue of most scenarios.
pub const JOBS: &str = "jobs";
/// Payload sizes for [`settings`]: one that fits its cell, one that needs a chunk.
pub const INLINE: usize = 48;
pub const CHUNKED: usize = 2000;
/// The variable that puts all queues below the fixture's folder, including those of children.
pub const FOLDER_VARIABLE: &str = "IPC_SHM_DIR";

const NAMESPACE: &str = "stage";

/// The place of a scenario.
pub struct Stage {
    folder: PathBuf,
}

impl Stage {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// A folder in shared memory for the scenario's own files; the scenario cleans up there itself.
    pub fn folder(&self) -> &PathBuf {
        &self.folder
    }

    /// The folder of the IPC files, which may not exist yet.
    pub fn ipc_folder(&self) -> PathBuf {
        self.folder.join("ipc")
    }

    /// The file of a queue.
    pub fn file_of(&self, queue: &str) -> PathBuf {
        let folder = self.ipc_folder().join(NAMESPACE);
        folder.join(format!("{queue}.queue"))
    }

    /// Checks that every queue is empty and has room for everything, and removes it. Then no file
    /// may be left. All children are gone by now.
    pub fn check_nothing_left(&self) -> Result<()> {
        self.check_queues()?;
        let left = self.ipc_folder();
        ensure!(!left.exists(), "{} is left", left.display());
        Ok(())
    }

    /// The same, without the check of the folder.
    pub fn check_queues(&self) -> Result<()> {
        let namespace = Namespace::new(NAMESPACE)?;
        for name in ShmQueue::list(&namespace)? {
            let queue = options(OpenMode::Open)
                .open_bytes(address(name.as_str()))
                .with_context(|| format!("opening {name} once more"))?;
            until_free(&queue, 1).with_context(|| format!("queue {name}, in the end"))?;
            drop(queue);
            ipc_queue::remove(address(name.as_str()))?;
        }
        Ok(())
    }
}

/// The address of a queue.
pub fn address(queue: &str) -> String {
    format!("shm:{NAMESPACE}/{queue}")
}

pub fn options(mode: OpenMode) -> QueueOptions {
    QueueOptions::new().mode(mode)
}

/// Small, so that everything runs out soon; it never makes dead letters by accident.
pub fn settings() -> QueueSettings {
    QueueSettings {
        capacity: 8,
        inline_bytes: 64,
        max_message_bytes: 2048,
        pool_bytes: 8 * 2048,
        attempt_limit: 250,
        crash_limit: 250,
        backoff: ipc_queue::Backoff::None,
        ..QueueSettings::default()
    }
}

/// Creates the queue.
pub fn create(settings: &QueueSettings) -> Result<ByteQueue, QueueError> {
    options(OpenMode::Create)
        .settings(settings.clone())
        .open_bytes(address(JOBS))
}

/// Opens the queue, which must exist.
pub fn open() -> Result<ByteQueue, QueueError> {
    options(OpenMode::Open).open_bytes(address(JOBS))
}

/// Sends these messages; there must be room for them soon.
pub fn send(queue: &ByteQueue, numbers: impl IntoIterator<Item = u64>, bytes: usize) -> Result<()> {
    let sender = queue.sender();
    for number in numbers {
        sender
            .send_timeout(&numbered::message(number, bytes), PROMPT)
            .with_context(|| format!("sending {number}"))?;
    }
    Ok(())
}

/// Fails unless the two are equal.
pub fn expect<T: PartialEq + Debug>(what: &str, found: T, wanted: T) -> Result<()> {
    ensure!(found == wanted, "{what}: {found:?} instead of {wanted:?}");
    Ok(())
}

/// Receives and acks a message, which must come soon and be this one, at this attempt.
pub fn take_this(queue: &ByteQueue, number: u64, attempt: u8) -> Result<()> {
    expect("received", take(queue)?, (number, attempt))
}

/// Receives and acks one message, which must come soon. Returns its number and attempt.
pub fn take(queue: &ByteQueue) -> Result<(u64, u8)> {
    let receiver = queue.receiver();
    let delivery = receiver.recv_timeout(PROMPT).context("receiving")?;
    let number = numbered::read(delivery.payload()).map_err(|error| anyhow!(error))?;
    let attempt = delivery.attempt();
    delivery.ack()?;
    Ok((number, attempt))
}

/// Receives and acks all ready messages. Returns their numbers.
pub fn drain(queue: &ByteQueue) -> Result<Vec<u64>> {
    let receiver = queue.receiver();
    let mut numbers = Vec::new();
    loop {
        match receiver.try_recv() {
            Ok(delivery) => {
                let number = numbered::read(delivery.payload()).map_err(|error| anyhow!(error))?;
                numbers.push(number);
                delivery.ack()?;
            }
            Err(error) if error.is_empty() || error.is_closed() => return Ok(numbers),
            Err(error) => return Err(error).context("draining"),
        }
    }
}

/// Waits until the condition holds, which must be soon. Returns the time it took.
pub fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let started = Instant::now();
    while !holds()? {
        ensure!(started.elapsed() < PROMPT, "not within {PROMPT:?}: {what}");
        thread::sleep(Duration::from_micros(100));
    }
    Ok(started.elapsed())
}

/// Waits until the queue's counts are as wanted, which must be soon.
pub fn until_stats(
    queue: &ByteQueue,
    what: &str,
    holds: impl Fn(&QueueStats) -> bool,
) -> Result<Duration> {
    let stats = || queue.transport().stats();
    until(what, || Ok(holds(&stats()?))).with_context(|| format!("{:?}", stats()))
}

/// Waits until nothing of the queue is in use, except for the slots of this many processes.
pub fn until_free(queue: &ByteQueue, participants: u64) -> Result<()> {
    until_stats(queue, "everything is free", |stats| {
        let free = stats.in_use() == 0 && stats.chunks_in_use == 0;
        free && stats.participants == participants
    })
    .map(drop)
}

/// Measured times, for figures.
#[derive(Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Notes a time, which must be short.
    pub fn note(&mut self, what: &str, time: Duration) -> Result<()> {
        ensure!(time < PROMPT, "{what} took {time:?}");
        self.0.push(time);
        Ok(())
    }

    /// The median and the maximum, in milliseconds.
    pub fn figures(mut self) -> Value {
        self.0.sort_unstable();
        let millis = |time: Option<&Duration>| {
            let micros = time.map_or(0, Duration::as_micros);
            u32::try_from(micros).map_or(f64::NAN, f64::from) / 1e3
        };
        json!({ "p50": millis(self.0.get(self.0.len() / 2)), "max": millis(self.0.last()) })
    }
}
