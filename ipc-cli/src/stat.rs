//! `stat`: everything that is known about one queue.

use anyhow::Result;
use comfy_table::Color;
use ipc_queue::QueueStats;
use ipc_queue::shm::Inspector;
use ipc_shm::Presence;
use serde_json::{Value, json};

use crate::address::Subject;
use crate::control;
use crate::format;
use crate::held::{self, Health, Held};
use crate::settings;
use crate::show::Show;
use crate::table::{Column, Table, colored, plain};

const FACTS: [Column; 2] = [("", 0), ("", 0)];
const PROCESSES: [Column; 3] = [("process", 0), ("#pid", 0), ("state", 0)];
const HOLDINGS: [Column; 7] = [
    ("message held", 0),
    ("by", 2),
    ("#pid", 0),
    ("holder is", 0),
    ("#attempt", 4),
    ("lease ends in", 1),
    ("held at most", 3),
];

pub fn stat(queue: &str, show: &Show) -> Result<()> {
    let subject = Subject::open(queue)?;
    // Everything is read before anything is printed.
    let seen = Seen::of(&subject)?;
    if show.is_json() {
        show.say(&value(queue, &subject, &seen), String::new);
        return Ok(());
    }
    show.line(&facts(queue, &subject, &seen.stats).to_string());
    if let Subject::Mapped(inspector) = &subject {
        show.line(&format!("\n{}", processes(inspector)));
    }
    if let Some(held) = seen.held.filter(|held| !held.is_empty()) {
        show.line(&format!("\n{}", held_table(&held)));
    }
    Ok(())
}

/// What `stat --json` prints.
pub fn json(queue: &str) -> Result<Value> {
    let subject = Subject::open(queue)?;
    let seen = Seen::of(&subject)?;
    Ok(value(queue, &subject, &seen))
}

struct Seen {
    stats: QueueStats,
    /// `None` if the transport can't tell.
    held: Option<Vec<Held>>,
}

impl Seen {
    fn of(subject: &Subject) -> Result<Self> {
        Ok(Self {
            stats: subject.stats()?,
            held: held::all(subject)?,
        })
    }
}

/// For programs; what only a mapping shows is null elsewhere.
fn value(queue: &str, subject: &Subject, seen: &Seen) -> Value {
    let mapped = match subject {
        Subject::Mapped(inspector) => Some(inspector),
        Subject::Asked(_) => None,
    };
    let held = seen.held.as_deref();
    let oldest = subject.oldest().map(|at| format::age(at).as_secs_f64());
    json!({
        "queue": queue,
        "type": subject.type_name(),
        // A program that reads numbers as floating point would round it.
        "id": subject.id().to_string(),
        "settings": settings::value(subject.settings()),
        "stats": seen.stats,
        "leases": held.map(|held| held.iter().map(Held::value).collect::<Vec<_>>()),
        "file": mapped.map(|inspector| inspector.path().to_string_lossy().into_owned()),
        "bytes": mapped.map(|inspector| inspector.bytes()),
        "oldest_seconds": oldest,
        "participants": mapped.map(|inspector| participants(inspector)),
        "pool": mapped.map(|inspector| pool_value(inspector)),
        "senders_wait": mapped.map(|inspector| inspector.has_waiters().0),
        "receivers_wait": mapped.map(|inspector| inspector.has_waiters().1),
    })
}

fn pool_value(inspector: &Inspector) -> Value {
    let pool = inspector.pool();
    json!({
        "used_bytes": pool.used_bytes,
        "total_bytes": pool.total_bytes,
        "largest_fit_bytes": pool.largest_fit_bytes,
    })
}

fn participants(inspector: &Inspector) -> Vec<Value> {
    let all = inspector.participants().into_iter();
    all.map(|(slot, gone)| {
        let alive = slot.presence == Presence::Live && !gone;
        let health = Health::of(&slot.process, gone).name();
        json!({ "name": slot.name, "pid": slot.process.pid, "alive": alive, "health": health })
    })
    .collect()
}

fn processes(inspector: &Inspector) -> Table {
    let mut table = Table::new(&PROCESSES);
    for (slot, gone) in inspector.participants() {
        let state = match (slot.presence, gone) {
            (Presence::Live, false) => match Health::of(&slot.process, false) {
                Health::Stopped => colored("stopped", Color::Yellow),
                _ => plain("attached"),
            },
            (Presence::Live, true) => colored("dead", Color::Red),
            _ => plain("leaving"),
        };
        table.add(vec![plain(slot.name), plain(slot.process.pid), state]);
    }
    table
}

fn held_table(held: &[Held]) -> Table {
    let mut table = Table::new(&HOLDINGS);
    for one in held {
        let seen = one.seen.as_ref();
        let time = |time: Option<std::time::Duration>| time.map_or_else(String::new, format::time);
        let ends = match seen.map(|seen| seen.ends_in) {
            Some(None) => "its holder's end".to_owned(),
            ends => time(ends.flatten()),
        };
        let health = match seen.map(|seen| seen.health) {
            None => plain(""),
            Some(Health::Alive) => plain("alive"),
            Some(Health::Stopped) => colored("stopped", Color::Yellow),
            Some(Health::Dead) => colored("dead", Color::Red),
        };
        table.add(vec![
            plain(&one.message),
            plain(&one.holder),
            plain(one.pid),
            health,
            plain(one.attempt),
            plain(ends),
            plain(time(seen.map(|seen| seen.at_most))),
        ]);
    }
    table
}

fn facts(queue: &str, subject: &Subject, stats: &QueueStats) -> Table {
    let mut table = Table::new(&FACTS);
    for (name, fact) in in_words(queue, subject, stats) {
        table.add(vec![colored(name, Color::DarkCyan), plain(fact)]);
    }
    table
}

/// Returns the facts as pairs of name and text.
pub fn in_words(queue: &str, subject: &Subject, stats: &QueueStats) -> Vec<(&'static str, String)> {
    let mut facts = vec![("queue", queue.to_owned()), ("type", subject.type_name())];
    if let Subject::Mapped(inspector) = subject {
        let oldest = subject.oldest().map(|at| format::time(format::age(at)));
        facts.push(("file", inspector.path().display().to_string()));
        facts.push(("memory", format::bytes(inspector.bytes() as u64)));
        facts.push(("oldest", oldest.unwrap_or_default()));
        facts.push(("room for", room(inspector)));
        facts.push(("payload pool", pool(inspector)));
        let (senders, receivers) = inspector.has_waiters();
        let waiting = [(senders, "a sender, for room"), (receivers, "a receiver")];
        let waiting = waiting
            .iter()
            .filter(|(waits, _)| *waits)
            .map(|(_, who)| *who);
        facts.push(("waiting now", waiting.collect::<Vec<_>>().join("; ")));
    }
    facts.extend(settings::in_words(subject.settings()));
    if let Some(keys) = settings::keys_in_words(subject.settings()) {
        facts.push(("keys", format!("{} remembered now; {keys}", stats.keys)));
    }
    facts.push(("now", now(stats)));
    facts.push(("since it was made", history(stats)));
    let losses = losses(stats);
    if !losses.is_empty() {
        facts.push(("and", losses));
    }
    facts.push(("state", control::state(stats).to_owned()));
    facts
}

fn room(inspector: &Inspector) -> String {
    let room = inspector.room().into_iter();
    let sizes = room.map(|(bytes, count)| format!("{count} of {}", show::bytes(bytes as u64)));
    format!(
        "messages of up to: {}",
        sizes.collect::<Vec<_>>().join(", ")
    )
}

fn pool(inspector: &Inspector) -> String {
    let pool = inspector.pool();
    format!(
        "{} of {} used; a payload of up to {} finds memory now",
        format::bytes(pool.used_bytes),
        format::bytes(pool.total_bytes),
        format::bytes(pool.largest_fit_bytes)
    )
}

fn now(stats: &QueueStats) -> String {
    let held = [
        ("held", stats.leased),
        ("being written", stats.writing),
        ("delayed", stats.delayed),
        ("quarantined", stats.quarantined),
        ("dead letters", stats.dead),
    ];
    let ready = format!("{} ready", stats.ready);
    [ready]
        .into_iter()
        .chain(counts(&held))
        .collect::<Vec<_>>()
        .join(", ")
}

fn counts(all: &[(&str, u64)]) -> Vec<String> {
    let some = all.iter().filter(|(_, number)| *number > 0);
    some.map(|(name, number)| format!("{number} {name}"))
        .collect()
}

fn history(stats: &QueueStats) -> String {
    format!(
        "{} sent, {} delivered ({} again), {} acked, {} nacked, {} buried, {} leases expired, \
         {} over which their worker died",
        stats.sent,
        stats.received,
        stats.redelivered,
        stats.acked,
        stats.nacked,
        stats.buried,
        stats.expiries,
        stats.crashes
    )
}

/// Describes messages that were sent or settled in vain.
fn losses(stats: &QueueStats) -> String {
    let losses = [
        ("expired", stats.expired),
        ("purged", stats.purged),
        ("pushed out", stats.overflowed),
        ("duplicates not sent", stats.duplicates),
        ("refused for want of room", stats.refused),
        ("settled too late", stats.leases_lost),
    ];
    counts(&losses).join(", ")
}
