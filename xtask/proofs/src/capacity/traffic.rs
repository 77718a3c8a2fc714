//! The throughput of queues at a place: streams, sending and receiving apart, single messages at
//! low load, round trips.

use anyhow::Result;

use super::figures::Figures;
use super::hand::{Account, Hand, Manner, Role, Task};
use super::place::{Place, Spot};

/// The number of senders and receivers, and the size of their messages.
#[derive(Clone, Copy, Debug)]
pub struct Crew {
    pub senders: usize,
    pub receivers: usize,
    pub bytes: usize,
}

const FOR_MS: u64 = 700;
/// Low load: the next message comes long after the last one was settled.
const PAUSE_US: u64 = 5000;

/// Sends and receives at the same time.
pub fn stream(place: &Place, crew: Crew, figures: &mut Figures) -> Result<()> {
    let Crew {
        senders,
        receivers,
        bytes,
    } = crew;
    let spot = place.queue()?;
    let mut hands = hire(receivers, &task(Role::Receive, &spot, bytes))?;
    hands.extend(hire(senders, &task(Role::Send, &spot, bytes))?);
    let (mut accounts, servers) = play(&spot, hands)?;
    let clients = cpu(&accounts);
    accounts.truncate(receivers);
    let what = format!("{senders}→{receivers}, {bytes} B");
    figures.add(place, &what, "messages/s", rate(&accounts));
    figures.add(
        place,
        &what,
        "CPU s per million, clients",
        million(clients, &accounts),
    );
    if place.has_servers() {
        figures.add(
            place,
            &what,
            "CPU s per million, servers",
            million(servers, &accounts),
        );
    }
    Ok(())
}

/// Sends and receives at the same time, in a manner that saves waits.
pub fn saving(place: &Place, manner: Manner, figures: &mut Figures) -> Result<()> {
    let spot = place.queue()?;
    let in_manner = |role| Task {
        manner,
        ..task(role, &spot, 64)
    };
    let hands = vec![
        Hand::start(&in_manner(Role::Receive))?,
        Hand::start(&in_manner(Role::Send))?,
    ];
    let (mut accounts, _) = play(&spot, hands)?;
    accounts.truncate(1);
    let how = match manner {
        Manner::Single => "",
        Manner::InFlight => ", acks in flight",
        Manner::Batches => ", batches of 32",
    };
    let what = format!("1→1, 64 B{how}");
    figures.add(place, &what, "messages/s", rate(&accounts));
    Ok(())
}

/// One sender of batches, and receivers that compete for its messages.
pub fn receivers(place: &Place, count: usize, figures: &mut Figures) -> Result<()> {
    let spot = place.queue()?;
    let longer = |role| Task {
        for_ms: 3 * FOR_MS,
        ..task(role, &spot, 64)
    };
    let mut hands = hire(count, &longer(Role::Receive))?;
    hands.push(Hand::start(&Task {
        manner: Manner::Batches,
        ..longer(Role::Send)
    })?);
    let (mut accounts, _) = play(&spot, hands)?;
    accounts.truncate(count);
    let what = format!("1→{count}, 64 B");
    figures.add(place, &what, "messages/s", rate(&accounts));
    let messages = || accounts.iter().map(|account| account.messages);
    let fair = messages().sum::<u64>() as f64 / count as f64;
    for (share, unit) in [
        (messages().min(), "% of a fair share, least"),
        (messages().max(), "% of a fair share, most"),
    ] {
        let percent = 100.0 * share.unwrap_or(0) as f64 / fair;
        figures.add(place, &what, unit, percent);
    }
    Ok(())
}

/// Sends without receivers, then receives everything.
pub fn apart(place: &Place, crew: Crew, figures: &mut Figures) -> Result<()> {
    let spot = place.queue()?;
    let parts = [
        (Role::Send, crew.senders, "send"),
        (Role::Receive, crew.receivers, "receive and ack"),
    ];
    for (role, count, what) in parts {
        let what = format!("{count} {what}, {} B", crew.bytes);
        let (accounts, _) = play(&spot, hire(count, &task(role, &spot, crew.bytes))?)?;
        figures.add(place, &what, "messages/s", rate(&accounts));
    }
    Ok(())
}

/// One message now and then.
pub fn single(place: &Place, figures: &mut Figures) -> Result<()> {
    let spot = place.queue()?;
    let timed = |role| Task {
        pause_us: PAUSE_US,
        ..task(role, &spot, 64)
    };
    let hands = vec![
        Hand::start(&timed(Role::Receive))?,
        Hand::start(&timed(Role::Send))?,
    ];
    let (accounts, _) = play(&spot, hands)?;
    for (what, account) in ["from send to receiver", "send"].iter().zip(&accounts) {
        let what = format!("one at a time, {what}");
        figures.add_times(place, &what, account);
    }
    Ok(())
}

/// A question and its answer, one after the other.
pub fn round_trip(place: &Place, figures: &mut Figures) -> Result<()> {
    let (there, back) = (place.queue()?, place.queue()?);
    let talk = |role| Task {
        other: back.address.clone(),
        ..task(role, &there, 64)
    };
    let hands = vec![
        Hand::start(&talk(Role::Answer))?,
        Hand::start(&talk(Role::Ask))?,
    ];
    let (accounts, _) = play(&there, hands)?;
    figures.add_times(place, "round trip, 64 B", &accounts[1]);
    Ok(())
}

fn task(role: Role, spot: &Spot, bytes: usize) -> Task {
    Task {
        role,
        address: spot.address.clone(),
        other: String::new(),
        bytes,
        for_ms: FOR_MS,
        manner: Manner::Single,
        pause_us: 0,
    }
}

fn hire(count: usize, task: &Task) -> Result<Vec<Hand>> {
    (0..count).map(|_| Hand::start(task)).collect()
}

/// Starts all children, and waits for them. Returns their reports, and the servers' processor time.
fn play(spot: &Spot, mut hands: Vec<Hand>) -> Result<(Vec<Account>, f64)> {
    let before = spot.cpu()?;
    for hand in &mut hands {
        hand.go()?;
    }
    let accounts = hands.into_iter().map(Hand::account);
    let accounts = accounts.collect::<Result<Vec<_>>>()?;
    Ok((accounts, spot.cpu()? - before))
}

fn rate(accounts: &[Account]) -> f64 {
    let each = accounts.iter().filter(|account| account.messages > 0);
    each.map(|account| account.messages as f64 / account.seconds)
        .sum()
}

fn cpu(accounts: &[Account]) -> f64 {
    accounts.iter().map(|account| account.cpu_seconds).sum()
}

fn million(cpu_seconds: f64, accounts: &[Account]) -> f64 {
    let messages: u64 = accounts.iter().map(|account| account.messages).sum();
    cpu_seconds * 1e6 / messages as f64
}
