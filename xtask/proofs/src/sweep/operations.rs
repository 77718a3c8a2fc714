//! The list of all swept operations.

use anyhow::{Context, Result};

use super::cases::{
    attaching, batches, clock, dead, files, headed, letters, picking, priorities, receiving, runs,
    saying, sending, settling, snapshots, snoozing, switches, terms,
};
use super::operation::{Operation, State};

/// The start of a survivor, for sweeping recoveries.
pub const RECOVERY: (&str, &str) = ("recovery", "given");

const GIVEN: State = State::new(RECOVERY.1, dead::recover_given);

/// The state with that name.
pub fn find_state(operation: &str, state: &str) -> Result<&'static State> {
    if (operation, state) == RECOVERY {
        return Ok(&GIVEN);
    }
    let mut states = find(operation)?.states.iter();
    let found = states.find(|found| found.name == state);
    found.with_context(|| format!("operation {operation:?} has no state {state:?}; see --list"))
}

/// The operation with that name.
pub fn find(name: &str) -> Result<&'static Operation> {
    let found = OPERATIONS.iter().find(|operation| operation.name == name);
    found.with_context(|| {
        let names: Vec<_> = OPERATIONS.iter().map(|operation| operation.name).collect();
        format!(
            "there is no operation {name:?}; there are {}",
            names.join(", ")
        )
    })
}

/// All operations.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        name: "send-inline",
        what: "a message that fits its cell is sent",
        states: sending::INLINE,
    },
    Operation {
        name: "send-chunked",
        what: "a message that needs a chunk is sent",
        states: sending::CHUNKED,
    },
    Operation {
        name: "send-delayed",
        what: "a message is sent with a delay",
        states: terms::DELAYED,
    },
    Operation {
        name: "send-keyed",
        what: "a message is sent with a key, and the key remembered; or a loan with a key dropped",
        states: terms::KEYED,
    },
    Operation {
        name: "send-expiring",
        what: "a message is sent with an expiry",
        states: terms::EXPIRING,
    },
    Operation {
        name: "send-headed",
        what: "a message is sent with headers",
        states: headed::SEND,
    },
    Operation {
        name: "drop-oldest",
        what: "a message is sent to a full queue, which drops its oldest first",
        states: terms::DROP_OLDEST,
    },
    Operation {
        name: "loan",
        what: "a place for a message is taken",
        states: sending::LOAN,
    },
    Operation {
        name: "abandon",
        what: "a loan is dropped unpublished",
        states: sending::ABANDON,
    },
    Operation {
        name: "publish",
        what: "a loan is published",
        states: sending::PUBLISH,
    },
    Operation {
        name: "receive",
        what: "a message is taken",
        states: receiving::RECEIVE,
    },
    Operation {
        name: "send-batch",
        what: "several messages are sent; the first ones, if it is interrupted",
        states: batches::SEND,
    },
    Operation {
        name: "receive-batch",
        what: "several messages are taken; the first ones, if it is interrupted",
        states: batches::RECEIVE,
    },
    Operation {
        name: "ack-batch",
        what: "several messages are acknowledged at once",
        states: batches::ACK,
    },
    Operation {
        name: "send-run",
        what: "several messages are sent as one run, or a single one into a run of room",
        states: runs::SEND,
    },
    Operation {
        name: "receive-run",
        what: "a run of messages, or a part of it, is taken",
        states: runs::RECEIVE,
    },
    Operation {
        name: "ack-run",
        what: "a run of messages is acknowledged at once",
        states: runs::ACK,
    },
    Operation {
        name: "settle-in-run",
        what: "one of the messages that were taken as a run is settled by itself",
        states: runs::SETTLE,
    },
    Operation {
        name: "purge-run",
        what: "a run of messages is dropped; the first ones, if it is cut short",
        states: runs::PURGE,
    },
    Operation {
        name: "ack",
        what: "a delivery is acked",
        states: settling::ACK,
    },
    Operation {
        name: "nack",
        what: "a delivery is nacked, at once or with a delay",
        states: settling::NACK,
    },
    Operation {
        name: "nack-saying",
        what: "a delivery is nacked with a reason",
        states: saying::NACK,
    },
    Operation {
        name: "snooze",
        what: "a delivery is snoozed, which is not an attempt",
        states: snoozing::SNOOZE,
    },
    Operation {
        name: "bury-saying",
        what: "a delivery is made a dead letter with a reason",
        states: saying::BURY,
    },
    Operation {
        name: "bury",
        what: "a delivery is made a dead letter",
        states: settling::BURY,
    },
    Operation {
        name: "discard",
        what: "a dead letter is dropped",
        states: letters::DISCARD,
    },
    Operation {
        name: "requeue",
        what: "a dead letter is made a message again, in its place",
        states: letters::REQUEUE,
    },
    Operation {
        name: "purge",
        what: "waiting messages are dropped; the first ones, if it is interrupted",
        states: terms::PURGE,
    },
    Operation {
        name: "drop-message",
        what: "one waiting message is dropped by its id",
        states: picking::DROP,
    },
    Operation {
        name: "revoke",
        what: "the lease of one message is ended by the message's id",
        states: picking::REVOKE,
    },
    Operation {
        name: "forget",
        what: "a key is forgotten, and its message stays",
        states: snapshots::FORGET,
    },
    Operation {
        name: "restore",
        what: "a queue is restored from a file; the next process completes it",
        states: snapshots::RESTORE,
    },
    Operation {
        name: "close",
        what: "a queue is closed, which loses no message",
        states: switches::CLOSE,
    },
    Operation {
        name: "pause",
        what: "a queue is paused or resumed",
        states: switches::PAUSE,
    },
    Operation {
        name: "priorities",
        what: "the same operations, with four priorities",
        states: priorities::PRIORITIES,
    },
    Operation {
        name: "extend",
        what: "a lease is renewed",
        states: clock::EXTEND,
    },
    Operation {
        name: "expire",
        what: "a watcher ends leases and delays",
        states: clock::EXPIRE,
    },
    Operation {
        name: "recover",
        what: "a process opens the queue of a dead process, or notices its death",
        states: dead::RECOVER,
    },
    Operation {
        name: "crash-limit",
        what: "a receiver settles a message over which others died, or dies too",
        states: dead::CRASH_LIMIT,
    },
    Operation {
        name: "register",
        what: "a process attaches",
        states: attaching::REGISTER,
    },
    Operation {
        name: "unregister",
        what: "a process detaches",
        states: attaching::UNREGISTER,
    },
    Operation {
        name: "create",
        what: "a queue is created",
        states: files::CREATE,
    },
    Operation {
        name: "open",
        what: "a queue is opened, or created if there is none",
        states: files::OPEN,
    },
    Operation {
        name: "remove",
        what: "a queue is removed",
        states: files::REMOVE,
    },
];
