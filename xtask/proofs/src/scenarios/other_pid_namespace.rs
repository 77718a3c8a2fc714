//! Deaths are noticed across PID namespaces, in both directions.
//!
//! Some children are in a PID namespace of their own, as in a container. Their `/proc` is their
//! own, or that of the first namespace, which does not know their numbers.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use super::Outcome;
use super::isolation::{self, Own};
use super::order::Order;
use super::puppeteer::Puppet;
use super::stage::{self, CHUNKED, Stage, Times};

pub fn play(stage: &Stage) -> Result<Outcome> {
    // A user other than root becomes root in a namespace by this, and so do all processes started
    // from now on.
    if let Err(reason) = isolation::take(Own::Mounts)? {
        return Outcome::skipped(reason);
    }
    let mut outside = stage.stranger()?;
    let mut outside_victim = stage.stranger()?;
    if let Err(reason) = isolation::take(Own::Pids)? {
        return Outcome::skipped(reason);
    }
    drop(stage::create(&stage::settings())?);
    // The first one: the others live as long as it does.
    let _first = match stage.inmate() {
        Ok(first) => first,
        Err(error) => return Outcome::skipped(format!("no /proc of its own here: {error:#}")),
    };
    outside.attach()?;
    let mut times = Times::default();
    for mut victim in [stage.inmate()?, stage.stranger()?] {
        victim.attach()?;
        notices(&mut outside, &mut victim, &mut times)?;
    }
    outside.perform(Order::Detach)?;

    outside_victim.attach()?;
    let mut inside = stage.inmate()?;
    inside.attach()?;
    notices(&mut inside, &mut outside_victim, &mut times)?;
    let mut victim = stage.puppet()?;
    notices(&mut inside, &mut victim, &mut times)?;
    inside.await_free(1)?;
    Outcome::kept(json!({ "kills": 4, "recovery_ms": times.figures() }))
}

/// The survivor gets the victim's message.
fn notices(survivor: &mut Puppet, victim: &mut Puppet, times: &mut Times) -> Result<()> {
    survivor.send(1..2, CHUNKED)?;
    victim.hold(1, 1)?;
    survivor.tell_and_block(&Order::RECEIVE)?;
    let killed_at = Instant::now();
    victim.strike()?;
    survivor.hear_delivery(1, 2)?;
    times.note("a redelivery", killed_at.elapsed())?;
    victim.bury()?;
    survivor.ack()
}
