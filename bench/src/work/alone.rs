//! Sends and receives in turns, in one thread: no other core, no waiting.

use anyhow::Result;

use crate::clock::{Pacer, now_ns};
use crate::part::Outcome;
use crate::payload;
use crate::subject::{Receiver, Sender};
use crate::work::Times;

pub fn alternate<S: Sender, R: Receiver>(
    sender: &mut S,
    receiver: &mut R,
    batch: usize,
    bytes: usize,
    times: Times,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for time in [times.warm_up, times.measured] {
        let mut pacer = Pacer::new(time);
        outcome.measured = outcome.sent.messages;
        outcome.began_ns = now_ns();
        loop {
            let burst = pacer.burst();
            if burst == 0 {
                break;
            }
            for _ in 0..burst {
                take_turns(sender, receiver, batch, bytes, &mut outcome)?;
            }
        }
    }
    outcome.measured = outcome.sent.messages - outcome.measured;
    Ok(outcome.ended())
}

fn take_turns<S: Sender, R: Receiver>(
    sender: &mut S,
    receiver: &mut R,
    batch: usize,
    bytes: usize,
    outcome: &mut Outcome,
) -> Result<()> {
    let Outcome { sent, received, .. } = outcome;
    sender.send(batch, bytes, &mut |memory| {
        let number = sent.messages;
        sent.add(payload::fill(memory, number));
    })?;
    while received.messages < sent.messages {
        receiver.receive(&mut |memory| received.add(payload::sum(memory)))?;
    }
    Ok(())
}
