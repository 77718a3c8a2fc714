//! `nodes`: who joined, who is alive, what each did.

use std::time::Duration;

use anyhow::Result;
use comfy_table::{Cell, Color};
use ipc_node::{Health, NodeInfo, Registry};
use serde_json::json;

use crate::Ended;
use crate::address;
use crate::show::{self, Show, bad_count, colored, count};

pub fn nodes(namespace: Option<&str>, timeout: Duration, show: Show) -> Result<Ended> {
    let mut found = Vec::new();
    for namespace in address::namespaces(namespace)? {
        if let Some(registry) = Registry::look(&namespace)? {
            let nodes = registry.nodes(timeout).into_iter();
            found.extend(nodes.map(|node| (namespace.name().to_string(), node)));
        }
    }
    let rows: Vec<_> = found
        .iter()
        .map(|(namespace, node)| {
            json!({
                "namespace": namespace,
                "name": node.name,
                "pid": node.pid,
                "health": node.health,
                "joined_seconds_ago": node.joined_ago.as_secs_f64(),
                "last_beat_seconds_ago": node.last_beat_ago.as_secs_f64(),
                "stats": node.stats,
            })
        })
        .collect();
    show.rows(&rows, || {
        let mut table = show::table(&[
            "node",
            "#pid",
            "health",
            "joined",
            "last beat",
            "#sent",
            "#received",
            "#again",
            "#errors",
        ]);
        for (namespace, node) in &found {
            table.add_row(vec![
                Cell::new(format!("{namespace}/{}", node.name)),
                Cell::new(node.pid),
                health(node),
                Cell::new(format!("{} ago", show::time(node.joined_ago))),
                Cell::new(format!("{} ago", show::time(node.last_beat_ago))),
                count(node.stats.messages_sent),
                count(node.stats.messages_received),
                count(node.stats.redeliveries),
                bad_count(node.stats.errors),
            ]);
        }
        table
    })?;
    Ok(Ended::Well)
}

fn health(node: &NodeInfo) -> Cell {
    match node.health {
        Health::Alive => colored("alive", Color::Green),
        Health::Stale => colored("stale", Color::Yellow),
        Health::Dead => colored("dead", Color::Red),
        _ => Cell::new("left"),
    }
}
