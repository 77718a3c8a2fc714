//! `bridge`: from one queue to another, whatever their transports.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipc_queue::transport::OpenMode;
use ipc_queue::{Bridge, ByteQueue, Carried, Note, QueueOptions, Semantic, Until};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::Ended;
use crate::address;
use crate::cli;
use crate::show::Show;

/// Carries messages until the first queue is drained, or somebody says stop.
pub fn bridge(what: &cli::Bridge, show: Show) -> Result<Ended> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("listening to signals")?;
    }
    let from = address::open(&what.from).with_context(|| format!("opening {}", what.from))?;
    let to = open_to(what).with_context(|| format!("opening {}", what.to))?;
    let bridge = Bridge::new(from, to).batch(what.batch);
    if !bridge.is_exactly_once() {
        eprintln!(
            "ipc: {} has no keys: a message that is under way when this is killed may come twice",
            what.to
        );
    }
    let until = match what.drain {
        true => Until::Drained,
        false => Until::Stopped,
    };
    let mut line = Line::new();
    let run = bridge.run(until, &stop, |note| match note {
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
        "exactly_once": bridge.is_exactly_once(),
    });
    show.say(&figures, || in_words(carried))?;
    Ok(match carried.buried {
        0 => Ended::Well,
        _ => Ended::NotWell,
    })
}

fn open_to(what: &cli::Bridge) -> Result<ByteQueue> {
    /// How long keys are remembered by a queue that is created here.
    const WINDOW: Duration = Duration::from_secs(3600);
    if !what.create {
        return address::open(&what.to);
    }
    let address = address::whole(&what.to);
    let options = QueueOptions::new().mode(OpenMode::OpenOrCreate);
    match options.clone().dedup_window(WINDOW).open_bytes(&address) {
        Err(ipc_queue::QueueError::Unsupported(what))
            if what.semantic == Semantic::Deduplication =>
        {
            Ok(options.open_bytes(&address)?)
        }
        opened => Ok(opened?),
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
        (carried.lost, "out of time: they come again"),
    ];
    for (count, what) in others {
        if count > 0 {
            words.push_str(&format!("; {count} {what}"));
        }
    }
    words
}

/// One line on a terminal that is written again and again.
struct Line {
    is_terminal: bool,
    shown_at: Option<Instant>,
}

impl Line {
    const EVERY: Duration = Duration::from_millis(200);

    fn new() -> Self {
        Self {
            is_terminal: io::stderr().is_terminal(),
            shown_at: None,
        }
    }

    fn show(&mut self, carried: Carried) {
        if !self.is_terminal || self.shown_at.is_some_and(|at| at.elapsed() < Self::EVERY) {
            return;
        }
        self.shown_at = Some(Instant::now());
        eprint!("\r\x1b[K{}", in_words(carried));
        let _ = io::stderr().flush();
    }

    fn say(&mut self, what: &str) {
        self.end();
        eprintln!("ipc: {what}");
    }

    fn end(&mut self) {
        if self.shown_at.take().is_some() {
            eprint!("\r\x1b[K");
        }
    }
}
