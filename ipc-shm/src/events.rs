//! What this crate says to `tracing`: rare things only, each named here with its fields, and nowhere on a path that is
//! taken for each message. Nobody listens by default: a subscriber is the program's business.

use std::io;

use crate::participant::{Member, Participant};
use crate::segment::{FileLoss, Segment};

/// The target of all of them.
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
        "segment cut short from outside"
    );
}

pub(crate) fn deleted(segment: &Segment) {
    tracing::error!(
        target: TARGET,
        segment = %segment.path().display(),
        "segment deleted from outside"
    );
}

/// Said by the process that is concerned.
pub(crate) fn file_lost(segment: &Segment, loss: FileLoss) {
    let (descriptor, reason) = match loss {
        FileLoss::Descriptor(number) => (number, "its descriptor was closed by other code"),
        FileLoss::Moved => (-1, "its name stands for another file"),
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

/// Said by the one process of all attached that freed the slot.
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

pub(crate) fn nobody_watches(error: &io::Error) {
    tracing::warn!(
        target: TARGET,
        error = %error,
        "no thread to watch for deaths: they are noticed later"
    );
}
