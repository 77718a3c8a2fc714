//! The table of a namespace's nodes, for processes that read it without joining.
//!
//! There is one small segment for each namespace. A slot keeps its node's name, heartbeats and
//! statistics after the node left or died. When the slots run out, the slot of the node that has
//! been gone longest is reused.

use std::time::Duration;

use ipc_proto::Name;
use ipc_shm::{
    CreateError, Expected, Header, Kind, Member, Namespace, OpenError, OpenOrCreateError,
    Participant, Participants, PayloadType, Presence, Segment, clock, fingerprint,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::inbox_name::remove_inboxes;
use crate::stats::{self, NodeStats};

/// The nodes of one namespace.
#[derive(Debug)]
pub struct Registry {
    segment: Segment,
    table: Participants,
}

/// What is known about one node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeInfo {
    /// The name it gave itself.
    pub name: String,
    /// Its process number, in that process's PID namespace.
    pub pid: u32,
    /// Its health.
    pub health: Health,
    /// The time since it joined.
    pub joined_ago: Duration,
    /// The time since its last heartbeat.
    pub last_beat_ago: Duration,
    /// Its statistics.
    pub stats: NodeStats,
}

/// The presence and health of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Health {
    /// Its process runs, and its last heartbeat was within the time-out.
    Alive,
    /// Its process exists, but its last heartbeat is older than the time-out: it is stopped,
    /// swapped out, or hung.
    Stale,
    /// Its process ended without leaving. The kernel says so, whatever the time-out.
    Dead,
    /// It left.
    Left,
}

/// A live process with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    /// `true` if it has made sure that no other process has the name.
    pub(crate) settled: bool,
}

/// The reason why the nodes of a namespace cannot be listed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The table exists and cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The table does not exist and cannot be created.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// Another problem.
    #[error("{0}")]
    Other(String),
}

const KIND: Kind = Kind::new("nodes");
const LAYOUT_HASH: u64 = fingerprint(b"nodes 1: sent received bytes errors redeliveries");
const SLOTS: u16 = 256;

impl Registry {
    /// Opens the table of `namespace`, and creates it if necessary.
    ///
    /// # Errors
    /// [`RegistryError`] if the table can neither be opened nor created.
    pub fn open(namespace: &Namespace) -> Result<Self, RegistryError> {
        let segment = open_segment(namespace)?;
        Ok(Self {
            table: Participants::of(&segment),
            segment,
        })
    }

    /// Opens the table of `namespace` read-only, so it cannot disturb other processes. Returns
    /// `None` if no node ever joined.
    ///
    /// # Errors
    /// [`RegistryError::Open`] if there is a table that cannot be opened.
    pub fn look(namespace: &Namespace) -> Result<Option<Self>, RegistryError> {
        match Segment::open_read_only(namespace, &table_name(), &expected()) {
            Ok(segment) => Ok(Some(Self {
                table: Participants::of(&segment),
                segment,
            })),
            Err(OpenError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the table. Returns `Ok(false)` if there was none. Existing nodes continue, but new
    /// ones do not see them.
    ///
    /// # Errors
    /// [`OpenError`] if the file is not ours to remove.
    pub fn remove(namespace: &Namespace) -> Result<bool, OpenError> {
        // Without the table, no node can be found by name any more.
        remove_inboxes(namespace, |_| true);
        Segment::remove(namespace, &table_name(), KIND)
    }

    /// Returns every known node: those that are present, and former ones that were not forgotten
    /// yet. A node counts as stale if its last heartbeat is older than `timeout`.
    #[must_use]
    pub fn nodes(&self, timeout: Duration) -> Vec<NodeInfo> {
        self.table
            .iter()
            .map(|slot| self.describe(&slot, timeout))
            .collect()
    }

    /// Returns the node `name`. If there were several, it is the one that joined last.
    #[must_use]
    pub fn node(&self, name: &str, timeout: Duration) -> Option<NodeInfo> {
        let named = self.table.iter().filter(|slot| slot.name == name);
        let last = named.max_by_key(|slot| slot.joined_at)?;
        Some(self.describe(&last, timeout))
    }

    /// Returns `true` if the process of any node still runs, well or not.
    #[must_use]
    pub fn anybody_there(&self) -> bool {
        let there = |node: &NodeInfo| matches!(node.health, Health::Alive | Health::Stale);
        self.nodes(Duration::MAX).iter().any(there)
    }

    fn describe(&self, slot: &Participant, timeout: Duration) -> NodeInfo {
        let now = clock::monotonic();
        let last_beat_ago = now.saturating_sub(slot.beat_at);
        NodeInfo {
            name: slot.name.clone(),
            pid: slot.process.pid,
            health: self.health(slot, last_beat_ago, timeout),
            joined_ago: now.saturating_sub(slot.joined_at),
            last_beat_ago,
            stats: stats::read(self.table.counters(slot.member.index), slot.beats),
        }
    }

    fn health(&self, slot: &Participant, last_beat_ago: Duration, timeout: Duration) -> Health {
        match slot.presence {
            Presence::Free | Presence::Leaving => Health::Left,
            // Checked through a segment with which no node joined, so the lock of every node is
            // visible.
            Presence::Live if self.table.is_departed(&self.segment, slot.member) => Health::Dead,
            Presence::Live if last_beat_ago > timeout => Health::Stale,
            Presence::Live => Health::Alive,
        }
    }

    /// Returns `true` if the table was removed. Its nodes can no longer be found by name.
    pub(crate) fn is_removed(&self) -> bool {
        self.segment.is_removed()
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        self.segment.namespace()
    }

    /// Returns `true` if that membership has ended, in any way.
    pub(crate) fn is_over(&self, member: Member) -> bool {
        member.index >= self.table.count() || self.table.is_departed(&self.segment, member)
    }

    /// Returns the nodes whose processes run, well or not.
    pub(crate) fn present(&self) -> Vec<(String, Member)> {
        let slots = self.table.iter();
        let live = slots.filter(|slot| slot.presence == Presence::Live);
        live.filter(|slot| !self.is_over(slot.member))
            .map(|slot| (slot.name, slot.member))
            .collect()
    }

    /// Returns the process other than `ours` that has `name`, or is about to.
    pub(crate) fn holder(&self, name: &str, ours: Option<Member>) -> Option<Holder> {
        let there = |slot: &Participant| {
            slot.presence == Presence::Live && !self.table.is_departed(&self.segment, slot.member)
        };
        let named = self
            .table
            .iter()
            .filter(|slot| slot.name == name && Some(slot.member) != ours);
        named
            .filter(there)
            .map(|slot| self.holder_in(&slot))
            .max_by_key(|holder| holder.settled)
    }

    fn holder_in(&self, slot: &Participant) -> Holder {
        Holder {
            pid: slot.process.pid,
            settled: stats::is_settled(self.table.counters(slot.member.index)),
        }
    }

    /// Forgets a node that is gone: the one called `name`, or the one gone longest. Returns `true`
    /// if there was one.
    pub(crate) fn forget(&self, name: Option<&str>) -> bool {
        let departed = self.table.departed(&self.segment);
        let slots = departed.iter().map(|member| self.table.get(member.index));
        let wanted = slots.filter(|slot| name.is_none_or(|name| slot.name == name));
        let Some(oldest) = wanted.min_by_key(|slot| slot.beat_at) else {
            return false;
        };
        self.table.release(&self.segment, oldest.member);
        true
    }
}

/// Opens the table's segment, and creates it if necessary.
pub(crate) fn open_segment(namespace: &Namespace) -> Result<Segment, RegistryError> {
    match Segment::open(namespace, &table_name(), &expected()) {
        Err(OpenError::NotFound { .. }) => {}
        opened => return Ok(opened?),
    }
    let header = Header::new(KIND, LAYOUT_HASH, PayloadType::bytes(), SLOTS, [0; 14], 0)
        .ok_or_else(|| RegistryError::Other("256 slots fit any address space".to_owned()))?;
    match Segment::open_or_create(namespace, &table_name(), &header) {
        Ok((segment, _)) => Ok(segment),
        Err(OpenOrCreateError::Open(error)) => Err(error.into()),
        Err(OpenOrCreateError::Create(error)) => Err(error.into()),
        Err(other) => Err(RegistryError::Other(other.to_string())),
    }
}

fn expected() -> Expected {
    Expected {
        kind: KIND,
        layout_hash: LAYOUT_HASH,
        payload: None,
    }
}

fn table_name() -> Name {
    Name::new("registry").expect("a valid name")
}
