//! The `tracing` events of a queue in shared memory: rare events only, all listed here with their
//! fields.
//!
//! None of them is on the path of a message that is sent, received and acked. Several processes may
//! notice the same thing at once, especially a death. Each reports only its own changes, so the
//! figures of all add up.

use std::fmt::{self, Display};

use ipc_proto::MessageId;
use ipc_shm::Segment;

use super::Shared;
use super::recovery::Changed;
use crate::dead_letter::DeadLetterId;
use crate::error::DrainError;

/// The target of all events.
const TARGET: &str = "ipc_queue";

/// A queue's name, as in its address.
struct Name<'a>(&'a Segment);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shm:{}/{}", self.0.namespace().name(), self.0.name())
    }
}

/// This process freed what a dead process held. Other processes may have freed the rest.
#[cold]
pub(super) fn recovered(segment: &Segment, pid: u32, changed: Changed) {
    tracing::warn!(
        target: TARGET,
        queue = %Name(segment),
        pid,
        crashes = changed.crashes,
        redelivered = changed.ready,
        dead = changed.dead,
        freed = changed.freed,
        "recovered what a dead process held"
    );
}

/// Leases expired before their holders settled.
#[cold]
pub(super) fn expired(shared: &Shared, changed: Changed) {
    tracing::warn!(
        target: TARGET,
        queue = %name(shared),
        expiries = changed.expiries,
        dead = changed.dead,
        "leases expired"
    );
}

/// Messages were dropped because they were not received in time.
#[cold]
pub(super) fn unwanted(shared: &Shared, messages: usize) {
    tracing::info!(target: TARGET, queue = %name(shared), messages, "messages expired");
}

/// A holder buried a message, or nacked it past a limit.
#[cold]
pub(super) fn dead_letter(shared: &Shared, message: MessageId, attempts: u8, reason: &str) {
    tracing::warn!(
        target: TARGET,
        queue = %name(shared),
        message_id = %message,
        attempts,
        reason,
        "dead letter"
    );
}

#[cold]
pub(super) fn requeued(shared: &Shared, letter: DeadLetterId) {
    let (place, version) = letter.parts();
    tracing::info!(target: TARGET, queue = %name(shared), place, version, "dead letter requeued");
}

#[cold]
pub(super) fn discarded(shared: &Shared, letter: DeadLetterId) {
    let (place, version) = letter.parts();
    tracing::info!(target: TARGET, queue = %name(shared), place, version, "dead letter dropped");
}

/// The contents of a cell cannot have been sent.
#[cold]
pub(super) fn damaged(shared: &Shared, cell: u32, reason: &str) {
    tracing::error!(
        target: TARGET,
        queue = %name(shared),
        cell,
        reason,
        "damaged message"
    );
}

#[cold]
pub(super) fn reopened(shared: &Shared) {
    tracing::info!(target: TARGET, queue = %name(shared), "queue opened again");
}

pub(super) fn closed(shared: &Shared) {
    tracing::info!(target: TARGET, queue = %name(shared), "queue closed");
}

#[cold]
pub(super) fn paused(shared: &Shared) {
    tracing::info!(target: TARGET, queue = %name(shared), "queue paused");
}

#[cold]
pub(super) fn resumed(shared: &Shared) {
    tracing::info!(target: TARGET, queue = %name(shared), "queue resumed");
}

#[cold]
pub(super) fn purged(shared: &Shared, messages: u64) {
    tracing::info!(target: TARGET, queue = %name(shared), messages, "queue purged");
}

#[cold]
pub(super) fn drained(shared: &Shared, drained: &Result<(), DrainError>) {
    match drained {
        Ok(()) => tracing::info!(target: TARGET, queue = %name(shared), "queue drained"),
        Err(error) => tracing::warn!(
            target: TARGET,
            queue = %name(shared),
            error = %error,
            "queue not drained"
        ),
    }
}

fn name(shared: &Shared) -> Name<'_> {
    Name(shared.attachment.segment())
}
