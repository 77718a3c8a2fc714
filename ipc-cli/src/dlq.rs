//! `dlq`: messages that are no longer delivered.

use anyhow::{Context, Result};
use ipc_queue::{DeadLetter, DeadLetterId, DeadReason, Timestamp};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::address::{self, Subject};
use crate::cli::Which;
use crate::exit::Exit;
use crate::format;
use crate::headers;
use crate::payload::Payloads;
use crate::remove::together;
use crate::show::Show;
use crate::table::{Column, Table, plain};

const COLUMNS: [Column; 7] = [
    ("letter", 0),
    ("sent", 3),
    ("why", 1),
    ("#attempts", 4),
    ("last held by", 5),
    ("payload", 2),
    ("error", 3),
];

/// A dead letter in a table.
#[derive(Clone, Debug)]
pub struct Row {
    /// The text that names it on the command line.
    pub letter: String,
    pub sent_at: Timestamp,
    /// The end of its last delivery, as `dlq ls --json` names it.
    pub reason: String,
    pub attempts: u8,
    pub last_worker: Option<u32>,
    /// The beginning of its payload.
    pub payload: String,
    /// The reason that its last receiver gave, or the signal that ended that receiver.
    pub error: String,
}

pub fn ls(queue: &str, show: &Show) -> Result<()> {
    let (letters, payloads) = letters(&Subject::open(queue)?)?;
    let rows: Vec<_> = letters.iter().map(|one| value(one, &payloads)).collect();
    show.rows(&rows, || {
        let mut table = Table::new(&COLUMNS);
        for letter in &letters {
            let last_worker = letter.last_worker.map(|pid| pid.to_string());
            table.add(vec![
                plain(name(letter.id)),
                plain(format!("{} ago", format::time(format::age(letter.sent_at)))),
                plain(why(letter.reason)),
                plain(letter.attempts),
                plain(last_worker.unwrap_or_default()),
                plain(payloads.excerpt(&letter.payload)),
                plain(error(letter)),
            ]);
        }
        table
    });
    Ok(())
}

/// Returns the youngest letters, at most this many, the youngest first.
pub fn youngest(subject: &Subject, at_most: usize) -> Result<Vec<Row>> {
    let (mut letters, payloads) = letters(subject)?;
    keep_youngest(&mut letters, at_most);
    let rows = letters.iter().map(|letter| Row {
        letter: name(letter.id),
        sent_at: letter.sent_at,
        reason: reason(letter),
        attempts: letter.attempts,
        last_worker: letter.last_worker,
        payload: payloads.excerpt(&letter.payload),
        error: error(letter),
    });
    Ok(rows.collect())
}

fn keep_youngest(letters: &mut Vec<DeadLetter>, at_most: usize) {
    letters.sort_by_key(|letter| std::cmp::Reverse(letter.sent_at));
    letters.truncate(at_most);
}

pub fn show(queue: &str, letter: &str, show: &Show) -> Result<()> {
    let id = id(letter)?;
    let (letters, payloads) = letters(&Subject::open(queue)?)?;
    let letter = letters.into_iter().find(|found| found.id == id);
    let letter = letter.ok_or_else(|| gone(queue, id))?;
    show.say(&value(&letter, &payloads), || in_words(&letter, &payloads));
    Ok(())
}

fn in_words(letter: &DeadLetter, payloads: &Payloads) -> String {
    let error = match &letter.error[..] {
        "" => String::new(),
        error => format!("error         {error}\n"),
    };
    let headers = headers::in_lines(&letter.headers, "header        ");
    format!(
        "message       {}\nsent          {} ago\nwhy           {}\n\
         attempts      {}: {} given back, {} out of time, {} over which their worker died\n\
         last held by  {}\n{error}{headers}bytes         {}\n\n{}",
        letter.message,
        format::time(format::age(letter.sent_at)),
        why(letter.reason),
        letter.attempts,
        letter.nacks,
        letter.expiries,
        letter.crashes,
        last_worker(letter),
        letter.payload.len(),
        payloads.in_words(&letter.payload),
    )
}

/// The youngest letters for a page, at most this many: as `dlq ls --json` prints them, but with the
/// beginning of the payload as text.
pub fn excerpts(queue: &str, at_most: usize) -> Result<Vec<Value>> {
    let (mut letters, payloads) = letters(&Subject::open(queue)?)?;
    keep_youngest(&mut letters, at_most);
    let excerpt = |letter: &DeadLetter| {
        let (excerpt, bytes) = (payloads.excerpt(&letter.payload), letter.payload.len());
        with_payload(letter, json!({ "excerpt": excerpt, "bytes": bytes }))
    };
    Ok(letters.iter().map(excerpt).collect())
}

fn letters(subject: &Subject) -> Result<(Vec<DeadLetter>, Payloads)> {
    let payloads = Payloads::of(subject.payload());
    let letters = match subject {
        Subject::Mapped(inspector) => inspector.dead_letters(),
        Subject::Asked(queue) => queue.transport().dead_letters()?,
    };
    Ok((letters, payloads))
}

pub fn requeue(which: &Which, show: &Show) -> Result<()> {
    let queue = address::open(&which.queue)?;
    let transport = queue.transport();
    each(which, &transport.dead_letters()?, "requeued", show, |id| {
        let requeued = transport.requeue(id);
        requeued.with_context(|| format!("requeueing {}", name(id)))
    })
}

pub fn discard(which: &Which, show: &Show) -> Result<()> {
    let queue = address::open(&which.queue)?;
    let transport = queue.transport();
    each(which, &transport.dead_letters()?, "dropped", show, |id| {
        Ok(transport.discard(id)?)
    })
}

/// Applies the action to every letter, then reports those for which it failed.
fn each(
    which: &Which,
    there: &[DeadLetter],
    what: &str,
    show: &Show,
    act: impl Fn(DeadLetterId) -> Result<bool>,
) -> Result<()> {
    let ids: Vec<_> = if which.letters.is_empty() {
        selected(which, there)
    } else {
        let letters = which.letters.iter().map(|letter| id(letter));
        letters.collect::<Result<_>>()?
    };
    let (mut done, mut failures) = (0, Vec::new());
    for id in ids {
        match act(id) {
            Ok(true) => done += 1,
            // With `--all`, other processes may have taken some of the letters in the meantime.
            Ok(false) if which.letters.is_empty() => {}
            Ok(false) => failures.push(gone(&which.queue, id)),
            Err(error) => {
                failures.push(error);
                break;
            }
        }
    }
    if done > 0 || failures.is_empty() {
        show.done(&json!({ what: done }), || format!("{done} {what}"));
    }
    together(failures)
}

/// Returns all letters that are old enough, except the youngest ones that must stay.
fn selected(which: &Which, there: &[DeadLetter]) -> Vec<DeadLetterId> {
    let is_old = |letter: &&DeadLetter| {
        let limit = which.older_than;
        limit.is_none_or(|limit| format::age(letter.sent_at) > limit)
    };
    let mut letters: Vec<_> = there.iter().filter(is_old).collect();
    letters.sort_by_key(|letter| letter.sent_at);
    letters.truncate(letters.len().saturating_sub(which.keep.unwrap_or(0)));
    letters.into_iter().map(|letter| letter.id).collect()
}

fn gone(queue: &str, id: DeadLetterId) -> anyhow::Error {
    Exit::NotThere.error(format!(
        "{queue} has no dead letter {} (any more): see ipc dlq ls {queue}",
        name(id)
    ))
}

fn value(letter: &DeadLetter, payloads: &Payloads) -> Value {
    with_payload(letter, payloads.json(&letter.payload))
}

fn with_payload(letter: &DeadLetter, payload: Value) -> Value {
    json!({
        "letter": name(letter.id),
        "message": letter.message.to_string(),
        "age_seconds": format::age(letter.sent_at).as_secs_f64(),
        "reason": reason(letter),
        "attempts": letter.attempts,
        "nacks": letter.nacks,
        "expiries": letter.expiries,
        "crashes": letter.crashes,
        "last_worker": letter.last_worker,
        "signal": letter.signal,
        "error": letter.error,
        "headers": headers::json(&letter.headers),
        "payload": payload,
    })
}

fn last_worker(letter: &DeadLetter) -> String {
    let process = letter
        .last_worker
        .map_or("unknown".to_owned(), |pid| format!("process {pid}"));
    match letter.signal.map(i32::from).map(Signal::try_from) {
        Some(Ok(signal)) => format!("{process}, which {signal} ended"),
        _ => process,
    }
}

/// The reason given by its last receiver, or the signal that ended that receiver.
fn error(letter: &DeadLetter) -> String {
    let signal = letter.signal.map(i32::from).map(Signal::try_from);
    match (&letter.error[..], signal) {
        ("", Some(Ok(signal))) => signal.to_string(),
        (error, _) => error.to_owned(),
    }
}

/// For programs, and where there is little room.
fn reason(letter: &DeadLetter) -> String {
    format!("{:?}", letter.reason).to_lowercase()
}

fn why(reason: DeadReason) -> &'static str {
    match reason {
        DeadReason::Nacked => "nacked too often",
        DeadReason::Expired => "too many leases expired",
        DeadReason::Crashed => "too many workers died",
        DeadReason::Buried => "buried",
        _ => "unknown",
    }
}

/// Returns the text that names a letter on the command line.
fn name(id: DeadLetterId) -> String {
    let (place, version) = id.parts();
    format!("{place}.{version}")
}

fn id(name: &str) -> Result<DeadLetterId> {
    let parts = name.split_once('.');
    let parts =
        parts.and_then(|(place, version)| Some((place.parse().ok()?, version.parse().ok()?)));
    let (place, version) = parts.ok_or_else(|| {
        Exit::Usage.error(format!(
            "{name:?} is not a dead letter: take one from ipc dlq ls, such as 3.17"
        ))
    })?;
    Ok(DeadLetterId::new(place, version))
}
