//! The holder of each leased message: since when, and whether that process is alive.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use ipc_queue::shm::{Inspector, LeaseView};
use ipc_shm::{ProcessIdentity, clock};
use serde_json::{Value, json};

use crate::address::Subject;
use crate::format;

/// A message that a receiver holds.
#[derive(Clone, Debug)]
pub struct Held {
    pub message: String,
    pub holder: String,
    pub pid: u32,
    pub attempt: u8,
    /// Facts that are known only for a queue in shared memory.
    pub seen: Option<SeenInMemory>,
}

#[derive(Clone, Debug)]
pub struct SeenInMemory {
    pub health: Health,
    /// Time until the lease ends.
    pub ends_in: Option<Duration>,
    /// Time since the lease began or was extended, assuming that it was extended by its full
    /// length.
    pub renewed_ago: Option<Duration>,
    /// The least time for which it has been held: since its holder took a message for the last
    /// time, or since its lease began or was extended.
    pub at_least: Duration,
    /// The longest time for which it can have been held: since it was sent, and since its holder
    /// attached.
    pub at_most: Duration,
}

/// The state of a process, as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Alive,
    /// Stopped by a signal or a debugger.
    Stopped,
    Dead,
}

impl Health {
    pub fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Stopped => "stopped",
            Self::Dead => "dead",
        }
    }

    /// The kernel's locks tell whether a process is gone. Only `/proc` tells whether it is stopped,
    /// and only for processes in the same PID namespace.
    pub fn of(process: &ProcessIdentity, is_gone: bool) -> Self {
        if is_gone {
            return Self::Dead;
        }
        let ours = ProcessIdentity::current().pid_namespace;
        let is_ours = ours != 0 && process.pid_namespace == ours;
        match is_ours && is_stopped(process) {
            true => Self::Stopped,
            false => Self::Alive,
        }
    }
}

fn is_stopped(process: &ProcessIdentity) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap_or_default();
    // The second field is the program's name, and may contain anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let fields: Vec<_> = fields.split_whitespace().collect();
    let is_it = fields.get(19).and_then(|ticks| ticks.parse().ok()) == Some(process.start_ticks);
    is_it
        && fields
            .first()
            .is_some_and(|state| ["T", "t"].contains(state))
}

/// Returns everything that is held; `None` if the transport can't tell.
pub fn all(subject: &Subject) -> Result<Option<Vec<Held>>> {
    if let Subject::Mapped(inspector) = subject {
        return Ok(Some(in_memory(inspector)));
    }
    let leases = subject.leases()?;
    Ok(leases.map(|all| {
        let held = all.into_iter().map(|one| Held {
            message: one.message.to_string(),
            holder: one.holder,
            pid: one.pid,
            attempt: one.attempt,
            seen: None,
        });
        held.collect()
    }))
}

fn in_memory(inspector: &Inspector) -> Vec<Held> {
    let lease = inspector.settings().lease;
    let leases = inspector.lease_views().into_iter();
    leases
        .map(|one| Held {
            message: one.message.to_string(),
            holder: one.holder.name.clone(),
            pid: one.holder.process.pid,
            attempt: one.attempt,
            seen: Some(seen(&one, lease)),
        })
        .collect()
}

fn seen(one: &LeaseView, lease: Option<Duration>) -> SeenInMemory {
    let attached = clock::monotonic().saturating_sub(one.holder.joined_at);
    let renewed_ago = lease
        .zip(one.ends_in)
        .and_then(|(lease, left)| lease.checked_sub(left));
    let at_most = format::age(one.sent_at).min(attached);
    let at_least = one.held_at_least.max(renewed_ago.unwrap_or_default());
    SeenInMemory {
        health: Health::of(&one.holder.process, one.is_gone),
        ends_in: one.ends_in,
        renewed_ago,
        // The clocks differ, and so may their roundings.
        at_least: at_least.min(at_most),
        at_most,
    }
}

impl Held {
    /// For programs.
    pub fn value(&self) -> Value {
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        let seen = self.seen.as_ref();
        json!({
            "message": self.message,
            "holder": self.holder,
            "pid": self.pid,
            "attempt": self.attempt,
            "health": seen.map(|seen| seen.health.name()),
            "lease_left_seconds": seconds(seen.and_then(|seen| seen.ends_in)),
            "renewed_ago_seconds": seconds(seen.and_then(|seen| seen.renewed_ago)),
            "held_at_least_seconds": seconds(seen.map(|seen| seen.at_least)),
            "held_at_most_seconds": seconds(seen.map(|seen| seen.at_most)),
        })
    }
}
