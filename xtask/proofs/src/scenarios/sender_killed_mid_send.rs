//! A killed sender leaves no half message, and no place or memory in use.
//!
//! First it is killed with a loan, in a queue that has room for one message only. Then it is killed
//! again and again in the middle of a loop of sends. Everything that it saw accepted is there,
//! whole and in order, and at most one more message.

use anyhow::{Result, ensure};
use ipc_proto::QueueSettings;
use serde_json::json;

use super::Outcome;
use super::order::Order;
use super::stage::{self, CHUNKED, INLINE, Stage};

const KILLS: u64 = 200;

pub fn play(stage: &Stage) -> Result<Outcome> {
    holding_a_loan(stage, INLINE)?;
    holding_a_loan(stage, CHUNKED)?;
    let messages = in_a_loop(stage)?;
    Outcome::kept(json!({ "kills": KILLS + 2, "messages": messages }))
}

fn holding_a_loan(stage: &Stage, bytes: usize) -> Result<()> {
    let queue = stage::create(&QueueSettings {
        capacity: 1,
        pool_bytes: 2048,
        ..stage::settings()
    })?;
    let mut victim = stage.puppet()?;
    victim.lend(1, bytes)?;
    let stats = queue.transport().stats()?;
    ensure!(stats.writing == 1, "no loan: {stats:?}");
    let mut survivor = stage.puppet()?;
    survivor.tell_and_block(&Order::send(2..3, bytes))?;
    victim.kill()?;
    survivor.hear()?;
    stage::take_this(&queue, 2, 1)?;
    stage::until_free(&queue, 2)?;
    drop((queue, survivor));
    stage.check_nothing_left()
}

fn in_a_loop(stage: &Stage) -> Result<u64> {
    let queue = stage::create(&QueueSettings {
        capacity: 16,
        ..stage::settings()
    })?;
    let mut messages = 0;
    for round in 0..KILLS {
        let first = round << 32;
        let mut victim = stage.puppet()?;
        victim.tell(&Order::SendForever {
            first,
            sizes: vec![INLINE, CHUNKED],
        })?;
        let mut got = Vec::new();
        for _ in 0..fastrand::u32(1..40) {
            got.push(stage::take(&queue)?.0);
        }
        let accepted = victim.kill()?.len() as u64;
        stage::until_stats(&queue, "the sender is gone", |stats| {
            stats.participants == 1 && stats.writing == 0
        })?;
        got.extend(stage::drain(&queue)?);
        let in_order = got.iter().copied().eq(first..first + got.len() as u64);
        ensure!(in_order, "sent from {first}, got {got:?}");
        let count = got.len() as u64;
        let complete = count == accepted || count == accepted + 1;
        ensure!(complete, "{accepted} were accepted, {count} came");
        stage::until_free(&queue, 1)?;
        messages += count;
    }
    Ok(messages)
}
