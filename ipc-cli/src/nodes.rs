//! `nodes`: the nodes that joined, which of them are alive, and what each has done.

use std::time::Duration;

use anyhow::Result;
use comfy_table::Color;
use ipc_node::{Health, NodeInfo, Registry};
use serde_json::{Value, json};

use crate::address;
use crate::exit::Exit;
use crate::format;
use crate::show::Show;
use crate::table::{Column, Table, Text, bad_count, colored, plain};

const COLUMNS: [Column; 9] = [
    ("node", 0),
    ("#pid", 1),
    ("health", 0),
    ("joined", 5),
    ("last beat", 2),
    ("#sent", 6),
    ("#received", 4),
    ("#again", 7),
    ("#errors", 3),
];

pub fn nodes(namespace: Option<&str>, timeout: Duration, show: &Show) -> Result<()> {
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    for namespace in address::namespaces(namespace)? {
        let space = namespace.name().to_string();
        match Registry::look(&namespace) {
            Ok(None) => {}
            Ok(Some(registry)) => {
                let nodes = registry.nodes(timeout).into_iter();
                found.extend(nodes.map(|node| (space.clone(), node)));
            }
            Err(error) => unreadable.push(format!("{space}: {error}")),
        }
    }
    let rows: Vec<_> = found
        .iter()
        .map(|(space, node)| value(space, node))
        .collect();
    show.rows(&rows, || table(&found));
    if unreadable.is_empty() {
        return Ok(());
    }
    Err(Exit::Failed.error(unreadable.join("; ")))
}

fn value(namespace: &str, node: &NodeInfo) -> Value {
    json!({
        "namespace": namespace,
        "name": node.name,
        "pid": node.pid,
        "health": format!("{:?}", node.health).to_lowercase(),
        "joined_ago_seconds": node.joined_ago.as_secs_f64(),
        "last_beat_ago_seconds": node.last_beat_ago.as_secs_f64(),
        "stats": node.stats,
    })
}

fn table(found: &[(String, NodeInfo)]) -> Table {
    let mut table = Table::new(&COLUMNS);
    for (namespace, node) in found {
        table.add(vec![
            plain(format!("{namespace}/{}", node.name)),
            plain(node.pid),
            health(node),
            plain(format!("{} ago", format::time(node.joined_ago))),
            plain(format!("{} ago", format::time(node.last_beat_ago))),
            plain(node.stats.messages_sent),
            plain(node.stats.messages_received),
            plain(node.stats.redeliveries),
            bad_count(node.stats.errors),
        ]);
    }
    table
}

fn health(node: &NodeInfo) -> Text {
    match node.health {
        Health::Alive => colored("alive", Color::Green),
        Health::Stale => colored("stale", Color::Yellow),
        Health::Dead => colored("dead", Color::Red),
        _ => plain("left"),
    }
}
