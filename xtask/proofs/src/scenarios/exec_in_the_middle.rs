//! A process that becomes another program counts as gone, and may attach again.
//!
//! Its number and start time stay the same, and it does not end: only the kernel's lock shows it.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::json;

use super::Outcome;
use super::order::Order;
use super::stage::{self, CHUNKED, INLINE, Stage, Times};

const TIMES: u64 = 3;

pub fn play(stage: &Stage) -> Result<Outcome> {
    let queue = stage::create(&stage::settings())?;
    let mut survivor = stage.puppet()?;
    let mut changing = stage.puppet()?;
    let pid = changing.own_pid;
    let mut times = Times::default();
    for number in 0..TIMES {
        stage::send(&queue, [number], CHUNKED)?;
        changing.hold(number, 1)?;
        changing.lend(100, CHUNKED)?;
        survivor.tell_and_block(&Order::RECEIVE)?;
        let started = Instant::now();
        changing.tell(&Order::Exec)?;
        changing.await_ready()?;
        ensure!(changing.own_pid == pid, "it is another process");
        survivor.hear_delivery(number, 2)?;
        times.note("a redelivery", started.elapsed())?;
        survivor.ack()?;
        stage::until_free(&queue, 2)?;

        changing.attach()?;
        changing.send(200..201, INLINE)?;
        stage::take_this(&queue, 200, 1)?;
    }
    ensure!(changing.dismiss()?.success(), "it ended badly");
    stage::until_free(&queue, 2)?;
    Outcome::kept(json!({ "times": TIMES, "recovery_ms": times.figures() }))
}
