//! One-way work: senders fill messages and receivers sum them, as fast as they can.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use crate::clock::{Pacer, now_ns};
use crate::part::Outcome;
use crate::payload;
use crate::stage::Stage;
use crate::subject::{Receiver, Sender};
use crate::work::Times;

/// The other parts at work.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    pub senders: usize,
    pub receivers: usize,
    pub index: usize,
}

/// Sends until the time is over. The last sender to end stops every receiver.
pub fn send<S: Sender>(
    sender: &mut S,
    crowd: Crowd,
    batch: usize,
    bytes: usize,
    times: Times,
    stage: &Stage,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut number = (crowd.index as u64) << 48;
    let mut fill = |memory: &mut [u8]| {
        outcome.sent.add(payload::fill(memory, number));
        number += 1;
    };
    send_for(
        &mut Pacer::new(times.warm_up),
        sender,
        batch,
        bytes,
        &mut fill,
    )?;
    let began_ns = now_ns();
    let before = send_for(
        &mut Pacer::new(times.measured),
        sender,
        batch,
        bytes,
        &mut fill,
    )?;
    outcome.measured = before;
    outcome.began_ns = began_ns;
    if stage.sender_done(outcome.sent.messages) == crowd.senders as u64 {
        stage.await_all_received();
        for _ in 0..crowd.receivers {
            sender.send(1, bytes, &mut payload::fill_stop)?;
        }
    }
    Ok(outcome)
}

/// Returns the number of messages sent.
fn send_for<S: Sender>(
    pacer: &mut Pacer,
    sender: &mut S,
    batch: usize,
    bytes: usize,
    fill: &mut impl FnMut(&mut [u8]),
) -> Result<u64> {
    let mut sent = 0;
    loop {
        let burst = pacer.burst();
        if burst == 0 {
            return Ok(sent);
        }
        for _ in 0..burst {
            sender.send(batch, bytes, fill)?;
        }
        sent += u64::from(burst) * batch as u64;
    }
}

/// Receives until the stop message arrives.
pub fn receive<R: Receiver>(receiver: &mut R, count: &AtomicU64) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut stopped = false;
    while !stopped {
        receiver.receive(&mut |memory| {
            if payload::is_stop(memory) {
                stopped = true;
            } else {
                outcome.received.add(payload::sum(memory));
                count.store(outcome.received.messages, Ordering::Relaxed);
            }
        })?;
    }
    Ok(outcome.ended())
}
