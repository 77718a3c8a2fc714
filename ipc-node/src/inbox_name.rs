//! The names of inboxes, and the removal of those whose nodes are gone.

use ipc_proto::Name;
use ipc_queue::ShmQueue;
use ipc_shm::{Member, Namespace};

const PREFIX: &str = "node-";
const SUFFIX: &str = ".inbox";

/// Removes the inboxes in a namespace of the members for which `which` returns `true`.
pub(crate) fn remove_inboxes(namespace: &Namespace, which: impl Fn(Member) -> bool) {
    for name in ShmQueue::list(namespace).unwrap_or_default() {
        if member_of(&name).is_some_and(&which) {
            let _ = ShmQueue::remove(namespace, &name);
        }
    }
}

/// Returns the name of a membership's inbox.
pub(crate) fn name_of(member: Member) -> Name {
    let name = format!("{PREFIX}{}-{}{SUFFIX}", member.index, member.epoch);
    Name::new(&name).expect("letters, digits, and short")
}

fn member_of(inbox: &Name) -> Option<Member> {
    let numbers = inbox.as_str().strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let (index, epoch) = numbers.split_once('-')?;
    Some(Member {
        index: index.parse().ok()?,
        epoch: epoch.parse().ok()?,
    })
}
