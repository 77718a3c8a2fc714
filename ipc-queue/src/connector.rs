//! Opening queues by address, whatever their transport.
//!
//! The transports of this crate are known; those of other crates [`register`] a [`Connector`] for their scheme, once in a
//! program, and every address with that scheme is theirs from then on. So a program names its transports in one line,
//! and moves from one to the other by its addresses alone.

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
use crate::control::{ControlCall, ControlError, ControlFailure};
use crate::error::QueueError;
use crate::local::LocalQueue;
#[cfg(target_os = "linux")]
use crate::shm::ShmQueue;
use crate::transport::{OpenRequest, Transport};
#[cfg(target_os = "linux")]
use crate::unix::UnixQueue;

/// Opens and removes the queues of one scheme, for a transport that lives in a crate of its own.
pub trait Connector: Debug + Send + Sync {
    /// Opens the queue, or creates it, as `request` says. `rest` is what follows `SCHEME:` in its address.
    ///
    /// # Errors
    /// [`QueueError::Address`] for a `rest` that makes no sense, `NotFound`, `Exists`, `SettingsDiffer` and
    /// `PayloadDiffers` as for any queue, `Transport` for the transport's own trouble.
    fn open(&self, rest: &str, request: &OpenRequest) -> Result<Arc<dyn Transport>, QueueError>;

    /// Removes the queue with everything in it; `Ok(false)` if there was none.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    fn remove(&self, rest: &str) -> Result<bool, ControlError>;
}

type Connectors = BTreeMap<String, Arc<dyn Connector>>;

static CONNECTORS: LazyLock<RwLock<Connectors>> = LazyLock::new(RwLock::default);

/// Lets `connector` open what begins with `scheme:`, in this process. A later one for the same scheme takes its place.
///
/// # Panics
/// If the scheme is one of this crate's own, or no scheme: `[a-z][a-z0-9+.-]*`.
///
/// # Examples
/// A crate for a transport offers a function that says this for its users:
///
/// ```
/// use std::sync::Arc;
/// use ipc_queue::transport::{OpenRequest, Transport};
/// use ipc_queue::{Connector, ControlError, Queue, QueueError};
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
/// ipc_queue::register("nowhere", Arc::new(Nowhere));
/// assert!(matches!(Queue::<u32>::open("nowhere:jobs"), Err(QueueError::NotFound { .. })));
/// ```
pub fn register(scheme: &str, connector: Arc<dyn Connector>) {
    assert!(
        !BUILT_IN.contains(&scheme),
        "{scheme}: is a transport of ipc-queue's own"
    );
    assert!(is_scheme(scheme), "{scheme:?} is no scheme of an address");
    let mut connectors = CONNECTORS.write().unwrap_or_else(PoisonError::into_inner);
    connectors.insert(scheme.to_owned(), connector);
}

/// Removes the queue at `address` with everything in it. `Ok(false)` if there was none.
///
/// # Errors
/// [`ControlError`]: the queue was not removed, or whether it was is unknown.
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

/// Opens whatever the address names.
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
                "there is no transport {scheme:?}; known are {}, and others when their crates were registered",
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
    fn an_unknown_scheme_is_named_with_those_that_are_known() {
        let error = Queue::<u32>::open("ftp:jobs").unwrap_err().to_string();
        for part in ["ftp:jobs", "no transport \"ftp\"", "local", "shm"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(remove("ftp:jobs").is_err());
    }

    #[test]
    #[should_panic(expected = "ipc-queue's own")]
    fn this_crates_schemes_are_not_to_be_taken() {
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
    fn schemes_are_told_from_other_words() {
        assert!(is_scheme("nats") && is_scheme("nats+tls"));
        assert!(!is_scheme("") && !is_scheme("Nats") && !is_scheme("9p") && !is_scheme("a_b"));
    }
}
