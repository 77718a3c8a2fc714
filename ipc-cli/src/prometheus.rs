//! `stat --prometheus`: a queue's figures in Prometheus's text format.

use std::fmt::Write as _;

use anyhow::Result;
use ipc_queue::QueueStats;

use crate::address::Subject;
use crate::show::{self, Show};

/// Name, help, value.
type Figure = (&'static str, &'static str, fn(&QueueStats) -> u64);

const COUNTERS: [Figure; 16] = [
    ("sent_total", "Messages accepted.", |stats| stats.sent),
    ("sent_bytes_total", "Bytes of payloads accepted.", |stats| {
        stats.bytes_sent
    }),
    ("refused_total", "Sends that found no room.", |stats| {
        stats.refused
    }),
    (
        "delivered_total",
        "Deliveries, redeliveries included.",
        |stats| stats.received,
    ),
    (
        "delivered_bytes_total",
        "Bytes of payloads delivered.",
        |stats| stats.bytes_received,
    ),
    (
        "redelivered_total",
        "Deliveries that were not their message's first.",
        |stats| stats.redelivered,
    ),
    ("acked_total", "Deliveries acked.", |stats| stats.acked),
    ("nacked_total", "Deliveries given back.", |stats| {
        stats.nacked
    }),
    ("buried_total", "Deliveries buried.", |stats| stats.buried),
    (
        "lease_expiries_total",
        "Deliveries that ended with their lease.",
        |stats| stats.expiries,
    ),
    (
        "crashes_total",
        "Deliveries that ended with their receiver's death.",
        |stats| stats.crashes,
    ),
    (
        "leases_lost_total",
        "Settlements that came too late.",
        |stats| stats.leases_lost,
    ),
    (
        "expired_total",
        "Messages that were not received in time.",
        |stats| stats.expired,
    ),
    ("purged_total", "Messages purged.", |stats| stats.purged),
    (
        "overflowed_total",
        "Messages dropped for later ones.",
        |stats| stats.overflowed,
    ),
    ("duplicates_total", "Sends whose key was known.", |stats| {
        stats.duplicates
    }),
];

const GAUGES: [Figure; 10] = [
    ("ready", "Messages that wait.", |stats| stats.ready),
    ("leased", "Messages that a receiver holds.", |stats| {
        stats.leased
    }),
    ("writing", "Messages being written.", |stats| stats.writing),
    ("delayed", "Messages that wait for their time.", |stats| {
        stats.delayed
    }),
    ("dead_letters", "Messages given up.", |stats| stats.dead),
    (
        "quarantined",
        "Messages done that may still be read.",
        |stats| stats.quarantined,
    ),
    ("keys", "Keys remembered.", |stats| stats.keys),
    ("participants", "Processes attached.", |stats| {
        stats.participants
    }),
    ("paused", "1 if nothing is delivered.", |stats| {
        stats.paused.into()
    }),
    ("closed", "1 if nothing more is taken.", |stats| {
        stats.closed.into()
    }),
];

pub fn stat(queue: &str, show: &Show) -> Result<()> {
    let subject = Subject::open(queue)?;
    let stats = subject.stats()?;
    let mut text = Text::of(queue);
    for (name, help, value) in COUNTERS {
        text.add("counter", name, help, value(&stats) as f64);
    }
    for (name, help, value) in GAUGES {
        text.add("gauge", name, help, value(&stats) as f64);
    }
    let capacity = subject.settings().capacity;
    text.add("gauge", "capacity", "Messages that fit.", capacity.into());
    if let Subject::Mapped(inspector) = &subject {
        let oldest = subject
            .oldest()
            .map_or(0.0, |at| show::age(at).as_secs_f64());
        let bytes = inspector.bytes() as f64;
        text.add("gauge", "memory_bytes", "Size of the segment.", bytes);
        text.add(
            "gauge",
            "oldest_seconds",
            "Age of the message that waits longest.",
            oldest,
        );
    }
    show.line(&text.lines);
    Ok(())
}

struct Text {
    label: String,
    lines: String,
}

impl Text {
    fn of(queue: &str) -> Self {
        Self {
            label: queue.replace('\\', r"\\").replace('"', "\\\""),
            lines: String::new(),
        }
    }

    fn add(&mut self, kind: &str, name: &str, help: &str, value: f64) {
        let Self { label, lines } = self;
        let _ = writeln!(lines, "# HELP ipc_queue_{name} {help}");
        let _ = writeln!(lines, "# TYPE ipc_queue_{name} {kind}");
        let _ = writeln!(lines, "ipc_queue_{name}{{queue=\"{label}\"}} {value}");
    }
}
