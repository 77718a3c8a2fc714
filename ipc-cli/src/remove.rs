//! `rm`: removes queues.

use anyhow::{Error, Result};
use ipc_queue::{Address, QueueError, ShmQueue};
use ipc_shm::{Namespace, OpenError};
use serde_json::json;

use crate::address::{self, Subject};
use crate::exit::{self, Exit};
use crate::show::Show;

/// Removes every queue that it can, then says which it could not.
pub fn rm(queues: &[String], force: bool, show: &Show) -> Result<()> {
    // What is not an address is a mistake on the command line, found before anything is done.
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

/// Unless forced to, only a queue that is known to be empty.
fn remove(queue: &str, force: bool) -> Result<()> {
    let address = address::shared(queue)?;
    if !force {
        // A queue that can't be read can't be said to be empty.
        let subject = Subject::open(queue).map_err(|error| with_force(queue, error))?;
        let held = subject.stats()?.in_use();
        if held > 0 {
            return Err(Exit::Refused.error(format!(
                "{queue} holds {held} messages: ipc rm --force {queue} removes it with them"
            )));
        }
    }
    let is_removed = match &address {
        // Also what is not a queue but has its name.
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

/// An error of a queue that can't be used, with the command that removes such a queue.
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

/// Several failures as one, with the gravest one's code.
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
