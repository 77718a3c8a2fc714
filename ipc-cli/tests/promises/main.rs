//! The promises of the command about its exit codes, texts and effects, tested with the real
//! binary.

mod advice;
mod doctor;
mod exchange;
mod held;
mod json;
mod matrix;
mod metrics;
mod nats;
mod operations;
mod place;
mod proxy;
mod sending;
mod shell;
mod signals;
mod state;
mod terminal;
mod top;
mod troubleshooting;
mod two_hosts;
mod unanswered;
mod web;
mod web_page;
mod web_truth;
mod work;
