//! The demonstration: a coordinator, workers, and files to fingerprint.
//!
//! The coordinator submits every file as a job to a pool. A worker answers with the output that
//! `LC_ALL=C wc` and `sha256sum` would print, and the coordinator reports. Workers are processes
//! that know only an address (or threads, with the `local` transport). They may be killed at any
//! moment, and the report stays exact.
//!
//! The pure half is tested by calling it: [`input`] finds the files, [`fingerprint`] is the work,
//! [`report`] states the results, and [`timeline`] draws which worker did what when, and which died
//! doing it.
//!
//! The other half: [`task`] is what travels and what is done with it. [`plan`] describes a run,
//! [`premises`] its place, [`nats`] a server for it. [`coordinator`] hands out and collects. `doom`
//! selects the workers to kill. `roster`, `chronicle` and `tally` note which worker did what.
//! `outage` handles a server that is away. The pool starts workers, sees them die, replaces them
//! and retries their jobs.
#![forbid(unsafe_code)]

mod chronicle;
pub mod coordinator;
mod doom;
pub mod fingerprint;
pub mod input;
pub mod nats;
mod outage;
pub mod plan;
pub mod premises;
pub mod report;
mod roster;
pub mod source;
mod tally;
pub mod task;
pub mod timeline;
