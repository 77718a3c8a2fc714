//! A closed queue is drained to the last message, even if its worker is killed.
//!
//! The waiters learn that it is closed only when everything is done.

use std::time::Instant;

use anyhow::{Result, ensure};
use ipc_proto::QueueSettings;
use ipc_queue::{RecvError, SendError, TryRecvError};
use serde_json::json;

use super::order::{Order, Reply};
use super::stage::{self, INLINE, Stage, Times};
use super::{Outcome, numbered};

const MESSAGES: u64 = 20;
const HELD: u64 = 3;

pub fn play(stage: &Stage) -> Result<Outcome> {
    let queue = stage::create(&QueueSettings {
        capacity: u32::try_from(MESSAGES)?,
        ..stage::settings()
    })?;
    stage::send(&queue, 0..MESSAGES, INLINE)?;
    let mut holders = [stage.puppet()?, stage.puppet()?, stage.puppet()?];
    for (number, holder) in (0..).zip(&mut holders) {
        holder.hold(number, 1)?;
    }
    let mut blocked = stage.puppet()?;
    blocked.tell_and_block(&Order::send(100..101, INLINE))?;
    queue.transport().close()?;
    ensure!(
        blocked.hear_refusal()?.contains("Closed"),
        "a blocked sender"
    );
    let refused = queue.sender().send(&numbered::message(100, INLINE));
    ensure!(
        refused.as_ref().is_err_and(SendError::is_closed),
        "sending: {refused:?}"
    );

    let mut worker = stage.puppet()?;
    worker.tell(&Order::WorkForever)?;
    for number in HELD..MESSAGES {
        ensure!(worker.hear()? == Reply::Settling(number), "not {number}");
        ensure!(worker.hear()? == Reply::Acked(number), "not {number}");
    }
    worker.wait_until_blocked()?;
    let [done, killed, last] = &mut holders;
    done.ack()?;
    let mut times = Times::default();
    let killed_at = Instant::now();
    killed.strike()?;
    ensure!(worker.hear()? == Reply::Settling(1), "not the killed one's");
    times.note("a redelivery", killed_at.elapsed())?;
    ensure!(worker.hear()? == Reply::Acked(1), "not acked");
    let early = queue.receiver().try_recv().map(drop);
    ensure!(
        early == Err(TryRecvError::Empty),
        "while one is held: {early:?}"
    );

    worker.wait_until_blocked()?;
    let acked_at = Instant::now();
    last.ack()?;
    ensure!(worker.hear_refusal()?.contains("Closed"), "it was not told");
    times.note("the end", acked_at.elapsed())?;
    let end = queue.receiver().recv().map(drop);
    ensure!(
        end.as_ref().is_err_and(RecvError::is_closed),
        "in the end: {end:?}"
    );
    Outcome::kept(json!({ "messages": MESSAGES, "kills": 1, "woken_ms": times.figures() }))
}
