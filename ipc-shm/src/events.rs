//! Events for `tracing`. They are rare: none is on a path taken for each message. All of them are
//! listed here with their fields. The program decides on a subscriber; without one the events are
//! dropped.

use std::io;
use std::path::Path;

/// The target of all events.
const TARGET: &str = "ipc_shm";

pub(crate) fn created(path: &Path, bytes: usize) {
    tracing::debug!(
        target: TARGET,
        segment = %path.display(),
        bytes,
        "segment created"
    );
}

pub(crate) fn opened(path: &Path, bytes: usize) {
    tracing::debug!(
        target: TARGET,
        segment = %path.display(),
        bytes,
        "segment opened"
    );
}

pub(crate) fn removed(path: &Path) {
    tracing::info!(target: TARGET, segment = %path.display(), "segment removed");
}

pub(crate) fn truncated(path: &Path, bytes: usize) {
    tracing::error!(
        target: TARGET,
        segment = %path.display(),
        bytes,
        "segment truncated by other code"
    );
}

pub(crate) fn deleted(path: &Path) {
    tracing::error!(
        target: TARGET,
        segment = %path.display(),
        "segment deleted by other code"
    );
}

/// Reported by the affected process.
pub(crate) fn file_lost(path: &Path, descriptor: i32, reason: &str) {
    tracing::error!(
        target: TARGET,
        segment = %path.display(),
        descriptor,
        reason,
        "segment lost by this process"
    );
}

pub(crate) fn joined(path: &Path, slot: u16) {
    tracing::debug!(
        target: TARGET,
        segment = %path.display(),
        slot,
        "participant joined"
    );
}

pub(crate) fn left(path: &Path, slot: u16) {
    tracing::debug!(
        target: TARGET,
        segment = %path.display(),
        slot,
        "participant left"
    );
}

/// Reported only by the process that freed the slot.
pub(crate) fn died(path: &Path, slot: u16, participant: &str, pid: u32) {
    tracing::warn!(
        target: TARGET,
        segment = %path.display(),
        slot,
        participant,
        pid,
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
