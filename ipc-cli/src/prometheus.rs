//! `stat --prometheus`: a queue's figures in Prometheus's text format.

use std::fmt::Write as _;

use anyhow::Result;

use crate::Ended;
use crate::address;
use crate::show;

pub fn stat(queue: &str) -> Result<Ended> {
    let inspector = address::inspect(queue)?;
    let stats = inspector.stats();
    let label = queue.replace('\\', r"\\").replace('"', "\\\"");
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: f64| {
        let _ = writeln!(text, "# HELP ipc_queue_{name} {help}");
        let _ = writeln!(text, "# TYPE ipc_queue_{name} {kind}");
        let _ = writeln!(text, "ipc_queue_{name}{{queue=\"{label}\"}} {value}");
    };
    let counters = [
        ("sent_total", "Messages accepted.", stats.sent),
        (
            "sent_bytes_total",
            "Bytes of payloads accepted.",
            stats.bytes_sent,
        ),
        ("refused_total", "Sends that found no room.", stats.refused),
        (
            "delivered_total",
            "Deliveries, redeliveries included.",
            stats.received,
        ),
        (
            "delivered_bytes_total",
            "Bytes of payloads delivered.",
            stats.bytes_received,
        ),
        (
            "redelivered_total",
            "Deliveries that were not their message's first.",
            stats.redelivered,
        ),
        ("acked_total", "Deliveries acked.", stats.acked),
        ("nacked_total", "Deliveries given back.", stats.nacked),
        ("buried_total", "Deliveries buried.", stats.buried),
        (
            "lease_expiries_total",
            "Deliveries that ended with their lease.",
            stats.expiries,
        ),
        (
            "crashes_total",
            "Deliveries that ended with their receiver's death.",
            stats.crashes,
        ),
        (
            "leases_lost_total",
            "Settlements that came too late.",
            stats.leases_lost,
        ),
        (
            "expired_total",
            "Messages that nobody wanted in time.",
            stats.expired,
        ),
        ("purged_total", "Messages purged.", stats.purged),
        (
            "overflowed_total",
            "Messages dropped for later ones.",
            stats.overflowed,
        ),
        (
            "duplicates_total",
            "Sends whose key was known.",
            stats.duplicates,
        ),
    ];
    for (name, help, value) in counters {
        metric(name, "counter", help, value as f64);
    }
    let gauges = [
        (
            "capacity",
            "Messages that fit.",
            inspector.settings().capacity.into(),
        ),
        ("ready", "Messages that wait.", stats.ready),
        ("leased", "Messages that somebody holds.", stats.leased),
        ("writing", "Messages being written.", stats.writing),
        (
            "delayed",
            "Messages that wait for their time.",
            stats.delayed,
        ),
        ("dead_letters", "Messages given up.", stats.dead),
        (
            "quarantined",
            "Messages done that may still be read.",
            stats.quarantined,
        ),
        ("participants", "Processes attached.", stats.participants),
        (
            "memory_bytes",
            "Size of the segment.",
            inspector.bytes() as u64,
        ),
        ("paused", "1 if nothing is delivered.", stats.paused.into()),
        ("closed", "1 if nothing more is taken.", stats.closed.into()),
    ];
    for (name, help, value) in gauges {
        metric(name, "gauge", help, value as f64);
    }
    let oldest = inspector
        .oldest()
        .map_or(0.0, |at| show::age(at).as_secs_f64());
    metric(
        "oldest_seconds",
        "gauge",
        "Age of the message that waits for longest.",
        oldest,
    );
    show::line(&text)?;
    Ok(Ended::Well)
}
