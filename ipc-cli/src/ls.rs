//! `ls`: the queues of this user.

use anyhow::Result;
use comfy_table::Color;
use ipc_proto::Name;
use ipc_queue::QueueError;
use ipc_queue::shm::Inspector;
use ipc_shm::Namespace;
use serde_json::{Value, json};

use crate::address::{self, Subject};
use crate::control;
use crate::exit::{self, Exit};
use crate::format;
use crate::payload;
use crate::settings;
use crate::show::Show;
use crate::stat::stats_value;
use crate::table::{Column, Table, Text, bad_count, colored, plain};

const COLUMNS: [Column; 11] = [
    ("queue", 0),
    ("type", 6),
    ("#capacity", 5),
    ("#ready", 1),
    ("#held", 3),
    ("#delayed", 7),
    ("#dead", 2),
    ("#processes", 8),
    ("#memory", 9),
    ("oldest", 4),
    ("state", 0),
];

/// Lists queues, including those that can't be opened, with the reason.
pub fn ls(what: &[String], show: &Show) -> Result<()> {
    let mut listed = Listed {
        rows: Vec::new(),
        table: Table::new(&COLUMNS),
        bad: 0,
    };
    let (addresses, namespaces): (Vec<_>, Vec<_>) = what.iter().partition(|one| one.contains(':'));
    let mut found = address::Found::default();
    if what.is_empty() {
        found = address::queues(None)?;
    }
    for namespace in namespaces {
        let more = address::queues(Some(namespace))?;
        found.queues.extend(more.queues);
        found.unreadable.extend(more.unreadable);
    }
    for (namespace, name) in found.queues {
        match Inspector::open(&namespace, &name) {
            Ok(queue) => listed.add(&namespace, &name, &queue),
            Err(QueueError::NotFound { .. }) => {} // It has just been removed.
            Err(error) => listed.add_bad(&address::short(&namespace, &name), &error.to_string()),
        }
    }
    let mut failed = None;
    for address in addresses {
        if let Err(error) = listed.add_address(address) {
            listed.add_bad(address, &exit::in_one_line(&error));
            failed = failed.or(Some(error.context(format!("{address} can't be listed"))));
        }
    }
    for (namespace, error) in found.unreadable {
        listed.add_bad(&format!("{}/", namespace.name()), &error.to_string());
    }
    show.rows(&listed.rows, || listed.table);
    if let Some(error) = failed {
        return Err(error);
    }
    match listed.bad {
        0 => Ok(()),
        bad => Err(Exit::Failed.error(format!(
            "{bad} of {} can't be opened: ipc doctor says what to do",
            listed.rows.len()
        ))),
    }
}

struct Listed {
    rows: Vec<Value>,
    table: Table,
    /// The number of queues that can't be opened.
    bad: usize,
}

impl Listed {
    fn add(&mut self, namespace: &Namespace, name: &Name, queue: &Inspector) {
        let stats = queue.stats();
        self.rows.push(summary(namespace, name, queue));
        let oldest = queue.oldest().map(|at| format::time(format::age(at)));
        self.table.add(vec![
            plain(address::short(namespace, name)),
            plain(type_of(queue)),
            plain(queue.settings().capacity),
            plain(stats.ready),
            plain(stats.leased),
            plain(stats.delayed),
            bad_count(stats.dead),
            plain(stats.participants),
            plain(format::bytes(queue.bytes() as u64)),
            plain(oldest.unwrap_or_default()),
            state(control::state(&stats)),
        ]);
    }

    /// Adds a queue of any transport by its address.
    fn add_address(&mut self, address: &str) -> Result<()> {
        let subject = Subject::open(address)?;
        let stats = subject.stats()?;
        let bytes = match &subject {
            Subject::Mapped(inspector) => Some(inspector.bytes()),
            Subject::Asked(_) => None,
        };
        let oldest = subject.oldest();
        self.rows.push(json!({
            "queue": address,
            "namespace": null,
            "name": null,
            "type": subject.type_name(),
            "id": subject.id().to_string(),
            "bytes": bytes,
            "oldest_seconds": oldest.map(|at| format::age(at).as_secs_f64()),
            "settings": settings::value(subject.settings()),
            "stats": stats_value(&stats),
        }));
        self.table.add(vec![
            plain(address),
            plain(subject.type_name()),
            plain(subject.settings().capacity),
            plain(stats.ready),
            plain(stats.leased),
            plain(stats.delayed),
            bad_count(stats.dead),
            plain(match stats.only_this_process {
                true => String::new(),
                false => stats.participants.to_string(),
            }),
            plain(bytes.map_or_else(String::new, |bytes| format::bytes(bytes as u64))),
            plain(oldest.map_or_else(String::new, |at| format::time(format::age(at)))),
            state(control::state(&stats)),
        ]);
        Ok(())
    }

    fn add_bad(&mut self, queue: &str, error: &str) {
        self.bad += 1;
        self.rows.push(json!({ "queue": queue, "error": error }));
        let mut row = vec![plain(queue)];
        row.resize_with(COLUMNS.len() - 1, || plain(""));
        row.push(colored(error, Color::Red));
        self.table.add(row);
    }
}

fn type_of(queue: &Inspector) -> String {
    payload::short(queue.payload_type())
}

fn state(state: &str) -> Text {
    match state {
        "open" => plain(state),
        _ => colored(state, Color::Yellow),
    }
}

fn summary(namespace: &Namespace, name: &Name, queue: &Inspector) -> Value {
    json!({
        "queue": address::short(namespace, name),
        "namespace": namespace.name().as_str(),
        "name": name.as_str(),
        "type": type_of(queue),
        "id": queue.id().to_string(),
        "bytes": queue.bytes(),
        "oldest_seconds": queue.oldest().map(|at| format::age(at).as_secs_f64()),
        "settings": settings::value(queue.settings()),
        "stats": stats_value(&queue.stats()),
    })
}
