//! With all workers killed at once, nothing is lost and nothing is acked twice.
//!
//! The queue is full, workers start, and all are killed in the middle of their loops, several
//! times.

use anyhow::Result;
use ipc_proto::QueueSettings;
use ipc_queue::ByteQueue;
use serde_json::json;

use super::ledger::Ledger;
use super::order::Order;
use super::puppeteer::Puppet;
use super::stage::{self, INLINE, Stage};
use super::{Outcome, numbered};

const ROUNDS: usize = 20;
const WORKERS: usize = 4;
const CAPACITY: u32 = 500;

pub fn play(stage: &Stage) -> Result<Outcome> {
    let queue = stage::create(&QueueSettings {
        capacity: CAPACITY,
        ..stage::settings()
    })?;
    let mut ledger = Ledger::default();
    let mut sent = 0;
    for _ in 0..ROUNDS {
        sent = fill_up(&queue, sent);
        let mut workers: Vec<Puppet> = (0..WORKERS)
            .map(|_| stage.puppet())
            .collect::<Result<_>>()?;
        let done = queue.transport().stats()?.acked + fastrand::u64(..u64::from(CAPACITY) / 2);
        for worker in &mut workers {
            worker.tell(&Order::WorkForever)?;
        }
        stage::until_stats(&queue, "some are done", |stats| stats.acked > done)?;
        workers.iter_mut().try_for_each(Puppet::strike)?;
        for worker in &mut workers {
            ledger.enter(&worker.bury()?);
        }
    }
    stage::until_stats(&queue, "no worker is left", |stats| {
        stats.leased == 0 && stats.participants == 1
    })?;
    ledger.acked(stage::drain(&queue)?);
    ledger.check(0..sent)?;
    stage::until_free(&queue, 1)?;
    Outcome::kept(json!({
        "kills": ROUNDS * WORKERS,
        "messages": sent,
        "redelivered": queue.transport().stats()?.redelivered,
    }))
}

/// Sends until the queue is full. Returns the number after the last one sent.
fn fill_up(queue: &ByteQueue, next: u64) -> u64 {
    let sender = queue.sender();
    let sends = |number: &u64| sender.try_send(&numbered::message(*number, INLINE)).is_ok();
    next + (next..).take_while(sends).count() as u64
}
