//! Queue addresses as typed on the command line, and the queues they name.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use ipc_proto::{Name, QueueSettings, Timestamp};
use ipc_queue::shm::Inspector;
use ipc_queue::transport::{LeaseInfo, OpenMode};
use ipc_queue::{Address, ByteQueue, QueueError, QueueOptions, QueueStats, ShmQueue};
use ipc_shm::{Namespace, Siblings};

use crate::exit::Exit;
use crate::payload;

const DEFAULT: &str = "default";

/// Returns the full address for the typed text: `jobs` and `media/jobs` mean shared memory.
pub fn whole(queue: &str) -> String {
    if queue.contains(':') {
        queue.to_owned()
    } else {
        format!("shm:{queue}")
    }
}

/// Time that a server has to answer a request, if the user gave one. Set once, before any
/// address is used.
static ANSWER_TIMEOUT: OnceLock<Duration> = OnceLock::new();

pub fn set_answer_timeout(time: Duration) {
    let _ = ANSWER_TIMEOUT.set(time);
}

/// The address of a queue that other processes can see.
///
/// # Errors
/// A `local:` queue is refused: it would belong to this process alone, and end with it.
pub fn shared(queue: &str) -> Result<Address> {
    let limit = ANSWER_TIMEOUT.get().copied();
    match whole(queue).parse()? {
        Address::Local { name } => Err(Exit::Refused.error(format!(
            "local:{name} lives in one process only, so no other process can see it: \
             use shm:{name}, or serve it with ipc serve local:{name} --at unix:/PATH"
        ))),
        Address::Unix { path, timeout } => Ok(Address::Unix {
            path,
            timeout: timeout.or(limit),
        }),
        Address::Other { scheme, rest } => Ok(Address::Other {
            rest: with_timeout(&scheme, rest, limit),
            scheme,
        }),
        address => Ok(address),
    }
}

fn with_timeout(scheme: &str, rest: String, limit: Option<Duration>) -> String {
    let Some(limit) = limit.filter(|_| scheme == "nats" && !rest.contains("timeout=")) else {
        return rest;
    };
    let joint = if rest.contains('?') { '&' } else { '?' };
    format!("{rest}{joint}timeout={}ms", limit.as_millis())
}

/// Opens an existing queue for a short time. In shared memory some participant slots are reserved
/// for commands, so that they work even when the maximum number of processes is attached.
pub fn open(queue: &str) -> Result<ByteQueue> {
    let options = QueueOptions::new().attach_as_tool();
    Ok(options.open_any(shared(queue)?.to_string())?)
}

/// Opens an existing queue for as long as messages arrive, as any other program does.
pub fn open_to_stay(queue: &str) -> Result<ByteQueue> {
    Ok(QueueOptions::new().open_any(shared(queue)?.to_string())?)
}

/// Opens the queue if it exists, else creates it with `options`. An existing queue may have other
/// settings.
pub fn open_or_create(queue: &str, options: &QueueOptions) -> Result<ByteQueue> {
    let address = shared(queue)?.to_string();
    let options = options.clone().attach_as_tool();
    loop {
        match QueueOptions::new().attach_as_tool().open_any(&address) {
            Err(QueueError::NotFound { .. }) => {}
            opened => return Ok(opened?),
        }
        match options.clone().mode(OpenMode::Create).open_bytes(&address) {
            // Another process has just created it.
            Err(QueueError::Exists { .. }) => {}
            created => return Ok(created?),
        }
    }
}

/// A queue that is only inspected.
pub enum Subject {
    /// In shared memory: a read-only mapping, which can't disturb anything.
    Mapped(Box<Inspector>),
    /// Elsewhere: a handle that asks the transport.
    Asked(ByteQueue),
}

impl Subject {
    pub fn open(queue: &str) -> Result<Self> {
        match shared(queue)? {
            Address::Shm { namespace, name } => {
                let namespace = Namespace::new(namespace.as_str())?;
                Ok(Self::Mapped(Box::new(Inspector::open(&namespace, &name)?)))
            }
            _ => Ok(Self::Asked(open(queue)?)),
        }
    }

    pub fn settings(&self) -> &QueueSettings {
        match self {
            Self::Mapped(inspector) => inspector.settings(),
            Self::Asked(queue) => queue.transport().settings(),
        }
    }

    pub fn stats(&self) -> Result<QueueStats> {
        match self {
            Self::Mapped(inspector) => Ok(inspector.stats()),
            Self::Asked(queue) => Ok(queue.transport().stats()?),
        }
    }

    /// The leases; `None` where the transport can't list them.
    pub fn leases(&self) -> Result<Option<Vec<LeaseInfo>>> {
        match self {
            Self::Mapped(inspector) => Ok(Some(inspector.leases())),
            Self::Asked(queue) => match queue.transport().leases() {
                Err(error) if error.is_unsupported() => Ok(None),
                held => Ok(Some(held?)),
            },
        }
    }

    /// The number of messages that fit. With priorities, each of the four has its own places.
    pub fn capacity(&self) -> u64 {
        let settings = self.settings();
        u64::from(settings.capacity) * if settings.priorities { 4 } else { 1 }
    }

    /// Returns `true` if the queue is known to have been removed.
    pub fn is_removed(&self) -> bool {
        match self {
            Self::Mapped(inspector) => inspector.is_removed(),
            Self::Asked(_) => false,
        }
    }

    pub fn id(&self) -> u64 {
        match self {
            Self::Mapped(inspector) => inspector.id(),
            Self::Asked(queue) => queue.transport().id(),
        }
    }

    /// The name of the payload type, for people.
    pub fn type_name(&self) -> String {
        let name = self.payload();
        name.map_or("anything".to_owned(), payload::short)
    }

    /// The payload type as stored with the queue; `None` if the transport does not know it.
    pub fn payload(&self) -> Option<&str> {
        match self {
            Self::Mapped(inspector) => Some(inspector.payload_type()),
            Self::Asked(queue) => queue.transport().payload(),
        }
    }

    /// The time at which the oldest waiting message was sent, where that is known.
    pub fn oldest(&self) -> Option<Timestamp> {
        match self {
            Self::Mapped(inspector) => inspector.oldest(),
            Self::Asked(_) => None,
        }
    }
}

/// Opens a queue in shared memory for inspection only.
pub fn inspect(queue: &str) -> Result<Box<Inspector>> {
    match Subject::open(queue)? {
        Subject::Mapped(inspector) => Ok(inspector),
        Subject::Asked(_) => Err(Exit::Refused.error(format!(
            "{queue} is not in shared memory: its messages can't be seen without receiving them"
        ))),
    }
}

/// Returns this user's namespaces, and what else is in their folder.
pub fn siblings() -> Result<Siblings> {
    let any = Namespace::new(DEFAULT)?;
    any.siblings_and_skipped().context("looking for namespaces")
}

/// Returns the namespace with that name, or all namespaces of this user.
pub fn namespaces(only: Option<&str>) -> Result<Vec<Namespace>> {
    let Some(only) = only else {
        return Ok(siblings()?.namespaces);
    };
    Ok(vec![Namespace::new(only)?])
}

/// The queues found in some namespaces.
#[derive(Default)]
pub struct Found {
    pub queues: Vec<(Namespace, Name)>,
    /// The namespaces that can't be listed.
    pub unreadable: Vec<(Namespace, Error)>,
}

/// Returns the queues of that namespace, or of all namespaces of this user.
pub fn queues(only: Option<&str>) -> Result<Found> {
    let mut found = Found::default();
    for namespace in namespaces(only)? {
        match ShmQueue::list(&namespace) {
            Ok(names) => {
                let names = names.into_iter().map(|name| (namespace.clone(), name));
                found.queues.extend(names);
            }
            Err(error) => found.unreadable.push((namespace, error.into())),
        }
    }
    Ok(found)
}

/// Returns the shortest text that names the queue on the command line.
pub fn short(namespace: &Namespace, name: &Name) -> String {
    if namespace.name().as_str() == DEFAULT {
        name.to_string()
    } else {
        format!("{}/{name}", namespace.name())
    }
}

/// The deduplication window of a queue that a command creates as a side effect.
pub const DEDUP_WINDOW: Duration = Duration::from_secs(3600);
