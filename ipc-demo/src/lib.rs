//! The demonstration: a coordinator, workers, and files to fingerprint.
//!
//! The coordinator submits every file as a job to a pool, a worker answers with what `LC_ALL=C wc` and `sha256sum` would
//! print, and the coordinator reports. Workers are processes that know nothing but an address (or threads, with the
//! `local` transport); they may be killed at any moment, and the report stays exact.
//!
//! The pure half, tested by calling it: [`input`] finds the files, [`fingerprint`] is the work, [`report`]
//! says what came out, [`timeline`] draws who did what when, and who died doing it. The other half:
//! [`task`] is what travels and what is done about it, [`plan`] what a run is to be, [`premises`] where it is, [`nats`] a server for it,
//! [`coordinator`] hands out and collects; `doom` says who dies, `roster`, `chronicle` and `tally` note who did what, `outage` bears with
//! a server that is away. Starting workers, seeing them die, replacing them and trying their jobs again is the pool's business.
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
