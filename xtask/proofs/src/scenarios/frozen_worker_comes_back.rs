//! A lost lease stays lost, but the memory stays untouched until its reader releases it.
//!
//! A worker is stopped past the end of its lease. Another does the work. Meanwhile everything else
//! in the queue is used again and again. When the first worker continues, its payload is whole, and
//! its ack is refused. If it is killed instead, its memory is freed as well.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipc_proto::QueueSettings;
use ipc_queue::{ByteQueue, TrySendError};
use serde_json::json;

use super::order::Order;
use super::puppeteer::Puppet;
use super::stage::{self, CHUNKED, Stage, Times};
use super::{Outcome, numbered};

const LEASE: Duration = Duration::from_millis(300);
const CAPACITY: u32 = 4;
const USES: u64 = 25;

pub fn play(stage: &Stage) -> Result<Outcome> {
    let queue = stage::create(&QueueSettings {
        capacity: CAPACITY,
        pool_bytes: 2048 * u64::from(CAPACITY),
        lease: Some(LEASE),
        ..stage::settings()
    })?;
    let mut times = Times::default();

    let mut frozen = lose_a_lease(stage, &queue, &mut times)?;
    use_all_the_rest(&queue)?;
    frozen.thaw()?;
    frozen
        .perform(Order::Check)
        .context("its memory was used")?;
    let refusal = frozen.refused(&Order::Ack)?;
    ensure!(refusal.contains("LeaseLost"), "its ack: {refusal}");
    stage::until_free(&queue, 2)?;

    let mut killed = lose_a_lease(stage, &queue, &mut times)?;
    use_all_the_rest(&queue)?;
    killed.kill()?;
    stage::until_free(&queue, 2)?;
    Outcome::kept(
        json!({ "lease_ms": u64::try_from(LEASE.as_millis())?, "redelivered_ms": times.figures() }),
    )
}

/// Returns a stopped child whose message was processed by another.
fn lose_a_lease(stage: &Stage, queue: &ByteQueue, times: &mut Times) -> Result<Puppet> {
    stage::send(queue, [1], CHUNKED)?;
    let mut frozen = stage.puppet()?;
    frozen.hold(1, 1)?;
    frozen.freeze()?;
    let frozen_at = Instant::now();
    stage::take_this(queue, 1, 2)?;
    times.note("an expiry", frozen_at.elapsed())?;
    stage::until_stats(queue, "its memory is kept", |stats| {
        (stats.quarantined, stats.chunks_in_use, stats.in_use()) == (1, 1, 1)
    })?;
    Ok(frozen)
}

/// Fills and empties the queue, which has one place less than usual.
fn use_all_the_rest(queue: &ByteQueue) -> Result<()> {
    for round in 0..USES {
        let numbers = 100 * round + 2..100 * round + 1 + u64::from(CAPACITY);
        stage::send(queue, numbers.clone(), CHUNKED)?;
        let one_more = queue.sender().try_send(&numbered::message(0, CHUNKED));
        let full = one_more.as_ref().is_err_and(TrySendError::is_full);
        ensure!(full, "one more than there is room for: {one_more:?}");
        ensure!(
            stage::drain(queue)?.into_iter().eq(numbers),
            "other messages"
        );
        let stats = queue.transport().stats()?;
        ensure!(stats.quarantined == 1, "its place is free: {stats:?}");
    }
    Ok(())
}
