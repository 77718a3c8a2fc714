//! The places of clients' queues for replies, and the removal of orphaned ones.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use ipc_proto::Name;
use ipc_queue::shm::Inspector;
use ipc_queue::transport::{OpenMode, Transport};
use ipc_queue::{Address, ByteQueue, QueueError, QueueOptions, ShmQueue};
use ipc_shm::{Member, Namespace};

use super::{OpenError, unsupported};

const PREFIX: &str = "reply-";

/// Returns the address of a new queue for the replies to a client of `requests`.
pub(super) fn of_client(address: &Address, requests: &dyn Transport) -> Result<Address, OpenError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let id = requests.id();
    match address {
        Address::Local { .. } => {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = named(&format!("{PREFIX}{id:016x}-{number}"));
            Ok(Address::Local { name })
        }
        Address::Shm { namespace, .. } => {
            let queue: &ShmQueue = requests
                .downcast_ref()
                .ok_or_else(|| unsupported(&address.to_string()))?;
            Ok(Address::Shm {
                namespace: namespace.clone(),
                name: name_of(id, queue.member()),
            })
        }
        _ => Err(unsupported(&address.to_string())),
    }
}

/// Opens the queue that a request names, if it is one for replies to clients of `requests`.
pub(super) fn open(
    text: &str,
    address: &Address,
    requests: &dyn Transport,
) -> Result<Option<ByteQueue>, QueueError> {
    let Ok(reply_to) = text.parse::<Address>() else {
        return Ok(None);
    };
    let prefix = format!("{PREFIX}{:016x}-", requests.id());
    // A request must not make its server send to any queue that it names.
    let is_ours = match (&reply_to, address) {
        (Address::Local { name }, Address::Local { .. }) => name.as_str().starts_with(&prefix),
        (
            Address::Shm { namespace, name },
            Address::Shm {
                namespace: ours, ..
            },
        ) => namespace == ours && name.as_str().starts_with(&prefix),
        _ => false,
    };
    if !is_ours {
        return Ok(None);
    }
    match QueueOptions::new()
        .mode(OpenMode::Open)
        .open_bytes(reply_to)
    {
        Ok(queue) => Ok(Some(queue)),
        // The client is gone.
        Err(QueueError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes the queues for replies of clients that were killed.
pub(super) fn remove_orphans(address: &Address, requests: &dyn Transport) {
    let Address::Shm { namespace, name } = address else {
        return;
    };
    let Ok(namespace) = Namespace::new(namespace.as_str()) else {
        return;
    };
    // List the names first: a client joins the queue of requests before it creates its own queue.
    // So the member of each name in this list is in the table, if it is alive.
    let names = ShmQueue::list(&namespace).unwrap_or_default();
    let Ok(inspector) = Inspector::open(&namespace, name) else {
        return;
    };
    let live: HashSet<Member> = inspector
        .participants()
        .into_iter()
        .filter(|(_, gone)| !gone)
        .map(|(participant, _)| participant.member)
        .collect();
    for reply_queue in names {
        if member_of(&reply_queue, requests.id()).is_some_and(|member| !live.contains(&member)) {
            let _ = ShmQueue::remove(&namespace, &reply_queue);
        }
    }
}

fn name_of(id: u64, member: Member) -> Name {
    named(&format!(
        "{PREFIX}{id:016x}-{}-{}",
        member.index, member.epoch
    ))
}

fn named(text: &str) -> Name {
    Name::new(text).expect("letters, digits, and short")
}

fn member_of(name: &Name, id: u64) -> Option<Member> {
    let rest = name.as_str().strip_prefix(PREFIX)?;
    let (number, member) = rest.split_once('-')?;
    if u64::from_str_radix(number, 16) != Ok(id) {
        return None;
    }
    let (index, epoch) = member.split_once('-')?;
    Some(Member {
        index: index.parse().ok()?,
        epoch: epoch.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_queues_name_contains_its_clients_membership() {
        let member = Member {
            index: 7,
            epoch: u64::MAX >> 3,
        };
        let name = name_of(u64::MAX, member);
        assert_eq!(member_of(&name, u64::MAX), Some(member));
        assert_eq!(member_of(&name, 1), None);
        assert_eq!(member_of(&named("jobs"), 1), None);
    }
}
