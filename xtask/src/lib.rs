//! What the commands of this workspace share, for those that lie in crates of their own.
#![forbid(unsafe_code)]

pub mod cargo;
pub mod ending;
