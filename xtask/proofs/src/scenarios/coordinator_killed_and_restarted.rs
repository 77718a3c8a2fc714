//! Messages and unfinished leases outlive their sender, and wait for the next one.
//!
//! This process is not attached itself: the children do all recovery.

use anyhow::Result;
use ipc_proto::QueueSettings;
use serde_json::json;

use super::Outcome;
use super::order::Order;
use super::puppeteer::Puppet;
use super::stage::{self, INLINE, Stage};

const MESSAGES: u64 = 30;

pub fn play(stage: &Stage) -> Result<Outcome> {
    let mut coordinator = stage.stranger()?;
    coordinator.perform(Order::Create {
        queue: stage::JOBS.to_owned(),
        settings: QueueSettings::with_capacity(64),
    })?;
    coordinator.attach()?;
    let (mut quick, mut slow) = (stage.puppet()?, stage.puppet()?);
    coordinator.send(0..MESSAGES, INLINE)?;
    quick.hold(0, 1)?;
    slow.hold(1, 1)?;
    // The coordinator itself holds a message and a loan when it dies.
    coordinator.hold(2, 1)?;
    coordinator.lend(MESSAGES, INLINE)?;
    coordinator.kill()?;
    quick.ack()?;

    let mut next = stage.puppet()?;
    let time = await_counts(&mut next, MESSAGES - 2, 1)?;
    next.consume(2..MESSAGES)?;
    slow.kill()?;
    next.hold(1, 2)?;
    next.ack()?;
    await_counts(&mut next, 0, 0)?;
    Outcome::kept(json!({ "messages": MESSAGES, "kills": 2, "complete_after_ms": time }))
}

/// Waits until the queue holds this. Returns the time, in milliseconds.
fn await_counts(puppet: &mut Puppet, ready: u64, leased: u64) -> Result<f64> {
    let time = stage::until("everything is where it should be", || {
        let stats = puppet.stats()?;
        Ok((stats.ready, stats.leased, stats.in_use()) == (ready, leased, ready + leased))
    })?;
    Ok((time.as_secs_f64() * 1e4).round() / 10.0)
}
