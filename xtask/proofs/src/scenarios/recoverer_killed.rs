//! If processes are killed while they recover the dead, the last survivor gets everything.
//!
//! Several processes with many messages and loans are killed at once. Two that then recover them
//! are killed a little later, at random. The last one was stopped meanwhile, and must continue
//! where they died.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use ipc_proto::QueueSettings;
use serde_json::json;

use super::Outcome;
use super::order::Order;
use super::puppeteer::Puppet;
use super::stage::{self, INLINE, Stage, Times};

const ROUNDS: u64 = 100;
const VICTIMS: usize = 2;
const RECOVERERS: usize = 2;
/// The number that each victim holds: enough to make recovery take a while.
const MESSAGES: usize = 300;
const LOANS: usize = 8;

pub fn play(stage: &Stage) -> Result<Outcome> {
    let capacity = u32::try_from(VICTIMS * (MESSAGES + LOANS))?;
    drop(stage::create(&QueueSettings {
        capacity,
        ..stage::settings()
    })?);
    let mut survivor = stage.puppet()?;
    let mut times = Times::default();
    for round in 0..ROUNDS {
        let first = round * 1_000_000;
        let mut victims = victims(stage, first)?;
        let mut recoverers = [stage.puppet()?, stage.puppet()?];
        // Asleep in `recv` when it is stopped, so that its own watcher works as soon as it
        // continues.
        let count = VICTIMS * MESSAGES;
        survivor.tell_and_block(&Order::Consume { count })?;
        survivor.freeze()?;
        for victim in &mut victims {
            victim.strike()?;
        }
        for recoverer in &mut recoverers {
            // The sleep does not wait for a condition: the kill comes at a random moment of a
            // recovery.
            thread::sleep(Duration::from_micros(fastrand::u64(..2_500)));
            recoverer.strike()?;
        }
        let started = Instant::now();
        survivor.thaw()?;
        survivor.hear_consumed(first..first + count as u64)?;
        times.note("taking over", started.elapsed())?;
        survivor.await_free(1)?;
    }
    Outcome::kept(json!({
        "rounds": ROUNDS,
        "kills": ROUNDS * (VICTIMS + RECOVERERS) as u64,
        "messages": ROUNDS * (VICTIMS * MESSAGES) as u64,
        "recovery_ms": times.figures(),
    }))
}

/// Children that hold everything.
fn victims(stage: &Stage, first: u64) -> Result<Vec<Puppet>> {
    let mut victims = Vec::new();
    for nth in 0..VICTIMS {
        let mut victim = stage.puppet()?;
        let first = first + (nth * MESSAGES) as u64;
        victim.send(first..first + MESSAGES as u64, INLINE)?;
        victim.perform(Order::Hoard { count: MESSAGES })?;
        for _ in 0..LOANS {
            victim.lend(first, INLINE)?;
        }
        victims.push(victim);
    }
    Ok(victims)
}
