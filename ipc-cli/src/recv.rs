//! `recv`: receives messages and prints them.
//!
//! A message is acked after it was written to standard output. A message that could not be written
//! is returned to the queue.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};
use ipc_queue::transport::Wait;
use ipc_queue::{
    ByteDelivery, ByteReceiver, RecvFailure, RecvTimeoutError, TryRecvError, Unavailable,
};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat, stat};
use serde_json::json;

use crate::address;
use crate::cli;
use crate::exit::Exit;
use crate::format;
use crate::headers;
use crate::payload::Payloads;
use crate::show::Show;
use crate::signals::EndSignals;
use crate::terminal;

/// Time between two checks whether to stop.
const SLICE: Duration = Duration::from_millis(100);

pub fn recv(what: &cli::Recv, show: &Show) -> Result<()> {
    if !what.nack {
        check_output()?;
    }
    // Until the queue is open there is nothing to finish.
    let queue = match what.follow {
        true => address::open_to_stay(&what.queue)?,
        false => address::open(&what.queue)?,
    };
    let end = EndSignals::listen()?;
    let receiver = queue.receiver();
    let incoming = Incoming {
        what,
        receiver: &receiver,
        end: &end,
    };
    let mut received = 0;
    while what.follow || received < what.count {
        let delivery = match incoming.next()? {
            Next::Message(delivery) => delivery,
            Next::Stopped | Next::Over(_) if what.follow => return Ok(()),
            Next::Stopped => return Err(end.error(&so_far(received, what))),
            Next::Over(why) => return Err(nothing(what, received, &why)),
            Next::Unread => return Err(unread(what, None)),
        };
        let payloads = Payloads::of(queue.transport().payload());
        let printed = print(&delivery, &payloads, show);
        if let Err(error) = printed {
            // Available again at once, since nothing was done with it.
            let _ = delivery.nack_after(Duration::ZERO);
            return Err(unread(what, Some(&error)));
        }
        // Settle only now: a message that was not printed must be delivered again.
        let settled = if what.nack {
            delivery.nack()
        } else {
            delivery.ack()
        };
        settled.context("a message was printed, but not acked, so it may be delivered again")?;
        received += 1;
    }
    Ok(())
}

/// Refuses to receive messages if nothing reads the output.
///
/// If standard output is closed, Rust's runtime opens the null device in its place, for reading and
/// writing; a shell's `> /dev/null` opens it for writing only.
fn check_output() -> Result<()> {
    let out = io::stdout();
    let (Ok(ours), Ok(null)) = (fstat(&out), stat("/dev/null")) else {
        return Ok(());
    };
    let flags = fcntl(out.as_fd(), FcntlArg::F_GETFL).map(OFlag::from_bits_truncate);
    let is_null = ours.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits()
        && ours.st_rdev == null.st_rdev;
    if is_null && flags.is_ok_and(|flags| flags & OFlag::O_ACCMODE == OFlag::O_RDWR) {
        return Err(Exit::Refused.error(
            "standard output is closed, so messages would be acked that nothing has read: \
             redirect it; > /dev/null drops them",
        ));
    }
    Ok(())
}

enum Next<'a> {
    Message(ByteDelivery<'a>),
    /// No more messages will come, for this reason.
    Over(String),
    /// A signal asked the command to end.
    Stopped,
    /// The reader of the output has gone.
    Unread,
}

struct Incoming<'r> {
    what: &'r cli::Recv,
    receiver: &'r ByteReceiver,
    end: &'r EndSignals,
}

/// Returns `true` if no more messages can come.
pub fn is_over(failure: &RecvFailure) -> bool {
    matches!(
        failure,
        RecvFailure::Closed | RecvFailure::Unavailable(Unavailable::Removed)
    )
}

impl<'r> Incoming<'r> {
    fn next(&self) -> Result<Next<'r>> {
        let timeout = self.what.timeout;
        let deadline = timeout.and_then(|time| Instant::now().checked_add(time));
        loop {
            if self.end.is_asked() {
                return Ok(Next::Stopped);
            }
            // Checked before a message is taken, because returning it would cost it an attempt.
            if terminal::is_reader_gone() {
                return Ok(Next::Unread);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let wait = match left {
                Some(Duration::ZERO) => Wait::No,
                left => Wait::at_most(left.map_or(SLICE, |left| left.min(SLICE))),
            };
            let received = match wait {
                Wait::No => match self.receiver.try_recv() {
                    Err(TryRecvError::Empty) => {
                        return Ok(Next::Over(self.in_time("no message came")));
                    }
                    Err(TryRecvError::Paused) => return Ok(Next::Over(self.paused())),
                    Err(TryRecvError::Failed(error)) => Err(RecvTimeoutError::Failed(error)),
                    Err(error) => return Err(error.into()),
                    Ok(delivery) => Ok(delivery),
                },
                wait => self.receiver.recv_within(wait),
            };
            match received {
                Ok(delivery) => return Ok(Next::Message(delivery)),
                Err(RecvTimeoutError::TimedOut { .. }) => {}
                Err(error) if error.failure().is_some_and(is_over) => {
                    return Ok(Next::Over(error.to_string()));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn in_time(&self, what: &str) -> String {
        match self.what.timeout {
            Some(Duration::ZERO) | None => "there is no message now".to_owned(),
            Some(time) => format!("{what} for {}", format::time(time)),
        }
    }

    fn paused(&self) -> String {
        let queue = &self.what.queue;
        format!("it is paused and delivers nothing until ipc resume {queue}")
    }
}

fn so_far(received: usize, what: &cli::Recv) -> String {
    format!("{received} of {} messages were received", what.count)
}

fn nothing(what: &cli::Recv, received: usize, why: &str) -> Error {
    let so_far = match received {
        0 => String::new(),
        _ => format!(" ({})", so_far(received, what)),
    };
    Exit::NotThere.error(format!("{}: {why}{so_far}", what.queue))
}

/// The error for output that nothing reads. The message that could not be printed stays in the
/// queue.
fn unread(what: &cli::Recv, error: Option<&io::Error>) -> Error {
    let queue = &what.queue;
    Exit::Failed.error(match error {
        None => {
            format!("nothing reads standard output any more: the next message stays in {queue}")
        }
        Some(error) => {
            format!("writing to standard output: {error}; the message was returned to {queue}")
        }
    })
}

fn print(delivery: &ByteDelivery<'_>, payloads: &Payloads, show: &Show) -> io::Result<()> {
    let payload = delivery.payload();
    if !show.is_json() {
        return show.payload(&payloads.readable(payload));
    }
    let value = json!({
        "message": delivery.id().to_string(),
        "kind": format!("{:?}", delivery.kind()).to_lowercase(),
        "attempt": delivery.attempt(),
        "headers": headers::json(&delivery.headers()),
        "payload": payloads.json(payload),
    });
    show.payload(value.to_string().as_bytes())
}
