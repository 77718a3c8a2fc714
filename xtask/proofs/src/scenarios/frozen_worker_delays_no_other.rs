//! Processes stopped at any point cost the others nothing.
//!
//! First one process is stopped with a message and one with a loan. Then two processes are stopped
//! in the middle of their loops, at any instruction, again and again.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Result, ensure};
use ipc_proto::QueueSettings;
use ipc_queue::ByteQueue;
use serde_json::json;

use super::Outcome;
use super::order::Order;
use super::stage::{self, CHUNKED, INLINE, Stage, Times};

const MESSAGES: u64 = 500;
const STOPS: u64 = 50;
/// The first number of this process's messages, beside those of looping children.
const OURS: u64 = 1 << 40;

pub fn play(stage: &Stage) -> Result<Outcome> {
    let queue = stage::create(&QueueSettings {
        capacity: 32,
        ..stage::settings()
    })?;
    let mut times = Times::default();
    with_their_hands_full(stage, &queue, &mut times)?;
    anywhere(stage, &queue, &mut times)?;
    stage::until_free(&queue, 1)?;
    Outcome::kept(
        json!({ "stops": STOPS + 2, "messages": MESSAGES + STOPS, "message_ms": times.figures() }),
    )
}

fn with_their_hands_full(stage: &Stage, queue: &ByteQueue, times: &mut Times) -> Result<()> {
    let (mut holder, mut sender) = (stage.puppet()?, stage.puppet()?);
    stage::send(queue, [1], CHUNKED)?;
    holder.hold(1, 1)?;
    sender.lend(2, CHUNKED)?;
    holder.freeze()?;
    sender.freeze()?;
    for number in OURS..OURS + MESSAGES {
        let started = Instant::now();
        stage::send(queue, [number], [INLINE, CHUNKED][number as usize % 2])?;
        stage::take_this(queue, number, 1)?;
        times.note("one message", started.elapsed())?;
    }
    holder.thaw()?;
    sender.thaw()?;
    holder.ack()?;
    sender.perform(Order::Publish)?;
    stage::take_this(queue, 2, 1)?;
    Ok(())
}

fn anywhere(stage: &Stage, queue: &ByteQueue, times: &mut Times) -> Result<()> {
    let (mut worker, mut sender) = (stage.puppet()?, stage.puppet()?);
    worker.tell(&Order::WorkForever)?;
    sender.tell(&Order::SendForever {
        first: 0,
        sizes: vec![INLINE, CHUNKED],
    })?;
    for number in OURS..OURS + STOPS {
        for _ in 0..fastrand::u32(2..50) {
            worker.hear()?;
            sender.hear()?;
        }
        worker.freeze()?;
        sender.freeze()?;
        let started = Instant::now();
        // The stopped processes are never in the way; the messages that they sent before come
        // first.
        stage::drain(queue)?;
        stage::send(queue, [number], INLINE)?;
        ensure!(stage::drain(queue)?.contains(&number), "ours did not come");
        times.note("one message", started.elapsed())?;
        worker.thaw()?;
        sender.thaw()?;
    }
    sender.kill()?;
    worker.kill()?;
    let left = stage::until_stats(queue, "both are gone", |stats| stats.participants == 1);
    left?;
    let left: BTreeSet<u64> = stage::drain(queue)?.into_iter().collect();
    ensure!(left.iter().all(|number| *number < OURS), "ours came twice");
    Ok(())
}
