//! `stat`: all that is known of one queue.

use anyhow::Result;
use comfy_table::Color;
use ipc_queue::QueueStats;
use ipc_queue::shm::Inspector;
use ipc_queue::transport::LeaseInfo;
use ipc_shm::Presence;
use serde_json::{Map, Value, json};

use crate::address::Subject;
use crate::control;
use crate::settings;
use crate::show::{self, Show};
use crate::table::{Column, Table, colored, plain};

const FACTS: [Column; 2] = [("", 0), ("", 0)];
const PROCESSES: [Column; 3] = [("process", 0), ("#pid", 0), ("state", 0)];
const HOLDINGS: [Column; 4] = [("message held", 0), ("by", 1), ("#pid", 0), ("#attempt", 2)];

pub fn stat(queue: &str, show: &Show) -> Result<()> {
    let subject = Subject::open(queue)?;
    // All is asked before anything is printed.
    let seen = Seen {
        stats: subject.stats()?,
        leases: subject.leases()?,
    };
    if show.is_json() {
        show.say(&value(queue, &subject, &seen), String::new);
        return Ok(());
    }
    show.line(&facts(queue, &subject, &seen.stats).to_string());
    if let Subject::Mapped(inspector) = &subject {
        show.line(&format!("\n{}", processes(inspector)));
    }
    if let Some(held) = seen.leases.filter(|held| !held.is_empty()) {
        show.line(&format!("\n{}", held_table(&held)));
    }
    Ok(())
}

struct Seen {
    stats: QueueStats,
    /// `None` where the transport can't say.
    leases: Option<Vec<LeaseInfo>>,
}

fn value(queue: &str, subject: &Subject, seen: &Seen) -> Map<String, Value> {
    let mut value = Map::new();
    let mut add = |name: &str, fact: Value| value.insert(name.to_owned(), fact);
    add("queue", json!(queue));
    add("type", json!(subject.type_name()));
    // A program that reads numbers as floating point would round it.
    add("id", json!(subject.id().to_string()));
    add("settings", json!(subject.settings()));
    add("stats", json!(seen.stats));
    let held = seen.leases.as_deref();
    add(
        "leases",
        json!(held.map(|held| held.iter().map(held_value).collect::<Vec<_>>())),
    );
    if let Subject::Mapped(inspector) = subject {
        let oldest = subject.oldest().map(|at| show::age(at).as_secs_f64());
        add("file", json!(inspector.path().to_string_lossy()));
        add("bytes", json!(inspector.bytes()));
        add("oldest_seconds", json!(oldest));
        add("participants", json!(participants(inspector)));
    }
    value
}

fn participants(inspector: &Inspector) -> Vec<Value> {
    let all = inspector.participants().into_iter();
    all.map(|(slot, gone)| {
        let alive = slot.presence == Presence::Live && !gone;
        json!({ "name": slot.name, "pid": slot.process.pid, "alive": alive })
    })
    .collect()
}

fn held_value(lease: &LeaseInfo) -> Value {
    json!({
        "message": lease.message.to_string(),
        "holder": lease.holder,
        "pid": lease.pid,
        "attempt": lease.attempt,
    })
}

fn processes(inspector: &Inspector) -> Table {
    let mut table = Table::new(&PROCESSES);
    for (slot, gone) in inspector.participants() {
        let state = match (slot.presence, gone) {
            (Presence::Live, false) => plain("attached"),
            (Presence::Live, true) => colored("dead", Color::Red),
            _ => plain("leaving"),
        };
        table.add(vec![plain(slot.name), plain(slot.process.pid), state]);
    }
    table
}

fn held_table(held: &[LeaseInfo]) -> Table {
    let mut table = Table::new(&HOLDINGS);
    for lease in held {
        table.add(vec![
            plain(lease.message),
            plain(&lease.holder),
            plain(lease.pid),
            plain(lease.attempt),
        ]);
    }
    table
}

fn facts(queue: &str, subject: &Subject, stats: &QueueStats) -> Table {
    let mut facts = vec![("queue", queue.to_owned()), ("type", subject.type_name())];
    if let Subject::Mapped(inspector) = subject {
        let oldest = subject.oldest().map(|at| show::time(show::age(at)));
        facts.push(("file", inspector.path().display().to_string()));
        facts.push(("memory", show::bytes(inspector.bytes() as u64)));
        facts.push(("oldest", oldest.unwrap_or_default()));
    }
    facts.extend(settings::in_words(subject.settings()));
    if let Some(window) = subject.settings().dedup_window {
        let most = subject.settings().dedup_keys;
        let window = show::time(window);
        let keys = format!("{} remembered, of at least {most} in {window}", stats.keys);
        facts.push(("keys", keys));
    }
    facts.push(("now", now(stats)));
    facts.push(("since it was made", history(stats)));
    let losses = losses(stats);
    if !losses.is_empty() {
        facts.push(("and", losses));
    }
    facts.push(("state", control::state(stats).to_owned()));
    let mut table = Table::new(&FACTS);
    for (name, fact) in facts {
        table.add(vec![colored(name, Color::DarkCyan), plain(fact)]);
    }
    table
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
        "{} sent, {} delivered ({} again), {} acked, {} given back, {} buried, {} out of time, \
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

/// What was sent or settled in vain.
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
