//! `dlq`: messages that were given up.

use anyhow::{Context, Result, bail};
use comfy_table::Cell;
use ipc_queue::{DeadLetter, DeadLetterId, DeadReason};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::Ended;
use crate::address;
use crate::cli::Which;
use crate::show::{self, Show};

pub fn ls(queue: &str, show: Show) -> Result<Ended> {
    let letters = letters(queue)?;
    let rows: Vec<_> = letters.iter().map(value).collect();
    show.rows(&rows, || {
        let mut table = show::table(&[
            "letter",
            "sent",
            "why",
            "#attempts",
            "last held by",
            "payload",
        ]);
        for letter in &letters {
            table.add_row(vec![
                Cell::new(name(letter.id)),
                Cell::new(format!("{} ago", show::time(show::age(letter.sent_at)))),
                Cell::new(why(letter.reason)),
                Cell::new(letter.attempts),
                Cell::new(
                    letter
                        .last_worker
                        .map_or_else(String::new, |pid| pid.to_string()),
                ),
                Cell::new(show::excerpt(&letter.payload)),
            ]);
        }
        table
    })?;
    Ok(Ended::Well)
}

pub fn show(queue: &str, letter: &str, show: Show) -> Result<Ended> {
    let id = id(letter)?;
    let letters = letters(queue)?;
    let letter = letters.into_iter().find(|found| found.id == id);
    let letter = letter
        .with_context(|| format!("{queue} has no such dead letter (any more): see ipc dlq ls"))?;
    show.say(&value(&letter), || {
        format!(
            "message       {}\nsent          {} ago\nwhy           {}\nattempts      {}: {} given back, {} out of time, {} over which their worker died\nlast held by  {}\nbytes         {}\n\n{}",
            letter.message,
            show::time(show::age(letter.sent_at)),
            why(letter.reason),
            letter.attempts,
            letter.nacks,
            letter.expiries,
            letter.crashes,
            last_worker(&letter),
            letter.payload.len(),
            show::payload(&letter.payload),
        )
    })?;
    Ok(Ended::Well)
}

fn letters(queue: &str) -> Result<Vec<DeadLetter>> {
    Ok(match address::open_elsewhere(queue)? {
        Some(elsewhere) => elsewhere.transport().dead_letters()?,
        None => address::inspect(queue)?.dead_letters(),
    })
}

pub fn requeue(which: &Which, show: Show) -> Result<Ended> {
    let queue = address::open(&which.queue)?;
    let transport = queue.transport();
    each(which, &transport.dead_letters()?, "requeued", show, |id| {
        Ok(transport.requeue(id)?)
    })
}

pub fn discard(which: &Which, show: Show) -> Result<Ended> {
    let queue = address::open(&which.queue)?;
    let transport = queue.transport();
    each(which, &transport.dead_letters()?, "dropped", show, |id| {
        Ok(transport.discard(id)?)
    })
}

fn each(
    which: &Which,
    there: &[DeadLetter],
    what: &str,
    show: Show,
    act: impl Fn(DeadLetterId) -> Result<bool>,
) -> Result<Ended> {
    let ids: Vec<_> = if which.all {
        there.iter().map(|letter| letter.id).collect()
    } else {
        which
            .letters
            .iter()
            .map(|letter| id(letter))
            .collect::<Result<_>>()?
    };
    let mut done = 0;
    for id in ids {
        if act(id)? {
            done += 1;
        } else if !which.all {
            bail!(
                "{}: there is no such dead letter (any more): see ipc dlq ls",
                name(id)
            );
        }
    }
    show.say(&json!({ what: done }), || format!("{done} {what}"))?;
    Ok(Ended::Well)
}

fn value(letter: &DeadLetter) -> Value {
    json!({
        "letter": name(letter.id),
        "message": letter.message.to_string(),
        "age_seconds": show::age(letter.sent_at).as_secs_f64(),
        "reason": letter.reason,
        "attempts": letter.attempts,
        "nacks": letter.nacks,
        "expiries": letter.expiries,
        "crashes": letter.crashes,
        "last_worker": letter.last_worker,
        "signal": letter.signal,
        "payload": show::payload_json(&letter.payload),
    })
}

fn last_worker(letter: &DeadLetter) -> String {
    let process = letter
        .last_worker
        .map_or("nobody knows".to_owned(), |pid| format!("process {pid}"));
    match letter.signal.map(i32::from).map(Signal::try_from) {
        Some(Ok(signal)) => format!("{process}, which {signal} ended"),
        _ => process,
    }
}

fn why(reason: DeadReason) -> &'static str {
    match reason {
        DeadReason::Nacked => "given back once too often",
        DeadReason::Expired => "out of time once too often",
        DeadReason::Crashed => "its last worker died, too",
        DeadReason::Buried => "buried",
        _ => "nobody knows",
    }
}

/// What to type for it.
fn name(id: DeadLetterId) -> String {
    let (place, version) = id.parts();
    format!("{place}.{version}")
}

fn id(name: &str) -> Result<DeadLetterId> {
    let parts = name.split_once('.');
    let parts =
        parts.and_then(|(place, version)| Some((place.parse().ok()?, version.parse().ok()?)));
    let (place, version) = parts.with_context(|| {
        format!("{name:?} is no dead letter: take one from ipc dlq ls, such as 3.17")
    })?;
    Ok(DeadLetterId::new(place, version))
}
