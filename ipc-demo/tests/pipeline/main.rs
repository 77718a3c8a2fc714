//! The real program, with real processes that really die.
//!
//! Each test has a private place in shared memory. At its end it checks that nothing is left there,
//! and that no process of the run is left. `support` has the place and the program in it. `tree`
//! has files of all sorts, with the output of `wc` and `sha256sum` for them. The other modules are
//! tests, by topic.
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
