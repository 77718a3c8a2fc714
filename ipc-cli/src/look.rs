//! `ls`, `stat`, `peek`: what is there, and nothing changed.

use anyhow::Result;
use comfy_table::{Cell, Color, Table};
use ipc_proto::{Name, QueueSettings};
use ipc_queue::shm::Inspector;
use ipc_queue::transport::Holding;
use ipc_queue::{ByteQueue, QueueError, QueueStats};
use ipc_shm::{Namespace, Presence};
use serde_json::{Value, json};

use crate::Ended;
use crate::address;
use crate::show::{self, Show, bad_count, colored, count};

/// Lists queues; also those that can't be opened, with what is wrong with them.
pub fn ls(namespace: Option<&str>, show: Show) -> Result<Ended> {
    let mut rows = Vec::new();
    let mut table = show::table(&[
        "queue",
        "type",
        "#capacity",
        "#ready",
        "#held",
        "#delayed",
        "#dead",
        "#processes",
        "#memory",
        "oldest",
        "state",
    ]);
    let mut ended = Ended::Well;
    for (namespace, name) in address::queues(namespace)? {
        match Inspector::open(&namespace, &name) {
            Ok(queue) => {
                rows.push(summary(&namespace, &name, &queue));
                add_row(&mut table, &namespace, &name, &queue);
            }
            Err(QueueError::NotFound { .. }) => {} // Removed just now.
            Err(error) => {
                let short = address::short(&namespace, &name);
                rows.push(json!({ "queue": short, "error": error.to_string() }));
                let mut row = vec![Cell::new(short)];
                row.resize_with(10, || Cell::new(""));
                row.push(colored(error, Color::Red));
                table.add_row(row);
                ended = Ended::NotWell;
            }
        }
    }
    show.rows(&rows, || table)?;
    Ok(ended)
}

fn add_row(table: &mut Table, namespace: &Namespace, name: &Name, queue: &Inspector) {
    let stats = queue.stats();
    table.add_row(vec![
        Cell::new(address::short(namespace, name)),
        Cell::new(type_of(queue)),
        count(queue.settings().capacity.into()),
        count(stats.ready),
        count(stats.leased),
        count(stats.delayed),
        bad_count(stats.dead),
        count(stats.participants),
        Cell::new(show::bytes(queue.bytes() as u64)),
        Cell::new(oldest(queue)),
        state(&stats),
    ]);
}

pub fn type_of(queue: &Inspector) -> &str {
    match queue.payload_type() {
        "" => "bytes",
        name => name,
    }
}

pub fn oldest(queue: &Inspector) -> String {
    let oldest = queue.oldest();
    oldest.map_or_else(String::new, |sent_at| show::time(show::age(sent_at)))
}

fn state(stats: &QueueStats) -> Cell {
    match (stats.closed, stats.paused) {
        (true, _) => colored("closed", Color::Yellow),
        (false, true) => colored("paused", Color::Yellow),
        _ => Cell::new("open"),
    }
}

fn summary(namespace: &Namespace, name: &Name, queue: &Inspector) -> Value {
    json!({
        "queue": address::short(namespace, name),
        "namespace": namespace.name().as_str(),
        "name": name.as_str(),
        "type": type_of(queue),
        "id": queue.id(),
        "bytes": queue.bytes(),
        "oldest_seconds": queue.oldest().map(|at| show::age(at).as_secs_f64()),
        "settings": queue.settings(),
        "stats": queue.stats(),
    })
}

/// Says all that is known of a queue.
pub fn stat(queue: &str, show: Show) -> Result<Ended> {
    if let Some(elsewhere) = address::open_elsewhere(queue)? {
        return stat_elsewhere(queue, &elsewhere, show);
    }
    let inspector = address::inspect(queue)?;
    if show.is_json() {
        let mut value = serde_json::Map::new();
        value.insert("queue".into(), json!(queue));
        value.insert("type".into(), json!(type_of(&inspector)));
        value.insert("id".into(), json!(inspector.id()));
        value.insert("file".into(), json!(inspector.path()));
        value.insert("bytes".into(), json!(inspector.bytes()));
        let oldest = inspector.oldest().map(|at| show::age(at).as_secs_f64());
        value.insert("oldest_seconds".into(), json!(oldest));
        value.insert("settings".into(), json!(inspector.settings()));
        value.insert("stats".into(), json!(inspector.stats()));
        value.insert("participants".into(), json!(participants(&inspector)));
        value.insert("holdings".into(), json!(holdings(inspector.holdings())));
        show.say(&value, String::new)?;
        return Ok(Ended::Well);
    }
    let lead = [
        ("file", inspector.path().display().to_string()),
        ("type", type_of(&inspector).to_owned()),
        ("memory", show::bytes(inspector.bytes() as u64)),
        ("oldest", oldest(&inspector)),
    ];
    show::line(&facts(&lead, inspector.settings(), &inspector.stats()).to_string())?;
    let mut table = show::table(&["process", "#pid", "state"]);
    for (slot, gone) in inspector.participants() {
        let state = match (slot.presence, gone) {
            (Presence::Live, false) => Cell::new("attached"),
            (Presence::Live, true) => colored("dead", Color::Red),
            _ => Cell::new("leaving"),
        };
        table.add_row(vec![
            Cell::new(slot.name),
            Cell::new(slot.process.pid),
            state,
        ]);
    }
    show::line(&format!("\n{table}"))?;
    show_holdings(&inspector.holdings())?;
    Ok(Ended::Well)
}

/// Of a queue that is not in shared memory: what its transport says.
fn stat_elsewhere(name: &str, queue: &ByteQueue, show: Show) -> Result<Ended> {
    let transport = queue.transport();
    let (settings, stats) = (transport.settings(), transport.stats()?);
    let held = match transport.holdings() {
        Err(error) if error.is_unsupported() => Vec::new(),
        held => held?,
    };
    let payload = match transport.payload() {
        None => "anything",
        Some("") => "bytes",
        Some(name) => name,
    };
    if show.is_json() {
        let value = json!({
            "queue": name,
            "type": payload,
            "id": transport.id(),
            "settings": settings,
            "stats": stats,
            "holdings": holdings(held),
        });
        show.say(&value, String::new)?;
        return Ok(Ended::Well);
    }
    let lead = [("address", name.to_owned()), ("type", payload.to_owned())];
    show::line(&facts(&lead, settings, &stats).to_string())?;
    show_holdings(&held)?;
    Ok(Ended::Well)
}

fn show_holdings(held: &[Holding]) -> Result<()> {
    let mut table = show::table(&["message held", "by", "#pid", "#attempt"]);
    for holding in held {
        table.add_row(vec![
            Cell::new(holding.message),
            Cell::new(&holding.holder),
            Cell::new(holding.pid),
            Cell::new(holding.attempt),
        ]);
    }
    if !held.is_empty() {
        show::line(&format!("\n{table}"))?;
    }
    Ok(())
}

fn facts(lead: &[(&str, String)], settings: &QueueSettings, stats: &QueueStats) -> Table {
    let mut table = show::table(&["", ""]);
    let mut fact = |name: &str, value: String| {
        table.add_row(vec![colored(name, Color::DarkCyan), Cell::new(value)]);
    };
    for (name, value) in lead {
        fact(name, value.clone());
    }
    let lease = settings
        .lease
        .map_or("until its holder dies".to_owned(), show::time);
    fact("capacity", format!("{} messages", settings.capacity));
    fact(
        "largest message",
        show::bytes(settings.max_message_bytes.into()),
    );
    fact("lease", lease);
    fact("attempts", format!("at most {}", settings.attempt_limit));
    if let Some(window) = settings.dedup_window {
        fact(
            "keys",
            format!("{} for {}", settings.dedup_keys, show::time(window)),
        );
    }
    let held = [
        ("ready", stats.ready),
        ("held", stats.leased),
        ("being written", stats.writing),
        ("delayed", stats.delayed),
        ("quarantined", stats.quarantined),
        ("dead letters", stats.dead),
    ];
    let held = held
        .into_iter()
        .filter(|(name, number)| *number > 0 || *name == "ready");
    let held: Vec<_> = held
        .map(|(name, number)| format!("{number} {name}"))
        .collect();
    fact("now", held.join(", "));
    fact(
        "since it was made",
        format!(
            "{} sent, {} delivered ({} again), {} acked, {} given back, {} buried, {} out of time, {} over which their worker died",
            stats.sent,
            stats.received,
            stats.redelivered,
            stats.acked,
            stats.nacked,
            stats.buried,
            stats.expiries,
            stats.crashes
        ),
    );
    let dropped = [
        ("expired", stats.expired),
        ("purged", stats.purged),
        ("pushed out", stats.overflowed),
        ("duplicates not sent", stats.duplicates),
        ("refused for want of room", stats.refused),
        ("settled too late", stats.leases_lost),
    ];
    let dropped = dropped.into_iter().filter(|(_, number)| *number > 0);
    let dropped: Vec<_> = dropped
        .map(|(name, number)| format!("{number} {name}"))
        .collect();
    if !dropped.is_empty() {
        fact("and", dropped.join(", "));
    }
    let state = match (stats.closed, stats.paused) {
        (true, true) => "closed, paused",
        (true, false) => "closed",
        (false, true) => "paused",
        (false, false) => "open",
    };
    fact("state", state.to_owned());
    table
}

fn participants(queue: &Inspector) -> Vec<Value> {
    let all = queue.participants().into_iter();
    all.map(|(slot, gone)| {
        json!({ "name": slot.name, "pid": slot.process.pid, "alive": slot.presence == Presence::Live && !gone })
    })
    .collect()
}

fn holdings(held: Vec<Holding>) -> Vec<Value> {
    let all = held.into_iter();
    all.map(|holding| {
        json!({
            "message": holding.message.to_string(),
            "holder": holding.holder,
            "pid": holding.pid,
            "attempt": holding.attempt,
        })
    })
    .collect()
}

/// Shows messages that nobody holds.
pub fn peek(queue: &str, most: usize, show: Show) -> Result<Ended> {
    let waiting = address::inspect(queue)?.waiting(most);
    let rows: Vec<_> = waiting
        .iter()
        .map(|message| {
            json!({
                "message": message.message.to_string(),
                "kind": format!("{:?}", message.kind),
                "priority": format!("{:?}", message.priority).to_lowercase(),
                "age_seconds": show::age(message.sent_at).as_secs_f64(),
                "attempts": message.attempts,
                "delayed": message.delayed,
                "payload": show::payload_json(&message.payload),
            })
        })
        .collect();
    show.rows(&rows, || {
        let mut table = show::table(&[
            "message",
            "sent",
            "priority",
            "#attempts",
            "#bytes",
            "payload",
        ]);
        for message in &waiting {
            table.add_row(vec![
                Cell::new(message.message),
                Cell::new(format!("{} ago", show::time(show::age(message.sent_at)))),
                Cell::new(format!("{:?}", message.priority).to_lowercase()),
                Cell::new(message.attempts),
                Cell::new(message.payload.len()),
                Cell::new(show::excerpt(&message.payload)),
            ]);
        }
        table
    })?;
    Ok(Ended::Well)
}
