//! `rm`: removes queues.

use anyhow::{Error, Result};
use ipc_queue::{Address, QueueError, ShmQueue};
use ipc_shm::{Namespace, OpenError};
use serde_json::json;

use crate::address::{self, Subject};
use crate::exit::{self, Exit};
use crate::show::Show;

/// Removes every queue that can be removed, then reports the others.
pub fn rm(queues: &[String], force: bool, show: &Show) -> Result<()> {
    // An invalid address is a mistake on the command line, and is found before anything is done.
    for queue in queues {
        address::whole(queue).parse::<Address>()?;
    }
    let mut failures = Vec::new();
    for queue in queues {
        match remove(queue, force) {
            Ok(()) => show.done(&json!({ "removed": queue }), || {
                format!("{queue} is removed")
            }),
            Err(error) => failures.push(error),
        }
    }
    together(failures)
}

/// Removes a queue. Without `force`, it must be known to be empty.
fn remove(queue: &str, force: bool) -> Result<()> {
    let address = address::shared(queue)?;
    if !force {
        // A queue that can't be read is not known to be empty.
        let subject = Subject::open(queue).map_err(|error| with_force(queue, error))?;
        let held = subject.stats()?.in_use();
        if held > 0 {
            return Err(Exit::Refused.error(format!(
                "{queue} holds {held} messages: ipc rm --force {queue} removes it with them"
            )));
        }
    }
    let is_removed = match &address {
        // This also removes an entry with the queue's name that is not a queue.
        Address::Shm { namespace, name } if force => {
            ShmQueue::remove_by_force(&Namespace::new(namespace.as_str())?, name)?
        }
        address => ipc_queue::remove(address.to_string())?,
    };
    if is_removed {
        return Ok(());
    }
    Err(Exit::NotThere.error(format!("there is no queue {queue:?}")))
}

/// Adds the command that removes the queue to an error that says it can't be used.
fn with_force(queue: &str, error: Error) -> Error {
    match error.downcast_ref::<QueueError>() {
        Some(found @ QueueError::Open(cause))
            if !matches!(cause, OpenError::ForeignOwner { .. }) =>
        {
            let exit = Exit::of(&error);
            exit.error(format!("{found}: ipc rm --force {queue} removes it"))
        }
        _ => error,
    }
}

/// Combines several failures into one, with the code of the gravest.
pub fn together(mut failures: Vec<Error>) -> Result<()> {
    if failures.len() == 1 {
        return Err(failures.remove(0));
    }
    match Exit::gravest(failures.iter().map(Exit::of)) {
        None => Ok(()),
        Some(exit) => {
            let lines: Vec<_> = failures.iter().map(exit::in_one_line).collect();
            Err(exit.error(lines.join("; ")))
        }
    }
}
