//! Without free descriptors, opening fails and leaks nothing, and open queues continue.
//!
//! A process that does attach can do everything, however few descriptors it has. It can also notice
//! a death and wait for a time.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Outcome;
use super::order::Order;
use super::puppeteer::Puppet;
use super::stage::{self, INLINE, Stage, Times};

/// More than opening a queue needs.
const ENOUGH: u64 = 12;

pub fn play(stage: &Stage) -> Result<Outcome> {
    // This process does not stay attached: the process without descriptors must do everything
    // alone.
    drop(stage::create(&stage::settings())?);
    let mut times = Times::default();
    let mut needed = None;
    for more in 0..=ENOUGH {
        if attach_with(stage, more, &mut times).with_context(|| format!("with {more} more"))? {
            needed.get_or_insert(more);
        }
    }
    let needed = needed.context("twelve descriptors are not enough")?;
    ensure!(needed > 0, "descriptors were not limited");
    run_out_when_attached(stage, &mut times)?;
    Outcome::kept(json!({ "descriptors_needed": needed, "recovery_ms": times.figures() }))
}

/// Returns whether a process with this few descriptors can attach.
fn attach_with(stage: &Stage, more: u64, times: &mut Times) -> Result<bool> {
    let mut puppet = stage.stranger()?;
    let before = puppet.count(&Order::CountOpenFiles)?;
    puppet.perform(Order::LimitOpenFiles { more })?;
    let queue = stage::JOBS.to_owned();
    puppet.tell(&Order::Attach { queue })?;
    let attached = match puppet.hear_outcome()? {
        Ok(_) => true,
        Err(error) => {
            ensure!(says_so(&error), "another error: {error}");
            false
        }
    };
    if attached {
        do_everything(stage, &mut puppet, times)?;
        return Ok(true);
    }
    puppet.perform(Order::LiftLimits)?;
    let after = puppet.count(&Order::CountOpenFiles)?;
    ensure!(after == before, "{} descriptors leaked", after - before);
    puppet.attach().context("with all descriptors back")?;
    Ok(false)
}

fn run_out_when_attached(stage: &Stage, times: &mut Times) -> Result<()> {
    let mut puppet = stage.puppet()?;
    puppet.perform(Order::LimitOpenFiles { more: 0 })?;
    let queue = "other".to_owned();
    let settings = stage::settings();
    let refusal = puppet.refused(&Order::Create { queue, settings })?;
    ensure!(says_so(&refusal), "another error: {refusal}");
    do_everything(stage, &mut puppet, times)
}

/// Sends, receives, waits for a time, and notices a death.
fn do_everything(stage: &Stage, puppet: &mut Puppet, times: &mut Times) -> Result<()> {
    puppet.send(1..2, INLINE)?;
    puppet.hold(1, 1)?;
    puppet.perform(Order::NackAfter { delay_ms: 5 })?;
    puppet
        .perform(Order::Receive {
            wait_ms: Some(5_000),
        })
        .context("a delayed message")?;
    puppet.ack()?;

    puppet.send(1..2, INLINE)?;
    let mut victim = stage.puppet()?;
    victim.hold(1, 1)?;
    puppet.tell_and_block(&Order::RECEIVE)?;
    let killed_at = Instant::now();
    victim.strike()?;
    puppet.hear_delivery(1, 2)?;
    times.note("a redelivery", killed_at.elapsed())?;
    puppet.ack()
}

/// Returns whether the error is the system's EMFILE and says what was tried.
fn says_so(error: &str) -> bool {
    error.contains("code: 24") || error.contains("EMFILE")
}
