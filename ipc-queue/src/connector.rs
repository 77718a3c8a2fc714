//! Opens queues of any transport by address.
//!
//! The transports of this crate are built in. Another crate [`register`]s a [`Connector`] for its
//! scheme, once per program; from then on, every address with that scheme belongs to its transport.
//! So a program names its transports in one line, and changes between them by changing addresses
//! only.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::time::Duration;

#[cfg(target_os = "linux")]
use ipc_proto::Name;
#[cfg(target_os = "linux")]
use ipc_shm::Namespace;

use crate::address::{Address, BUILT_IN, ToAddress, without_secrets};
use crate::contract::Transport;
use crate::control::{ControlCall, ControlError, ControlFailure};
use crate::error::QueueError;
use crate::local::LocalQueue;
use crate::open_request::OpenRequest;
#[cfg(target_os = "linux")]
use crate::shm::ShmQueue;
#[cfg(target_os = "linux")]
use crate::unix::UnixQueue;

/// Opens and removes the queues of one scheme, for a transport in another crate.
pub trait Connector: Debug + Send + Sync {
    /// Opens the queue, or creates it, as `request` says. `rest` is the part of its address after
    /// `SCHEME:`.
    ///
    /// # Errors
    /// [`QueueError::Address`] for a malformed `rest`; `NotFound`, `Exists`, `SettingsDiffer` and
    /// `PayloadDiffers` as for any queue; `Transport` for the transport's own failures.
    fn open(&self, rest: &str, request: &OpenRequest) -> Result<Arc<dyn Transport>, QueueError>;

    /// Removes the queue with all its messages. `Ok(false)` if there was none.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    fn remove(&self, rest: &str) -> Result<bool, ControlError>;
}

type Connectors = BTreeMap<String, Arc<dyn Connector>>;

static CONNECTORS: LazyLock<RwLock<Connectors>> = LazyLock::new(RwLock::default);

/// Makes `connector` open the addresses that begin with `scheme:`, in this process. A later
/// connector for the same scheme replaces it.
///
/// # Panics
/// If the scheme is one of this crate's own, or not a valid scheme (`[a-z][a-z0-9+.-]*`).
///
/// # Examples
/// The crate of a transport offers a function with this call:
///
/// ```
/// use std::sync::Arc;
/// use ipc_queue::transport::{Connector, OpenRequest, Transport, register};
/// use ipc_queue::{ControlError, Queue, QueueError};
///
/// /// Queues of which there are none.
/// #[derive(Debug)]
/// struct Nowhere;
///
/// impl Connector for Nowhere {
///     fn open(&self, rest: &str, _: &OpenRequest) -> Result<Arc<dyn Transport>, QueueError> {
///         Err(QueueError::NotFound { name: rest.to_owned() })
///     }
///     fn remove(&self, _: &str) -> Result<bool, ControlError> {
///         Ok(false)
///     }
/// }
///
/// register("nowhere", Arc::new(Nowhere));
/// assert!(matches!(Queue::<u32>::open("nowhere:jobs"), Err(QueueError::NotFound { .. })));
/// ```
pub fn register(scheme: &str, connector: Arc<dyn Connector>) {
    assert!(
        !BUILT_IN.contains(&scheme),
        "the scheme {scheme:?} cannot be registered: it is one of ipc-queue's own"
    );
    assert!(
        is_scheme(scheme),
        "invalid scheme {scheme:?}: it must match [a-z][a-z0-9+.-]*"
    );
    let mut connectors = CONNECTORS.write().unwrap_or_else(PoisonError::into_inner);
    connectors.insert(scheme.to_owned(), connector);
}

/// Removes the queue at `address` with all its messages. `Ok(false)` if there was none.
///
/// # Errors
/// [`ControlError`]: the queue was not removed, or the outcome is unknown.
pub fn remove(address: impl ToAddress) -> Result<bool, ControlError> {
    let address = address.to_address().map_err(|error| {
        let named = match &error {
            QueueError::Address { address, .. } => address.clone(),
            _ => String::new(),
        };
        ControlFailure::from(error).of(named, ControlCall::Remove)
    })?;
    match &address {
        Address::Local { name } => Ok(LocalQueue::remove(name)),
        Address::Shm { namespace, name } => remove_shm(namespace, name),
        Address::Unix { path, timeout } => remove_unix(path, *timeout),
        Address::Other { scheme, rest } => match connector(&address, scheme) {
            Ok(connector) => connector.remove(rest),
            Err(error) => {
                let named = without_secrets(&address.to_string());
                Err(ControlFailure::from(error).of(named, ControlCall::Remove))
            }
        },
    }
}

/// Opens the queue at an address.
pub(crate) fn open(
    address: &Address,
    request: &OpenRequest,
) -> Result<Arc<dyn Transport>, QueueError> {
    match address {
        Address::Local { name } => Ok(Arc::new(LocalQueue::open(name, request)?)),
        Address::Shm { namespace, name } => open_shm(namespace, name, request),
        Address::Unix { path, timeout } => open_unix(path, *timeout, request),
        Address::Other { scheme, rest } => connector(address, scheme)?.open(rest, request),
    }
}

fn connector(address: &Address, scheme: &str) -> Result<Arc<dyn Connector>, QueueError> {
    let connectors = CONNECTORS.read().unwrap_or_else(PoisonError::into_inner);
    connectors.get(scheme).cloned().ok_or_else(|| {
        let known: Vec<&str> = BUILT_IN
            .into_iter()
            .chain(connectors.keys().map(String::as_str))
            .collect();
        QueueError::Address {
            address: without_secrets(&address.to_string()),
            reason: format!(
                "unknown transport {scheme:?} (available: {}); call the register function \
                 of its crate first, such as ipc_nats::register()",
                known.join(", ")
            ),
        }
    })
}

fn is_scheme(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+.-".contains(&byte)
        })
}

#[cfg(target_os = "linux")]
fn open_shm(
    namespace: &Name,
    name: &Name,
    request: &OpenRequest,
) -> Result<Arc<dyn Transport>, QueueError> {
    let namespace = Namespace::new(namespace.as_str())?;
    Ok(Arc::new(ShmQueue::open(&namespace, name, request)?))
}

#[cfg(target_os = "linux")]
fn remove_shm(namespace: &Name, name: &Name) -> Result<bool, ControlError> {
    match Namespace::new(namespace.as_str()) {
        Ok(namespace) => ShmQueue::remove(&namespace, name),
        Err(error) => {
            let failure = ControlFailure::from(QueueError::from(error));
            Err(failure.of(format!("shm:{namespace}/{name}"), ControlCall::Remove))
        }
    }
}

#[cfg(target_os = "linux")]
fn open_unix(
    path: &Path,
    timeout: Option<Duration>,
    request: &OpenRequest,
) -> Result<Arc<dyn Transport>, QueueError> {
    Ok(Arc::new(UnixQueue::open(path, timeout, request)?))
}

#[cfg(target_os = "linux")]
fn remove_unix(path: &Path, timeout: Option<Duration>) -> Result<bool, ControlError> {
    UnixQueue::remove(path, timeout)
}

#[cfg(not(target_os = "linux"))]
fn open_unix(
    _: &Path,
    _: Option<Duration>,
    _: &OpenRequest,
) -> Result<Arc<dyn Transport>, QueueError> {
    Err(QueueError::Transport(
        "unix: needs Linux; use local: or a network transport".to_owned(),
    ))
}

#[cfg(not(target_os = "linux"))]
fn remove_unix(_: &Path, _: Option<Duration>) -> Result<bool, ControlError> {
    Ok(false)
}

#[cfg(not(target_os = "linux"))]
fn open_shm(
    _: &ipc_proto::Name,
    _: &ipc_proto::Name,
    _: &OpenRequest,
) -> Result<Arc<dyn Transport>, QueueError> {
    Err(QueueError::Transport(
        "shm: needs Linux; use local: or a network transport".to_owned(),
    ))
}

#[cfg(not(target_os = "linux"))]
fn remove_shm(_: &ipc_proto::Name, _: &ipc_proto::Name) -> Result<bool, ControlError> {
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Queue;

    #[test]
    fn an_unknown_scheme_is_named_with_the_known_ones() {
        let error = Queue::<u32>::open("ftp:jobs").unwrap_err().to_string();
        for part in ["ftp:jobs", "unknown transport \"ftp\"", "local", "shm"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(remove("ftp:jobs").is_err());
    }

    #[test]
    #[should_panic(expected = "ipc-queue's own")]
    fn built_in_schemes_cannot_be_registered() {
        #[derive(Debug)]
        struct Thief;
        impl Connector for Thief {
            fn open(&self, _: &str, _: &OpenRequest) -> Result<Arc<dyn Transport>, QueueError> {
                unreachable!()
            }
            fn remove(&self, _: &str) -> Result<bool, ControlError> {
                unreachable!()
            }
        }
        register("shm", Arc::new(Thief));
    }

    #[test]
    fn schemes_are_distinguished_from_other_words() {
        assert!(is_scheme("nats") && is_scheme("nats+tls"));
        assert!(!is_scheme("") && !is_scheme("Nats") && !is_scheme("9p") && !is_scheme("a_b"));
    }
}
