//! Round trips: one side asks, the other answers.
//!
//! Awake, a trip is timed from before the question to after the answer. Eight trips are timed
//! together, because reading the clock takes a good part of one. Asleep, each side first waits
//! until the other must be asleep. The trip is then the sum of its two ways, each from before the
//! send to after the receive; the waits do not count.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::clock::now_ns;
use crate::part::Outcome;
use crate::payload;
use crate::statistics::median;
use crate::subject::{Receiver, Sender};
use crate::work::{Manner, SMALL, Times};

const TRIPS: u32 = 8;
/// The time after which every handle that tries for a while before sleeping is asleep.
const UNTIL_ASLEEP: Duration = Duration::from_micros(250);
/// The words of a message with its time of sending, and with the duration of the way of the message
/// that it answers.
const SENT_AT: usize = 1;
const WAY: usize = 2;

/// Asks until the time is over.
pub fn ask<S: Sender, R: Receiver>(
    sender: &mut S,
    receiver: &mut R,
    manner: Manner,
    times: Times,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut trips = Vec::new();
    for time in [times.warm_up, times.measured] {
        trips.clear();
        outcome.measured = outcome.sent.messages;
        outcome.began_ns = now_ns();
        let end = outcome.began_ns + u64::try_from(time.as_nanos())?;
        while now_ns() < end {
            trips.push(match manner {
                Manner::Spinning | Manner::Blocking => awake(sender, receiver, &mut outcome)?,
                Manner::Asleep => asleep(sender, receiver, &mut outcome)?,
            });
        }
    }
    outcome.measured = outcome.sent.messages - outcome.measured;
    outcome.trip_ns = Some(median(&mut trips));
    sender.send(1, SMALL, &mut payload::fill_stop)?;
    Ok(outcome.ended())
}

/// Answers until the stop message arrives.
pub fn answer<S: Sender, R: Receiver>(
    sender: &mut S,
    receiver: &mut R,
    manner: Manner,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    loop {
        let question = receive(receiver, &mut outcome)?;
        if question.is_stop {
            return Ok(outcome);
        }
        match manner {
            Manner::Spinning | Manner::Blocking => send(sender, &mut outcome)?,
            Manner::Asleep => send_asleep(sender, question.took(), &mut outcome)?,
        }
    }
}

fn awake<S: Sender, R: Receiver>(
    sender: &mut S,
    receiver: &mut R,
    outcome: &mut Outcome,
) -> Result<f64> {
    let before = now_ns();
    for _ in 0..TRIPS {
        send(sender, outcome)?;
        receive(receiver, outcome)?;
    }
    Ok((now_ns() - before) as f64 / f64::from(TRIPS))
}

fn asleep<S: Sender, R: Receiver>(
    sender: &mut S,
    receiver: &mut R,
    outcome: &mut Outcome,
) -> Result<f64> {
    send_asleep(sender, 0, outcome)?;
    let answer = receive(receiver, outcome)?;
    Ok((answer.way_ns + answer.took()) as f64)
}

fn send<S: Sender>(sender: &mut S, outcome: &mut Outcome) -> Result<()> {
    let sent = &mut outcome.sent;
    sender.send(1, SMALL, &mut |memory| {
        sent.add(payload::fill(memory, sent.messages));
    })
}

/// Sends when the other side is asleep.
fn send_asleep<S: Sender>(sender: &mut S, way_ns: u64, outcome: &mut Outcome) -> Result<()> {
    thread::sleep(UNTIL_ASLEEP);
    let sent = &mut outcome.sent;
    sender.send(1, SMALL, &mut |memory| {
        let mut sum = payload::fill(memory, sent.messages);
        sum = sum.wrapping_add(payload::set_word(memory, WAY, way_ns));
        sum = sum.wrapping_add(payload::set_word(memory, SENT_AT, now_ns()));
        sent.add(sum);
    })
}

/// The contents of a received message.
struct Received {
    is_stop: bool,
    sent_at_ns: u64,
    way_ns: u64,
}

impl Received {
    /// Returns the duration of its way, if it ends now.
    fn took(&self) -> u64 {
        now_ns().saturating_sub(self.sent_at_ns)
    }
}

fn receive<R: Receiver>(receiver: &mut R, outcome: &mut Outcome) -> Result<Received> {
    let mut received = Received {
        is_stop: false,
        sent_at_ns: 0,
        way_ns: 0,
    };
    receiver.receive(&mut |memory| {
        if payload::is_stop(memory) {
            received.is_stop = true;
            return;
        }
        outcome.received.add(payload::sum(memory));
        received.sent_at_ns = payload::word(memory, SENT_AT);
        received.way_ns = payload::word(memory, WAY);
    })?;
    Ok(received)
}
