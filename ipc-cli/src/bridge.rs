//! `bridge`: carries messages from one queue to another, between any transports.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipc_queue::{Bridge, ByteQueue, Carried, Feature, Note, QueueError, QueueOptions, Until};
use serde_json::json;

use crate::address;
use crate::cli;
use crate::exit::Exit;
use crate::payload;
use crate::show::{self, Show};
use crate::signals::EndSignals;
use crate::terminal;

/// Carries messages until the first queue is drained or a signal asks the command to end.
pub fn bridge(what: &cli::Bridge, show: &Show) -> Result<()> {
    let (from, to) = open(what)?;
    let end = EndSignals::listen()?;
    if what.close {
        from.transport().close()?;
    }
    let from_has_headers = from.transport().capabilities().has(Feature::Headers);
    let bridge = Bridge::new(from.clone(), to).batch(what.batch);
    if !bridge.is_exactly_once() {
        show::note(&format!(
            "{} has no keys: a message in transit when this command is killed may arrive twice",
            what.to
        ));
    }
    if from_has_headers && !bridge.carries_headers() {
        show::note(&format!(
            "{} carries no headers: messages arrive there without their headers",
            what.to
        ));
    }
    let until = match what.drain || what.close {
        true => Until::Drained,
        false => Until::Stopped,
    };
    let mut line = Line::new();
    let run = bridge.run(until, end.asked(), |note| match note {
        Note::Progress(carried) => line.show(carried),
        Note::Buried { id, why } => {
            line.say(&format!("{id} is a dead letter of {}: {why}", what.from))
        }
        Note::Waiting { why } => line.say(&format!("waiting: {why}")),
        _ => {}
    });
    line.end();
    let carried = run?;
    let figures = json!({
        "messages": carried.messages,
        "bytes": carried.bytes,
        "known": carried.known,
        "buried": carried.buried,
        "lost": carried.lost,
        "without_headers": carried.without_headers,
        "exactly_once": bridge.is_exactly_once(),
    });
    show.done(&figures, || in_words(carried));
    if until == Until::Drained && end.is_asked() && !is_drained(&from)? {
        return Err(end.error(&format!("{} is not drained", what.from)));
    }
    match carried.buried {
        0 => Ok(()),
        buried => Err(Exit::Failed.error(format!(
            "{} does not take {buried} messages, which are dead letters of {from} now: \
             see ipc dlq ls {from}",
            what.to,
            from = what.from
        ))),
    }
}

fn is_drained(queue: &ByteQueue) -> Result<bool> {
    let stats = queue.transport().stats()?;
    Ok(stats.closed && stats.in_use() == stats.dead)
}

/// Opens both queues, and checks that messages can go from one to the other.
fn open(what: &cli::Bridge) -> Result<(ByteQueue, ByteQueue)> {
    let from =
        address::open_to_stay(&what.from).with_context(|| format!("opening {}", what.from))?;
    let to = open_to(what, &from).with_context(|| format!("opening {}", what.to))?;
    // The ids are compared, not the addresses: a served queue has several addresses.
    if from.transport().id() == to.transport().id() {
        let cli::Bridge { from, to, .. } = what;
        return Err(Exit::Refused.error(format!("{from} and {to} are the same queue")));
    }
    if let (Some(sent), Some(taken)) = (from.transport().payload(), to.transport().payload())
        && payload::short(sent) != payload::short(taken)
        && !what.any_type
    {
        return Err(Exit::Refused.error(format!(
            "{} carries {} and {} carries {}: --any-type bridges them anyway",
            what.from,
            payload::short(sent),
            what.to,
            payload::short(taken)
        )));
    }
    Ok((from, to))
}

/// A created queue gets the same settings and the same payload type, so that the same programs can
/// open it.
fn open_to(what: &cli::Bridge, from: &ByteQueue) -> Result<ByteQueue> {
    if !what.create {
        return address::open(&what.to);
    }
    let mut settings = from.transport().settings().clone();
    settings.dedup_window.get_or_insert(address::DEDUP_WINDOW);
    loop {
        let mut options = QueueOptions::new().settings(settings.clone());
        if let Some(name) = from.transport().payload().filter(|name| !name.is_empty()) {
            options = options.type_name(name);
        }
        let opened = address::open_or_create(&what.to, &what.settings.apply(options));
        let lacking = opened.as_ref().err().and_then(|error| error.downcast_ref());
        match lacking {
            Some(QueueError::Unsupported(lacking)) => match lacking.feature {
                Feature::Deduplication if settings.dedup_window.is_some() => {
                    settings.dedup_window = None;
                }
                Feature::Priorities if settings.priorities => settings.priorities = false,
                _ => return opened,
            },
            _ => return opened,
        }
    }
}

fn in_words(carried: Carried) -> String {
    let mut words = format!(
        "{} messages carried, {} bytes",
        carried.messages, carried.bytes
    );
    let others = [
        (carried.known, "were there already"),
        (carried.buried, "not taken, and dead letters now"),
        (carried.lost, "expired leases: delivered again"),
        (carried.without_headers, "arrived without their headers"),
    ];
    for (count, what) in others {
        if count > 0 {
            words.push_str(&format!("; {count} {what}"));
        }
    }
    words
}

/// A line on a terminal that is overwritten with each update.
struct Line {
    can_draw: bool,
    shown_at: Option<Instant>,
}

impl Line {
    const EVERY: Duration = Duration::from_millis(200);

    fn new() -> Self {
        Self {
            can_draw: io::stderr().is_terminal() && !terminal::is_dumb(),
            shown_at: None,
        }
    }

    fn show(&mut self, carried: Carried) {
        if !self.can_draw || self.shown_at.is_some_and(|at| at.elapsed() < Self::EVERY) {
            return;
        }
        self.shown_at = Some(Instant::now());
        show::to_stderr(&format!("\r\x1b[K{}", in_words(carried)));
    }

    fn say(&mut self, what: &str) {
        self.end();
        show::note(what);
    }

    fn end(&mut self) {
        if self.shown_at.take().is_some() {
            show::to_stderr("\r\x1b[K");
        }
    }
}
