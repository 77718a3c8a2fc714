//! `pause`, `resume`, `drain`, `reopen`, `purge`.

use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use ipc_queue::transport::Wait;
use ipc_queue::{DrainError, QueueStats};
use serde_json::json;

use crate::address;
use crate::cli;
use crate::exit::Exit;
use crate::format;
use crate::show::Show;
use crate::signals::EndSignals;

pub fn pause(queue: &str, show: &Show) -> Result<()> {
    let opened = address::open(queue)?;
    opened.transport().pause()?;
    show.done(&json!({ "paused": true }), || {
        format!("{queue} delivers nothing until ipc resume {queue}")
    });
    Ok(())
}

pub fn resume(queue: &str, show: &Show) -> Result<()> {
    let opened = address::open(queue)?;
    // Ask first: if asking failed after the change, that failure could not be told apart from a
    // change that was not made.
    let closed = opened.transport().is_closed()?;
    opened.transport().resume()?;
    show.done(
        &json!({ "paused": false, "closed": closed }),
        || match closed {
            false => format!("{queue} delivers"),
            true => format!(
                "{queue} delivers what is in it, but is closed and takes nothing more until \
                 ipc reopen {queue}"
            ),
        },
    );
    Ok(())
}

/// Closes the queue, then waits.
pub fn drain(what: &cli::Drain, show: &Show) -> Result<()> {
    /// Time between two checks for signals, and for a pause of the queue.
    const SLICE: Duration = Duration::from_millis(200);
    let queue = &what.queue;
    let opened = address::open(queue)?;
    let transport = opened.transport();
    if transport.is_paused()? {
        if !what.resume {
            return Err(paused(queue, "nothing was changed"));
        }
        transport.resume()?;
    }
    let end = EndSignals::listen()?;
    let deadline = what
        .timeout
        .and_then(|time| Instant::now().checked_add(time));
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let drained = transport.drain(Wait::at_most(left.map_or(SLICE, |left| left.min(SLICE))));
        let count = match drained {
            Ok(()) => break,
            Err(DrainError::TimedOut { left, .. }) => left,
            Err(error) => return Err(error.into()),
        };
        let state = format!(
            "{queue} is closed, with {count} messages left in it \
             (ipc reopen {queue} opens it again)"
        );
        if end.is_asked() {
            return Err(end.error(&state));
        }
        if let (Some(time), Some(Duration::ZERO)) = (what.timeout, left) {
            let time = format::time(time);
            return Err(Exit::TimedOut.error(format!("not drained in {time}: {state}")));
        }
        if transport.is_paused()? {
            return Err(paused(queue, &state));
        }
    }
    show.done(&json!({ "drained": true }), || {
        format!("{queue} is closed, and everything in it was settled")
    });
    Ok(())
}

fn paused(queue: &str, state: &str) -> Error {
    Exit::Refused.error(format!(
        "{queue} is paused, so it does not drain: ipc drain {queue} --resume resumes it first; \
         {state}"
    ))
}

/// Opens a closed queue again.
pub fn reopen(queue: &str, show: &Show) -> Result<()> {
    let opened = address::open(queue)?;
    let paused = opened.transport().is_paused()?;
    opened.transport().reopen()?;
    show.done(
        &json!({ "closed": false, "paused": paused }),
        || match paused {
            false => format!("{queue} takes messages again"),
            true => format!(
                "{queue} takes messages again, but is paused and delivers nothing until \
                 ipc resume {queue}"
            ),
        },
    );
    Ok(())
}

pub fn purge(queue: &str, show: &Show) -> Result<()> {
    let opened = address::open(queue)?;
    let purged = opened.transport().purge()?;
    show.done(&json!({ "purged": purged }), || {
        format!("{purged} messages dropped")
    });
    Ok(())
}

/// Describes what the queue does and does not do now.
pub fn state(stats: &QueueStats) -> &'static str {
    match (stats.closed, stats.paused) {
        (true, true) => "closed, paused",
        (true, false) => "closed",
        (false, true) => "paused",
        (false, false) => "open",
    }
}
