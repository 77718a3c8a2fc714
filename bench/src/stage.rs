//! Where the parts of a repetition meet: a shared block with a few counters.
//!
//! Waiting here is by short sleeps, so that whoever waits does not disturb those at work.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::memory::{LINE, Shared};

/// The parts' meeting place.
#[derive(Debug)]
pub struct Stage {
    shared: Shared,
    parts: u64,
}

const FILE: &str = "stage";
const NAP: Duration = Duration::from_micros(30);

impl Stage {
    pub fn create(folder: &Path) -> Result<()> {
        Shared::create(&folder.join(FILE), 4 * LINE).map(drop)
    }

    pub fn open(folder: &Path, parts: usize) -> Result<Self> {
        Ok(Self {
            shared: Shared::open(&folder.join(FILE))?,
            parts: parts as u64,
        })
    }

    /// Waits until everybody is here. `nth` counts the meetings from 1.
    pub fn meet(&self, nth: u64) {
        let arrived = self.shared.word(0);
        arrived.fetch_add(1, Ordering::SeqCst);
        while arrived.load(Ordering::SeqCst) < nth * self.parts {
            thread::sleep(NAP);
        }
    }

    /// Notes that a sender is done. How many are, this one included.
    pub fn sender_done(&self) -> u64 {
        self.shared.word(LINE).fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The line that the probe bounces. Zero before the first probe.
    pub fn probe_line(&self) -> &AtomicU64 {
        self.shared.word(2 * LINE)
    }
}
