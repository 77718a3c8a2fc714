//! A process that is blocked in a queue wakes when the queue is removed, and gets the error.
//!
//! What it still holds stays valid, and the name can be used again at once.

use std::time::Instant;

use anyhow::{Result, ensure};
use ipc_proto::QueueSettings;
use serde_json::json;

use super::Outcome;
use super::order::Order;
use super::puppeteer::Puppet;
use super::stage::{self, CHUNKED, INLINE, Stage, Times};

const SEND: Order = Order::send(9..10, INLINE);

pub fn play(stage: &Stage) -> Result<Outcome> {
    let mut times = Times::default();
    let settings = QueueSettings {
        capacity: 2,
        ..stage::settings()
    };

    drop(stage::create(&settings)?);
    let mut receivers = [stage.puppet()?, stage.puppet()?];
    for receiver in &mut receivers {
        receiver.tell_and_block(&Order::RECEIVE)?;
    }
    remove_under(&mut receivers, &mut times)?;

    let queue = stage::create(&settings)?;
    let (mut holder, mut lender) = (stage.puppet()?, stage.puppet()?);
    stage::send(&queue, [1], CHUNKED)?;
    holder.hold(1, 1)?;
    lender.lend(2, CHUNKED)?;
    let mut senders = [stage.puppet()?, stage.puppet()?];
    for sender in &mut senders {
        sender.tell_and_block(&SEND)?;
    }
    remove_under(&mut senders, &mut times)?;

    let new = stage::create(&settings)?;
    holder.perform(Order::Check)?;
    // It does not matter whether these two succeed; they must return.
    for (puppet, order) in [(&mut holder, Order::Ack), (&mut lender, Order::Publish)] {
        puppet.tell(&order)?;
        let _ = puppet.hear_outcome()?;
    }
    ensure!(
        holder.refused(&SEND)?.contains("Removed"),
        "an old handle sends"
    );
    stage::send(&new, [3], INLINE)?;
    stage::take_this(&new, 3, 1)?;
    stage::until_free(&new, 1)?;
    Outcome::kept(json!({ "woken_ms": times.figures() }))
}

/// Removes the queue. All of these wake and get the error.
fn remove_under(blocked: &mut [Puppet], times: &mut Times) -> Result<()> {
    let removed_at = Instant::now();
    ensure!(
        ipc_queue::remove(stage::address(stage::JOBS))?,
        "there was no queue"
    );
    for puppet in blocked {
        ensure!(
            puppet.hear_refusal()?.contains("Removed"),
            "it was not told"
        );
        times.note("waking", removed_at.elapsed())?;
    }
    Ok(())
}
