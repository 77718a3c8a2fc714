//! `stat`: everything that is known about one queue.

use std::time::Duration;

use anyhow::Result;
use comfy_table::Color;
use ipc_queue::QueueStats;
use ipc_queue::shm::{BlockedView, Inspector};
use ipc_shm::Presence;
use serde_json::{Value, json};

use crate::address::Subject;
use crate::control;
use crate::format;
use crate::held::{self, Health, Held, SeenInMemory};
use crate::settings;
use crate::show::Show;
use crate::table::{Column, Table, colored, plain};

const FACTS: [Column; 2] = [("", 0), ("", 0)];
const PROCESSES: [Column; 4] = [("process", 0), ("#pid", 0), ("state", 0), ("blocked", 1)];
const HOLDINGS: [Column; 7] = [
    ("message held", 0),
    ("by", 2),
    ("#pid", 0),
    ("holder is", 0),
    ("#attempt", 4),
    ("lease ends in", 1),
    ("held for", 3),
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
    let blocked = mapped.map(|inspector| inspector.blocked());
    let oldest = subject.oldest().map(|at| format::age(at).as_secs_f64());
    json!({
        "queue": queue,
        "type": subject.type_name(),
        // A program that reads numbers as floating point would round it.
        "id": subject.id().to_string(),
        "settings": settings::value(subject.settings()),
        "stats": stats_value(&seen.stats),
        "leases": held.map(|held| held.iter().map(Held::value).collect::<Vec<_>>()),
        "file": mapped.map(|inspector| inspector.path().to_string_lossy().into_owned()),
        "bytes": mapped.map(|inspector| inspector.bytes()),
        "oldest_seconds": oldest,
        "participants": mapped.map(|inspector| participants(inspector)),
        "pool": mapped.map(|inspector| pool_value(inspector)),
        "blocked_senders": blocked.map(|blocked| blocked.senders),
        "blocked_receivers": blocked.map(|blocked| blocked.receivers),
    })
}

/// Counters for programs; null where each process knows only its own.
pub fn stats_value(stats: &QueueStats) -> Value {
    const NOW: [&str; 10] = [
        "ready",
        "writing",
        "leased",
        "delayed",
        "dead",
        "quarantined",
        "chunks_in_use",
        "keys",
        "paused",
        "closed",
    ];
    let mut value = json!(stats);
    if let Some(fields) = value.as_object_mut() {
        fields.remove("only_this_process");
        let unknown = |name: &str| stats.only_this_process && !NOW.contains(&name);
        for (_, value) in fields.iter_mut().filter(|(name, _)| unknown(name)) {
            *value = Value::Null;
        }
    }
    value
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
        let blocked = match alive {
            true => inspector.blocked_in(slot.member),
            false => BlockedView::default(),
        };
        json!({
            "name": slot.name,
            "pid": slot.process.pid,
            "alive": alive,
            "health": health,
            "blocked_senders": blocked.senders,
            "blocked_receivers": blocked.receivers,
        })
    })
    .collect()
}

/// Names the attached processes in one line, except those beyond the first few.
pub fn processes_in_words(inspector: &Inspector) -> String {
    const FEW: usize = 8;
    let all = inspector.participants();
    let named = all.iter().take(FEW).map(|(slot, gone)| {
        let health = match Health::of(&slot.process, *gone) {
            Health::Alive => String::new(),
            health => format!(", {}", health.name()),
        };
        format!("{} ({}{health})", slot.name, slot.process.pid)
    });
    let more = all.len().saturating_sub(FEW);
    let more = (more > 0).then(|| format!("and {more} more"));
    named.chain(more).collect::<Vec<_>>().join(", ")
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
        let blocked = match gone {
            true => String::new(),
            false => blocked_in_words(inspector.blocked_in(slot.member)),
        };
        table.add(vec![
            plain(slot.name),
            plain(slot.process.pid),
            state,
            plain(blocked),
        ]);
    }
    table
}

fn held_table(held: &[Held]) -> Table {
    let mut table = Table::new(&HOLDINGS);
    for one in held {
        let seen = one.seen.as_ref();
        let time = |time: Option<Duration>| time.map_or_else(String::new, format::time);
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
            plain(seen.map_or_else(String::new, held_for)),
        ]);
    }
    table
}

fn held_for(seen: &SeenInMemory) -> String {
    let (least, most) = (format::time(seen.at_least), format::time(seen.at_most));
    match seen.at_least {
        Duration::ZERO => format!("up to {most}"),
        _ if least == most => least,
        _ => format!("{least} to {most}"),
    }
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
        facts.push(("blocked now", blocked_in_words(inspector.blocked())));
    }
    facts.extend(settings::in_words(subject.settings()));
    if let Some(keys) = settings::keys_in_words(subject.settings()) {
        facts.push(("keys", format!("{} remembered now; {keys}", stats.keys)));
    }
    facts.push(("now", now(stats)));
    facts.push(("since it was made", history(stats)));
    let losses = losses(stats);
    if !losses.is_empty() && !stats.only_this_process {
        facts.push(("and", losses));
    }
    facts.push(("state", control::state(stats).to_owned()));
    facts
}

fn blocked_in_words(blocked: BlockedView) -> String {
    let all = [
        (blocked.senders, "sender", ", waiting for room"),
        (blocked.receivers, "receiver", ""),
    ];
    let some = all.iter().filter(|(count, ..)| *count > 0);
    let words = some.map(|(count, name, what)| {
        let plural = if *count == 1 { "" } else { "s" };
        format!("{count} {name}{plural}{what}")
    });
    words.collect::<Vec<_>>().join("; ")
}

fn room(inspector: &Inspector) -> String {
    let room = inspector.room().into_iter();
    let sizes = room.map(|(bytes, count)| format!("{count} of {}", format::bytes(bytes as u64)));
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
    if stats.only_this_process {
        return "unknown: over this transport each process counts only what it did".to_owned();
    }
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
