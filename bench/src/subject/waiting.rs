//! Two ways of waiting for the references.

use std::cell::Cell;
use std::{hint, thread};

/// The same code as this project's queue uses, so that its advantage is not attributed to the ring.
#[path = "../../../ipc-queue/src/shm/spin.rs"]
mod spin;

use spin::Spin;

/// Repeats an attempt until it succeeds.
pub trait Waiting: Default {
    /// The suffix of the name of a subject that waits in this way.
    const NAME: &str;

    fn until(&self, attempt: impl FnMut() -> bool);
}

/// Tries again at once.
#[derive(Debug, Default)]
pub struct Polling {
    polls: Cell<u32>,
}

/// Tries again after pauses that adapt.
#[derive(Debug, Default)]
pub struct Adaptive {
    spin: Spin,
}

/// After this many failed tries the thread yields, because there may be more processes than cores.
const PATIENCE: u32 = 1 << 12;

impl Waiting for Polling {
    const NAME: &str = "polling";

    #[inline]
    fn until(&self, mut attempt: impl FnMut() -> bool) {
        while !attempt() {
            self.polls.set(self.polls.get().wrapping_add(1));
            if self.polls.get().is_multiple_of(PATIENCE) {
                thread::yield_now();
            }
        }
    }
}

impl Waiting for Adaptive {
    const NAME: &str = "adaptive";

    #[inline]
    fn until(&self, mut attempt: impl FnMut() -> bool) {
        if attempt() {
            self.spin.hit();
            return;
        }
        while self.spin.look(|| attempt().then_some(())).is_none() {
            thread::yield_now();
        }
    }
}

/// Repeats a foreign attempt at once, until it returns something.
#[inline]
pub fn poll<T>(mut attempt: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let mut polls: u32 = 0;
    loop {
        if let Some(found) = attempt()? {
            return Ok(found);
        }
        polls += 1;
        hint::spin_loop();
        if polls == PATIENCE {
            polls = 0;
            thread::yield_now();
        }
    }
}
