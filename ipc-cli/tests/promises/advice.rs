//! Each test follows the advice of an error or of the doctor, and checks that it helps.
//! `xtask/advice.toml` says which test follows which text; `cargo xtask lint` checks that each has
//! one.

mod commands;
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
