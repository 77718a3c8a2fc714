//! A dead process is not taken for alive because another process has its number.
//!
//! The scenario runs in a PID namespace of its own, where the next number can be chosen. The dead
//! process forked before it died, so its locks live on: only the start time distinguishes the two.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::Outcome;
use super::isolation::{self, Own};
use super::order::Order;
use super::puppet::CHILDS;
use super::puppeteer::Puppet;
use super::stage::{self, CHUNKED, Stage, Times};

/// Longer than the kernel's unit of start times.
const TICK: Duration = Duration::from_millis(20);

pub fn play(stage: &Stage) -> Result<Outcome> {
    if let Err(reason) = isolation::take(Own::Pids)? {
        return Outcome::skipped(reason);
    }
    // The first one: the others live as long as it does.
    let mut first = match stage.inmate() {
        Ok(first) => first,
        Err(error) => return Outcome::skipped(format!("no /proc of its own here: {error:#}")),
    };
    let (pid, started) = (1000, Instant::now());
    first.tell(&Order::SetLastPid { pid })?;
    if let Err(error) = first.hear_outcome()? {
        return Outcome::skipped(format!("process numbers can't be chosen here: {error}"));
    }
    drop(stage::create(&stage::settings())?);
    let mut holder = attached_inmate(stage)?;
    let number = holder.own_pid;
    for number in 0..2 {
        holder.send(number..number + 1, CHUNKED)?;
        holder.hold(number, 1)?;
    }
    holder.lend(2, CHUNKED)?;
    holder.perform(Order::Fork)?;
    first.attach()?;
    first.hold(CHILDS, 1)?;
    first.ack()?;
    first.perform(Order::Detach)?;
    stage::until("the clock has ticked", || Ok(started.elapsed() > TICK))?;
    holder.strike()?;
    holder.reap()?;

    first.perform(Order::SetLastPid { pid: number - 1 })?;
    let mut namesake = stage.inmate()?;
    ensure!(namesake.own_pid == number, "it got {}", namesake.own_pid);
    let mut times = Times::default();
    let attached_at = Instant::now();
    let mut survivor = attached_inmate(stage)?;
    survivor.consume(0..2)?;
    times.note("a redelivery", attached_at.elapsed())?;
    // The process with the same number is an ordinary process.
    namesake.attach()?;
    namesake.send(3..4, CHUNKED)?;
    survivor.consume(3..4)?;
    survivor.await_free(2)?;
    Outcome::kept(json!({ "pid": number, "recovery_ms": times.figures() }))
}

fn attached_inmate(stage: &Stage) -> Result<Puppet> {
    let mut inmate = stage.inmate()?;
    inmate.attach()?;
    Ok(inmate)
}
