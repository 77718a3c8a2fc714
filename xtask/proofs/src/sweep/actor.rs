//! The stepped process: it prepares a queue, then performs one operation between two marks.
//!
//! The marks are signals that it sends to itself, and that its tracer does not deliver. What it
//! holds when the operation ends stays as it is: it is killed there. Its `ipc-watch` thread exists
//! but runs only when the tracer lets it ([`Play::look`], [`Play::step_watcher`]). So nothing else
//! changes the segment meanwhile.

use std::fs;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipc_proto::{MessageId, Name, QueueSettings};
use ipc_queue::shm::Inspector;
use ipc_queue::snapshot::{Place, save_from};
use ipc_queue::transport::{OpenMode, OpenRequest, Transport, Wait};
use ipc_queue::{ByteQueue, QueueError, ShmQueue};
use ipc_shm::{Namespace, watch};
use nix::sys::signal::{Signal, raise};

use super::dying::{self, Dying};
use super::outcome::{Expectation, Outcome, Stepped};

/// The operation begins; `expectation.json` says which thread is stepped.
pub const BEGIN: Signal = Signal::SIGUSR1;
/// The operation is over.
pub const END: Signal = Signal::SIGUSR2;
/// The watcher must run until it sleeps again.
pub const LOOK: Signal = Signal::SIGURG;
/// The folder of the segments, in the actor's folder.
pub const SEGMENTS: &str = "shm";
/// The queue's capacity. The next constants are the largest message in bytes and the number of
/// chunks.
pub const CAPACITY: u32 = 3;
pub const LARGEST: u32 = 1536;
pub const CHUNKS: usize = 2;
pub const PARTICIPANTS: u16 = 4;
/// The number of deliveries before a message is a dead letter.
pub const ATTEMPT_LIMIT: u8 = 3;
const EXPECTATION: &str = "expectation.json";
pub const SAVED_COPY: &str = "saved-copy";
const NAMESPACE: &str = "sweep";
const QUEUE: &str = "q";

/// The context of an actor.
pub struct Play {
    folder: PathBuf,
    namespace: Namespace,
    settings: QueueSettings,
}

/// The expectation of the actor in this folder.
pub fn read_expectation(folder: &Path) -> Result<Expectation> {
    let told = fs::read(folder.join(EXPECTATION)).context("reading what the actor expects")?;
    Ok(serde_json::from_slice(&told)?)
}

/// The namespace in a folder of segments.
pub fn namespace_in(segments: &Path) -> Result<Namespace> {
    Ok(Namespace::in_folder(segments, NAMESPACE)?)
}

/// The file of the queue in a folder of segments.
pub fn file_in(segments: &Path) -> PathBuf {
    segments.join(NAMESPACE).join(format!("{QUEUE}.queue"))
}

/// The copy of the file that the actor restores, if it does. It is beside the actor's folder of
/// segments, or beside the folder of a survivor that examines a snapshot.
pub fn saved_beside(segments: &Path) -> Option<PathBuf> {
    let beside = segments.parent()?;
    let copies = [
        beside.join(SAVED_COPY),
        beside.join("actor").join(SAVED_COPY),
    ];
    copies.into_iter().find(|copy| copy.exists())
}

pub fn queue_name() -> Name {
    Name::new(QUEUE).expect("a valid name")
}

/// Small, so that it is compared quickly, and everything runs out soon.
pub fn settings() -> QueueSettings {
    QueueSettings {
        capacity: CAPACITY,
        inline_bytes: 64,
        max_message_bytes: LARGEST,
        pool_bytes: u64::from(LARGEST) * CHUNKS as u64,
        attempt_limit: ATTEMPT_LIMIT,
        crash_limit: 250,
        backoff: ipc_queue::Backoff::None,
        // It ends only on request: `extend` may also shorten it.
        lease: Some(Duration::from_secs(3600)),
        max_participants: PARTICIPANTS,
        dedup_window: Some(Duration::from_secs(3600)),
        dedup_keys: QueueSettings::MIN_DEDUP_KEYS,
        ..QueueSettings::default()
    }
}

/// Opens or creates the queue.
pub fn open(namespace: &Namespace, mode: OpenMode) -> Result<ShmQueue, QueueError> {
    open_with(namespace, mode, settings())
}

fn open_with(
    namespace: &Namespace,
    mode: OpenMode,
    settings: QueueSettings,
) -> Result<ShmQueue, QueueError> {
    let request = OpenRequest {
        mode,
        settings,
        ..OpenRequest::default()
    };
    ShmQueue::open(namespace, &queue_name(), &request)
}

impl Play {
    pub fn new(folder: &Path) -> Result<Self> {
        Ok(Self {
            folder: folder.to_owned(),
            namespace: namespace_in(&folder.join(SEGMENTS))?,
            settings: settings(),
        })
    }

    /// Changes the length of leases.
    pub fn set_lease(&mut self, lease: Duration) {
        self.settings.lease = Some(lease);
    }

    /// Attaches once more.
    pub fn attach(&self) -> Result<ByteQueue> {
        let queue: Arc<dyn Transport> = Arc::new(self.open(OpenMode::OpenOrCreate)?);
        Ok(ByteQueue::over(queue))
    }

    /// The ids of the messages that wait, oldest first.
    pub fn waiting(&self) -> Result<Vec<MessageId>> {
        let queue = Inspector::open(&self.namespace, &Name::new(QUEUE)?)?;
        let waiting = queue.waiting(CAPACITY as usize).into_iter();
        Ok(waiting.map(|waiting| waiting.message).collect())
    }

    /// Creates a queue with priorities, and attaches.
    pub fn attach_with_priorities(&self) -> Result<ByteQueue> {
        self.create(QueueSettings {
            priorities: true,
            ..self.settings.clone()
        })
    }

    /// Makes a queue whose leases do not end by time, and attaches: there messages are taken
    /// together.
    pub fn attach_without_lease(&self) -> Result<ByteQueue> {
        self.create(QueueSettings {
            lease: None,
            ..self.settings.clone()
        })
    }

    /// Creates a queue with a limit of crashes, and attaches.
    pub fn attach_with_crash_limit(&self, crash_limit: u8) -> Result<ByteQueue> {
        self.create(QueueSettings {
            crash_limit,
            ..self.settings.clone()
        })
    }

    fn create(&self, settings: QueueSettings) -> Result<ByteQueue> {
        let queue = open_with(&self.namespace, OpenMode::Create, settings)?;
        Ok(ByteQueue::over(Arc::new(queue) as Arc<dyn Transport>))
    }

    pub fn open(&self, mode: OpenMode) -> Result<ShmQueue, QueueError> {
        open_with(&self.namespace, mode, self.settings.clone())
    }

    /// Removes the queue.
    pub fn remove(&self) -> Result<bool> {
        Ok(ShmQueue::remove(&self.namespace, &queue_name())?)
    }

    /// Saves the queue, which no process has open. Returns the file, of which a copy is kept for
    /// the survivor.
    pub fn save(&self) -> Result<PathBuf> {
        let saved = self.folder.join("saved");
        save_from(&self.place(), &saved, Wait::No)?;
        fs::copy(&saved, self.folder.join(SAVED_COPY))?;
        Ok(saved)
    }

    /// The place of the queue.
    pub fn place(&self) -> Place {
        Place::new(&self.namespace, &queue_name())
    }

    /// The queue's file.
    pub fn file(&self) -> PathBuf {
        file_in(&self.folder.join(SEGMENTS))
    }

    /// Performs the operation, step by step. Does not return.
    pub fn step<T>(
        &self,
        before: Outcome,
        after: Outcome,
        operation: impl FnOnce() -> T,
    ) -> Result<()> {
        self.step_in_parts([before, after], operation)
    }

    /// Performs an operation on several messages, step by step. The arguments are the content
    /// before it, between its parts, and after it. Does not return.
    pub fn step_in_parts<T>(
        &self,
        outcomes: impl IntoIterator<Item = Outcome>,
        operation: impl FnOnce() -> T,
    ) -> Result<()> {
        self.expect(outcomes, Stepped::Main)?;
        raise(BEGIN)?;
        let _result = ManuallyDrop::new(operation());
        raise(END)?;
        bail!("this process is not traced")
    }

    /// Lets the watcher run, step by step. Does not return.
    pub fn step_watcher(&self, before: Outcome, after: Outcome) -> Result<()> {
        self.expect([before, after], Stepped::Watcher)?;
        watch::nudge();
        raise(BEGIN)?;
        bail!("this process is not traced")
    }

    /// Lets the watcher run now, without stepping.
    pub fn look(&self) -> Result<()> {
        watch::nudge();
        raise(LOOK)?;
        Ok(())
    }

    /// Starts another process, which takes something from the queue and is killed.
    pub fn let_die(&self, dying: Dying) -> Result<()> {
        let mut peer = Command::new("/proc/self/exe")
            .arg("sweep-peer")
            .arg(dying.name())
            .arg("--folder")
            .arg(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a peer")?;
        let ready = dying::await_ready(peer.stdout.as_mut());
        peer.kill()?;
        peer.wait()?;
        ready
    }

    fn expect(&self, outcomes: impl IntoIterator<Item = Outcome>, stepped: Stepped) -> Result<()> {
        let mut between: Vec<_> = outcomes.into_iter().collect();
        let after = between.pop().context("there is an outcome")?;
        let expectation = Expectation {
            before: between.first().unwrap_or(&after).clone(),
            after,
            between: between.split_off(between.len().min(1)),
            stepped,
        };
        let told = serde_json::to_vec(&expectation)?;
        fs::write(self.folder.join(EXPECTATION), told).context("saying what to expect")
    }
}
