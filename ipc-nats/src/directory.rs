//! The directory of queues: a key-value bucket with one entry for each.
//!
//! A creation first writes the entry, which decides which process creates the name. Then it makes
//! the queue's streams, named by a number drawn for the queue. Then the entry says that they are
//! made. The next process that opens the queue completes an interrupted creation.
//!
//! A removal first marks the entry, which decides the removal. It deletes the entry after the
//! streams. The next removal or creation completes an interrupted removal. A name that is used
//! again is another queue.

use std::fmt;
use std::time::{Duration, Instant};

use async_nats::jetstream::kv::{self, CreateErrorKind, Store, UpdateErrorKind};
use ipc_proto::QueueSettings;
use ipc_queue::transport::OpenRequest;
use serde::{Deserialize, Serialize};

use crate::address::NatsAddress;
use crate::bucket;
use crate::connection::Connection;
use crate::priority_stream::Layout;
use crate::remedy::with_remedy;
use crate::steps::Steps;

/// The directory's data about a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    version: u32,
    /// The queue's number.
    pub(crate) id: u64,
    pub(crate) settings: QueueSettings,
    /// The name of its payloads' type.
    pub(crate) payload: String,
    /// The number of servers that keep it.
    pub(crate) replicas: usize,
    /// Keeps the queue only in their memory.
    pub(crate) in_memory: bool,
    pub(crate) closed: bool,
    pub(crate) paused: bool,
    /// Its streams exist. Before that, each process that opens the queue makes the missing ones.
    #[serde(default = "yes")]
    pub(crate) made: bool,
    /// Some process has waited for messages, or for room, without a request to the server: from
    /// then on, others report these. Indexed by [`Side`](crate::shared::Side).
    #[serde(default)]
    pub(crate) subscribed: [bool; 2],
    /// The queue is removed, and its streams are being deleted. If the remover was interrupted, the
    /// next process that finds this entry deletes them.
    #[serde(default)]
    pub(crate) removed: bool,
}

const VERSION: u32 = 2;
/// Queues of this version are used as they are: see [`Layout::Counted`].
const COUNTED: u32 = 1;
const BUCKET: &str = "ipc-queues";
const PAUSE: Duration = Duration::from_millis(100);

/// Earlier versions wrote an entry only when the streams existed.
fn yes() -> bool {
    true
}

impl Entry {
    pub(crate) fn new(request: &OpenRequest, address: &NatsAddress) -> Self {
        Self {
            version: VERSION,
            id: fastrand::u64(1..),
            settings: request.settings.clone(),
            payload: request.payload.clone(),
            replicas: address.replicas,
            in_memory: address.in_memory,
            closed: false,
            paused: false,
            made: false,
            subscribed: [false; 2],
            removed: false,
        }
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let entry: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("an entry of the bucket {BUCKET} is not ours: {error}"))?;
        if !(COUNTED..=VERSION).contains(&entry.version) {
            return Err(format!(
                "the queue has layout {} and this version of ipc-nats knows {COUNTED} to \
                 {VERSION}: use the version that created it",
                entry.version
            ));
        }
        Ok(entry)
    }

    #[cfg(feature = "test-server")]
    pub(crate) fn in_first_layout(self) -> Self {
        Self {
            version: COUNTED,
            ..self
        }
    }

    pub(crate) fn layout(&self) -> Layout {
        match self.version {
            COUNTED => Layout::Counted,
            _ => Layout::Numbered,
        }
    }

    fn bytes(&self) -> bytes::Bytes {
        serde_json::to_vec(self)
            .expect("an entry has an encoding")
            .into()
    }
}

/// The directory of one server or cluster.
#[derive(Clone)]
pub(crate) struct Directory {
    store: Store,
    servers: String,
    /// The time that a server, once connected, may take to answer.
    time: Duration,
}

impl Directory {
    /// Opens the directory, or creates it as `address` says.
    pub(crate) async fn of(connection: &Connection, address: &NatsAddress) -> Result<Self, String> {
        let servers = connection.servers.clone();
        let store = bucket::open(connection, BUCKET, address, Duration::ZERO).await;
        let store = store.map_err(|error| explain(&servers, &error))?;
        let time = connection.time * 2;
        let directory = Self {
            store,
            servers,
            time,
        };
        directory.keep_on(connection, address.replicas).await;
        Ok(directory)
    }

    /// An entry must not be lost before its queue is.
    async fn keep_on(&self, connection: &Connection, replicas: usize) {
        if replicas > 1
            && let Ok(status) = self.store.status().await
            && status.info.config.num_replicas < replicas
        {
            let mut config = status.info.config;
            config.num_replicas = replicas;
            let _ = connection.jetstream.update_stream(config).await;
        }
    }

    pub(crate) async fn find(&self, name: &str) -> Result<Option<Entry>, String> {
        Ok(self.look_up(name).await?.map(|(entry, _)| entry))
    }

    /// The entry and its revision, which grows with each change. `None`: there is no such queue.
    pub(crate) async fn look_up(&self, name: &str) -> Result<Option<(Entry, u64)>, String> {
        let found = self.entry(name).await?;
        Ok(found.filter(|(entry, _)| !entry.removed))
    }

    /// The same, including a queue that is being removed.
    pub(crate) async fn entry(&self, name: &str) -> Result<Option<(Entry, u64)>, String> {
        let until = Instant::now() + self.time;
        let found = loop {
            match self.store.entry(key(name)).await {
                Ok(found) => break found,
                Err(error) if Instant::now() >= until => return Err(self.explain(&error)),
                // A cluster that is electing a leader does not answer for a while.
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        match found {
            Some(found) if found.operation == kv::Operation::Put => {
                Ok(Some((Entry::read(&found.value)?, found.revision)))
            }
            _ => Ok(None),
        }
    }

    /// Enters a new queue. `false`: a queue with that name exists.
    pub(crate) async fn add(&self, name: &str, entry: &Entry) -> Result<bool, String> {
        match self.store.create(key(name), entry.bytes()).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Ok(false),
            // The answer may have been lost.
            Err(error) => match self.find(name).await {
                Ok(Some(found)) => Ok(found.id == entry.id),
                _ => Err(self.explain(&error)),
            },
        }
    }

    /// Changes the entry of the queue with this number, and returns it with its revision. `None`:
    /// it is gone.
    pub(crate) async fn change(
        &self,
        name: &str,
        id: u64,
        change: impl Fn(&mut Entry),
        steps: &Steps,
    ) -> Result<Option<(Entry, u64)>, String> {
        let until = Instant::now() + self.time;
        loop {
            steps.read("read its entry in the directory");
            let found = self.look_up(name).await?;
            let Some((mut entry, revision)) = found.filter(|(entry, _)| entry.id == id) else {
                return Ok(None);
            };
            let before = entry.clone();
            change(&mut entry);
            if entry == before {
                return Ok(Some((entry, revision)));
            }
            steps.change("change its entry in the directory");
            match self.store.update(key(name), entry.bytes(), revision).await {
                Ok(revision) => return Ok(Some((entry, revision))),
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
                Err(error) if Instant::now() >= until => return Err(self.explain(&error)),
                // The entry may have been changed, and the answer lost.
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Notes that some process receives reports about this side. Returns the entry with its
    /// revision; `None`: the queue is gone, or it could not be noted now.
    pub(crate) async fn set_subscribed(
        &self,
        name: &str,
        id: u64,
        side: usize,
    ) -> Option<(Entry, u64)> {
        const TRIES: u32 = 3;
        for _ in 0..TRIES {
            let found = self.look_up(name).await.ok()?;
            let (mut entry, revision) = found.filter(|(entry, _)| entry.id == id)?;
            if entry.subscribed[side] {
                return Some((entry, revision));
            }
            entry.subscribed[side] = true;
            // Refused if another process changed the entry.
            let updated = self.store.update(key(name), entry.bytes(), revision);
            if let Ok(revision) = updated.await {
                return Some((entry, revision));
            }
        }
        None
    }

    /// Marks the queue as removed, or finds it marked, and returns its entry. `None`: there is no
    /// such queue.
    pub(crate) async fn mark_removed(
        &self,
        name: &str,
        steps: &Steps,
    ) -> Result<Option<Entry>, String> {
        steps.read("read its entry in the directory");
        let Some((entry, _)) = self.entry(name).await? else {
            return Ok(None);
        };
        if !entry.removed {
            let remove = |entry: &mut Entry| entry.removed = true;
            let marked = self.change(name, entry.id, remove, steps).await?;
            if marked.is_none()
                && self
                    .entry(name)
                    .await?
                    .is_none_or(|(now, _)| now.id != entry.id)
            {
                // Another process removed it first.
                return Ok(None);
            }
        }
        Ok(Some(entry))
    }

    /// Deletes the entry of a removed queue whose streams are gone.
    pub(crate) async fn forget(&self, name: &str, id: u64) -> Result<(), String> {
        let found = self.entry(name).await?;
        let Some((_, revision)) = found.filter(|(entry, _)| entry.removed && entry.id == id) else {
            return Ok(());
        };
        let key = key(name);
        let deleted = self.store.delete_expect_revision(key, Some(revision));
        let Err(error) = deleted.await else {
            return Ok(());
        };
        // The answer may have been lost, or another process was faster.
        match self.entry(name).await? {
            Some((_, now)) if now == revision => Err(self.explain(&error)),
            _ => Ok(()),
        }
    }

    /// Changes of an entry, beginning with its present content.
    pub(crate) async fn watch(&self, name: &str) -> Result<kv::Watch, String> {
        let watch = self.store.watch_with_history(key(name)).await;
        watch.map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &dyn fmt::Display) -> String {
        explain(&self.servers, error)
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").finish_non_exhaustive()
    }
}

/// The entry that a watch delivered; `None`: the queue is gone.
pub(crate) fn seen(entry: &kv::Entry) -> Option<(Entry, u64)> {
    match entry.operation {
        kv::Operation::Put => {
            let found = Entry::read(&entry.value).ok()?;
            (!found.removed).then_some((found, entry.revision))
        }
        _ => None,
    }
}

fn explain(servers: &str, error: &dyn fmt::Display) -> String {
    let what = format!("the NATS server at {servers} can't list its queues");
    with_remedy(&what, error)
}

/// Replaces dots: keys and names of streams may not contain every dot that a name may.
pub(crate) fn key(name: &str) -> String {
    name.replace('.', "=")
}
