//! Named shared memory for processes that may be killed at any moment.
#![cfg_attr(doc, doc = include_str!("../README.md"))]

#[cfg(not(target_os = "linux"))]
compile_error!(
    "ipc-shm needs Linux 5.10 or later: it relies on O_TMPFILE, pidfd, OFD locks and futexes"
);

mod boot;
mod buffer;
mod cgroup;
pub mod clock;
mod descriptor;
mod events;
pub mod fault;
pub mod fetch;
mod fingerprint;
mod fork;
mod layout;
mod liveness;
mod lock;
mod mapping;
mod namespace;
mod participant;
mod segment;
mod tear;
#[cfg(test)]
mod testing;
mod user;
pub mod wait;
pub mod watch;

pub use buffer::{
    AccessError, BufferError, BufferGuard, LOCK_TIMEOUT, MAX_PROCESSES, SharedBuffer,
};
pub use descriptor::{KeptSocket, WakePipe};
pub use fingerprint::fingerprint;
pub use fork::Generation;
pub use layout::{Expected, Header, HeaderError, Kind, PayloadType};
pub use liveness::{NoPidfd, ProcessIdentity};
pub use lock::{Holder, Inherited, LockError, LockGuard, RobustLock};
pub use mapping::{CACHE_LINE_BYTES, Mapping, OutOfBounds, View, Words};
pub use namespace::{Namespace, NamespaceError, Siblings, SkipReason, Skipped};
pub use participant::{
    AttachAs, Attachment, JoinError, Member, Participant, Participants, Presence,
};
pub use segment::{
    CreateError, Created, DELETED, FileLoss, OpenError, OpenOrCreateError, REMOVED, Segment,
    SystemError, TRUNCATED,
};
pub use user::is_nobody;
