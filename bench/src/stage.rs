//! The meeting point of a repetition's parts: a shared block with a few counters.
//!
//! Parts wait here with short sleeps, so that they do not disturb those at work.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::memory::{LINE, Shared};

/// The meeting point.
#[derive(Debug)]
pub struct Stage {
    shared: Shared,
    parts: u64,
}

/// The first line of the parts' counters, and the maximum number of parts.
const COUNTS: usize = 4;
const MOST_PARTS: usize = 16;
const FILE: &str = "stage";
const LOST_AFTER: Duration = Duration::from_secs(3);
const NAP: Duration = Duration::from_micros(30);

impl Stage {
    pub fn create(folder: &Path) -> Result<()> {
        Shared::create(&folder.join(FILE), (COUNTS + MOST_PARTS) * LINE).map(drop)
    }

    pub fn open(folder: &Path, parts: usize) -> Result<Self> {
        Ok(Self {
            shared: Shared::open(&folder.join(FILE))?,
            parts: parts as u64,
        })
    }

    /// Waits until all parts are here. `nth` counts the meetings from 1.
    pub fn meet(&self, nth: u64) {
        let arrived = self.shared.word(0);
        arrived.fetch_add(1, Ordering::SeqCst);
        while arrived.load(Ordering::SeqCst) < nth * self.parts {
            thread::sleep(NAP);
        }
    }

    /// Records that a sender has sent all its messages. Returns the number of such senders,
    /// including this one.
    pub fn sender_done(&self, messages: u64) -> u64 {
        self.shared
            .word(3 * LINE)
            .fetch_add(messages, Ordering::SeqCst);
        self.shared.word(LINE).fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Returns the counter of a receiver, on a separate line.
    pub fn count_of(&self, part: usize) -> &AtomicU64 {
        self.shared.word((COUNTS + part % MOST_PARTS) * LINE)
    }

    /// Waits until all sent messages are received, because a queue need not keep an order between
    /// senders. The wait is limited, because messages may have been lost.
    pub fn await_all_received(&self) {
        let sent = self.shared.word(3 * LINE).load(Ordering::SeqCst);
        let deadline = Instant::now() + LOST_AFTER;
        let received = || -> u64 {
            let counts = (0..MOST_PARTS).map(|part| self.count_of(part).load(Ordering::Relaxed));
            counts.sum()
        };
        while received() < sent && Instant::now() < deadline {
            thread::sleep(NAP);
        }
    }

    /// Returns the line that the probe bounces. It is zero before the first probe.
    pub fn probe_line(&self) -> &AtomicU64 {
        self.shared.word(2 * LINE)
    }
}
