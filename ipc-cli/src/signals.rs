//! The signals that ask a command to end.
//!
//! After the first signal the command finishes what it holds. The second signal ends the process as
//! if there were no handler. SIGHUP never counts as a second signal, because a closed terminal may
//! send it together with others.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;

use anyhow::{Context, Error, Result};
use nix::sys::signal::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::exit::Exit;
use crate::show;

/// Listens from its creation until the process ends.
pub struct EndSignals {
    asked: Arc<AtomicBool>,
    /// The first signal that arrived, or 0.
    first: Arc<AtomicI32>,
}

impl EndSignals {
    pub fn listen() -> Result<Self> {
        let mut ends = vec![SIGINT, SIGTERM, SIGQUIT];
        // `nohup ipc serve …` continues.
        if !is_ignored(SIGHUP) {
            ends.push(SIGHUP);
        }
        let mut signals = Signals::new(ends).context("listening to signals")?;
        let listener = Self {
            asked: Arc::default(),
            first: Arc::default(),
        };
        let (asked, first) = (Arc::clone(&listener.asked), Arc::clone(&listener.first));
        let listen = move || {
            let mut insisting = 0;
            for signal in signals.forever() {
                insisting += i32::from(signal != SIGHUP);
                if insisting > 1 {
                    end_at_once(signal);
                }
                let _ = first.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
                asked.store(true, Ordering::SeqCst);
            }
        };
        let thread = thread::Builder::new().name("ipc-signals".to_owned());
        thread.spawn(listen).context("listening to signals")?;
        Ok(listener)
    }

    /// Set when a signal has asked the command to end.
    pub fn asked(&self) -> &AtomicBool {
        &self.asked
    }

    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Returns the error of a command that a signal ended before its work was done; `left` says
    /// what was not done.
    pub fn error(&self, left: &str) -> Error {
        let number = self.first.load(Ordering::SeqCst);
        let exit = Exit::Signal(u8::try_from(number).unwrap_or_default());
        exit.error(format!("ended by {}: {left}", name(number)))
    }
}

fn end_at_once(signal: i32) {
    let name = name(signal);
    show::to_stderr(&format!(
        "error: ended by a second {name} before all was done\n"
    ));
    let _ = emulate_default_handler(signal);
}

fn name(signal: i32) -> &'static str {
    Signal::try_from(signal).map_or("a signal", Signal::as_str)
}

/// Returns `true` if the process was started with this signal ignored.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
