//! If no watcher thread can be started, blocked handles handle leases and deaths themselves.
//!
//! A process has no memory for another stack. No other process checks deadlines, or the pidfd of
//! its peer.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ipc_proto::QueueSettings;
use serde_json::json;

use super::Outcome;
use super::order::Order;
use super::puppeteer::Puppet;
use super::stage::{self, INLINE, Stage, Times};

const LEASE: Duration = Duration::from_millis(100);
/// Enough for a small queue, too little for a thread.
const MORE: u64 = 1 << 20;

pub fn play(stage: &Stage) -> Result<Outcome> {
    let mut times = Times::default();
    let settings = QueueSettings {
        lease: Some(LEASE),
        ..stage::settings()
    };
    drop(stage::create(&settings)?);
    let mut alone = without_watcher(stage)?;
    alone.send(0..1, INLINE)?;
    alone.hold(0, 1)?;
    let held_at = Instant::now();
    alone.tell_and_block(&Order::RECEIVE)?;
    alone.hear_delivery(0, 2)?;
    times.note("an expiry", held_at.elapsed())?;
    alone.dismiss()?;
    ipc_queue::remove(stage::address(stage::JOBS))?;

    drop(stage::create(&stage::settings())?);
    let (mut alone, mut victim) = (without_watcher(stage)?, without_watcher(stage)?);
    alone.send(1..2, INLINE)?;
    victim.hold(1, 1)?;
    alone.tell_and_block(&Order::RECEIVE)?;
    let killed_at = Instant::now();
    victim.kill()?;
    alone.hear_delivery(1, 2)?;
    times.note("a recovery", killed_at.elapsed())?;
    alone.dismiss()?;
    ipc_queue::remove(stage::address(stage::JOBS))?;
    Outcome::kept(json!({ "kills": 1, "noticed_ms": times.figures() }))
}

/// A child that is attached, with a single thread.
fn without_watcher(stage: &Stage) -> Result<Puppet> {
    let mut puppet = stage.stranger()?;
    puppet.perform(Order::LimitMemory { more: MORE })?;
    puppet.attach()?;
    let threads = fs::read_dir(format!("/proc/{}/task", puppet.pid()))?.count();
    ensure!(threads == 1, "it has {threads} threads");
    Ok(puppet)
}
