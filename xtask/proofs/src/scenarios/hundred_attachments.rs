//! One process too many gets an error, and the slots of the killed are free at once.
//!
//! As many processes as there are slots, each with a message, are killed all together. Then as many
//! attach again. No other process is attached.

use std::time::Instant;

use anyhow::{Result, ensure};
use ipc_proto::QueueSettings;
use serde_json::json;

use super::Outcome;
use super::order::Order;
use super::puppeteer::Puppet;
use super::stage::{self, CHUNKED, Stage, Times};

const SLOTS: u16 = 64;

pub fn play(stage: &Stage) -> Result<Outcome> {
    drop(stage::create(&QueueSettings {
        capacity: SLOTS.into(),
        pool_bytes: 2048 * u64::from(SLOTS),
        max_participants: SLOTS,
        ..stage::settings()
    })?);
    let mut all = everybody(stage)?;
    let mut one_more = stage.stranger()?;
    let queue = stage::JOBS.to_owned();
    let refusal = one_more.refused(&Order::Attach { queue })?;
    let told = format!("Full {{ slots: {SLOTS}");
    ensure!(refusal.contains(&told), "another error: {refusal}");

    all[0].send(0..SLOTS.into(), CHUNKED)?;
    for (number, puppet) in (0..).zip(&mut all) {
        puppet.hold(number, 1)?;
    }
    // All are stopped first, so that none of them recovers another.
    all.iter_mut().try_for_each(Puppet::freeze)?;
    all.iter_mut().try_for_each(Puppet::strike)?;
    for puppet in &mut all {
        puppet.bury()?;
    }
    let mut times = Times::default();
    let started = Instant::now();
    one_more.attach()?;
    times.note("attaching after all were killed", started.elapsed())?;
    one_more.dismiss()?;
    let mut again = everybody(stage)?;
    again[0].consume(0..SLOTS.into())?;
    Outcome::kept(
        json!({ "processes": 2 * SLOTS + 1, "kills": SLOTS, "recovery_ms": times.figures() }),
    )
}

fn everybody(stage: &Stage) -> Result<Vec<Puppet>> {
    (0..SLOTS).map(|_| stage.puppet()).collect()
}
