//! The real program, with real processes that really die.
//!
//! Each test has a place of its own in shared memory and looks at it when it is done: nothing may be left there,
//! and no process of the run either. `support` is the place and the program in it; `tree` is files of all sorts,
//! with what `wc` and `sha256sum` say of them. The rest is tests, by topic.
#![cfg(target_os = "linux")]

mod command_line;
mod deaths;
mod endings;
mod fingerprints;
mod simulation;
mod support;
mod timeline;
mod transports;
mod tree;
