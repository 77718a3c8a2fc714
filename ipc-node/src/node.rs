//! The membership of a process. Start here.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use ipc_proto::{Name, NameError};
use ipc_shm::{Attachment, JoinError as SlotError, Namespace};
use serde::Serialize;
use thiserror::Error;

use crate::control::{BroadcastReport, ControlError, Inbox};
use crate::heartbeat::Heartbeat;
use crate::registry::{self, Health, NodeInfo, Registry, RegistryError};
use crate::stats::{self, Counters, NodeStats};

/// This process as a node, visible to others. Dropping it leaves the namespace.
///
/// ```
/// use std::time::Duration;
/// use ipc_node::{Health, Node, Registry};
/// use ipc_shm::Namespace;
///
/// let namespace = Namespace::new(&format!("doc-{}", std::process::id()))?;
/// let node = Node::join(&namespace, "resizer-1")?;
/// node.counters().sent(512);
///
/// // Any process, now or after this one has crashed:
/// let seen = Registry::open(&namespace)?.node("resizer-1", Duration::from_secs(10)).unwrap();
/// assert_eq!((seen.health, seen.stats.messages_sent), (Health::Alive, 1));
///
/// // Only one live process can have a name.
/// assert!(Node::join(&namespace, "resizer-1").is_err());
/// drop(node);
/// Registry::remove(&namespace)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Node {
    name: Name,
    registry: Registry,
    attachment: Arc<Attachment>,
    counters: Counters,
    timeout: Duration,
    /// `true` while the node has an inbox.
    listening: Arc<AtomicBool>,
    _heartbeat: Option<Heartbeat>,
}

/// The behavior of a node.
#[derive(Clone, Debug)]
#[must_use]
pub struct NodeOptions {
    interval: Option<Duration>,
    timeout: Duration,
}

/// The reason why a process could not join.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The name is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A live process has the name.
    #[error(
        "node {name:?} exists already, as process {pid}: choose another name, or stop that one"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// The process that has it.
        pid: u32,
    },
    /// The table of nodes cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Live nodes take all slots of the table.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The heartbeat thread could not be started.
    #[error("can't start the heartbeat thread: {0}")]
    Thread(#[source] io::Error),
}

/// A heartbeat every 5 s. A node without a heartbeat for 10 s is stale.
impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            interval: Some(Duration::from_secs(5)),
            timeout: Duration::from_secs(10),
        }
    }
}

impl NodeOptions {
    /// Returns the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends a heartbeat at this interval, from a thread of its own. That distinguishes a stopped
    /// process from a running one, but not a busy process from a hung one: for that, see
    /// [`beat_by_hand`](Self::beat_by_hand).
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = Some(interval);
        self
    }

    /// Sends a heartbeat only when the program calls [`Node::beat`], so the heartbeats of a hung
    /// program stop.
    pub fn beat_by_hand(mut self) -> Self {
        self.interval = None;
        self
    }

    /// Sets the time without a heartbeat after which [`Node::peers`] reports a node as stale.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Joins `namespace` as `name`.
    ///
    /// # Errors
    /// [`JoinError::NameTaken`] while a live process has the name. The name of a dead one is free.
    pub fn join(&self, namespace: &Namespace, name: &str) -> Result<Node, JoinError> {
        let name = Name::new(name)?;
        let (registry, attachment) = loop {
            let registry = Registry::open(namespace)?;
            if let Some(attachment) = take_name(namespace, &registry, &name)? {
                break (registry, Arc::new(attachment));
            }
        };
        registry.remove_orphans();
        let counters = Counters::new(Arc::clone(&attachment));
        counters.settle();
        let heartbeat = self
            .interval
            .map(|interval| Heartbeat::start(Arc::clone(&attachment), interval));
        Ok(Node {
            name,
            registry,
            counters,
            timeout: self.timeout,
            listening: Arc::default(),
            _heartbeat: heartbeat.transpose().map_err(JoinError::Thread)?,
            attachment,
        })
    }
}

/// Takes a slot under a name that no other live process has. Returns `None` if the table was
/// removed meanwhile.
///
/// A process that sees another holder after it took its slot gives the slot up, so two processes
/// never both keep the name. Two that see each other both give up, and try again after random
/// delays.
fn take_name(
    namespace: &Namespace,
    registry: &Registry,
    name: &Name,
) -> Result<Option<Attachment>, JoinError> {
    const TRIES: u32 = 200;
    let mut seen = None;
    for _ in 0..TRIES {
        seen = registry.holder(name.as_str(), None);
        if seen.is_none() {
            while registry.forget(Some(name.as_str())) {}
            let attachment = take_slot(namespace, registry, name)?;
            if registry.is_removed() {
                // The slot may be in another table, and the names in that one are unknown.
                return Ok(None);
            }
            seen = registry.holder(name.as_str(), Some(attachment.member()));
            if seen.is_none() {
                return Ok(Some(attachment));
            }
        }
        if seen.is_some_and(|holder| holder.settled) {
            break;
        }
        thread::sleep(Duration::from_micros(fastrand::u64(..2_000)));
    }
    Err(JoinError::NameTaken {
        name: name.to_string(),
        pid: seen.map_or(0, |holder| holder.pid),
    })
}

fn take_slot(
    namespace: &Namespace,
    registry: &Registry,
    name: &Name,
) -> Result<Attachment, JoinError> {
    loop {
        let segment = registry::open_segment(namespace)?;
        match Attachment::join(segment, name.as_str()) {
            Err(SlotError::Full { .. }) if registry.forget(None) => {}
            joined => return Ok(joined?),
        }
    }
}

impl Node {
    /// Joins `namespace` as `name`, with the default options.
    ///
    /// # Errors
    /// Those of [`NodeOptions::join`].
    pub fn join(namespace: &Namespace, name: &str) -> Result<Self, JoinError> {
        NodeOptions::new().join(namespace, name)
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Records a heartbeat of this process.
    pub fn beat(&self) {
        self.attachment.beat();
    }

    /// Returns the counters for messages.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns the statistics of this node so far.
    #[must_use]
    pub fn stats(&self) -> NodeStats {
        let slot = self
            .attachment
            .participants()
            .get(self.attachment.member().index);
        stats::read(self.attachment.counters(), slot.beats)
    }

    /// Returns the health of the node `name`, with `timeout` as the limit for its heartbeat. `None`
    /// if the name is unknown.
    #[must_use]
    pub fn alive(&self, name: &str, timeout: Duration) -> Option<Health> {
        self.registry.node(name, timeout).map(|info| info.health)
    }

    /// Opens this node's inbox. Until the inbox is dropped, other nodes can [send](Self::send_to)
    /// control messages to it. A node has at most one inbox at a time.
    ///
    /// # Errors
    /// [`ControlError::Listening`] if it already has an inbox, `Queue` if none can be created.
    pub fn inbox<T>(&self) -> Result<Inbox<T>, ControlError> {
        Inbox::open(self.registry.namespace(), &self.attachment, &self.listening)
    }

    /// Sends a control message to the node `node`. Never blocks, and never waits behind data.
    ///
    /// # Errors
    /// [`ControlError`] says why the message is not in the node's inbox.
    pub fn send_to<T: Serialize>(&self, node: &str, what: &T) -> Result<(), ControlError> {
        self.registry.send_to(node, what)
    }

    /// Sends a control message to every other node. Never blocks, and never waits behind data.
    ///
    /// # Errors
    /// [`ControlError::Send`] if the message has no encoding. The returned report has the result
    /// for each node.
    pub fn broadcast<T: Serialize>(&self, what: &T) -> Result<BroadcastReport, ControlError> {
        self.registry
            .broadcast_except(Some(self.attachment.member()), what)
    }

    /// Returns every known node of the namespace, including this one and former ones.
    #[must_use]
    pub fn peers(&self) -> Vec<NodeInfo> {
        self.registry.nodes(self.timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn namespace() -> (tempfile::TempDir, Namespace) {
        let folder = tempfile::Builder::new()
            .prefix("ipc-test-")
            .tempdir_in("/dev/shm")
            .unwrap();
        let namespace = Namespace::in_folder(folder.path().join("root"), "nodes").unwrap();
        (folder, namespace)
    }

    #[test]
    fn a_node_that_left_is_distinguished_from_a_present_one() {
        let (_folder, namespace) = namespace();
        let first = Node::join(&namespace, "first").unwrap();
        let second = Node::join(&namespace, "second").unwrap();
        assert_eq!(first.alive("second", TIMEOUT), Some(Health::Alive));
        second.counters().received(10, 2);
        drop(second);
        assert_eq!(first.alive("second", TIMEOUT), Some(Health::Left));
        assert_eq!(first.alive("third", TIMEOUT), None);
        let stats = first.peers()[1].stats;
        assert_eq!(
            (
                stats.messages_received,
                stats.redeliveries,
                stats.bytes_transferred
            ),
            (1, 1, 10)
        );
    }

    #[test]
    fn a_node_without_heartbeat_is_stale_until_its_next_beat() {
        let (_folder, namespace) = namespace();
        let node = NodeOptions::new()
            .beat_by_hand()
            .join(&namespace, "silent")
            .unwrap();
        assert_eq!(node.alive("silent", Duration::ZERO), Some(Health::Stale));
        node.beat();
        assert_eq!(node.alive("silent", TIMEOUT), Some(Health::Alive));
        assert_eq!(node.stats().beats, 1);
    }

    #[test]
    fn a_background_heartbeat_is_sent_automatically() {
        let (_folder, namespace) = namespace();
        let node = NodeOptions::new()
            .interval(Duration::from_millis(1))
            .join(&namespace, "beater")
            .unwrap();
        while node.stats().beats < 3 {
            thread::yield_now();
        }
    }

    #[test]
    fn exactly_one_of_many_nodes_keeps_a_shared_name() {
        let (_folder, namespace) = namespace();
        let joined: Vec<_> = thread::scope(|scope| {
            let join = || Node::join(&namespace, "single").ok();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(join)).collect();
            threads
                .into_iter()
                .filter_map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(joined.len(), 1);
    }

    #[test]
    fn a_name_is_free_again_when_its_node_left_and_old_slots_are_reused() {
        let (_folder, namespace) = namespace();
        for _ in 0..300 {
            Node::join(&namespace, "again").unwrap();
        }
        for index in 0..300 {
            Node::join(&namespace, &format!("node-{index}")).unwrap();
        }
        let registry = Registry::open(&namespace).unwrap();
        assert!(registry.node("node-299", TIMEOUT).is_some());
        assert!(registry.node("node-0", TIMEOUT).is_none());
    }
}
