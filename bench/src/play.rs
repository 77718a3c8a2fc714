//! One side of a repetition: opens the ends of a subject, and does the work between two probes.

use std::path::Path;

use anyhow::{Result, anyhow};

use crate::clock::cpu_ns;
use crate::part::{BACK, Outcome, Part, THERE};
use crate::probe;
use crate::stage::Stage;
use crate::subject::{Patience, Place, Receiver, Sender, Subject};
use crate::switches::Switches;
use crate::work::{Manner, Placement, Role, Work, alone, one_way, round_trip};

/// Opens the ends, and does the work between two probes.
pub fn play<S: Subject>(subject: &S, part: &Part, folder: &Path, stage: &Stage) -> Result<Outcome> {
    let place = |queue| Place {
        folder: folder.to_owned(),
        queue,
        bytes: part.work.bytes(),
        capacity: part.work.capacity(),
    };
    if part.work.is_opening() {
        stage.meet(1);
        let place = place(THERE);
        return between_probes(part, stage, || match part.work {
            Work::Create => alone::create(subject, &place, part.times),
            Work::Open => alone::open(subject, &place, part.times),
            _ => alone::visit(subject, &place, part.times),
        });
    }
    let [there, back] = match part.role {
        Role::Server => [BACK, THERE],
        Role::Client => [THERE, BACK],
        Role::Sender | Role::Receiver | Role::Both => [THERE, THERE],
    };
    let receive = || match part.role {
        Role::Sender => Ok(None),
        _ => subject
            .receiver(&place(back), patience(part.work))
            .map(Some),
    };
    let send = || match part.role {
        Role::Receiver => Ok(None),
        _ => subject.sender(&place(there)).map(Some),
    };
    let (mut sender, mut receiver);
    if subject.senders_open_first() {
        sender = send()?;
        stage.meet(1);
        receiver = receive()?;
    } else {
        receiver = receive()?;
        stage.meet(1);
        sender = send()?;
    }
    between_probes(part, stage, || {
        act(
            subject.batch(&place(there)),
            part,
            stage,
            sender.as_mut(),
            receiver.as_mut(),
        )
    })
}

/// Probes, does the work when all parts are ready, and probes again.
pub fn between_probes(
    part: &Part,
    stage: &Stage,
    work: impl FnOnce() -> Result<Outcome>,
) -> Result<Outcome> {
    stage.meet(2);
    let before = probe(part, stage);
    stage.meet(3);
    let (before_work, cpu_before) = (Switches::until_now()?, cpu_ns());
    let mut outcome = work()?;
    outcome.switches = Switches::until_now()? - before_work;
    outcome.cpu_ns = cpu_ns() - cpu_before;
    stage.meet(4);
    let after = probe(part, stage);
    // No part drops its end while others may still use it.
    stage.meet(5);
    outcome.probes = before.zip(after).map(|(before, after)| [before, after]);
    Ok(outcome)
}

fn patience(work: Work) -> Patience {
    match work {
        Work::OneWay { .. }
        | Work::Shares { .. }
        | Work::Alone { .. }
        | Work::Visit
        | Work::Create
        | Work::Open => Patience::Stream,
        Work::RoundTrip {
            manner: Manner::Spinning,
        } => Patience::Spin,
        Work::RoundTrip { .. } => Patience::Block,
    }
}

fn act<S: Sender, R: Receiver>(
    batch: usize,
    part: &Part,
    stage: &Stage,
    sender: Option<&mut S>,
    receiver: Option<&mut R>,
) -> Result<Outcome> {
    let times = part.times;
    match (part.role, part.work, sender, receiver) {
        (
            Role::Sender,
            work @ (Work::OneWay {
                senders, receivers, ..
            }
            | Work::Shares { senders, receivers }),
            Some(sender),
            _,
        ) => {
            let crowd = one_way::Crowd {
                senders,
                receivers,
                index: part.index,
            };
            one_way::send(sender, crowd, batch, work.bytes(), times, stage)
        }
        (Role::Receiver, _, _, Some(receiver)) => {
            one_way::receive(receiver, stage.count_of(part.index))
        }
        (Role::Client, Work::RoundTrip { manner }, Some(sender), Some(receiver)) => {
            round_trip::ask(sender, receiver, manner, times)
        }
        (Role::Server, Work::RoundTrip { manner }, Some(sender), Some(receiver)) => {
            round_trip::answer(sender, receiver, manner)
        }
        (Role::Both, Work::Alone { bytes }, Some(sender), Some(receiver)) => {
            alone::alternate(sender, receiver, batch, bytes, times)
        }
        (role, work, ..) => Err(anyhow!("{role:?} has no part in {work}")),
    }
}

/// Probes the distance. The first part leads, the last one follows. There is no distance within a
/// core.
fn probe(part: &Part, stage: &Stage) -> Option<f64> {
    if part.count == 1 || part.placement == Placement::OneCore {
        return None;
    }
    if part.index == 0 {
        return Some(probe::lead(stage.probe_line()));
    }
    if part.index + 1 == part.count {
        probe::follow(stage.probe_line());
    }
    None
}
