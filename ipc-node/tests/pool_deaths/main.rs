//! What happens to a pool's jobs, workers, queues and address when processes are really killed.
//!
//! Workers are this test program again, as its test `worker`.

mod endings;
mod full;
mod orphans;
mod other;
mod owner;
mod retries;
mod streams;
mod support;
mod unreachable;
#[path = "../unreaped/mod.rs"]
mod unreaped;
#[path = "../waiting/mod.rs"]
mod waiting;
mod zombies;
