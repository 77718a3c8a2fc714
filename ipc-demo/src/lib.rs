//! The pure half of the demonstration: what a pipeline of processes computes, and how it is told.
//!
//! A coordinator sends every file as a task over a queue, a worker answers with what `LC_ALL=C wc` and
//! `sha256sum` would print, and the coordinator reports. The modules here know nothing of queues or
//! processes, so every one of them is tested by calling it.
//!
//! In the order a run meets them: [`input`] finds the files, [`parts`] cuts those too large for one
//! message, [`fingerprint`] is the work on one part, [`report`] says what came out, and [`timeline`]
//! draws who did what when, and who died doing it.
#![forbid(unsafe_code)]

pub mod fingerprint;
pub mod input;
pub mod parts;
pub mod report;
pub mod timeline;
