//! `send` and `recv`.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipc_queue::transport::{OpenMode, Wait};
use ipc_queue::{ByteDelivery, ByteQueue, ByteReceiver, QueueOptions, RecvError, SendOptions};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::Ended;
use crate::address;
use crate::cli;
use crate::show::{self, Show};

/// Sends one message, or one for each line.
pub fn send(what: &cli::Send, show: Show) -> Result<Ended> {
    let queue = open_to_send(what)?;
    let sender = queue.sender();
    let mut options = SendOptions::new()
        .priority(what.priority.into())
        .delay(what.delay);
    if let Some(time) = what.expires_in {
        options = options.expires_in(time);
    }
    if let Some(key) = &what.key {
        options = options.key(key);
    }
    let wait = || what.timeout.map_or(Wait::Forever, Wait::at_most);
    let send = |payload: &[u8]| -> Result<()> {
        let id = sender.send_with(payload, &options, wait())?;
        show.say(&json!({ "message": id.to_string() }), || id.to_string())
    };
    if what.lines {
        for line in io::stdin().lock().split(b'\n') {
            send(&line.context("reading standard input")?)?;
        }
    } else if let Some(payload) = &what.payload {
        send(payload.as_bytes())?;
    } else {
        let mut payload = Vec::new();
        let read = io::stdin().read_to_end(&mut payload);
        read.context("reading standard input")?;
        send(&payload)?;
    }
    Ok(Ended::Well)
}

fn open_to_send(what: &cli::Send) -> Result<ByteQueue> {
    if !what.create {
        return address::open(&what.queue);
    }
    let mut options = QueueOptions::new().mode(OpenMode::OpenOrCreate);
    if what.priority != cli::Urgency::Normal {
        options = options.priorities(true);
    }
    if what.key.is_some() {
        options = options.dedup_window(Duration::from_secs(3600));
    }
    Ok(options.open_bytes(&address::whole(&what.queue))?)
}

/// Receives messages and prints them.
pub fn recv(what: &cli::Recv, show: Show) -> Result<Ended> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("listening to signals")?;
    }
    let queue = address::open(&what.queue)?;
    let receiver = queue.receiver();
    let mut left = if what.follow { usize::MAX } else { what.count };
    while left > 0 {
        let delivery = match next(&receiver, what.timeout, &stop)? {
            Next::Message(delivery) => delivery,
            Next::Stopped => return Ok(Ended::Well),
            Next::Over if what.follow => return Ok(Ended::Well),
            Next::Over | Next::Nothing => return Ok(Ended::Empty),
        };
        print(&delivery, show)?;
        // Only now: what was not printed comes again.
        if what.nack {
            delivery.nack()?;
        } else {
            delivery.ack()?;
        }
        left -= 1;
    }
    Ok(Ended::Well)
}

enum Next<'a> {
    Message(ByteDelivery<'a>),
    Nothing,
    Over,
    Stopped,
}

fn next<'a>(
    receiver: &'a ByteReceiver,
    timeout: Option<Duration>,
    stop: &AtomicBool,
) -> Result<Next<'a>> {
    /// Between two looks at whether we are to stop.
    const SLICE: Duration = Duration::from_millis(100);
    let deadline = timeout.and_then(|time| Instant::now().checked_add(time));
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(Next::Stopped);
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let wait = match left {
            Some(Duration::ZERO) => Wait::No,
            left => Wait::at_most(left.map_or(SLICE, |left| left.min(SLICE))),
        };
        match receiver.recv_within(wait) {
            Ok(delivery) => return Ok(Next::Message(delivery)),
            Err(RecvError::TimedOut { .. }) => {}
            Err(RecvError::Empty) => return Ok(Next::Nothing),
            Err(RecvError::Paused) if wait == Wait::No => return Ok(Next::Nothing),
            Err(RecvError::Paused) => std::thread::sleep(SLICE),
            Err(RecvError::Closed | RecvError::Removed) => return Ok(Next::Over),
            Err(error) => return Err(error.into()),
        }
    }
}

fn print(delivery: &ByteDelivery<'_>, show: Show) -> Result<()> {
    if show.is_json() {
        let value = json!({
            "message": delivery.id().to_string(),
            "kind": format!("{:?}", delivery.kind()),
            "attempt": delivery.attempt(),
            "payload": show::payload_json(delivery.payload()),
        });
        return show.say(&value, String::new);
    }
    let mut out = io::stdout().lock();
    out.write_all(delivery.payload())?;
    if !delivery.payload().ends_with(b"\n") {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}
