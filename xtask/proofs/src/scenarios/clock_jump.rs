//! A clock with any value, or one that is ahead in the second of two runs, loses nothing and
//! changes no delay.
//!
//! The wall clock can't be set safely, and only a message's time of sending comes from it. Leases
//! and delays go by the monotonic clock. The second run is in a time namespace where that clock is
//! ten years ahead; the queue subtracts the difference.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ipc_proto::QueueSettings;
use serde_json::json;

use super::Outcome;
use super::isolation::{self, Own};
use super::order::Order;
use super::puppeteer::Puppet;
use super::stage::{self, CHUNKED, INLINE, Stage, Times};

const AHEAD: u64 = 10 * 365 * 24 * 3600;
const LEASE: Duration = Duration::from_millis(300);

pub fn play(stage: &Stage) -> Result<Outcome> {
    first_run(stage)?;
    if let Err(reason) = isolation::take(Own::Clock { ahead: AHEAD })? {
        ipc_queue::remove(stage::address(stage::JOBS))?;
        return Outcome::skipped(reason);
    }
    let mut later = stage.puppet()?;
    if later.count(&Order::Clock)? < AHEAD {
        drop(later);
        ipc_queue::remove(stage::address(stage::JOBS))?;
        return Outcome::skipped("this kernel does not start processes in a time namespace");
    }
    let mut times = Times::default();
    let started = Instant::now();
    later.consume(0..3)?;
    times.note("what the first run left", started.elapsed())?;
    second_run(stage, &mut later, &mut times)?;
    Outcome::kept(json!({ "ahead_s": AHEAD, "waited_ms": times.figures() }))
}

/// Leaves one delayed message, one that a dead process held, and one ready message.
fn first_run(stage: &Stage) -> Result<()> {
    let mut first = stage.stranger()?;
    first.perform(Order::Create {
        queue: stage::JOBS.to_owned(),
        settings: QueueSettings {
            lease: Some(LEASE),
            ..stage::settings()
        },
    })?;
    first.attach()?;
    first.send(0..3, CHUNKED)?;
    first.hold(0, 1)?;
    first.perform(Order::NackAfter { delay_ms: 60 })?;
    first.hold(1, 1)?;
    first.kill().map(drop)
}

/// Leases and delays have their usual length.
fn second_run(stage: &Stage, later: &mut Puppet, times: &mut Times) -> Result<()> {
    let mut frozen = stage.puppet()?;
    later.send(5..6, INLINE)?;
    frozen.hold(5, 1)?;
    frozen.freeze()?;
    let started = Instant::now();
    later.hold(5, 2)?;
    let waited = started.elapsed();
    times.note("an expiry", waited)?;
    frozen.thaw()?;
    ensure!(
        frozen.refused(&Order::Ack)?.contains("LeaseLost"),
        "it was kept"
    );

    const DELAY: Duration = Duration::from_millis(60);
    let delay_ms = u64::try_from(DELAY.as_millis())?;
    let started = Instant::now();
    later.perform(Order::NackAfter { delay_ms })?;
    frozen.hold(5, 3)?;
    let waited = started.elapsed();
    ensure!(waited >= DELAY, "a delay of {DELAY:?} took {waited:?}");
    times.note("a delay", waited)?;
    frozen.ack()
}
