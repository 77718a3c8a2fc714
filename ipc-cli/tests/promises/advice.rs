//! Whatever an error or the doctor advises is done here, and helps.
//!
//! `xtask/advice.txt` says which test follows which advice.

mod files;
mod machine;
mod queues;
mod settings;
mod snapshots;

use crate::place::Ended;

/// Asserts that an error advises something.
#[track_caller]
fn advises(ended: &Ended, advice: &str) {
    assert!(
        ended.error().contains(advice),
        "{advice:?} is not in {:?}",
        ended.error()
    );
}
