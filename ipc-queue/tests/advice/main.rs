//! Each test causes an error, follows its advice, and checks that it helps.
//!
//! Advice that needs forked or killed processes is followed in `tests/processes`, that about
//! damaged files in `tests/bad_memory`, and that about other versions in `src/unix/server/tests.rs`.
#![cfg(target_os = "linux")]

mod files;
mod opening;
mod sending;
mod serving;
mod using;

use std::fmt::Display;
use std::sync::atomic::{AtomicU32, Ordering};

/// The address of a queue of a test's own. The queue is removed at the end.
struct Place(String);

impl Place {
    fn new(scheme: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        match scheme {
            "local" => Self(format!("local:advice-{number}")),
            "shm" => Self(format!("shm:advice-{}/q{number}", std::process::id())),
            other => panic!("no test for {other}"),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = ipc_queue::remove(&self.0);
    }
}

#[track_caller]
fn advises(error: impl Display, advice: &str) {
    let text = error.to_string();
    assert!(text.contains(advice), "{advice:?} is not in {text:?}");
}

/// Not a test, unless `serving` started this binary as another process.
#[test]
fn role() {
    if let Ok(path) = std::env::var(serving::PATH) {
        serving::bind_and_say_so(&path);
    }
}
