//! Work in one thread: no other core, no waiting. Sends and receives in turn, or creates, opens and
//! closes each time.

use anyhow::Result;

use crate::clock::{Pacer, now_ns};
use crate::part::Outcome;
use crate::payload;
use crate::statistics::median;
use crate::subject::{Patience, Place, Receiver, Sender, Subject};
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

/// Opens, sends, receives and closes until the time is over. The first round creates the queue that
/// the others find.
pub fn visit<S: Subject>(subject: &S, place: &Place, times: Times) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut visits = Vec::new();
    let end = now_ns() + u64::try_from((times.warm_up + times.measured).as_nanos())?;
    while now_ns() < end || visits.is_empty() {
        let Outcome { sent, received, .. } = &mut outcome;
        let number = sent.messages;
        let before = now_ns();
        subject.visit(
            place,
            &mut |memory| sent.add(payload::fill(memory, number)),
            &mut |memory| received.add(payload::sum(memory)),
        )?;
        visits.push((now_ns() - before) as f64);
    }
    outcome.trip_ns = Some(median(&mut visits));
    Ok(outcome.ended())
}

/// Creates queues until the time is over, each in a separate folder, and sends a message through
/// each.
pub fn create<S: Subject>(subject: &S, place: &Place, times: Times) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut took = Vec::new();
    let end = now_ns() + u64::try_from((times.warm_up + times.measured).as_nanos())?;
    while now_ns() < end || took.is_empty() {
        let place = Place {
            folder: place.folder.join(took.len().to_string()),
            ..place.clone()
        };
        std::fs::create_dir(&place.folder)?;
        let before = now_ns();
        let guard = subject.create(&place)?;
        let mut receiver = subject.receiver(&place, Patience::Block)?;
        let mut sender = subject.sender(&place)?;
        took.push((now_ns() - before) as f64);
        take_turns(&mut sender, &mut receiver, 1, place.bytes, &mut outcome)?;
        drop((sender, receiver, guard));
        subject.remove(&place)?;
    }
    outcome.trip_ns = Some(median(&mut took));
    Ok(outcome.ended())
}

/// Opens and closes one end until the time is over. Receives a message in between, which is not
/// timed.
pub fn open<S: Subject>(subject: &S, place: &Place, times: Times) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut took = Vec::new();
    let mut sender = subject.sender(place)?;
    let end = now_ns() + u64::try_from((times.warm_up + times.measured).as_nanos())?;
    while now_ns() < end || took.is_empty() {
        let before = now_ns();
        let mut receiver = subject.receiver(place, Patience::Block)?;
        let opened = now_ns();
        take_turns(&mut sender, &mut receiver, 1, place.bytes, &mut outcome)?;
        let closing = now_ns();
        drop(receiver);
        took.push((now_ns() - closing + opened - before) as f64);
    }
    outcome.trip_ns = Some(median(&mut took));
    Ok(outcome.ended())
}
