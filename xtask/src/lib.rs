//! Code that commands in crates of their own share with this one.
#![forbid(unsafe_code)]

pub mod cargo;
pub mod ending;
