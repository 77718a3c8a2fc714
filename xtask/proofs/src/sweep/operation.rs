//! A swept operation, and the states in which it begins.

use anyhow::Result;

use super::actor::Play;

/// An operation of a process, in all its states.
#[derive(Debug)]
pub struct Operation {
    pub name: &'static str,
    pub what: &'static str,
    pub states: &'static [State],
}

/// The state in which an operation begins, and the operation from there.
#[derive(Debug)]
pub struct State {
    pub name: &'static str,
    act: fn(&Play) -> Result<()>,
}

impl State {
    pub const fn new(name: &'static str, act: fn(&Play) -> Result<()>) -> Self {
        Self { name, act }
    }

    /// Prepares, and performs the operation. Does not return, or fails.
    pub fn perform(&self, play: &Play) -> Result<()> {
        (self.act)(play)
    }
}

/// The operations in which a process is also stopped: those on messages. Other operations cover
/// priorities and keys. Not `revoke`: when it goes on, it ends the lease of the process that holds
/// the message by then, as it should. The survivor expects to keep its lease.
const STOPPED: [&str; 21] = [
    "send-inline",
    "send-chunked",
    "send-delayed",
    "send-expiring",
    "send-headed",
    "loan",
    "abandon",
    "publish",
    "receive",
    "ack",
    "nack",
    "nack-saying",
    "snooze",
    "bury",
    "bury-saying",
    "discard",
    "requeue",
    "purge",
    "extend",
    "expire",
    "drop-message",
];

impl Operation {
    /// Returns whether the process is also stopped in this operation.
    pub fn is_stopped(&self) -> bool {
        STOPPED.contains(&self.name)
    }
}
