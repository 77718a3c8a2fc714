//! Code shared with the commands that are in separate crates.
#![forbid(unsafe_code)]

pub mod cargo;
pub mod ending;
