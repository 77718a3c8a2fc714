//! Which queue is meant.

use anyhow::{Context, Result, bail};
use ipc_proto::Name;
use ipc_queue::shm::Inspector;
use ipc_queue::{Address, ByteQueue, QueueOptions, ShmQueue};
use ipc_shm::Namespace;

const DEFAULT: &str = "default";

/// The whole address for what was typed: `jobs` and `media/jobs` mean shared memory.
pub fn whole(queue: &str) -> String {
    if queue.contains(':') {
        queue.to_owned()
    } else {
        format!("shm:{queue}")
    }
}

/// Opens a queue that exists, for use.
pub fn open(queue: &str) -> Result<ByteQueue> {
    Ok(QueueOptions::new().open_any(&whole(queue))?)
}

/// Opens a queue that can only be asked: one that is neither in shared memory, where it can be looked at, nor in another
/// process's own.
pub fn open_elsewhere(queue: &str) -> Result<Option<ByteQueue>> {
    match whole(queue).parse()? {
        Address::Shm { .. } | Address::Local { .. } => Ok(None),
        _ => open(queue).map(Some),
    }
}

/// Opens a queue for looking only.
pub fn inspect(queue: &str) -> Result<Inspector> {
    let (namespace, name) = parts(queue)?;
    Ok(Inspector::open(&namespace, &name)?)
}

fn parts(queue: &str) -> Result<(Namespace, Name)> {
    match whole(queue).parse()? {
        Address::Shm { namespace, name } => Ok((Namespace::new(namespace.as_str())?, name)),
        other => bail!(
            "{other} is not in shared memory: only what is there can be looked at from outside"
        ),
    }
}

/// The namespace of that name, or all of this user's.
pub fn namespaces(only: Option<&str>) -> Result<Vec<Namespace>> {
    let Some(only) = only else {
        let any = Namespace::new(DEFAULT)?;
        return any.siblings().context("looking for namespaces");
    };
    Ok(vec![Namespace::new(only)?])
}

/// The queues of these namespaces.
pub fn queues(only: Option<&str>) -> Result<Vec<(Namespace, Name)>> {
    let mut found = Vec::new();
    for namespace in namespaces(only)? {
        let names = ShmQueue::list(&namespace)?;
        found.extend(names.into_iter().map(|name| (namespace.clone(), name)));
    }
    Ok(found)
}

/// What to type for it.
pub fn short(namespace: &Namespace, name: &Name) -> String {
    if namespace.name().as_str() == DEFAULT {
        name.to_string()
    } else {
        format!("{}/{name}", namespace.name())
    }
}
