//! A full queue blocks until the deadline or refuses, and hands the message back.
//!
//! First places run out, then payload memory. A blocked sender continues when there is room, and a
//! slow receiver loses nothing.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ipc_proto::QueueSettings;
use ipc_queue::transport::OpenMode;
use ipc_queue::{Queue, TrySendError};
use serde_json::json;

use super::order::Order;
use super::stage::{self, CHUNKED, INLINE, PROMPT, Stage, Times};
use super::{Outcome, numbered};

const CAPACITY: u32 = 4;
const DEADLINE: Duration = Duration::from_millis(50);
const MESSAGES: u64 = 2_000;

pub fn play(stage: &Stage) -> Result<Outcome> {
    the_message_comes_back()?;
    memory_runs_out(stage)?;
    let times = a_slow_receiver_gets_everything(stage)?;
    Outcome::kept(json!({ "messages": MESSAGES, "unblocked_ms": times.figures() }))
}

fn the_message_comes_back() -> Result<()> {
    let address = stage::address("texts");
    let queue: Queue<String> = stage::options(OpenMode::Create)
        .capacity(CAPACITY)
        .open(&address)?;
    let sender = queue.sender();
    for number in 0..CAPACITY {
        sender.try_send(number.to_string())?;
    }
    let refused = sender.try_send("too many".to_owned()).unwrap_err();
    let full = matches!(
        refused,
        TrySendError::Full {
            capacity: CAPACITY,
            dead: 0,
            ..
        }
    );
    ensure!(full, "{refused:?}");
    let returned = refused.into_inner();
    ensure!(returned == "too many", "got back {returned:?}");

    let started = Instant::now();
    let late = sender
        .send_timeout("too late".to_owned(), DEADLINE)
        .unwrap_err();
    let waited = started.elapsed();
    ensure!(late.is_timeout(), "{late:?}");
    let returned = late.into_inner();
    ensure!(returned == "too late", "got back {returned:?}");
    ensure!((DEADLINE..PROMPT).contains(&waited), "waited {waited:?}");

    // A held message counts until it is settled.
    let receiver = queue.receiver();
    let held = receiver.try_recv()?;
    ensure!(
        sender.try_send("still full".to_owned()).is_err(),
        "not full"
    );
    held.ack()?;
    sender.try_send("room".to_owned())?;
    drop((sender, receiver, queue));
    ipc_queue::remove(&address)?;
    Ok(())
}

fn memory_runs_out(stage: &Stage) -> Result<()> {
    let queue = stage::create(&QueueSettings {
        pool_bytes: 3 * 2048,
        ..stage::settings()
    })?;
    stage::send(&queue, 0..3, CHUNKED)?;
    let refused = queue.sender().try_send(&numbered::message(3, CHUNKED));
    let bytes = CHUNKED as u64;
    ensure!(
        matches!(refused, Err(TrySendError::NoMemory { bytes: b, .. }) if b == bytes),
        "{refused:?}"
    );
    // A message without a chunk still goes.
    stage::send(&queue, [3], INLINE)?;
    ensure!(stage::drain(&queue)? == [0, 1, 2, 3], "other messages");
    drop(queue);
    stage.check_nothing_left()
}

fn a_slow_receiver_gets_everything(stage: &Stage) -> Result<Times> {
    let queue = stage::create(&QueueSettings {
        capacity: CAPACITY,
        ..stage::settings()
    })?;
    let mut sender = stage.puppet()?;
    let mut times = Times::default();
    for number in 0..10 {
        sender.send(0..CAPACITY.into(), INLINE)?;
        sender.tell_and_block(&Order::send(number..number + 1, INLINE))?;
        let started = Instant::now();
        stage::take(&queue)?;
        sender.hear()?;
        times.note("a blocked sender", started.elapsed())?;
        stage::drain(&queue)?;
    }
    sender.tell(&Order::send(0..MESSAGES, INLINE))?;
    for number in 0..MESSAGES {
        stage::take_this(&queue, number, 1)?;
        if number % 100 == 0 {
            // The slowest receiver: the sender has filled the queue before it continues.
            let full = |stats: &ipc_queue::QueueStats| stats.ready == u64::from(CAPACITY);
            stage::until_stats(&queue, "the queue is full", full)?;
        }
    }
    sender.hear()?;
    stage::until_free(&queue, 2)?;
    Ok(times)
}
