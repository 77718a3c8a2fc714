//! `tail`: follows a queue's messages without taking them.

use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use ipc_queue::shm::Waiting;

use crate::address;
use crate::cli;
use crate::headers;
use crate::payload::Payloads;
use crate::peek;
use crate::show::Show;
use crate::signals::EndSignals;
use crate::terminal;

/// Prints the waiting messages, then new ones, until the queue is removed or a signal asks the
/// command to end.
pub fn tail(what: &cli::Tail, show: &Show) -> Result<()> {
    /// Time between two checks whether to stop.
    const SLICE: Duration = Duration::from_millis(100);
    let inspector = address::inspect(&what.queue)?;
    let payloads = Payloads::of(Some(inspector.payload_type()));
    let end = EndSignals::listen()?;
    let mut known = HashSet::new();
    let mut skip_all_but = Some(what.count);
    loop {
        // A message that is held now may be returned to the queue; it is not new then.
        let held = inspector.leases().into_iter();
        let mut there: HashSet<_> = held
            .map(|held| held.message)
            .filter(|id| known.contains(id))
            .collect();
        let fresh = inspector.waiting_if(usize::MAX, |id| there.insert(id) && !known.contains(&id));
        known = there;
        let skipped = skip_all_but
            .take()
            .map_or(0, |most| fresh.len().saturating_sub(most));
        for message in &fresh[skipped..] {
            print(message, &payloads, show);
        }
        let next = Instant::now() + what.every;
        loop {
            let is_unread = terminal::is_reader_gone() || show.has_failed();
            if end.is_asked() || inspector.is_removed() || is_unread {
                return Ok(());
            }
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            thread::sleep(left.min(SLICE));
        }
    }
}

fn print(message: &Waiting, payloads: &Payloads, show: &Show) {
    show.say(&peek::value(message, payloads), || {
        let headers = match message.headers.is_empty() {
            true => String::new(),
            false => format!("  {}", headers::in_a_line(&message.headers)),
        };
        let payload = payloads.excerpt(&message.payload);
        format!("{}  {payload}{headers}", message.message)
    });
}
