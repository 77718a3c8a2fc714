//! `pause`, `resume`, `drain`, `purge`, `rm`.

use std::time::Duration;

use anyhow::{Result, bail};
use ipc_queue::transport::Wait;
use serde_json::json;

use crate::Ended;
use crate::address;
use crate::show::Show;

pub fn pause(queue: &str, show: Show) -> Result<Ended> {
    address::open(queue)?.transport().pause()?;
    show.say(&json!({ "paused": true }), || {
        format!("{queue} delivers nothing until it is resumed")
    })?;
    Ok(Ended::Well)
}

pub fn resume(queue: &str, show: Show) -> Result<Ended> {
    address::open(queue)?.transport().resume()?;
    show.say(&json!({ "paused": false }), || format!("{queue} delivers"))?;
    Ok(Ended::Well)
}

pub fn drain(queue: &str, timeout: Option<Duration>, show: Show) -> Result<Ended> {
    let wait = timeout.map_or(Wait::Forever, Wait::at_most);
    address::open(queue)?.transport().drain(wait)?;
    show.say(&json!({ "drained": true }), || {
        format!("{queue} is closed, and everything in it was settled")
    })?;
    Ok(Ended::Well)
}

pub fn purge(queue: &str, show: Show) -> Result<Ended> {
    let purged = address::open(queue)?.transport().purge()?;
    show.say(&json!({ "purged": purged }), || {
        format!("{purged} messages dropped")
    })?;
    Ok(Ended::Well)
}

/// Removes queues; unless forced to, only those that are empty.
pub fn rm(queues: &[String], force: bool, show: Show) -> Result<Ended> {
    for queue in queues {
        if !force {
            // One that can't be read can't be said to be empty.
            let stats = match address::open_elsewhere(queue)? {
                Some(elsewhere) => elsewhere.transport().stats()?,
                None => address::inspect(queue)?.stats(),
            };
            if stats.in_use() > 0 {
                bail!(
                    "{queue} holds {} messages: --force removes it with them",
                    stats.in_use()
                );
            }
        }
        if !ipc_queue::remove(&address::whole(queue))? {
            bail!("there is no {queue}");
        }
        show.say(&json!({ "removed": queue }), || {
            format!("{queue} is removed")
        })?;
    }
    Ok(Ended::Well)
}
