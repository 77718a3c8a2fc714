//! `stat --prometheus`: a queue's figures in Prometheus's text format.

use std::fmt::Write as _;

use anyhow::Result;
use ipc_queue::QueueStats;

use crate::address::Subject;
use crate::show::{self, Show};

/// Name, help, value.
type Figure = (&'static str, &'static str, f64);

pub fn stat(queue: &str, show: &Show) -> Result<()> {
    let subject = Subject::open(queue)?;
    let stats = subject.stats()?;
    let mut text = String::new();
    write(&mut text, queue, "counter", &counters(&stats));
    write(&mut text, queue, "gauge", &gauges(&subject, &stats));
    show.line(&text);
    Ok(())
}

fn write(text: &mut String, queue: &str, kind: &str, figures: &[Figure]) {
    let label = queue.replace('\\', r"\\").replace('"', "\\\"");
    for (name, help, value) in figures {
        let _ = writeln!(text, "# HELP ipc_queue_{name} {help}");
        let _ = writeln!(text, "# TYPE ipc_queue_{name} {kind}");
        let _ = writeln!(text, "ipc_queue_{name}{{queue=\"{label}\"}} {value}");
    }
}

fn counters(stats: &QueueStats) -> Vec<Figure> {
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
            "Messages that were not received in time.",
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
    counters
        .map(|(name, help, value)| (name, help, value as f64))
        .into()
}

fn gauges(subject: &Subject, stats: &QueueStats) -> Vec<Figure> {
    let gauges = [
        (
            "capacity",
            "Messages that fit.",
            subject.settings().capacity.into(),
        ),
        ("ready", "Messages that wait.", stats.ready),
        ("leased", "Messages that a receiver holds.", stats.leased),
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
        ("paused", "1 if nothing is delivered.", stats.paused.into()),
        ("closed", "1 if nothing more is taken.", stats.closed.into()),
    ];
    let mut gauges: Vec<_> = gauges
        .map(|(name, help, value)| (name, help, value as f64))
        .into();
    if let Subject::Mapped(inspector) = subject {
        let oldest = subject
            .oldest()
            .map_or(0.0, |at| show::age(at).as_secs_f64());
        gauges.push((
            "memory_bytes",
            "Size of the segment.",
            inspector.bytes() as f64,
        ));
        gauges.push((
            "oldest_seconds",
            "Age of the message that waits for longest.",
            oldest,
        ));
    }
    gauges
}
