//! What the command promises of its exit codes, its messages and its effects, tried with the real
//! binary.

mod advice;
mod doctor;
mod exchange;
mod held;
mod json;
mod matrix;
mod metrics;
mod nats;
mod place;
mod proxy;
mod sending;
mod shell;
mod signals;
mod state;
mod terminal;
mod top;
mod troubleshooting;
mod unanswered;
mod web;
mod web_page;
mod web_truth;
mod work;
