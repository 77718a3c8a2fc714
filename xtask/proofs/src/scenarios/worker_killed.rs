//! A killed worker's message is redelivered, at once to a worker that waits for it.
//!
//! A worker takes a message and is killed while another is asleep in `recv`, again and again.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use super::Outcome;
use super::order::Order;
use super::stage::{self, CHUNKED, INLINE, Stage, Times};

const KILLS: u64 = 20;

pub fn play(stage: &Stage) -> Result<Outcome> {
    let queue = stage::create(&stage::settings())?;
    let mut survivor = stage.puppet()?;
    let mut times = Times::default();
    for number in 0..KILLS {
        let bytes = [INLINE, CHUNKED][number as usize % 2];
        stage::send(&queue, [number], bytes)?;
        let mut victim = stage.puppet()?;
        victim.hold(number, 1)?;
        survivor.tell_and_block(&Order::RECEIVE)?;
        let killed_at = Instant::now();
        victim.strike()?;
        survivor.hear_delivery(number, 2)?;
        times.note("a redelivery", killed_at.elapsed())?;
        victim.bury()?;
        survivor.ack()?;
    }
    stage::until_free(&queue, 2)?;
    Outcome::kept(json!({ "kills": KILLS, "recovery_ms": times.figures() }))
}
