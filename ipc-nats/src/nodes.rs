//! The processes of a group, across machines: each beats in a key-value bucket.
//!
//! A beat only says that a process was alive and reached the server when it was written. It decides
//! nothing: a message comes back when its lease ends or its holder has been silent for the server's
//! ack wait.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::kv::{self, Operation, Store};
use futures_util::TryStreamExt;
use ipc_proto::{Name, NameError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::address::NatsAddress;
use crate::bucket;
use crate::connection::Connection;
use crate::directory;
use crate::remedy::with_remedy;
use crate::runtime::{block_on, spawn};

/// The processes of one group, on any machines.
#[derive(Clone)]
pub struct Nodes {
    store: Store,
}

/// This process's membership. Dropping it leaves the group.
pub struct Membership {
    store: Store,
    key: String,
    /// Its beats end when this is gone.
    stays: Option<Arc<()>>,
}

/// A process that has beaten.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its machine.
    pub host: String,
    /// Its process number there.
    pub pid: u32,
    /// The time since its last beat, by the server's clock and this machine's.
    pub last_beat: Duration,
}

/// Why an operation on a group failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NodesError {
    /// The name is invalid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An error of the server.
    #[error("{0}")]
    Server(String),
}

#[derive(Serialize, Deserialize)]
struct Beat {
    name: String,
    host: String,
    pid: u32,
}

/// The default interval between beats.
const BEATS_EVERY: Duration = Duration::from_secs(1);
/// A process without a beat for this long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

impl Nodes {
    /// Opens the group with that name, or creates it.
    ///
    /// # Errors
    /// [`NodesError::Server`].
    pub fn open(address: &NatsAddress) -> Result<Self, NodesError> {
        let store = block_on(async {
            let connection = Connection::to(address).await?;
            let name = format!("ipc-nodes-{}", directory::key(address.name.as_str()));
            let store = bucket::open(&connection, &name, address, FORGOTTEN_AFTER).await;
            store.map_err(|error| server_error(&error))
        });
        let store = store.map_err(NodesError::Server)?;
        Ok(Self { store })
    }

    /// Joins under a name, and beats once a second until the membership is dropped. Several
    /// processes may have one name.
    ///
    /// # Errors
    /// [`NodesError`].
    pub fn join(&self, name: &str) -> Result<Membership, NodesError> {
        self.join_beating(name, BEATS_EVERY)
    }

    /// Joins, and beats at this interval.
    ///
    /// # Errors
    /// Those of [`join`](Self::join).
    pub fn join_beating(&self, name: &str, every: Duration) -> Result<Membership, NodesError> {
        let name = Name::new(name)?;
        let beat = Beat {
            name: name.to_string(),
            host: host(),
            pid: std::process::id(),
        };
        let beat = bytes::Bytes::from(serde_json::to_vec(&beat).expect("a beat has an encoding"));
        let key = format!(
            "{}-{:016x}",
            directory::key(name.as_str()),
            fastrand::u64(..)
        );
        let first = block_on(self.store.put(&key, beat.clone()));
        first.map_err(|error| NodesError::Server(server_error(&error)))?;
        let membership = Membership {
            store: self.store.clone(),
            key: key.clone(),
            stays: Some(Arc::new(())),
        };
        let store = self.store.clone();
        let stays = membership.stays.as_ref().map(Arc::downgrade);
        spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                if stays.as_ref().is_none_or(|stays| stays.strong_count() == 0) {
                    return;
                }
                // A failed beat is skipped; the next one tries again.
                let _ = store.put(&key, beat.clone()).await;
            }
        });
        Ok(membership)
    }

    /// All processes that have beaten within the last hour and did not leave.
    ///
    /// # Errors
    /// [`NodesError::Server`].
    pub fn list(&self) -> Result<Vec<Node>, NodesError> {
        let nodes = block_on(async {
            let keys = self
                .store
                .keys()
                .await
                .map_err(|error| server_error(&error))?;
            let keys: Vec<String> = keys
                .try_collect()
                .await
                .map_err(|error| server_error(&error))?;
            let mut nodes = Vec::new();
            for key in keys {
                let entry = self
                    .store
                    .entry(key)
                    .await
                    .map_err(|error| server_error(&error))?;
                let entry = entry.filter(|entry| entry.operation == Operation::Put);
                nodes.extend(entry.and_then(|entry| node(&entry)));
            }
            nodes.sort_by(|one: &Node, other| (&one.name, one.pid).cmp(&(&other.name, other.pid)));
            Ok(nodes)
        });
        nodes.map_err(NodesError::Server)
    }

    /// The processes that have beaten within `timeout`.
    ///
    /// # Errors
    /// Those of [`list`](Self::list).
    pub fn alive(&self, timeout: Duration) -> Result<Vec<Node>, NodesError> {
        let mut nodes = self.list()?;
        nodes.retain(|node| node.last_beat <= timeout);
        Ok(nodes)
    }
}

fn node(entry: &kv::Entry) -> Option<Node> {
    let beat: Beat = serde_json::from_slice(&entry.value).ok()?;
    let beat_at = SystemTime::from(entry.created);
    Some(Node {
        name: beat.name,
        host: beat.host,
        pid: beat.pid,
        last_beat: SystemTime::now()
            .duration_since(beat_at)
            .unwrap_or_default(),
    })
}

/// The name of this machine.
fn host() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/hostname");
    read.map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

fn server_error(error: &dyn fmt::Display) -> String {
    with_remedy("the NATS server does not keep the list of nodes", error)
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.stays = None;
        // If this fails, the others see the beats end.
        let _ = block_on(self.store.delete(&self.key));
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Nodes").field(&self.store.name).finish()
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Membership").field(&self.key).finish()
    }
}
