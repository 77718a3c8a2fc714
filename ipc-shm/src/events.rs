//! Events for `tracing`. They are rare: none is on a path taken for each message. All of them are
//! listed here with their fields. The program decides on a subscriber; without one the events are
//! dropped.

use std::io;

use crate::participant::{Member, Participant};
use crate::segment::{FileLoss, Segment};

/// The target of all events.
const TARGET: &str = "ipc_shm";

pub(crate) fn created(segment: &Segment) {
    tracing::debug!(
        target: TARGET,
        segment = %segment.path().display(),
        bytes = segment.header().total_bytes,
        "segment created"
    );
}

pub(crate) fn opened(segment: &Segment) {
    tracing::debug!(
        target: TARGET,
        segment = %segment.path().display(),
        bytes = segment.header().total_bytes,
        "segment opened"
    );
}

pub(crate) fn removed(path: &std::path::Path) {
    tracing::info!(target: TARGET, segment = %path.display(), "segment removed");
}

pub(crate) fn truncated(segment: &Segment) {
    tracing::error!(
        target: TARGET,
        segment = %segment.path().display(),
        bytes = segment.header().total_bytes,
        "segment truncated by other code"
    );
}

pub(crate) fn deleted(segment: &Segment) {
    tracing::error!(
        target: TARGET,
        segment = %segment.path().display(),
        "segment deleted by other code"
    );
}

/// Reported by the affected process.
pub(crate) fn file_lost(segment: &Segment, loss: FileLoss) {
    let (descriptor, reason) = match loss {
        FileLoss::Descriptor(number) => (number, "other code closed its descriptor"),
        FileLoss::Moved => (-1, "its name belongs to another file"),
    };
    tracing::error!(
        target: TARGET,
        segment = %segment.path().display(),
        descriptor,
        reason,
        "segment lost by this process"
    );
}

pub(crate) fn joined(segment: &Segment, member: Member) {
    tracing::debug!(
        target: TARGET,
        segment = %segment.path().display(),
        slot = member.index,
        "participant joined"
    );
}

pub(crate) fn left(segment: &Segment, member: Member) {
    tracing::debug!(
        target: TARGET,
        segment = %segment.path().display(),
        slot = member.index,
        "participant left"
    );
}

/// Reported only by the process that freed the slot.
pub(crate) fn died(segment: &Segment, dead: &Participant) {
    tracing::warn!(
        target: TARGET,
        segment = %segment.path().display(),
        slot = dead.member.index,
        participant = dead.name,
        pid = dead.process.pid,
        "participant died"
    );
}

pub(crate) fn no_watcher(error: &io::Error) {
    tracing::warn!(
        target: TARGET,
        error = %error,
        "no thread to watch for deaths: they are noticed later"
    );
}
