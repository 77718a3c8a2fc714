//! The demonstration: a coordinator, workers, and files to fingerprint.
//!
//! The coordinator sends every file as a task over a queue, a worker answers with what `LC_ALL=C wc` and
//! `sha256sum` would print, and the coordinator reports. Workers are processes that know nothing but names
//! (or threads, with the `local` transport); they may be killed at any moment, and the report stays exact.
//!
//! The pure half, tested by calling it: [`input`] finds the files, [`fingerprint`] is the work, [`report`]
//! says what came out, [`timeline`] draws who did what when, and who died doing it. The other half:
//! [`task`] is what travels, [`wiring`] opens the queues, [`worker`] works, [`crew`] starts, kills and
//! replaces workers, [`coordinator`] hands out and collects; `ledger` keeps its books,
//! `doom` says who dies, `chronicle` notes what happens.
#![forbid(unsafe_code)]

mod chronicle;
pub mod coordinator;
pub mod crew;
mod doom;
pub mod fingerprint;
pub mod input;
mod ledger;
pub mod report;
pub mod source;
pub mod task;
pub mod timeline;
pub mod wiring;
pub mod worker;
